//! Messages that no reader can take: their header block is none. The client library gives up the whole
//! connection over one, again with every delivery, so they are found by the server's JSON interface.

use crate::clock;
use crate::connection::{ANSWER_TIMEOUT, Bus};
use crate::error::{Error, Source};
use crate::look::Start;
use async_nats::jetstream::consumer::Info;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt;
use jetlane_schemas::{Flow, Headers, Micros};
use serde::{Deserialize, Serialize};

/// What the header block of every message begins with.
const VERSION: &str = "NATS/1.0";
/// The server's code for a message that is not there.
const NO_MESSAGE: u64 = 10_037;

/// A message whose headers cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// When it was stored.
    pub stored_at: Micros,
    /// Its body.
    pub body: Vec<u8>,
}

#[derive(Serialize)]
struct Get<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    next_by_subj: &'a str,
}

#[derive(Deserialize)]
struct Got {
    message: Option<Raw>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// A message as the server's JSON interface gives it.
#[derive(Deserialize)]
pub(crate) struct Raw {
    pub(crate) subject: String,
    pub(crate) seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    #[serde(default)]
    pub(crate) time: String,
}

impl Raw {
    pub(crate) fn header_block(&self) -> Vec<u8> {
        STANDARD.decode(&self.hdrs).unwrap_or_default()
    }

    pub(crate) fn body(&self) -> Vec<u8> {
        STANDARD.decode(&self.data).unwrap_or_default()
    }
}

impl Bus {
    /// What the consumers of some flows were given, did not answer, and can never read.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn unreadable(&self, stream: &str, mine: impl Fn(&Flow) -> bool) -> Result<Vec<Unreadable>, Error> {
        let failed = |source| Error::Read { stream: stream.to_owned(), what: "its consumers".into(), source };
        let handle = self.jetstream.get_stream_no_info(stream).await.map_err(|e| failed(e.into()))?;
        let infos: Vec<Info> = handle.consumers().try_collect().await.map_err(|e| failed(e.into()))?;
        let mut found = Vec::new();
        for info in infos.iter().filter(|info| info.num_ack_pending > 0) {
            if Flow::parse(&info.config.filter_subject).is_some_and(|flow| mine(&flow)) {
                self.look_through(stream, info, &mut found).await?;
            }
        }
        Ok(found)
    }

    /// Looks at all that a consumer was given since the last message before which everything is answered.
    async fn look_through(&self, stream: &str, info: &Info, found: &mut Vec<Unreadable>) -> Result<(), Error> {
        let filter = &info.config.filter_subject;
        let mut sequence = info.ack_floor.stream_sequence + 1;
        while sequence <= info.delivered.stream_sequence {
            let Some(stored) = self.get_raw(stream, Start::Sequence(sequence), filter).await? else { return Ok(()) };
            if stored.seq > info.delivered.stream_sequence {
                return Ok(());
            }
            sequence = stored.seq + 1;
            if !is_readable(&stored.header_block()) {
                found.push(Unreadable {
                    sequence: stored.seq,
                    stored_at: clock::parse_rfc3339(&stored.time).unwrap_or_else(clock::now),
                    body: stored.body(),
                    subject: stored.subject,
                });
            }
        }
        Ok(())
    }

    /// The next message of a subject, by the JSON interface: its headers may be anything.
    pub(crate) async fn get_raw(&self, stream: &str, start: Start, subject: &str) -> Result<Option<Raw>, Error> {
        let failed = |source: Source| Error::Read { stream: stream.to_owned(), what: subject.to_owned(), source };
        let (seq, start_time) = match start {
            Start::Sequence(sequence) => (Some(sequence.max(1)), None),
            Start::Time(at) => (None, Some(clock::rfc3339(at))),
        };
        let body = serde_json::to_vec(&Get { seq, start_time, next_by_subj: subject }).map_err(|e| failed(e.into()))?;
        let request = async_nats::Request::new().payload(body.into()).timeout(Some(ANSWER_TIMEOUT));
        let answer = self.client.send_request(format!("$JS.API.STREAM.MSG.GET.{stream}"), request).await;
        let answer = answer.map_err(|e| failed(e.into()))?;
        let got: Got = serde_json::from_slice(&answer.payload).map_err(|e| failed(e.into()))?;
        match got.error {
            Some(refusal) if refusal.err_code == NO_MESSAGE => Ok(None),
            Some(refusal) => Err(failed(refusal.description.into())),
            None => Ok(got.message),
        }
    }
}

/// The headers of a block; none where the client library could not read it.
pub(crate) fn headers(block: &[u8]) -> Headers {
    if !is_readable(block) {
        return Headers::new();
    }
    let text = String::from_utf8_lossy(block);
    let lines = text.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// Whether the client library can read a header block. None at all is readable, too.
fn is_readable(block: &[u8]) -> bool {
    if block.is_empty() {
        return true;
    }
    let Ok(text) = std::str::from_utf8(block) else { return false };
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let Some(status) = lines.next().and_then(|line| line.strip_prefix(VERSION)).map(str::trim) else { return false };
    let status = status.split_once(' ').map_or(status, |(number, _)| number.trim());
    let is_status = |text: &str| text.len() == 3 && text.starts_with(|c| ('1'..='9').contains(&c));
    if !(status.is_empty() || is_status(status) && status.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    lines.filter(|line| !line.is_empty()).all(is_readable_line)
}

fn is_readable_line(line: &str) -> bool {
    let is_name = |name: &str| name.bytes().all(|b| b.is_ascii_graphic());
    !line.contains('\r') && line.split_once(':').is_some_and(|(name, _)| is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_library_writes_is_readable() {
        for block in [
            &b""[..],
            b"NATS/1.0\r\n\r\n",
            b"NATS/1.0\r\nx: y\r\nce-id:\r\n\r\n",
            b"NATS/1.0 503\r\n\r\n",
            b"NATS/1.0 409 Consumer Deleted\r\nx: a:b\r\n\r\n",
            "NATS/1.0\r\nx: \u{e9}\r\n\r\n".as_bytes(),
        ] {
            assert!(is_readable(block), "{:?}", String::from_utf8_lossy(block));
        }
    }

    #[test]
    fn what_would_cost_the_connection_is_not() {
        for block in [
            &b"HTTP/1.1\r\n\r\n"[..],
            b"NATS/1.0 12 hello\r\n\r\n",
            b"NATS/1.0 abc\r\n\r\n",
            b"NATS/1.0\r\nnonsense\r\n\r\n",
            b"NATS/1.0\r\nx bad: 1\r\n\r\n",
            "NATS/1.0\r\n\u{e9}: 1\r\n\r\n".as_bytes(),
            b"NATS/1.0\r\nx: a\rb\r\n\r\n",
            b"NATS/1.0\r\nx: \xff\r\n\r\n",
        ] {
            assert!(!is_readable(block), "{:?}", String::from_utf8_lossy(block));
        }
    }
}
