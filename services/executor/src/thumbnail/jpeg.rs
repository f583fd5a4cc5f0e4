//! Whether a JPEG is all there: its decoder does not say.

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
