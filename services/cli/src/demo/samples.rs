//! Sample pictures for the demo: painted here, the same ones every time, from 64 to 3000 pixels.

mod art;

use art::Art;
use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::codecs::webp::WebPEncoder;
use image::{DynamicImage, ExtendedColorType, ImageEncoder, ImageResult, Pixel, Rgba, RgbaImage};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// As good as a camera's own.
const JPEG_QUALITY: u8 = 88;
/// 1 is best, 30 fastest: nobody looks for the difference.
const GIF_SPEED: i32 = 30;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Png,
    Jpeg,
    WebP,
    Gif,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::WebP => "webp",
            Self::Gif => "gif",
        }
    }
}

struct Sample {
    art: Art,
    format: Format,
    width: u32,
    height: u32,
}

const fn sample(art: Art, format: Format, width: u32, height: u32) -> Sample {
    Sample { art, format, width, height }
}

/// Large ones first, so that the last thread to finish has a small one in its hands. GIF and WebP
/// take long to write and stay small.
#[rustfmt::skip]
const SAMPLES: [Sample; 48] = {
    use Art::{Cells, Julia, Mandelbrot, Marble, Plasma, Rings, Shapes, Sunset};
    use Format::{Gif, Jpeg, Png, WebP};
    [
        sample(Sunset, Jpeg, 3000, 2000),
        sample(Marble, Jpeg, 2000, 1125),
        sample(Plasma, Jpeg, 2560, 1440),
        sample(Shapes, Png, 2400, 1600),
        sample(Cells, Jpeg, 1600, 1200),
        sample(Mandelbrot, Jpeg, 1920, 1280),
        sample(Sunset, Jpeg, 1080, 1920),
        sample(Rings, Png, 1400, 1050),
        sample(Julia, Jpeg, 1280, 853),
        sample(Shapes, Jpeg, 2000, 800),
        sample(Sunset, Jpeg, 2400, 600),
        sample(Marble, Jpeg, 900, 900),
        sample(Cells, Png, 1280, 960),
        sample(Sunset, Jpeg, 1366, 768),
        sample(Mandelbrot, Png, 1280, 720),
        sample(Plasma, Png, 1200, 750),
        sample(Julia, WebP, 1024, 768),
        sample(Shapes, WebP, 1000, 1000),
        sample(Rings, Jpeg, 1000, 640),
        sample(Julia, Jpeg, 960, 640),
        sample(Marble, Png, 900, 600),
        sample(Sunset, Png, 800, 1200),
        sample(Cells, WebP, 800, 600),
        sample(Sunset, WebP, 800, 500),
        sample(Plasma, Jpeg, 720, 1280),
        sample(Mandelbrot, Jpeg, 700, 700),
        sample(Rings, WebP, 640, 640),
        sample(Marble, Jpeg, 640, 427),
        sample(Shapes, Gif, 640, 400),
        sample(Sunset, Gif, 600, 375),
        sample(Plasma, WebP, 560, 420),
        sample(Cells, Gif, 512, 512),
        sample(Julia, Png, 500, 750),
        sample(Rings, Gif, 480, 320),
        sample(Shapes, Png, 400, 1000),
        sample(Mandelbrot, WebP, 400, 300),
        sample(Sunset, Jpeg, 320, 480),
        sample(Plasma, Gif, 320, 240),
        sample(Cells, Jpeg, 300, 300),
        sample(Marble, WebP, 256, 192),
        sample(Julia, Gif, 240, 240),
        sample(Rings, Png, 200, 50),
        sample(Shapes, Jpeg, 160, 120),
        sample(Sunset, Png, 128, 128),
        sample(Mandelbrot, Gif, 120, 90),
        sample(Cells, Png, 96, 64),
        sample(Plasma, Jpeg, 80, 64),
        sample(Shapes, Png, 64, 64),
    ]
};

/// Paints the samples into a folder, which is made if need be, on all cores. Returns their paths,
/// sorted by name; files of the same names are replaced.
///
/// # Errors
/// What the file system says; pictures that were painted before it said so stay.
pub(crate) fn write(dir: &Path) -> io::Result<Vec<PathBuf>> {
    write_all(dir, &SAMPLES)
}

fn write_all(dir: &Path, samples: &[Sample]) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<io::Error>> = Mutex::new(None);
    let work = || {
        while let Some(sample) = samples.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = fs::write(path(dir, sample), encode(sample)) {
                // Nobody takes another picture; the first error is as good as any.
                next.store(samples.len(), Ordering::Relaxed);
                *failed.lock().expect("no painter panics while it holds this") = Some(error);
            }
        }
    };
    thread::scope(|scope| {
        let painters = thread::available_parallelism().map_or(1, usize::from).min(samples.len());
        for _ in 0..painters {
            scope.spawn(work);
        }
    });
    if let Some(error) = failed.into_inner().expect("no painter panics while it holds this") {
        return Err(error);
    }
    let mut paths: Vec<PathBuf> = samples.iter().map(|sample| path(dir, sample)).collect();
    paths.sort();
    Ok(paths)
}

fn path(dir: &Path, sample: &Sample) -> PathBuf {
    let Sample { art, format, width, height } = sample;
    dir.join(format!("{}-{width}x{height}.{}", art.name(), format.extension()))
}

fn encode(sample: &Sample) -> Vec<u8> {
    let painted = art::paint(sample.art, sample.width, sample.height);
    let mut bytes = Vec::new();
    written(painted, sample.format, &mut bytes).expect("every format takes pictures of these sizes");
    bytes
}

fn written(mut painted: RgbaImage, format: Format, bytes: &mut Vec<u8>) -> ImageResult<()> {
    if format == Format::Jpeg {
        for pixel in painted.pixels_mut() {
            let mut paper = Rgba([u8::MAX; 4]);
            paper.blend(pixel);
            *pixel = paper;
        }
    }
    let (width, height) = painted.dimensions();
    let opaque = format == Format::Jpeg || painted.pixels().all(|pixel| pixel[3] == u8::MAX);
    if opaque && format != Format::Gif {
        let pixels = DynamicImage::ImageRgba8(painted).into_rgb8();
        return encoder(format, bytes, &pixels, width, height, ExtendedColorType::Rgb8);
    }
    encoder(format, bytes, &painted, width, height, ExtendedColorType::Rgba8)
}

fn encoder(
    format: Format,
    bytes: &mut Vec<u8>,
    pixels: &[u8],
    width: u32,
    height: u32,
    color: ExtendedColorType,
) -> ImageResult<()> {
    match format {
        Format::Png => PngEncoder::new_with_quality(bytes, CompressionType::Fast, FilterType::Sub)
            .write_image(pixels, width, height, color),
        Format::Jpeg => JpegEncoder::new_with_quality(bytes, JPEG_QUALITY).write_image(pixels, width, height, color),
        Format::WebP => WebPEncoder::new_lossless(bytes).write_image(pixels, width, height, color),
        Format::Gif => GifEncoder::new_with_speed(bytes, GIF_SPEED).encode(pixels, width, height, color),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_executor::thumbnail::{Failure, Pictures, Thumbnail};
    use std::collections::HashSet;

    fn task(path: &Path, output: &Path) -> Thumbnail {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Thumbnail { path: text(path), width: 64, output: Some(text(output)) }
    }

    fn pictures(root: &Path) -> Pictures {
        Pictures::new(root, 1 << 30).expect("a root")
    }

    #[test]
    fn there_are_enough_of_very_different_sizes_and_no_two_have_one_name() {
        let names: HashSet<_> = SAMPLES.iter().map(|sample| path(Path::new(""), sample)).collect();
        assert!(names.len() == SAMPLES.len() && SAMPLES.len() >= 40);
        let sides = || SAMPLES.iter().map(|sample| sample.width.max(sample.height));
        assert_eq!((sides().min(), sides().max()), (Some(64), Some(3000)));
    }

    #[test]
    fn every_sample_is_a_picture_of_the_size_that_its_name_says() {
        let (folder, output) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        // The small ones: all kinds of art and all formats are among them, and a debug build is slow.
        let small = SAMPLES.iter().position(|sample| sample.width <= 640).expect("there are small ones");
        let pictures = pictures(Path::new("/"));
        let paths = write_all(folder.path(), &SAMPLES[small..]).expect("written");
        assert!(paths.is_sorted() && paths.len() == SAMPLES.len() - small);
        let (mut formats, mut arts) = (HashSet::new(), HashSet::new());
        for path in &paths {
            let made = pictures.make(&task(path, output.path()), || false).expect("a thumbnail");
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            assert!(name.contains(&format!("-{}x{}.", made.original_width, made.original_height)), "{name}: {made:?}");
            arts.insert(name.split('-').next().expect("a word").to_owned());
            formats.insert(made.format);
        }
        assert_eq!((formats.len(), arts.len()), (4, 8));
    }

    #[test]
    fn the_same_pictures_are_painted_every_time() {
        for sample in SAMPLES.iter().filter(|sample| sample.width <= 320) {
            assert_eq!(encode(sample), encode(sample));
        }
    }

    #[test]
    fn a_truncated_sample_and_a_text_that_calls_itself_a_picture_are_refused_with_a_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let small = SAMPLES.last().expect("there are samples");
        let (cut, text) = (folder.path().join("truncated.png"), folder.path().join("text.png"));
        let whole = encode(small);
        fs::write(&cut, &whole[..whole.len() / 2]).expect("written");
        fs::write(&text, "Not a picture, whatever its name says.").expect("written");
        let pictures = pictures(folder.path());
        let made = |path: &Path| pictures.make(&task(path, folder.path()), || false);
        assert!(matches!(made(&cut), Err(Failure::Corrupt { .. })));
        assert!(matches!(made(&text), Err(Failure::Unsupported(_))));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(write(&file.path().join("below")).is_err());
    }
}
