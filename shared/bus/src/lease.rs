//! Who leads a queue: a key that lives one second and is renewed. For order, not for safety: what a
//! leader still gets out after its lease is harmless (design, decision 10).

use crate::connection::Bus;
use crate::error::Error;
use crate::kv::Bucket;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::kv;
use jetlane_schemas::subject::{self, BUCKET_LEASES};
use jetlane_schemas::{QueueName, header};
use std::time::Duration;
use tokio::time::Instant;

/// How long a lease lives without renewal. The server's smallest time to live.
pub const LEASE_TTL: Duration = Duration::from_secs(1);
/// How often a leader renews.
pub const RENEW_EVERY: Duration = Duration::from_millis(300);
/// How long one renewal may take: three fit into a lease.
const RENEW_TIMEOUT: Duration = Duration::from_millis(300);

/// The lease of a queue's leader.
#[derive(Debug)]
pub struct Lease {
    bus: Bus,
    bucket: Bucket,
    key: String,
    holder: String,
    epoch: u64,
    revision: u64,
    valid_until: Instant,
}

impl Bus {
    /// Tries to become the leader of a queue; `None` where there is one.
    ///
    /// # Errors
    /// [`Error::Kv`].
    pub async fn lead(&self, queue: &QueueName, holder: &str) -> Result<Option<Lease>, Error> {
        let bucket = self.bucket(BUCKET_LEASES).await?;
        let key = subject::lease_queue(queue);
        let asked = Instant::now();
        match bucket.store().create_with_ttl(&key, holder.to_owned().into(), LEASE_TTL).await {
            Ok(revision) => Ok(Some(Lease {
                bus: self.clone(),
                bucket,
                key,
                holder: holder.to_owned(),
                epoch: revision,
                revision,
                valid_until: asked + LEASE_TTL,
            })),
            Err(error) if error.kind() == kv::CreateErrorKind::AlreadyExists => Ok(None),
            Err(error) => {
                Err(Error::Kv { operation: "create", bucket: BUCKET_LEASES.into(), key, source: error.into() })
            }
        }
    }
}

impl Lease {
    /// The revision at which the lease was created; renewals do not change it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Until when the holder leads, by its own monotonic clock.
    pub fn valid_until(&self) -> Instant {
        self.valid_until
    }

    /// Renews the lease; says whether it still holds. A renewal without an answer changes nothing: the
    /// lease runs on to its end.
    pub async fn renew(&mut self) -> bool {
        let asked = Instant::now();
        // `Store::update` would drop the time to live: a lease that never ends (facts: KV).
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(header::TTL, format!("{}s", LEASE_TTL.as_secs()));
        headers.insert(header::EXPECTED_LAST_SUBJECT_SEQUENCE, self.revision.to_string());
        let publish = async {
            self.bus
                .jetstream
                .publish_with_headers(subject::kv(BUCKET_LEASES, &self.key), headers, self.holder.clone().into())
                .await?
                .await
        };
        match tokio::time::timeout(RENEW_TIMEOUT, publish).await {
            Ok(Ok(ack)) => {
                self.revision = ack.sequence;
                self.valid_until = asked + LEASE_TTL;
            }
            Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => {
                // Either somebody else leads, or an earlier renewal was stored and its answer was lost.
                match self.bucket.store().entry(&self.key).await {
                    Ok(Some(entry)) if entry.value == self.holder.as_bytes() && entry.revision > self.revision => {
                        self.revision = entry.revision;
                    }
                    _ => self.valid_until = asked,
                }
            }
            Ok(Err(_)) | Err(_) => {}
        }
        Instant::now() < self.valid_until
    }

    /// Gives the lease up, so that another can lead at once.
    pub async fn release(self) {
        let released = self.bucket.store().delete_expect_revision(&self.key, Some(self.revision)).await;
        if let Err(error) = released {
            tracing::debug!(%error, key = self.key, "The lease was not released; it ends by itself.");
        }
    }
}
