//! `image.thumbnail`: reads a picture, writes a small one, tells its dominant colour.
//!
//! A function of files: [`Pictures`] knows nothing of tasks. Whatever bytes a picture holds, it is
//! either made or refused with a reason. Size is checked, and memory is reserved from a budget that all
//! runs share, before a picture is decoded. Every file is opened beneath one folder, the root: neither
//! `..` nor a symbolic link leads out of it.

mod budget;
mod color;
mod decode;
mod jpeg;
mod profile;
mod scale;

use budget::{Budget, Denied};
use cap_std::ambient_authority;
use cap_std::fs::Dir;
use decode::{Decoded, Plan};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageFormat};
use jetlane::{Ctx, Task, TaskError};
use jetlane_service::frame;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The narrowest thumbnail, in pixels. Under it, one pixel would average more than fits its sum.
pub const WIDTH_MIN: u32 = 16;
/// The widest thumbnail, in pixels.
pub const WIDTH_MAX: u32 = 4096;
/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The widest and the highest picture that is decoded, in pixels.
pub const SIDE_MAX: u32 = 20_000;
/// The largest decoded picture, in bytes: 16,000 x 16,000 pixels with transparency.
pub const DECODE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The most of a picture that may be missing at its end, in percent. More is corrupt.
pub const MISSING_PERCENT_MAX: u64 = 5;
/// The most bytes of the picture's name in the thumbnail's. With all that is added, a name stays within
/// 143 bytes, the least that a file system in use allows.
const STEM_BYTES_MAX: usize = 80;
/// Good to the eye, a tenth of the size of lossless.
const JPEG_QUALITY: u8 = 80;
/// The folder for thumbnails that no `output` names, beside the picture.
const OUTPUT_DEFAULT: &str = "thumbnails";

/// Make a small picture of a large one: PNG, JPEG, WebP or GIF, by content and not by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Thumbnail {
    /// The picture's file in the executor's `pictures_root`: relative to it, or absolute.
    pub path: String,
    /// The thumbnail's width in pixels. A picture that is narrower keeps its size.
    #[schemars(range(min = 16, max = 4096))]
    pub width: u32,
    /// The folder to write to in `pictures_root`, made if need be; `thumbnails` beside the picture where
    /// none is given.
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
    /// What is not as it should be with the picture, although a thumbnail was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Task for Thumbnail {
    const TYPE: &'static str = "image.thumbnail";
    type Output = Picture;
}

/// Returns the handler for pictures beneath a root. It blocks its thread.
pub fn handler(
    pictures: Pictures,
) -> impl Fn(Thumbnail, Ctx) -> Result<Picture, TaskError> + Clone + Send + Sync + 'static {
    move |task, ctx| pictures.make(&task, || ctx.is_cancelled()).map_err(refusal)
}

/// An error that is permanent where another attempt would fail the same way.
fn refusal(failure: Failure) -> TaskError {
    if matches!(failure, Failure::Stopped) {
        return TaskError::cancelled();
    }
    if !failure.is_permanent() {
        return failure.into();
    }
    TaskError::permanent(failure.code(), frame::one_line(&failure))
}

/// Why no thumbnail was made.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The width is out of range.
    #[error("width must be {WIDTH_MIN} to {WIDTH_MAX} pixels, not {0}")]
    Width(u32),
    /// The picture's file is not there, or may not be read.
    #[error("could not read {path:?}{}", of_lossy(path))]
    Open {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder for pictures cannot be opened.
    #[error("could not open executor.pictures_root {path:?}")]
    Root {
        /// The folder.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path leads out of the folder for pictures.
    #[error("{0:?} is outside of the folder executor.pictures_root, or leads out of it by a link or by `..`")]
    Outside(String),
    /// Decoding would take more memory than all runs together may take.
    #[error(
        "{path:?} needs {needed_mib} MiB to be decoded, more than the {budget_mib} MiB of executor.pictures_memory_mib"
    )]
    Memory {
        /// The file.
        path: String,
        /// What it needs, in MiB.
        needed_mib: u64,
        /// What all runs may take together, in MiB.
        budget_mib: u64,
    },
    /// The run was told to stop.
    #[error("stopped")]
    Stopped,
    /// The path leads to something other than a file.
    #[error("{0:?} is no file")]
    NoFile(String),
    /// The file or its picture is larger than what is worked on.
    #[error("{0:?} is too large: at most 256 MiB, {SIDE_MAX} pixels a side, and 1 GiB decoded")]
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
            Self::Root { .. } => "root",
            Self::Outside(_) => "outside",
            Self::Memory { .. } => "memory",
            Self::Stopped => "cancelled",
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
            Self::Write { source, .. } => is_name_refused(source),
            Self::Open { source, .. } => {
                use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
                is_name_refused(source) || matches!(source.kind(), NotFound | PermissionDenied | NotADirectory)
            }
            Self::Root { .. } | Self::Stopped => false,
            Self::Width(_)
            | Self::Outside(_)
            | Self::Memory { .. }
            | Self::NoFile(_)
            | Self::TooLarge(_)
            | Self::Unsupported(_)
            | Self::Corrupt { .. } => true,
        }
    }
}

/// Whether the system refuses the name itself: too long, with a zero byte, or links in a circle.
fn is_name_refused(error: &io::Error) -> bool {
    /// Linux and macOS: the standard library has no stable word for it.
    const ELOOP: [i32; 2] = [40, 62];
    matches!(error.kind(), io::ErrorKind::InvalidFilename | io::ErrorKind::InvalidInput)
        || error.raw_os_error().is_some_and(|code| ELOOP.contains(&code))
}

/// A hint where a name was not UTF-8 before it became part of a task: it cannot be found any more.
fn of_lossy(path: &str) -> &'static str {
    if path.contains(char::REPLACEMENT_CHARACTER) { " (a name that is not UTF-8 cannot be part of a task)" } else { "" }
}

/// The pictures beneath a folder, and the memory for decoding them. Clones share both.
#[derive(Debug, Clone)]
pub struct Pictures {
    root: Arc<Path>,
    budget: Arc<Budget>,
}

impl Pictures {
    /// Pictures beneath `root`, with this much memory for decoding in bytes.
    ///
    /// # Errors
    /// [`Failure::Root`] where the folder cannot be opened.
    pub fn new(root: &Path, memory_bytes: u64) -> Result<Self, Failure> {
        let failed = |source| Failure::Root { path: root.to_string_lossy().into_owned(), source };
        let absolute = std::path::absolute(root).map_err(failed)?;
        let pictures = Self { root: absolute.into(), budget: Arc::new(Budget::new(memory_bytes)) };
        pictures.open_root()?;
        Ok(pictures)
    }

    /// Returns the memory for decoding where an operator says nothing: 75 % of `memory_mib`, or of what
    /// the cgroup allows and the machine has available now.
    pub fn default_memory_bytes(memory_mib: Option<u32>) -> u64 {
        budget::default_bytes(memory_mib)
    }

    /// Makes a thumbnail. Blocks: waits for memory unless it is `stopped`, then reads, decodes, scales
    /// and writes on the calling thread.
    ///
    /// The same input always writes the same file, and other files never see half of it, so that a task
    /// may run twice.
    ///
    /// # Errors
    /// [`Failure`], which says whether another attempt is worth it.
    pub fn make(&self, task: &Thumbnail, stopped: impl Fn() -> bool) -> Result<Picture, Failure> {
        if !(WIDTH_MIN..=WIDTH_MAX).contains(&task.width) {
            return Err(Failure::Width(task.width));
        }
        let source = self.beneath(&task.path)?;
        let folder = match &task.output {
            Some(output) => self.beneath(output)?,
            None => source.parent().unwrap_or(Path::new("")).join(OUTPUT_DEFAULT),
        };
        // Opened for every task: a file system that went away and came back is another folder.
        let root = self.open_root()?;
        let (mut file, length) = open(&root, &source, &task.path)?;
        let plan = Plan::of(&task.path, &mut file, length, task.width)?;
        let reserved = self.budget.reserve(plan.memory_bytes(), stopped).map_err(|denied| match denied {
            Denied::Stopped => Failure::Stopped,
            Denied::TooMuch => Failure::Memory {
                path: task.path.clone(),
                needed_mib: plan.memory_bytes().div_ceil(1 << 20),
                budget_mib: self.budget.total() >> 20,
            },
        })?;
        let bytes = read(&mut file, length, &task.path)?;
        let Decoded { pixels, orientation, profile, mut warnings } = plan.decode(bytes)?;
        let (mut small, original) = shrink(pixels, orientation, task.width);
        warnings.extend(profile.and_then(|profile| profile::convert(&mut small, &profile).err()));
        let (encoded, extension) = encode(&small);
        let name = thumbnail_name(&source, task.width, extension);
        let at = folder.join(&name);
        write(&root, &folder, &name, &encoded).map_err(|error| {
            let path = self.root.join(&at).to_string_lossy().into_owned();
            if is_escape(&error) { Failure::Outside(path) } else { Failure::Write { path, source: error } }
        })?;
        drop(reserved);
        Ok(Picture {
            thumbnail: self.root.join(at).to_string_lossy().into_owned(),
            width: small.width(),
            height: small.height(),
            original_width: original.0,
            original_height: original.1,
            format: self::name(plan.format()).into(),
            bytes: encoded.len() as u64,
            dominant_color: color::dominant(&small),
            warnings,
        })
    }

    fn open_root(&self) -> Result<Dir, Failure> {
        Dir::open_ambient_dir(&self.root, ambient_authority())
            .map_err(|source| Failure::Root { path: self.root.to_string_lossy().into_owned(), source })
    }

    /// Returns the path relative to the root. That no link leads out of it is seen when it is opened.
    fn beneath(&self, path: &str) -> Result<PathBuf, Failure> {
        let outside = || Failure::Outside(path.into());
        let relative = match Path::new(path) {
            absolute if absolute.is_absolute() => match absolute.strip_prefix(&self.root) {
                Ok(relative) => relative.to_owned(),
                // The root may be reached by a link, and the task may say where that leads.
                Err(_) => {
                    let root = self.root.canonicalize().map_err(|_| outside())?;
                    absolute.strip_prefix(root).map_err(|_| outside())?.to_owned()
                }
            },
            relative => relative.to_owned(),
        };
        if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        Ok(relative.components().filter(|part| matches!(part, Component::Normal(_))).collect())
    }
}

/// Whether a path led out of the root: said by cap-std, and not by the system, which has a code.
fn is_escape(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

fn open(root: &Dir, source: &Path, path: &str) -> Result<(File, u64), Failure> {
    let failed = |error: io::Error| {
        if is_escape(&error) {
            Failure::Outside(path.into())
        } else {
            Failure::Open { path: path.into(), source: error }
        }
    };
    if source.as_os_str().is_empty() {
        return Err(Failure::NoFile(path.into()));
    }
    // Looked at before it is opened: opening a pipe waits for a writer, perhaps for ever.
    if !root.metadata(source).map_err(failed)?.is_file() {
        return Err(Failure::NoFile(path.into()));
    }
    let file = root.open(source).map_err(failed)?.into_std();
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(Failure::NoFile(path.into()));
    }
    if about.len() > FILE_BYTES_MAX {
        return Err(Failure::TooLarge(path.into()));
    }
    Ok((file, about.len()))
}

/// Reads the file as long as it was when its memory was reserved.
fn read(file: &mut File, length: u64, path: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::with_capacity(length as usize);
    let read = file.rewind().and_then(|()| file.take(length).read_to_end(&mut bytes));
    read.map_err(|source| Failure::Open { path: path.into(), source })?;
    Ok(bytes)
}

fn name(format: ImageFormat) -> &'static str {
    format.extensions_str().first().map_or("picture", |extension| if *extension == "jpg" { "jpeg" } else { extension })
}

/// The thumbnail, upright, and the size of the upright original.
fn shrink(picture: scale::Pixels, orientation: Orientation, width: u32) -> (DynamicImage, (u32, u32)) {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let lies = matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH);
    let upright = |(w, h): (u32, u32)| if lies { (h, w) } else { (w, h) };
    let original = upright((picture.width, picture.height));
    let (w, h) = if width < original.0 {
        let height = (u64::from(original.1) * u64::from(width) + u64::from(original.0) / 2) / u64::from(original.0);
        // Scaled before it is turned: turning a small picture costs nothing.
        upright((width, (height as u32).max(1)))
    } else {
        (picture.width, picture.height)
    };
    let mut small = picture.scaled(w, h);
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

/// Returns the thumbnail's name. It tells its origin, with a hash so that pictures of the same name in
/// two folders do not overwrite each other's. It is cut by bytes, as file systems count, and has no
/// control characters and no line ends.
fn thumbnail_name(source: &Path, width: u32, extension: &str) -> String {
    let breaks = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let mut stem: String = stem.chars().map(|c| if breaks(c) { '_' } else { c }).collect();
    let end = (0..=STEM_BYTES_MAX.min(stem.len())).rev().find(|at| stem.is_char_boundary(*at));
    stem.truncate(end.unwrap_or(0));
    let digest = Sha256::digest(source.as_os_str().as_encoded_bytes());
    let mark = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    format!("{stem}-{mark:08x}-{width}.{extension}")
}

/// Writes beside the target and renames, so that the target is whole or absent.
fn write(root: &Dir, folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    static PARTS: AtomicU64 = AtomicU64::new(0);
    let part = PARTS.fetch_add(1, Ordering::Relaxed);
    let opened;
    let folder = if folder.as_os_str().is_empty() {
        root
    } else {
        // Opened first: making a folder where a link stands says that it exists, not where it leads.
        opened = match root.open_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                root.create_dir_all(folder)?;
                root.open_dir(folder)?
            }
            other => other?,
        };
        &opened
    };
    let beside = Path::new(name).with_extension(format!("{}-{part}.part", std::process::id()));
    folder.write(&beside, bytes).and_then(|()| folder.rename(&beside, folder, name)).inspect_err(|_| {
        // What is left of a failed write is of no use; that it cannot be removed either is no news.
        let _removed = folder.remove_file(&beside);
    })
}

#[cfg(test)]
mod tests;
