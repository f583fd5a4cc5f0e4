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
/// How long one request of a renewal may take: three fit into a lease.
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

    /// Renews the lease, and returns whether it still holds: at the latest when it ends. A renewal without an answer
    /// changes nothing.
    pub async fn renew(&mut self) -> bool {
        let end = self.valid_until;
        // Elapsed: nobody answered until the end of the lease.
        let _elapsed = tokio::time::timeout_at(end, self.try_renew()).await;
        Instant::now() < self.valid_until
    }

    async fn try_renew(&mut self) {
        let asked = Instant::now();
        // `Store::update` would drop the time to live: a lease that never ends (facts: KV).
        let publish = async { self.bus.write_lease(&self.key, &self.holder, self.revision).await?.await };
        match tokio::time::timeout(RENEW_TIMEOUT, publish).await {
            Ok(Ok(ack)) => {
                self.revision = ack.sequence;
                self.valid_until = asked + LEASE_TTL;
            }
            Ok(Err(error)) if error.kind() == PublishErrorKind::WrongLastSequence => self.read_back(asked).await,
            Ok(Err(_)) | Err(_) => {}
        }
    }

    /// Finds out why a renewal was refused: somebody else leads, the lease has ended, or an earlier renewal was stored
    /// and its answer was lost. Without an answer the lease runs on to its end.
    async fn read_back(&mut self, asked: Instant) {
        match tokio::time::timeout(RENEW_TIMEOUT, self.bucket.store().entry(&self.key)).await {
            Ok(Ok(Some(entry))) if entry.value == self.holder.as_bytes() => {
                // A copy of the bucket may answer that has not seen the last renewal yet.
                self.revision = self.revision.max(entry.revision);
            }
            Ok(Ok(_)) => self.valid_until = asked,
            Ok(Err(_)) | Err(_) => {}
        }
    }

    /// Gives the lease up, so that another can lead at once.
    pub async fn release(self) {
        let store = self.bucket.store();
        // With an end of its own: a plain mark of deletion would stay for as long as the bucket.
        let released = store.purge_expect_revision_with_ttl(&self.key, self.revision, LEASE_TTL).await;
        if let Err(error) = released {
            tracing::debug!(%error, key = self.key, "The lease was not released; it ends by itself.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::stage::place;

    /// A bucket that answers no read: its stream is gone, and somebody silent stands in for it.
    async fn silent_bucket(bus: &Bus) -> (Bucket, async_nats::Subscriber) {
        let name = "silent";
        let config = kv::Config { bucket: name.into(), ..kv::Config::default() };
        bus.jetstream.create_key_value(config).await.expect("made");
        let bucket = bus.bucket(name).await.expect("opened");
        bus.jetstream.delete_key_value(name).await.expect("deleted");
        let nobody = bus.client.subscribe(format!("$JS.API.DIRECT.GET.KV_{name}.>")).await.expect("subscribed");
        (bucket, nobody)
    }

    #[tokio::test]
    async fn lease_that_is_lost_is_known_to_be_lost_by_its_end_though_nobody_answers() {
        let (_server, bus) = place().await;
        let queue = QueueName::default_queue();
        let mut lease = bus.lead(&queue, "a").await.expect("answered").expect("free");
        let end = lease.valid_until();
        let (bucket, _nobody) = silent_bucket(&bus).await;
        lease.bucket = bucket;
        // Another leads, or an answer was lost: the next renewal is refused, and the read is not answered.
        lease.revision -= u64::from(lease.revision > 0);
        while lease.renew().await {
            tokio::time::sleep_until((Instant::now() + RENEW_EVERY).min(lease.valid_until())).await;
        }
        let late = Instant::now().saturating_duration_since(end);
        assert!(late < RENEW_TIMEOUT, "known {late:?} after the end of the lease");
    }

    #[tokio::test]
    async fn renewal_whose_answer_was_lost_keeps_the_lease() {
        let (_server, bus) = place().await;
        let mut lease = bus.lead(&QueueName::default_queue(), "a").await.expect("answered").expect("free");
        let before = lease.revision;
        assert!(lease.renew().await);
        lease.revision = before;
        assert!(lease.renew().await, "it finds its own renewal");
        assert!(lease.renew().await && lease.revision > before + 1);
    }

    #[tokio::test]
    async fn released_lease_leaves_no_mark_for_ever() {
        let (_server, bus) = place().await;
        let lease = bus.lead(&QueueName::default_queue(), "a").await.expect("answered").expect("free");
        lease.release().await;
        let all = format!("KV_{BUCKET_LEASES}");
        let waited = tokio::time::timeout(Duration::from_secs(8), async {
            while !bus.subject_counts(&all, ">").await.expect("counted").is_empty() {
                tokio::time::sleep(RENEW_EVERY).await;
            }
        });
        waited.await.expect("its mark ages away");
        assert!(bus.lead(&QueueName::default_queue(), "b").await.expect("answered").is_some());
    }
}
