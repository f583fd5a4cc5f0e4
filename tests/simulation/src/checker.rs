//! The rules: what must be true of every run, however it went.

use crate::broker::{Body, Broker, Record, Stream, Subject};
use crate::plan::{Fault, Naming, Plan};
use crate::site::Figures;
use crate::world::{MS, Process, SECOND, Time, World};
use jetlane_schemas::Outcome;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// How long after its completion was stored a task may still begin: a look-up that missed it was under way.
const AFTER_DONE: Time = 2 * SECOND;
/// How long after a cancellation was confirmed a task may still begin: the broadcast was under way.
const AFTER_CANCEL: Time = 500 * MS;
/// A run that went on for so long without being disturbed has stored what its handler returned.
const TO_STORE: Time = 5 * SECOND;

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: &'static str,
    /// What happened.
    pub what: String,
    /// The history of the run, as far as it concerns the task.
    pub history: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.rule, self.what)?;
        self.history.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// How a handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandlerEnd {
    /// It returned its output.
    Success,
    /// It failed and may be retried.
    Failure,
    /// It failed for good.
    ForGood,
    /// It was told to stop.
    Stopped,
}

#[derive(Debug, Clone, Copy)]
struct Begun {
    process: Process,
    run: u32,
    at: Time,
    ended: Option<(Time, HandlerEnd)>,
    /// Its process died, or was frozen or cut off, before it had settled the run.
    is_disturbed: bool,
    is_settled: bool,
}

#[derive(Debug, Default)]
struct History {
    is_submitted: bool,
    is_accepted: bool,
    is_cancelled_by_plan: bool,
    cancelled: Option<Time>,
    begun: Vec<Begun>,
    /// Processes that marked a run as begun and had not begun it, and whether they died first.
    marked: Vec<(Process, bool)>,
    /// The message that its first run was dispatched from.
    source: Option<(Stream, u64)>,
    done: Option<(Time, Rc<Record>)>,
    log: Vec<(Time, String)>,
}

/// Watches a run.
pub struct Checker {
    plan: Plan,
    tasks: Vec<History>,
    dispatched: u64,
    settled: u64,
    /// When processes were disturbed last.
    disturbed: BTreeMap<Process, Time>,
    failed: Option<Violation>,
    is_quiet: bool,
    delivers_twice: bool,
}

impl Checker {
    /// A checker of a plan.
    pub fn new(plan: &Plan) -> Self {
        let tasks = plan.tasks.iter().map(|_| History::default()).collect();
        Self {
            is_quiet: plan.is_quiet(),
            delivers_twice: plan
                .faults
                .iter()
                .any(|fault| matches!(fault, Fault::Redeliver { stream: Stream::Lanes, .. })),
            plan: plan.clone(),
            tasks,
            dispatched: 0,
            settled: 0,
            disturbed: BTreeMap::new(),
            failed: None,
        }
    }

    /// Whether a rule was broken.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Takes note of a broken rule; the first one counts.
    pub fn violated(&mut self, rule: &'static str, what: String) {
        self.failed.get_or_insert(Violation { rule, what, history: Vec::new() });
    }

    fn broken(&mut self, index: usize, rule: &'static str, what: impl fmt::Display) {
        if self.failed.is_none() {
            let planned = self.plan.tasks[index];
            let mut history = vec![format!("planned: {planned:?}")];
            history
                .extend(self.tasks[index].log.iter().map(|(at, line)| format!("{:>9.3} s  {line}", *at as f64 / 1e6)));
            self.failed = Some(Violation { rule, what: format!("task {index}: {what}"), history });
        }
    }

    /// Writes a line into a task's history.
    pub fn log(&mut self, index: usize, now: Time, line: impl fmt::Display) {
        self.tasks[index].log.push((now, line.to_string()));
    }

    /// A submission is about to be sent.
    pub fn submitting(&mut self, index: usize) {
        self.tasks[index].is_submitted = true;
    }

    /// A submission was accepted.
    pub fn accepted(&mut self, index: usize) {
        self.tasks[index].is_accepted = true;
    }

    /// A cancellation is about to be sent.
    pub fn cancelling(&mut self, index: usize) {
        self.tasks[index].is_cancelled_by_plan = true;
    }

    /// A cancellation is confirmed, and known to all who are connected.
    pub fn cancelled(&mut self, index: usize, now: Time) {
        self.log(index, now, "cancellation confirmed");
        self.tasks[index].cancelled.get_or_insert(now);
    }

    /// A process died.
    pub fn killed(&mut self, process: Process, now: Time) {
        self.disturbed(process, now);
    }

    /// A process was frozen or cut off.
    pub fn disturbed(&mut self, process: Process, now: Time) {
        self.disturbed.insert(process, now);
        for history in &mut self.tasks {
            history.marked.iter_mut().filter(|marked| marked.0 == process).for_each(|marked| marked.1 = true);
            for begun in history.begun.iter_mut().filter(|begun| begun.process == process && !begun.is_settled) {
                begun.is_disturbed = true;
                history.log.push((now, format!("process {} disturbed", process.0)));
            }
        }
    }

    /// A leader dispatched a task.
    pub fn dispatched(&mut self, index: usize, now: Time, run: u32, source: (Stream, u64), capacity: u64) {
        self.log(index, now, format!("run {run} dispatched from {source:?}"));
        if self.plan.tasks[index].naming == Naming::Key && run == 1 {
            let first = *self.tasks[index].source.get_or_insert(source);
            if first != source {
                self.broken(index, "one message of a key is dispatched", format!("{first:?}, then {source:?}"));
            }
        }
        self.dispatched += 1;
        let on_the_way = self.dispatched.saturating_sub(self.settled);
        // With several, one that asked for too much holds it until it is handed back.
        if self.is_quiet && self.plan.executors == 1 && on_the_way > capacity {
            let what = format!("{on_the_way} tasks on their way, executors have room for {capacity}");
            self.broken(index, "no more is dispatched than executors have room for", what);
        }
    }

    /// An executor settled a task, in whatever way.
    pub fn settled(&mut self, index: usize, process: Process, run: u32, now: Time) {
        self.log(index, now, format!("run {run} settled by process {}", process.0));
        self.settled += 1;
        let runs = self.tasks[index].begun.iter_mut();
        // A copy that is left to the run under way settles nothing of it.
        let is_of_this = |begun: &&mut Begun| begun.process == process && begun.run == run && begun.ended.is_some();
        runs.filter(is_of_this).for_each(|begun| begun.is_settled = true);
    }

    /// A completion was stored.
    pub fn done(&mut self, index: usize, now: Time, record: &Rc<Record>) {
        self.log(index, now, format!("completion stored: {} ({}, run {})", record.outcome, record.code, record.run));
        if self.tasks[index].done.is_some() {
            self.broken(index, "a task has one completion", "a second was stored");
        }
        self.tasks[index].done.get_or_insert((now, Rc::clone(record)));
    }

    /// A run is marked as begun.
    pub fn marks(&mut self, index: usize, process: Process, now: Time) {
        self.log(index, now, format!("process {} marks its begin", process.0));
        self.tasks[index].marked.push((process, false));
    }

    /// A handler begins.
    pub fn begins(&mut self, index: usize, process: Process, run: u32, now: Time) {
        self.log(index, now, format!("run {run} begins in process {}", process.0));
        let planned = self.plan.tasks[index];
        let history = &mut self.tasks[index];
        history.marked.retain(|marked| marked.0 != process);
        history.begun.push(Begun { process, run, at: now, ended: None, is_disturbed: false, is_settled: false });
        let (begun, done, cancelled) = (history.begun.len(), history.done.clone(), history.cancelled);
        if planned.retries == 0 && begun > 1 {
            self.broken(index, "a task without retries begins once", "it began twice");
        }
        // A cancellation counts once it is confirmed; a message that the server delivers twice though it is held may
        // lie here while the other delivery is run.
        if let Some((at, record)) = &done
            && record.outcome != Outcome::Cancelled
            && !self.delivers_twice
            && now > at + AFTER_DONE
            && !self.was_held_up(process, *at, now)
        {
            self.broken(index, "a finished task does not begin again", format!("done at {at}, begins at {now}"));
        }
        if let Some(at) = cancelled
            && now > at + AFTER_CANCEL
            && !self.was_held_up(process, at, now)
        {
            self.broken(index, "a cancelled task does not begin", format!("cancelled at {at}, begins at {now}"));
        }
        if self.repeats_without_a_reason(index) {
            self.broken(index, "without a fault a task runs once an attempt", "nothing explains another run");
        }
    }

    /// Whether a process was frozen or cut off between the two times: its news may be old.
    fn was_held_up(&self, process: Process, from: Time, to: Time) -> bool {
        self.disturbed.get(&process).is_some_and(|at| (from..=to).contains(at))
    }

    fn repeats_without_a_reason(&self, index: usize) -> bool {
        let begun = &self.tasks[index].begun;
        let failures = begun.iter().filter(|b| matches!(b.ended, Some((_, HandlerEnd::Failure)))).count();
        self.is_quiet && begun.len() > 1 + failures
    }

    /// A handler ended.
    pub fn ended(&mut self, index: usize, process: Process, run: u32, now: Time, end: HandlerEnd) {
        self.log(index, now, format!("run {run} ends in process {}: {end:?}", process.0));
        let runs = self.tasks[index].begun.iter_mut();
        let of_run = |begun: &&mut Begun| begun.process == process && begun.run == run && begun.ended.is_none();
        if let Some(begun) = runs.filter(of_run).last() {
            begun.ended = Some((now, end));
        }
    }

    /// How often a task has begun.
    pub fn begun(&self, index: usize) -> u32 {
        u32::try_from(self.tasks[index].begun.len()).unwrap_or(u32::MAX)
    }

    /// Handlers at work in live processes.
    pub fn running(&self, world: &World) -> usize {
        let runs = self.tasks.iter().flat_map(|history| &history.begun);
        runs.filter(|begun| begun.ended.is_none() && !world.is_dead(begun.process)).count()
    }

    /// What was wrong with the run as a whole.
    pub fn conclude(
        &mut self,
        broker: &Broker,
        ids: &[Rc<str>],
        has_drained: bool,
        now: Time,
    ) -> Result<Figures, Violation> {
        if self.failed.is_none() && !has_drained {
            self.not_drained(broker, now);
        }
        for (index, id) in ids.iter().enumerate() {
            self.conclude_task(broker, id, index);
        }
        if let Some(violation) = self.failed.take() {
            return Err(violation);
        }
        Ok(Figures {
            accepted: self.tasks.iter().filter(|history| history.is_accepted).count(),
            begun: self.tasks.iter().map(|history| history.begun.len()).sum(),
            completed: broker.len(Stream::Done),
            time: now,
        })
    }

    fn not_drained(&mut self, broker: &Broker, now: Time) {
        let left: Vec<String> = [Stream::Tasks, Stream::Time, Stream::Lanes]
            .into_iter()
            .flat_map(|stream| broker.messages(stream).map(move |message| format!("{stream:?} {:?}", message.subject)))
            .collect();
        let stuck = [Stream::Tasks, Stream::Time, Stream::Lanes].into_iter().find_map(|stream| {
            broker.messages(stream).find_map(|message| match &message.body {
                Body::Tasks(tasks) => tasks.first().map(|task| crate::site::index_of(task)),
                Body::Done(_)
                | Body::Holder(_)
                | Body::Delivered(_)
                | Body::Mark { .. }
                | Body::Claim(_)
                | Body::Nothing => None,
            })
        });
        let what = format!("after {} s there are left: {}", now / SECOND, left.join(", "));
        match stuck {
            Some(index) => self.broken(index, "everything drains", what),
            None => self.violated("everything drains", what),
        }
    }

    fn conclude_task(&mut self, broker: &Broker, id: &Rc<str>, index: usize) {
        let planned = self.plan.tasks[index];
        let history = &self.tasks[index];
        let Some((done_at, record)) = history.done.clone() else {
            if history.is_accepted {
                self.broken(index, "an accepted task completes", "it has no completion");
            }
            return;
        };
        if !history.is_submitted && !history.is_cancelled_by_plan {
            return self.broken(index, "only what was submitted completes", record.outcome);
        }
        let failures = history.begun.iter().filter(|b| matches!(b.ended, Some((_, HandlerEnd::Failure)))).count();
        let for_good = history.begun.iter().any(|b| matches!(b.ended, Some((_, HandlerEnd::ForGood))));
        let cut_short = history.begun.iter().filter(|begun| begun.is_disturbed).count()
            + history.marked.iter().filter(|marked| marked.1).count();
        let returned = history.begun.iter().any(|begun| {
            let in_time = |at: Time| at + TO_STORE < done_at;
            matches!(begun.ended, Some((at, HandlerEnd::Success)) if in_time(at) && !begun.is_disturbed)
        });
        if returned && matches!(record.outcome, Outcome::Failed | Outcome::Expired) {
            self.broken(index, "no success is reported as failure", record.outcome);
            return;
        }
        let retries = usize::try_from(planned.retries).unwrap_or(0);
        let is_explained = match record.outcome {
            Outcome::Succeeded => history.begun.iter().any(|b| matches!(b.ended, Some((_, HandlerEnd::Success)))),
            Outcome::Cancelled => history.is_cancelled_by_plan,
            Outcome::Expired => {
                // A copy that was submitted again may expire after an attempt has failed; not while one goes on.
                let goes_on = history.begun.iter().any(|begun| {
                    let is_open = begun.ended.is_none_or(|(at, end)| at > done_at || end == HandlerEnd::Success);
                    begun.at < done_at && is_open && !begun.is_disturbed
                });
                planned.deadline.is_some() && !goes_on
            }
            Outcome::Failed if record.code == "crashed" => cut_short > 0 && cut_short >= retries.max(1),
            Outcome::Failed => for_good || failures > retries,
            Outcome::Rejected => false,
        };
        if !is_explained {
            let what = format!("{} ({})", record.outcome, record.code);
            return self.broken(index, "what is reported is what happened", what);
        }
        let callbacks = (0..record.callbacks)
            .filter(|n| broker.last(Stream::Callbacks, &Subject::Callback(Rc::clone(id), *n)).is_none());
        if let Some(missing) = callbacks.into_iter().next() {
            return self.broken(index, "every callback is stored", format!("callback {missing} is missing"));
        }
        let is_buried = broker.last(Stream::Dead, &Subject::Of(Rc::clone(id))).is_some();
        if is_buried != (record.outcome == Outcome::Failed) {
            let what = format!("{}, dead letter: {is_buried}", record.outcome);
            self.broken(index, "a failed task has a dead letter, and no other", what);
        }
    }
}
