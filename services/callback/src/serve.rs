//! The service's readers: callbacks that are due, for the first time or once more; and, of types that clients
//! without an SDK serve, the completions themselves, since those clients store nothing but that.

use crate::deliver::{Counts, Post};
use crate::endpoint::{ENDPOINTS_MAX, Endpoints};
use crate::parcel::{self, Parcel};
use crate::places::PLACES_MAX;
use crate::readiness::Readiness;
use futures::future::join_all;
use jetlane::Client;
use jetlane_bus::flows::{Durable, From};
use jetlane_bus::kv::{Watch, Watched};
use jetlane_bus::pull::REFUSED_PAUSE;
use jetlane_bus::{Ack, Bus, Delivery, Pulled, Puller};
use jetlane_schemas::subject::{
    self, BUCKET_REGISTRY, CALLBACK_ALL, REGISTRY_PLAIN_ALL, STREAM_DONE, STREAM_TIME, parse_registry_plain,
};
use jetlane_schemas::{Completion, TaskType, header};
use jetlane_service::egress;
use jetlane_service::frame::one_line;
use jetlane_service::health::{BEAT_EVERY, Condition, Health, Heartbeat};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// The durable consumer of callbacks that are due.
const CONSUMER: &str = "callback";
/// Messages of one consumer in hand: those with a place, and a quarter as many that are being stored away.
const HELD_MAX: usize = (PLACES_MAX + ENDPOINTS_MAX) * 5 / 4;
/// Bytes of their bodies beyond which no more are asked for.
const HELD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of messages that one pull may bring.
const PULL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Messages that all callback services together hold unanswered.
const HELD_BY_ALL_MAX: i64 = 8_192;
/// How long the server waits for a sign of a message that is held.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How often the service says that it still holds one.
const HOLD_EVERY: Duration = Duration::from_secs(10);
/// When a message comes again whose outcome could not be stored.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// The pause between two looks for streams that nobody has made yet.
const STREAM_PAUSE: Duration = Duration::from_millis(250);

/// How long after its last refusal a consumer counts as read again.
const ACCEPTED_AFTER: Duration = Duration::from_secs(2);

/// What ends the service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An endpoint of the configuration.
    #[error("the configuration of the callback service cannot be used")]
    Configure(#[source] crate::endpoint::Invalid),
    /// The broker cannot be reached, or will not do.
    #[error("could not connect")]
    Connect(#[source] Box<jetlane::Error>),
    /// HTTP cannot be spoken.
    #[error("could not prepare for webhooks")]
    Prepare(#[source] egress::Error),
    /// A consumer cannot be read.
    #[error("could not read {stream}")]
    Read {
        /// The stream.
        stream: &'static str,
        /// Why.
        #[source]
        source: jetlane_bus::Error,
    },
    /// The connection was closed for good.
    #[error("the connection was closed")]
    Closed,
}

/// Delivers callbacks until `drain` is cancelled; then finishes those in hand.
///
/// Waits for the streams where nobody has made them yet. Everything is at least once: a webhook
/// keeps its id and a follow-up its task id, however often they are sent.
///
/// # Errors
/// [`Error::Prepare`], [`Error::Read`], [`Error::Closed`].
pub async fn serve(
    client: Client,
    endpoints: Endpoints,
    counts: Arc<Counts>,
    health: Health,
    drain: CancellationToken,
) -> Result<(), Error> {
    Box::pin(report(client, endpoints, counts, Readiness::new(health), drain)).await
}

/// Delivers callbacks, and reports on the broker meanwhile.
pub(crate) async fn report(
    client: Client,
    endpoints: Endpoints,
    counts: Arc<Counts>,
    readiness: Readiness,
    drain: CancellationToken,
) -> Result<(), Error> {
    let (bus, readiness) = (client.bus().clone(), Arc::new(readiness));
    tokio::select! {
        ended = deliver_all(client, endpoints, counts, readiness.clone(), drain) => ended,
        never = readiness.watch(&bus) => match never {},
    }
}

async fn deliver_all(
    client: Client,
    endpoints: Endpoints,
    counts: Arc<Counts>,
    readiness: Arc<Readiness>,
    drain: CancellationToken,
) -> Result<(), Error> {
    let post = Arc::new(Post::new(client, endpoints, counts.clone(), drain.clone()).map_err(Error::Prepare)?);
    let ready = async {
        let due = Reader::open(post.clone(), Source::Due, &readiness).await?;
        Ok::<_, Error>((due, watch(post.client().bus()).await))
    };
    let (due, plain) = tokio::select! {
        readers = ready => readers?,
        () = drain.cancelled() => return Ok(()),
    };
    info!("Delivering callbacks.");
    let ended = tokio::try_join!(due.read(&drain), follow(&post, plain, &readiness, &drain));
    // What was acked or handed back last may still be on its way.
    if let Err(error) = post.client().bus().flush().await {
        debug!(%error, "The last answers may not have been sent.");
    }
    info!(delivered = counts.delivered(), again = counts.again(), dead = counts.dead(), "No more callbacks.");
    ended.map(|_| ())
}

/// Watches for types that clients without an SDK serve, waiting for the registry where nobody has made it yet.
async fn watch(bus: &Bus) -> Watch {
    let mut told = false;
    loop {
        let watch = async { bus.bucket(BUCKET_REGISTRY).await?.watch(REGISTRY_PLAIN_ALL).await };
        match watch.await {
            Ok(watch) => return watch,
            Err(error) if !told => {
                info!(error = %one_line(&error), "Waiting for the registry.");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(STREAM_PAUSE).await;
    }
}

/// Reads the completions of each type that clients without an SDK serve, from when it is heard of.
async fn follow(
    post: &Arc<Post>,
    mut plain: Watch,
    readiness: &Arc<Readiness>,
    drain: &CancellationToken,
) -> Result<(), Error> {
    let mut known = BTreeSet::new();
    let mut readers = JoinSet::new();
    loop {
        tokio::select! {
            () = drain.cancelled() => break,
            Some(ended) = readers.join_next() => match ended {
                Ok(ended) => ended?,
                Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
            },
            watched = plain.next() => match watched {
                Some(Watched::Change(change)) => {
                    let Some(task_type) = parse_registry_plain(&change.key) else { continue };
                    if known.insert(task_type.clone()) {
                        readers.spawn(read_type(post.clone(), task_type, readiness.clone(), drain.clone()));
                    }
                }
                Some(Watched::UpToDate) => {}
                None => return Err(Error::Closed),
            },
        }
    }
    while let Some(ended) = readers.join_next().await {
        match ended {
            Ok(ended) => ended?,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
    Ok(())
}

async fn read_type(
    post: Arc<Post>,
    task_type: TaskType,
    readiness: Arc<Readiness>,
    drain: CancellationToken,
) -> Result<(), Error> {
    let reader = tokio::select! {
        reader = Reader::open(post, Source::Plain(task_type), &readiness) => reader?,
        () = drain.cancelled() => return Ok(()),
    };
    reader.read(&drain).await
}

/// Where a reader reads.
#[derive(Debug, Clone)]
enum Source {
    /// Callbacks that are due.
    Due,
    /// Completions of a type.
    Plain(TaskType),
}

impl Source {
    fn stream(&self) -> &'static str {
        match self {
            Self::Plain(_) => STREAM_DONE,
            Self::Due => STREAM_TIME,
        }
    }

    fn durable(&self) -> Durable {
        let (name, filter) = match self {
            Self::Due => (CONSUMER.to_owned(), CALLBACK_ALL.to_owned()),
            Self::Plain(task_type) => (subject::callback_consumer(task_type), subject::done_of_type(task_type)),
        };
        Durable {
            name,
            filters: vec![filter],
            // What completed before the first start of this service has callbacks, too.
            from: From::Beginning,
            ack_wait: ACK_WAIT,
            held_max: HELD_BY_ALL_MAX,
            forgotten_after: None,
        }
    }
}

struct Reader {
    source: Source,
    post: Arc<Post>,
    puller: Puller,
    in_hand: JoinSet<()>,
    /// Bytes of the bodies in hand.
    bytes: Arc<AtomicUsize>,
    /// Whether the consumer is read.
    condition: Condition,
    refused_at: Option<Instant>,
    beat: Heartbeat,
}

impl Reader {
    async fn open(post: Arc<Post>, source: Source, readiness: &Readiness) -> Result<Self, Error> {
        let condition = readiness.consumer();
        let puller = open(post.client().bus(), &source, &condition).await?;
        let beat = readiness.heartbeat(format!("reader of {}", source.durable().name));
        Ok(Self {
            source,
            post,
            puller,
            in_hand: JoinSet::new(),
            bytes: Arc::default(),
            condition,
            refused_at: None,
            beat,
        })
    }

    async fn read(mut self, drain: &CancellationToken) -> Result<(), Error> {
        let ended = self.read_on(drain).await;
        // What was pulled and not begun goes back, so that another process need not wait for it.
        for delivery in self.puller.end().await {
            if let Err(error) = delivery.ack.give_back(Duration::ZERO).await {
                debug!(%error, "A message was not handed back; it comes again by itself.");
            }
        }
        while self.in_hand.join_next().await.is_some() {}
        ended
    }

    async fn read_on(&mut self, drain: &CancellationToken) -> Result<(), Error> {
        let mut beats = tokio::time::interval(BEAT_EVERY);
        loop {
            let outstanding = self.puller.outstanding();
            let room = HELD_MAX.saturating_sub(self.in_hand.len() + outstanding);
            // Not a pull of its own for every message; but a little room is used before none is asked for.
            let is_light = self.bytes.load(Ordering::Relaxed) < HELD_BYTES_MAX;
            if is_light && (room > HELD_MAX / 2 || (outstanding == 0 && room > 0)) {
                self.puller.ask(room, Some(PULL_BYTES_MAX)).await.map_err(|e| self.failed(e))?;
            }
            tokio::select! {
                () = drain.cancelled() => return Ok(()),
                _ = beats.tick() => {
                    self.beat.beat();
                    // The server refuses a pull at once, and leaves one that it accepts unanswered.
                    if self.refused_at.is_some_and(|refused| refused.elapsed() > ACCEPTED_AFTER) {
                        self.refused_at = None;
                        self.condition.meet();
                    }
                }
                Some(ended) = self.in_hand.join_next() => if let Err(panicked) = ended {
                    // One callback must not end the service: its message comes again by itself.
                    error!(error = %panicked, "A delivery panicked; its callback comes again.");
                },
                pulled = self.puller.next() => match pulled {
                    Pulled::Delivery(delivery) => self.take(delivery).await?,
                    Pulled::Room => {}
                    Pulled::Refused(reason) => {
                        debug!(reason, "A pull was refused.");
                        self.refused_at = Some(Instant::now());
                        self.condition.fail(format!("the server refuses pulls: {reason}"));
                        tokio::time::sleep(REFUSED_PAUSE).await;
                    }
                    Pulled::Gone => tokio::select! {
                        puller = open(self.post.client().bus(), &self.source, &self.condition) => self.puller = puller?,
                        () = drain.cancelled() => return Ok(()),
                    },
                    Pulled::Closed => return Err(Error::Closed),
                },
            }
        }
    }

    async fn take(&mut self, delivery: Delivery) -> Result<(), Error> {
        let parcels = match self.source {
            Source::Due => Parcel::from_due(&delivery).map(|parcel| vec![parcel]),
            // Looked up in place: reading all headers of all completions would be most of the work here. What
            // has a token was made by an SDK, which has stored its callbacks beside it.
            Source::Plain(_) if !delivery.has_header(header::CALLBACKS) || delivery.has_header(header::TOKEN) => {
                Ok(Vec::new())
            }
            Source::Plain(_) => {
                let headers = delivery.headers();
                Completion::from_message(&delivery.subject, &headers, &delivery.body).map(Parcel::all_of)
            }
        };
        match parcels {
            Ok(parcels) if parcels.is_empty() => {}
            Ok(parcels) => {
                let (post, bytes) = (self.post.clone(), delivery.body.len());
                self.hold(bytes, deliver(post, parcels, delivery.ack));
                return Ok(());
            }
            Err(error) => {
                let (post, bytes) = (self.post.clone(), delivery.body.len());
                self.hold(bytes, keep_unreadable(post, delivery, one_line(&error)));
                return Ok(());
            }
        }
        delivery.ack.settle().await.map_err(|e| self.failed(e))
    }

    /// Works on a message beside the others.
    fn hold(&mut self, bytes: usize, work: impl Future<Output = ()> + Send + 'static) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let weight = Weight { all: self.bytes.clone(), bytes };
        self.in_hand.spawn(async move {
            let _weight = weight;
            work.await;
        });
    }

    fn failed(&self, source: jetlane_bus::Error) -> Error {
        Error::Read { stream: self.source.stream(), source }
    }
}

/// The bytes of one body in hand; taken off again however its work ends.
struct Weight {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Makes the consumer, waiting for its stream where nobody has made it yet.
async fn open(bus: &Bus, source: &Source, condition: &Condition) -> Result<Puller, Error> {
    let (stream, durable) = (source.stream(), source.durable());
    let mut told = false;
    while let Err(error) = bus.ensure_durable(stream, &durable).await {
        condition.fail(format!("the consumer {} cannot be made: {}", durable.name, one_line(&error)));
        if !told {
            info!(stream, error = %one_line(&error), "Waiting for a stream.");
            told = true;
        }
        tokio::time::sleep(STREAM_PAUSE).await;
    }
    let puller = bus.puller(stream, &durable.name).await.map_err(|source| Error::Read { stream, source })?;
    condition.meet();
    Ok(puller)
}

/// Delivers callbacks that came with one message, then acks it: all outcomes are stored by then.
async fn deliver(post: Arc<Post>, parcels: Vec<Parcel>, ack: Ack) {
    let outcomes = held(&ack, join_all(parcels.iter().map(|parcel| post.deliver(parcel)))).await;
    let Some(error) = outcomes.into_iter().find_map(Result::err) else {
        // Confirmed, since a lost ack would deliver all of it once more.
        if !ack.settle_confirmed().await {
            debug!("An ack was not confirmed; the message may come again.");
        }
        return;
    };
    warn!(error = %one_line(&error), "The outcome of a callback is not stored; it comes again.");
    if let Err(error) = ack.give_back(AGAIN_AFTER).await {
        debug!(%error, "A message was not given back; it comes again by itself.");
    }
}

/// Keeps a message that cannot be read as a dead letter, then acks it.
async fn keep_unreadable(post: Arc<Post>, delivery: Delivery, reason: String) {
    let kept = held(&delivery.ack, parcel::bury_unreadable(post.client().bus(), &delivery, &reason)).await;
    let Delivery { subject, ack, .. } = delivery;
    if let Err(error) = kept {
        warn!(subject, reason, error = %one_line(&error), "A callback cannot be read or kept as a dead letter; it comes again.");
        if let Err(error) = ack.give_back(AGAIN_AFTER).await {
            debug!(%error, "A message was not given back; it comes again by itself.");
        }
        return;
    }
    post.buried();
    warn!(subject, reason, "A callback cannot be read; it is kept as a dead letter.");
    if !ack.settle_confirmed().await {
        debug!("An ack was not confirmed; the message may come again.");
    }
}

/// Says that a message is still held for as long as the work on it lasts.
async fn held<T>(ack: &Ack, work: impl Future<Output = T>) -> T {
    let mut work = Box::pin(work);
    loop {
        match tokio::time::timeout(HOLD_EVERY, &mut work).await {
            Ok(done) => return done,
            Err(_) => {
                if let Err(error) = ack.hold().await {
                    debug!(%error, "A message could not be held.");
                }
            }
        }
    }
}
