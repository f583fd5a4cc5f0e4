//! What a thumbnail promises, on pictures made here.

use super::*;
use image::{ImageEncoder, Rgb, RgbImage, Rgba, RgbaImage};
use moxcms::ColorProfile;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Instant;

/// Enough for every picture here.
const MEMORY_BYTES: u64 = 4 << 30;

struct Studio {
    folder: tempfile::TempDir,
    pictures: Pictures,
}

impl Studio {
    fn open() -> Self {
        Self::with(MEMORY_BYTES)
    }

    fn with(memory_bytes: u64) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pictures = Pictures::new(folder.path(), memory_bytes).expect("a root");
        Self { folder, pictures }
    }

    fn make(&self, task: &Thumbnail) -> Result<Picture, Failure> {
        self.pictures.make(task, || false)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> Thumbnail {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).expect("written");
        let output = self.folder.path().join("out").to_string_lossy().into_owned();
        Thumbnail { path: path.to_string_lossy().into_owned(), width: 100, output: Some(output) }
    }

    fn picture(&self, name: &str, picture: &DynamicImage, format: ImageFormat) -> Thumbnail {
        self.file(name, &encoded(picture, format))
    }
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("encodable");
    bytes.into_inner()
}

/// Three quarters of one colour, the rest noise, so that no format can shrink it to nothing.
fn painted(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| {
        if y < height * 3 / 4 {
            Rgb([200, 40, 40])
        } else {
            let noise = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).wrapping_mul(2_246_822_519);
            Rgb([(noise >> 8) as u8, (noise >> 16) as u8, (noise >> 24) as u8])
        }
    })
    .into()
}

const FORMATS: [ImageFormat; 4] = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif];

#[test]
fn every_format_is_read_by_its_content_whatever_its_name_says() {
    let studio = Studio::open();
    for format in FORMATS {
        let made = studio.make(&studio.picture("wrong-name.txt", &painted(640, 480), format)).expect("made");
        assert_eq!((made.original_width, made.original_height), (640, 480));
        assert_eq!((made.width, made.height, made.format.as_str()), (100, 75, name(format)));
        let read = image::open(&made.thumbnail).expect("a picture");
        assert_eq!((read.width(), read.height()), (100, 75));
        assert_eq!(fs::metadata(&made.thumbnail).expect("there").len(), made.bytes);
    }
}

#[test]
fn the_dominant_colour_is_that_of_most_pixels() {
    let studio = Studio::open();
    let made = studio.make(&studio.picture("a.png", &painted(400, 400), ImageFormat::Png)).expect("made");
    assert_eq!(made.dominant_color, "#c82828");
}

#[test]
fn a_small_picture_is_never_enlarged_and_a_flat_one_keeps_a_pixel_of_height() {
    let studio = Studio::open();
    for (size, expected) in [((64, 64), (64, 64)), ((1, 1), (1, 1)), ((100, 7), (100, 7)), ((3000, 1), (100, 1))] {
        let made = studio.make(&studio.picture("a.png", &painted(size.0, size.1), ImageFormat::Png)).expect("made");
        assert_eq!((made.width, made.height), expected, "{size:?}");
    }
}

#[test]
fn transparency_makes_a_png_and_an_opaque_alpha_channel_a_jpeg() {
    let studio = Studio::open();
    for (alpha, extension) in [(0, "png"), (254, "png"), (255, "jpg")] {
        let mut picture = RgbaImage::from_pixel(300, 300, Rgba([10, 200, 30, 255]));
        picture.enumerate_pixels_mut().filter(|(x, ..)| *x < 100).for_each(|(.., pixel)| pixel[3] = alpha);
        let made = studio.make(&studio.picture("a.png", &picture.into(), ImageFormat::Png)).expect("made");
        assert!(made.thumbnail.ends_with(extension), "alpha {alpha}: {}", made.thumbnail);
        assert_eq!(made.dominant_color, "#0ac81e");
    }
}

#[test]
fn sixteen_bit_grey_and_wide_range_pictures_are_scaled_without_overflow() {
    let studio = Studio::open();
    let white = DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(4160, 4160, image::Luma([u16::MAX])));
    let task = Thumbnail { width: WIDTH_MIN, ..studio.picture("a.png", &white, ImageFormat::Png) };
    let made = studio.make(&task).expect("made");
    assert_eq!((made.width, made.height, made.dominant_color.as_str()), (16, 16, "#ffffff"));
}

/// A JPEG whose EXIF says that the camera was held on its side.
fn turned(picture: &DynamicImage) -> Vec<u8> {
    let jpeg = encoded(picture, ImageFormat::Jpeg);
    let mut tiff = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01".to_vec();
    // One entry: tag 0x0112, a short, one of them, value 6 (turn by 90 degrees).
    tiff.extend([0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0]);
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xff, 0xe1]);
    bytes.extend(((tiff.len() + 2) as u16).to_be_bytes());
    bytes.extend(tiff);
    bytes.extend(&jpeg[2..]);
    bytes
}

#[test]
fn a_picture_taken_sideways_is_set_upright() {
    let studio = Studio::open();
    let made = studio.make(&studio.file("a.jpg", &turned(&painted(640, 480)))).expect("made");
    assert_eq!((made.original_width, made.original_height, made.width, made.height), (480, 640, 100, 133));
    // The noise at the bottom has gone to the left.
    let thumbnail = image::open(&made.thumbnail).expect("a picture").to_rgb8();
    let right = thumbnail.get_pixel(90, 66);
    assert!(right[0] > 180 && right[1] < 70 && right[2] < 70, "{right:?}");
}

#[test]
fn a_truncated_picture_of_any_format_is_corrupt_for_good_and_writes_nothing() {
    let studio = Studio::open();
    for format in FORMATS {
        let whole = encoded(&painted(300, 300), format);
        for percent in [10, 40, 70] {
            let task = studio.file("cut", &whole[..whole.len() * percent / 100]);
            let failure = studio.make(&task).expect_err("truncated");
            assert!(matches!(failure, Failure::Corrupt { .. }), "{format:?} at {percent} %: {failure:?}");
            assert!(failure.is_permanent() && failure.to_string().contains("truncated or corrupt"));
        }
    }
    assert!(!studio.folder.path().join("out").exists());
}

#[test]
fn a_truncated_jpeg_is_not_taken_for_whole_because_of_the_preview_in_its_metadata() {
    let preview = encoded(&painted(32, 32), ImageFormat::Jpeg);
    let whole = encoded(&painted(300, 300), ImageFormat::Jpeg);
    let mut bytes = whole[..2].to_vec();
    bytes.extend([0xff, 0xe1]);
    bytes.extend(((preview.len() + 2) as u16).to_be_bytes());
    bytes.extend(&preview);
    bytes.extend(&whole[2..]);
    assert!(jpeg::is_whole(&bytes));
    for end in (2..bytes.len()).step_by(97) {
        assert!(!jpeg::is_whole(&bytes[..end]), "whole at {end} of {}", bytes.len());
    }
    bytes.extend(b"what a camera adds behind the picture");
    assert!(jpeg::is_whole(&bytes));
}

#[test]
fn no_damage_to_a_picture_makes_it_panic() {
    let studio = Studio::open();
    let mut seed = 7_u32;
    let mut draw = |below: usize| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as usize % below
    };
    for format in FORMATS {
        let whole = encoded(&painted(48, 48), format);
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..=draw(6) {
                let at = draw(bytes.len());
                bytes[at] = draw(256) as u8;
            }
            bytes.truncate(bytes.len() - draw(3) * draw(bytes.len() / 3));
            if let Err(failure) = studio.make(&studio.file("damaged", &bytes)) {
                assert!(failure.is_permanent(), "{failure:?}");
            }
        }
    }
}

#[test]
fn what_is_no_picture_is_said_to_be_none() {
    let studio = Studio::open();
    let html = b"<html>not found</html>".as_slice();
    let tiff = b"II*\0\x08\0\0\0\0\0".as_slice();
    for bytes in [b"".as_slice(), b"hello, I am a text", html, tiff, b"\x89PN", b"BM\0\0\0\0"] {
        let failure = studio.make(&studio.file("a.png", bytes)).expect_err("no picture");
        assert!(matches!(failure, Failure::Unsupported(_)) && failure.is_permanent(), "{bytes:?}: {failure:?}");
        assert!(failure.to_string().ends_with("is no PNG, JPEG, WebP or GIF picture"));
    }
}

/// A PNG of a few bytes that claims to be of this size.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = encoded(&painted(1, 1), ImageFormat::Png);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let mut crc = u32::MAX;
    for byte in &bytes[12..29] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    bytes[29..33].copy_from_slice(&(!crc).to_be_bytes());
    bytes
}

#[test]
fn a_picture_that_would_take_too_much_memory_is_refused_before_it_takes_any() {
    let studio = Studio::open();
    for (width, height) in [(SIDE_MAX + 1, 1), (1, SIDE_MAX + 1), (20_000, 20_000), (u32::MAX >> 1, u32::MAX >> 1)] {
        let started = Instant::now();
        let failure = studio.make(&studio.file("bomb.png", &bomb(width, height))).expect_err("a bomb");
        assert!(matches!(failure, Failure::TooLarge(_)), "{width} x {height}: {failure:?}");
        assert!(started.elapsed().as_secs() < 2);
    }
    let failure = studio.make(&studio.file("honest.png", &bomb(2, 2))).expect_err("lies about its size");
    assert!(matches!(failure, Failure::Corrupt { .. }), "{failure:?}");
}

#[test]
fn paths_that_lead_nowhere_or_to_no_file_fail_for_good() {
    let studio = Studio::open();
    let task = studio.file("a.png", b"");
    for (path, code) in
        [("no/such/picture.png", "unreadable"), ("/dev/zero", "outside"), ("", "unreadable"), ("a.png/b", "unreadable")]
    {
        let failure = studio.make(&Thumbnail { path: path.into(), ..task.clone() }).expect_err(path);
        assert_eq!((failure.code(), failure.is_permanent()), (code, true), "{path}");
    }
    let folder = Thumbnail { path: studio.folder.path().to_string_lossy().into_owned(), ..task };
    assert!(matches!(studio.make(&folder), Err(Failure::NoFile(_))));
}

#[test]
fn a_width_out_of_range_is_refused_and_the_schema_says_the_range() {
    let studio = Studio::open();
    let task = studio.picture("a.png", &painted(8, 8), ImageFormat::Png);
    for width in [0, WIDTH_MIN - 1, WIDTH_MAX + 1, u32::MAX] {
        let failure = studio.make(&Thumbnail { width, ..task.clone() }).expect_err("out of range");
        assert!(matches!(failure, Failure::Width(_)) && failure.is_permanent());
    }
    let schema = serde_json::to_value(schemars::schema_for!(Thumbnail)).expect("JSON");
    let range = &schema["properties"]["width"];
    assert_eq!((&range["minimum"], &range["maximum"]), (&WIDTH_MIN.into(), &WIDTH_MAX.into()));
}

#[test]
fn an_output_that_cannot_be_written_is_worth_another_attempt() {
    let studio = Studio::open();
    let task = studio.picture("a.png", &painted(8, 8), ImageFormat::Png);
    let blocked = Thumbnail { output: Some(task.path.clone()), ..task };
    let failure = studio.make(&blocked).expect_err("a file stands where the folder should");
    assert!(matches!(failure, Failure::Write { .. }) && !failure.is_permanent());
}

#[test]
fn pictures_of_one_name_in_two_folders_do_not_overwrite_each_other_and_a_second_run_does() {
    let studio = Studio::open();
    fs::create_dir(studio.folder.path().join("two")).expect("made");
    let first = studio.picture("a.png", &painted(200, 200), ImageFormat::Png);
    let second = studio.picture("two/a.png", &painted(90, 90), ImageFormat::Png);
    let (made, other) = (studio.make(&first).expect("made"), studio.make(&second).expect("made"));
    assert_ne!(made.thumbnail, other.thumbnail);
    assert_eq!(studio.make(&first).expect("made again"), made);
    let left: Vec<_> = fs::read_dir(first.output.expect("set")).expect("readable").collect();
    assert_eq!(left.len(), 2, "parts are left behind: {left:?}");
}

#[test]
fn without_an_output_the_thumbnail_lies_in_a_folder_beside_the_picture() {
    let studio = Studio::open();
    let task = Thumbnail { output: None, ..studio.picture("a.png", &painted(200, 200), ImageFormat::Png) };
    let made = studio.make(&task).expect("made");
    assert!(Path::new(&made.thumbnail).starts_with(studio.folder.path().join(OUTPUT_DEFAULT)));
}

#[test]
fn a_picture_is_named_relative_to_the_root_or_by_its_whole_path() {
    let studio = Studio::open();
    let task = studio.picture("a.png", &painted(200, 200), ImageFormat::Png);
    let relative = Thumbnail { path: "./a.png".into(), output: Some("out".into()), ..task.clone() };
    assert_eq!(studio.make(&relative).expect("made"), studio.make(&task).expect("made"));
    // The root is reached by a link; a task says where it leads.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let link = elsewhere.path().join("link");
    symlink(studio.folder.path(), &link).expect("linked");
    let pictures = Pictures::new(&link, MEMORY_BYTES).expect("a root");
    assert!(pictures.make(&task, || false).expect("made").thumbnail.starts_with(&*link.to_string_lossy()));
    assert!(matches!(Pictures::new(&link.join("none"), MEMORY_BYTES), Err(Failure::Root { .. })));
}

#[test]
fn no_path_link_or_output_leads_out_of_the_root() {
    let (studio, outside) = (Studio::open(), Studio::open());
    let foreign = outside.picture("secret.png", &painted(200, 200), ImageFormat::Png);
    let own = studio.picture("a.png", &painted(200, 200), ImageFormat::Png);
    let at = |name: &str| studio.folder.path().join(name);
    symlink(&foreign.path, at("link.png")).expect("linked");
    symlink(outside.folder.path(), at("door")).expect("linked");
    let name = outside.folder.path().file_name().expect("a name").to_string_lossy().into_owned();
    symlink(format!("../{name}"), at("back-door")).expect("linked");
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    for path in [
        foreign.path.clone(),
        format!("../{name}/secret.png"),
        format!("{}/../{name}/secret.png", studio.folder.path().display()),
        "sub/../a.png".into(),
        "link.png".into(),
        "door/secret.png".into(),
        text(at("back-door/secret.png")),
        "/etc/passwd".into(),
        "/proc/self/root/etc/passwd".into(),
    ] {
        let failure = studio.make(&Thumbnail { path: path.clone(), ..own.clone() }).expect_err(&path);
        assert!(matches!(failure, Failure::Outside(_)) && failure.is_permanent(), "{path}: {failure:?}");
    }
    for output in [text(outside.folder.path().join("made")), "../made".into(), "door/made".into(), "back-door".into()] {
        let task = Thumbnail { output: Some(output.clone()), ..own.clone() };
        let failure = studio.make(&task).expect_err(&output);
        assert!(matches!(failure, Failure::Outside(_)) && failure.is_permanent(), "{output}: {failure:?}");
    }
    assert_eq!(fs::read_dir(outside.folder.path()).expect("readable").count(), 1, "written outside of the root");
    // A link that stays within the root is one of its paths.
    symlink("a.png", at("inner.png")).expect("linked");
    studio.make(&Thumbnail { path: "inner.png".into(), ..own }).expect("made");
}

#[test]
fn invisible_colours_do_not_tint_the_edges_of_visible_ones() {
    let studio = Studio::open();
    let columns = RgbaImage::from_fn(400, 400, |x, _| if x % 2 == 0 { Rgba([255; 4]) } else { Rgba([0; 4]) });
    let deep: DynamicImage = DynamicImage::from(columns.clone()).into_rgba16().into();
    for (picture, format) in
        [(columns.clone().into(), ImageFormat::Png), (deep, ImageFormat::Png), (columns.into(), ImageFormat::WebP)]
    {
        let made = studio.make(&studio.picture("a", &picture, format)).expect("made");
        let read = image::open(&made.thumbnail).expect("a picture").into_rgba8();
        for pixel in read.pixels() {
            assert_eq!(pixel.0[..3], [255; 3], "{format:?}");
            assert!((127..=128).contains(&pixel[3]), "{format:?}: {pixel:?}");
        }
        assert_eq!(made.dominant_color, if read.get_pixel(0, 0)[3] >= 128 { "#ffffff" } else { "#000000" });
    }
}

/// sRGB with red and blue exchanged.
fn exchanged() -> Vec<u8> {
    let mut profile = ColorProfile::new_srgb();
    std::mem::swap(&mut profile.red_colorant, &mut profile.blue_colorant);
    profile.encode().expect("a profile")
}

#[test]
fn a_colour_profile_is_applied_so_that_colours_stay_as_they_were_meant() {
    let studio = Studio::open();
    let opaque: DynamicImage = RgbImage::from_pixel(300, 200, Rgb([250, 10, 10])).into();
    let sheer: DynamicImage = RgbaImage::from_pixel(300, 200, Rgba([250, 10, 10, 200])).into();
    let deep: DynamicImage = opaque.to_rgb16().into();
    for (picture, jpeg) in [(&opaque, true), (&opaque, false), (&sheer, false), (&deep, false)] {
        let mut bytes = Vec::new();
        let raw = if jpeg {
            let mut encoder = JpegEncoder::new(&mut bytes);
            encoder.set_icc_profile(exchanged()).expect("taken");
            picture.write_with_encoder(encoder)
        } else {
            let mut encoder = PngEncoder::new(&mut bytes);
            encoder.set_icc_profile(exchanged()).expect("taken");
            picture.write_with_encoder(encoder)
        };
        raw.expect("encoded");
        let made = studio.make(&studio.file("a", &bytes)).expect("made");
        assert_eq!(made.warnings, Vec::<String>::new());
        let [red, green, blue, alpha] = image::open(&made.thumbnail).expect("a picture").to_rgba8().get_pixel(50, 30).0;
        assert!(red < 30 && green < 30 && blue > 230, "{red} {green} {blue}, jpeg: {jpeg}");
        assert!(alpha == 255 || (alpha == 200 && picture.color().has_alpha()));
    }
    // A profile that cannot be read costs the colours, not the picture.
    let mut bytes = Vec::new();
    let mut encoder = PngEncoder::new(&mut bytes);
    encoder.set_icc_profile(vec![7; 200]).expect("taken");
    opaque.write_with_encoder(encoder).expect("encoded");
    let made = studio.make(&studio.file("a", &bytes)).expect("made");
    assert!(made.warnings.len() == 1 && made.warnings[0].contains("colour profile"), "{:?}", made.warnings);
}

#[test]
fn pictures_that_do_not_fit_in_memory_together_are_made_one_after_the_other() {
    let studio = Studio::with(1);
    let task = studio.picture("a.png", &painted(800, 800), ImageFormat::Png);
    let failure = studio.make(&task).expect_err("more than the budget");
    let Failure::Memory { needed_mib, budget_mib: 0, .. } = failure else { panic!("{failure:?}") };
    assert!(failure.is_permanent() && failure.to_string().contains("executor.pictures_memory_mib"));
    let pictures = Pictures::new(studio.folder.path(), needed_mib << 20).expect("a root");
    thread::scope(|scope| {
        let runs: Vec<_> = (0..6).map(|_| scope.spawn(|| pictures.make(&task, || false))).collect();
        runs.into_iter().for_each(|run| assert!(run.join().expect("no panic").is_ok()));
    });
    assert_eq!(pictures.make(&task, || true).map(|made| made.width).expect("free memory is not waited for"), 100);
}

#[test]
fn a_name_that_is_long_in_bytes_or_has_line_ends_makes_a_thumbnail_of_a_shorter_name() {
    let studio = Studio::open();
    // 251 bytes, and characters of 4, 3 and 2 bytes of which one stands at the cut.
    for stem in
        ["😀".repeat(62), "語".repeat(83), "é".repeat(125), "a".repeat(251), "line\nend\r\u{2028}".into(), "..b".into()]
    {
        let task = studio.picture(&format!("{stem}.png"), &painted(200, 200), ImageFormat::Png);
        let made = studio.make(&task).unwrap_or_else(|failure| panic!("{stem}: {failure:?}"));
        let name = Path::new(&made.thumbnail).file_name().expect("a name").to_str().expect("UTF-8");
        assert!(name.len() <= 143 && !name.contains(|c: char| c.is_control() || c == '\u{2028}'), "{name:?}");
        assert!(Path::new(&made.thumbnail).is_file());
    }
    for (path, output) in [("x".repeat(300), None), ("a\0b".into(), None), ("..b.png".into(), Some("y".repeat(300)))] {
        let failure = studio.make(&Thumbnail { path: path.clone(), width: 16, output }).expect_err("no such name");
        assert!(failure.is_permanent(), "{path:?}: {failure:?}");
    }
    let failure =
        studio.make(&Thumbnail { path: "caf\u{fffd}.png".into(), width: 16, output: None }).expect_err("lossy");
    assert!(failure.is_permanent() && failure.to_string().contains("not UTF-8"), "{failure}");
}

#[test]
fn a_picture_that_lacks_a_few_bytes_of_its_end_is_made_with_a_warning() {
    let studio = Studio::open();
    let sheer: DynamicImage = painted(300, 300).into_rgba8().into();
    let deep: DynamicImage = painted(300, 300).into_rgb16().into();
    for format in FORMATS {
        for picture in [&painted(300, 300), &sheer, &deep] {
            if format != ImageFormat::Png && picture.color() != painted(1, 1).color() {
                continue;
            }
            let whole = encoded(picture, format);
            let expected = studio.make(&studio.file("whole", &whole)).expect("made");
            assert_eq!(expected.warnings, Vec::<String>::new());
            for missing in [2, 5, 13, 40, whole.len() / 100] {
                let task = studio.file("cut", &whole[..whole.len() - missing]);
                let made =
                    studio.make(&task).unwrap_or_else(|failure| panic!("{format:?} without {missing}: {failure:?}"));
                assert_eq!((made.width, made.height, &made.dominant_color), (100, 100, &expected.dominant_color));
                // What comes behind the last pixel of a GIF or PNG is not read.
                assert!(made.warnings.len() <= 1);
                if missing == whole.len() / 100 || format == ImageFormat::Jpeg {
                    assert!(
                        made.warnings[0].contains("truncated"),
                        "{format:?} without {missing}: {:?}",
                        made.warnings
                    );
                }
            }
        }
    }
    let turned = turned(&painted(640, 480));
    let made = studio.make(&studio.file("turned.jpg", &turned[..turned.len() - 9])).expect("made");
    assert_eq!((made.original_width, made.original_height, made.warnings.len()), (480, 640, 1));
}
