//! The dominant colour of a picture: the mean of the fullest cell of a coarse histogram.

use image::DynamicImage;

/// Bits kept of each channel: 512 cells, coarse enough that a gradient does not fall apart.
const BITS: u32 = 3;
/// Pixels more transparent than this are not seen.
const ALPHA_MIN: u8 = 128;

#[derive(Clone, Copy, Default)]
struct Cell {
    pixels: u64,
    sums: [u64; 3],
}

/// The dominant colour as `#rrggbb`; black where nothing is to be seen.
pub(super) fn dominant(picture: &DynamicImage) -> String {
    let mut cells = [Cell::default(); 1 << (3 * BITS)];
    for pixel in picture.to_rgba8().pixels().filter(|pixel| pixel[3] >= ALPHA_MIN) {
        let index = pixel.0[..3].iter().fold(0, |index, value| (index << BITS) | usize::from(value >> (8 - BITS)));
        let cell = &mut cells[index];
        cell.pixels += 1;
        for (sum, value) in cell.sums.iter_mut().zip(pixel.0) {
            *sum += u64::from(value);
        }
    }
    let fullest = cells.iter().max_by_key(|cell| cell.pixels).copied().unwrap_or_default();
    let [red, green, blue] = fullest.sums.map(|sum| sum.checked_div(fullest.pixels).unwrap_or(0));
    format!("#{red:02x}{green:02x}{blue:02x}")
}
