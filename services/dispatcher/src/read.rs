//! A message of intake as tasks, each with what is to become of it.

use crate::registry::Registry;
use jetlane_bus::pull::DeliveryFacts;
use jetlane_bus::{clock, trace};
use jetlane_schemas::intake::{self, Message};
use jetlane_schemas::limits::TIMEOUT_MS_MAX;
use jetlane_schemas::needs::smallest_fit;
use jetlane_schemas::subject::Lane;
use jetlane_schemas::task::InvalidOption;
use jetlane_schemas::{
    Failure, FitEntry, Flow, Headers, Micros, QueueName, TaskEvent, TaskId, TaskType, TypeEntry, frame,
};

/// A task whose type is not known in its queue is looked at again after so long, and then ever less often: it must
/// not stand in the way of its flow.
const UNKNOWN_TYPE_PAUSE: Micros = Micros(5_000_000);

/// A task whose needs no declared fit covers is looked at again after so long, and then ever less often.
pub(crate) const NO_FIT_PAUSE: Micros = Micros(30_000_000);

/// The longest of both pauses. Each look stores the task anew.
const UNSERVED_PAUSE_MAX: Micros = Micros(600_000_000);

/// A submitter's clock is believed as far as it is at most so far behind the broker's.
const SKEW_MAX: Micros = Micros(5_000_000);

/// The code of a failure of a task whose type nobody has announced.
pub(crate) const UNKNOWN_TYPE: &str = "unknown_type";
/// The type under which messages are kept that cannot be read.
const UNREADABLE: &str = "jetlane.unreadable";

/// The task that stands for a message of a lane which cannot be read: its body is that of the message.
pub(crate) fn unreadable(lane: &Lane, sequence: u64, body: &[u8]) -> TaskEvent {
    let id = TaskId::new(format!("lane-{sequence}")).expect("a word and a number");
    let task_type = TaskType::new(UNREADABLE).expect("two tokens of letters");
    TaskEvent::new(id, task_type, lane.queue.clone(), clock::now(), body.to_vec())
}

/// No run takes longer, whatever is told of it.
pub(crate) const DAY: Micros = Micros(TIMEOUT_MS_MAX * 1_000);

/// What is to become of a task that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate {
    /// It runs when its turn comes.
    Run,
    /// It is refused.
    Reject(Failure),
    /// It is not due before this: the broker keeps it until then.
    Later(Micros),
    /// The same, since nobody has announced its type.
    Unknown(Micros),
    /// The same, since no declared fit covers what it needs.
    NoFit(Micros),
    /// It is another queue's by now: it stays in the stream.
    Leave,
    /// Its task has ended, and a later task of its key waits behind it: its message is acknowledged.
    Superseded,
}

/// A message of a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived<'a> {
    pub(crate) flow: &'a Flow,
    pub(crate) facts: DeliveryFacts,
    pub(crate) headers: &'a Headers,
    pub(crate) body: &'a [u8],
    /// A message delivered before now to another leader up to this sequence may have been dispatched.
    pub(crate) suspect_until: u64,
}

/// The bounds and the knowledge that a message is read by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judge<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) queue: &'a QueueName,
    /// The fits that the queue declares, `any` among them.
    pub(crate) fits: &'a [FitEntry],
    pub(crate) now: Micros,
    pub(crate) body_bytes_max: usize,
    /// How long a task is kept whose type nobody has announced, or whose needs no declared fit covers.
    pub(crate) unserved_kept: Micros,
}

impl Judge<'_> {
    /// Reads a message's tasks. There is always one at least: what cannot be read is refused under an
    /// id made of its sequence. They are boxed: large, and on from here they change hands.
    pub(crate) fn read(&self, message: Arrived<'_>) -> Vec<(Box<TaskEvent>, Fate)> {
        let suspect = message.facts.delivered > 1 || message.facts.stream_sequence <= message.suspect_until;
        let mut tasks = match message.flow {
            Flow::Raw(task_type) => vec![boxed(self.read_raw(task_type, message))],
            Flow::Task(_, priority, shard) | Flow::Due(_, priority, shard) => {
                match frame::decode_bundle(message.body) {
                    Err(error) => vec![boxed(self.unreadable(message, &error))],
                    Ok(tasks) => tasks
                        .into_iter()
                        .map(Box::new)
                        .map(|mut task| {
                            // The subject decides: it is what the permissions are about.
                            (task.queue, task.priority, task.shard) = (self.queue.clone(), *priority, *shard);
                            self.doubt(&mut task, message);
                            let fate = self.fate(&mut task, message.flow);
                            (task, fate)
                        })
                        .collect(),
                }
            }
        };
        tasks.iter_mut().for_each(|(task, _)| task.suspect |= suspect);
        tasks
    }

    /// A submitter is not believed what only runs can tell, nor that its task is older than the broker
    /// knows: both would move it before others. What Jetlane stored itself is kept within bounds.
    fn doubt(&self, task: &mut TaskEvent, message: Arrived<'_>) {
        if let Flow::Due(..) = message.flow {
            task.remaining_us = task.remaining_us.map(|us| us.min(DAY.0));
            return;
        }
        (task.run, task.attempts, task.yields, task.remaining_us, task.checkpoint) = (1, 0, 0, None, None);
        let stored_at = message.facts.stored_at;
        let oldest = Micros(stored_at.0.saturating_sub(SKEW_MAX.0));
        // Never this machine's clock: message ids name this time, and the next leader has to find the same.
        task.submitted_at = task.submitted_at.clamp(oldest, stored_at);
        task.due_at = task.due_at.map(|due_at| due_at.max(task.submitted_at));
    }

    fn read_raw(&self, task_type: &TaskType, message: Arrived<'_>) -> (TaskEvent, Fate) {
        let known = self.registry.task_type(task_type);
        let blank = TypeEntry::new(self.queue.clone());
        let entry = known.map_or(&blank, |known| &known.entry);
        let sequence = message.facts.stream_sequence;
        let raw = Message {
            stream_sequence: sequence,
            stored_at: message.facts.stored_at,
            headers: message.headers,
            body: message.body,
        };
        match intake::read(task_type, entry, raw, clock::parse_rfc3339) {
            Ok(mut task) => {
                task.queue = self.queue.clone();
                // An id of the submitter's own may have been submitted before.
                task.suspect = task.id != TaskId::from_sequence(sequence);
                if trace::propagation() == trace::Propagation::None {
                    task.trace = jetlane_schemas::TraceContext::default();
                }
                let fate = self.fate(&mut task, message.flow);
                (task, fate)
            }
            Err(refused) => (*refused.task, Fate::Reject(of_option(&refused.reason))),
        }
    }

    /// A frame that is none: named by its sequence, kept whole.
    fn unreadable(&self, message: Arrived<'_>, error: &frame::FrameError) -> (TaskEvent, Fate) {
        let id = TaskId::from_sequence(message.facts.stream_sequence);
        let task_type = TaskType::new(UNREADABLE).expect("two tokens of letters");
        let task = TaskEvent::new(id, task_type, self.queue.clone(), message.facts.stored_at, message.body.to_vec());
        (task, Fate::Reject(Failure::new("frame", format!("the message cannot be read: {error}"))))
    }

    fn fate(&self, task: &mut TaskEvent, flow: &Flow) -> Fate {
        if let Err(invalid) = task.check(self.body_bytes_max) {
            return Fate::Reject(of_option(&invalid));
        }
        let Some(known) = self.registry.task_type(&task.task_type) else {
            let failure = || Failure::new(UNKNOWN_TYPE, "nobody announced its type for as long as such tasks are kept");
            return self.unserved(task, UNKNOWN_TYPE_PAUSE).map_or_else(|| Fate::Reject(failure()), Fate::Unknown);
        };
        if let Err(failure) = known.schema.check(task.codec, &task.payload) {
            return Fate::Reject(failure);
        }
        if !self.find_fit(task) {
            let failure = || Failure::new("no_fit", "no fit covered its needs for as long as such tasks are kept");
            return self.unserved(task, NO_FIT_PAUSE).map_or_else(|| Fate::Reject(failure()), Fate::NoFit);
        }
        task.retries.get_or_insert(known.entry.retries);
        task.timeout_ms.get_or_insert(known.entry.timeout_ms);
        match task.due_at {
            // What a schedule brought is due, whatever this process thinks the time is.
            Some(due_at) if !matches!(flow, Flow::Due(..)) && due_at > self.now => Fate::Later(due_at),
            _ => Fate::Run,
        }
    }

    /// When a task that nobody serves is looked at again: after as long as it has waited already, within bounds; `None`
    /// once it has been kept for long enough.
    fn unserved(&self, task: &TaskEvent, pause: Micros) -> Option<Micros> {
        let since = task.due_at.unwrap_or(task.submitted_at);
        let waited = self.now.0.saturating_sub(since.0);
        let pause = waited.clamp(pause.0, UNSERVED_PAUSE_MAX.0);
        (waited < self.unserved_kept.0).then(|| Micros(self.now.0 + pause))
    }

    /// Finds the smallest declared fit that covers the task's needs; `false` where there is none. A task
    /// without needs has the fit that it came with.
    fn find_fit(&self, task: &mut TaskEvent) -> bool {
        if task.needs.is_none() {
            return self.fits.iter().any(|fit| fit.name == task.fit);
        }
        match smallest_fit(self.fits, &task.needs) {
            Some(fit) => {
                task.fit = fit.name.clone();
                true
            }
            None => false,
        }
    }
}

fn boxed((task, fate): (TaskEvent, Fate)) -> (Box<TaskEvent>, Fate) {
    (Box::new(task), fate)
}

fn of_option(invalid: &InvalidOption) -> Failure {
    Failure { path: None, ..Failure::new("option", invalid.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::{Priority, Shard};

    const NOW: Micros = Micros(1_700_000_000_000_000);
    const KEPT: Micros = Micros(3_600_000_000);

    fn queue() -> QueueName {
        QueueName::new("pictures").expect("valid")
    }

    fn raw() -> Flow {
        Flow::Raw(TaskType::new("image.thumbnail").expect("valid"))
    }

    fn framed() -> Flow {
        Flow::Task(queue(), Priority::High, Shard::new(3).expect("valid"))
    }

    fn read(flow: &Flow, headers: &[(&str, &str)], body: &[u8], delivered: u64) -> Vec<(Box<TaskEvent>, Fate)> {
        let registry = crate::registry::of_types(&[(
            "image.thumbnail",
            r#"{"queue":"pictures","retries":7,"schema":{"type":"object","properties":{"n":{"type":"integer"}}}}"#,
        )]);
        let headers: Headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let fits = serde_json::from_str::<jetlane_schemas::QueueEntry>(
            r#"{"fits":[{"name":"gpu","covers":{"resources":{"gpu":1}}},{"name":"gpus","covers":{"resources":{"gpu":8}}}]}"#,
        )
        .expect("valid")
        .all_fits();
        let judge = Judge {
            registry: &registry,
            queue: &queue(),
            fits: &fits,
            now: NOW,
            body_bytes_max: 1_000,
            unserved_kept: KEPT,
        };
        let facts = DeliveryFacts { delivered, stream_sequence: 12, stored_at: NOW };
        judge.read(Arrived { flow, facts, headers: &headers, body, suspect_until: 5 })
    }

    fn task(body: &[u8]) -> TaskEvent {
        let task_type = TaskType::new("image.thumbnail").expect("valid");
        TaskEvent::new(TaskId::generate(), task_type, QueueName::default_queue(), NOW, body.to_vec())
    }

    #[test]
    fn a_bare_body_runs_with_its_types_options() {
        let (task, fate) = read(&raw(), &[], br#"{"n":1}"#, 1).remove(0);
        assert_eq!(fate, Fate::Run);
        assert_eq!((task.id.as_str(), task.retries, task.suspect), ("s12", Some(7), false));
    }

    #[test]
    fn what_may_have_run_is_suspect() {
        assert!(read(&raw(), &[], b"{}", 2)[0].0.suspect, "delivered again");
        assert!(read(&raw(), &[("ce-id", "0190b8f2-7c1e-7000-8000-000000000001")], b"{}", 1)[0].0.suspect, "own id");
        let body = frame::encode_bundle(&[task(b"{}")]).expect("encodes");
        assert!(!read(&framed(), &[], &body, 1)[0].0.suspect);
    }

    #[test]
    fn a_body_that_does_not_fit_is_refused_with_its_path() {
        let (_, fate) = read(&raw(), &[], br#"{"n":"x"}"#, 1).remove(0);
        let Fate::Reject(failure) = fate else { panic!("{fate:?}") };
        assert_eq!((failure.code.as_str(), failure.path.as_deref()), ("schema", Some("/n")));
    }

    #[test]
    fn a_body_over_the_limit_is_refused_and_one_of_exactly_the_limit_runs() {
        let body = |len: usize| format!("{{\"s\":\"{}\"}}", "x".repeat(len - 8));
        assert_eq!(read(&raw(), &[], body(1_000).as_bytes(), 1)[0].1, Fate::Run);
        let fate = &read(&raw(), &[], body(1_001).as_bytes(), 1)[0].1;
        let Fate::Reject(failure) = fate else { panic!("{fate:?}") };
        assert!(failure.message.contains("1000"), "{}", failure.message);
    }

    #[test]
    fn an_option_out_of_range_is_refused() {
        let fate = &read(&raw(), &[("ce-jetlanepriority", "urgent")], b"{}", 1)[0].1;
        assert!(matches!(fate, Fate::Reject(failure) if failure.code == "option"), "{fate:?}");
    }

    #[test]
    fn a_delayed_task_waits_in_the_broker_unless_a_schedule_brought_it() {
        let (task_later, fate) = read(&raw(), &[("ce-jetlanedelayms", "60000")], b"{}", 1).remove(0);
        assert_eq!(fate, Fate::Later(Micros(NOW.0 + 60_000_000)));
        let body = frame::encode_bundle([&*task_later]).expect("encodes");
        let due = Flow::Due(queue(), Priority::Normal, Shard::default());
        assert_eq!(read(&due, &[], &body, 1)[0].1, Fate::Run);
    }

    #[test]
    fn a_type_that_nobody_announced_is_looked_at_again_later() {
        let mut unknown = task(b"{}");
        unknown.task_type = TaskType::new("never.announced").expect("valid");
        let body = frame::encode_bundle(&[unknown, task(b"{}")]).expect("encodes");
        let read = read(&framed(), &[], &body, 1);
        assert_eq!(read[0].1, Fate::Unknown(Micros(NOW.0 + UNKNOWN_TYPE_PAUSE.0)));
        assert_eq!(read[1].1, Fate::Run, "its neighbour runs");
    }

    #[test]
    fn task_that_nobody_serves_is_looked_at_ever_less_often_and_refused_in_the_end() {
        let due = Flow::Due(queue(), Priority::Normal, Shard::default());
        let fate = |waited_s: u64, is_known: bool| {
            let mut task = task(b"{}");
            task.submitted_at = Micros(NOW.0 - waited_s * 1_000_000);
            if is_known {
                task.needs.resources.insert("gpu".into(), 99);
            } else {
                task.task_type = TaskType::new("never.announced").expect("valid");
            }
            let body = frame::encode_bundle(&[task]).expect("encodes");
            read(&due, &[], &body, 1).remove(0).1
        };
        for (waited_s, pause_s) in [(0, 5), (7, 7), (300, 300), (3_599, 600)] {
            assert_eq!(fate(waited_s, false), Fate::Unknown(Micros(NOW.0 + pause_s * 1_000_000)));
            assert_eq!(fate(waited_s, true), Fate::NoFit(Micros(NOW.0 + pause_s.max(30) * 1_000_000)));
        }
        for (is_known, code) in [(false, "unknown_type"), (true, "no_fit")] {
            assert!(matches!(fate(3_600, is_known), Fate::Reject(failure) if failure.code == code));
        }
    }

    #[test]
    fn needs_go_to_the_smallest_declared_fit_and_wait_where_there_is_none() {
        let of = |gpu: u32, fit: &str| {
            let mut task = task(b"{}");
            if gpu > 0 {
                task.needs.resources.insert("gpu".into(), gpu);
            }
            task.fit = fit.parse().expect("valid");
            let body = frame::encode_bundle(&[task]).expect("encodes");
            let (task, fate) = read(&framed(), &[], &body, 1).remove(0);
            (task.fit.to_string(), fate)
        };
        assert_eq!(of(0, "any"), ("any".into(), Fate::Run));
        assert_eq!(of(1, "any"), ("gpu".into(), Fate::Run));
        assert_eq!(of(2, "long-gone"), ("gpus".into(), Fate::Run), "its needs count, not where it once went");
        assert_eq!(of(9, "any").1, Fate::NoFit(Micros(NOW.0 + NO_FIT_PAUSE.0)));
        assert_eq!(of(0, "gpu"), ("gpu".into(), Fate::Run), "it came with it");
        assert_eq!(of(0, "long-gone").1, Fate::NoFit(Micros(NOW.0 + NO_FIT_PAUSE.0)));
    }

    #[test]
    fn the_subject_decides_where_a_framed_task_stands() {
        let body = frame::encode_bundle(&[task(b"{}")]).expect("encodes");
        let (task, _) = read(&framed(), &[], &body, 1).remove(0);
        assert_eq!((task.queue, task.priority, task.shard.number()), (queue(), Priority::High, 3));
    }

    #[test]
    fn a_submitter_tells_nothing_of_runs_and_no_age() {
        let mut told = task(b"{}");
        (told.run, told.attempts, told.yields, told.remaining_us) = (9, 3, 2, Some(1));
        (told.checkpoint, told.submitted_at, told.due_at) = (Some(vec![1]), Micros(1), Some(Micros(2)));
        let read_at = |submitted_at: Micros| {
            let body = frame::encode_bundle(&[TaskEvent { submitted_at, ..told.clone() }]).expect("encodes");
            read(&framed(), &[], &body, 1).remove(0).0
        };
        let task = read_at(Micros(1));
        assert_eq!((task.run, task.attempts, task.yields, task.remaining_us, task.checkpoint), (1, 0, 0, None, None));
        assert_eq!((task.submitted_at.0, task.due_at), (NOW.0 - SKEW_MAX.0, Some(task.submitted_at)));
        assert_eq!(read_at(Micros(u64::MAX)).submitted_at, NOW);
        assert_eq!(read_at(Micros(NOW.0 - 1_000)).submitted_at.0, NOW.0 - 1_000, "as it was told");
    }

    #[test]
    fn what_comes_back_keeps_its_runs_and_has_at_most_a_day_left() {
        let mut back = task(b"{}");
        (back.run, back.attempts, back.yields, back.remaining_us) = (9, 3, 2, Some(u64::MAX));
        (back.checkpoint, back.submitted_at) = (Some(vec![1]), Micros(1));
        let body = frame::encode_bundle(std::slice::from_ref(&back)).expect("encodes");
        let due = Flow::Due(queue(), Priority::Normal, Shard::default());
        let task = read(&due, &[], &body, 1).remove(0).0;
        assert_eq!((task.run, task.attempts, task.yields, task.remaining_us), (9, 3, 2, Some(DAY.0)));
        assert_eq!((task.checkpoint, task.submitted_at), (back.checkpoint, Micros(1)));
    }

    #[test]
    fn a_frame_that_is_none_is_refused_under_its_sequence() {
        let (task, fate) = read(&framed(), &[], b"no frame", 1).remove(0);
        assert!(matches!(fate, Fate::Reject(_)));
        assert_eq!((task.id.as_str(), task.payload.as_slice()), ("s12", &b"no frame"[..]));
    }
}
