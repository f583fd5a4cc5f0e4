//! Buckets: what is announced and noted, as small JSON.

use crate::connection::Bus;
use crate::error::{Error, Source};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::kv::{self, Operation, Store};
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use futures::StreamExt;
use jetlane_schemas::subject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    bus: Bus,
    store: Store,
    name: String,
}

/// A change of a key.
#[derive(Debug, Clone)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its value; `None` once it is deleted.
    pub value: Option<Vec<u8>>,
    /// Its revision.
    pub revision: u64,
}

/// What a watch tells.
#[derive(Debug, Clone)]
pub enum Watched {
    /// A key as it is, or as it has become.
    Change(Change),
    /// All that was there when the watch began has been told.
    UpToDate,
}

/// A watch of some keys: first everything that is there, then every change.
pub struct Watch {
    changes: kv::Watch,
    told: Told,
    /// The revision of the last change that was told.
    revision: u64,
    bucket: Bucket,
    /// The keys, and their subjects.
    keys: String,
    filter: String,
    /// The client library goes on after the last revision it saw, also in a bucket that was made anew, where
    /// revisions begin at 1 again: then everything there would be missed.
    connections: watch::Receiver<u64>,
    look_at: Instant,
}

/// How far a watch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Some,
    Everything,
    UpToDate,
}

/// How long a watch waits for the rest of what was there when it began, until it asks whether there is more.
const FIRST_CHANGES_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a watch that tells nothing looks whether its bucket was deleted and made anew, beside every reconnect. A
/// request a watch.
const LOOK_FOR_ANOTHER_EVERY: Duration = Duration::from_secs(20);
/// How long the mark of a deleted key is kept: longer than any reader of the bucket is away and comes back by the same
/// watch. After it the key costs nothing any more, however many there ever were.
pub(crate) const MARK_AGE: Duration = Duration::from_secs(60 * 60);

impl Bus {
    /// Opens a bucket that [`Bus::ensure`] has made.
    ///
    /// # Errors
    /// [`Error::Kv`] where it is missing.
    pub async fn bucket(&self, name: &str) -> Result<Bucket, Error> {
        let store = self.jetstream.get_key_value(name).await.map_err(|source| Error::Kv {
            operation: "open",
            bucket: name.to_owned(),
            key: String::new(),
            source: source.into(),
        })?;
        Ok(Bucket { bus: self.clone(), store, name: name.to_owned() })
    }
}

impl Bucket {
    fn failed(&self, operation: &'static str, key: &str, source: Source) -> Error {
        Error::Kv { operation, bucket: self.name.clone(), key: key.to_owned(), source }
    }

    /// Reads a value; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Kv`], also where the value is no such JSON.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let value = self.store.get(key).await.map_err(|e| self.failed("get", key, e.into()))?;
        value.map(|json| serde_json::from_slice(&json).map_err(|e| self.failed("read", key, e.into()))).transpose()
    }

    /// Returns whether a key has a value, whatever it is.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn has(&self, key: &str) -> Result<bool, Error> {
        let value = self.store.get(key).await.map_err(|e| self.failed("get", key, e.into()))?;
        Ok(value.is_some())
    }

    /// Writes a value.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn put<T: Serialize>(&self, key: &str, value: &T) -> Result<(), Error> {
        let json = serde_json::to_vec(value).map_err(|e| self.failed("write", key, e.into()))?;
        self.store.put(key, json.into()).await.map(|_| ()).map_err(|e| self.failed("put", key, e.into()))
    }

    /// Writes a value where there is none; returns its revision, `None` where there is one.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn create<T: Serialize>(&self, key: &str, value: &T) -> Result<Option<u64>, Error> {
        let json = serde_json::to_vec(value).map_err(|e| self.failed("write", key, e.into()))?;
        match self.store.create(key, json.into()).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(self.failed("create", key, error.into())),
        }
    }

    /// Reads a value with its revision, for [`Bucket::replace`]. The revision is 0 where there never was
    /// one, and that of the mark where it was deleted.
    ///
    /// # Errors
    /// [`Error::Kv`], also where the value is no such JSON.
    pub async fn get_revision<T: DeserializeOwned>(&self, key: &str) -> Result<(Option<T>, u64), Error> {
        let entry = self.store.entry(key).await.map_err(|e| self.failed("get", key, e.into()))?;
        let Some(entry) = entry else { return Ok((None, 0)) };
        if entry.operation != Operation::Put {
            return Ok((None, entry.revision));
        }
        let value = serde_json::from_slice(&entry.value).map_err(|e| self.failed("read", key, e.into()))?;
        Ok((Some(value), entry.revision))
    }

    /// Writes a value if the key is still at this revision; returns the new one, `None` where it is not.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn replace<T: Serialize>(&self, key: &str, value: &T, revision: u64) -> Result<Option<u64>, Error> {
        let json = serde_json::to_vec(value).map_err(|e| self.failed("write", key, e.into()))?;
        match self.store.update(key, json.into(), revision).await {
            Ok(revision) => Ok(Some(revision)),
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(None),
            Err(error) => Err(self.failed("put", key, error.into())),
        }
    }

    /// Removes a key. Its mark is kept for an hour, for those who watch.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        if self.store.stream.cached_info().config.allow_message_ttl {
            self.delete_for(key, MARK_AGE).await
        } else {
            self.store.delete(key).await.map_err(|e| self.failed("delete", key, e.into()))
        }
    }

    /// Removes a key if it is still at this revision; says whether it did.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn delete_revision(&self, key: &str, revision: u64) -> Result<bool, Error> {
        match self.store.delete_expect_revision(key, Some(revision)).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(self.failed("delete", key, error.into())),
        }
    }

    async fn delete_for(&self, key: &str, age: Duration) -> Result<(), Error> {
        self.store.purge_with_ttl(key, age).await.map_err(|e| self.failed("delete", key, e.into()))
    }

    /// Watches the keys under a subject-like pattern, `>` for all.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn watch(&self, keys: &str) -> Result<Watch, Error> {
        let changes = self.store.watch_with_history(keys).await.map_err(|e| self.failed("watch", keys, e.into()))?;
        // A watch of nothing tells nothing, not even that there is nothing.
        let filter = subject::kv(&self.name, keys);
        let subjects = self.bus.subject_counts(&format!("KV_{}", self.name), &filter).await?;
        let told = if subjects.is_empty() { Told::Everything } else { Told::Some };
        let mut connections = self.bus.connections();
        connections.mark_unchanged();
        let look_at = Instant::now() + LOOK_FOR_ANOTHER_EVERY;
        let (bucket, keys) = (self.clone(), keys.to_owned());
        Ok(Watch { changes, told, revision: 0, bucket, keys, filter, connections, look_at })
    }

    /// Returns whether something is stored under these subjects after a revision. The leader answers.
    async fn has_after(&self, filter: &str, revision: u64) -> Result<bool, Error> {
        let first = self.store.stream.get_first_raw_message_by_subject(filter, revision + 1).await;
        match first {
            Ok(_) => Ok(true),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(false),
                LastRawMessageErrorKind::JetStream(inner)
                    if [ErrorCode::NO_MESSAGE_FOUND, ErrorCode::STREAM_NOT_FOUND].contains(&inner.error_code()) =>
                {
                    Ok(false)
                }
                _ => Err(self.failed("read", filter, error.into())),
            },
        }
    }

    /// Lists the keys under a pattern, also deleted ones whose marks are still there. One request.
    pub(crate) async fn keys_and_marks(&self, keys: &str) -> Result<Vec<String>, Error> {
        let prefix = subject::kv(&self.name, "");
        let filter = subject::kv(&self.name, keys);
        let subjects = self.bus.subject_counts(&format!("KV_{}", self.name), &filter).await?;
        Ok(subjects.into_keys().filter_map(|subject| subject.strip_prefix(&prefix).map(str::to_owned)).collect())
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }
}

impl Watch {
    /// The next change; `None` once the connection is closed for good. What was there first is told
    /// first; [`Watched::UpToDate`] comes once, after it. Cancel safe.
    pub async fn next(&mut self) -> Option<Watched> {
        loop {
            if self.told == Told::Everything {
                self.told = Told::UpToDate;
                return Some(Watched::UpToDate);
            }
            let entry = if self.told == Told::UpToDate {
                tokio::select! {
                    biased;
                    entry = self.changes.next() => {
                        self.look_at = Instant::now() + LOOK_FOR_ANOTHER_EVERY;
                        entry?
                    }
                    Ok(()) = self.connections.changed() => {
                        self.look_at = Instant::now();
                        continue;
                    }
                    () = tokio::time::sleep_until(self.look_at) => {
                        self.look_for_another().await;
                        continue;
                    }
                }
            } else {
                match tokio::time::timeout(FIRST_CHANGES_TIMEOUT, self.changes.next()).await {
                    Ok(entry) => entry?,
                    Err(_silence) => {
                        match self.bucket.has_after(&self.filter, self.revision).await {
                            // The last of what was there was deleted while it was being told, or the bucket was.
                            Ok(false) => self.told = Told::Everything,
                            Ok(true) => tracing::warn!(
                                bucket = self.bucket.name,
                                revision = self.revision,
                                "A bucket is read slowly; waiting for the rest."
                            ),
                            Err(error) => tracing::warn!(%error, "A bucket does not answer; waiting for the rest."),
                        }
                        continue;
                    }
                }
            };
            match entry {
                Ok(entry) => {
                    self.revision = entry.revision;
                    if self.told == Told::Some && entry.seen_current {
                        self.told = Told::Everything;
                    }
                    return Some(Watched::Change(Change {
                        key: entry.key,
                        value: (entry.operation == Operation::Put).then(|| entry.value.to_vec()),
                        revision: entry.revision,
                    }));
                }
                // The client rebuilds its consumer by itself.
                Err(error) => tracing::debug!(%error, "A watch was interrupted."),
            }
        }
    }

    /// Begins anew where the bucket is another one than the one that was opened. What it holds is told as changes.
    async fn look_for_another(&mut self) {
        let was = self.bucket.store.stream.cached_info().created;
        let opened = match self.bucket.bus.bucket(&self.bucket.name).await {
            Ok(bucket) if bucket.store.stream.cached_info().created != was => {
                let changes = bucket.store.watch_with_history(&self.keys).await;
                changes.map(|changes| (bucket, changes)).map_err(|e| self.bucket.failed("watch", &self.keys, e.into()))
            }
            Ok(_same) => {
                self.look_at = Instant::now() + LOOK_FOR_ANOTHER_EVERY;
                return;
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok((bucket, changes)) => {
                tracing::warn!(bucket = bucket.name, "A bucket was deleted and made anew; reading it from the start.");
                (self.bucket, self.changes, self.revision) = (bucket, changes, 0);
                self.look_at = Instant::now() + LOOK_FOR_ANOTHER_EVERY;
            }
            Err(error) => {
                tracing::debug!(%error, "A bucket that is watched does not answer; looking again.");
                self.look_at = Instant::now() + FIRST_CHANGES_TIMEOUT;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::stage::place;
    use jetlane_schemas::header;
    use jetlane_schemas::subject::BUCKET_REGISTRY;
    use rustix::process::{Pid, Signal, kill_process};
    use std::collections::BTreeSet;

    const KEYS: usize = 400;

    #[tokio::test]
    async fn snapshot_is_complete_only_with_every_key_though_the_server_is_slow() {
        let (server, bus) = place().await;
        let bucket = bus.bucket(BUCKET_REGISTRY).await.expect("opened");
        // More than the sockets hold.
        let value = "x".repeat(64 << 10);
        for number in 0..KEYS {
            bucket.put(&format!("k.{number}"), &value).await.expect("put");
        }
        let pid = Pid::from_raw(i32::try_from(server.pid().expect("it runs")).expect("a pid")).expect("a pid");
        let mut watch = bucket.watch(">").await.expect("watched");
        kill_process(pid, Signal::STOP).expect("stopped");
        tokio::spawn(async move {
            tokio::time::sleep(FIRST_CHANGES_TIMEOUT + Duration::from_secs(1)).await;
            kill_process(pid, Signal::CONT).expect("continued");
        });
        let mut told = BTreeSet::new();
        while let Watched::Change(change) = watch.next().await.expect("open") {
            told.insert(change.key);
        }
        assert_eq!(told.len(), KEYS);
    }

    #[tokio::test]
    async fn snapshot_of_keys_that_are_deleted_meanwhile_ends() {
        let (_server, bus) = place().await;
        let bucket = bus.bucket(BUCKET_REGISTRY).await.expect("opened");
        bucket.put("k.1", &1).await.expect("put");
        let mut watch = bucket.watch(">").await.expect("watched");
        bus.jetstream.get_stream(&format!("KV_{BUCKET_REGISTRY}")).await.expect("there").purge().await.expect("purged");
        // Whatever was told of it, nothing more is to come.
        watch.told = Told::Some;
        let end = tokio::time::timeout(FIRST_CHANGES_TIMEOUT * 3, async {
            while !matches!(watch.next().await.expect("open"), Watched::UpToDate) {}
        });
        end.await.expect("it is complete");
    }

    #[tokio::test]
    async fn watch_goes_on_in_a_bucket_that_was_deleted_and_made_anew() {
        let (_server, bus) = place().await;
        let bucket = bus.bucket(BUCKET_REGISTRY).await.expect("opened");
        for number in 0..10 {
            bucket.put("k", &number).await.expect("put");
        }
        let mut watch = bucket.watch(">").await.expect("watched");
        while !matches!(watch.next().await, Some(Watched::UpToDate)) {}
        bus.jetstream.delete_key_value(BUCKET_REGISTRY).await.expect("deleted");
        bus.ensure(&crate::topology::Settings::default()).await.expect("made anew");
        bus.bucket(BUCKET_REGISTRY).await.expect("opened").put("k", &77).await.expect("put");
        tokio::time::pause();
        tokio::time::advance(LOOK_FOR_ANOTHER_EVERY).await;
        tokio::time::resume();
        let told = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                if let Some(Watched::Change(Change { value: Some(value), .. })) = watch.next().await
                    && value == b"77"
                {
                    return;
                }
            }
        });
        told.await.expect("the new bucket is told");
    }

    #[tokio::test]
    async fn marks_of_deleted_keys_age_away() {
        let (_server, bus) = place().await;
        let bucket = bus.bucket(BUCKET_REGISTRY).await.expect("opened");
        let keys: Vec<String> = (0..50).map(|number| format!("shards.default.t{number}")).collect();
        for key in &keys {
            bucket.put(key, &1).await.expect("put");
            bucket.delete_for(key, Duration::from_secs(1)).await.expect("deleted");
        }
        let all = tokio::time::timeout(Duration::from_secs(8), async {
            let stream = format!("KV_{BUCKET_REGISTRY}");
            while !bus.subject_counts(&stream, ">").await.expect("counted").is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        all.await.expect("nothing is left of them");
    }

    #[tokio::test]
    async fn mark_of_a_deleted_key_has_an_end() {
        let (_server, bus) = place().await;
        let bucket = bus.bucket(BUCKET_REGISTRY).await.expect("opened");
        bucket.put("shards.default.a", &1).await.expect("put");
        let mut watch = bucket.watch(">").await.expect("watched");
        bucket.delete("shards.default.a").await.expect("deleted");
        assert_eq!(bucket.get::<u32>("shards.default.a").await.expect("read"), None);
        let deleted =
            async { while !matches!(watch.next().await, Some(Watched::Change(Change { value: None, .. }))) {} };
        tokio::time::timeout(Duration::from_secs(5), deleted).await.expect("the watch tells it");
        let marks = bus.look(&format!("KV_{BUCKET_REGISTRY}"), ">", crate::look::Start::Sequence(1), 9).await;
        let marks = marks.expect("read");
        assert_eq!(marks.len(), 1, "the value is gone");
        assert!(marks[0].headers.get(header::TTL).is_some(), "its mark stays for ever: {:?}", marks[0].headers);
        assert!(bucket.create("shards.default.a", &2).await.expect("answered").is_some(), "the key can be made again");
    }
}
