//! The consumers of intake, lanes and completions: made when first used, kept, taken over.

use crate::connection::Bus;
use crate::error::Error;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use futures::{StreamExt, TryStreamExt};
use jetlane_mutants::mutant;
use jetlane_schemas::subject::{Lane, LaneKind, STREAM_DONE, STREAM_LANES};
use jetlane_schemas::{Flow, Micros};
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

/// How long the server waits for a sign of a held message of intake before it delivers it again.
pub const FLOW_ACK_WAIT: Duration = Duration::from_secs(5);
/// How often a leader says that it still holds the messages of its windows.
pub const FLOW_HOLD_EVERY: Duration = Duration::from_millis(1_500);
/// The most messages of one flow that a leader holds.
pub const FLOW_ACK_PENDING_MAX: i64 = 2_048;
/// The lease of a run: how long the server waits for a sign of it.
pub const LANE_ACK_WAIT: Duration = Duration::from_secs(10);
/// How often an executor says that its runs are alive.
pub const LANE_HOLD_EVERY: Duration = Duration::from_secs(3);
/// How often a plain client may fail a message before the server gives it up.
pub const PLAIN_DELIVERIES_MAX: i64 = 5;
/// How often a bundle is delivered before the server gives it up: above every limit of our own
/// ([`jetlane_schemas::limits::RETRIES_MAX`] + 1), a net for executors that die each time.
pub const BUNDLE_DELIVERIES_MAX: i64 = 110;
/// The most tasks of a lane that executors hold together. Credit keeps it far lower.
const LANE_ACK_PENDING_MAX: i64 = 100_000;
/// Pulls of one consumer that wait in the server.
const WAITING_PULLS_MAX: i64 = 4_096;
/// Requests to the server in flight during a takeover.
const TAKEOVER_CONCURRENCY: usize = 16;

/// The entry of a flow consumer's metadata: the last sequence that leaders before its own were given.
const SUSPECT_UNTIL: &str = "suspect_until";

/// A flow's consumer that an earlier leader left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldConsumer {
    /// The flow.
    pub flow: Flow,
    /// The consumer's name.
    pub name: String,
    /// The last sequence that this or an earlier leader was given.
    pub delivered: u64,
}

/// What is in a consumer's hands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Messages not delivered yet.
    pub pending: u64,
    /// Messages delivered and not answered.
    pub unanswered: u64,
    /// Pulls that wait.
    pub waiting_pulls: u64,
    /// The sequence of the last message delivered.
    pub delivered: u64,
}

/// Where a subscriber of completions starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// With what is stored from now on.
    Now,
    /// With everything that is kept.
    Beginning,
    /// With what was stored from this moment on.
    Time(Micros),
}

impl Bus {
    async fn stream(&self, name: &str) -> Result<Stream<()>, Error> {
        self.jetstream
            .get_stream_no_info(name)
            .await
            .map_err(|source| Error::Ensure { name: name.to_owned(), source: source.into() })
    }

    async fn make_consumer(&self, stream: &str, config: pull::Config) -> Result<(), Error> {
        let consumer = config.durable_name.clone().unwrap_or_default();
        self.jetstream.create_consumer_on_stream(config, stream).await.map(|_| ()).map_err(|source| Error::Consumer {
            operation: "create",
            stream: stream.to_owned(),
            consumer,
            source: source.into(),
        })
    }

    /// Makes the consumer of a flow for a leader of this epoch; returns its name. A consumer of another
    /// epoch must be gone: see [`Bus::pause_old`].
    ///
    /// The consumer carries the last sequence that earlier leaders were given: a leader that is gone before it has read
    /// as far must not hide it from the next one.
    ///
    /// # Errors
    /// [`Error::Consumer`].
    pub async fn open_flow(&self, flow: &Flow, epoch: u64, suspect_until: u64) -> Result<String, Error> {
        let name = flow.consumer(epoch);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: flow.subject(),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: FLOW_ACK_WAIT,
            max_deliver: -1,
            max_ack_pending: FLOW_ACK_PENDING_MAX,
            max_waiting: WAITING_PULLS_MAX,
            metadata: [(SUSPECT_UNTIL.to_owned(), suspect_until.to_string())].into(),
            ..pull::Config::default()
        };
        self.make_consumer(flow.stream(), config).await?;
        Ok(name)
    }

    /// Makes both consumers of a lane.
    ///
    /// # Errors
    /// [`Error::Consumer`].
    pub async fn ensure_lane(&self, lane: &Lane) -> Result<(), Error> {
        let config = pull::Config {
            durable_name: Some(lane.consumer()),
            filter_subject: lane.subject(),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            ack_wait: LANE_ACK_WAIT,
            max_deliver: match lane.kind {
                LaneKind::Bundle => BUNDLE_DELIVERIES_MAX,
                LaneKind::Plain => PLAIN_DELIVERIES_MAX,
            },
            max_ack_pending: LANE_ACK_PENDING_MAX,
            max_waiting: WAITING_PULLS_MAX,
            ..pull::Config::default()
        };
        self.make_consumer(STREAM_LANES, config).await?;
        // Whoever runs what the lane brings computes when it runs again.
        self.know_clock().await;
        Ok(())
    }

    /// Makes a durable consumer of any stream, as it is told.
    ///
    /// # Errors
    /// [`Error::Consumer`].
    pub async fn ensure_durable(&self, stream: &str, durable: &Durable) -> Result<(), Error> {
        let mut config = pull::Config {
            durable_name: Some(durable.name.clone()),
            filter_subjects: durable.filters.clone(),
            deliver_policy: match durable.from {
                From::Now => DeliverPolicy::New,
                From::Beginning => DeliverPolicy::All,
                From::Time(at) => {
                    DeliverPolicy::ByStartTime { start_time: (UNIX_EPOCH + Duration::from_micros(at.0)).into() }
                }
            },
            ack_policy: AckPolicy::Explicit,
            ack_wait: durable.ack_wait,
            max_deliver: -1,
            max_ack_pending: durable.held_max,
            inactive_threshold: durable.forgotten_after.unwrap_or_default(),
            ..pull::Config::default()
        };
        if durable.forgotten_after.is_none()
            && let Some(place) = self.place_of_durable(stream, &durable.name).await?
        {
            // It goes on where it is: where it would start if it were new cannot be changed any more.
            config.deliver_policy = place;
        }
        self.make_consumer(stream, config).await
    }

    /// Where a durable consumer once started; `None` where there is none of this name.
    async fn place_of_durable(&self, stream: &str, consumer: &str) -> Result<Option<DeliverPolicy>, Error> {
        use async_nats::jetstream::ErrorCode;
        use async_nats::jetstream::context::ConsumerInfoErrorKind;
        match self.stream(stream).await?.consumer_info(consumer).await {
            Ok(info) => Ok(Some(info.config.deliver_policy)),
            Err(error) => match error.kind() {
                ConsumerInfoErrorKind::NotFound => Ok(None),
                ConsumerInfoErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {
                    Ok(None)
                }
                _ => Err(Error::Consumer {
                    operation: "read",
                    stream: stream.to_owned(),
                    consumer: consumer.to_owned(),
                    source: error.into(),
                }),
            },
        }
    }

    /// Deletes a durable consumer; one that is not there counts as deleted.
    ///
    /// # Errors
    /// [`Error::Consumer`].
    pub async fn delete_durable(&self, stream: &str, consumer: &str) -> Result<(), Error> {
        use async_nats::jetstream::ErrorCode;
        use async_nats::jetstream::stream::ConsumerErrorKind;
        match self.stream(stream).await?.delete_consumer(consumer).await {
            Ok(_) => Ok(()),
            Err(error) => match error.kind() {
                ConsumerErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::CONSUMER_NOT_FOUND => Ok(()),
                _ => Err(Error::Consumer {
                    operation: "delete",
                    stream: stream.to_owned(),
                    consumer: consumer.to_owned(),
                    source: error.into(),
                }),
            },
        }
    }

    /// What is in a consumer's hands; `None` where there is no such consumer.
    ///
    /// # Errors
    /// [`Error::Consumer`] when the server does not answer.
    pub async fn backlog(&self, stream: &str, consumer: &str) -> Result<Option<Backlog>, Error> {
        use async_nats::jetstream::context::ConsumerInfoErrorKind;
        match self.stream(stream).await?.consumer_info(consumer).await {
            Ok(info) => Ok(Some(Backlog {
                pending: info.num_pending,
                unanswered: u64::try_from(info.num_ack_pending).unwrap_or(0),
                waiting_pulls: u64::try_from(info.num_waiting).unwrap_or(0),
                delivered: info.delivered.stream_sequence,
            })),
            Err(error) if matches!(error.kind(), ConsumerInfoErrorKind::NotFound) => Ok(None),
            Err(error) => Err(Error::Consumer {
                operation: "read",
                stream: stream.to_owned(),
                consumer: consumer.to_owned(),
                source: error.into(),
            }),
        }
    }

    /// Pauses the consumers that leaders of other epochs left behind on the flows that `mine` picks, and reads up to
    /// which sequence each was delivered: those tasks are suspect.
    ///
    /// Nothing is deleted: whoever takes over notes what was read, and deletes the consumers after that. A consumer is
    /// paused first: otherwise the old leader's waiting pull takes messages between the reading and the deleting
    /// (measured). Its acks count no more once it is deleted.
    ///
    /// # Errors
    /// [`Error::Consumer`].
    pub async fn pause_old(
        &self,
        stream: &str,
        epoch: u64,
        mine: impl Fn(&Flow) -> bool,
    ) -> Result<Vec<OldConsumer>, Error> {
        let handle = self.stream(stream).await?;
        let failed = |operation, consumer: &str, source| Error::Consumer {
            operation,
            stream: stream.to_owned(),
            consumer: consumer.to_owned(),
            source,
        };
        let infos: Vec<_> =
            handle.consumers().try_collect().await.map_err(|source| failed("list", "(all)", source.into()))?;
        let old: Vec<(Flow, String)> = infos
            .into_iter()
            .filter_map(|info: async_nats::jetstream::consumer::Info| {
                let flow = Flow::parse(&info.config.filter_subject)?;
                (mine(&flow) && info.name != flow.consumer(epoch)).then_some((flow, info.name))
            })
            .collect();
        futures::stream::iter(old)
            .map(|(flow, name)| {
                let handle = handle.clone();
                async move {
                    // Far enough ahead that it never wakes before it is deleted.
                    let until = UNIX_EPOCH + Duration::from_micros(crate::clock::now().0) + Duration::from_secs(3_600);
                    if !mutant!(TakeOverWithoutPause) {
                        let paused = handle.pause_consumer(&name, until.into()).await;
                        paused.map_err(|e| failed("pause", &name, e.into()))?;
                    }
                    let info = handle.consumer_info(&name).await.map_err(|e| failed("read", &name, e.into()))?;
                    let earlier = info.config.metadata.get(SUSPECT_UNTIL).and_then(|until| until.parse().ok());
                    let delivered = info.delivered.stream_sequence.max(earlier.unwrap_or(0));
                    mutant!(TakeOverWithoutPause => { tokio::time::sleep(jetlane_mutants::GAP).await });
                    Ok(OldConsumer { flow, name, delivered })
                }
            })
            .buffer_unordered(TAKEOVER_CONCURRENCY)
            .try_collect()
            .await
    }

    /// Deletes consumers of earlier leaders; one that is gone already counts as deleted.
    ///
    /// # Errors
    /// [`Error::Consumer`].
    pub async fn delete_old(&self, consumers: &[OldConsumer]) -> Result<(), Error> {
        futures::stream::iter(consumers.to_vec())
            .map(|old| async move { self.delete_durable(old.flow.stream(), &old.name).await })
            .buffer_unordered(TAKEOVER_CONCURRENCY)
            .try_collect()
            .await
    }

    /// Counts the messages of each subject of a stream under `filter`.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn subject_counts(&self, stream: &str, filter: &str) -> Result<BTreeMap<String, u64>, Error> {
        self.subject_counts_up_to(stream, filter, usize::MAX).await
    }

    /// Counts the messages of up to `most` subjects under a filter. Which ones, where there are more, is the server's choice.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn subject_counts_up_to(
        &self,
        stream: &str,
        filter: &str,
        most: usize,
    ) -> Result<BTreeMap<String, u64>, Error> {
        let failed = |source| Error::Read { stream: stream.to_owned(), what: filter.to_owned(), source };
        let handle = self.stream(stream).await?;
        let subjects = handle.info_with_subjects(filter).await.map_err(|e| failed(e.into()))?.take(most);
        subjects.map_ok(|(subject, count)| (subject, count as u64)).try_collect().await.map_err(|e| failed(e.into()))
    }

    /// Reads the sequence of the last message that a stream has stored.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn last_sequence(&self, stream: &str) -> Result<u64, Error> {
        let failed = |source| Error::Read { stream: stream.to_owned(), what: "its state".into(), source };
        let info = self.stream(stream).await?.get_info().await.map_err(|e| failed(e.into()))?;
        Ok(info.state.last_sequence)
    }

    /// The time of DONE's oldest record; `None` while it is empty.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn done_horizon(&self) -> Result<Option<Micros>, Error> {
        let failed = |source| Error::Read { stream: STREAM_DONE.into(), what: "its state".into(), source };
        let info = self.stream(STREAM_DONE).await?.get_info().await.map_err(|e| failed(e.into()))?;
        if info.state.messages == 0 {
            return Ok(None);
        }
        let nanos = info.state.first_timestamp.unix_timestamp_nanos();
        Ok(u64::try_from(nanos / 1_000).ok().map(Micros))
    }
}

/// A durable consumer of a subscriber.
#[derive(Debug, Clone)]
pub struct Durable {
    /// Its name.
    pub name: String,
    /// The subjects that it wants; empty for all.
    pub filters: Vec<String>,
    /// Where it starts when it is new.
    pub from: From,
    /// How long the server waits for an answer to a message.
    pub ack_wait: Duration,
    /// The most messages that it holds unanswered.
    pub held_max: i64,
    /// When the server forgets it if nobody pulls; `None` for never.
    pub forgotten_after: Option<Duration>,
}
