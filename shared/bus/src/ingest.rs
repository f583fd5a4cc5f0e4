//! Many publishes into one stream with one ack: the server's fast ingest (2.14, ADR-50), in the mode that ends
//! with the first message that is not stored. One word of the server's counts: how many are persisted, from the
//! first. Whatever else it says, and whatever is lost, leaves the rest unknown, to be sent again singly.

use crate::acks::Refusal;
use serde::Deserialize;
use std::fmt::Write;

/// Fewer than these are acked one by one: a batch has a first and a last word, and some between while others
/// are under way.
pub(crate) const TOGETHER_MIN: usize = 16;
/// The most messages that the server takes before it says so: more than a batch has, so that it says it at the end.
const FLOW: usize = 500;
/// What the reply of each message ends with.
const SUFFIX: &str = ".$FI";
/// Tokens after the batch's name: flow, mode, place, operation; the suffix is taken off before.
const TOKENS_AFTER_NAME: usize = 4;
/// The server's code for a stream that takes no batches.
const DISABLED: u64 = 10_205;
/// What a message does with its batch.
const START: u8 = 0;
const APPEND: u8 = 1;
const COMMIT: u8 = 2;

/// Where the server answers the messages of a batch: what all of these subjects begin with. All that publish into a
/// stream share the names of its batches, so the connection's is in it.
pub(crate) fn replies(inbox: &str, connection: &str, first: u64) -> String {
    format!("{inbox}.{connection}-{first}.{FLOW}.fail.")
}

/// Appends what the subject of one message ends with, of a batch of so many, two at least.
pub(crate) fn end_reply(subject: &mut String, place: usize, count: usize) {
    let operation = match place {
        0 => START,
        last if last + 1 == count => COMMIT,
        _ => APPEND,
    };
    let place = place + 1;
    write!(subject, "{place}.{operation}{SUFFIX}").expect("a string takes everything");
}

/// The last word on a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// So many are stored, the last of them under this sequence.
    Stored { count: usize, sequence: u64 },
    /// The stream takes no batches.
    Disabled,
    /// Not even the first is stored by this batch.
    Refused,
}

/// The batch that an answer is about, by the number of its first publish; `None` where it is about a single publish.
pub(crate) fn batch_of(subject: &str) -> Option<u64> {
    let name = subject.strip_suffix(SUFFIX)?.rsplit('.').nth(TOKENS_AFTER_NAME)?;
    name.rsplit('-').next()?.parse().ok()
}

/// The last word on a batch, if this is it.
pub(crate) fn last_word(body: &[u8]) -> Option<Word> {
    match serde_json::from_slice(body).ok()? {
        // What it says on the way is for those who go on for long; an error is followed by how many were stored.
        Said { kind: Some(_), .. } => None,
        Said { error: Some(Refusal { err_code: DISABLED, .. }), .. } => Some(Word::Disabled),
        Said { error: Some(_), .. } => Some(Word::Refused),
        Said { count, seq, .. } if seq > 0 => Some(Word::Stored { count, sequence: seq }),
        Said { .. } => Some(Word::Refused),
    }
}

#[derive(Deserialize)]
struct Said {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    count: usize,
    #[serde(default)]
    error: Option<Refusal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_found_by_any_of_its_replies() {
        let reply = |place| {
            let mut subject = replies("_INBOX.a-b", "c", 17);
            end_reply(&mut subject, place, 3);
            subject
        };
        let replies: Vec<String> = (0..3).map(reply).collect();
        assert_eq!(replies[0], "_INBOX.a-b.c-17.500.fail.1.0.$FI");
        assert_eq!(replies[1], "_INBOX.a-b.c-17.500.fail.2.1.$FI");
        assert_eq!(replies[2], "_INBOX.a-b.c-17.500.fail.3.2.$FI");
        assert!(replies.iter().all(|reply| batch_of(reply) == Some(17)));
        assert_eq!((batch_of("_INBOX.a.17"), batch_of("x.$FI"), batch_of("")), (None, None, None));
    }

    #[test]
    fn only_the_last_word_on_a_batch_counts() {
        let word = |body: &str| last_word(body.as_bytes());
        assert_eq!(word(r#"{"type":"ack","seq":3,"msgs":500}"#), None);
        assert_eq!(word(r#"{"type":"err","seq":3,"error":{"code":400,"err_code":10071}}"#), None);
        assert_eq!(word(r#"{"type":"gap","last_seq":2,"seq":4}"#), None);
        let stored = r#"{"stream":"S","seq":9,"batch":"c-17","count":3}"#;
        assert_eq!(word(stored), Some(Word::Stored { count: 3, sequence: 9 }));
        let refused = |code| format!(r#"{{"error":{{"code":400,"err_code":{code}}},"stream":"S","seq":0}}"#);
        assert_eq!(word(&refused(10_071)), Some(Word::Refused));
        assert_eq!(word(&refused(DISABLED)), Some(Word::Disabled));
        assert_eq!(word(r#"{"stream":"S","seq":0,"batch":"c-17","count":0}"#), Some(Word::Refused));
        assert_eq!(word("+OK"), None);
    }
}
