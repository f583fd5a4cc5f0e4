//! Who leads a queue: a key that lives one second and is renewed. For order, not for safety: what a
//! leader still gets out after its lease is harmless (design, decision 10).

use crate::connection::Bus;
use crate::error::Error;
use crate::kv::Bucket;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
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
        let failed = |source| Error::Kv { operation: "create", bucket: BUCKET_LEASES.into(), key: key.clone(), source };
        // The mark of an ended lease counts as a last message. `Store::create_with_ttl` passes over that
        // mark, and drops the time to live with it: a lease that never ends (measured).
        let last = match bucket.store().entry(&key).await.map_err(|e| failed(e.into()))? {
            Some(entry) if entry.operation == kv::Operation::Put => return Ok(None),
            Some(mark) => mark.revision,
            None => 0,
        };
        let asked = Instant::now();
        match self.write_lease(&key, holder, last).await.map_err(|e| failed(e.into()))?.await {
            Ok(ack) => Ok(Some(Lease {
                bus: self.clone(),
                bucket,
                key,
                holder: holder.to_owned(),
                epoch: ack.sequence,
                revision: ack.sequence,
                valid_until: asked + LEASE_TTL,
            })),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Writes a lease over the last message of its key, with its time to live.
    async fn write_lease(&self, key: &str, holder: &str, last: u64) -> Result<PublishAckFuture, PublishError> {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(header::TTL, format!("{}s", LEASE_TTL.as_secs()));
        headers.insert(header::EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string());
        let subject = subject::kv(BUCKET_LEASES, key);
        self.jetstream.publish_with_headers(subject, headers, holder.to_owned().into()).await
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
        let publish = async { self.bus.write_lease(&self.key, &self.holder, self.revision).await?.await };
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
