//! JSON bodies: what is accepted as one. A body passes verbatim from submitter to executor, so it is checked
//! once, before dispatch, and never written anew.

use serde::de::IgnoredAny;

/// The deepest nesting of arrays and objects. Readers that recurse need about 1 KiB of stack a level.
pub const JSON_DEPTH_MAX: usize = 256;

/// Why a body is no JSON that every reader takes.
#[derive(Debug, thiserror::Error)]
pub enum InvalidJson {
    /// It breaks the grammar of RFC 8259.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
    /// It is not UTF-8 (RFC 8259, 8.1).
    #[error("invalid UTF-8 at byte {at}")]
    Utf8 {
        /// The first byte that is invalid.
        at: usize,
    },
    /// An escape is half of a surrogate pair (RFC 8259, 8.2): it stands for no character.
    #[error("lone surrogate in the escape at byte {at}")]
    Surrogate {
        /// Where the escape begins.
        at: usize,
    },
    /// It is nested beyond [`JSON_DEPTH_MAX`].
    #[error("nested deeper than {JSON_DEPTH_MAX} levels at byte {at}")]
    Depth {
        /// The bracket that is one too many.
        at: usize,
    },
}

/// Checks that `body` is one JSON value in UTF-8 whose strings are characters and whose nesting is bounded.
/// Numbers may have any length.
///
/// # Errors
/// [`InvalidJson`].
pub fn check(body: &[u8]) -> Result<(), InvalidJson> {
    serde_json::from_slice::<IgnoredAny>(body)?;
    std::str::from_utf8(body).map_err(|error| InvalidJson::Utf8 { at: error.valid_up_to() })?;
    // Most bodies have neither so many brackets nor an escape.
    if is_shallow(body) && !body.contains(&b'\\') { Ok(()) } else { check_tokens(body) }
}

/// Whether `body` has no more brackets than [`JSON_DEPTH_MAX`], so that it cannot be nested deeper.
pub fn is_shallow(body: &[u8]) -> bool {
    body.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= JSON_DEPTH_MAX
}

/// Checks depth and escapes of what is known to be JSON.
fn check_tokens(json: &[u8]) -> Result<(), InvalidJson> {
    let (mut at, mut depth, mut in_string) = (0, 0_usize, false);
    while let Some(byte) = json.get(at) {
        match (in_string, byte) {
            (_, b'"') => in_string = !in_string,
            (true, b'\\') => match (unit(json, at), unit(json, at + 6)) {
                (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => at += 10,
                (Some(0xD800..=0xDFFF), _) => return Err(InvalidJson::Surrogate { at }),
                // The byte behind it is escaped: a quote does not end the string.
                _ => at += 1,
            },
            (false, b'[' | b'{') => {
                depth += 1;
                if depth > JSON_DEPTH_MAX {
                    return Err(InvalidJson::Depth { at });
                }
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The code unit of an escape such as `\\u00e9`; `None` for other escapes and other text.
fn unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(depth: usize) -> Vec<u8> {
        [vec![b'['; depth], vec![b']'; depth]].concat()
    }

    #[test]
    fn numbers_of_any_length_and_escapes_of_whole_characters_are_json() {
        let bodies = [
            r#"{"b":12345678901234567890123,"z":1.10,"a":1}"#,
            "18446744073709551616",
            "-1e400",
            r#""\ud83d\ude00 \u0000 \\ud800 \" {[""#,
            r#"["\\"]"#,
        ];
        for body in bodies {
            check(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"));
        }
    }

    #[test]
    fn what_is_no_text_is_no_json() {
        for body in [&b"{\"t\":\"\xff\xfe\"}"[..], b"\"\xc0\x80\"", b"\"\xed\xa0\x80\"", b"{\"\xff\":1}"] {
            assert!(matches!(check(body), Err(InvalidJson::Utf8 { .. })), "{body:?}");
        }
        let lone =
            [r#"{"t":"\ud800"}"#, r#""\udc00\ud800""#, r#""\ud800\ud800\udc00""#, r#""\\\udfff""#, r#"{"\uD800":1}"#];
        for body in lone {
            assert!(matches!(check(body.as_bytes()), Err(InvalidJson::Surrogate { .. })), "{body}");
        }
        for body in [&b""[..], b"{", b"{} {}", b"nil", b"[1,]", b"\"\\x\""] {
            assert!(matches!(check(body), Err(InvalidJson::Syntax(_))), "{body:?}");
        }
    }

    #[test]
    fn nesting_is_bounded_and_brackets_in_strings_do_not_nest() {
        assert!(check(&nested(JSON_DEPTH_MAX)).is_ok());
        for depth in [JSON_DEPTH_MAX + 1, 100_000] {
            assert!(matches!(check(&nested(depth)), Err(InvalidJson::Depth { at: JSON_DEPTH_MAX })), "{depth}");
        }
        let flat = format!("[{}[]]", "[],".repeat(10 * JSON_DEPTH_MAX));
        assert!(check(flat.as_bytes()).is_ok());
        assert!(check(format!("\"{}\"", "[{".repeat(JSON_DEPTH_MAX)).as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn what_any_writer_makes_of_text_is_json(text: String, other: String) {
            let body = serde_json::json!({ text.as_str(): [other.as_str(), text.as_str()] }).to_string();
            prop_assert!(check(body.as_bytes()).is_ok());
        }

        #[test]
        fn any_bytes_are_answered(body: Vec<u8>) {
            let _verdict = check(&body);
        }
    }
}
