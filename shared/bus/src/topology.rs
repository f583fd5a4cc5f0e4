//! Streams and buckets as data: ensured at start, idempotently; what differs is reported, never
//! silently changed.

use crate::connection::Bus;
use crate::error::Error;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, RetentionPolicy, StorageType};
use async_nats::jetstream::{kv, stream};
use jetlane_schemas::subject::{
    BUCKET_CLAIMS, BUCKET_LEASES, BUCKET_NOTES, BUCKET_REGISTRY, BUNDLE_ALL, CALLBACK_ALL, DEAD_ALL, DEAD_CALLBACK_ALL,
    DONE_ALL, DUE_ALL, LANE_ALL, MAX_DELIVERIES_ALL, SCHEDULE_ALL, STORED_PREFIX, STREAM_ADVISORIES, STREAM_DEAD,
    STREAM_DONE, STREAM_LANES, STREAM_TASKS, STREAM_TIME, SUBMIT_ALL, TASK_ALL, TERMINATED_ALL,
};
use serde::Deserialize;
use std::time::Duration;

/// The dedup window of every stream that is published to with ids.
pub const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// The most consumers of one stream. Set explicitly: the server's default is 1,000 (2.15).
const CONSUMERS_MAX: i32 = 8_192;
/// How long notes are kept (checkpoints, begin marks, cancelled ids): longer than the longest attempt
/// ([`jetlane_schemas::limits::TIMEOUT_MS_MAX`]) and than DONE's default age.
const NOTES_AGE: Duration = Duration::from_secs(26 * 60 * 60);
/// How long a marker of a claim that has aged is kept.
const CLAIM_MARKER_AGE: Duration = Duration::from_secs(2);
/// How long a marker of an ended lease is kept.
const LEASE_MARKER_AGE: Duration = Duration::from_secs(2);

/// Where messages are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// On disk.
    #[default]
    File,
    /// In memory: lost with the server. For experiments.
    Memory,
}

/// What a cluster's owner decides about the streams.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Copies of every stream and bucket. Default 1; 3 for production.
    pub replicas: usize,
    /// Where messages are kept. Default on disk.
    pub storage: Storage,
    /// How long completions are kept, in seconds: the horizon of "one completion" (design, decision 6). Default 3,600.
    pub done_age_s: u64,
    /// The most bytes of completions; -1 for no limit. Default no limit.
    pub done_bytes_max: i64,
    /// The most bytes of waiting submissions; -1 for no limit. Beyond it submitters are refused. Default no limit.
    pub tasks_bytes_max: i64,
    /// The most dispatched tasks that wait in lanes; -1 for no limit. Default no limit: credit keeps lanes shallow.
    pub lanes_messages_max: i64,
    /// How long dead letters are kept, in days. Default 30.
    pub dead_age_days: u64,
    /// Whether the broker tells of each stored completion on `jetlane.stored.<type>.<id>`, for listeners
    /// without an SDK. Costs a quarter of the server's work on a completion, whether anybody listens or
    /// not. Default no.
    pub done_republished: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: 1,
            storage: Storage::File,
            done_age_s: 3_600,
            done_bytes_max: -1,
            tasks_bytes_max: -1,
            lanes_messages_max: -1,
            dead_age_days: 30,
            done_republished: false,
        }
    }
}

/// Something that is not as it was declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The stream or bucket.
    pub name: String,
    /// The setting.
    pub setting: &'static str,
    /// As declared.
    pub wanted: String,
    /// As found.
    pub found: String,
}

impl Bus {
    /// Makes what is missing and compares what is there.
    ///
    /// # Errors
    /// [`Error::Ensure`] when a stream or bucket can be neither made nor read.
    pub async fn ensure(&self, settings: &Settings) -> Result<Vec<Drift>, Error> {
        let mut drifts = Vec::new();
        for wanted in streams(settings) {
            drifts.extend(self.ensure_stream(wanted).await?);
        }
        for wanted in buckets(settings) {
            let name = wanted.bucket.clone();
            let config = self.ensure_bucket(wanted).await;
            config.map_err(|source| Error::Ensure { name, source })?;
        }
        self.measure_clock().await;
        Ok(drifts)
    }

    /// Compares what is there with what is declared, and makes nothing. A missing stream is a drift.
    ///
    /// # Errors
    /// [`Error::Ensure`] when a stream cannot be read for another reason than that it is missing.
    pub async fn drift(&self, settings: &Settings) -> Result<Vec<Drift>, Error> {
        let mut drifts = Vec::new();
        for wanted in streams(settings) {
            match self.find_stream(&wanted.name).await? {
                Some(found) => drifts.extend(differences(&wanted, &found)),
                None => drifts.push(Drift {
                    name: wanted.name,
                    setting: "stream",
                    wanted: "present".into(),
                    found: "missing".into(),
                }),
            }
        }
        Ok(drifts)
    }

    pub(crate) async fn find_stream(&self, name: &str) -> Result<Option<Config>, Error> {
        use async_nats::jetstream::context::GetStreamErrorKind;
        match self.jetstream.get_stream(name).await {
            Ok(found) => Ok(Some(found.cached_info().config.clone())),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
                _ => Err(Error::Ensure { name: name.to_owned(), source: error.into() }),
            },
        }
    }

    async fn ensure_stream(&self, wanted: Config) -> Result<Vec<Drift>, Error> {
        if let Some(found) = self.find_stream(&wanted.name).await? {
            return Ok(differences(&wanted, &found));
        }
        match self.jetstream.create_stream(wanted.clone()).await {
            Ok(_) => Ok(Vec::new()),
            // Another process may have been quicker.
            Err(error) => match self.find_stream(&wanted.name).await? {
                Some(found) => Ok(differences(&wanted, &found)),
                None => Err(Error::Ensure { name: wanted.name, source: error.into() }),
            },
        }
    }

    async fn ensure_bucket(&self, wanted: kv::Config) -> Result<(), crate::error::Source> {
        if self.jetstream.get_key_value(&wanted.bucket).await.is_ok() {
            return Ok(());
        }
        let name = wanted.bucket.clone();
        match self.jetstream.create_key_value(wanted).await {
            Ok(_) => Ok(()),
            Err(error) => match self.jetstream.get_key_value(&name).await {
                Ok(_) => Ok(()),
                Err(_) => Err(error.into()),
            },
        }
    }
}

fn differences(wanted: &Config, found: &Config) -> Vec<Drift> {
    let mut drifts = Vec::new();
    let mut compare = |setting, wanted_value: String, found_value: String| {
        if wanted_value != found_value {
            drifts.push(Drift { name: wanted.name.clone(), setting, wanted: wanted_value, found: found_value });
        }
    };
    let sorted = |subjects: &[String]| {
        let mut subjects = subjects.to_vec();
        subjects.sort();
        subjects.join(" ")
    };
    compare("subjects", sorted(&wanted.subjects), sorted(&found.subjects));
    compare("retention", format!("{:?}", wanted.retention), format!("{:?}", found.retention));
    compare("discard", format!("{:?}", wanted.discard), format!("{:?}", found.discard));
    compare("storage", format!("{:?}", wanted.storage), format!("{:?}", found.storage));
    compare("replicas", wanted.num_replicas.to_string(), found.num_replicas.to_string());
    compare("max_age_s", wanted.max_age.as_secs().to_string(), found.max_age.as_secs().to_string());
    compare("max_bytes", limit(wanted.max_bytes), limit(found.max_bytes));
    compare("max_messages", limit(wanted.max_messages), limit(found.max_messages));
    compare("max_messages_per_subject", limit(wanted.max_messages_per_subject), limit(found.max_messages_per_subject));
    compare(
        "duplicate_window_s",
        wanted.duplicate_window.as_secs().to_string(),
        found.duplicate_window.as_secs().to_string(),
    );
    compare("max_consumers", limit(wanted.max_consumers.into()), limit(found.max_consumers.into()));
    compare("schedules", wanted.allow_message_schedules.to_string(), found.allow_message_schedules.to_string());
    compare(
        "discard_new_per_subject",
        wanted.discard_new_per_subject.to_string(),
        found.discard_new_per_subject.to_string(),
    );
    compare("batches", wanted.allow_batch_publish.to_string(), found.allow_batch_publish.to_string());
    drifts
}

/// Whether a stream refuses a second message of a subject, whatever its publisher expects.
pub(crate) fn takes_one_a_subject(stream: &Config) -> bool {
    stream.max_messages_per_subject == 1 && stream.discard == DiscardPolicy::New && stream.discard_new_per_subject
}

/// The server writes "no limit" as -1 or 0.
fn limit(number: i64) -> String {
    if number <= 0 { "none".into() } else { number.to_string() }
}

fn stream(settings: &Settings, name: &str, subjects: &[&str], retention: RetentionPolicy) -> Config {
    Config {
        name: name.into(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        retention,
        storage: match settings.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: settings.replicas,
        discard: DiscardPolicy::New,
        duplicate_window: DUPLICATE_WINDOW,
        max_consumers: CONSUMERS_MAX,
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        allow_direct: true,
        ..Config::default()
    }
}

/// All streams (design, "The flow").
fn streams(settings: &Settings) -> Vec<stream::Config> {
    let work = RetentionPolicy::WorkQueue;
    let done_age = Duration::from_secs(settings.done_age_s);
    vec![
        Config { max_bytes: settings.tasks_bytes_max, ..stream(settings, STREAM_TASKS, &[SUBMIT_ALL, TASK_ALL], work) },
        Config {
            // Schedules cannot live in a stream that discards new messages.
            discard: DiscardPolicy::Old,
            allow_message_schedules: true,
            allow_message_ttl: true,
            allow_rollup: true,
            ..stream(settings, STREAM_TIME, &[SCHEDULE_ALL, DUE_ALL, CALLBACK_ALL], work)
        },
        Config {
            max_messages: settings.lanes_messages_max,
            ..stream(settings, STREAM_LANES, &[LANE_ALL, BUNDLE_ALL], work)
        },
        Config {
            max_age: done_age,
            max_bytes: settings.done_bytes_max,
            max_messages_per_subject: 1,
            // Binds a client that forgets the expected sequence, too.
            discard_new_per_subject: true,
            duplicate_window: DUPLICATE_WINDOW.min(done_age),
            // One ack for many completions.
            allow_batch_publish: true,
            // What listeners hear is what is stored, never a publish that was refused.
            republish: settings.done_republished.then(|| Republish {
                source: DONE_ALL.into(),
                destination: format!("{STORED_PREFIX}>"),
                headers_only: false,
            }),
            ..stream(settings, STREAM_DONE, &[DONE_ALL], RetentionPolicy::Limits)
        },
        Config {
            max_age: Duration::from_secs(settings.dead_age_days * 24 * 60 * 60),
            ..stream(settings, STREAM_DEAD, &[DEAD_ALL, DEAD_CALLBACK_ALL], RetentionPolicy::Limits)
        },
        Config {
            max_age: Duration::from_secs(settings.dead_age_days * 24 * 60 * 60),
            discard: DiscardPolicy::Old,
            ..stream(settings, STREAM_ADVISORIES, &[MAX_DELIVERIES_ALL, TERMINATED_ALL], RetentionPolicy::Limits)
        },
    ]
}

fn buckets(settings: &Settings) -> Vec<kv::Config> {
    let bucket = |name: &str| kv::Config {
        bucket: name.into(),
        history: 1,
        storage: match settings.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: settings.replicas,
        ..kv::Config::default()
    };
    vec![
        bucket(BUCKET_REGISTRY),
        kv::Config { limit_markers: Some(LEASE_MARKER_AGE), ..bucket(BUCKET_LEASES) },
        kv::Config { max_age: NOTES_AGE, ..bucket(BUCKET_NOTES) },
        kv::Config { limit_markers: Some(CLAIM_MARKER_AGE), ..bucket(BUCKET_CLAIMS) },
    ]
}
