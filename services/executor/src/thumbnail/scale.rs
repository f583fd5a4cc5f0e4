//! Scaling down by area: every pixel of the result is the mean of what it covers.
//!
//! Colours are weighted by their opacity: what cannot be seen does not tint what can.

use image::{ColorType, DynamicImage, ImageBuffer};

/// A decoded picture: rows from the top, samples in the machine's byte order.
#[derive(Debug)]
pub(super) struct Pixels {
    pub(super) bytes: Vec<u8>,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) color: ColorType,
}

impl Pixels {
    /// Returns the picture with 8 bits a sample in this size, which is at most its own. Consumes the
    /// picture, whose memory is free from then on.
    pub(super) fn scaled(self, width: u32, height: u32) -> DynamicImage {
        let raw = match self.color {
            ColorType::L8 | ColorType::L16 => self.reduced::<1>(width, height, false),
            ColorType::La8 | ColorType::La16 => self.reduced::<2>(width, height, true),
            ColorType::Rgb8 | ColorType::Rgb16 => self.reduced::<3>(width, height, false),
            ColorType::Rgba8 | ColorType::Rgba16 => self.reduced::<4>(width, height, true),
            other => unreachable!("no decoder of these formats returns {other:?}"),
        };
        let scaled = match self.color.channel_count() {
            1 => ImageBuffer::from_raw(width, height, raw).map(DynamicImage::ImageLuma8),
            2 => ImageBuffer::from_raw(width, height, raw).map(DynamicImage::ImageLumaA8),
            3 => ImageBuffer::from_raw(width, height, raw).map(DynamicImage::ImageRgb8),
            _ => ImageBuffer::from_raw(width, height, raw).map(DynamicImage::ImageRgba8),
        };
        scaled.expect("the samples are as many as the size says")
    }

    fn reduced<const N: usize>(&self, width: u32, height: u32, alpha: bool) -> Vec<u8> {
        if self.color.bytes_per_pixel() as usize == N {
            if (width, height) == (self.width, self.height) {
                return self.bytes.clone();
            }
            let sample = |bytes: &[u8], at: usize| u64::from(bytes[at]);
            self.averaged::<N>(width, height, alpha, 1, sample)
        } else {
            let sample = |bytes: &[u8], at: usize| u64::from(u16::from_ne_bytes([bytes[2 * at], bytes[2 * at + 1]]));
            self.averaged::<N>(width, height, alpha, 257, sample)
        }
    }

    /// Averages rows one after the other. A pixel of the source covers at most two of the result in
    /// each direction; the parts are whole numbers in units of 1/width and 1/height. The largest sum
    /// is 65535 (colour) x 65535 (alpha) x 20000 x 20000 < 2^61.
    fn averaged<const N: usize>(
        &self,
        width: u32,
        height: u32,
        alpha: bool,
        unit: u64,
        sample: impl Fn(&[u8], usize) -> u64,
    ) -> Vec<u8> {
        let across = parts(self.width, width);
        let down = parts(self.height, height);
        let area = u64::from(self.width) * u64::from(self.height);
        let mut out = vec![0; width as usize * height as usize * N];
        let mut row = vec![[0_u64; N]; width as usize];
        // The rows of the result that a row of the source covers: one, and perhaps the next.
        let mut sums = vec![[0_u64; N]; width as usize];
        let stride = self.width as usize * usize::from(self.color.bytes_per_pixel());
        let mut finished = 0_usize;
        let finish = |sums: &mut [[u64; N]], at: usize, out: &mut [u8]| {
            let out = &mut out[at * width as usize * N..][..width as usize * N];
            for (pixel, sum) in out.chunks_exact_mut(N).zip(sums) {
                for (channel, value) in pixel.iter_mut().enumerate() {
                    let weight = if alpha && channel + 1 < N { sum[N - 1] } else { area };
                    let whole = weight * unit;
                    *value = ((sum[channel] + whole / 2).checked_div(whole).unwrap_or(0)).min(255) as u8;
                }
                *sum = [0; N];
            }
        };
        for (bytes, part) in self.bytes.chunks_exact(stride.max(1)).zip(&down) {
            row.fill([0; N]);
            for (x, covered) in across.iter().enumerate() {
                let mut pixel: [u64; N] = std::array::from_fn(|channel| sample(bytes, x * N + channel));
                if alpha {
                    let opacity = pixel[N - 1];
                    pixel[..N - 1].iter_mut().for_each(|value| *value *= opacity);
                }
                add(&mut row[covered.first], &pixel, covered.weight);
                if covered.rest > 0 {
                    add(&mut row[covered.first + 1], &pixel, covered.rest);
                }
            }
            if part.first > finished {
                finish(&mut sums, finished, &mut out);
                finished = part.first;
            }
            sums.iter_mut().zip(&row).for_each(|(sum, value)| add(sum, value, part.weight));
            if part.rest > 0 {
                finish(&mut sums, finished, &mut out);
                finished = part.first + 1;
                sums.iter_mut().zip(&row).for_each(|(sum, value)| add(sum, value, part.rest));
            }
        }
        finish(&mut sums, finished, &mut out);
        out
    }
}

fn add<const N: usize>(sum: &mut [u64; N], value: &[u64; N], weight: u64) {
    for (sum, value) in sum.iter_mut().zip(value) {
        *sum += value * weight;
    }
}

/// What a pixel of the source covers of the result.
struct Part {
    first: usize,
    /// How much of it lies in the first.
    weight: u64,
    /// How much of it lies in the next.
    rest: u64,
}

fn parts(from: u32, to: u32) -> Vec<Part> {
    let (from, to) = (u64::from(from), u64::from(to));
    let part = |at: u64| {
        let (start, end) = (at * to, (at + 1) * to);
        let first = start / from;
        let weight = end.min((first + 1) * from) - start;
        Part { first: first as usize, weight, rest: to - weight }
    };
    (0..from).map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_picture_keeps_its_value_at_every_ratio_and_depth() {
        for (from, to) in [((7, 5), (3, 2)), ((10, 10), (9, 10)), ((100, 3), (16, 1)), ((5, 5), (5, 5))] {
            for color in
                [ColorType::L8, ColorType::La8, ColorType::Rgb8, ColorType::Rgba8, ColorType::Rgb16, ColorType::Rgba16]
            {
                let bytes = vec![200; from.0 as usize * from.1 as usize * usize::from(color.bytes_per_pixel())];
                let pixels = Pixels { bytes, width: from.0, height: from.1, color };
                let scaled = pixels.scaled(to.0, to.1);
                assert!(scaled.as_bytes().iter().all(|value| *value == 200), "{from:?} {to:?} {color:?}");
            }
        }
    }

    #[test]
    fn the_mean_is_that_of_the_area_and_what_is_invisible_does_not_tint() {
        let grey = Pixels { bytes: vec![0, 90, 240], width: 3, height: 1, color: ColorType::L8 };
        // Two pixels of one and a half each: (0 + 45) / 1.5 and (45 + 240) / 1.5.
        assert_eq!(grey.scaled(2, 1).as_bytes(), [30, 190]);
        let bytes = vec![255, 255, 255, 255, 9, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let edge = Pixels { bytes, width: 4, height: 1, color: ColorType::Rgba8 };
        assert_eq!(edge.scaled(2, 1).as_bytes(), [255, 255, 255, 128, 0, 0, 0, 0]);
    }
}
