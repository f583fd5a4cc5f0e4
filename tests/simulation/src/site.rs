//! Everything that a run consists of: the world, the network, the processes, and the faults that strike them.

use crate::broker::{Answer, ConsumerName};
use crate::broker::{Body, Broker, Delivery, Expect, LANE_ACK_WAIT, Publish, Record, Settings, Stream, Subject};
use crate::checker::{Checker, Violation};
use crate::mutant::{Mutant, Mutants};
use crate::network::{Network, News, Reply};
use crate::plan::{Fault, Hop, Plan, Point, Role, mix};
use crate::world::{MS, Process, SECOND, Time, World};
use crate::{dispatcher, executor, submitter};
use jetlane_schemas::{Outcome, QueueName, RunToken, TaskEvent, TaskType};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// How long the same bytes are sent again by those who can wait.
pub const PUBLISH_DEADLINE: Time = 90 * SECOND;
/// How long by an executor that keeps a finished result.
pub const RESULT_DEADLINE: Time = 300 * SECOND;
/// The pauses between sends: the first, and the longest.
const PAUSE_MIN: Time = 100 * MS;
const PAUSE_MAX: Time = SECOND;
/// A run ends here at the latest: what has not drained by then never does.
const RUN_MAX: Time = 1_500 * SECOND;
/// How often it is looked whether the run is over.
const LOOK_EVERY: Time = 500 * MS;
/// How long a message id is remembered.
const DEDUP_WINDOW: Time = 120 * SECOND;
/// The same, much too short.
const DEDUP_WINDOW_SHORT: Time = 20;
/// How long nothing may stir before the run is over: late messages have arrived by then.
const QUIET: Time = 16 * SECOND;

/// How many priorities are used: two lanes are enough for every way through the code.
pub const RANKS: usize = 2;

struct Node {
    role: Role,
    index: usize,
    process: Process,
    starts: u32,
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Stored now.
    Stored(u64),
    /// These bytes had been stored before.
    Duplicate(u64),
    /// The subject has another last message.
    WrongLast,
    /// No answer in all the time: it may be stored.
    Unknown,
}

/// What became of a completion.
#[derive(Debug, Clone)]
pub enum Completed {
    /// It is stored.
    Won,
    /// Another was stored before.
    Lost(Rc<Record>),
    /// It is not known.
    Unknown,
}

impl Completed {
    /// The completion that is stored, where this became of `own`.
    pub fn stored(&self, own: &Record) -> Option<Record> {
        match self {
            Self::Won => Some(own.clone()),
            Self::Lost(other) => Some(Record::clone(other)),
            Self::Unknown => None,
        }
    }
}

/// All parts of a run. Parts hold it by reference counting; [`Site::run`] takes them apart again.
pub struct Site {
    /// The clock and the processes.
    pub world: World,
    /// The way to the broker.
    pub network: Rc<Network>,
    /// What is to happen.
    pub plan: Plan,
    /// The planted bug.
    pub mutants: Mutants,
    /// What has happened.
    pub checker: RefCell<Checker>,
    /// Ids of the submissions.
    pub ids: Vec<Rc<str>>,
    /// The task type of all of them.
    pub task_type: TaskType,
    /// Their queue.
    pub queue: QueueName,
    nodes: RefCell<Vec<Node>>,
    points: RefCell<BTreeMap<Point, u32>>,
    tokens: Cell<u64>,
    /// Submitters at work.
    pub submitting: Cell<usize>,
}

impl Site {
    fn new(plan: &Plan, mutants: Mutants) -> Rc<Self> {
        let world = World::default();
        let dedup_window = if mutants.has(Mutant::DedupWindowShort) { DEDUP_WINDOW_SHORT } else { DEDUP_WINDOW };
        let mut broker = Broker::new(Settings { dedup_window });
        for rank in 0..RANKS {
            broker.ensure_consumer(&lane(rank), LANE_ACK_WAIT);
        }
        let ids = (0..plan.tasks.len()).map(|index| submitter::id_of(plan.seed, index)).collect();
        Rc::new(Self {
            network: Network::new(&world, plan, broker),
            world,
            plan: plan.clone(),
            mutants,
            checker: RefCell::new(Checker::new(plan)),
            ids,
            task_type: TaskType::new("simulated.task").expect("two tokens of letters"),
            queue: QueueName::default_queue(),
            nodes: RefCell::default(),
            points: RefCell::default(),
            tokens: Cell::new(mix(plan.seed)),
            submitting: Cell::new(0),
        })
    }

    /// Carries out a plan, and says what was wrong.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn run(plan: &Plan, mutants: Mutants) -> Result<Figures, Violation> {
        let site = Self::new(plan, mutants);
        let watching = Rc::downgrade(&site);
        *site.network.on_done.borrow_mut() = Some(Box::new(move |now, record| {
            if let Some(site) = watching.upgrade()
                && let Some(index) = site.ids.iter().position(|id| *id == record.id)
            {
                site.checker.borrow_mut().done(index, now, &record);
            }
        }));
        for index in 0..2 {
            site.start(Role::Dispatcher, index);
        }
        for index in 0..plan.executors {
            site.start(Role::Executor, index);
        }
        submitter::start(&site);
        for fault in plan.faults.clone() {
            site.schedule(fault);
        }
        let is_over = site.watch_for_the_end();
        let world = site.world.clone();
        world.run(RUN_MAX, || is_over.get() || site.checker.borrow().has_failed());
        let result = {
            let broker = site.network.broker.borrow();
            site.checker.borrow_mut().conclude(&broker, &site.ids, is_over.get(), world.now())
        };
        world.clear();
        result
    }

    fn watch_for_the_end(self: &Rc<Self>) -> Rc<Cell<bool>> {
        let is_over = Rc::new(Cell::new(false));
        let (site, told, process) = (Rc::clone(self), Rc::clone(&is_over), self.world.process());
        let last_fault = self.plan.faults.iter().filter_map(Fault::ends_at).max().unwrap_or(0);
        self.world.spawn(process, async move {
            let mut quiet_since = None;
            loop {
                site.world.sleep(LOOK_EVERY).await;
                let now = site.world.now();
                if site.is_busy() || now < last_fault {
                    quiet_since = None;
                } else if now >= *quiet_since.get_or_insert(now) + QUIET {
                    told.set(true);
                    return;
                }
            }
        });
        is_over
    }

    fn is_busy(&self) -> bool {
        let broker = self.network.broker.borrow();
        let is_waiting = [Stream::Tasks, Stream::Time, Stream::Lanes].into_iter().any(|stream| broker.len(stream) > 0);
        is_waiting || self.submitting.get() > 0 || self.checker.borrow().running(&self.world) > 0
    }

    fn start(self: &Rc<Self>, role: Role, index: usize) {
        let process = self.world.process();
        let starts = {
            let mut nodes = self.nodes.borrow_mut();
            match nodes.iter_mut().find(|node| (node.role, node.index) == (role, index)) {
                Some(node) => {
                    node.process = process;
                    node.starts += 1;
                    node.starts
                }
                None => {
                    nodes.push(Node { role, index, process, starts: 0 });
                    0
                }
            }
        };
        match role {
            Role::Dispatcher => dispatcher::start(self, process),
            Role::Executor => executor::start(self, process, &format!("e{index}.{starts}")),
        }
    }

    fn process_of(&self, role: Role, index: usize) -> Option<Process> {
        let nodes = self.nodes.borrow();
        let node = nodes.iter().find(|node| (node.role, node.index) == (role, index))?;
        (!self.world.is_dead(node.process)).then_some(node.process)
    }

    /// The live processes of a role.
    pub fn live(&self, role: Role) -> Vec<Process> {
        let nodes = self.nodes.borrow();
        let of_role = nodes.iter().filter(|node| node.role == role).map(|node| node.process);
        of_role.filter(|process| !self.world.is_dead(*process)).collect()
    }

    /// Whether a process is a live one that is not cut off: what its connection says to those who ask the server.
    pub fn is_connected(&self, process: usize) -> bool {
        !self.world.is_dead(Process(process)) && !self.network.is_cut(Process(process))
    }

    /// Kills a process; it is started again after `down`.
    pub fn kill(self: &Rc<Self>, process: Process, down: Time) {
        let Some((role, index)) =
            self.nodes.borrow().iter().find(|node| node.process == process).map(|node| (node.role, node.index))
        else {
            self.world.kill(process);
            return;
        };
        if self.world.is_dead(process) {
            return;
        }
        self.checker.borrow_mut().killed(process, self.world.now());
        self.world.kill(process);
        self.network.broker.borrow_mut().forget_pulls(process.0);
        let site = Rc::clone(self);
        self.world.at(self.world.now() + down, move || site.start(role, index));
    }

    fn schedule(self: &Rc<Self>, fault: Fault) {
        let site = Rc::clone(self);
        let at = match fault {
            Fault::Message { .. } | Fault::Crash { .. } => return,
            Fault::Kill { at, .. }
            | Fault::Freeze { at, .. }
            | Fault::Cut { at, .. }
            | Fault::Election { at, .. }
            | Fault::Redeliver { at, .. } => at,
        };
        self.world.at(at, move || site.strike(fault));
    }

    fn strike(self: &Rc<Self>, fault: Fault) {
        let now = self.world.now();
        match fault {
            Fault::Message { .. } | Fault::Crash { .. } => {}
            Fault::Kill { role, index, down, .. } => {
                if let Some(process) = self.process_of(role, index) {
                    self.kill(process, down);
                }
            }
            Fault::Freeze { role, index, time, .. } => {
                let Some(process) = self.process_of(role, index) else { return };
                self.checker.borrow_mut().disturbed(process, now);
                self.world.freeze(process);
                let site = Rc::clone(self);
                self.world.at(now + time, move || site.world.thaw(process));
            }
            Fault::Cut { role, index, time, .. } => {
                let Some(process) = self.process_of(role, index) else { return };
                self.checker.borrow_mut().disturbed(process, now);
                self.network.cut(process, now + time);
            }
            Fault::Election { stream, time, .. } => {
                let mut broker = self.network.broker.borrow_mut();
                match stream {
                    Some(stream) => broker.elect(stream, now + time),
                    None => Stream::ALL.into_iter().for_each(|stream| broker.elect(stream, now + time)),
                }
                drop(broker);
                self.network.flush();
            }
            Fault::Redeliver { stream, .. } => {
                self.network.broker.borrow_mut().deliver_again(now, stream);
                self.network.flush();
            }
        }
    }

    /// A place at which a process may die; if it does, this does not return.
    pub async fn point(self: &Rc<Self>, process: Process, point: Point) {
        let nth = {
            let mut points = self.points.borrow_mut();
            let count = points.entry(point).or_default();
            *count += 1;
            *count - 1
        };
        let crash = self.plan.faults.iter().find_map(|fault| match *fault {
            Fault::Crash { point: at, nth: the, down } if at == point && the == nth => Some(down),
            _ => None,
        });
        if let Some(down) = crash {
            self.kill(process, down);
            std::future::pending::<()>().await;
        }
    }

    /// A token that no other run has.
    pub fn token(&self) -> RunToken {
        self.tokens.set(self.tokens.get().wrapping_add(1));
        RunToken::from_bits(self.tokens.get())
    }

    /// Publishes until it is known what became of it, or the deadline has passed: answers are transient, unknown or
    /// final.
    pub async fn publish(self: &Rc<Self>, from: Process, hop: Hop, mut out: Publish, deadline: Time) -> Published {
        let until = self.world.now() + deadline;
        if self.mutants.has(Mutant::NoMessageId) {
            out.id = None;
        }
        let mut pause = PAUSE_MIN;
        let mut sends = 0;
        loop {
            let message = out.clone();
            sends += 1;
            match self.network.request(from, hop, out.stream, move |broker, now| broker.publish(now, &message)).await {
                Reply::Got(Answer::Stored(sequence)) => return Published::Stored(sequence),
                Reply::Got(Answer::Duplicate(sequence)) => return Published::Duplicate(sequence),
                Reply::Got(Answer::WrongLast) => return Published::WrongLast,
                Reply::NoResponders if sends >= 2 && self.mutants.has(Mutant::NoRespondersFinal) => {
                    return Published::Unknown;
                }
                Reply::NoResponders => self.world.sleep(pause).await,
                Reply::Unknown => {}
            }
            if self.world.now() >= until {
                return Published::Unknown;
            }
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// Stores the one completion of a task, and what it triggers; an earlier one wins.
    pub async fn complete(self: &Rc<Self>, from: Process, record: &Record, deadline: Time) -> Completed {
        let out = Publish {
            expect: if self.mutants.has(Mutant::NoExpectedSequence) { Expect::Anything } else { Expect::Last(0) },
            ..Publish::new(Stream::Done, Subject::Of(Rc::clone(&record.id)), Body::Done(Rc::new(record.clone())))
        };
        let completed = match self.publish(from, Hop::ToDone, out, deadline).await {
            Published::Stored(_) | Published::Duplicate(_) => Completed::Won,
            Published::Unknown => Completed::Unknown,
            Published::WrongLast if self.mutants.has(Mutant::NoReadBack) => Completed::Unknown,
            Published::WrongLast => match self.read_done(from, &record.id, deadline).await {
                Some(Some(stored)) if stored.token == record.token || self.mutants.has(Mutant::TokenNotCompared) => {
                    Completed::Won
                }
                Some(Some(stored)) => Completed::Lost(stored),
                Some(None) | None => Completed::Unknown,
            },
        };
        let Some(stored) = completed.stored(record) else { return completed };
        if self.mutants.has(Mutant::CallbacksAfterAck) {
            return completed;
        }
        if self.trigger(from, &stored, deadline).await { completed } else { Completed::Unknown }
    }

    /// Stores what a completion triggers; `false` where that could not be.
    pub async fn trigger(self: &Rc<Self>, from: Process, done: &Record, deadline: Time) -> bool {
        for index in 0..done.callbacks {
            let out = Publish {
                id: Some(format!("{}:{index}:callback", done.id).into()),
                ..Publish::new(Stream::Callbacks, Subject::Callback(Rc::clone(&done.id), index), Body::Nothing)
            };
            if self.publish(from, Hop::ToCallbacks, out, deadline).await == Published::Unknown {
                return false;
            }
        }
        true
    }

    /// Stores the dead letter of a failed task.
    pub async fn bury(self: &Rc<Self>, from: Process, id: &Rc<str>, deadline: Time) -> bool {
        let out = Publish {
            expect: Expect::Last(0),
            ..Publish::new(Stream::Dead, Subject::Of(Rc::clone(id)), Body::Nothing)
        };
        self.publish(from, Hop::ToDead, out, deadline).await != Published::Unknown
    }

    /// Reads the completion of a task; `None` where nobody answers in all the time.
    pub async fn read_done(self: &Rc<Self>, from: Process, id: &Rc<str>, deadline: Time) -> Option<Option<Rc<Record>>> {
        let subject = Subject::Of(Rc::clone(id));
        let read = move |broker: &mut Broker, _| match broker.last(Stream::Done, &subject) {
            Some((_, message)) => match &message.body {
                Body::Done(record) => Some(Rc::clone(record)),
                Body::Tasks(_)
                | Body::Holder(_)
                | Body::Delivered(_)
                | Body::Mark { .. }
                | Body::Claim(_)
                | Body::Nothing => None,
            },
            None => None,
        };
        self.ask(from, Hop::ReadDone, Stream::Done, read, deadline).await
    }

    /// Sends a request until it is answered, or the deadline has passed.
    pub async fn ask<R: 'static>(
        self: &Rc<Self>,
        from: Process,
        hop: Hop,
        stream: Stream,
        what: impl Fn(&mut Broker, Time) -> R + Clone + 'static,
        deadline: Time,
    ) -> Option<R> {
        let until = self.world.now() + deadline;
        loop {
            if let Some(answer) = self.network.request(from, hop, stream, what.clone()).await.got() {
                return Some(answer);
            }
            if self.world.now() >= until {
                return None;
            }
            self.world.sleep(PAUSE_MIN).await;
        }
    }

    /// Stores the next run of a task where it is due; `false` where that could not be.
    pub async fn store_due(self: &Rc<Self>, from: Process, next: &TaskEvent, at: Time, deadline: Time) -> bool {
        let due = Subject::Due(next.priority.rank());
        let id: Rc<str> = next.id.as_str().into();
        let body = Body::Tasks(Rc::new([Rc::new(next.clone())]));
        let message_id = Some(next.message_id(jetlane_schemas::task::Hop::Due).into());
        let is_soon = at < self.world.now() + 300 * MS;
        let out = if is_soon {
            Publish { id: message_id, ..Publish::new(Stream::Time, due, body) }
        } else {
            let schedule = Some((at, due));
            Publish { id: message_id, schedule, ..Publish::new(Stream::Time, Subject::Schedule(id, next.run), body) }
        };
        self.publish(from, Hop::ToDue, out, deadline).await != Published::Unknown
    }

    /// Tells everybody who watches that an id was noted as cancelled.
    pub fn noted(self: &Rc<Self>, id: &Rc<str>) {
        for role in [Role::Dispatcher, Role::Executor] {
            for process in self.live(role) {
                self.network.watch(process, News::Noted(Rc::clone(id)));
            }
        }
    }

    /// Says that something broke a rule.
    pub fn violated(&self, rule: &'static str, what: String) {
        self.checker.borrow_mut().violated(rule, what);
    }

    /// The completion of a task that ends in this way.
    pub fn record(&self, task: &TaskEvent, outcome: Outcome, code: &'static str) -> Record {
        Record {
            id: task.id.as_str().into(),
            outcome,
            run: task.run,
            token: self.token(),
            callbacks: task.callbacks.len(),
            code,
        }
    }
}

/// The consumer of a priority's bundle lane.
pub fn lane(rank: usize) -> ConsumerName {
    ConsumerName { stream: Stream::Lanes, subject: Subject::Lane(rank), epoch: 0 }
}

/// Which submission a task is.
pub fn index_of(task: &TaskEvent) -> usize {
    task.payload.first().copied().map_or(0, usize::from)
}

/// How much happened in a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Tasks that were accepted.
    pub accepted: usize,
    /// Handlers that began.
    pub begun: usize,
    /// Completions.
    pub completed: usize,
    /// Virtual time.
    pub time: Time,
}

/// Acks a delivery without waiting.
pub fn ack(site: &Rc<Site>, from: Process, hop: Hop, delivery: &Delivery) {
    let delivery = delivery.clone();
    site.network.send(from, hop, move |broker, _| broker.ack(&delivery));
}
