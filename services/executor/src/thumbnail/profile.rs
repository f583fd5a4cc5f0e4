//! Colours as they are meant: a picture's ICC profile is applied, so that the thumbnail needs none.

use image::{DynamicImage, RgbImage, RgbaImage};
use moxcms::{ColorProfile, DataColorSpace, Layout, TransformOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Converts a picture from its profile to sRGB. Where the profile cannot be applied the picture stays as
/// it is, and the error is a warning to the submitter.
pub(super) fn convert(picture: &mut DynamicImage, profile: &[u8]) -> Result<(), String> {
    // A profile is input like any other: should the library panic on it, the picture is made without.
    let converted = catch_unwind(AssertUnwindSafe(|| converted(picture, profile)));
    let converted = converted.unwrap_or_else(|_panic| Err("it cannot be read".into()));
    *picture = converted.map_err(|reason| format!("the colour profile was not applied: {reason}"))?;
    Ok(())
}

fn converted(picture: &DynamicImage, profile: &[u8]) -> Result<DynamicImage, String> {
    let profile = ColorProfile::new_from_slice(profile).map_err(|error| error.to_string())?;
    let grey = !picture.color().has_color();
    let alpha = picture.color().has_alpha();
    let (width, height) = (picture.width(), picture.height());
    let (from, source) = match (profile.color_space, grey, alpha) {
        (DataColorSpace::Rgb, _, false) => (Layout::Rgb, picture.to_rgb8().into_raw()),
        (DataColorSpace::Rgb, _, true) => (Layout::Rgba, picture.to_rgba8().into_raw()),
        (DataColorSpace::Gray, true, false) => (Layout::Gray, picture.to_luma8().into_raw()),
        (DataColorSpace::Gray, true, true) => (Layout::GrayAlpha, picture.to_luma_alpha8().into_raw()),
        (other, ..) => return Err(format!("it is for {other:?}, which the picture is not decoded to")),
    };
    let (to, channels) = if alpha { (Layout::Rgba, 4) } else { (Layout::Rgb, 3) };
    let mut out = vec![0; width as usize * height as usize * channels];
    let transform = profile
        .create_transform_8bit(from, &ColorProfile::new_srgb(), to, TransformOptions::default())
        .map_err(|error| error.to_string())?;
    transform.transform(&source, &mut out).map_err(|error| error.to_string())?;
    let made = if alpha {
        RgbaImage::from_raw(width, height, out).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(width, height, out).map(DynamicImage::from)
    };
    made.ok_or_else(|| "its size does not fit".into())
}
