//! Where deliveries become running tasks: what runs, what waits for a slot, and what goes back because
//! there is no room for it.

use super::attempt::{self, Desk, Inquired};
use super::credit::Tally;
use super::lease::{Holding, key_of};
use super::next_run;
use super::parcel::{Job, Opened, Parcel};
use super::pulling::Arrival;
use super::runs::Runs;
use super::status::Reporter;
use super::telling::Ran;
use super::unbundle;
use super::unreadable;
use super::waiting::Waiting;
use jetlane_core::run::{Arrived, Custody, Freshness, Reception, receive};
use jetlane_schemas::frame;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout, timeout_at};
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
    /// Bundles that are taken apart, tasks that are handed back, and messages that cannot be read.
    beside: JoinSet<()>,
    /// Tasks that are looked up before they take a slot: no more than the ledger has room for.
    inquiries: JoinSet<(Job, Result<Inquired, jetlane_bus::Error>)>,
    /// Cancelled when inquiries are to end.
    draining: CancellationToken,
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
        let (waiting, desk) = (Waiting::default(), Arc::new(desk));
        let runs = Arc::new(Runs::new(Arc::clone(&desk), Arc::clone(&freed)));
        Self {
            desk,
            holding,
            freed,
            waiting,
            beside: JoinSet::new(),
            inquiries: JoinSet::new(),
            draining: CancellationToken::new(),
            runs,
            reporter,
        }
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
                Some(_ended) = self.beside.join_next() => {}
                Some(Ok((job, inquired))) = self.inquiries.join_next() => self.inquired(job, inquired).await,
                () = self.desk.cancelled.news() => self.drop_cancelled(),
                Ok(()) = limits.changed() => self.keep_to_the_limit(),
                arrival = inbox.recv() => match arrival {
                    Some(arrival) => self.take(arrival, &mut inbox),
                    None => break,
                },
                // Last, so that it costs nothing while there is work.
                _ = idle.tick() => {}
            }
        }
        self.drain(inbox, drain_within).await;
    }

    /// What was on its way or waits goes back; what runs may end. All of it within one time: the broker may be away.
    async fn drain(mut self, mut inbox: mpsc::Receiver<Arrival>, drain_within: Duration) {
        let desk = Arc::clone(&self.desk);
        let Desk { bus, queue, ledger, .. } = &*desk;
        let end = Instant::now() + drain_within;
        ledger.close();
        let _late = timeout_at(end, ledger.tell_all(bus, queue)).await;
        // Not before the pulls have ended: what is handed back would come here again.
        let mut back = self.waiting.drain();
        while let Ok(Some(arrival)) = timeout_at(end, inbox.recv()).await {
            back.extend(self.open(arrival).0);
        }
        back.into_iter().for_each(|job| self.hand_back(job));
        // What is looked up has not begun here, and its owner may run it.
        let _late = timeout(HALT_TIMEOUT, self.leave_inquiries()).await;
        while let Ok(Some(_ended)) = timeout_at(end, self.beside.join_next()).await {}
        if !self.runs.ended_by(end).await {
            tracing::warn!(runs = self.runs.len(), "Handlers did not end in time; their tasks are handed back.");
            if !self.runs.halt(HALT_TIMEOUT).await {
                tracing::warn!("Not all could be handed back; they run again once their lease is over.");
            }
        }
        // The last runs too: the leader learns from them, and stops counting on them.
        let _late = timeout(HALT_TIMEOUT, ledger.tell_all(bus, queue)).await;
    }

    /// Gives what is looked up back to the broker.
    async fn leave_inquiries(&mut self) {
        self.draining.cancel();
        while let Some(looked_up) = self.inquiries.join_next().await {
            let Ok((job, inquired)) = looked_up else { continue };
            match inquired {
                Ok(Inquired::Over(settled)) => attempt::settled_by(&job, Ok(settled)).await,
                Ok(Inquired::Ready(_)) | Err(_) => job.parcel.give_back().await,
            }
        }
    }

    /// Takes what has arrived: what has come meanwhile starts together with the first.
    fn take(&mut self, first: Arrival, inbox: &mut mpsc::Receiver<Arrival>) {
        let mut back = Vec::new();
        let (mut next, mut taken) = (Some(first), 0);
        while let Some(arrival) = next {
            let (jobs, admitted) = self.open(arrival);
            for (place, job) in jobs.into_iter().enumerate() {
                if place >= admitted.by_means {
                    back.push(job);
                } else if place >= admitted.by_capacity {
                    back.push(self.displaced_by(job));
                } else {
                    self.keep(job);
                }
            }
            taken += 1;
            next = if taken < ARRIVALS_A_TURN { inbox.try_recv().ok() } else { None };
        }
        self.runs.start(&mut self.waiting);
        back.into_iter().for_each(|job| self.hand_back(job));
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

    /// Reads a message's tasks, and for how many of them there is room. What is in hand already goes on under the new
    /// delivery.
    fn open(&mut self, arrival: Arrival) -> (Vec<Job>, super::credit::Admitted) {
        let Arrival { delivery, tally, received, freshness } = arrival;
        let (key, delivered) = (key_of(&delivery), delivery.facts.delivered);
        let custody = if delivered > 1 || freshness == Freshness::Stale {
            self.holding.adopt(key, delivery.ack.clone(), delivered, received)
        } else {
            Custody::New
        };
        if custody == Custody::Held {
            tracing::debug!(sequence = key.0, delivered, "A message in hand was delivered again; it goes on here.");
            return self.opened_nothing(&tally);
        }
        let desk = Arc::clone(&self.desk);
        let tasks = match frame::decode_bundle(&delivery.body) {
            Ok(tasks) => tasks,
            Err(error) => {
                self.beside.spawn(async move { unreadable::end(&desk, &delivery, &error).await });
                return self.opened_nothing(&tally);
            }
        };
        if receive(Arrived { delivered, tasks: tasks.len(), freshness, custody }) == Reception::TakeApart {
            let nothing = self.opened_nothing(&tally);
            self.beside.spawn(async move { unbundle::unbundle(&desk, &delivery, &tally, tasks).await });
            return nothing;
        }
        let opened = Opened { key, ack: delivery.ack, delivered, received, freshness };
        let jobs = Parcel::open(opened, Arc::clone(&tally), &self.holding, tasks);
        if jobs.is_empty() {
            return self.opened_nothing(&tally);
        }
        let admitted = self.desk.ledger.open(&tally, jobs.len());
        (jobs, admitted)
    }

    /// A message whose tasks do not run here has made room.
    fn opened_nothing(&self, tally: &Tally) -> (Vec<Job>, super::credit::Admitted) {
        let admitted = self.desk.ledger.open(tally, 0);
        self.freed.send_modify(|count| *count += 1);
        (Vec::new(), admitted)
    }

    /// Takes a task in hand: it waits for a slot, or is looked up first.
    fn keep(&mut self, job: Job) {
        if attempt::is_inquired(&self.desk, &job) || self.desk.cancelled.contains(&job.task) {
            self.look_up(job);
        } else {
            self.waiting.push(job);
        }
    }

    fn look_up(&mut self, job: Job) {
        let (desk, draining) = (Arc::clone(&self.desk), self.draining.clone());
        self.inquiries.spawn(async move {
            let inquired = tokio::select! {
                inquired = attempt::inquire(&desk, &job) => inquired,
                () = draining.cancelled() => Ok(Inquired::Ready(None)),
            };
            (job, inquired)
        });
    }

    /// A task was looked up: it waits for a slot, or is over here.
    async fn inquired(&mut self, mut job: Job, inquired: Result<Inquired, jetlane_bus::Error>) {
        let settled = match inquired {
            Ok(Inquired::Ready(given_up)) => {
                job.given_up = given_up;
                self.waiting.push(job);
                self.runs.start(&mut self.waiting);
                return;
            }
            Ok(Inquired::Over(settled)) => Ok(settled),
            Err(error) => Err(error),
        };
        attempt::settled_by(&job, settled).await;
        self.runs.over(&job, Ran::NOT);
        self.freed.send_modify(|count| *count += 1);
    }

    /// Looks up what waits and is cancelled: it takes no slot and no room.
    fn drop_cancelled(&mut self) {
        let desk = Arc::clone(&self.desk);
        for job in self.waiting.take_all(|job| desk.cancelled.contains(&job.task)) {
            self.look_up(job);
        }
    }

    /// The limit is another one: what there is no more room for goes to executors that have some.
    fn keep_to_the_limit(&mut self) {
        self.runs.start(&mut self.waiting);
        while self.runs.len() + self.waiting.len() > self.desk.ledger.capacity()
            && let Some(job) = self.waiting.pop_last()
        {
            self.hand_back(job);
        }
        self.freed.send_modify(|count| *count += 1);
    }

    /// Hands a task back. Not waited for here: the broker may be away. One that may run elsewhere goes back as the
    /// same run.
    fn hand_back(&mut self, job: Job) {
        let (desk, freed) = (Arc::clone(&self.desk), Arc::clone(&self.freed));
        self.beside.spawn(async move {
            if attempt::is_inquired(&desk, &job) {
                job.parcel.give_back().await;
            } else {
                next_run::hand_back(&desk, &job).await;
            }
            desk.ledger.news.ended(&job.task, Ran::NOT);
            desk.ledger.settle(&job.parcel.tally);
            freed.send_modify(|count| *count += 1);
        });
    }
}
