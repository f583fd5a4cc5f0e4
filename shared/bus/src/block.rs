//! The headers of a message as the one block that they are on the wire.
//!
//! The client library keeps a map of lists of strings: three allocations and a search among its own names for each
//! header, and a completion has nine. Here they are written one after the other, and the map has one entry: the first
//! header, whose value goes on with the lines of the others. The library writes exactly what it would have otherwise.

use async_nats::header::HeaderValue;
use async_nats::{HeaderMap, HeaderName};
use jetlane_schemas::{Headers, header};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StringDeserializer};
use std::borrow::Cow;
use std::fmt::{Display, Write};
use std::sync::LazyLock;

/// What most blocks take, in bytes.
const ROOM: usize = 384;
const LINE_END: &str = "\r\n";
const COLON: &str = ": ";

/// Headers that are being written.
#[derive(Debug, Default)]
pub(crate) struct Block {
    first: Option<HeaderName>,
    /// The value of the first, and the lines of the others.
    text: String,
}

impl Block {
    /// These headers.
    pub(crate) fn of(headers: &Headers) -> Self {
        let mut block = Self::default();
        for (name, value) in headers.pairs() {
            match name {
                Cow::Borrowed(name) => block.put(name, value),
                Cow::Owned(name) => block.put_foreign(name, value),
            }
        }
        block
    }

    /// Appends a header of the protocol's.
    pub(crate) fn put(&mut self, name: &'static str, value: impl Display) {
        if self.first.is_none() {
            (self.first, self.text) = (Some(HeaderName::from_static(name)), String::with_capacity(ROOM));
        } else {
            self.text.extend([LINE_END, name, COLON]);
        }
        let begin = self.text.len();
        write!(self.text, "{value}").expect("a string takes everything");
        // A value that has lines would end the header that it is of.
        if self.text.as_bytes()[begin..].iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            let clean = self.text[begin..].replace(['\r', '\n'], " ");
            self.text.replace_range(begin.., &clean);
        }
    }

    /// Appends anybody's header; none where it cannot travel.
    pub(crate) fn put_foreign(&mut self, name: &str, value: &str) {
        if !header::is_well_formed(name, value) {
            tracing::debug!(name, "A header cannot travel and is left out.");
            return;
        }
        if self.first.is_some() {
            return self.text.extend([LINE_END, name, COLON, value]);
        }
        match name.parse() {
            Ok(first) => (self.first, self.text) = (Some(first), value.to_owned()),
            Err(_) => tracing::debug!(name, "A header cannot travel and is left out."),
        }
    }

    /// The form in which the library takes them.
    pub(crate) fn into_map(self) -> HeaderMap {
        let mut map = HeaderMap::new();
        let Some(first) = self.first else { return map };
        if !*TAKES_LINES {
            one_by_one(&mut map, first, &self.text);
            return map;
        }
        match value_of(self.text) {
            Ok(value) => map.insert(first, value),
            Err(error) => tracing::error!(%error, "The client library refuses headers; the message goes without."),
        }
        map
    }
}

/// The library checks what is made of a text, not what is read; should it check that too, its way is taken.
static TAKES_LINES: LazyLock<bool> = LazyLock::new(|| value_of(format!("a{LINE_END}b{COLON}c")).is_ok());

/// A value of this very text, which is not copied.
fn value_of(text: String) -> Result<HeaderValue, Error> {
    let text: StringDeserializer<Error> = text.into_deserializer();
    HeaderValue::deserialize(text)
}

fn one_by_one(map: &mut HeaderMap, first: HeaderName, text: &str) {
    let mut lines = text.split(LINE_END);
    map.append(first, lines.next().unwrap_or_default());
    for (name, value) in lines.filter_map(|line| line.split_once(COLON)) {
        map.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the library writes them.
    fn written(map: &HeaderMap) -> Vec<String> {
        let lines = map.iter().flat_map(|(name, values)| values.iter().map(move |value| format!("{name}: {value}")));
        let mut lines: Vec<String> =
            lines.flat_map(|line| line.split(LINE_END).map(str::to_owned).collect::<Vec<_>>()).collect();
        lines.sort();
        lines
    }

    fn block() -> Block {
        let mut block = Block::default();
        block.put("ce-id", 7);
        block.put_foreign("x-mine", "a: b");
        block.put("ce-id", "again");
        block
    }

    #[test]
    fn headers_are_written_as_the_library_writes_them_one_by_one() {
        let mut map = HeaderMap::new();
        map.append("ce-id", "7");
        map.append("x-mine", "a: b");
        map.append("ce-id", "again");
        let together = block().into_map();
        assert_eq!((together.len(), written(&together)), (1, written(&map)));
        let mut apart = HeaderMap::new();
        one_by_one(&mut apart, HeaderName::from_static("ce-id"), &block().text);
        assert_eq!(apart, map);
        assert!(Block::default().into_map().is_empty());
    }

    #[test]
    fn no_value_ends_the_header_that_it_is_of() {
        let mut block = Block::default();
        block.put_foreign("x-bad", "1\r\nNats-Msg-Id: 2");
        block.put_foreign("x bad", "1");
        assert!(block.first.is_none());
        block.put("ce-id", "1\r\nNats-Msg-Id: 2");
        block.put_foreign("x-bad", "1\nNats-Msg-Id: 2");
        assert_eq!(written(&block.into_map()), ["ce-id: 1  Nats-Msg-Id: 2"]);
    }
}
