//! Streams and buckets as data: ensured at start, idempotently. Every setting that is declared is compared. What can
//! be updated without a loss of stored messages is updated, and logged; the rest is reported.
//!
//! Updated are: subjects that are missing; limits of age, bytes and messages that are raised; the duplicate window; the
//! republishing that [`Settings::done_republished`] turns on and off; direct reads, roll-ups, times to live, marks of
//! limits, schedules and batches where they are off. Only reported are: limits that are lowered, since the server would
//! delete what lies beyond them; replicas, which cost a copy of everything; retention, storage, discard policy and
//! consumers, which the server cannot change or which change what a stream promises.

use crate::connection::Bus;
use crate::error::Error;
use crate::kv::MARK_AGE;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, Republish, RetentionPolicy, StorageType};
use futures::future::try_join_all;
use jetlane_mutants::mutant;
use jetlane_schemas::Micros;
use jetlane_schemas::subject::{
    self, BUCKET_CLAIMS, BUCKET_LEASES, BUCKET_NOTES, BUCKET_REGISTRY, BUNDLE_ALL, CALLBACK_ALL, DEAD_ALL,
    DEAD_CALLBACK_ALL, DONE_ALL, DUE_ALL, LANE_ALL, MAX_DELIVERIES_ALL, SCHEDULE_ALL, STORED_PREFIX, STREAM_ADVISORIES,
    STREAM_DEAD, STREAM_DONE, STREAM_LANES, STREAM_TASKS, STREAM_TIME, SUBMIT_ALL, TASK_ALL, TERMINATED_ALL,
};
use serde::Deserialize;
use std::collections::BTreeMap;
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

/// A stream, or the stream of a bucket, as it is declared.
struct Declared {
    /// What people call it: the name of the stream, or of the bucket.
    name: String,
    kind: &'static str,
    config: Config,
}

/// When each stream and bucket was made, by the name of its stream; `None` for one that is missing. Two readings differ
/// once anything was deleted in between, though it was made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Births(BTreeMap<String, Option<Micros>>);

impl Births {
    /// The streams that were made or deleted since an earlier reading, and those that are missing.
    pub fn changed_since<'a>(&'a self, earlier: &'a Self) -> impl Iterator<Item = &'a str> {
        let is_changed = |name: &str, born: Option<Micros>| born.is_none() || earlier.0.get(name) != Some(&born);
        self.0.iter().filter(move |(name, born)| is_changed(name, **born)).map(|(name, _)| name.as_str())
    }
}

impl Bus {
    /// Makes what is missing, and compares what is there: updates what is safe, returns what still differs.
    ///
    /// # Errors
    /// [`Error::Ensure`] when a stream or bucket can be neither made nor read.
    pub async fn ensure(&self, settings: &Settings) -> Result<Vec<Drift>, Error> {
        let mut drifts = Vec::new();
        for wanted in declared(settings) {
            drifts.extend(self.ensure_stream(&wanted).await?);
        }
        self.measure_clock().await;
        Ok(drifts)
    }

    /// Compares what is there with what is declared, and makes nothing. A missing stream or bucket is a drift.
    ///
    /// # Errors
    /// [`Error::Ensure`] when a stream cannot be read for another reason than that it is missing.
    pub async fn drift(&self, settings: &Settings) -> Result<Vec<Drift>, Error> {
        let mut drifts = Vec::new();
        for wanted in declared(settings) {
            match self.find_stream(&wanted.config.name).await? {
                Some(found) => drifts.extend(wanted.differences(&found)),
                None => drifts.push(Drift {
                    name: wanted.name,
                    setting: wanted.kind,
                    wanted: "present".into(),
                    found: "missing".into(),
                }),
            }
        }
        Ok(drifts)
    }

    /// Reads when the streams and buckets were made.
    ///
    /// # Errors
    /// [`Error::Ensure`] when one cannot be read for another reason than that it is missing.
    pub async fn births(&self) -> Result<Births, Error> {
        let names = declared(&Settings::default()).into_iter().map(|declared| declared.config.name);
        let births = names.map(async |name| {
            let born = self.find_stream_info(&name).await?.map(|info| {
                let micros = info.created.unix_timestamp_nanos() / 1_000;
                Micros(u64::try_from(micros).unwrap_or(0))
            });
            Ok::<_, Error>((name, born))
        });
        Ok(Births(try_join_all(births).await?.into_iter().collect()))
    }

    pub(crate) async fn find_stream(&self, name: &str) -> Result<Option<Config>, Error> {
        Ok(self.find_stream_info(name).await?.map(|info| info.config))
    }

    async fn find_stream_info(&self, name: &str) -> Result<Option<Info>, Error> {
        use async_nats::jetstream::context::GetStreamErrorKind;
        match self.jetstream.get_stream(name).await {
            Ok(found) => Ok(Some(found.cached_info().clone())),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(inner) if inner.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
                _ => Err(Error::Ensure { name: name.to_owned(), source: error.into() }),
            },
        }
    }

    async fn ensure_stream(&self, wanted: &Declared) -> Result<Vec<Drift>, Error> {
        if let Some(found) = self.find_stream(&wanted.config.name).await? {
            return Ok(self.update(wanted, found).await);
        }
        match self.jetstream.create_stream(wanted.config.clone()).await {
            Ok(_) => Ok(Vec::new()),
            // Another process may have been quicker.
            Err(error) => match self.find_stream(&wanted.config.name).await? {
                Some(found) => Ok(wanted.differences(&found)),
                None => Err(Error::Ensure { name: wanted.name.clone(), source: error.into() }),
            },
        }
    }

    /// Updates what can be updated without a loss; returns what still differs.
    async fn update(&self, wanted: &Declared, found: Config) -> Vec<Drift> {
        let drifts = wanted.differences(&found);
        let updated = wanted.safe_update(&found);
        let remaining = wanted.differences(&updated);
        if remaining == drifts {
            return drifts;
        }
        match self.jetstream.update_stream(updated).await {
            Ok(_) => {
                for Drift { name, setting, wanted, found } in drifts.iter().filter(|drift| !remaining.contains(drift)) {
                    tracing::info!(name, setting, found, wanted, "Updated a setting of a stream to what is declared.");
                }
                remaining
            }
            Err(error) => {
                tracing::warn!(name = wanted.name, %error, "Could not update a stream to what is declared.");
                drifts
            }
        }
    }
}

impl Declared {
    fn differences(&self, found: &Config) -> Vec<Drift> {
        let wanted = &self.config;
        let mut drifts = Vec::new();
        let mut compare = |setting, wanted_value: String, found_value: String| {
            if wanted_value != found_value {
                drifts.push(Drift { name: self.name.clone(), setting, wanted: wanted_value, found: found_value });
            }
        };
        let sorted = |subjects: &[String]| {
            let mut subjects = subjects.to_vec();
            subjects.sort();
            subjects.join(" ")
        };
        macro_rules! compare_all {
            ($($setting:literal: |$of:ident| $value:expr),+ $(,)?) => {
                $(compare($setting, { let $of = wanted; $value }, { let $of = found; $value });)+
            };
        }
        compare_all! {
            "subjects": |of| sorted(&of.subjects),
            "retention": |of| format!("{:?}", of.retention),
            "discard": |of| format!("{:?}", of.discard),
            "storage": |of| format!("{:?}", of.storage),
            "replicas": |of| of.num_replicas.max(1).to_string(),
            "max_age_s": |of| of.max_age.as_secs().to_string(),
            "max_bytes": |of| limit(of.max_bytes),
            "max_messages": |of| limit(of.max_messages),
            "max_messages_per_subject": |of| limit(of.max_messages_per_subject),
            "max_message_bytes": |of| limit(of.max_message_size.into()),
            "duplicate_window_s": |of| of.duplicate_window.as_secs().to_string(),
            "max_consumers": |of| limit(of.max_consumers.into()),
            "discard_new_per_subject": |of| of.discard_new_per_subject.to_string(),
            "schedules": |of| of.allow_message_schedules.to_string(),
            "batches": |of| of.allow_batch_publish.to_string(),
            "direct_reads": |of| of.allow_direct.to_string(),
            "times_to_live": |of| of.allow_message_ttl.to_string(),
            "marks_s": |of| of.subject_delete_marker_ttl.unwrap_or_default().as_secs().to_string(),
            "roll_ups": |of| of.allow_rollup.to_string(),
            "deletes_denied": |of| of.deny_delete.to_string(),
            "purges_denied": |of| of.deny_purge.to_string(),
            "republish": |of| republished(of.republish.as_ref()),
            "acks": |of| (!of.no_ack).to_string(),
            "sealed": |of| of.sealed.to_string(),
            "mirror": |of| of.mirror.is_some().to_string(),
            "sources": |of| of.sources.as_ref().map_or(0, Vec::len).to_string(),
            "transform": |of| of.subject_transform.is_some().to_string(),
        }
        drifts
    }

    /// What is found, with those settings as declared whose update loses nothing that is stored.
    fn safe_update(&self, found: &Config) -> Config {
        let wanted = &self.config;
        let mut updated = found.clone();
        let missing = wanted.subjects.iter().filter(|subject| !found.subjects.contains(subject));
        updated.subjects.extend(missing.cloned());
        // Zero is no limit.
        if is_raised(wanted.max_age.as_secs().try_into().unwrap_or(0), found.max_age.as_secs().try_into().unwrap_or(0))
        {
            updated.max_age = wanted.max_age;
        }
        if is_raised(wanted.max_bytes, found.max_bytes) {
            updated.max_bytes = wanted.max_bytes;
        }
        if is_raised(wanted.max_messages, found.max_messages) {
            updated.max_messages = wanted.max_messages;
        }
        if is_raised(wanted.max_message_size.into(), found.max_message_size.into()) {
            updated.max_message_size = wanted.max_message_size;
        }
        // The server takes no window that is longer than what it is for is kept.
        if updated.max_age.is_zero() || wanted.duplicate_window <= updated.max_age {
            updated.duplicate_window = wanted.duplicate_window;
        }
        updated.allow_message_schedules |= wanted.allow_message_schedules;
        updated.allow_batch_publish |= wanted.allow_batch_publish;
        updated.allow_direct |= wanted.allow_direct;
        updated.allow_message_ttl |= wanted.allow_message_ttl;
        updated.allow_rollup |= wanted.allow_rollup;
        if wanted.subject_delete_marker_ttl.is_some() {
            updated.subject_delete_marker_ttl = wanted.subject_delete_marker_ttl;
        }
        // What somebody else lets the broker republish stays, and is reported.
        if found.republish.is_none() || (wanted.republish.is_none() && found.republish == self.own_republish()) {
            updated.republish.clone_from(&wanted.republish);
        }
        updated
    }

    /// What [`Settings::done_republished`] declares of this stream.
    fn own_republish(&self) -> Option<Republish> {
        (self.config.name == STREAM_DONE).then(republish)
    }
}

fn is_raised(wanted: i64, found: i64) -> bool {
    found > 0 && (wanted <= 0 || wanted > found)
}

fn republished(republish: Option<&Republish>) -> String {
    let told = |r: &Republish| {
        let what = if r.headers_only { ", headers only" } else { "" };
        format!("{} to {}{what}", r.source, r.destination)
    };
    republish.map_or_else(|| "none".into(), told)
}

/// What is told of completions is what is stored, never a publish that was refused.
fn republish() -> Republish {
    Republish { source: DONE_ALL.into(), destination: format!("{STORED_PREFIX}>"), headers_only: false }
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
        duplicate_window: if mutant!(DedupWindowTooShort) { Duration::from_millis(100) } else { DUPLICATE_WINDOW },
        max_consumers: CONSUMERS_MAX,
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        allow_direct: true,
        ..Config::default()
    }
}

/// All streams (design, "The flow").
fn streams(settings: &Settings) -> Vec<Config> {
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
            max_messages_per_subject: if mutant!(NoExpectedSequence) { -1 } else { 1 },
            // Binds a client that forgets the expected sequence, too.
            discard_new_per_subject: !mutant!(NoExpectedSequence),
            duplicate_window: DUPLICATE_WINDOW.min(done_age),
            // One ack for many completions.
            allow_batch_publish: true,
            republish: settings.done_republished.then(republish),
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

/// All buckets: streams as the key-value store of every client reads them (ADR-8).
fn buckets(settings: &Settings) -> Vec<(&'static str, Config)> {
    let bucket = |name: &'static str| {
        let config = stream(settings, &format!("KV_{name}"), &[&subject::kv(name, ">")], RetentionPolicy::Limits);
        (name, Config { max_messages_per_subject: 1, allow_rollup: true, deny_delete: true, ..config })
    };
    let marked = |(name, config), age| {
        (name, Config { allow_message_ttl: true, subject_delete_marker_ttl: Some(age), ..config })
    };
    let (notes, notes_config) = bucket(BUCKET_NOTES);
    vec![
        // A mark for each tenant that ever left, and each type: they must go.
        marked(bucket(BUCKET_REGISTRY), MARK_AGE),
        marked(bucket(BUCKET_LEASES), LEASE_MARKER_AGE),
        (notes, Config { max_age: NOTES_AGE, ..notes_config }),
        marked(bucket(BUCKET_CLAIMS), CLAIM_MARKER_AGE),
    ]
}

fn declared(settings: &Settings) -> Vec<Declared> {
    let streams = streams(settings).into_iter();
    let streams = streams.map(|config| Declared { name: config.name.clone(), kind: "stream", config });
    let buckets = buckets(settings).into_iter();
    streams.chain(buckets.map(|(name, config)| Declared { name: name.into(), kind: "bucket", config })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::stage::place;
    use futures::FutureExt;
    use jetlane_schemas::Headers;

    /// Changes a stream behind everybody's back.
    async fn edit(bus: &Bus, name: &str, edit: impl FnOnce(&mut Config)) {
        let mut config = bus.find_stream(name).await.expect("read").expect("there");
        edit(&mut config);
        bus.jetstream.update_stream(config).await.expect("taken");
    }

    fn found<'a>(drifts: &'a [Drift], name: &str, setting: &str) -> Option<&'a str> {
        let drift = drifts.iter().find(|drift| drift.name == name && drift.setting == setting);
        drift.map(|drift| drift.found.as_str())
    }

    #[tokio::test]
    async fn streams_and_buckets_just_made_differ_in_nothing() {
        let (_server, bus) = place().await;
        for settings in
            [Settings::default(), Settings { done_republished: true, done_age_s: 60, ..Settings::default() }]
        {
            for declared in declared(&settings) {
                bus.jetstream.delete_stream(&declared.config.name).await.expect("deleted");
            }
            let missing = bus.drift(&settings).await.expect("read");
            assert_eq!(missing.len(), declared(&settings).len(), "{missing:?}");
            assert_eq!(found(&missing, BUCKET_NOTES, "bucket"), Some("missing"));
            assert_eq!(bus.ensure(&settings).await.expect("made"), []);
            assert_eq!(bus.drift(&settings).await.expect("read"), []);
        }
    }

    #[tokio::test]
    async fn completions_are_republished_once_that_is_declared_though_the_stream_was_there() {
        let (_server, bus) = place().await;
        let settings = Settings { done_republished: true, ..Settings::default() };
        assert_eq!(found(&bus.drift(&settings).await.expect("read"), STREAM_DONE, "republish"), Some("none"));
        assert_eq!(bus.ensure(&settings).await.expect("updated"), []);
        let mut heard = bus.subscribe(&format!("{STORED_PREFIX}>")).await.expect("subscribed");
        let subject = subject::done(&"a.b".parse().expect("a type"), &"s1".parse().expect("an id"));
        bus.send(subject.clone(), Headers::new(), "{}".into()).await.expect("sent");
        let told = tokio::time::timeout(Duration::from_secs(5), heard.next()).await;
        assert!(told.expect("in time").is_some());
        // Turned off as well, and what is somebody else's stays.
        assert_eq!(bus.ensure(&Settings::default()).await.expect("updated"), []);
        bus.send(subject, Headers::new(), "{}".into()).await.expect("sent");
        bus.drift(&settings).await.expect("answered after it");
        assert!(heard.next().now_or_never().is_none());
        let theirs = Republish { source: DONE_ALL.into(), destination: "theirs.>".into(), headers_only: true };
        edit(&bus, STREAM_DONE, |done| done.republish = Some(theirs)).await;
        let drifts = bus.ensure(&settings).await.expect("read");
        assert_eq!(found(&drifts, STREAM_DONE, "republish"), Some("jetlane.done.> to theirs.>, headers only"));
    }

    #[tokio::test]
    async fn what_loses_nothing_is_updated_in_streams_and_buckets() {
        let (_server, bus) = place().await;
        let registry = format!("KV_{BUCKET_REGISTRY}");
        edit(&bus, &registry, |config| {
            (config.allow_direct, config.max_bytes) = (false, 1 << 20);
            config.subject_delete_marker_ttl = None;
        })
        .await;
        edit(&bus, STREAM_DONE, |done| {
            (done.allow_direct, done.allow_batch_publish) = (false, false);
            (done.max_bytes, done.max_age, done.duplicate_window) =
                (1 << 20, Duration::from_secs(60), Duration::from_secs(1));
        })
        .await;
        edit(&bus, STREAM_TASKS, |tasks| drop(tasks.subjects.pop())).await;
        let drifts = bus.drift(&Settings::default()).await.expect("read");
        let of_registry = ["direct_reads", "max_bytes", "marks_s"];
        let of_done = ["direct_reads", "batches", "max_bytes", "max_age_s", "duplicate_window_s"];
        for setting in of_registry {
            assert!(found(&drifts, BUCKET_REGISTRY, setting).is_some(), "{setting} is not compared: {drifts:?}");
        }
        for setting in of_done {
            assert!(found(&drifts, STREAM_DONE, setting).is_some(), "{setting} is not compared: {drifts:?}");
        }
        assert_eq!(drifts.len(), of_registry.len() + of_done.len() + 1, "{drifts:?}");
        assert_eq!(bus.ensure(&Settings::default()).await.expect("updated"), []);
        assert_eq!(bus.drift(&Settings::default()).await.expect("read"), []);
    }

    #[tokio::test]
    async fn what_would_lose_messages_or_cannot_be_changed_is_reported_and_left() {
        let (_server, bus) = place().await;
        let lower = Settings {
            done_age_s: 300,
            done_bytes_max: 1 << 20,
            tasks_bytes_max: 1 << 20,
            lanes_messages_max: 5,
            dead_age_days: 1,
            storage: Storage::Memory,
            ..Settings::default()
        };
        let drifts = bus.ensure(&lower).await.expect("read");
        for (name, setting, is) in [
            (STREAM_DONE, "max_age_s", "3600"),
            (STREAM_DONE, "max_bytes", "none"),
            (STREAM_TASKS, "max_bytes", "none"),
            (STREAM_LANES, "max_messages", "none"),
            (STREAM_DEAD, "max_age_s", "2592000"),
            (STREAM_ADVISORIES, "max_age_s", "2592000"),
            (BUCKET_NOTES, "storage", "File"),
            (STREAM_TIME, "storage", "File"),
        ] {
            assert_eq!(found(&drifts, name, setting), Some(is), "{name} {setting}: {drifts:?}");
        }
        assert_eq!(bus.drift(&Settings::default()).await.expect("read"), [], "nothing was changed");
    }

    #[tokio::test]
    async fn stream_that_was_deleted_and_made_again_has_another_birth() {
        let (_server, bus) = place().await;
        let before = bus.births().await.expect("read");
        assert_eq!(bus.births().await.expect("read").changed_since(&before).count(), 0);
        let registry = format!("KV_{BUCKET_REGISTRY}");
        bus.jetstream.delete_stream(&registry).await.expect("deleted");
        bus.jetstream.delete_stream(STREAM_DONE).await.expect("deleted");
        let both = [STREAM_DONE, registry.as_str()];
        assert_eq!(bus.births().await.expect("read").changed_since(&before).collect::<Vec<_>>(), both);
        bus.ensure(&Settings::default()).await.expect("made");
        assert_eq!(bus.births().await.expect("read").changed_since(&before).collect::<Vec<_>>(), both);
    }
}
