//! `image.thumbnail`: reads a picture, writes a small one, tells its dominant colour.
//!
//! A pure function of files: [`make`] knows nothing of tasks. Whatever bytes a picture holds, it is
//! either made or refused with a reason; size is checked before memory is taken.

mod color;
mod jpeg;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use jetlane::{Ctx, Task, TaskError};
use jetlane_service::frame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The narrowest thumbnail, in pixels. Under it, one pixel would average more than fits its sum.
pub const WIDTH_MIN: u32 = 16;
/// The widest thumbnail, in pixels.
pub const WIDTH_MAX: u32 = 4096;
/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The widest and the highest picture that is decoded, in pixels.
pub const SIDE_MAX: u32 = 20_000;
/// The most memory that decoding one picture may take, in bytes.
pub const DECODE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Good to the eye, a tenth of the size of lossless.
const JPEG_QUALITY: u8 = 80;
/// The folder for thumbnails that no `output` names, beside the picture.
const OUTPUT_DEFAULT: &str = "thumbnails";

/// Make a small picture of a large one: PNG, JPEG, WebP or GIF, by content and not by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Thumbnail {
    /// The picture's file, as the executor sees it.
    pub path: String,
    /// The thumbnail's width in pixels. A picture that is narrower keeps its size.
    #[schemars(range(min = 16, max = 4096))]
    pub width: u32,
    /// The folder to write to, made if need be; `thumbnails` beside the picture where none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// A thumbnail that was made, and what it was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Picture {
    /// The thumbnail's file: a PNG where the picture is transparent anywhere, otherwise a JPEG.
    pub thumbnail: String,
    /// The thumbnail's width in pixels.
    pub width: u32,
    /// The thumbnail's height in pixels.
    pub height: u32,
    /// The picture's width in pixels, as it is meant to be seen (EXIF orientation applied).
    pub original_width: u32,
    /// The picture's height in pixels, as it is meant to be seen.
    pub original_height: u32,
    /// The picture's format: `png`, `jpeg`, `webp` or `gif`.
    pub format: String,
    /// The thumbnail's size in bytes.
    pub bytes: u64,
    /// The colour that most of the picture has, as `#rrggbb`.
    pub dominant_color: String,
}

impl Task for Thumbnail {
    const TYPE: &'static str = "image.thumbnail";
    type Output = Picture;
}

/// The handler: blocks its thread.
///
/// # Errors
/// Permanent where another attempt would fail the same way.
#[expect(clippy::needless_pass_by_value, reason = "a handler is given its task")]
pub fn run(task: Thumbnail, _ctx: Ctx) -> Result<Picture, TaskError> {
    make(&task).map_err(|failure| {
        if !failure.is_permanent() {
            return failure.into();
        }
        let code = failure.code();
        TaskError::permanent(code, frame::one_line(&failure))
    })
}

/// Why no thumbnail was made.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The width is out of range.
    #[error("width must be {WIDTH_MIN} to {WIDTH_MAX} pixels, not {0}")]
    Width(u32),
    /// The picture's file is not there, or may not be read.
    #[error("could not read {path:?}")]
    Open {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path leads to something other than a file.
    #[error("{0:?} is no file")]
    NoFile(String),
    /// The file or its picture is larger than what is worked on.
    #[error("{0:?} is too large: at most 256 MiB, {SIDE_MAX} pixels a side, and 512 MiB decoded")]
    TooLarge(String),
    /// The content is of no format that is known here, whatever the name says.
    #[error("{0:?} is no PNG, JPEG, WebP or GIF picture")]
    Unsupported(String),
    /// The content begins like a picture and does not go on like one.
    #[error("{path:?} is a {format} picture that is truncated or corrupt")]
    Corrupt {
        /// The file.
        path: String,
        /// Its format.
        format: &'static str,
        /// What the decoder said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The thumbnail could not be written.
    #[error("could not write a thumbnail to {path:?}")]
    Write {
        /// The file or folder.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Failure {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Width(_) => "option",
            Self::Open { .. } | Self::NoFile(_) => "unreadable",
            Self::TooLarge(_) => "too_large",
            Self::Unsupported(_) => "unsupported",
            Self::Corrupt { .. } => "corrupt",
            Self::Write { .. } => "unwritable",
        }
    }

    /// Whether another attempt would fail the same way. A disk may have room again, and a network
    /// file system may come back; a picture does not mend itself.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Write { .. } => false,
            Self::Open { source, .. } => {
                matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
            }
            _ => true,
        }
    }
}

/// Makes a thumbnail. Blocks: reads, decodes, scales and writes on the calling thread.
///
/// The same input always writes the same file, and other files never see half of it, so that a task
/// may run twice.
///
/// # Errors
/// [`Failure`], which says whether another attempt is worth it.
pub fn make(task: &Thumbnail) -> Result<Picture, Failure> {
    if !(WIDTH_MIN..=WIDTH_MAX).contains(&task.width) {
        return Err(Failure::Width(task.width));
    }
    let bytes = read(&task.path)?;
    let (picture, orientation, format) = decode(&task.path, bytes)?;
    let (small, original) = shrink(picture, orientation, task.width);
    let (encoded, extension) = encode(&small);
    let target = target(task, extension)?;
    write_whole(&target, &encoded)?;
    Ok(Picture {
        thumbnail: target.to_string_lossy().into_owned(),
        width: small.width(),
        height: small.height(),
        original_width: original.0,
        original_height: original.1,
        format: name(format).into(),
        bytes: encoded.len() as u64,
        dominant_color: color::dominant(&small),
    })
}

fn read(path: &str) -> Result<Vec<u8>, Failure> {
    let open = |source| Failure::Open { path: path.into(), source };
    // Looked at before it is opened: opening a pipe waits for a writer, perhaps for ever.
    let about = fs::metadata(path).map_err(open)?;
    if !about.is_file() {
        return Err(Failure::NoFile(path.into()));
    }
    let mut bytes = Vec::with_capacity(about.len().min(FILE_BYTES_MAX) as usize);
    let file = File::open(path).map_err(open)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(open)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::TooLarge(path.into()));
    }
    Ok(bytes)
}

fn name(format: ImageFormat) -> &'static str {
    format.extensions_str().first().map_or("picture", |extension| if *extension == "jpg" { "jpeg" } else { extension })
}

fn decode(path: &str, bytes: Vec<u8>) -> Result<(DynamicImage, Orientation, ImageFormat), Failure> {
    let unsupported = || Failure::Unsupported(path.into());
    let format = image::guess_format(&bytes).ok().filter(ImageFormat::reading_enabled).ok_or_else(unsupported)?;
    if format == ImageFormat::Jpeg && !jpeg::is_whole(&bytes) {
        // The decoder fills what is missing with grey and calls it a success.
        return Err(Failure::Corrupt { path: path.into(), format: "jpeg", source: "it ends too early".into() });
    }
    let failed = |error: image::ImageError| match error {
        image::ImageError::Limits(_) => Failure::TooLarge(path.into()),
        other => Failure::Corrupt { path: path.into(), format: name(format), source: Box::new(other) },
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let mut decoder = reader.into_decoder().map_err(failed)?;
    if decoder.total_bytes() > DECODE_BYTES_MAX {
        return Err(Failure::TooLarge(path.into()));
    }
    // Broken metadata costs the orientation, not the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let picture = DynamicImage::from_decoder(decoder).map_err(failed)?;
    Ok((picture, orientation, format))
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    limits
}

/// The thumbnail, upright, and the size of the upright original.
fn shrink(picture: DynamicImage, orientation: Orientation, width: u32) -> (DynamicImage, (u32, u32)) {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let lies = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
    let upright = |(w, h): (u32, u32)| if lies { (h, w) } else { (w, h) };
    let original = upright((picture.width(), picture.height()));
    let eight_bits = match picture {
        // Sums of 16-bit values over a large area do not fit the fast algorithm's 32 bits.
        DynamicImage::ImageLuma16(_) | DynamicImage::ImageRgb16(_) => picture.into_rgb8().into(),
        DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgba16(_) => picture.into_rgba8().into(),
        other => other,
    };
    let mut small = if width < original.0 {
        let height = (u64::from(original.1) * u64::from(width) + u64::from(original.0) / 2) / u64::from(original.0);
        // Scaled before it is turned: turning a small picture costs nothing.
        let (w, h) = upright((width, (height as u32).max(1)));
        eight_bits.thumbnail_exact(w, h)
    } else {
        eight_bits
    };
    small.apply_orientation(orientation);
    (small, original)
}

fn encode(small: &DynamicImage) -> (Vec<u8>, &'static str) {
    let mut encoded = Vec::new();
    let transparent = small.color().has_alpha() && small.to_rgba8().pixels().any(|pixel| pixel[3] < u8::MAX);
    let written = if transparent {
        let encoder = PngEncoder::new_with_quality(&mut encoded, CompressionType::Fast, FilterType::Adaptive);
        small.to_rgba8().write_with_encoder(encoder)
    } else {
        small.to_rgb8().write_with_encoder(JpegEncoder::new_with_quality(&mut encoded, JPEG_QUALITY))
    };
    written.expect("8-bit pixels of a picture within the limits can be written to memory");
    (encoded, if transparent { "png" } else { "jpg" })
}

/// Where the thumbnail goes. The name tells its origin, with a hash so that pictures of the same
/// name in two folders do not overwrite each other's.
fn target(task: &Thumbnail, extension: &str) -> Result<PathBuf, Failure> {
    let source = Path::new(&task.path);
    let folder = match &task.output {
        Some(output) => PathBuf::from(output),
        None => source.parent().unwrap_or(Path::new("")).join(OUTPUT_DEFAULT),
    };
    fs::create_dir_all(&folder)
        .map_err(|source| Failure::Write { path: folder.to_string_lossy().into_owned(), source })?;
    let stem: String = source.file_stem().unwrap_or_default().to_string_lossy().chars().take(60).collect();
    let digest = Sha256::digest(task.path.as_bytes());
    let mark = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    Ok(folder.join(format!("{stem}-{mark:08x}-{}.{extension}", task.width)))
}

/// Writes beside the target and renames, so that the target is whole or absent.
fn write_whole(target: &Path, bytes: &[u8]) -> Result<(), Failure> {
    static PARTS: AtomicU64 = AtomicU64::new(0);
    let part = PARTS.fetch_add(1, Ordering::Relaxed);
    let beside = target.with_extension(format!("{}-{part}.part", std::process::id()));
    fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, target)).map_err(|source| {
        // What is left of a failed write is of no use; that it cannot be removed either is no news.
        let _removed = fs::remove_file(&beside);
        Failure::Write { path: target.to_string_lossy().into_owned(), source }
    })
}

#[cfg(test)]
mod tests;
