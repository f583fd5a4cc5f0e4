//! Buckets: what is announced and noted, as small JSON.

use crate::connection::Bus;
use crate::error::{Error, Source};
use async_nats::jetstream::kv::{self, Operation, Store};
use futures::StreamExt;
use jetlane_schemas::subject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

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
}

/// How far a watch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Some,
    Everything,
    UpToDate,
}

/// How long a watch waits for the rest of what was there when it began.
const FIRST_CHANGES_TIMEOUT: Duration = Duration::from_secs(2);

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

    /// Writes a value.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn put<T: Serialize>(&self, key: &str, value: &T) -> Result<(), Error> {
        let json = serde_json::to_vec(value).map_err(|e| self.failed("write", key, e.into()))?;
        self.store.put(key, json.into()).await.map(|_| ()).map_err(|e| self.failed("put", key, e.into()))
    }

    /// Writes a value where there is none; says whether it did.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn create<T: Serialize>(&self, key: &str, value: &T) -> Result<bool, Error> {
        let json = serde_json::to_vec(value).map_err(|e| self.failed("write", key, e.into()))?;
        match self.store.create(key, json.into()).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(false),
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

    /// Writes a value if the key is still at this revision; says whether it did.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn replace<T: Serialize>(&self, key: &str, value: &T, revision: u64) -> Result<bool, Error> {
        let json = serde_json::to_vec(value).map_err(|e| self.failed("write", key, e.into()))?;
        match self.store.update(key, json.into(), revision).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(self.failed("put", key, error.into())),
        }
    }

    /// Removes a key.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        self.store.delete(key).await.map_err(|e| self.failed("delete", key, e.into()))
    }

    /// Watches the keys under a subject-like pattern, `>` for all.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn watch(&self, keys: &str) -> Result<Watch, Error> {
        let changes = self.store.watch_with_history(keys).await.map_err(|e| self.failed("watch", keys, e.into()))?;
        // A watch of nothing tells nothing, not even that there is nothing.
        let subjects = self.bus.subject_counts(&format!("KV_{}", self.name), &subject::kv(&self.name, keys)).await?;
        let told = if subjects.is_empty() { Told::Everything } else { Told::Some };
        Ok(Watch { changes, told })
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
                self.changes.next().await?
            } else {
                match tokio::time::timeout(FIRST_CHANGES_TIMEOUT, self.changes.next()).await {
                    Ok(entry) => entry?,
                    // The last of what was there was deleted while it was being told.
                    Err(_) => {
                        self.told = Told::Everything;
                        continue;
                    }
                }
            };
            match entry {
                Ok(entry) => {
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
}
