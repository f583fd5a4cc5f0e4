//! One policy over all arrivals, in virtual time: the world in which the queue decides.

use crate::arrivals::{Arrivals, Task, micros};
use crate::executor::{Asked, Executor, Run};
use crate::figures::{Figures, Lives};
use crate::stream::Backlogs;
use crate::workload::SERVERS_MAX;
use crate::{Error, srpt};
use jetlane_core::estimate::{Estimates, Observed};
use jetlane_core::window::{FLOW_BYTES_MAX, FLOW_TASKS_MAX, Share};
use jetlane_core::{Decision, Entry, EntryId, Event, FitId, FlowId, Queue, Stored, TenantId, TypeId};
use jetlane_schemas::registry::{Order, PolicyName};
use jetlane_schemas::{Micros, TaskType};
use std::fmt;
use std::str::FromStr;
use std::thread;

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// A policy of the queue.
    Queue(PolicyName),
    /// Preemptive shortest-remaining-time-first on all servers, with exact sizes and at no cost: a
    /// reference that no queue can reach, and no policy of one.
    IdealSrpt,
}

impl Policy {
    /// Every policy of the queue, then the reference.
    pub fn all() -> Vec<Self> {
        PolicyName::ALL.into_iter().map(Self::Queue).chain([Self::IdealSrpt]).collect()
    }

    /// Its word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue(name) => name.as_str(),
            Self::IdealSrpt => "srpt",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::all().into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| "must be fifo, rr, strict, weighted, sjf, srtf, edf, adaptive or srpt".into())
    }
}

/// What serves the arrivals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Servers: the executor's slots.
    pub servers: u32,
    /// The most tasks of a flow that the policy can choose from; the core's own bound is 1,024.
    pub window: u32,
    /// What can be done between two checkpoints, in mean sizes. Under `srtf` alone.
    pub quantum: f64,
    /// What a yield costs: work that is added to the task, in mean sizes. Absent: [`resume_cost`].
    pub resume: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { servers: 8, window: FLOW_TASKS_MAX, quantum: 0.25, resume: None }
    }
}

impl Settings {
    /// What a yield costs, in mean sizes.
    pub fn resume(&self) -> f64 {
        self.resume.unwrap_or_else(|| resume_cost(self.quantum))
    }

    fn check(&self) -> Result<(), Error> {
        if self.servers == 0 || self.servers > SERVERS_MAX {
            return Err(Error::setting("servers", format!("must be 1 to {SERVERS_MAX}")));
        }
        if self.window == 0 || self.window > FLOW_TASKS_MAX {
            return Err(Error::setting("window", format!("must be 1 to {FLOW_TASKS_MAX}")));
        }
        if !(QUANTUM_MIN..=1e6).contains(&self.quantum) {
            return Err(Error::setting("quantum", format!("must be at least {QUANTUM_MIN}")));
        }
        if !(0.0..=1e6).contains(&self.resume()) {
            return Err(Error::setting("resume-cost", "must be 0 or more"));
        }
        Ok(())
    }
}

/// The shortest quantum, in mean sizes: under it a run would be nothing but checkpoints.
const QUANTUM_MIN: f64 = 0.001;

/// What a yield costs unless stated: 0.02 mean sizes at a quantum of 0.25, and 0.05 at 1.
pub fn resume_cost(quantum: f64) -> f64 {
    0.01 + 0.04 * quantum
}

/// Runs one policy.
///
/// # Errors
/// A setting out of its range; a queue that comes to a stand.
pub fn simulate(arrivals: &Arrivals, policy: Policy, settings: &Settings) -> Result<Figures, Error> {
    settings.check()?;
    let lives = match policy {
        Policy::Queue(name) => Simulation::new(arrivals, name, settings).run()?,
        Policy::IdealSrpt => srpt::run(arrivals, settings.servers),
    };
    Ok(Figures::of(policy, arrivals, &lives, settings.servers))
}

/// Runs each policy over the same arrivals, on all processors.
///
/// # Errors
/// As [`simulate`]; the first policy's.
///
/// # Panics
/// Where a simulation does.
pub fn simulate_all(arrivals: &Arrivals, policies: &[Policy], settings: &Settings) -> Result<Vec<Figures>, Error> {
    in_parallel(policies, |policy| simulate(arrivals, *policy, settings)).into_iter().collect()
}

/// Does the same with each of them, on as many threads as there are processors; the results keep the order.
pub(crate) fn in_parallel<T: Sync, R: Send>(all: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, usize::from).clamp(1, all.len().max(1));
    let (work, next) = (&work, &std::sync::atomic::AtomicUsize::new(0));
    let take = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(one) = all.get(at) else { return done };
            done.push((at, work(one)));
        }
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a simulation has panicked")).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The size of a message, for the window's bound on bytes: small, so that tasks are what is bounded.
const BYTES: u32 = 200;

struct Simulation<'a> {
    arrivals: &'a Arrivals,
    policy: PolicyName,
    queue: Queue,
    backlogs: Backlogs,
    executor: Executor,
    /// What a yield costs.
    resume: Micros,
    lives: Lives,
    /// What is left of each task, and what the queue believes it to be in whole.
    work: Vec<Work>,
    /// The task behind each number that the queue knows.
    entries: Vec<u32>,
    estimates: Estimates,
    types: Vec<TaskType>,
}

#[derive(Debug, Clone, Copy)]
struct Work {
    left: Micros,
    /// Of the whole task, when it was first read.
    estimate: Option<Micros>,
    /// What is left by the estimate, for one that has yielded.
    remaining: Option<Micros>,
}

impl<'a> Simulation<'a> {
    fn new(arrivals: &'a Arrivals, policy: PolicyName, settings: &Settings) -> Self {
        let yields = policy == PolicyName::Srtf;
        let flows = flows(arrivals, yields);
        let mean = arrivals.mean_size();
        let quantum = if yields { micros(settings.quantum * mean) } else { Micros(u64::MAX) };
        let mut queue = Queue::new(Order::of(policy));
        let opened = Micros(0);
        for flow in 0..flows {
            queue.on(opened, Event::FlowOpened(FlowId(flow as u32)));
        }
        // A process splits its tasks between its flows; here each flow is to have its whole window.
        let tasks = u32::try_from(flows).unwrap_or(u32::MAX).saturating_mul(settings.window);
        queue.on(opened, Event::ShareChanged(Share { tasks, bytes: flows as u64 * FLOW_BYTES_MAX }));
        let work = |task: &Task| Work { left: task.size, estimate: task.estimate, remaining: None };
        Self {
            arrivals,
            policy,
            queue,
            backlogs: Backlogs::new(flows, settings.window),
            executor: Executor::new(settings.servers, quantum),
            resume: Micros((settings.resume() * mean * 1e6).round() as u64),
            lives: Lives::new(arrivals),
            work: arrivals.tasks().iter().map(work).collect(),
            entries: Vec::with_capacity(arrivals.tasks().len()),
            estimates: Estimates::default(),
            types: arrivals.types().iter().filter_map(|name| TaskType::new(name.as_str()).ok()).collect(),
        }
    }

    fn run(mut self) -> Result<Lives, Error> {
        let arrivals = self.arrivals.tasks();
        let mut next = 0;
        loop {
            let arrival = arrivals.get(next).map(|task| task.arrival);
            let now = match (arrival, self.executor.next_stop()) {
                // What ends goes before what comes at the same time.
                (Some(arrival), stop) if stop.is_none_or(|stop| arrival < stop) => {
                    while arrivals.get(next).is_some_and(|task| task.arrival == arrival) {
                        self.arrive(arrival, next as u32);
                        next += 1;
                    }
                    arrival
                }
                (_, Some(stop)) => {
                    self.stop(stop);
                    stop
                }
                _ => break,
            };
            self.decide(now);
        }
        let waiting = self.lives.unended();
        if waiting > 0 {
            return Err(Error::Stalled { policy: self.policy.to_string(), waiting });
        }
        Ok(self.lives)
    }

    fn arrive(&mut self, now: Micros, task: u32) {
        let flow = flow_of(&self.arrivals.tasks()[task as usize]);
        self.backlogs.store(flow, task);
        self.hand_out(now, flow);
    }

    /// Answers the queue's pulls as far as the flow can.
    fn hand_out(&mut self, now: Micros, flow: FlowId) {
        while let Some(task) = self.backlogs.hand_out(flow) {
            let entry = self.entry(flow, task);
            self.queue.on(now, Event::MessageTaken { flow, tasks: 1 });
            self.queue.on(now, Event::Arrived(entry));
        }
    }

    fn entry(&mut self, flow: FlowId, number: u32) -> Entry {
        let id = EntryId(self.entries.len() as u64);
        self.entries.push(number);
        let task = &self.arrivals.tasks()[number as usize];
        let work = &mut self.work[number as usize];
        let estimate = match work.remaining {
            Some(remaining) => Micros(remaining.0 + self.resume.0),
            None => *work
                .estimate
                .get_or_insert_with(|| self.estimates.expect(&self.types[task.task_type as usize], None, None).mean),
        };
        Entry {
            id,
            flow,
            priority: task.priority,
            tenant: TenantId(task.tenant),
            task_type: TypeId(task.task_type),
            fit: FitId::default(),
            first_arrival: task.arrival,
            // Lateness is counted and nothing dropped, so that all policies do the same work.
            expires: None,
            due: task.due,
            estimate,
            yields: self.lives.yields(number),
            bytes: BYTES,
        }
    }

    /// A run ends, or comes to a place where it could stop.
    fn stop(&mut self, now: Micros) {
        let Some((slot, run)) = self.executor.stop() else { return };
        if run.left.0 > 0 {
            let remaining = self.remaining(&run);
            self.queue.on(now, Event::Remaining { entry: run.entry, remaining, resume: self.resume });
            self.decide(now);
            if self.executor.on_slot(slot).is_none_or(|run| run.asked == Asked::No) {
                self.executor.go_on(now, slot);
                return;
            }
            self.work[run.task as usize].remaining = Some(remaining);
        }
        let cost = Micros(now.0 - run.since.0);
        self.executor.end(slot);
        self.lives.ran(run.task, run.since, now);
        self.queue.on(now, Event::Ended { entry: run.entry, cost });
        self.tell(now);
        if run.left.0 > 0 {
            self.resubmit(now, &run);
        } else {
            self.lives.ended(run.task, now);
            self.learn(run.task);
        }
    }

    /// What a handler tells of what is left: it knows how far it is, and errs as its estimate did.
    fn remaining(&self, run: &Run) -> Micros {
        let size = self.arrivals.tasks()[run.task as usize].size;
        let estimate = self.work[run.task as usize].estimate.unwrap_or(size);
        Micros((run.left.0 as f64 * (estimate.0 as f64 / size.0 as f64)).round().max(1.0) as u64)
    }

    /// A task that has yielded comes back with what is left of it and what going on costs.
    fn resubmit(&mut self, now: Micros, run: &Run) {
        self.lives.yielded(run.task);
        self.work[run.task as usize].left = Micros(run.left.0 + self.resume.0);
        // It comes by the subject of what is due, a flow of its own: not behind what was submitted since.
        let FlowId(flow) = flow_of(&self.arrivals.tasks()[run.task as usize]);
        let flow = FlowId(flow + flows(self.arrivals, false) as u32);
        self.backlogs.store(flow, run.task);
        self.hand_out(now, flow);
    }

    /// Takes note of how long a task ran whose estimate came from its type.
    fn learn(&mut self, number: u32) {
        let task = &self.arrivals.tasks()[number as usize];
        if task.estimate.is_none() {
            self.estimates.observe(&self.types[task.task_type as usize], None, task.size, Observed::Whole);
        }
    }

    fn tell(&mut self, now: Micros) {
        let credit = self.executor.tell(now);
        self.queue.on(now, Event::Credit(credit));
    }

    fn decide(&mut self, now: Micros) {
        if self.executor.is_silent(now) {
            self.tell(now);
        }
        while let Some(decision) = self.queue.next(now) {
            match decision {
                Decision::Dispatch { entry, .. } => self.start(now, entry),
                Decision::Yield(entry) => self.executor.ask(entry),
                Decision::Pull { flow, messages, .. } => {
                    self.backlogs.pull(flow, messages);
                    self.hand_out(now, flow);
                }
                Decision::Expire(entry) | Decision::Drop(entry) => {
                    unreachable!("{entry:?} has no deadline to miss and nobody cancels")
                }
            }
        }
    }

    fn start(&mut self, now: Micros, entry: EntryId) {
        let number = self.entries[entry.0 as usize];
        self.queue.on(now, Event::Settled(entry, Stored::New));
        let work = &self.work[number as usize];
        self.executor.start(Run { entry, task: number, since: now, left: work.left, asked: Asked::No });
        let FlowId(flow) = flow_of(&self.arrivals.tasks()[number as usize]);
        let is_resumed = u32::from(work.remaining.is_some());
        let flow = FlowId(flow + is_resumed * flows(self.arrivals, false) as u32);
        self.backlogs.release(flow);
        self.hand_out(now, flow);
    }
}

/// How many flows there are: tenants x priorities, and as many again for what comes back.
fn flows(arrivals: &Arrivals, comes_back: bool) -> usize {
    arrivals.tenants().len() * 4 * if comes_back { 2 } else { 1 }
}

fn flow_of(task: &Task) -> FlowId {
    FlowId(task.tenant * 4 + task.priority.rank() as u32)
}
