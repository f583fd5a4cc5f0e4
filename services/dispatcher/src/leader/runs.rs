//! Dispatched tasks until their runs end: what an executor tells of a run is told to the core of its
//! entry, and learned of its type.

use super::Leader;
use super::output::{Beside, Carried};
use crate::read::DAY;
use jetlane_bus::clock;
use jetlane_core::estimate::Observed;
use jetlane_core::{EntryId, Event};
use jetlane_schemas::frame::{Remaining, RunEnd, RunEnded, Yield};
use jetlane_schemas::{Flow, Headers, Micros, Priority, Shard, TaskEvent, TaskId, TaskType, subject};
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

/// The most runs that are remembered, as many as the core does; beyond it the one dispatched first is
/// forgotten.
const RUNS_MAX: usize = 65_536;

/// A run that was dispatched.
#[derive(Debug)]
pub(crate) struct Run {
    entry: EntryId,
    number: u32,
    since: Micros,
    estimate: Micros,
    id: TaskId,
    /// What is learned of it is learned of the whole task only where no part of it ran before.
    is_whole: bool,
    /// Where the task comes back to when it yields.
    priority: Priority,
    shard: Shard,
    pub(crate) task_type: TaskType,
    pub(crate) size_key: Option<String>,
    /// What its submitter expected.
    pub(crate) hint: Option<Micros>,
}

impl Run {
    pub(crate) fn of(since: Micros, entry: EntryId, task: &TaskEvent, estimate: Micros) -> Self {
        Self {
            entry,
            number: task.run,
            id: task.id.clone(),
            since,
            estimate,
            is_whole: task.yields == 0,
            priority: task.priority,
            shard: task.shard,
            task_type: task.task_type.clone(),
            size_key: task.size_key.clone(),
            hint: task.estimate_us.map(Micros),
        }
    }
}

/// A run that can be asked to yield, by name, and where its task comes back to.
#[derive(Debug)]
struct Yieldable {
    wanted: Yield,
    priority: Priority,
    shard: Shard,
}

/// The latest run of each dispatched task, by a hash of its type and id: they are long and nobody has to read
/// them here. The hash is keyed, so that nobody can make two tasks share one.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    runs: HashMap<u64, Run>,
    hash: RandomState,
    /// In the order of dispatch, with many that have ended.
    order: VecDeque<(u64, EntryId)>,
    /// Those that told what is left of them, by name: only they can be asked to yield.
    yieldable: HashMap<EntryId, Yieldable>,
}

impl Runs {
    /// Remembers a dispatch; returns an earlier run of the task whose end was never told.
    pub(crate) fn add(&mut self, now: Micros, entry: EntryId, task: &TaskEvent, estimate: Micros) -> Option<Run> {
        let key = self.key(&task.task_type, &task.id);
        let run = Run::of(now, entry, task, estimate);
        self.order.push_back((key, entry));
        let earlier = self.runs.insert(key, run).filter(|run| run.entry != entry);
        if let Some(earlier) = &earlier {
            self.yieldable.remove(&earlier.entry);
        }
        self.make_room();
        earlier
    }

    /// The run of a task that ended; `None` where it is not known, or was told before.
    pub(crate) fn remove(&mut self, task_type: &TaskType, id: &TaskId, number: u32) -> Option<Run> {
        let key = self.key(task_type, id);
        if self.runs.get(&key)?.number != number {
            return None;
        }
        let run = self.runs.remove(&key)?;
        if !self.yieldable.is_empty() {
            self.yieldable.remove(&run.entry);
        }
        Some(run)
    }

    /// Whether a run of the task was dispatched and has not ended, as far as is known.
    pub(crate) fn contains(&self, task_type: &TaskType, id: &TaskId) -> bool {
        self.runs.contains_key(&self.key(task_type, id))
    }

    /// The same of a task whose type is not known. Looks through all runs.
    pub(crate) fn contains_id(&self, id: &TaskId) -> bool {
        self.runs.values().any(|run| run.id == *id)
    }

    /// A run told what is left of it.
    fn told(&mut self, task_type: TaskType, id: TaskId, number: u32) -> Option<EntryId> {
        let run = self.runs.get(&self.key(&task_type, &id)).filter(|run| run.number == number)?;
        let &Run { entry, priority, shard, .. } = run;
        let wanted = Yield { task_type, id, run: number };
        self.yieldable.entry(entry).or_insert(Yieldable { wanted, priority, shard });
        Some(entry)
    }

    fn make_room(&mut self) {
        while self.runs.len() > RUNS_MAX
            && let Some((key, entry)) = self.order.pop_front()
        {
            if self.runs.get(&key).is_some_and(|run| run.entry == entry) {
                self.runs.remove(&key);
                self.yieldable.remove(&entry);
            }
        }
        // One long run must not keep the marks of all that came and went after it.
        if self.order.len() > 2 * RUNS_MAX {
            let runs = &self.runs;
            self.order.retain(|(key, entry)| runs.get(key).is_some_and(|run| run.entry == *entry));
        }
    }

    fn key(&self, task_type: &TaskType, id: &TaskId) -> u64 {
        self.hash.hash_one((task_type.as_str(), id.as_str()))
    }
}

impl Leader {
    /// A task goes to its lane.
    pub(super) fn run_begins(&mut self, now: Micros, entry: EntryId) {
        let Some(held) = self.held.get(&entry) else { return };
        if let Some(earlier) = self.dispatched.add(now, entry, &held.task, held.expected.mean) {
            // Its end was told in a message that was lost.
            self.core.on(now, Event::Ended { entry: earlier.entry, cost: earlier.estimate });
        }
    }

    /// A task that was to go to its lane is in none: nothing ran. It comes back to its place, or the core
    /// is told beside this.
    pub(super) fn run_is_void(&mut self, entry: EntryId) {
        let Some(held) = self.held.get(&entry) else { return };
        self.dispatched.remove(&held.task.task_type, &held.task.id, held.task.run);
    }

    /// An executor told of the end of a run.
    pub(super) fn run_ended(&mut self, now: Micros, ended: &RunEnded) {
        // An executor that does not say the type costs the measurement.
        let Some(task_type) = &ended.task_type else { return };
        let Some(run) = self.dispatched.remove(task_type, &ended.id, ended.run) else { return };
        if ended.end != RunEnd::Done {
            self.runs.goes_on(task_type, &ended.id, ended.run);
        }
        let cost = cost_of(ended);
        self.core.on(now, end_of(run.entry, ended));
        let observed = match ended.end {
            RunEnd::Done => Observed::Whole,
            RunEnd::Broken => Observed::AtLeast,
            RunEnd::Yielded | RunEnd::NotRun => return,
        };
        // What the parts before the last yield took is not known here.
        if run.is_whole {
            self.learned.measured(&run, cost, observed);
        }
    }

    /// A client in any language answered for good: that is all that is known of its run.
    pub(super) fn run_was_answered(&mut self, task: &TaskEvent, observed: Observed) {
        let now = clock::now();
        let Some(run) = self.dispatched.remove(&task.task_type, &task.id, task.run) else { return };
        let cost = Micros(now.0.saturating_sub(run.since.0));
        self.core.on(now, Event::Ended { entry: run.entry, cost });
        self.learned.overheard(&run, cost, observed);
    }

    /// A run that can yield told what is left of it.
    pub(super) fn run_remains(&mut self, now: Micros, told: Remaining) {
        let Remaining { task_type: Some(task_type), id, run, remaining_us, resume_us } = told else { return };
        if let Some(entry) = self.dispatched.told(task_type, id, run) {
            let (remaining, resume) = (Micros(remaining_us), Micros(resume_us));
            self.core.on(now, Event::Remaining { entry, remaining, resume });
        }
    }

    /// Asks a run to yield at its next checkpoint. Whoever runs it hears it, or nobody does: then it goes on.
    pub(super) fn ask_to_yield(&mut self, entry: EntryId) {
        let Some(Yieldable { wanted, priority, shard }) = self.dispatched.yieldable.get(&entry) else { return };
        // Read before the task is back.
        self.flows.open(&Flow::Due(self.queue.clone(), *priority, *shard));
        let frame = match wanted.encode() {
            Ok(frame) => frame,
            Err(error) => return tracing::warn!(task_id = %wanted.id, %error, "A task cannot be asked to yield."),
        };
        let (bus, subject) = (self.world.bus.clone(), subject::yield_wanted(&self.queue));
        self.works.push(Box::pin(async move {
            let sent = bus.send(subject, Headers::new(), frame.into()).await;
            Carried::Beside(Beside::Written("ask a task to yield", sent))
        }));
    }
}

/// What a run took, as far as its executor is to be believed.
fn cost_of(ended: &RunEnded) -> Micros {
    Micros(ended.run_us).min(DAY)
}

/// What the core is told of the end of a run: one that did not run says nothing of what runs cost.
fn end_of(entry: EntryId, ended: &RunEnded) -> Event {
    match ended.end {
        RunEnd::NotRun => Event::NotRun(entry),
        RunEnd::Done | RunEnd::Broken | RunEnd::Yielded => Event::Ended { entry, cost: cost_of(ended) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::QueueName;

    fn task(id: &str, run: u32) -> TaskEvent {
        let (id, task_type) = (TaskId::new(id).expect("valid"), TaskType::new("a.b").expect("valid"));
        let mut task = TaskEvent::new(id, task_type, QueueName::default_queue(), Micros(0), Vec::new());
        task.run = run;
        task
    }

    fn named(name: &str) -> (TaskType, TaskId) {
        (TaskType::new("a.b").expect("valid"), TaskId::new(name).expect("valid"))
    }

    fn remove(runs: &mut Runs, name: &str, number: u32) -> Option<Run> {
        let (task_type, id) = named(name);
        runs.remove(&task_type, &id, number)
    }

    fn contains(runs: &Runs, name: &str) -> bool {
        let (task_type, id) = named(name);
        assert_eq!(runs.contains(&task_type, &id), runs.contains_id(&id));
        runs.contains(&task_type, &id)
    }

    fn add(runs: &mut Runs, entry: u64, task: &TaskEvent) -> Option<EntryId> {
        runs.add(Micros(entry), EntryId(entry), task, Micros(1)).map(|earlier| earlier.entry)
    }

    #[test]
    fn the_end_of_a_run_is_told_once_and_only_of_that_run() {
        let mut runs = Runs::default();
        assert_eq!(add(&mut runs, 1, &task("x", 2)), None);
        assert!(remove(&mut runs, "x", 1).is_none() && remove(&mut runs, "y", 2).is_none());
        assert_eq!(remove(&mut runs, "x", 2).map(|run| run.entry), Some(EntryId(1)));
        assert!(remove(&mut runs, "x", 2).is_none());
    }

    #[test]
    fn a_run_costs_a_day_at_most_and_one_that_did_not_run_nothing() {
        let end = |run_us, end| {
            end_of(EntryId(1), &RunEnded { task_type: None, id: TaskId::generate(), run: 1, run_us, end })
        };
        let costs = |cost| Event::Ended { entry: EntryId(1), cost: Micros(cost) };
        assert_eq!(end(7, RunEnd::NotRun), Event::NotRun(EntryId(1)));
        for ran in [RunEnd::Done, RunEnd::Broken, RunEnd::Yielded] {
            assert_eq!(end(7, ran), costs(7));
            assert_eq!(end(u64::MAX, ran), costs(86_400_000_000));
        }
    }

    #[test]
    fn a_later_run_ends_an_earlier_one_whose_end_was_lost() {
        let mut runs = Runs::default();
        add(&mut runs, 1, &task("x", 1));
        assert!(runs.told(task("x", 1).task_type, task("x", 1).id, 1).is_some());
        assert_eq!(add(&mut runs, 2, &task("x", 2)), Some(EntryId(1)));
        assert_eq!(add(&mut runs, 2, &task("x", 2)), None, "a second try of the same dispatch");
        assert!(runs.yieldable.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes() {
        let mut runs = Runs::default();
        add(&mut runs, 0, &task("long", 1));
        for n in 1..=3 * RUNS_MAX as u64 {
            add(&mut runs, n, &task("short", n as u32));
            remove(&mut runs, "short", n as u32);
        }
        assert!(contains(&runs, "long"), "it runs on");
        assert!(runs.order.len() <= 2 * RUNS_MAX + 1, "{} marks", runs.order.len());
        for n in 0..RUNS_MAX as u64 {
            add(&mut runs, 4 * RUNS_MAX as u64 + n, &task(&format!("t{n}"), 1));
        }
        assert_eq!(runs.runs.len(), RUNS_MAX);
        assert!(!contains(&runs, "long"));
    }
}
