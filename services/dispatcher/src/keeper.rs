//! A lease while it lasts: renewed on its own, so that no decision has to wait for it.

use jetlane_bus::lease::{Lease, RENEW_EVERY};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Renews a lease until it is lost or given up.
#[derive(Debug)]
pub(crate) struct Keeper {
    lost: CancellationToken,
    give_up: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(crate) fn keep(mut lease: Lease) -> Self {
        let (lost, give_up) = (CancellationToken::new(), CancellationToken::new());
        let (its_lost, its_give_up) = (lost.clone(), give_up.clone());
        let task = tokio::spawn(async move {
            loop {
                if !lease.renew().await {
                    its_lost.cancel();
                    return;
                }
                tokio::select! {
                    () = its_give_up.cancelled() => return lease.release().await,
                    // At its end, if that comes first: then the lease is lost, and whoever leads is told at once.
                    () = tokio::time::sleep_until((Instant::now() + RENEW_EVERY).min(lease.valid_until())) => {}
                }
            }
        });
        Self { lost, give_up, task: Some(task) }
    }

    /// Ends once the lease is lost.
    pub(crate) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Gives the lease up, so that another can lead at once.
    pub(crate) async fn give_up(mut self) {
        self.give_up.cancel();
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::debug!(%error, "The keeper of a lease did not end well; the lease ends by itself.");
        }
    }
}

impl Drop for Keeper {
    /// A leader that ends in any other way renews no more: a lease without a leader would stop the queue.
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
