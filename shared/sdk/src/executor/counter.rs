//! Where deliveries become running tasks: what runs, what waits for a slot, and what goes back because
//! there is no room for it.

use super::attempt::Desk;
use super::lease::Holding;
use super::next_run;
use super::parcel::{Job, Parcel};
use super::pulling::Arrival;
use super::runs::Runs;
use super::status::Reporter;
use super::telling::Ran;
use super::unbundle;
use super::waiting::Waiting;
use futures::future::join_all;
use jetlane_core::run::{Arrived, Custody, Freshness, Reception, receive};
use jetlane_schemas::frame;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};
use tokio_util::sync::CancellationToken;

/// How long the handing back of runs that have not ended in time may take.
const HALT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the loop turns though there is nothing to do, so that health checks see it move.
const TURN_EVERY: Duration = Duration::from_secs(1);

/// Messages that are taken before their tasks start.
const ARRIVALS_A_TURN: usize = 64;

/// The tasks in hand. No more wait than the ledger has room for.
pub(crate) struct Counter {
    desk: Arc<Desk>,
    holding: Arc<Holding>,
    freed: Arc<watch::Sender<u64>>,
    waiting: Waiting,
    /// Bundles that are taken apart.
    unbundling: JoinSet<()>,
    runs: Arc<Runs>,
    reporter: Reporter,
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.runs.abandon();
    }
}

impl Counter {
    pub(crate) fn new(desk: Desk, holding: Arc<Holding>, freed: Arc<watch::Sender<u64>>, reporter: Reporter) -> Self {
        let (waiting, unbundling, desk) = (Waiting::default(), JoinSet::new(), Arc::new(desk));
        let runs = Arc::new(Runs::new(Arc::clone(&desk), Arc::clone(&freed)));
        Self { desk, holding, freed, waiting, unbundling, runs, reporter }
    }

    /// Takes what arrives until it drains or nothing can arrive any more.
    pub(crate) async fn serve(
        mut self,
        mut inbox: mpsc::Receiver<Arrival>,
        drain_within: Duration,
        drain: CancellationToken,
    ) {
        let mut limits = self.desk.governor.changes();
        let mut idle = tokio::time::interval(TURN_EVERY);
        idle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.reporter.turned();
            tokio::select! {
                biased;
                () = drain.cancelled() => break,
                () = self.runs.slot_freed() => self.runs.start(&mut self.waiting),
                Some(_ended) = self.unbundling.join_next() => {}
                Ok(()) = limits.changed() => self.keep_to_the_limit().await,
                arrival = inbox.recv() => match arrival {
                    Some(arrival) => self.take(arrival, &mut inbox).await,
                    None => break,
                },
                // Last, so that it costs nothing while there is work.
                _ = idle.tick() => {}
            }
        }
        self.drain(inbox, drain_within).await;
    }

    /// What was on its way or waits goes back; what runs may end.
    async fn drain(mut self, mut inbox: mpsc::Receiver<Arrival>, drain_within: Duration) {
        let desk = Arc::clone(&self.desk);
        let Desk { bus, queue, ledger, .. } = &*desk;
        ledger.close();
        ledger.tell_all(bus, queue).await;
        let end = Instant::now() + drain_within;
        // Not before the pulls have ended: what is handed back would come here again.
        let mut back = self.waiting.drain();
        while let Ok(Some(arrival)) = timeout_at(end, inbox.recv()).await {
            back.extend(self.open(arrival).await.0);
        }
        join_all(back.into_iter().map(|job| self.hand_back(job))).await;
        while let Ok(Some(_ended)) = timeout_at(end, self.unbundling.join_next()).await {}
        if !self.runs.ended_by(end).await {
            tracing::warn!(runs = self.runs.len(), "Handlers did not end in time; their tasks are handed back.");
            if !self.runs.halt(HALT_TIMEOUT).await {
                tracing::warn!("Not all could be handed back; they run again once their lease is over.");
            }
        }
        // The last runs too: the leader learns from them, and stops counting on them.
        ledger.tell_all(bus, queue).await;
    }

    /// Takes what has arrived: what has come meanwhile starts together with the first.
    async fn take(&mut self, first: Arrival, inbox: &mut mpsc::Receiver<Arrival>) {
        let mut back = Vec::new();
        let (mut next, mut taken) = (Some(first), 0);
        while let Some(arrival) = next {
            let (jobs, admitted) = self.open(arrival).await;
            for (place, job) in jobs.into_iter().enumerate() {
                if place >= admitted.by_means {
                    back.push(job);
                } else if place >= admitted.by_capacity {
                    back.push(self.displaced_by(job));
                } else {
                    self.waiting.push(job);
                }
            }
            taken += 1;
            next = if taken < ARRIVALS_A_TURN { inbox.try_recv().ok() } else { None };
        }
        self.runs.start(&mut self.waiting);
        join_all(back.into_iter().map(|job| self.hand_back(job))).await;
    }

    /// What goes back when all room is taken and one more arrives: the last that waits of those that more
    /// executors can run, or else the one that arrived.
    fn displaced_by(&mut self, job: Job) -> Job {
        let is_broader = |other: &Job| other.parcel.tally.rank() > job.parcel.tally.rank();
        match self.waiting.take_last(is_broader) {
            Some(broader) => {
                self.waiting.push(job);
                broader
            }
            None => job,
        }
    }

    /// Reads a message's tasks, and for how many of them there is room. One that cannot be read is
    /// nobody's: it is ended, so that it stands in nobody's way.
    async fn open(&mut self, arrival: Arrival) -> (Vec<Job>, super::credit::Admitted) {
        let Arrival { delivery, tally } = arrival;
        let ledger = &self.desk.ledger;
        let tasks = match frame::decode_bundle(&delivery.body) {
            Ok(tasks) => tasks,
            Err(error) => {
                tracing::error!(subject = delivery.subject, sequence = delivery.facts.stream_sequence, %error, "A bundle cannot be read and is dropped.");
                let admitted = ledger.open(&tally, 0);
                self.freed.send_modify(|count| *count += 1);
                if let Err(error) = delivery.ack.settle().await {
                    tracing::debug!(%error, "An ack was not sent.");
                }
                return (Vec::new(), admitted);
            }
        };
        let arrived = Arrived {
            delivered: delivery.facts.delivered,
            tasks: tasks.len(),
            freshness: Freshness::Fresh,
            custody: Custody::New,
        };
        if receive(arrived) == Reception::TakeApart {
            let admitted = ledger.open(&tally, 0);
            let desk = Arc::clone(&self.desk);
            self.unbundling.spawn(async move { unbundle::unbundle(&desk, &delivery, &tally, tasks).await });
            self.freed.send_modify(|count| *count += 1);
            return (Vec::new(), admitted);
        }
        let admitted = ledger.open(&tally, tasks.len());
        (Parcel::open(delivery.ack, delivery.facts.delivered, tally, &self.holding, tasks), admitted)
    }

    /// The limit is another one: what there is no more room for goes to executors that have some.
    async fn keep_to_the_limit(&mut self) {
        self.runs.start(&mut self.waiting);
        while self.runs.len() + self.waiting.len() > self.desk.ledger.capacity()
            && let Some(job) = self.waiting.pop_last()
        {
            self.hand_back(job).await;
        }
        self.freed.send_modify(|count| *count += 1);
    }

    async fn hand_back(&self, job: Job) {
        next_run::hand_back(&self.desk, &job).await;
        self.desk.ledger.news.ended(&job.task, Ran::NOT);
        self.desk.ledger.settle(&job.parcel.tally);
        self.freed.send_modify(|count| *count += 1);
    }
}
