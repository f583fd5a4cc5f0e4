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
        // One by one: a send that is dropped in between takes one with it, whose message comes again, and leaves the
        // others to the task that sends late: it sends until none waits, and the next one wakes it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::stage::place;
    use futures::{FutureExt, StreamExt};
    use std::collections::BTreeSet;

    /// More than the runtime lets pass at once, and fewer than are sent without waiting.
    const COUNT: usize = 250;

    #[tokio::test]
    async fn acks_that_a_dropped_send_leaves_behind_go_out_by_themselves() {
        let (_server, bus) = place().await;
        let mut heard = bus.client.subscribe("test.ack.*").await.expect("subscribed");
        let settling = Settling::begin(bus.client.clone());
        let add = async |number: usize| {
            let ack = Subject::from(format!("test.ack.{number}"));
            settling.add(&bus.client, ack).await.expect("added");
        };
        // The task that sends late has had its first wake-up.
        add(0).await;
        assert!(heard.next().await.is_some());
        for number in 1..COUNT {
            add(number).await;
        }
        // The runtime lets some pass at once, then interrupts.
        assert!(settling.send(&bus.client).now_or_never().is_none(), "the send is not interrupted");
        assert!(!settling.waiting.lock().is_empty());
        let most = tokio::time::timeout(Duration::from_secs(5), async {
            let mut subjects = BTreeSet::new();
            // All but the one that the dropped send had taken.
            while subjects.len() < COUNT - 2 {
                subjects.insert(heard.next().await.expect("open").subject);
            }
        });
        most.await.expect("what was left behind is sent");
    }
}
