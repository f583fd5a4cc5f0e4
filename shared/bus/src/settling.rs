//! Acks of deliveries that nobody waits for: they go with the next publish of their connection, so that
//! they cost no write of their own, or by themselves a few milliseconds later.

use async_nats::{Client, PublishError, Subject};
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// How long an ack waits for a publish.
const WITHIN: Duration = Duration::from_millis(5);
/// Acks that wait, at most.
const WAITING_MAX: usize = 256;

/// The acks of a connection that wait.
#[derive(Debug)]
pub(crate) struct Settling {
    waiting: Arc<Waiting>,
    sending: AbortHandle,
}

#[derive(Debug, Default)]
struct Waiting {
    acks: Mutex<Vec<Subject>>,
    first: Notify,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Vec<Subject>> {
        self.acks.lock().expect("nobody panics while holding acks that wait")
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.sending.abort();
    }
}

impl Settling {
    /// Begins to send what waits too long.
    pub(crate) fn begin(client: Client) -> Self {
        let waiting = Arc::<Waiting>::default();
        let sending = tokio::spawn(send_late(client, Arc::clone(&waiting))).abort_handle();
        Self { waiting, sending }
    }

    /// This one waits, unless there are too many.
    pub(crate) async fn add(&self, client: &Client, ack: Subject) -> Result<(), PublishError> {
        let count = {
            let mut acks = self.waiting.lock();
            acks.push(ack);
            acks.len()
        };
        match count {
            1 => self.waiting.first.notify_one(),
            WAITING_MAX.. => self.send(client).await?,
            _ => {}
        }
        Ok(())
    }

    /// Sends all that wait.
    pub(crate) async fn send(&self, client: &Client) -> Result<(), PublishError> {
        send(client, &self.waiting).await
    }
}

async fn send(client: &Client, waiting: &Waiting) -> Result<(), PublishError> {
    loop {
        // One by one: whoever stops in between has taken one with it, and not all.
        let next = waiting.lock().pop();
        let Some(ack) = next else { return Ok(()) };
        client.publish(ack, Bytes::from_static(b"+ACK")).await?;
    }
}

async fn send_late(client: Client, waiting: Arc<Waiting>) {
    loop {
        waiting.first.notified().await;
        tokio::time::sleep(WITHIN).await;
        if send(&client, &waiting).await.is_err() {
            tracing::debug!("The connection is closed; what was not acknowledged comes again.");
            return;
        }
    }
}
