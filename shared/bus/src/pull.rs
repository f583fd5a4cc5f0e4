//! Pulls by free room: what was asked for and has not come is counted, so that a caller never holds
//! more than it has room for. Every pull has an expiry; a reconnect forgets all that was asked.

use crate::ack::Ack;
use crate::connection::{ANSWER_TIMEOUT, Bus, headers_from};
use crate::error::Error;
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use jetlane_schemas::header::status;
use jetlane_schemas::{Headers, Micros};
use serde::Serialize;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a pull waits in the server. The client's own count of what is missing heals at the latest
/// after this and [`EXPIRY_GRACE`].
const PULL_EXPIRES: Duration = Duration::from_secs(25);
/// How long after its expiry a pull that the server never ended is given up.
const EXPIRY_GRACE: Duration = Duration::from_secs(5);
/// The pause before asking again after the server refused a pull.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(200);

/// What a pull brought.
#[derive(Debug)]
pub enum Pulled {
    /// A message.
    Delivery(Delivery),
    /// A pull has ended, or the connection is new: there is room to ask for again.
    Room,
    /// The server refused or dropped a pull; ask again after [`REFUSED_PAUSE`]. Holds its words.
    Refused(String),
    /// The consumer is gone: nothing will come, make it again.
    Gone,
    /// The connection is closed for good.
    Closed,
}

/// Pulls of one consumer.
#[derive(Debug)]
pub struct Puller {
    bus: Bus,
    next_subject: String,
    inbox: String,
    messages: async_nats::Subscriber,
    connections: watch::Receiver<u64>,
    pulls: VecDeque<Pull>,
    pulls_made: u64,
    outstanding: usize,
}

#[derive(Debug)]
struct Pull {
    number: u64,
    asked: usize,
    made: Instant,
}

#[derive(Serialize)]
struct NextRequest {
    batch: usize,
    expires: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<usize>,
}

impl Bus {
    /// Prepares pulls of a consumer. Nothing is asked for yet.
    ///
    /// # Errors
    /// [`Error::Subscribe`].
    pub async fn puller(&self, stream: &str, consumer: &str) -> Result<Puller, Error> {
        let inbox = self.client.new_inbox();
        let subject = format!("{inbox}.*");
        let messages = self
            .client
            .subscribe(subject.clone())
            .await
            .map_err(|source| Error::Subscribe { subject, source: source.into() })?;
        let mut connections = self.connections();
        // Only a connection after this one forgets what was asked: otherwise it is asked for twice.
        connections.mark_unchanged();
        Ok(Puller {
            bus: self.clone(),
            next_subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            inbox,
            messages,
            connections,
            pulls: VecDeque::new(),
            pulls_made: 0,
            outstanding: 0,
        })
    }
}

impl Puller {
    /// How many messages have been asked for and have not come.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Asks for up to `count` more messages, of `bytes_max` bytes together where that is given (never
    /// under the server's largest message: such a pull would stand still).
    ///
    /// # Errors
    /// [`Error::Send`] when the connection is closed.
    pub async fn ask(&mut self, count: usize, bytes_max: Option<usize>) -> Result<(), Error> {
        if count == 0 {
            return Ok(());
        }
        let floor = self.bus.client.max_payload() + 4_096;
        let request = NextRequest {
            batch: count,
            expires: u64::try_from(PULL_EXPIRES.as_nanos()).expect("25 s fit into 64 bits of nanoseconds"),
            max_bytes: bytes_max.map(|bytes| bytes.max(floor)),
        };
        let body = serde_json::to_vec(&request).expect("three numbers are JSON");
        self.pulls_made += 1;
        let reply = format!("{}.{}", self.inbox, self.pulls_made);
        self.bus
            .client
            .publish_with_reply(self.next_subject.clone(), reply, body.into())
            .await
            .map_err(|source| Error::Send { subject: self.next_subject.clone(), source: source.into() })?;
        self.pulls.push_back(Pull { number: self.pulls_made, asked: count, made: Instant::now() });
        self.outstanding += count;
        Ok(())
    }

    /// Waits for what the pulls bring. Cancel safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Pulled {
        loop {
            let give_up = self.pulls.back().map(|pull| pull.made + PULL_EXPIRES + EXPIRY_GRACE);
            tokio::select! {
                biased;
                message = self.messages.next() => match message {
                    None => return Pulled::Closed,
                    Some(message) => {
                        if let Some(pulled) = self.take(message) {
                            return pulled;
                        }
                    }
                },
                changed = self.connections.changed() => {
                    if changed.is_err() {
                        return Pulled::Closed;
                    }
                    self.forget();
                    return Pulled::Room;
                }
                () = wait_until(give_up) => {
                    self.forget();
                    return Pulled::Room;
                }
            }
        }
    }

    /// Whatever has come already, without waiting.
    pub fn try_next(&mut self) -> Option<Pulled> {
        use futures::FutureExt as _;
        loop {
            let message = self.messages.next().now_or_never()?;
            match message {
                None => return Some(Pulled::Closed),
                Some(message) => {
                    if let Some(pulled) = self.take(message) {
                        return Some(pulled);
                    }
                }
            }
        }
    }

    /// Ends all pulls, and returns what they had brought that was not read. Once this returns, the
    /// server gives them nothing more: a message that went to a pull which nobody reads would come
    /// again only after its ack time.
    pub async fn end(mut self) -> Vec<Delivery> {
        let mut unread = Vec::new();
        if self.messages.drain().await.is_err() {
            return unread;
        }
        while let Ok(Some(message)) = tokio::time::timeout(ANSWER_TIMEOUT, self.messages.next()).await {
            if let Some(Pulled::Delivery(delivery)) = self.take(message) {
                unread.push(delivery);
            }
        }
        unread
    }

    fn forget(&mut self) {
        self.pulls.clear();
        self.outstanding = 0;
    }

    fn take(&mut self, message: async_nats::Message) -> Option<Pulled> {
        // Only the server's own words have no reply: anyone may publish a message that begins with a status.
        let Some(reply) = message.reply.clone() else {
            return message.status.and_then(|status| self.take_status(status, &message));
        };
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 {
            self.pulls.clear();
        }
        Some(Pulled::Delivery(Delivery {
            subject: message.subject.into_string(),
            headers: message.headers,
            body: message.payload,
            facts: DeliveryFacts::parse(&reply)?,
            ack: Ack { bus: self.bus.clone(), reply },
        }))
    }

    fn take_status(&mut self, status: StatusCode, message: &async_nats::Message) -> Option<Pulled> {
        let words = message.description.clone().unwrap_or_default();
        match status.as_u16() {
            100 => None,
            404 | 408 => {
                self.end_pull(message);
                Some(Pulled::Room)
            }
            // A pull with a bound on bytes ends so when that is reached: no refusal.
            409 if is_spent(&words) => {
                self.end_pull(message);
                Some(Pulled::Room)
            }
            503 => {
                self.end_pull(message);
                Some(Pulled::Gone)
            }
            409 if words.to_ascii_lowercase().contains("consumer deleted") => {
                self.forget();
                Some(Pulled::Gone)
            }
            _ => {
                self.end_pull(message);
                Some(Pulled::Refused(words))
            }
        }
    }

    /// A status ends one pull: the server tells how many of its messages will not come.
    fn end_pull(&mut self, message: &async_nats::Message) {
        let number = message.subject.rsplit('.').next().and_then(|token| token.parse::<u64>().ok());
        let place = self.pulls.iter().position(|pull| Some(pull.number) == number);
        let Some(pull) = place.and_then(|place| self.pulls.remove(place)) else { return };
        let missing = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(status::PENDING_MESSAGES))
            .and_then(|value| value.as_str().parse().ok())
            .unwrap_or(pull.asked);
        self.outstanding = self.outstanding.saturating_sub(missing);
        if self.pulls.is_empty() {
            self.outstanding = 0;
        }
    }
}

fn is_spent(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    words.contains("batch completed") || words.contains("maxbytes")
}

async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// One delivery of a stored message.
#[derive(Debug)]
pub struct Delivery {
    /// The subject that it was stored under.
    pub subject: String,
    /// Its body.
    pub body: Bytes,
    /// What the server says of the delivery.
    pub facts: DeliveryFacts,
    /// How it is answered.
    pub ack: Ack,
    headers: Option<HeaderMap>,
}

impl Delivery {
    /// Whether it has a header of this name, in any case.
    pub fn has_header(&self, name: &str) -> bool {
        let named = |key: &async_nats::HeaderName| AsRef::<str>::as_ref(key).eq_ignore_ascii_case(name);
        self.headers.as_ref().is_some_and(|headers| headers.iter().any(|(key, _)| named(key)))
    }

    /// Its headers, read when they are asked for.
    pub fn headers(&self) -> Headers {
        headers_from(self.headers.as_ref())
    }
}

/// What the server says of a delivery, in its reply subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryFacts {
    /// How often the message has been delivered, this time included.
    pub delivered: u64,
    /// Its sequence in the stream.
    pub stream_sequence: u64,
    /// When it was stored.
    pub stored_at: Micros,
}

impl DeliveryFacts {
    /// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.<consumer sequence>.<time>.<pending>`,
    /// and its second version with domain and account before the stream (ADR-15).
    pub(crate) fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.split('.').collect();
        let first = match tokens.len() {
            9 => 4,
            n if n >= 11 => 6,
            _ => return None,
        };
        let number = |place: usize| tokens.get(place).and_then(|token| token.parse::<u64>().ok());
        Some(Self {
            delivered: number(first)?,
            stream_sequence: number(first + 1)?,
            stored_at: Micros(number(first + 3)? / 1_000),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_an_ack_subject_are_read() {
        let facts = DeliveryFacts { delivered: 2, stream_sequence: 31, stored_at: Micros(1_700_000_000_000_000) };
        let v1 = "$JS.ACK.S.C.2.31.7.1700000000000000000.4";
        let v2 = "$JS.ACK._.HASH.S.C.2.31.7.1700000000000000000.4.token";
        assert_eq!(DeliveryFacts::parse(v1), Some(facts));
        assert_eq!(DeliveryFacts::parse(v2), Some(facts));
        assert_eq!(DeliveryFacts::parse("_INBOX.a.b"), None);
    }
}
