//! One connection to the broker, and what it tells of itself.

use crate::acks::Acks;
use crate::address::{self, Login};
use crate::answer::{Fault, fault_of_code};
use crate::block::Block;
use crate::error::Error;
use crate::publish::Expect;
use crate::settling::Settling;
use async_nats::client::RequestErrorKind;
use async_nats::jetstream;
use async_nats::jetstream::context::{AccountErrorKind, ContextBuilder};
use async_nats::{ConnectErrorKind, Event, HeaderMap};
use bytes::Bytes;
use futures::StreamExt;
use jetlane_schemas::Headers;
use jetlane_schemas::limits::{BODY_BYTES_MAX, HOP_OVERHEAD_BYTES};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{OnceCell, watch};

/// The most publishes of one connection that wait for their acks (beyond about 1,000 the server's
/// consumers slow down; facts: nats.rs issue 1285).
pub(crate) const PUBLISHES_IN_FLIGHT_MAX: usize = 1_000;
/// How long a publish or request waits for its answer before it is sent again.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages of one subscription that wait to be read before the newest are dropped.
const SUBSCRIPTION_MESSAGES_MAX: usize = 1 << 17;
/// Commands that wait for the connection's task.
const COMMANDS_MAX: usize = 8_192;
/// The longest pause between two attempts to reconnect.
const RECONNECT_PAUSE_MAX: Duration = Duration::from_secs(2);
/// The pause before a cluster that cannot answer yet is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How often a lasting refusal of the credentials is logged.
const DENIED_EVERY: Duration = Duration::from_secs(30);

/// What to do when no server answers at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenAbsent {
    /// An error at once: for commands.
    Fail,
    /// Wait for it: for services.
    Wait,
}

/// Where and how to connect.
#[derive(Debug, Clone)]
pub struct Connect {
    /// URLs of servers, separated by commas. Default `nats://127.0.0.1:4222`. User and password, or a token, may stand
    /// in them, percent-encoded: `nats://user:pass@host`, `nats://token@host`.
    pub url: String,
    /// The connection's name, as the server lists it.
    pub name: String,
    /// A credentials file (JWT and seed).
    pub credentials: Option<PathBuf>,
    /// A private prefix for inboxes, so that permissions can fence them. Default `_INBOX`.
    pub inbox_prefix: Option<String>,
    /// What to do when no server answers.
    pub when_absent: WhenAbsent,
}

impl Connect {
    /// A connection of this name to this address, which must answer.
    pub fn to(url: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            name: name.into(),
            credentials: None,
            inbox_prefix: None,
            when_absent: WhenAbsent::Fail,
        }
    }
}

/// What the server said of itself.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// Its version, such as `2.15.1`.
    pub version: String,
    /// Its name.
    pub name: String,
    /// The largest message that it takes, headers included, in bytes.
    pub max_payload: usize,
}

/// One connection. Clones share it, and cost no more than a count: every task has one.
#[derive(Debug, Clone)]
pub struct Bus {
    shared: Arc<Shared>,
}

/// What the clones of a [`Bus`] share. Nothing of it is for other crates.
#[derive(Debug)]
pub struct Shared {
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: jetstream::Context,
    pub(crate) acks: Acks,
    pub(crate) settling: Settling,
    /// What a completion's first send asks of its subject, once that is found out.
    pub(crate) done_expects: OnceCell<Expect>,
    /// Whether a publish of this connection was stored once.
    pub(crate) stored_once: AtomicBool,
    events: Events,
    connect: Connect,
    /// The address without its secrets.
    shown_url: String,
}

/// What the connection reports of itself.
#[derive(Debug, Clone)]
struct Events {
    /// Counts connections.
    connections: watch::Receiver<u64>,
    /// Whether the connection is up.
    connected: watch::Receiver<bool>,
    /// Counts the moments at which messages of core NATS may have been missed.
    gaps: watch::Receiver<u64>,
}

/// The other ends of [`Events`].
struct Reports {
    connections: watch::Sender<u64>,
    connected: watch::Sender<bool>,
    gaps: watch::Sender<u64>,
    /// When a refusal of the credentials was last logged.
    denied_at: Mutex<Option<Instant>>,
}

impl std::ops::Deref for Bus {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// A message of core NATS.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its subject.
    pub subject: String,
    /// Where an answer is wanted.
    pub reply: Option<String>,
    /// Its headers.
    pub headers: Headers,
    /// Its body.
    pub body: Bytes,
}

/// A subscription of core NATS; ends when it is dropped.
#[derive(Debug)]
pub struct Subscription(async_nats::Subscriber);

impl Subscription {
    /// The next message; `None` once the connection is closed for good.
    pub async fn next(&mut self) -> Option<Message> {
        let message = self.0.next().await?;
        Some(Message {
            subject: message.subject.into_string(),
            reply: message.reply.map(async_nats::Subject::into_string),
            headers: headers_from(message.headers.as_ref()),
            body: message.payload,
        })
    }
}

impl Bus {
    /// Connects, and goes on reconnecting for as long as the bus lives.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Connect`], [`Error::Denied`], [`Error::Credentials`], [`Error::TooOld`],
    /// [`Error::NoJetStream`].
    pub async fn connect(connect: &Connect) -> Result<Self, Error> {
        let servers = address::Servers::parse(&connect.url)?;
        let (reports, events) = Reports::channel(connect.when_absent == WhenAbsent::Fail);
        let mut options = async_nats::ConnectOptions::new()
            .name(&connect.name)
            .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
            .client_capacity(COMMANDS_MAX)
            .request_timeout(Some(ANSWER_TIMEOUT))
            .reconnect_delay_callback(reconnect_pause)
            .event_callback(move |event| {
                reports.note(&event);
                std::future::ready(())
            });
        options = match servers.login {
            Some(Login::Password { user, password }) => options.user_and_password(user, password),
            Some(Login::Token(token)) => options.token(token),
            None => options,
        };
        if connect.when_absent == WhenAbsent::Wait {
            options = options.retry_on_initial_connect();
        }
        if let Some(prefix) = &connect.inbox_prefix {
            options = options.custom_inbox_prefix(prefix);
        }
        if let Some(path) = &connect.credentials {
            options = options
                .credentials_file(path)
                .await
                .map_err(|source| Error::Credentials { path: path.display().to_string(), source: source.into() })?;
        }
        let client = options.connect(servers.addresses).await.map_err(|source| match source.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                Error::Denied { url: servers.shown.clone(), source: source.into() }
            }
            _ => Error::Connect { url: servers.shown.clone(), source: source.into() },
        })?;
        let jetstream = ContextBuilder::new()
            .timeout(ANSWER_TIMEOUT)
            .ack_timeout(ANSWER_TIMEOUT)
            .max_ack_inflight(PUBLISHES_IN_FLIGHT_MAX)
            .backpressure_on_inflight(true)
            .build(client.clone());
        let acks = Acks::hear(&client, events.connections.clone(), PUBLISHES_IN_FLIGHT_MAX).await;
        let acks = acks.map_err(|source| Error::Subscribe { subject: "(acks)".into(), source: source.into() })?;
        let settling = Settling::begin(client.clone());
        let (done_expects, connect) = (OnceCell::new(), connect.clone());
        let (stored_once, shown_url) = (AtomicBool::new(false), servers.shown);
        let shared =
            Shared { client, jetstream, acks, settling, done_expects, stored_once, events, connect, shown_url };
        let bus = Self { shared: Arc::new(shared) };
        if bus.connect.when_absent == WhenAbsent::Wait {
            bus.wait_connected().await;
        }
        bus.check_server().await?;
        let is_known = crate::clock::measure(&bus.shared).await;
        tokio::spawn(crate::clock::follow(Arc::downgrade(&bus.shared), bus.connections(), is_known));
        Ok(bus)
    }

    /// A connection of its own to the same server: what ends one does not end the other. The server
    /// lists it as `<name>-<role>`.
    ///
    /// # Errors
    /// As for [`Bus::connect`].
    pub async fn another(&self, role: &str) -> Result<Self, Error> {
        let name = format!("{}-{role}", self.connect.name);
        Self::connect(&Connect { name, ..self.connect.clone() }).await
    }

    /// Estimates the broker's clock now: once the streams exist, whose answers tell the time.
    pub(crate) async fn measure_clock(&self) {
        crate::clock::measure(&self.shared).await;
    }

    /// Asks the server for its time where it has not told it yet: before the streams exist it cannot. Costs nothing
    /// once it is known.
    pub async fn know_clock(&self) {
        if !crate::clock::is_known() {
            self.measure_clock().await;
        }
    }

    async fn wait_connected(&self) {
        let mut connections = self.connections();
        // The sender lives as long as the client, so waiting ends with the first connection.
        let _closed = connections.wait_for(|count| *count > 0).await;
    }

    async fn check_server(&self) -> Result<(), Error> {
        if !self.client.is_server_compatible(2, 14, 0) {
            return Err(Error::TooOld { url: self.shown_url.clone(), found: self.server().version });
        }
        loop {
            match self.jetstream.query_account().await {
                Ok(_account) => return Ok(()),
                // A cluster that is electing does not answer, or says that it cannot. A service waits for it as for a
                // server that is absent.
                Err(error) if self.connect.when_absent == WhenAbsent::Wait && is_electing(error.kind()) => {
                    tracing::warn!(url = self.shown_url, %error, "JetStream does not answer yet; asking again.");
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                }
                Err(source) => {
                    return Err(Error::NoJetStream { url: self.shown_url.clone(), source: source.into() });
                }
            }
        }
    }

    /// What the server said of itself at the last connection.
    pub fn server(&self) -> ServerFacts {
        let info = self.client.server_info();
        ServerFacts { version: info.version, name: info.server_name, max_payload: info.max_payload }
    }

    /// The address that this bus was told to connect to, without user, password or token.
    pub fn url(&self) -> &str {
        &self.shown_url
    }

    /// The largest body of a task or output, in bytes: 768 KiB, and at most the server's
    /// `max_payload` less 64 KiB for what a hop adds (design, decision 11).
    pub fn body_bytes_max(&self) -> usize {
        BODY_BYTES_MAX.min(self.client.max_payload().saturating_sub(HOP_OVERHEAD_BYTES))
    }

    /// Counts connections: it changes with every reconnect, after which nothing that was asked of
    /// the old one may be relied on.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.events.connections.clone()
    }

    /// Tells whether the connection is up, now and at every change.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.events.connected.clone()
    }

    /// Counts gaps: it changes whenever messages of core NATS may have been missed, at a reconnect and when a
    /// subscription of this connection was too slow. Pulls and publishes follow [`Bus::connections`] instead: a slow
    /// subscription takes nothing from them.
    pub fn gaps(&self) -> watch::Receiver<u64> {
        self.events.gaps.clone()
    }

    /// Sends by core NATS: to whoever listens now, never stored.
    ///
    /// # Errors
    /// [`Error::Send`] when the connection is closed or the message too large.
    pub async fn send(&self, subject: String, headers: Headers, body: Bytes) -> Result<(), Error> {
        let sent = if headers.is_empty() {
            self.client.publish(subject.clone(), body).await
        } else {
            self.client.publish_with_headers(subject.clone(), Block::of(&headers).into_map(), body).await
        };
        sent.map_err(|source| Error::Send { subject, source: source.into() })
    }

    /// Asks whoever listens to a subject of core NATS, and waits for the first answer; `None` where
    /// nobody listens or nobody answers within this time.
    ///
    /// # Errors
    /// [`Error::Send`] when the connection is closed or the question too large.
    pub async fn ask(&self, subject: &str, question: Bytes, within: Duration) -> Result<Option<Bytes>, Error> {
        let request = async_nats::Request::new().payload(question).timeout(Some(within));
        match self.client.send_request(subject.to_owned(), request).await {
            Ok(answer) => Ok(Some(answer.payload)),
            Err(error) => match error.kind() {
                RequestErrorKind::TimedOut | RequestErrorKind::NoResponders => Ok(None),
                RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::Other => {
                    Err(Error::Send { subject: subject.to_owned(), source: error.into() })
                }
            },
        }
    }

    /// Waits until all that was sent is with the server.
    ///
    /// # Errors
    /// [`Error::Send`] when the connection is closed.
    pub async fn flush(&self) -> Result<(), Error> {
        let failed = |source| Error::Send { subject: "(flush)".into(), source };
        self.settling.send(&self.client).await.map_err(|e| failed(e.into()))?;
        self.client.flush().await.map_err(|e| failed(e.into()))
    }

    /// Listens to a subject of core NATS. Whatever this connection sends from then on comes after the subscription;
    /// what others send may reach the server before it.
    ///
    /// # Errors
    /// [`Error::Subscribe`] when the subject is invalid or the connection closed.
    pub async fn subscribe(&self, subject: &str) -> Result<Subscription, Error> {
        let failed = |source| Error::Subscribe { subject: subject.to_owned(), source };
        let subscriber = self.client.subscribe(subject.to_owned()).await.map_err(|e| failed(e.into()))?;
        self.client.flush().await.map_err(|e| failed(e.into()))?;
        Ok(Subscription(subscriber))
    }
}

impl Reports {
    fn channel(connected: bool) -> (Self, Events) {
        let (connections, seen) = watch::channel(0);
        let (connected, is_connected) = watch::channel(connected);
        let (gaps, missed) = watch::channel(0);
        let reports = Self { connections, connected, gaps, denied_at: Mutex::default() };
        (reports, Events { connections: seen, connected: is_connected, gaps: missed })
    }

    fn note(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.connections.send_modify(|count| *count += 1);
                self.gaps.send_modify(|count| *count += 1);
                self.connected.send_replace(true);
                if *self.connections.borrow() > 1 {
                    tracing::info!("Connected to NATS again.");
                }
            }
            Event::Disconnected => {
                self.connected.send_replace(false);
                tracing::warn!("The connection to NATS is lost; reconnecting.");
            }
            Event::SlowConsumer(_) => {
                tracing::warn!("A subscription was too slow and lost messages; what waited for them reads again.");
                self.gaps.send_modify(|count| *count += 1);
            }
            Event::ServerError(error) => self.note_refusal(&error.to_string()),
            Event::ClientError(error) => {
                let words = error.to_string();
                if is_denied(&words) {
                    self.note_refusal(&words);
                } else {
                    // A failed attempt to reconnect, most often; the loss itself is logged once.
                    tracing::debug!(reason = words, "The NATS client met an error.");
                }
            }
            Event::LameDuckMode | Event::Draining | Event::Closed => tracing::debug!(%event, "NATS connection event."),
        }
    }

    /// Logs what the server or the client library refused: wrong credentials as an error, since nothing but a person
    /// mends them.
    fn note_refusal(&self, words: &str) {
        if !is_denied(words) {
            return tracing::warn!(reason = words, "NATS refused a request.");
        }
        let mut denied_at = self.denied_at.lock().expect("nobody panics while holding the time of a refusal");
        if denied_at.is_none_or(|at| at.elapsed() >= DENIED_EVERY) {
            *denied_at = Some(Instant::now());
            tracing::error!(
                reason = words,
                "NATS refused the credentials; trying again. Check user, password, token or credentials file."
            );
        }
    }
}

fn is_denied(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["authorization violation", "authentication", "signing nonce"].iter().any(|denied| words.contains(denied))
}

fn reconnect_pause(attempts: usize) -> Duration {
    let exponent = u32::try_from(attempts.min(8)).unwrap_or(8);
    Duration::from_millis(10 * 2_u64.pow(exponent)).min(RECONNECT_PAUSE_MAX)
}

pub(crate) fn headers_from(map: Option<&HeaderMap>) -> Headers {
    let Some(map) = map else { return Headers::new() };
    map.iter()
        .flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name.to_owned(), value.as_str().to_owned()))
        })
        .collect()
}

/// Whether JetStream is there and cannot answer now.
fn is_electing(answer: AccountErrorKind) -> bool {
    match answer {
        AccountErrorKind::TimedOut => true,
        AccountErrorKind::JetStream(refused) => fault_of_code(refused.error_code().0) == Fault::Transient,
        AccountErrorKind::JetStreamUnavailable | AccountErrorKind::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::stage::place;
    use crate::local::{self, Options, Server};

    #[test]
    fn cluster_that_is_electing_is_waited_for_and_a_server_without_jetstream_is_not() {
        let refused = |err_code: u64| {
            let code = serde_json::json!({ "code": 503, "err_code": err_code, "description": "" });
            AccountErrorKind::JetStream(serde_json::from_value(code).expect("as the server writes it"))
        };
        assert!(is_electing(AccountErrorKind::TimedOut) && is_electing(refused(10_008)));
        // JetStream is not enabled for the account.
        assert!(!is_electing(refused(10_039)) && !is_electing(AccountErrorKind::JetStreamUnavailable));
    }

    #[tokio::test]
    async fn slow_subscription_is_a_gap_and_no_reconnect() {
        let (server, bus) = place().await;
        let _unread = bus.subscribe("flood").await.expect("subscribed");
        let (mut gaps, connections) = (bus.gaps(), bus.connections());
        gaps.mark_unchanged();
        let before = *connections.borrow();
        let other = async_nats::connect(server.url()).await.expect("connected");
        for _ in 0..=SUBSCRIPTION_MESSAGES_MAX {
            other.publish("flood", Bytes::new()).await.expect("sent");
        }
        other.flush().await.expect("flushed");
        gaps.changed().await.expect("the client lives");
        assert_eq!(*connections.borrow(), before, "pulls and publishes of the connection go on");
    }

    async fn guarded() -> Server {
        let binary = local::find(|line| eprintln!("{line}")).await.expect("a server");
        let config = "authorization { users: [{ user: \"jl\", password: \"p@ss#1\" }] }".to_owned();
        Server::start(&binary, Options { config, ..Options::default() }).await.expect("it starts")
    }

    #[tokio::test]
    async fn login_in_the_address_connects_and_a_wrong_one_is_refused_at_once() {
        let server = guarded().await;
        let at = |login: &str| Connect::to(format!("nats://{login}@127.0.0.1:{}", server.port()), "test");
        Bus::connect(&at("jl:p%40ss%231")).await.expect("connected");
        let error = Bus::connect(&at("jl:wrong")).await.expect_err("refused");
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("wrong"), "{error:?}");
    }

    #[tokio::test]
    async fn list_of_servers_connects_to_the_one_that_answers() {
        let (server, _bus) = place().await;
        let list = format!("nats://127.0.0.1:1,{}", server.url());
        Bus::connect(&Connect::to(list, "test")).await.expect("connected");
    }
}
