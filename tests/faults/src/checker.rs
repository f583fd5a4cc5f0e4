//! Judges what a soak did: a pure function of the journals and of what the streams hold in the end.

use crate::admin::Replica;
use crate::journal::{Event, Expect, Line, Returned};
use jetlane_schemas::subject::STREAM_TIME;
use std::collections::{BTreeMap, BTreeSet};

/// How long a run may go without a sign of life, in microseconds: the lanes' ack wait.
pub const LEASE_US: u64 = 10_000_000;
/// How long after a fault its effects are still explained by it: a lease, an election and a reconnect.
const AFTERMATH_US: u64 = 25_000_000;
/// How long before a fault its effects are explained by it: what had been sent and was not answered yet.
const FORERUN_US: u64 = 1_000_000;
/// How much earlier the signs of life of a run may have ended than the fault that broke its lease was over, so that the
/// fault lasted as long as a lease less the time since the last sign of life.
const SIGN_OF_LIFE_US: u64 = 3_500_000;
/// How soon after the loss of a stream a task has to complete that was accepted after it: the time that services take to
/// notice and to make the stream anew, and other faults meanwhile.
const FLOWS_WITHIN_US: u64 = 60_000_000;
/// How long after a stream was deleted its last acks may come to the journals.
const ANSWER_US: u64 = 2_000_000;
/// How long a run may take from looking its task up to the begin of its handler.
const LOOK_UP_US: u64 = 2_000_000;
/// Lines of a task's history that a violation carries.
const HISTORY_LINES_MAX: usize = 60;
/// Violations of one kind that carry their whole history; the others are counted.
const VIOLATIONS_MAX: usize = 20;

/// A completion as the stream holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The task.
    pub id: String,
    /// Its type.
    pub task_type: String,
    /// How it ended.
    pub outcome: String,
    /// The code of its failure; empty for a success.
    pub code: String,
    /// The marker that its output echoes.
    pub marker: Option<String>,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When it was stored, by the broker's clock.
    pub at_us: u64,
    /// The beginning of its body.
    pub text: String,
}

/// A fault as the journals tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// Its kind.
    pub kind: String,
    /// Whom it hit.
    pub target: String,
    /// The processes that it hit.
    pub pids: Vec<u32>,
    /// When it began.
    pub begin_us: u64,
    /// When it was over.
    pub end_us: u64,
}

/// All that is known of a soak.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The journals, sorted by time.
    pub lines: Vec<Line>,
    /// The completions.
    pub completions: Vec<Stored>,
    /// Tasks of dead-lettered callbacks, as `<type>.<id>`.
    pub dead_callbacks: BTreeSet<String>,
    /// Tasks whose callbacks are scheduled for later, as `<type>.<id>`.
    pub due_callbacks: BTreeSet<String>,
    /// Messages that the work streams still hold, by subject.
    pub left: BTreeMap<String, u64>,
    /// What each replica holds, by stream.
    pub replicas: BTreeMap<String, Vec<Replica>>,
    /// Durable consumers at the end, by stream.
    pub consumers: BTreeMap<String, Vec<String>>,
    /// The most tasks that lay in lanes at one time, and how many may: counted by scenarios alone.
    pub lanes: Option<(u64, u64)>,
    /// Tasks that an earlier leader was given and a later one dispatched as if nobody had had them: heard in scenarios alone.
    pub trusted: BTreeSet<String>,
    /// Memory of the services in KiB: at the beginning, at the end.
    pub memory_kib: BTreeMap<String, (u64, u64)>,
    /// Messages that the work streams still hold, and that their consumers count as acked, by subject.
    pub stranded: BTreeMap<String, u64>,
    /// Frames of an unknown version that nobody holds any more.
    pub frames_gone: Vec<String>,
    /// Services that are not ready once everything is healed, and what they say.
    pub not_ready: BTreeMap<String, String>,
    /// How many servers there are.
    pub servers: usize,
    /// What the soak itself could not do, such as a process that did not drain.
    pub trouble: Vec<String>,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Violation {
    /// Which promise.
    pub kind: Kind,
    /// The task, as `<type>.<id>`, or what else it is about.
    pub of: String,
    /// What happened.
    pub what: String,
    /// All that is known of the task, in order of time.
    pub history: Vec<String>,
}

/// The promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An acknowledged task has no completion.
    Lost,
    /// A task has two completions.
    CompletedTwice,
    /// A completion is of no task that was submitted.
    NeverSubmitted,
    /// A completion is not of the kind that its task can have.
    WrongOutcome,
    /// A handler succeeded, or no attempt was spent, and the completion says that it failed.
    SuccessAsFailure,
    /// A task ran again and no fault explains it.
    RanAgain,
    /// A task with `retries 0` ran again.
    OnceRanAgain,
    /// A task began long after its completion was stored.
    RanAfterCompletion,
    /// A submitter or a webhook heard of another outcome than the stream holds.
    HeardOtherwise,
    /// A callback was neither delivered nor dead-lettered.
    CallbackMissing,
    /// Lanes held more tasks than their executors had room for.
    LanesOverfilled,
    /// A task that an earlier leader was given was dispatched as if nobody had had it.
    TrustedAfterTakeOver,
    /// No task completed for too long after a stream that held work was lost.
    StoodStill,
    /// A stream of work is not empty after all is done.
    Leftover,
    /// Replicas of a stream differ.
    ReplicasDiffer,
    /// A flow or lane has more than one consumer.
    ConsumerLeft,
    /// A service uses much more memory than at its beginning.
    Memory,
    /// A frame of an unknown version is neither in its stream nor a dead letter.
    FrameGone,
    /// A service is not ready, or not alive, although everything is healed.
    NotReady,
    /// A service said that it was ready while the broker was away.
    ReadyWithoutBroker,
    /// A task began before its delay was over.
    TooEarly,
    /// A process ended by itself.
    EndedByItself,
    /// Something had to be done by hand, or could not be done.
    Trouble,
}

/// What the checker found.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Broken promises.
    pub violations: Vec<Violation>,
    /// Broken promises by kind, also those beyond the first of each kind.
    pub counts: BTreeMap<Kind, u64>,
    /// Tasks that were acknowledged.
    pub accepted: u64,
    /// Runs beyond one a task that a fault explains.
    pub explained_runs: u64,
    /// Runs after an error that the handler returned.
    pub retries: u64,
    /// Processes that ended by themselves, by name.
    pub ended: BTreeMap<String, u64>,
    /// Callbacks that are scheduled for later.
    pub callbacks_due: u64,
    /// Messages that nobody could read, told as rejected.
    pub unreadable: u64,
    /// Messages of completed tasks that a full disk left behind.
    pub stranded: u64,
    /// Tasks without a completion that were accepted before a stream that held work was deleted.
    pub lost_by_deletion: u64,
    /// Callbacks that are missing since their stream was deleted.
    pub callbacks_lost_by_deletion: u64,
}

/// All that is known of one task.
#[derive(Debug, Default)]
struct Task<'a> {
    submits: Vec<&'a Line>,
    accepts: u64,
    accepted_us: Option<u64>,
    runs: Vec<Run>,
    heard: BTreeSet<&'a str>,
    callbacks: u64,
    completions: Vec<&'a Stored>,
    /// The executors that were about to begin it, and when.
    marks: Vec<(u64, &'a str)>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    pid: u32,
    begin_us: u64,
    end: Option<(u64, Returned)>,
}

/// Judges a soak.
pub fn check(history: &History) -> Findings {
    let names = names(history);
    let tasks = tasks(history, &names);
    let (faults, processes) = (faults(history), processes(&tasks));
    let mut judge = Judge { history, faults, findings: Findings::default(), names, processes };
    for (name, task) in &tasks {
        judge.task(name, task);
    }
    judge.flow_after_deletions(&tasks);
    judge.streams();
    judge.processes();
    judge.health();
    judge.findings
}

/// All faults that the journals tell of.
pub fn faults(history: &History) -> Vec<Injected> {
    let faults = history.lines.iter().filter_map(|line| match &line.event {
        Event::Fault { kind, target, pids, begin_us, end_us } => Some(Injected {
            kind: kind.clone(),
            target: target.clone(),
            pids: pids.clone(),
            begin_us: *begin_us,
            end_us: *end_us,
        }),
        _ => None,
    });
    // A process that ends by itself breaks the leases of its runs as a kill does.
    let ends = history.lines.iter().filter_map(|line| match &line.event {
        Event::Ended { process, pid, .. } => Some(Injected {
            kind: "ended".into(),
            target: process.clone(),
            pids: vec![*pid],
            begin_us: line.at_us,
            end_us: line.at_us,
        }),
        _ => None,
    });
    faults.chain(ends).collect()
}

/// The names of tasks by their markers, as `<type>.<id>`: a submission by marker alone learns its id from its ack, or
/// from the completion that echoes the marker.
fn names(history: &History) -> BTreeMap<&str, String> {
    let mut types = BTreeMap::new();
    let mut names = BTreeMap::new();
    for line in &history.lines {
        match &line.event {
            Event::Submit { marker, id, task_type, .. } => {
                types.insert(marker.as_str(), task_type.as_str());
                if let Some(id) = id {
                    names.insert(marker.as_str(), format!("{task_type}.{id}"));
                }
            }
            Event::Accept { marker, id, .. } => {
                if let Some(task_type) = types.get(marker.as_str()) {
                    names.entry(marker.as_str()).or_insert_with(|| format!("{task_type}.{id}"));
                }
            }
            _ => {}
        }
    }
    for stored in &history.completions {
        if let Some(marker) = stored.marker.as_deref().filter(|marker| types.contains_key(marker)) {
            names.entry(marker).or_insert_with(|| format!("{}.{}", stored.task_type, stored.id));
        }
    }
    names
}

fn tasks<'a>(history: &'a History, names: &BTreeMap<&str, String>) -> BTreeMap<String, Task<'a>> {
    let mut tasks: BTreeMap<String, Task<'a>> = BTreeMap::new();
    for line in &history.lines {
        match &line.event {
            Event::Submit { marker, .. } => {
                // A task that was never accepted and never completed owes nothing to anybody.
                if let Some(name) = names.get(marker.as_str()) {
                    tasks.entry(name.clone()).or_default().submits.push(line);
                }
            }
            Event::Accept { marker, .. } => {
                if let Some(name) = names.get(marker.as_str()) {
                    let task = tasks.entry(name.clone()).or_default();
                    task.accepts += 1;
                    task.accepted_us = task.accepted_us.or(Some(line.at_us));
                }
            }
            Event::Heard { id, task_type, outcome } => {
                tasks.entry(format!("{task_type}.{id}")).or_default().heard.insert(outcome);
            }
            Event::Begin { id, task_type, pid, .. } => {
                let run = Run { pid: *pid, begin_us: line.at_us, end: None };
                tasks.entry(format!("{task_type}.{id}")).or_default().runs.push(run);
            }
            Event::End { id, task_type, pid, returned, .. } => {
                let runs = &mut tasks.entry(format!("{task_type}.{id}")).or_default().runs;
                if let Some(run) = runs.iter_mut().find(|run| run.pid == *pid && run.end.is_none()) {
                    run.end = Some((line.at_us, *returned));
                }
            }
            Event::Callback { id, task_type, outcome } => {
                let task = tasks.entry(format!("{task_type}.{id}")).or_default();
                task.callbacks += 1;
                task.heard.insert(outcome);
            }
            Event::Mark { id, task_type, executor, .. } => {
                tasks.entry(format!("{task_type}.{id}")).or_default().marks.push((line.at_us, executor));
            }
            Event::Unknown { .. }
            | Event::Started { .. }
            | Event::Ended { .. }
            | Event::Health { .. }
            | Event::Fault { .. } => {}
        }
    }
    for stored in &history.completions {
        tasks.entry(format!("{}.{}", stored.task_type, stored.id)).or_default().completions.push(stored);
    }
    tasks
}

struct Judge<'a> {
    history: &'a History,
    faults: Vec<Injected>,
    findings: Findings,
    names: BTreeMap<&'a str, String>,
    /// The processes of executors.
    processes: BTreeMap<&'a str, u32>,
}

/// The process of each executor, by the runs that began in it right after their marks.
fn processes<'a>(tasks: &BTreeMap<String, Task<'a>>) -> BTreeMap<&'a str, u32> {
    let mut seen: BTreeMap<&str, BTreeMap<u32, usize>> = BTreeMap::new();
    for task in tasks.values() {
        for (at_us, executor) in &task.marks {
            let next =
                task.runs.iter().filter(|run| run.begin_us + FORERUN_US >= *at_us).min_by_key(|run| run.begin_us);
            if let Some(run) = next {
                *seen.entry(executor).or_default().entry(run.pid).or_default() += 1;
            }
        }
    }
    let most = |seen: BTreeMap<u32, usize>| seen.into_iter().max_by_key(|(_, times)| *times).map(|(pid, _)| pid);
    seen.into_iter().filter_map(|(executor, pids)| Some((executor, most(pids)?))).collect()
}

impl Judge<'_> {
    fn report(&mut self, kind: Kind, of: &str, what: impl Into<String>) {
        let count = self.findings.counts.entry(kind).or_default();
        *count += 1;
        if *count <= VIOLATIONS_MAX as u64 {
            let history = self.lines_of(of);
            self.findings.violations.push(Violation { kind, of: of.to_owned(), what: what.into(), history });
        }
    }

    /// All lines of the journals that name a task, with the faults around its runs.
    fn lines_of(&self, name: &str) -> Vec<String> {
        let id = name.rsplit('.').next().unwrap_or(name);
        let markers: Vec<&str> =
            self.names.iter().filter(|(_, named)| *named == name).map(|(marker, _)| *marker).collect();
        let is_of = |event: &Event| match event {
            Event::Submit { marker, .. } | Event::Accept { marker, .. } | Event::Unknown { marker, .. } => {
                markers.contains(&marker.as_str())
            }
            Event::Heard { id: of, .. }
            | Event::Begin { id: of, .. }
            | Event::End { id: of, .. }
            | Event::Mark { id: of, .. }
            | Event::Callback { id: of, .. } => of == id,
            Event::Started { .. } | Event::Ended { .. } | Event::Health { .. } | Event::Fault { .. } => false,
        };
        let mut lines: Vec<(u64, String)> = self
            .history
            .lines
            .iter()
            .filter(|line| is_of(&line.event))
            .map(|line| (line.at_us, format!("{} {:?}", line.by, line.event)))
            .collect();
        let stored =
            self.history.completions.iter().filter(|stored| format!("{}.{}", stored.task_type, stored.id) == name);
        lines.extend(stored.map(|stored| (stored.at_us, format!("DONE {stored:?}"))));
        let (first, last) = (lines.iter().map(|line| line.0).min(), lines.iter().map(|line| line.0).max());
        if let (Some(first), Some(last)) = (first, last) {
            let pids: BTreeSet<u32> = self.pids_of(id);
            let near = self.faults.iter().filter(|fault| {
                let near = fault.begin_us <= last + FORERUN_US && fault.end_us + LEASE_US >= first;
                let whole = fault.kind.starts_with("server") || fault.target.starts_with("dispatcher");
                let whole = whole || fault.kind == WORK_DELETE;
                near && (whole || fault.pids.iter().any(|pid| pids.contains(pid)))
            });
            lines.extend(near.map(|fault| {
                let seconds = (fault.end_us - fault.begin_us) as f64 / 1e6;
                (
                    fault.begin_us,
                    format!("FAULT {} of {} {:?} for {seconds:.1} s", fault.kind, fault.target, fault.pids),
                )
            }));
        }
        lines.sort();
        lines.truncate(HISTORY_LINES_MAX);
        lines.into_iter().map(|(at_us, text)| format!("{:.3} {text}", at_us as f64 / 1e6)).collect()
    }

    /// The processes in which a task began.
    fn pids_of(&self, task: &str) -> BTreeSet<u32> {
        let begun = self.history.lines.iter().filter_map(|line| match &line.event {
            Event::Begin { id, pid, .. } if id == task => Some(*pid),
            _ => None,
        });
        begun.collect()
    }

    fn task(&mut self, name: &str, task: &Task<'_>) {
        if task.accepts > 0 {
            self.findings.accepted += 1;
        }
        let submitted = task.submits.iter().find_map(|line| match &line.event {
            Event::Submit { expect, retries, webhook, .. } => Some((*expect, *retries, *webhook)),
            _ => None,
        });
        let Some((expect, retries, webhook)) = submitted else {
            if name.starts_with(UNREADABLE) && task.runs.is_empty() {
                // Hostile bytes on a stream's subject: told as rejected, under the sequence of their message.
                self.findings.unreadable += 1;
            } else if !task.completions.is_empty() || !task.runs.is_empty() {
                self.report(Kind::NeverSubmitted, name, "it completed or ran, and nobody submitted it");
            }
            return;
        };
        let is_missing = task.completions.is_empty() && task.accepts > 0;
        if is_missing && task.accepted_us.is_some_and(|accepted_us| self.is_deleted_after(accepted_us, "JETLANE_")) {
            // It may have lain in that stream. Whatever it has done else is judged as ever.
            self.findings.lost_by_deletion += 1;
        } else if is_missing {
            self.report(
                Kind::Lost,
                name,
                format!("it was acknowledged and has no completion; it ran {} times", task.runs.len()),
            );
        }
        if task.completions.len() > 1 {
            self.report(Kind::CompletedTwice, name, format!("it has {} completions", task.completions.len()));
        }
        for completion in &task.completions {
            self.outcome(name, task, completion, expect, retries);
        }
        self.runs(name, task, retries);
        self.delay(name, task);
        self.late_runs(name, task);
        let stored: BTreeSet<&str> = task.completions.iter().map(|stored| stored.outcome.as_str()).collect();
        if !task.heard.is_empty() && !task.heard.is_subset(&stored) {
            self.report(Kind::HeardOtherwise, name, format!("its submitter or its webhook heard {:?}", task.heard));
        }
        if webhook && !task.completions.is_empty() && task.callbacks == 0 {
            if self.history.due_callbacks.contains(name) {
                self.findings.callbacks_due += 1;
            } else if task.completions.iter().any(|stored| self.is_deleted_after(stored.at_us, STREAM_TIME)) {
                // Callbacks wait there.
                self.findings.callbacks_lost_by_deletion += 1;
            } else if !self.history.dead_callbacks.contains(name) {
                self.report(Kind::CallbackMissing, name, "its webhook was neither delivered nor dead-lettered");
            }
        }
    }

    /// The deletions of streams that held work.
    fn deletions(&self) -> impl Iterator<Item = &Injected> {
        self.faults.iter().filter(|fault| fault.kind == WORK_DELETE)
    }

    /// Whether a stream of this name, or whose name begins so, was deleted with what it held then or later.
    fn is_deleted_after(&self, at_us: u64, stream: &str) -> bool {
        self.deletions().any(|fault| fault.target.starts_with(stream) && at_us <= fault.end_us + ANSWER_US)
    }

    /// New tasks complete soon after a stream that held work was deleted.
    fn flow_after_deletions(&mut self, tasks: &BTreeMap<String, Task<'_>>) {
        let ends = |after_us: u64| {
            let new = tasks.values().filter(move |task| task.accepted_us.is_some_and(|at_us| at_us > after_us));
            new.flat_map(|task| task.completions.iter().map(|stored| stored.at_us)).min()
        };
        let deletions: Vec<Injected> = self.deletions().cloned().collect();
        for deletion in deletions {
            let after_us = deletion.end_us + ANSWER_US;
            if ends(after_us).is_none_or(|at_us| at_us > deletion.end_us + FLOWS_WITHIN_US) {
                let what = format!("no new task completed within {} s of its deletion", FLOWS_WITHIN_US / 1_000_000);
                self.report(Kind::StoodStill, &deletion.target, what);
            }
        }
    }

    fn outcome(&mut self, name: &str, task: &Task<'_>, stored: &Stored, expect: Expect, retries: u32) {
        let outcome = stored.outcome.as_str();
        let fits = match expect {
            Expect::Success => outcome == "succeeded",
            Expect::Failure => outcome == "failed",
            Expect::SuccessOrCancel => matches!(outcome, "succeeded" | "cancelled"),
            Expect::Rejection => outcome == "rejected",
            Expect::Anything => true,
        };
        if fits {
            return;
        }
        if outcome != "failed" || !matches!(expect, Expect::Success | Expect::SuccessOrCancel) {
            self.report(
                Kind::WrongOutcome,
                name,
                format!("it ended as {outcome} ({}), wanted {expect:?}", stored.code),
            );
            return;
        }
        // A failure is explained where as many leases were broken as there are attempts.
        let broken = task.runs.iter().filter(|run| self.lease_broken(run).is_some()).count();
        let broken = broken + self.died_before_they_began(task, stored, retries);
        let (broken, attempts) = (u32::try_from(broken).unwrap_or(u32::MAX), retries + 1);
        if broken < attempts {
            let what = format!(
                "it ended as failed ({}), though its handler never fails: {} runs, of which faults broke the lease of \
                 {broken}, {attempts} attempts",
                stored.code,
                task.runs.len()
            );
            self.report(Kind::SuccessAsFailure, name, what);
        }
    }

    /// Runs whose executor died as they were about to begin: their marks tell of them. A task that may be repeated has
    /// no mark at its first delivery.
    fn died_before_they_began(&self, task: &Task<'_>, stored: &Stored, retries: u32) -> usize {
        let ends = |from_us: u64, pid: Option<u32>| {
            self.faults.iter().any(|fault| {
                matches!(fault.kind.as_str(), "kill" | "ended" | "restart")
                    && (fault.target.starts_with("executor") || fault.target.starts_with("dispatcher and"))
                    && fault.end_us + FORERUN_US >= from_us
                    && fault.begin_us <= stored.at_us
                    && pid.is_none_or(|pid| fault.pids.contains(&pid))
            })
        };
        let marked = task.marks.iter().filter(|(at_us, executor)| {
            let process = self.processes.get(executor).copied();
            let began = |run: &Run| Some(run.pid) == process && run.begin_us + FORERUN_US >= *at_us;
            !task.runs.iter().any(began) && ends(*at_us, process)
        });
        let accepted = task.submits.first().map_or(0, |line| line.at_us);
        marked.count() + usize::from(retries > 0 && ends(accepted, None))
    }

    /// What has completed does not begin: whoever begins a run that may not be the first looks its task up.
    fn late_runs(&mut self, name: &str, task: &Task<'_>) {
        let [completion] = task.completions.as_slice() else { return };
        let stored_us = completion.at_us;
        for run in task.runs.iter().filter(|run| run.begin_us > stored_us + LOOK_UP_US) {
            let is_explained = self.faults.iter().any(|fault| {
                let overlaps = fault.begin_us <= run.begin_us && fault.end_us + AFTERMATH_US >= stored_us;
                overlaps && (fault.kind.starts_with("server") || fault.pids.contains(&run.pid))
            });
            if !is_explained {
                let late = (run.begin_us - stored_us) as f64 / 1e6;
                self.report(
                    Kind::RanAfterCompletion,
                    name,
                    format!("it began {late:.1} s after it had ended as {}", completion.outcome),
                );
            }
        }
    }

    fn runs(&mut self, name: &str, task: &Task<'_>, retries: u32) {
        let mut runs = task.runs.clone();
        runs.sort_by_key(|run| run.begin_us);
        for pair in runs.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            if matches!(before.end, Some((_, Returned::Retry))) && retries > 0 {
                self.findings.retries += 1;
                continue;
            }
            if retries == 0 {
                if self.lease_broken(&before).is_some() {
                    self.findings.explained_runs += 1;
                } else {
                    let what = format!(
                        "it ran again {:.1} s after its run began, and no fault broke its lease",
                        seconds(before, after)
                    );
                    self.report(Kind::OnceRanAgain, name, what);
                }
                continue;
            }
            if self.explained(&before, &after) {
                self.findings.explained_runs += 1;
            } else {
                self.report(
                    Kind::RanAgain,
                    name,
                    format!("it ran again {:.1} s after its run began", seconds(before, after)),
                );
            }
        }
    }

    /// A task with a delay waits at least that long, whatever its submitter's clock says.
    fn delay(&mut self, name: &str, task: &Task<'_>) {
        let due = task.submits.iter().filter_map(|line| match &line.event {
            Event::Submit { delay_us, .. } if *delay_us > 0 => Some(line.at_us + delay_us),
            _ => None,
        });
        let begun = task.runs.iter().map(|run| run.begin_us).min();
        if let (Some(due), Some(begun)) = (due.min(), begun)
            && begun < due
        {
            self.report(Kind::TooEarly, name, format!("it began {:.3} s too early", (due - begun) as f64 / 1e6));
        }
    }

    /// The fault that broke the lease of a run: its process died while it ran or before its completion was stored, or
    /// could not give a sign of life for as long as a lease.
    fn lease_broken(&self, run: &Run) -> Option<&Injected> {
        let ended = run.end.map_or(u64::MAX, |(at, _)| at.saturating_add(AFTERMATH_US));
        self.faults.iter().find(|fault| {
            let overlaps = fault.begin_us <= ended && fault.end_us >= run.begin_us;
            let long = fault.end_us - fault.begin_us + SIGN_OF_LIFE_US >= LEASE_US;
            let is_of_run = fault.pids.contains(&run.pid);
            overlaps
                && match fault.kind.as_str() {
                    "kill" | "ended" | "restart" => is_of_run,
                    kind if kind.starts_with("server") => long,
                    _ => is_of_run && long,
                }
        })
    }

    /// Whether a fault explains that a task ran again, duplicates being allowed for a task that may be retried.
    fn explained(&self, before: &Run, after: &Run) -> bool {
        let (from, to) = (before.begin_us.saturating_sub(AFTERMATH_US), after.begin_us);
        self.faults.iter().any(|fault| {
            let overlaps = fault.begin_us <= to && fault.end_us + AFTERMATH_US >= before.begin_us.max(from);
            let whole = fault.kind.starts_with("server") || fault.target.starts_with("dispatcher");
            overlaps && (whole || fault.pids.contains(&before.pid) || fault.pids.contains(&after.pid))
        })
    }

    fn streams(&mut self) {
        for task in &self.history.trusted {
            self.report(Kind::TrustedAfterTakeOver, task, "two leaders were given it, and it is no suspect");
        }
        if let Some((most, may)) = self.history.lanes.filter(|(most, may)| most > may) {
            self.report(Kind::LanesOverfilled, "lanes", format!("{most} tasks lay in lanes, with room for {may}"));
        }
        let left: Vec<(String, u64)> =
            self.history.left.iter().map(|(subject, count)| (subject.clone(), *count)).collect();
        for (subject, count) in left {
            self.report(Kind::Leftover, &subject, format!("{count} messages are left after all is done"));
        }
        // A full disk does not let the server remove what is acked: the broker's fault, and no task's.
        if self.faults.iter().any(|fault| fault.kind == "server-disk-full") {
            self.findings.stranded = self.history.stranded.values().sum();
        } else {
            for (subject, count) in self.history.stranded.clone() {
                self.report(Kind::Leftover, &subject, format!("{count} messages are left that count as acked"));
            }
        }
        for (stream, replicas) in &self.history.replicas {
            let differ =
                replicas.windows(2).any(|pair| (pair[0].state, pair[0].digest) != (pair[1].state, pair[1].digest));
            if differ {
                self.report(Kind::ReplicasDiffer, stream, format!("{replicas:?}"));
            }
        }
        for (stream, consumers) in &self.history.consumers {
            let mut stems: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for consumer in consumers {
                // A flow's consumer is `<flow>-<epoch>`, which a new leader replaces.
                let stem = match consumer.rsplit_once('-') {
                    Some((stem, epoch)) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => stem,
                    _ => consumer,
                };
                stems.entry(stem).or_default().push(consumer);
            }
            for (stem, consumers) in stems.into_iter().filter(|(_, consumers)| consumers.len() > 1) {
                self.report(Kind::ConsumerLeft, &format!("{stream} {stem}"), format!("{consumers:?}"));
            }
        }
    }

    /// Services say that they are not ready soon after the last server is gone, and are ready once it is back.
    fn health(&mut self) {
        /// How soon a service says so.
        const TOLD_WITHIN_US: u64 = 3_000_000;
        for (process, says) in &self.history.not_ready {
            self.report(Kind::NotReady, process, says.clone());
        }
        for frame in &self.history.frames_gone {
            self.report(Kind::FrameGone, frame, "it is neither in its stream nor a dead letter");
        }
        let mut ready: BTreeMap<&str, Vec<(u64, bool)>> = BTreeMap::new();
        for line in &self.history.lines {
            if let Event::Health { process, ready: is_ready, .. } = &line.event {
                ready.entry(process).or_default().push((line.at_us, *is_ready == Some(true)));
            }
        }
        let is_outage = |fault: &&Injected| {
            let all = fault.kind == "server-kill-all" || (fault.kind == "server-kill" && self.history.servers == 1);
            all && fault.end_us - fault.begin_us > TOLD_WITHIN_US
        };
        let outages: Vec<Injected> = self.faults.iter().filter(is_outage).cloned().collect();
        for outage in outages {
            let at_us = outage.begin_us + TOLD_WITHIN_US;
            for (process, told) in &ready {
                // A process that is stopped, or whose connection is broken without its knowing, cannot tell.
                let excused = self.faults.iter().any(|fault| {
                    fault.target == **process && fault.begin_us <= at_us && fault.end_us + FORERUN_US >= outage.begin_us
                });
                let last = told.iter().rev().find(|(told_us, _)| *told_us <= at_us);
                if !excused && last.is_some_and(|(_, ready)| *ready) {
                    let what = format!("it was ready 3 s after {} at {}", outage.kind, outage.begin_us);
                    self.report(Kind::ReadyWithoutBroker, process, what);
                }
            }
        }
    }

    fn processes(&mut self) {
        /// A service may grow to so many times its memory at the beginning, and by so many KiB.
        const GROWTH: u64 = 3;
        const GROWTH_KIB: u64 = 64 << 10;
        for (name, (before, after)) in &self.history.memory_kib {
            if *after > before * GROWTH + GROWTH_KIB {
                self.report(Kind::Memory, name, format!("{after} KiB at the end, {before} KiB at the beginning"));
            }
        }
        let deadly: BTreeSet<u32> = self.pids_of_deadly_handlers();
        for line in &self.history.lines {
            if let Event::Ended { process, pid, status } = &line.event {
                *self.findings.ended.entry(process.clone()).or_default() += 1;
                if !deadly.contains(pid) {
                    self.report(Kind::EndedByItself, process, format!("process {pid}: {status}"));
                }
            }
        }
        for trouble in &self.history.trouble {
            self.report(Kind::Trouble, "soak", trouble.clone());
        }
    }

    /// Processes in which a handler began that ends its process.
    fn pids_of_deadly_handlers(&self) -> BTreeSet<u32> {
        let deadly = self.history.lines.iter().filter_map(|line| match &line.event {
            Event::Submit { marker, .. } if marker.starts_with(DEADLY) => self.names.get(marker.as_str()),
            _ => None,
        });
        let deadly: BTreeSet<&String> = deadly.collect();
        let begun = self.history.lines.iter().filter_map(|line| match &line.event {
            Event::Begin { id, task_type, pid, .. } if deadly.contains(&format!("{task_type}.{id}")) => Some(*pid),
            _ => None,
        });
        begun.collect()
    }
}

/// The fault that deletes a stream that holds work. It is no fault of a server: it explains no second run.
pub const WORK_DELETE: &str = "work-delete";

/// How the markers of tasks begin that end the process of their handler.
pub const DEADLY: &str = "deadly-";

/// How the names of rejected messages begin that nobody can read.
const UNREADABLE: &str = "jetlane.unreadable.";

fn seconds(before: Run, after: Run) -> f64 {
    (after.begin_us - before.begin_us) as f64 / 1e6
}

#[cfg(test)]
mod tests;
