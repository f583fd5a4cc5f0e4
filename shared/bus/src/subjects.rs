//! The subjects of messages that go together, made without a piece of memory for each.

use async_nats::Subject;
use bytes::Bytes;

/// What most reply subjects end with, in bytes.
const REPLY_END_BYTES: usize = 16;

/// Subjects as parts of one text: the library keeps a copy of each, and to one that has a text of its own
/// the means to share it have to be made first.
#[derive(Debug)]
pub(crate) struct Subjects {
    text: String,
    ends: Vec<usize>,
}

impl Subjects {
    /// Of so many, most of them of so many bytes.
    pub(crate) fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { text: String::with_capacity(count * bytes), ends: Vec::with_capacity(count) }
    }

    /// Adds one, by writing it at the end.
    pub(crate) fn add(&mut self, write: impl FnOnce(&mut String)) {
        write(&mut self.text);
        self.ends.push(self.text.len());
    }

    /// Those that were added, in their order.
    pub(crate) fn done(self) -> Vec<Subject> {
        let (text, mut from) = (Bytes::from(self.text), 0);
        let part = |to| Subject::from_utf8(text.slice(std::mem::replace(&mut from, to)..to));
        self.ends.into_iter().map(part).map(|subject| subject.expect("whole strings were added")).collect()
    }
}

/// The reply subjects of so many publishes, which begin alike.
pub(crate) fn replies(begin: &str, count: usize, end: impl Fn(&mut String, usize)) -> Vec<Subject> {
    let mut replies = Subjects::with_capacity(count, begin.len() + REPLY_END_BYTES);
    for place in 0..count {
        replies.add(|text| {
            text.push_str(begin);
            end(text, place);
        });
    }
    replies.done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_what_was_added_whatever_room_was_made() {
        let mut subjects = Subjects::with_capacity(1, 2);
        for text in ["a.b", "", "ä.é", "c"] {
            subjects.add(|all| all.push_str(text));
        }
        let subjects = subjects.done();
        assert_eq!(subjects.iter().map(Subject::as_str).collect::<Vec<_>>(), ["a.b", "", "ä.é", "c"]);
    }
}
