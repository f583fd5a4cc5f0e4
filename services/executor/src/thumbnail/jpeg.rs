//! Whether a JPEG is all there, and what it takes to decode it: its decoder does not say.

use std::io::{self, BufRead, Read, Seek};

const START: u8 = 0xd8;
const END: u8 = 0xd9;
/// The two kinds of marks besides those that carry no length.
const TEMPORARY: u8 = 0x01;
const RESTARTS: std::ops::RangeInclusive<u8> = 0xd0..=0xd7;

/// Walks the segments (ITU T.81, B.1.1) to the end mark of the picture itself; a preview inside the
/// metadata has one of its own, which is passed over with its segment.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    if bytes.get(..2) != Some(&[0xff, START]) {
        return false;
    }
    let mut at = 2;
    while let Some(mark) = mark(bytes, &mut at) {
        match mark {
            END => return true,
            TEMPORARY => {}
            mark if RESTARTS.contains(&mark) => {}
            _ => {
                let Some(&[high, low]) = bytes.get(at..at + 2) else { return false };
                at += usize::from(u16::from_be_bytes([high, low])).max(2);
            }
        }
    }
    false
}

/// The next mark at or after `at`, which then stands behind it. Data between marks is passed over.
fn mark(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += bytes.get(*at..)?.iter().position(|byte| *byte == 0xff)? + 1;
        // A mark may be preceded by any number of fill bytes.
        while *bytes.get(*at)? == 0xff {
            *at += 1;
        }
        let mark = bytes[*at];
        *at += 1;
        if mark != 0 {
            return Some(mark);
        }
    }
}

/// A picture's header (ITU T.81, B.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) size: (u32, u32),
    components: u8,
    /// Samples of all components for every 100 pixels, rounded up.
    samples_percent: u64,
    /// Whether all coefficients are kept until the last scan.
    buffered: bool,
}

impl Frame {
    /// The decoded picture, in bytes: grey, or three colours (four become three).
    pub(super) fn picture_bytes(&self) -> u64 {
        self.pixels() * if self.components == 1 { 1 } else { 3 }
    }

    /// What the decoder keeps besides, in bytes: two for every sample, unless a scan has them all.
    pub(super) fn coefficient_bytes(&self) -> u64 {
        if self.buffered { 2 * (self.pixels() * self.samples_percent).div_ceil(100) } else { 0 }
    }

    fn pixels(&self) -> u64 {
        u64::from(self.size.0) * u64::from(self.size.1)
    }
}

/// Reads segments up to the first scan. None where there is no header or no scan behind it.
pub(super) fn frame(mut reader: impl BufRead + Seek) -> io::Result<Option<Frame>> {
    match walk(&mut reader) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        other => other,
    }
}

fn walk(reader: &mut (impl BufRead + Seek)) -> io::Result<Option<Frame>> {
    const SCAN: u8 = 0xda;
    let mut found: Option<Frame> = None;
    let mut start = [0; 2];
    reader.read_exact(&mut start)?;
    loop {
        let mut byte = byte(reader)?;
        while byte != 0xff {
            byte = self::byte(reader)?;
        }
        while byte == 0xff {
            byte = self::byte(reader)?;
        }
        match byte {
            0 | START | TEMPORARY => continue,
            mark if RESTARTS.contains(&mark) => continue,
            END => return Ok(None),
            _ => {}
        }
        let length = u16::from_be_bytes([self::byte(reader)?, self::byte(reader)?]).saturating_sub(2);
        match byte {
            SCAN => {
                let components = self::byte(reader)?;
                return Ok(
                    found.map(|frame| Frame { buffered: frame.buffered || components < frame.components, ..frame })
                );
            }
            // Frames of all kinds, without the tables that lie between their marks.
            0xc0..=0xcf if !matches!(byte, 0xc4 | 0xc8 | 0xcc) => {
                let mut segment = vec![0; usize::from(length)];
                reader.read_exact(&mut segment)?;
                found = read_frame(&segment, byte);
            }
            _ => reader.seek_relative(i64::from(length))?,
        }
    }
}

fn byte(reader: &mut impl Read) -> io::Result<u8> {
    let mut byte = [0];
    reader.read_exact(&mut byte).map(|()| byte[0])
}

fn read_frame(segment: &[u8], mark: u8) -> Option<Frame> {
    let (&[_, high, low, wide, narrow, components], rest) = segment.split_first_chunk::<6>()?;
    let size = (u32::from(u16::from_be_bytes([wide, narrow])), u32::from(u16::from_be_bytes([high, low])));
    let factors = || rest.chunks_exact(3).take(components.into()).map(|c| (u64::from(c[1] >> 4), u64::from(c[1] & 15)));
    let most = factors().map(|f| f.0).max()? * factors().map(|f| f.1).max()?;
    let samples: u64 = factors().map(|f| f.0 * f.1).sum();
    let samples_percent = (100 * samples).div_ceil(most.max(1));
    let sequential = matches!(mark, 0xc0 | 0xc1);
    Some(Frame { size, components, samples_percent, buffered: !sequential })
}
