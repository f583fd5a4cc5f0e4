//! Pulling from the lanes by free slots, and what is held: tasks, not messages. A message owes its ack
//! when every task in it is settled.

use super::attempt::{self, Desk};
use super::credit::Ledger;
use super::lease::{Holding, Lease};
use super::service::TaskService;
use crate::error::Error;
use jetlane_bus::pull::REFUSED_PAUSE;
use jetlane_bus::{Ack, Bus, Delivery, Pulled, Subscription};
use jetlane_schemas::subject::{self, Lane, LaneKind, STREAM_LANES};
use jetlane_schemas::{Fit, Priority, QueueName, TaskEvent, TaskId, TaskType, TypeEntry, frame};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long the handing back of runs that have not ended in time may take.
const HALT_TIMEOUT: Duration = Duration::from_secs(2);

/// How much an executor takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) slots: usize,
    pub(crate) prefetch: usize,
}

impl Room {
    /// Room is asked for in steps: a pull for every freed slot would cost the broker a message a task.
    /// What waits here meanwhile is more than a step, so no slot waits for it.
    pub(crate) fn step(self) -> usize {
        (self.prefetch / 2).max(1)
    }
}

/// A message of a lane: settled when all of its tasks are.
pub(crate) struct Parcel {
    ack: Ack,
    number: u64,
    open: AtomicUsize,
    holding: Arc<Holding>,
    pub(crate) lease: Lease,
    pub(crate) delivered: u64,
}

impl Parcel {
    /// One of its tasks is settled; the last one acks the message.
    pub(crate) async fn settle_one(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.holding.release(self.number);
            if let Err(error) = self.ack.settle().await {
                tracing::debug!(%error, "An ack was not sent; the message comes again and is recognised.");
            }
        }
    }

    /// One of its tasks could not be settled: the message is left to come again.
    pub(crate) fn abandon(&self) {
        self.holding.release(self.number);
    }
}

/// A task in hand.
pub(crate) struct Job {
    pub(crate) task: Arc<TaskEvent>,
    pub(crate) parcel: Arc<Parcel>,
    pub(crate) stop: CancellationToken,
}

/// Cancellation of the tasks that run here, by id.
#[derive(Default)]
pub(crate) struct Running(Mutex<HashMap<TaskId, CancellationToken>>);

impl Running {
    pub(crate) fn begin(&self, id: &TaskId, stop: &CancellationToken) {
        self.0.lock().expect("nobody panics while holding the list of runs").insert(id.clone(), stop.clone());
    }

    pub(crate) fn end(&self, id: &TaskId) {
        self.0.lock().expect("nobody panics while holding the list of runs").remove(id);
    }

    fn cancel(&self, id: &TaskId) {
        if let Some(stop) = self.0.lock().expect("nobody panics while holding the list of runs").get(id) {
            stop.cancel();
        }
    }
}

/// Runs the executor until it has drained.
pub(crate) async fn run(
    bus: Bus,
    queue: QueueName,
    types: BTreeMap<TaskType, TypeEntry>,
    services: BTreeMap<TaskType, TaskService>,
    room: Room,
    drain_within: Duration,
    drain: CancellationToken,
) -> Result<(), Error> {
    let failed = |source| Error::Lanes { queue: queue.to_string(), source };
    let executor = TaskId::generate().to_string();
    let ledger = Arc::new(Ledger::new(executor, room.slots + room.prefetch));
    let holding = Arc::new(Holding::default());
    let running = Arc::new(Running::default());
    let freed = Arc::new(watch::Sender::new(0));
    let (deliveries, inbox) = mpsc::channel(room.slots + room.prefetch + 1);
    let mut helpers = JoinSet::new();
    for priority in Priority::ALL {
        let lane = Lane { kind: LaneKind::Bundle, queue: queue.clone(), priority, fit: Fit::default() };
        bus.ensure_lane(&lane).await.map_err(failed)?;
        let pulling = Pulling {
            bus: bus.clone(),
            lane,
            room,
            ledger: Arc::clone(&ledger),
            freed: Arc::clone(&freed),
            deliveries: deliveries.clone(),
        };
        helpers.spawn(pulling.run(drain.clone()));
    }
    // Once every lane's pulls have ended, nothing comes any more.
    drop(deliveries);
    let cancels = bus.subscribe(subject::CANCEL_ALL).await.map_err(failed)?;
    helpers.spawn(hear_cancels(cancels, Arc::clone(&running)));
    helpers.spawn(Arc::clone(&holding).keep_alive());
    {
        let (bus, queue, ledger) = (bus.clone(), queue.clone(), Arc::clone(&ledger));
        helpers.spawn(async move { ledger.keep_telling(&bus, &queue).await });
    }
    tracing::info!(%queue, types = types.len(), slots = room.slots, "Executor is ready.");
    let desk = Arc::new(Desk { bus: bus.clone(), queue: queue.clone(), types, services, running });
    let (waiting, runs, halt) = (VecDeque::new(), JoinSet::new(), CancellationToken::new());
    let counter = Counter { desk, ledger, holding, freed, room, waiting, runs, halt };
    counter.serve(inbox, drain_within, drain).await;
    helpers.shutdown().await;
    bus.flush().await.map_err(failed)?;
    tracing::info!(%queue, "Executor has drained.");
    Ok(())
}

async fn hear_cancels(mut cancels: Subscription, running: Arc<Running>) {
    while let Some(message) = cancels.next().await {
        if let Some(id) = subject::parse_cancel(&message.subject) {
            running.cancel(&id);
        }
    }
}

/// Pulls one lane, never more than there is room for.
struct Pulling {
    bus: Bus,
    lane: Lane,
    room: Room,
    ledger: Arc<Ledger>,
    freed: Arc<watch::Sender<u64>>,
    deliveries: mpsc::Sender<Delivery>,
}

impl Pulling {
    async fn run(self, drain: CancellationToken) {
        let consumer = self.lane.consumer();
        let mut puller = match self.bus.puller(STREAM_LANES, &consumer).await {
            Ok(puller) => puller,
            Err(error) => {
                tracing::error!(%error, consumer, "A lane cannot be pulled.");
                return;
            }
        };
        let mut freed = self.freed.subscribe();
        loop {
            freed.mark_unchanged();
            let free = (self.room.slots + self.room.prefetch).saturating_sub(self.ledger.held());
            let missing = free.saturating_sub(puller.outstanding());
            if missing >= self.room.step()
                && let Err(error) = puller.ask(missing, None).await
            {
                tracing::debug!(%error, "A pull was not sent.");
            }
            tokio::select! {
                () = drain.cancelled() => break,
                pulled = puller.next() => if self.take(pulled).await.is_err() {
                    return;
                },
                _changed = freed.changed() => {}
            }
        }
        // What a pull brings that nobody reads would come again only after its lease, as another attempt.
        for delivery in puller.end().await {
            if self.take(Pulled::Delivery(delivery)).await.is_err() {
                return;
            }
        }
    }

    async fn take(&self, pulled: Pulled) -> Result<(), ()> {
        match pulled {
            Pulled::Delivery(delivery) => {
                self.ledger.arrive();
                self.deliveries.send(delivery).await.map_err(|_| ())?;
            }
            Pulled::Room => {}
            Pulled::Refused(reason) => {
                tracing::debug!(reason, "A pull of a lane was refused.");
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
            Pulled::Gone => {
                if let Err(error) = self.bus.ensure_lane(&self.lane).await {
                    tracing::warn!(%error, "A lane is gone and cannot be made again yet.");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
            }
            Pulled::Closed => return Err(()),
        }
        Ok(())
    }
}

/// Where deliveries become running tasks.
struct Counter {
    desk: Arc<Desk>,
    ledger: Arc<Ledger>,
    holding: Arc<Holding>,
    freed: Arc<watch::Sender<u64>>,
    room: Room,
    waiting: VecDeque<Job>,
    runs: JoinSet<()>,
    /// Ends the runs that have not ended in time.
    halt: CancellationToken,
}

impl Counter {
    async fn serve(mut self, mut inbox: mpsc::Receiver<Delivery>, drain_within: Duration, drain: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = drain.cancelled() => break,
                Some(_ended) = self.runs.join_next() => self.start_waiting(),
                delivery = inbox.recv() => match delivery {
                    Some(delivery) => self.take(delivery).await,
                    None => break,
                },
            }
        }
        self.drain(inbox, drain_within).await;
    }

    /// What was on its way or waits goes back; what runs may end.
    async fn drain(mut self, mut inbox: mpsc::Receiver<Delivery>, drain_within: Duration) {
        self.ledger.close();
        self.ledger.tell(&self.desk.bus, &self.desk.queue).await;
        let end = tokio::time::Instant::now() + drain_within;
        // Not before the pulls have ended: what is handed back would come here again.
        let mut back: Vec<Job> = self.waiting.drain(..).collect();
        while let Ok(Some(delivery)) = tokio::time::timeout_at(end, inbox.recv()).await {
            back.extend(self.open(delivery).await);
        }
        for job in back {
            self.hand_back(job).await;
        }
        while let Ok(Some(_ended)) = tokio::time::timeout_at(end, self.runs.join_next()).await {}
        if !self.runs.is_empty() {
            tracing::warn!(runs = self.runs.len(), "Handlers did not end in time; their tasks are handed back.");
            self.halt.cancel();
            let halted = async { while self.runs.join_next().await.is_some() {} };
            if tokio::time::timeout(HALT_TIMEOUT, halted).await.is_err() {
                tracing::warn!("Not all could be handed back; they run again once their lease is over.");
            }
        }
        self.runs.shutdown().await;
    }

    async fn take(&mut self, delivery: Delivery) {
        for job in self.open(delivery).await {
            if self.runs.len() < self.room.slots {
                self.start(job);
            } else if self.waiting.len() < self.room.prefetch.max(1) {
                self.waiting.push_back(job);
            } else {
                self.hand_back(job).await;
            }
        }
    }

    /// Reads a message's tasks. One that cannot be read is nobody's: it is ended, so that it stands in
    /// nobody's way.
    async fn open(&self, delivery: Delivery) -> Vec<Job> {
        let tasks = match frame::decode_bundle(&delivery.body) {
            Ok(tasks) => tasks,
            Err(error) => {
                tracing::error!(subject = delivery.subject, sequence = delivery.facts.stream_sequence, %error, "A bundle cannot be read and is dropped.");
                self.ledger.take(0);
                self.freed.send_modify(|count| *count += 1);
                if let Err(error) = delivery.ack.settle().await {
                    tracing::debug!(%error, "An ack was not sent.");
                }
                return Vec::new();
            }
        };
        self.ledger.take(tasks.len());
        let stop = CancellationToken::new();
        let (number, lease) = self.holding.hold(delivery.ack.clone(), stop.clone());
        let parcel = Arc::new(Parcel {
            ack: delivery.ack,
            number,
            open: AtomicUsize::new(tasks.len()),
            holding: Arc::clone(&self.holding),
            lease,
            delivered: delivery.facts.delivered,
        });
        tasks
            .into_iter()
            .map(|task| Job { task: Arc::new(task), parcel: Arc::clone(&parcel), stop: stop.child_token() })
            .collect()
    }

    fn start_waiting(&mut self) {
        while self.runs.len() < self.room.slots
            && let Some(job) = self.waiting.pop_front()
        {
            self.start(job);
        }
    }

    fn start(&mut self, job: Job) {
        let (desk, ledger, freed) = (Arc::clone(&self.desk), Arc::clone(&self.ledger), Arc::clone(&self.freed));
        let (step, halt) = (self.room.step() as u64, self.halt.clone());
        self.runs.spawn(async move {
            let has_ended = tokio::select! {
                biased;
                () = attempt::run(&desk, &job) => true,
                () = halt.cancelled() => false,
            };
            if !has_ended {
                attempt::halt(&desk, job).await;
            }
            if ledger.settle().is_multiple_of(step) {
                freed.send_modify(|count| *count += 1);
            }
        });
    }

    async fn hand_back(&self, job: Job) {
        attempt::hand_back(&self.desk, &job, Duration::ZERO).await;
        let _total = self.ledger.settle();
        self.freed.send_modify(|count| *count += 1);
    }
}
