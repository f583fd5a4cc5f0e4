//! What the registry is told at the start: the queue, once, and the types that are served.

use super::Offered;
use super::status::Reporter;
use crate::error::Error;
use jetlane_bus::Bus;
use jetlane_bus::kv::Bucket;
use jetlane_schemas::subject::{self, BUCKET_REGISTRY};
use jetlane_schemas::{FitEntry, QueueEntry, QueueName, TaskType, TypeEntry};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a missing topology is looked for.
const LOOK_AGAIN_EVERY: Duration = Duration::from_millis(250);
/// How long it tries to announce. The registry of a cluster is found before it has elected who answers for it.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(30);

/// How often it is looked whether the registry still has what was announced: one of the types at a time.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// What was announced, to be announced again where the registry has lost it.
pub(crate) struct Announcing {
    pub(crate) bus: Bus,
    pub(crate) queue: QueueName,
    pub(crate) types: Vec<(TaskType, TypeEntry)>,
}

impl Announcing {
    /// Announces again whatever the registry has lost: its bucket was deleted, or the server's data.
    pub(crate) async fn keep(self) {
        let mut checked = 0_usize;
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            let Some((task_type, _)) = self.types.get(checked % self.types.len().max(1)) else { return };
            checked += 1;
            match self.check(task_type).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(queue = %self.queue, "The registry had lost what this executor announced; announced again.")
                }
                Err(error) => tracing::debug!(queue = %self.queue, %error, "The registry cannot be checked."),
            }
        }
    }

    /// Whether a type is still announced; announces all where it is not.
    async fn check(&self, task_type: &TaskType) -> Result<bool, jetlane_bus::Error> {
        let registry = self.bus.bucket(BUCKET_REGISTRY).await?;
        if registry.get::<serde_json::Value>(&subject::registry_type(task_type)).await?.is_some() {
            return Ok(true);
        }
        registry.announce_queue(&self.queue).await?;
        for (task_type, entry) in &self.types {
            announce_type(&registry, task_type, entry).await?;
        }
        Ok(false)
    }
}

/// What the registry knows now.
pub(crate) struct Announced {
    /// The fits that the queue declares.
    pub(crate) fits: Vec<FitEntry>,
    /// The types, in the order in which they are offered.
    pub(crate) types: Vec<TypeEntry>,
}

/// Announces the queue and the types as soon as there is a registry. `None` where it drains meanwhile.
///
/// # Errors
/// [`Error::Option`] where a type's options are out of range; [`Error::Announce`] where the broker has refused
/// for 30 s, or the registry has no room for another type or queue.
pub(crate) async fn all(
    bus: &Bus,
    name: &QueueName,
    types: &[Offered],
    reporter: &Reporter,
    drain: &CancellationToken,
) -> Result<Option<Announced>, Error> {
    let Some(registry) = registry(bus, name, reporter, drain).await else { return Ok(None) };
    let (until, mut told) = (Instant::now() + ANNOUNCE_WITHIN, false);
    loop {
        match once(&registry, name, types).await {
            Ok(announced) => {
                reporter.announced(Ok(()));
                return Ok(Some(announced));
            }
            // It stays full until somebody removes something.
            Err(error @ Error::Announce { source: jetlane_bus::Error::RegistryFull { .. }, .. }) => return Err(error),
            Err(error @ Error::Announce { .. }) if Instant::now() < until => {
                reporter.announced(Err(error.to_string()));
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(queue = %name, %error, cause = ?std::error::Error::source(&error), "Not announced yet; trying again.");
                }
            }
            Err(error) => return Err(error),
        }
        reporter.turned();
        tokio::select! {
            () = drain.cancelled() => return Ok(None),
            () = tokio::time::sleep(LOOK_AGAIN_EVERY) => {}
        }
    }
}

async fn once(registry: &Bucket, name: &QueueName, types: &[Offered]) -> Result<Announced, Error> {
    let fits = queue(registry, name).await?;
    let mut entries = Vec::with_capacity(types.len());
    for each in types {
        entries.push(offered(registry, name, each).await?);
    }
    Ok(Announced { fits, types: entries })
}

/// An executor may come before the first service: it waits for the streams. `None` where it drains
/// meanwhile.
async fn registry(bus: &Bus, queue: &QueueName, reporter: &Reporter, drain: &CancellationToken) -> Option<Bucket> {
    let mut told = false;
    loop {
        match bus.bucket(BUCKET_REGISTRY).await {
            Ok(registry) => return Some(registry),
            Err(error) if !told => {
                tracing::info!(%queue, %error, "Jetlane's streams are not there yet; waiting for a dispatcher.");
                told = true;
            }
            Err(_) => {}
        }
        reporter.announced(Err("the registry does not exist yet: no dispatcher has made the streams".into()));
        reporter.turned();
        tokio::select! {
            () = drain.cancelled() => return None,
            () = tokio::time::sleep(LOOK_AGAIN_EVERY) => {}
        }
    }
}

/// Announces the queue where nobody has; returns the fits that it declares.
///
/// # Errors
/// [`Error::Announce`].
async fn queue(registry: &Bucket, queue: &QueueName) -> Result<Vec<FitEntry>, Error> {
    let key = subject::registry_queue(queue);
    let failed = |source| Error::Announce { what: format!("queue {queue}"), source };
    registry.announce_queue(queue).await.map_err(failed)?;
    match registry.get::<QueueEntry>(&key).await {
        Ok(entry) => Ok(entry.filter(|entry| entry.check().is_ok()).unwrap_or_default().all_fits()),
        Err(error) => {
            tracing::warn!(%queue, %error, "The queue's announcement cannot be read; only the fit `any` is served.");
            Ok(QueueEntry::default().all_fits())
        }
    }
}

/// Announces a type; returns the announcement.
///
/// # Errors
/// [`Error::Announce`], and [`Error::Option`] where the type's options are out of range.
async fn offered(registry: &Bucket, queue: &QueueName, offered: &Offered) -> Result<TypeEntry, Error> {
    let entry = (offered.announce)(queue);
    entry.check()?;
    let failed = |source| Error::Announce { what: format!("type {}", offered.task_type), source };
    announce_type(registry, &offered.task_type, &entry).await.map_err(failed)?;
    Ok(entry)
}

/// Written only where it differs, so that a hundred executors of one kind make one announcement.
async fn announce_type(registry: &Bucket, task_type: &TaskType, entry: &TypeEntry) -> Result<(), jetlane_bus::Error> {
    let key = subject::registry_type(task_type);
    // What is there may be no such JSON: it is replaced.
    let known: Option<serde_json::Value> = registry.get(&key).await.unwrap_or_default();
    let known = known.and_then(|json| serde_json::from_value::<TypeEntry>(json).ok());
    match known {
        Some(known) if known == *entry => Ok(()),
        Some(known) => {
            if known.queue != entry.queue {
                tracing::warn!(%task_type, from = %known.queue, to = %entry.queue, "The type moves to another queue.");
            }
            registry.put(&key, entry).await
        }
        None => {
            registry.room_for_type(task_type).await?;
            registry.put(&key, entry).await
        }
    }
}
