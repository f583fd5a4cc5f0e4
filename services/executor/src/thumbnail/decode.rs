//! Decoding: what it will need is known from the header, before memory is taken.

use super::scale::Pixels;
use super::{DECODE_BYTES_MAX, Failure, MISSING_PERCENT_MAX, SIDE_MAX, jpeg, name};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is read of a file to know its format, in bytes.
const MAGIC_BYTES: u64 = 64;
/// What a JPEG's decoder writes where data is missing: grey.
const JPEG_FILL: u8 = 128;
/// What stands in a buffer before it is decoded into; any value would do.
const FILL: u8 = 0xa5;
/// What a decoder keeps besides the picture: rows, tables and windows, in bytes.
const TABLES_BYTES: u64 = 4 << 20;

/// A picture, decoded.
pub(super) struct Decoded {
    pub(super) pixels: Pixels,
    pub(super) orientation: Orientation,
    /// Its ICC profile.
    pub(super) profile: Option<Vec<u8>>,
    pub(super) warnings: Vec<String>,
}

/// What a picture's header says.
pub(super) struct Plan<'a> {
    path: &'a str,
    format: ImageFormat,
    /// The decoded picture, in bytes.
    picture_bytes: u64,
    /// All that is in memory at once, in bytes.
    memory_bytes: u64,
}

impl<'a> Plan<'a> {
    /// Reads the header of a file of this length, for a thumbnail of this width.
    pub(super) fn of(path: &'a str, file: &mut File, length: u64, width: u32) -> Result<Self, Failure> {
        let unreadable = |source| Failure::Open { path: path.into(), source };
        let mut magic = Vec::new();
        file.take(MAGIC_BYTES).read_to_end(&mut magic).map_err(unreadable)?;
        file.rewind().map_err(unreadable)?;
        let unsupported = || Failure::Unsupported(path.into());
        let format = image::guess_format(&magic).ok().filter(ImageFormat::reading_enabled).ok_or_else(unsupported)?;
        let mut plan = Self { path, format, picture_bytes: 0, memory_bytes: 0 };
        let reader = BufReader::new(file);
        let (size, picture, working) = if format == ImageFormat::Jpeg {
            let frame = jpeg::frame(reader).map_err(unreadable)?;
            let frame = frame.ok_or_else(|| plan.corrupt("it has no header of a picture"))?;
            // The decoder keeps its own copy of the file.
            (frame.size, frame.picture_bytes(), frame.coefficient_bytes() + length)
        } else {
            let decoder = plan.guarded(|| decoder(reader, format))?;
            let size = decoder.dimensions();
            let pixels = u64::from(size.0) * u64::from(size.1);
            let working = match format {
                // A frame, or planes, beside the picture; an animation has a canvas as well.
                ImageFormat::WebP => 8 * pixels,
                ImageFormat::Gif => 4 * pixels,
                _ => 0,
            };
            (size, decoder.total_bytes(), working)
        };
        if size.0.max(size.1) > SIDE_MAX || picture > DECODE_BYTES_MAX {
            return Err(Failure::TooLarge(path.into()));
        }
        plan.picture_bytes = picture;
        plan.memory_bytes = length + picture + working + thumbnail_bytes(size, width) + TABLES_BYTES;
        Ok(plan)
    }

    pub(super) fn format(&self) -> ImageFormat {
        self.format
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Decodes the file's bytes. A picture whose end is missing is decoded with a warning, as long as
    /// nearly all of it is there.
    pub(super) fn decode(&self, mut bytes: Vec<u8>) -> Result<Decoded, Failure> {
        let whole = match self.format {
            ImageFormat::Jpeg => jpeg::is_whole(&bytes),
            ImageFormat::WebP => self.pad_webp(&mut bytes)?,
            _ => true,
        };
        let mut decoder = self.guarded(|| decoder(Cursor::new(bytes), self.format))?;
        if decoder.total_bytes() > self.picture_bytes {
            return Err(self.corrupt("its headers contradict each other"));
        }
        // Broken metadata costs the orientation or the profile, not the picture.
        let (orientation, profile) = self.guarded(|| {
            let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
            Ok((orientation, decoder.icc_profile().ok().flatten()))
        })?;
        let ((width, height), color) = (decoder.dimensions(), decoder.color_type());
        let fill = if self.format == ImageFormat::Jpeg { JPEG_FILL } else { FILL };
        let mut pixels = Pixels { bytes: vec![fill; decoder.total_bytes() as usize], width, height, color };
        let mut warnings = Vec::new();
        let read = self.guarded(|| decoder.read_image(&mut pixels.bytes));
        let failed = match read {
            Ok(()) if whole => None,
            // The decoder fills what is missing and calls it a success.
            Ok(()) => Some(self.corrupt("it ends too early")),
            Err(Failure::Corrupt { path, format, source }) => Some(Failure::Corrupt { path, format, source }),
            Err(other) => return Err(other),
        };
        if let Some(failure) = failed {
            let missing = match self.format {
                // What is missing was counted before it was decoded.
                ImageFormat::WebP
                    if !whole && !matches!(&failure, Failure::Corrupt { source, .. } if source.is::<ImageError>()) =>
                {
                    0
                }
                ImageFormat::WebP => return Err(failure),
                ImageFormat::Jpeg => mend(&mut pixels, fill, Unit::Row),
                ImageFormat::Png
                    if matches!(color, ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16) =>
                {
                    // The decoder turns the bytes of its samples only where it succeeds.
                    let (samples, _) = pixels.bytes.as_chunks_mut::<2>();
                    samples.iter_mut().for_each(|sample| *sample = u16::from_be_bytes(*sample).to_ne_bytes());
                    mend(&mut pixels, fill, Unit::Pixel)
                }
                _ => mend(&mut pixels, fill, Unit::Pixel),
            };
            if missing > MISSING_PERCENT_MAX {
                return Err(failure);
            }
            warnings.push(format!(
                "the file is truncated or damaged at its end: about {missing} % of the picture is missing"
            ));
        }
        Ok(Decoded { pixels, orientation, profile, warnings })
    }

    /// Adds what a WebP file lacks of the size that it states, as zeros. Returns whether it was whole.
    fn pad_webp(&self, bytes: &mut Vec<u8>) -> Result<bool, Failure> {
        let Some(&[a, b, c, d]) = bytes.get(4..8) else { return Err(self.corrupt("it ends too early")) };
        let stated = u64::from(u32::from_le_bytes([a, b, c, d])) + 8;
        let missing = stated.saturating_sub(bytes.len() as u64);
        if missing == 0 {
            return Ok(true);
        }
        if missing * 100 > stated * MISSING_PERCENT_MAX {
            return Err(self.corrupt("it ends too early"));
        }
        bytes.resize(stated as usize, 0);
        Ok(false)
    }

    /// Calls a decoder. Should it panic, the picture is corrupt and no other run is hurt.
    fn guarded<T>(&self, call: impl FnOnce() -> Result<T, ImageError>) -> Result<T, Failure> {
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(ImageError::Limits(_))) => Err(Failure::TooLarge(self.path.into())),
            Ok(Err(error)) => Err(self.corrupt(error)),
            Err(_panic) => Err(self.corrupt("its decoder gave up")),
        }
    }

    fn corrupt(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        Failure::Corrupt { path: self.path.into(), format: name(self.format), source: source.into() }
    }
}

fn decoder<'r, R: std::io::BufRead + Seek + 'r>(
    reader: R,
    format: ImageFormat,
) -> Result<impl ImageDecoder + 'r, ImageError> {
    let mut reader = ImageReader::with_format(reader, format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODE_BYTES_MAX);
    reader.limits(limits);
    reader.into_decoder()
}

/// The memory of the thumbnail in bytes: sums while it is scaled, then itself, converted and encoded.
fn thumbnail_bytes(size: (u32, u32), width: u32) -> u64 {
    let (w, h, width) = (u64::from(size.0), u64::from(size.1), u64::from(width));
    // It may lie on its side.
    let scaled = |w: u64, h: u64| if width < w { width * (h * width).div_ceil(w) } else { w * h };
    4 * 4 * scaled(w, h).max(scaled(h, w))
}

/// What is missing as a whole: rows of a JPEG, pixels of others.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Row,
    Pixel,
}

/// Paints what was never decoded like what is above it. Returns how much that is, in percent, rounded up.
fn mend(pixels: &mut Pixels, fill: u8, unit: Unit) -> u64 {
    let pixel = usize::from(pixels.color.bytes_per_pixel());
    let stride = pixels.width as usize * pixel;
    let length = match unit {
        Unit::Row => stride,
        Unit::Pixel => pixel,
    };
    let (mut units, mut missing) = (0_u64, 0_u64);
    for start in (0..pixels.bytes.len()).step_by(length.max(1)) {
        let end = start + length;
        units += 1;
        if pixels.bytes[start..end].iter().all(|byte| *byte == fill) {
            missing += 1;
            if start >= stride {
                pixels.bytes.copy_within(start - stride..end - stride, start);
            }
        }
    }
    (missing * 100).div_ceil(units.max(1))
}
