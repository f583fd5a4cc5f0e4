//! One queue led: its flows read, its tasks held, the core's decisions carried out.
//!
//! Everything runs in one task of the runtime: no message costs a spawn or a lock, and a task that
//! arrives is dispatched in the same turn.
//!
//! # Layout
//! - `start`: taking over from whoever led before
//! - `intake`: messages of flows become held tasks; `flows`: the consumers that bring them;
//!   `sources`: the messages that are held, and the acks that they owe
//! - `output`: decisions carried out, and their outcomes; `bundles`: dispatches that share messages
//! - `clients`: plain lanes, and the executors' credit; `answers`: what plain clients answer;
//!   `runs`: what was dispatched until its end is told
//! - `estimates`: what is learned of run times; `needs`: fits, and what nobody fits
//! - `suspects`: tasks that an executor may run although their deadline has passed
//! - `tenants`: who stands where in line; `questions`: why a task waits, and when one would start
//! - `upkeep`: signs of life, counts, shares

mod answers;
mod bundles;
mod clients;
mod estimates;
mod flows;
mod intake;
mod needs;
mod output;
mod questions;
mod runs;
mod sources;
mod start;
mod suspects;
mod tenants;
mod upkeep;

use crate::World;
use crate::error::Error;
use crate::read::Fate;
use bundles::Bundles;
use clients::{Clients, Heard};
use estimates::{Expected, Learned};
use flows::{Flows, Opened, Turn};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use jetlane_bus::{Ack, Message, Outgoing, Subscription, clock};
use jetlane_core::duplicates::Duplicates;
use jetlane_core::numbers::Numbers;
use jetlane_core::shards::Shards;
use jetlane_core::{Decision, EntryId, Event, FlowId, Queue};
use jetlane_schemas::{Flow, Micros, QueueEntry, QueueName, TaskEvent, TaskRef, TaskType};
use needs::Fits;
use output::Carried;
use questions::Asked;
use runs::Runs;
use sources::{SourceId, Sources};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use upkeep::Upkeep;

/// Decisions that are being carried out at once. The connection bounds its publishes likewise.
const WORKS_MAX: usize = 1_000;
/// How often the leader looks after what it holds.
const TICK: Duration = Duration::from_millis(250);
/// How long a draining leader waits for what it is storing. Then the next leader finds out.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Outcomes taken in one turn, before other events are looked at.
const OUTCOMES_A_TURN: usize = 256;

/// A queue's leader.
pub(crate) struct Leader {
    world: World,
    queue: QueueName,
    core: Queue,
    held: HashMap<EntryId, Held>,
    entries: u64,
    runs: Duplicates,
    sources: Sources,
    flows: Flows,
    works: FuturesUnordered<BoxFuture<'static, Carried>>,
    bundles: Bundles,
    under_way: bundles::UnderWay,
    /// What this turn has for the lanes.
    leaving: Vec<(bundles::Parcel, Outgoing)>,
    /// Publishes to lanes whose outcome is not known.
    on_the_way: usize,
    /// Messages whose tasks are all settled, to be acknowledged at the end of this turn.
    acks: Vec<Ack>,
    credits: Subscription,
    questions: Subscription,
    asked: Asked,
    /// What was dispatched and has not ended, as far as is known.
    dispatched: Runs,
    learned: Learned,
    tenants: Numbers,
    types: intake::Types,
    endings: answers::Endings,
    suspects: suspects::Suspects,
    fits: Fits,
    clients: Clients,
    cancelled: broadcast::Receiver<TaskRef>,
    shards: Shards,
    shared_told: tenants::Told,
    entry: QueueEntry,
    upkeep: Upkeep,
}

/// A task that is held.
struct Held {
    task: Box<TaskEvent>,
    fate: Fate,
    flow: FlowId,
    source: SourceId,
    stored_at: Micros,
    read_at: Micros,
    expected: Expected,
    joins: crate::carry::Joins,
}

/// What a leader woke up for.
enum Woken {
    Carried(Carried),
    Turned(Turn),
    Opened(Opened),
    Rang(Flow),
    Credit(Option<Message>),
    Asked(Option<Message>),
    Heard(Heard),
    Inquired(suspects::Inquired),
    Cancelled(Result<TaskRef, broadcast::error::RecvError>),
    Announced,
    Found,
    Tick,
    Time,
    Drain,
    Closed,
}

impl Leader {
    /// Leads until told to drain, then gives back what is held.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::TakeOver`]. Being dropped is safe at any point.
    pub(crate) async fn serve(&mut self, drain: &CancellationToken) -> Result<(), Error> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let beat = self.world.readiness.heartbeat(format!("leader of the queue {}", self.queue));
        loop {
            self.decide();
            self.acknowledge().await?;
            let wake_at = self.core.wake_at().filter(|_| self.carrying() < WORKS_MAX).map(instant_of);
            match self.wait(&mut tick, wake_at, drain).await {
                Woken::Drain => return self.drain().await,
                Woken::Closed => return Err(Error::Closed),
                woken => {
                    if matches!(woken, Woken::Tick) {
                        beat.beat();
                    }
                    self.take(woken).await?;
                }
            }
        }
    }

    /// Waits for the next thing to happen. No arm loses anything when another is ready first.
    async fn wait(
        &mut self,
        tick: &mut tokio::time::Interval,
        wake_at: Option<Instant>,
        drain: &CancellationToken,
    ) -> Woken {
        let wake = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(carried) = self.works.next(), if !self.works.is_empty() => Woken::Carried(carried),
            Some(carried) = self.endings.next(), if !self.endings.is_empty() => Woken::Carried(carried),
            Some(inquired) = self.suspects.questions.next(), if !self.suspects.questions.is_empty() => Woken::Inquired(inquired),
            Some(turn) = self.flows.turns.next(), if !self.flows.turns.is_empty() => Woken::Turned(turn),
            Some(opened) = self.flows.openings.next(), if !self.flows.openings.is_empty() => Woken::Opened(opened),
            Some(flow) = self.flows.rings.next(), if !self.flows.rings.is_empty() => Woken::Rang(flow),
            credit = self.credits.next() => Woken::Credit(credit),
            asked = self.questions.next() => Woken::Asked(asked),
            Some(heard) = self.clients.heard.next(), if !self.clients.heard.is_empty() => Woken::Heard(heard),
            cancelled = self.cancelled.recv() => Woken::Cancelled(cancelled),
            changed = self.world.registry.changed() => if changed.is_ok() { Woken::Announced } else { Woken::Closed },
            changed = self.world.found.changed() => if changed.is_ok() { Woken::Found } else { Woken::Closed },
            _now = tick.tick() => Woken::Tick,
            () = wake => Woken::Time,
            () = drain.cancelled() => Woken::Drain,
        }
    }

    async fn take(&mut self, woken: Woken) -> Result<(), Error> {
        match woken {
            Woken::Carried(carried) => self.take_outcomes(carried),
            Woken::Turned(turn) => self.take_turn(turn).await?,
            Woken::Opened(opened) => self.take_opened(opened)?,
            Woken::Rang(flow) => self.flows.rang(&flow),
            Woken::Credit(credit) => self.take_credit(&credit.ok_or(Error::Closed)?),
            Woken::Asked(question) => self.take_question(&question.ok_or(Error::Closed)?),
            Woken::Heard(heard) => self.take_heard(heard)?,
            Woken::Inquired(inquired) => self.inquired(inquired),
            Woken::Cancelled(cancelled) => self.take_cancelled(cancelled)?,
            Woken::Announced => self.take_announced(),
            Woken::Found => self.take_found(),
            Woken::Tick => self.look_after().await?,
            Woken::Time | Woken::Drain | Woken::Closed => {}
        }
        Ok(())
    }

    fn take_outcomes(&mut self, first: Carried) {
        use futures::FutureExt as _;
        self.carried(first);
        for _ in 0..OUTCOMES_A_TURN {
            match self.works.next().now_or_never().flatten() {
                Some(carried) => self.carried(carried),
                None => return,
            }
        }
    }

    /// Carries out decisions for as long as there are any and not too many are under way.
    fn decide(&mut self) {
        let now = clock::now();
        let mut bundles = std::mem::take(&mut self.bundles);
        while self.carrying() + bundles.len() < WORKS_MAX {
            match self.core.next(now) {
                None => break,
                Some(Decision::Dispatch { entry, kind, waited }) => self.dispatch(&mut bundles, entry, kind, waited),
                Some(Decision::Expire(entry)) => self.end(entry),
                Some(Decision::Drop(entry)) => self.drop_entry(entry),
                Some(Decision::Yield(entry)) => self.ask_to_yield(entry),
                Some(Decision::Pull { flow, messages, bytes }) => self.flows.ask(flow, messages, bytes),
            }
        }
        self.inquire_doubtful();
        self.send_due(&mut bundles);
        self.bundles = bundles;
        self.send_leaving();
    }

    /// How much is being carried out, at most: each message to a lane, each group of them, and what else there is.
    fn carrying(&self) -> usize {
        self.works.len() + self.on_the_way
    }

    async fn acknowledge(&mut self) -> Result<(), Error> {
        for ack in self.acks.drain(..) {
            // Sent, not confirmed: a message whose ack is lost comes again and is recognised.
            ack.settle_soon().await.map_err(|_closed| Error::Closed)?;
        }
        Ok(())
    }

    fn take_cancelled(&mut self, cancelled: Result<TaskRef, broadcast::error::RecvError>) -> Result<(), Error> {
        match cancelled {
            Ok(task) => self.cancel(&task),
            Err(broadcast::error::RecvError::Lagged(_)) => {
                let held: Vec<EntryId> = self.held.keys().copied().collect();
                for entry in held {
                    if self.held.get(&entry).is_some_and(|held| self.world.cancelled.contains(&held.task)) {
                        self.core.on(clock::now(), Event::Cancelled(entry));
                    }
                }
            }
            Err(broadcast::error::RecvError::Closed) => return Err(Error::Closed),
        }
        Ok(())
    }

    fn cancel(&mut self, task: &TaskRef) {
        let of_type = |(task_type, entry): (&TaskType, EntryId)| (*task_type == task.task_type).then_some(entry);
        for entry in self.runs.held(&task.id).filter_map(of_type).collect::<Vec<_>>() {
            self.core.on(clock::now(), Event::Cancelled(entry));
        }
    }

    /// The next outcome of what is under way, endings among it; `None` where nothing is.
    async fn next_outcome(&mut self) -> Option<Carried> {
        tokio::select! {
            Some(carried) = self.works.next(), if !self.works.is_empty() => Some(carried),
            Some(carried) = self.endings.next(), if !self.endings.is_empty() => Some(carried),
            else => None,
        }
    }

    /// Stops reading, finishes what is being stored and gives back the rest.
    async fn drain(&mut self) -> Result<(), Error> {
        self.flows.close_all();
        self.send_all();
        self.send_leaving();
        let end = Instant::now() + DRAIN_TIMEOUT;
        // A task that a client refused for good is in no stream any more: only this leader can end it.
        while let Ok(Some(carried)) = tokio::time::timeout_at(end, self.next_outcome()).await {
            self.carried(carried);
            self.send_leaving();
            self.acknowledge().await?;
        }
        if let Err(error) = self.keep_all_learned().await {
            tracing::warn!(queue = %self.queue, %error, "What was learned of run times could not be kept.");
        }
        // Pulls that still wait in the server must be gone before anything is given back, or it comes here.
        let flush = |source| Error::TakeOver { queue: self.queue.clone(), source };
        self.world.bus.flush().await.map_err(flush)?;
        for ack in self.sources.acks() {
            ack.give_back(Duration::ZERO).await.map_err(|_closed| Error::Closed)?;
        }
        self.world.bus.flush().await.map_err(flush)?;
        tracing::info!(queue = %self.queue, given_back = self.held.len(), "The lead of a queue is given up.");
        Ok(())
    }
}

/// The monotonic clock's reading at a time of the calendar's.
fn instant_of(at: Micros) -> Instant {
    Instant::now() + Duration::from_micros(at.0.saturating_sub(clock::now().0))
}
