//! The art itself: each kind is a function from a place in the picture to a colour.
//!
//! Places are `(x, y)` with the shorter side of the picture as the unit and the centre at the
//! origin, so that a motif looks the same in every size.

use image::{Rgba, RgbaImage};
use std::f32::consts::TAU;

/// What is painted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Art {
    /// Hills before a low sun.
    Sunset,
    /// Interfering waves.
    Plasma,
    /// The Mandelbrot set, near its seahorses.
    Mandelbrot,
    /// A Julia set.
    Julia,
    /// Cells around scattered points.
    Cells,
    /// Veins of noise.
    Marble,
    /// Rings on nothing: the background is transparent where the format allows it.
    Rings,
    /// Discs and bars, as a poster.
    Shapes,
}

impl Art {
    /// The word that stands in a file's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sunset => "sunset",
            Self::Plasma => "plasma",
            Self::Mandelbrot => "mandelbrot",
            Self::Julia => "julia",
            Self::Cells => "cells",
            Self::Marble => "marble",
            Self::Rings => "rings",
            Self::Shapes => "shapes",
        }
    }
}

/// Where colours come from: a wheel of 256, so that no pixel costs a cosine.
struct Wheel([[u8; 3]; 256]);

impl Wheel {
    /// Each channel swings around `base` by `swing`, shifted by `phase` turns.
    fn new(base: [f32; 3], swing: [f32; 3], phase: [f32; 3]) -> Self {
        let mut colors = [[0; 3]; 256];
        for (step, color) in colors.iter_mut().enumerate() {
            let turn = step as f32 / 256.0;
            for channel in 0..3 {
                let value = base[channel] + swing[channel] * (TAU * (turn + phase[channel])).cos();
                color[channel] = (value.clamp(0.0, 1.0) * 255.0) as u8;
            }
        }
        Self(colors)
    }

    /// The colour at this many turns.
    fn at(&self, turns: f32) -> [u8; 3] {
        self.0[((turns - floor(turns) as f32) * 256.0) as usize & 255]
    }
}

/// Paints one picture. The seed comes from kind and size, so that no two look alike.
pub(super) fn paint(art: Art, width: u32, height: u32) -> RgbaImage {
    let seed = hash(width ^ (art as u32) << 24, height);
    let hue = (seed & 0xff) as f32 / 256.0;
    let wheel = match art {
        Art::Sunset => Wheel::new([0.75, 0.45, 0.4], [0.25, 0.3, 0.25], [0.0, 0.12, 0.35]),
        Art::Marble => Wheel::new([0.6; 3], [0.35; 3], [hue, hue + 0.06, hue + 0.12]),
        _ => Wheel::new([0.55; 3], [0.45; 3], [hue, hue + 0.2, hue + 0.45]),
    };
    let poster = poster(seed, &wheel);
    let unit = 1.0 / width.min(height) as f32;
    let (middle_x, middle_y) = (width as f32 / 2.0, height as f32 / 2.0);
    RgbaImage::from_fn(width, height, |column, row| {
        let (x, y) = ((column as f32 - middle_x) * unit, (row as f32 - middle_y) * unit);
        let opaque = |[red, green, blue]: [u8; 3]| Rgba([red, green, blue, u8::MAX]);
        match art {
            Art::Sunset => opaque(sunset(x, y, seed, &wheel)),
            Art::Plasma => opaque(plasma(x, y, hue, &wheel)),
            Art::Mandelbrot => opaque(mandelbrot(x * 2.6 - 0.7, y * 2.6, &wheel)),
            Art::Julia => opaque(escape((x * 2.4, y * 2.4), (-0.79 + hue * 0.05, 0.15), &wheel)),
            Art::Cells => opaque(cells(x, y, seed, &wheel)),
            Art::Marble => opaque(marble(x, y, seed, &wheel)),
            Art::Rings => rings(x, y, &wheel),
            Art::Shapes => opaque(shapes(x, y, &poster)),
        }
    })
}

/// Rounds down. The library's own is a call where the build does not ask for a newer processor.
fn floor(value: f32) -> i32 {
    let whole = value as i32;
    if whole as f32 > value { whole - 1 } else { whole }
}

fn mix(from: [u8; 3], to: [u8; 3], share: f32) -> [u8; 3] {
    let share = share.clamp(0.0, 1.0);
    [0, 1, 2].map(|i| (f32::from(from[i]) + (f32::from(to[i]) - f32::from(from[i])) * share) as u8)
}

/// A number that looks random for every pair.
fn hash(a: u32, b: u32) -> u32 {
    let mut mixed = a.wrapping_mul(0x9e37_79b1) ^ b.wrapping_mul(0x85eb_ca77);
    mixed = (mixed ^ (mixed >> 15)).wrapping_mul(0x2c1b_3c6d);
    mixed = (mixed ^ (mixed >> 12)).wrapping_mul(0x297a_2d39);
    mixed ^ (mixed >> 15)
}

/// The same from 0 to 1, for a place on a grid.
fn random(column: i32, row: i32, seed: u32) -> f32 {
    (hash(column as u32 ^ seed, row as u32) >> 8) as f32 / (1 << 24) as f32
}

/// Noise from 0 to 1 that is smooth between the places of a grid.
fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (column, row) = (floor(x), floor(y));
    let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
    let (across, down) = (smooth(x - column as f32), smooth(y - row as f32));
    let upper = random(column, row, seed) * (1.0 - across) + random(column + 1, row, seed) * across;
    let lower = random(column, row + 1, seed) * (1.0 - across) + random(column + 1, row + 1, seed) * across;
    upper * (1.0 - down) + lower * down
}

/// Three octaves of noise, from 0 to 1.
fn clouds(x: f32, y: f32, seed: u32) -> f32 {
    [(1.0, 0.55), (2.0, 0.3), (4.0, 0.15)]
        .into_iter()
        .map(|(scale, share)| share * noise(x * scale, y * scale, seed.wrapping_add(scale as u32)))
        .sum()
}

fn sunset(x: f32, y: f32, seed: u32, wheel: &Wheel) -> [u8; 3] {
    // From the nearest range of hills to the farthest: paler, higher, wider.
    for (range, depth) in [(1.0, 0.05), (2.0, 0.3), (3.0, 0.55), (4.0, 0.85)] {
        let highest = 0.52 - 0.11 * range;
        if y > highest && y > highest + 0.17 * noise(x * (5.0 - range) + 9.0, range, seed) {
            return mix([24, 18, 44], wheel.at(0.2), depth * 0.6);
        }
    }
    let (dx, dy) = (x - 0.18, y + 0.02);
    let distance = (dx * dx + dy * dy).sqrt();
    let sky = mix([52, 40, 112], wheel.at(0.02), (y + 0.5) * 1.5);
    if distance < 0.12 {
        return mix([255, 244, 200], [255, 190, 90], distance / 0.12);
    }
    mix([255, 200, 120], sky, (distance - 0.12) * 3.0)
}

fn plasma(x: f32, y: f32, hue: f32, wheel: &Wheel) -> [u8; 3] {
    let around = ((x - 0.3) * (x - 0.3) + (y + hue * 0.4) * (y + hue * 0.4)).sqrt();
    let waves = (x * 7.0 + hue * TAU).sin() + (y * 9.0).sin() + (around * 13.0).sin();
    wheel.at(waves / 6.0 + x * 0.15)
}

fn mandelbrot(x: f32, y: f32, wheel: &Wheel) -> [u8; 3] {
    // Inside the heart and the largest disc nothing ever escapes: no need to wait for it.
    let (shifted, yy) = (x - 0.25, y * y);
    let q = shifted * shifted + yy;
    if q * (q + shifted) < 0.25 * yy || (x + 1.0) * (x + 1.0) + yy < 0.0625 {
        return INSIDE;
    }
    escape((0.0, 0.0), (x, y), wheel)
}

/// The colour of what never escapes.
const INSIDE: [u8; 3] = [12, 10, 24];

/// Colours a point by how soon `z = z * z + c` leaves the circle of radius 4.
fn escape(z: (f32, f32), c: (f32, f32), wheel: &Wheel) -> [u8; 3] {
    const ROUNDS: u32 = 64;
    let (mut a, mut b) = z;
    for round in 0..ROUNDS {
        let (aa, bb) = (a * a, b * b);
        if aa + bb > 16.0 {
            // The fraction of a round by which it overshot makes the bands smooth.
            let fraction = (aa + bb).log2().log2() - 2.0;
            return wheel.at((round as f32 - fraction) / 34.0);
        }
        (a, b) = (aa - bb + c.0, 2.0 * a * b + c.1);
    }
    INSIDE
}

fn cells(x: f32, y: f32, seed: u32, wheel: &Wheel) -> [u8; 3] {
    let (x, y) = (x * 7.0, y * 7.0);
    let (column, row) = (floor(x), floor(y));
    let (mut nearest, mut second, mut owner) = (f32::MAX, f32::MAX, 0.0);
    for (across, down) in [(-1, -1), (0, -1), (1, -1), (-1, 0), (0, 0), (1, 0), (-1, 1), (0, 1), (1, 1)] {
        let (i, j) = (column + across, row + down);
        let drawn = hash(i as u32 ^ seed, j as u32);
        let share = |bits: u32| (bits & 0xffff) as f32 / 65_536.0;
        let (dx, dy) = (i as f32 + share(drawn) - x, j as f32 + share(drawn >> 16) - y);
        let distance = dx * dx + dy * dy;
        if distance < nearest {
            (second, nearest, owner) = (nearest, distance, share(drawn >> 7));
        } else {
            second = second.min(distance);
        }
    }
    let edge = (second.sqrt() - nearest.sqrt()) * 9.0;
    let inside = wheel.at(owner * 0.6);
    mix([20, 20, 28], mix(inside, [255, 255, 255], 0.35 - nearest.sqrt() * 0.6), edge)
}

fn marble(x: f32, y: f32, seed: u32, wheel: &Wheel) -> [u8; 3] {
    let stir = clouds(x * 3.0 + 11.0, y * 3.0 + 5.0, seed);
    let vein = ((x + y * 0.4) * 6.0 + stir * 9.0).sin();
    let [red, green, blue] = wheel.at(0.25 + stir * 0.3);
    mix([red, green, blue], [250, 246, 238], 1.0 - vein.abs() * 1.2)
}

fn rings(x: f32, y: f32, wheel: &Wheel) -> Rgba<u8> {
    let distance = (x * x + y * y).sqrt();
    let band = distance * 11.0;
    let [red, green, blue] = wheel.at(distance * 1.4 + y.atan2(x) / TAU);
    // Soft edges, and nothing beyond the outermost ring.
    let edge = ((0.5 - (band.fract() - 0.5).abs()) * 6.0 - 0.6).clamp(0.0, 1.0);
    let alpha = if distance > 0.48 { 0.0 } else { edge };
    Rgba([red, green, blue, (alpha * 255.0) as u8])
}

/// One disc, bar, ring or triangle of a poster.
#[derive(Clone, Copy)]
struct Shape {
    kind: usize,
    x: f32,
    y: f32,
    size: f32,
    color: [u8; 3],
}

/// The shapes of a poster, drawn by lot once a picture.
fn poster(seed: u32, wheel: &Wheel) -> [Shape; 14] {
    std::array::from_fn(|index| {
        let draw = |what: i32| random(index as i32, what, seed);
        let color = mix(wheel.at(draw(4) * 0.7), [20, 24, 40], if draw(5) > 0.75 { 0.8 } else { 0.0 });
        Shape { kind: index % 4, x: draw(1) * 2.0, y: (draw(2) - 0.5) * 1.1, size: 0.05 + draw(3) * 0.17, color }
    })
}

fn shapes(x: f32, y: f32, poster: &[Shape]) -> [u8; 3] {
    let covers = |shape: &&Shape| {
        // Wide pictures have shapes to their far ends: the motif repeats every two units.
        let across = x + 1.0 - shape.x;
        let (dx, dy, size) = (across - 2.0 * floor(across / 2.0) as f32 - 1.0, y - shape.y, shape.size);
        match shape.kind {
            0 => dx * dx + dy * dy < size * size,
            1 => dx.abs() < size && dy.abs() < size * 0.35,
            2 => (0.3 * size * size..size * size).contains(&(dx * dx + dy * dy)),
            _ => dy < size && dx.abs() < (dy + size) * 0.5,
        }
    };
    poster.iter().rev().find(covers).map_or([244, 238, 224], |shape| shape.color)
}
