//! Pulls by free room: what was asked for and has not come is counted, so that a caller never holds
//! more than it has room for. Every pull has an expiry and a heartbeat; a reconnect forgets all that was asked.

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

/// How long a pull waits in the server. A pull that was lost is given up at the latest after this and
/// [`EXPIRY_GRACE`], whatever is pulled meanwhile.
const PULL_EXPIRES: Duration = Duration::from_secs(25);
/// How long after its expiry a pull that the server never ended is given up.
const EXPIRY_GRACE: Duration = Duration::from_secs(5);
/// How often the server gives a sign of a pull that waits and brings nothing. At most half of [`PULL_EXPIRES`].
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// The longest silence while pulls wait, after which all of them count as lost: two heartbeats and some delay.
const SILENCE_MAX: Duration = Duration::from_secs(12);
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
    /// Pulls that wait, the oldest first. Each has something left.
    pulls: VecDeque<Pull>,
    pulls_made: u64,
    /// The last pull that is forgotten: what the server still says of it and those before it counts no more.
    forgotten: u64,
    /// The sum of what the pulls have left.
    outstanding: usize,
    /// When the server was last heard.
    heard: Instant,
}

#[derive(Debug)]
struct Pull {
    number: u64,
    asked: usize,
    /// Of what was asked, how much has not come. A delivery does not name its pull, and counts for the oldest.
    left: usize,
    made: Instant,
}

#[derive(Serialize)]
struct NextRequest {
    batch: usize,
    expires: u64,
    idle_heartbeat: u64,
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
            forgotten: 0,
            outstanding: 0,
            heard: Instant::now(),
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
            expires: nanoseconds(PULL_EXPIRES),
            idle_heartbeat: nanoseconds(HEARTBEAT_EVERY),
            max_bytes: bytes_max.map(|bytes| bytes.max(floor)),
        };
        let body = serde_json::to_vec(&request).expect("numbers are JSON");
        self.pulls_made += 1;
        let reply = format!("{}.{}", self.inbox, self.pulls_made);
        self.bus
            .client
            .publish_with_reply(self.next_subject.clone(), reply, body.into())
            .await
            .map_err(|source| Error::Send { subject: self.next_subject.clone(), source: source.into() })?;
        let made = Instant::now();
        if self.pulls.is_empty() {
            self.heard = made;
        }
        self.pulls.push_back(Pull { number: self.pulls_made, asked: count, left: count, made });
        self.outstanding += count;
        Ok(())
    }

    /// Waits for what the pulls bring. Cancel safe: nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Pulled {
        loop {
            let give_up = self.give_up_at();
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
                    self.give_up();
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
        self.forgotten = self.pulls_made;
        self.outstanding = 0;
    }

    /// When the oldest pull, or all of them, count as lost.
    fn give_up_at(&self) -> Option<Instant> {
        let expired = |pull: &Pull| pull.made + PULL_EXPIRES + EXPIRY_GRACE;
        self.pulls.front().map(|oldest| expired(oldest).min(self.heard + SILENCE_MAX))
    }

    fn give_up(&mut self) {
        if self.heard.elapsed() >= SILENCE_MAX {
            self.forget();
        } else if let Some(oldest) = self.pulls.pop_front() {
            self.outstanding -= oldest.left;
        }
    }

    /// Counts what has come, or will not come, for the oldest pulls. The server serves them in turns; which of them
    /// brought a message matters only for their sum.
    fn count_off(&mut self, mut count: usize) {
        while count > 0
            && let Some(oldest) = self.pulls.front_mut()
        {
            let taken = count.min(oldest.left);
            oldest.left -= taken;
            count -= taken;
            self.outstanding -= taken;
            if oldest.left == 0 {
                self.pulls.pop_front();
            }
        }
    }

    fn take(&mut self, message: async_nats::Message) -> Option<Pulled> {
        self.heard = Instant::now();
        // Only the server's own words have no reply: anyone may publish a message that begins with a status.
        let Some(reply) = message.reply.clone() else {
            return message.status.and_then(|status| self.take_status(status, &message));
        };
        self.count_off(1);
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
        let number = message.subject.rsplit('.').next().and_then(|token| token.parse::<u64>().ok());
        if status.as_u16() == HEARTBEAT || number.is_some_and(|number| number <= self.forgotten) {
            return None;
        }
        if status.as_u16() == 409 && words.to_ascii_lowercase().contains("consumer deleted") {
            self.forget();
            return Some(Pulled::Gone);
        }
        self.end_pull(number, message);
        Some(match status.as_u16() {
            404 | 408 => Pulled::Room,
            // A pull with a bound on bytes ends so when that is reached: no refusal.
            409 if is_spent(&words) => Pulled::Room,
            503 => Pulled::Gone,
            _ => Pulled::Refused(words),
        })
    }

    /// Ends one pull: the server tells how many of its messages will not come. What it has left beside them was
    /// counted for another, or is on its way: on three servers the end of a pull may overtake its last messages.
    fn end_pull(&mut self, number: Option<u64>, message: &async_nats::Message) {
        let told = message.headers.as_ref().and_then(|headers| headers.get(status::PENDING_MESSAGES));
        let told = told.and_then(|value| value.as_str().parse::<usize>().ok());
        let place = self.pulls.iter().position(|pull| Some(pull.number) == number);
        let pull = place.and_then(|place| self.pulls.get_mut(place));
        let missing = told.or(pull.as_ref().map(|pull| pull.asked)).unwrap_or(0);
        let of_it = pull.map_or(0, |pull| {
            let of_it = missing.min(pull.left);
            pull.left -= of_it;
            of_it
        });
        self.outstanding -= of_it;
        self.pulls.retain(|pull| pull.left > 0);
        self.count_off(missing - of_it);
    }
}

/// The status of an idle heartbeat.
const HEARTBEAT: u16 = 100;

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("seconds fit into 64 bits of nanoseconds")
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
    use crate::flows::{Durable, From};
    use crate::local::stage::place;
    use crate::publish::{Expect, Outgoing};
    use jetlane_schemas::subject::STREAM_DEAD;

    const CONSUMER: &str = "reader";

    /// A durable consumer of DEAD.
    async fn reader(bus: &Bus) -> Puller {
        let durable = Durable {
            name: CONSUMER.into(),
            filters: Vec::new(),
            from: From::Beginning,
            ack_wait: Duration::from_secs(60),
            held_max: 10_000,
            forgotten_after: None,
        };
        bus.ensure_durable(STREAM_DEAD, &durable).await.expect("made");
        bus.puller(STREAM_DEAD, CONSUMER).await.expect("a puller")
    }

    async fn store(bus: &Bus, count: usize) {
        let one = |number| Outgoing {
            subject: format!("jetlane.dead.default.test.t{number}"),
            headers: Headers::new(),
            body: Bytes::from_static(b"{}"),
            message_id: None,
            expect: Expect::Anything,
        };
        for stored in bus.publish_all((0..count).map(one).collect()).await {
            stored.expect("stored");
        }
    }

    async fn deliveries(puller: &mut Puller, mut count: usize) {
        while count > 0 {
            if let Pulled::Delivery(_) = puller.next().await {
                count -= 1;
            }
        }
    }

    /// Lets virtual time pass at once.
    async fn pass(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    /// A pull that no consumer hears: it is lost without a word.
    async fn ask_in_vain(bus: &Bus, puller: &mut Puller, count: usize) {
        let lost = "lost.pull";
        let heard = bus.client.subscribe(lost).await.expect("subscribed");
        let subject = std::mem::replace(&mut puller.next_subject, lost.into());
        puller.ask(count, None).await.expect("asked");
        puller.next_subject = subject;
        bus.client.flush().await.expect("flushed");
        drop(heard);
    }

    #[tokio::test]
    async fn fulfilled_pulls_leave_while_others_wait() {
        const MESSAGES: usize = 2_000;
        let (_server, bus) = place().await;
        store(&bus, MESSAGES).await;
        let mut puller = reader(&bus).await;
        let room = 64;
        for _ in 0..MESSAGES - room {
            let missing = room - puller.outstanding();
            if missing >= room / 2 {
                puller.ask(missing, None).await.expect("asked");
            }
            deliveries(&mut puller, 1).await;
            assert!(puller.pulls.len() <= 4, "{} pulls are remembered", puller.pulls.len());
        }
    }

    #[tokio::test]
    async fn lost_pull_is_given_up_while_newer_ones_are_made() {
        let (_server, bus) = place().await;
        let mut puller = reader(&bus).await;
        ask_in_vain(&bus, &mut puller, 10).await;
        // The other pull brings something now and then: the server is not silent.
        for _ in 0..2 {
            pass(Duration::from_secs(10)).await;
            if puller.pulls.len() == 1 {
                puller.ask(7, None).await.expect("asked");
            }
            store(&bus, 1).await;
            deliveries(&mut puller, 1).await;
        }
        assert_eq!(puller.outstanding(), 10 + 7 - 2);
        pass(Duration::from_secs(10)).await;
        let given_up = tokio::time::timeout(Duration::from_secs(2), puller.next()).await;
        assert!(matches!(given_up, Ok(Pulled::Room)), "{given_up:?}");
        assert_eq!(puller.outstanding(), 7, "what the lost one has left is forgotten, the other waits");
        store(&bus, 1).await;
        deliveries(&mut puller, 1).await;
    }

    #[tokio::test]
    async fn silence_of_the_server_ends_all_pulls() {
        let (_server, bus) = place().await;
        let mut puller = reader(&bus).await;
        ask_in_vain(&bus, &mut puller, 10).await;
        let asked = Instant::now();
        pass(Duration::from_secs(13)).await;
        let room = tokio::time::timeout(Duration::from_secs(2), puller.next()).await;
        assert!(matches!(room, Ok(Pulled::Room)), "{room:?} after {:?}", asked.elapsed());
        assert_eq!(puller.outstanding(), 0);
    }

    #[tokio::test]
    async fn idle_pull_is_kept_by_its_heartbeats_and_gets_the_next_message() {
        let (_server, bus) = place().await;
        let mut puller = reader(&bus).await;
        puller.ask(5, None).await.expect("asked");
        let idle = tokio::time::timeout(Duration::from_secs(14), puller.next()).await;
        assert!(idle.is_err(), "{idle:?}");
        assert_eq!(puller.outstanding(), 5);
        store(&bus, 1).await;
        deliveries(&mut puller, 1).await;
        assert_eq!(puller.outstanding(), 4);
    }

    /// Reads until the consumer is gone: then no pull waits.
    async fn gone(puller: &mut Puller) {
        loop {
            match puller.next().await {
                Pulled::Gone => break,
                // A pull that came while the consumer was being deleted is lost.
                Pulled::Room | Pulled::Refused(_) if puller.outstanding() == 0 => {
                    puller.ask(5, None).await.expect("asked");
                }
                Pulled::Room | Pulled::Refused(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((puller.outstanding(), puller.pulls.len()), (0, 0));
    }

    #[tokio::test]
    async fn refused_and_deleted_pulls_leave_nothing_outstanding() {
        let (_server, bus) = place().await;
        let mut puller = reader(&bus).await;
        puller.ask(5, None).await.expect("asked");
        puller.ask(5, Some(1 << 20)).await.expect("asked");
        bus.delete_durable(STREAM_DEAD, CONSUMER).await.expect("deleted");
        gone(&mut puller).await;
        puller.ask(5, None).await.expect("asked");
        gone(&mut puller).await;
    }

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
