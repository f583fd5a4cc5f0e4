//! Pulling from the lanes of every fit that the executor's means cover, each only for the room that is
//! left, and from lanes that are declared later as soon as they are heard of.

use super::credit::{Ledger, Tally};
use super::liveness::Liveness;
use super::status::{LaneStatus, Reporter};
use crate::registry::Registry;
use jetlane_bus::clock::Boottime;
use jetlane_bus::pull::REFUSED_PAUSE;
use jetlane_bus::{Bus, Delivery, Pulled};
use jetlane_core::run::Freshness;
use jetlane_schemas::subject::{Lane, LaneKind, STREAM_LANES};
use jetlane_schemas::{FitEntry, Priority, QueueName};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a lane that could not be made waits for the next try.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long an executor tries to make its first lanes.
const BEGIN_WITHIN: Duration = Duration::from_secs(30);

/// How long after a consumer was made anew its messages are looked up before they run: longer than a message waits in
/// a lane where executors have room.
const DOUBTED_FOR: Duration = Duration::from_secs(30);

/// The most messages that a lane is asked for at once. What was asked for cannot be taken back without
/// losing what is on its way until its lease is over; and a message may carry more than there is room for
/// by then, past executors that have some.
const ASKED_MAX: usize = 64;

/// A message that came from a lane of this fit.
pub(crate) struct Arrival {
    pub(crate) delivery: Delivery,
    pub(crate) tally: Arc<Tally>,
    /// When it was read; its lease begins here.
    pub(crate) received: Boottime,
    pub(crate) freshness: Freshness,
}

/// The lanes that are pulled. Their pulls end when it drains, and with the last of them the channel.
pub(crate) struct Lanes {
    pub(crate) bus: Bus,
    pub(crate) queue: QueueName,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) freed: Arc<watch::Sender<u64>>,
    pub(crate) arrivals: mpsc::Sender<Arrival>,
    pub(crate) reporter: Reporter,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) drain: CancellationToken,
    /// Fits whose lanes are not pulled yet.
    pub(crate) unmade: Vec<Arc<Tally>>,
    pub(crate) pulls: JoinSet<()>,
}

impl Lanes {
    /// Pulls the lanes of these fits too, the narrowest first.
    ///
    /// # Errors
    /// Where the broker refuses a lane: what is missing is made the next time.
    pub(crate) async fn serve(&mut self, declared: &[FitEntry]) -> Result<(), jetlane_bus::Error> {
        let new = self.ledger.serve(declared);
        self.unmade.extend(new);
        while let Some(tally) = self.unmade.first().cloned() {
            let pulled = self.pull(&tally).await;
            let state = pulled.as_ref().map_err(ToString::to_string).copied();
            self.reporter.pulling(&format!("lanes of the fit {}", tally.fit()), state);
            pulled?;
            self.unmade.remove(0);
            tracing::debug!(queue = %self.queue, fit = %tally.fit(), "The lanes of a fit are pulled.");
        }
        // Room may be another one.
        self.freed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// The same at the start, and again for 30 s where the broker refuses: a stream of a cluster is found before
    /// it has elected who answers for it.
    ///
    /// # Errors
    /// The last refusal.
    pub(crate) async fn begin(&mut self, declared: &[FitEntry]) -> Result<(), jetlane_bus::Error> {
        let until = Instant::now() + BEGIN_WITHIN;
        loop {
            match self.serve(declared).await {
                Err(error) if Instant::now() < until => {
                    self.reporter.turned();
                    tracing::warn!(queue = %self.queue, %error, "The lanes cannot be made yet; trying again.");
                }
                other => return other,
            }
            tokio::select! {
                () = self.drain.cancelled() => return Ok(()),
                () = tokio::time::sleep(TRY_AGAIN_AFTER) => {}
            }
        }
    }

    async fn pull(&mut self, tally: &Arc<Tally>) -> Result<(), jetlane_bus::Error> {
        let lane =
            |priority| Lane { kind: LaneKind::Bundle, queue: self.queue.clone(), priority, fit: tally.fit().clone() };
        for priority in Priority::ALL {
            self.bus.ensure_lane(&lane(priority)).await?;
        }
        for priority in Priority::ALL {
            let pulling = Pulling {
                bus: self.bus.clone(),
                lane: lane(priority),
                tally: Arc::clone(tally),
                ledger: Arc::clone(&self.ledger),
                freed: Arc::clone(&self.freed),
                arrivals: self.arrivals.clone(),
                status: LaneStatus::new(self.reporter.clone(), lane(priority).consumer()),
                liveness: Arc::clone(&self.liveness),
                doubted_until: None,
            };
            self.pulls.spawn(pulling.run(self.drain.clone()));
        }
        Ok(())
    }

    /// Follows what the queue declares until it drains, and then until all pulls have ended.
    pub(crate) async fn follow(mut self, registry: Registry) {
        let mut heard = registry.queues_heard();
        loop {
            let is_behind = !self.unmade.is_empty();
            tokio::select! {
                () = self.drain.cancelled() => break,
                changed = heard.changed() => if changed.is_err() {
                    break;
                },
                () = tokio::time::sleep(TRY_AGAIN_AFTER), if is_behind => {}
            }
            let Some(entry) = registry.queue(&self.queue) else { continue };
            if let Err(error) = entry.check() {
                tracing::warn!(queue = %self.queue, %error, "The queue's announcement is malformed; its fits are passed over.");
                continue;
            }
            if let Err(error) = self.serve(&entry.all_fits()).await {
                tracing::warn!(queue = %self.queue, %error, "The lanes of a fit cannot be made yet.");
            }
        }
        self.drain.cancelled().await;
        drop(self.arrivals);
        while self.pulls.join_next().await.is_some() {}
    }
}

/// Pulls one lane, never more than there is room for.
struct Pulling {
    bus: Bus,
    lane: Lane,
    tally: Arc<Tally>,
    ledger: Arc<Ledger>,
    freed: Arc<watch::Sender<u64>>,
    arrivals: mpsc::Sender<Arrival>,
    status: LaneStatus,
    liveness: Arc<Liveness>,
    /// Until when what arrives may be in hand elsewhere: the consumer was made anew, and with it the count of deliveries.
    doubted_until: Option<Instant>,
}

impl Pulling {
    async fn run(mut self, drain: CancellationToken) {
        let consumer = self.lane.consumer();
        let mut puller = match self.bus.puller(STREAM_LANES, &consumer).await {
            Ok(puller) => puller,
            Err(error) => {
                tracing::error!(%error, consumer, "A lane cannot be pulled.");
                self.status.failed(error.to_string());
                return;
            }
        };
        let mut freed = self.freed.subscribe();
        loop {
            freed.mark_unchanged();
            // Room is counted in tasks and asked for in messages.
            let wanted = self.tally.messages_of(self.ledger.wanted(&self.tally)).min(ASKED_MAX);
            let missing = wanted.saturating_sub(puller.outstanding());
            if missing > 0
                && missing >= self.tally.messages_of(self.ledger.step(&self.tally)).min(ASKED_MAX / 2)
                && let Err(error) = puller.ask(missing, None).await
            {
                tracing::debug!(%error, "A pull was not sent.");
                self.status.failed(format!("a pull was not sent: {error}"));
            }
            tokio::select! {
                () = drain.cancelled() => break,
                pulled = puller.next() => {
                    // No more than was asked for: nothing is asked for meanwhile.
                    let mut next = Some(pulled);
                    while let Some(pulled) = next {
                        if self.take(pulled).await.is_err() {
                            return;
                        }
                        next = puller.try_next();
                    }
                }
                _changed = freed.changed() => {}
                () = self.status.accepted() => self.status.pulled(),
            }
        }
        // What a pull brings that nobody reads would come again only after its lease, as another attempt.
        for delivery in puller.end().await {
            if self.take(Pulled::Delivery(delivery)).await.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, pulled: Pulled) -> Result<(), ()> {
        match pulled {
            Pulled::Delivery(delivery) => {
                self.status.pulled();
                self.ledger.arrive(&self.tally);
                let received = Boottime::now();
                let is_doubted = self.doubted_until.is_some_and(|until| Instant::now() < until);
                let freshness = if is_doubted { Freshness::Stale } else { self.liveness.of(received) };
                let arrival = Arrival { delivery, tally: Arc::clone(&self.tally), received, freshness };
                self.arrivals.send(arrival).await.map_err(|_| ())?;
            }
            Pulled::Room => {}
            Pulled::Refused(reason) => {
                tracing::debug!(reason, "A pull of a lane was refused.");
                self.status.failed(format!("the server refuses its pulls: {reason}"));
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            Pulled::Gone => {
                self.doubted_until = Some(Instant::now() + DOUBTED_FOR);
                let made = self.bus.ensure_lane(&self.lane).await;
                self.status.failed(match &made {
                    Ok(()) => "its consumer was gone and is made again".into(),
                    Err(error) => format!("its consumer is gone and cannot be made again: {error}"),
                });
                if let Err(error) = made {
                    tracing::warn!(%error, "A lane is gone and cannot be made again yet.");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
            Pulled::Closed => return Err(()),
        }
        Ok(())
    }
}
