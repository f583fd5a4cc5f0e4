//! What a thumbnail promises, on pictures made here.

use super::*;
use image::{Rgb, RgbImage, Rgba, RgbaImage};
use std::time::Instant;

struct Studio {
    folder: tempfile::TempDir,
}

impl Studio {
    fn open() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
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
        let made = make(&studio.picture("wrong-name.txt", &painted(640, 480), format)).expect("made");
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
    let made = make(&studio.picture("a.png", &painted(400, 400), ImageFormat::Png)).expect("made");
    assert_eq!(made.dominant_color, "#c82828");
}

#[test]
fn a_small_picture_is_never_enlarged_and_a_flat_one_keeps_a_pixel_of_height() {
    let studio = Studio::open();
    for (size, expected) in [((64, 64), (64, 64)), ((1, 1), (1, 1)), ((100, 7), (100, 7)), ((3000, 1), (100, 1))] {
        let made = make(&studio.picture("a.png", &painted(size.0, size.1), ImageFormat::Png)).expect("made");
        assert_eq!((made.width, made.height), expected, "{size:?}");
    }
}

#[test]
fn transparency_makes_a_png_and_an_opaque_alpha_channel_a_jpeg() {
    let studio = Studio::open();
    for (alpha, extension) in [(0, "png"), (254, "png"), (255, "jpg")] {
        let mut picture = RgbaImage::from_pixel(300, 300, Rgba([10, 200, 30, 255]));
        picture.enumerate_pixels_mut().filter(|(x, ..)| *x < 100).for_each(|(.., pixel)| pixel[3] = alpha);
        let made = make(&studio.picture("a.png", &picture.into(), ImageFormat::Png)).expect("made");
        assert!(made.thumbnail.ends_with(extension), "alpha {alpha}: {}", made.thumbnail);
        assert_eq!(made.dominant_color, "#0ac81e");
    }
}

#[test]
fn sixteen_bit_grey_and_wide_range_pictures_are_scaled_without_overflow() {
    let studio = Studio::open();
    let white = DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(4160, 4160, image::Luma([u16::MAX])));
    let task = Thumbnail { width: WIDTH_MIN, ..studio.picture("a.png", &white, ImageFormat::Png) };
    let made = make(&task).expect("made");
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
    let made = make(&studio.file("a.jpg", &turned(&painted(640, 480)))).expect("made");
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
        for percent in [10, 40, 70, 90] {
            let task = studio.file("cut", &whole[..whole.len() * percent / 100]);
            let failure = make(&task).expect_err("truncated");
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
            if let Err(failure) = make(&studio.file("damaged", &bytes)) {
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
        let failure = make(&studio.file("a.png", bytes)).expect_err("no picture");
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
        let failure = make(&studio.file("bomb.png", &bomb(width, height))).expect_err("a bomb");
        assert!(matches!(failure, Failure::TooLarge(_)), "{width} x {height}: {failure:?}");
        assert!(started.elapsed().as_secs() < 2);
    }
    let failure = make(&studio.file("honest.png", &bomb(2, 2))).expect_err("lies about its size");
    assert!(matches!(failure, Failure::Corrupt { .. }), "{failure:?}");
}

#[test]
fn paths_that_lead_nowhere_or_to_no_file_fail_for_good() {
    let studio = Studio::open();
    let task = studio.file("a.png", b"");
    for (path, code) in [("/no/such/picture.png", "unreadable"), ("/dev/zero", "unreadable"), ("", "unreadable")] {
        let failure = make(&Thumbnail { path: path.into(), ..task.clone() }).expect_err(path);
        assert_eq!((failure.code(), failure.is_permanent()), (code, true), "{path}");
    }
    let folder = Thumbnail { path: studio.folder.path().to_string_lossy().into_owned(), ..task };
    assert!(matches!(make(&folder), Err(Failure::NoFile(_))));
}

#[test]
fn a_width_out_of_range_is_refused_and_the_schema_says_the_range() {
    let studio = Studio::open();
    let task = studio.picture("a.png", &painted(8, 8), ImageFormat::Png);
    for width in [0, WIDTH_MIN - 1, WIDTH_MAX + 1, u32::MAX] {
        let failure = make(&Thumbnail { width, ..task.clone() }).expect_err("out of range");
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
    let failure = make(&blocked).expect_err("a file stands where the folder should");
    assert!(matches!(failure, Failure::Write { .. }) && !failure.is_permanent());
}

#[test]
fn pictures_of_one_name_in_two_folders_do_not_overwrite_each_other_and_a_second_run_does() {
    let (one, two) = (Studio::open(), Studio::open());
    let first = one.picture("a.png", &painted(200, 200), ImageFormat::Png);
    let second = Thumbnail { output: first.output.clone(), ..two.picture("a.png", &painted(90, 90), ImageFormat::Png) };
    let (made, other) = (make(&first).expect("made"), make(&second).expect("made"));
    assert_ne!(made.thumbnail, other.thumbnail);
    assert_eq!(make(&first).expect("made again"), made);
    let left: Vec<_> = fs::read_dir(first.output.expect("set")).expect("readable").collect();
    assert_eq!(left.len(), 2, "parts are left behind: {left:?}");
}

#[test]
fn without_an_output_the_thumbnail_lies_in_a_folder_beside_the_picture() {
    let studio = Studio::open();
    let task = Thumbnail { output: None, ..studio.picture("a.png", &painted(200, 200), ImageFormat::Png) };
    let made = make(&task).expect("made");
    assert!(Path::new(&made.thumbnail).starts_with(studio.folder.path().join(OUTPUT_DEFAULT)));
}
