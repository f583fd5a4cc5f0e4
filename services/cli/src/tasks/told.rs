//! What is told of a task: one sentence a reason.

use crate::moment::{Expected, long, when};
use crate::output::grouped;
use crate::result::plain;
use jetlane::{Completion, Outcome, Priority, QueueName, TaskId, TaskType};
use jetlane_bus::clock;
use jetlane_schemas::question::{Explanation, Reason};
use jetlane_schemas::{Fit, Micros, PolicyName, TaskEvent, Tenant};
use serde::Serialize;

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It has a completion.
    Ended,
    /// It is not due yet.
    Delayed,
    /// It stands in line, before dispatch.
    Waiting,
    /// It is in a lane, and no executor has it yet.
    Dispatched,
    /// An executor has it.
    Running,
    /// Nobody knows it.
    Unknown,
}

/// What is told of a task. The names are a contract.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    pub(super) id: TaskId,
    pub(super) state: State,
    #[serde(rename = "type")]
    pub(super) task_type: Option<TaskType>,
    pub(super) queue: Option<QueueName>,
    pub(super) priority: Option<Priority>,
    pub(super) tenant: Option<Tenant>,
    pub(super) fit: Option<Fit>,
    pub(super) policy: Option<PolicyName>,
    pub(super) waiting_since: Option<String>,
    pub(super) reasons: Vec<Why>,
    pub(super) expected: Option<Expected>,
    pub(super) estimate_ms: Option<f64>,
    pub(super) outcome: Option<Outcome>,
    pub(super) ended_at: Option<String>,
    pub(super) attempt: Option<u32>,
    pub(super) failure: Option<jetlane::Failure>,
    /// Where its message is stored.
    pub(super) subject: Option<String>,
    pub(super) sequence: Option<u64>,
    pub(super) looked_at: Vec<String>,
    /// Of a task that is not known: whether the streams were read to their ends.
    pub(super) looked_everywhere: Option<bool>,
    #[serde(skip)]
    pub(super) since: Option<Micros>,
    #[serde(skip)]
    pub(super) ended: Option<Micros>,
}

/// Why it waits.
#[derive(Debug, Serialize)]
pub(super) struct Why {
    /// The leader's reason with its numbers, or a word of our own under `reason`.
    #[serde(flatten)]
    reason: serde_json::Value,
    text: String,
}

impl Why {
    /// A reason that the leader tells.
    fn told(reason: &Reason, queue: &QueueName, policy: PolicyName) -> Self {
        let text = match reason {
            Reason::Paused => paused(queue),
            Reason::NoExecutorFits { fit } => {
                format!("No live executor serves the fit {fit}, or no fit covers its needs.")
            }
            Reason::NoRoom => "All executors that could take it are busy.".into(),
            Reason::Behind { tasks, of_its_flow } => behind(*tasks, *of_its_flow, policy),
            Reason::OverShare => "Its tenant has had more than its share, and others wait.".into(),
            Reason::Resting { until } => {
                format!("Dispatch rests until {}: a lane was full, or a store failed.", when(*until))
            }
            Reason::Delayed { until } => delayed(*until),
            Reason::Leaving => "It is being stored in its lane.".into(),
        };
        Self { reason: serde_json::to_value(reason).unwrap_or_default(), text }
    }

    /// A reason that the leader does not know.
    pub(super) fn own(reason: &'static str, text: String) -> Self {
        Self { reason: serde_json::json!({ "reason": reason }), text }
    }

    /// The queue is paused.
    pub(super) fn paused(queue: &QueueName) -> Self {
        Self::own("paused", paused(queue))
    }

    /// The task stands behind the leader's window.
    pub(super) fn in_stream(ahead: u64) -> Self {
        let text = match ahead {
            0 => "It is the next of its flow: its leader reads it as soon as it has room.".into(),
            1 => "One message of its flow stands before it in the stream.".into(),
            _ => format!("{} messages of its flow stand before it in the stream.", grouped(ahead)),
        };
        Self { reason: serde_json::json!({ "reason": "in_stream", "ahead": ahead }), text }
    }
}

fn behind(tasks: u64, of_its_flow: u64, policy: PolicyName) -> String {
    let goes = if tasks == 1 { "One task goes".into() } else { format!("{} tasks go", grouped(tasks)) };
    let flow = match of_its_flow {
        0 => "none of its own flow".into(),
        all if all == tasks => "of its own flow".into(),
        some => format!("{} of its own flow", grouped(some)),
    };
    format!("{goes} before it by the policy {policy}, {flow}.")
}

fn paused(queue: &QueueName) -> String {
    format!("The queue is paused. To let it go on: jetlane queues set {queue} --resume")
}

fn delayed(until: Micros) -> String {
    format!("It is not due yet: due {}.", when(until))
}

impl Told {
    /// Of a task of which nothing is known yet but where it is.
    pub(super) fn at(id: &TaskId, state: State) -> Self {
        Self {
            id: id.clone(),
            state,
            task_type: None,
            queue: None,
            priority: None,
            tenant: None,
            fit: None,
            policy: None,
            waiting_since: None,
            reasons: Vec::new(),
            expected: None,
            estimate_ms: None,
            outcome: None,
            ended_at: None,
            attempt: None,
            failure: None,
            subject: None,
            sequence: None,
            looked_at: Vec::new(),
            looked_everywhere: None,
            since: None,
            ended: None,
        }
    }

    /// Of a task that has ended.
    pub(super) fn ended(completion: &Completion) -> Self {
        // A client that cancels by id alone knows neither when it was submitted nor by whom.
        let known = completion.submitted_at.0 > 0;
        let ended = Some(completion.finished_at).filter(|_| known);
        Self {
            task_type: Some(completion.task_type.clone()),
            queue: completion.queue.clone(),
            priority: known.then_some(completion.priority),
            tenant: known.then(|| completion.tenant.clone()),
            outcome: Some(completion.outcome),
            ended_at: ended.map(clock::rfc3339),
            attempt: Some(completion.attempt),
            failure: completion.failure(),
            ended,
            ..Self::at(&completion.id, State::Ended)
        }
    }

    /// Of a task as its message has it.
    pub(super) fn of(task: &TaskEvent, state: State) -> Self {
        let since = task.due_at.unwrap_or(task.submitted_at);
        Self {
            task_type: Some(task.task_type.clone()),
            queue: Some(task.queue.clone()),
            priority: Some(task.priority),
            tenant: Some(task.tenant.clone()),
            waiting_since: Some(clock::rfc3339(since)),
            estimate_ms: task.estimate_us.map(|us| us as f64 / 1_000.0),
            since: Some(since),
            ..Self::at(&task.id, state)
        }
    }

    /// Of a task that is not due before this moment.
    pub(super) fn delayed(task: &TaskEvent, until: Micros) -> Self {
        let reason = serde_json::to_value(Reason::Delayed { until }).unwrap_or_default();
        let reasons = vec![Why { reason, text: delayed(until) }];
        Self { reasons, since: None, waiting_since: None, ..Self::of(task, State::Delayed) }
    }

    /// Of a task that a leader holds.
    pub(super) fn explained(explanation: Explanation) -> Self {
        let Explanation { id, queue, task_type, priority, tenant, fit, policy, first_arrival, reasons, expected } =
            explanation;
        Self {
            reasons: reasons.iter().map(|reason| Why::told(reason, &queue, policy)).collect(),
            task_type: Some(task_type),
            queue: Some(queue),
            priority: Some(priority),
            tenant: Some(tenant),
            fit: Some(fit),
            policy: Some(policy),
            waiting_since: Some(clock::rfc3339(first_arrival)),
            since: Some(first_arrival),
            estimate_ms: Some(expected.estimate_us as f64 / 1_000.0),
            expected: Some(Expected::of(expected)),
            ..Self::at(&id, State::Waiting)
        }
    }

    /// For people.
    pub(super) fn page(&self) -> String {
        let mut lines = vec![self.head()];
        let mut line = |name: &str, value: Option<String>| {
            lines.extend(value.map(|value| format!("  {name:<9} {}", plain(&value))));
        };
        line("type", self.task_type.as_ref().map(ToString::to_string));
        line("priority", self.priority.map(|priority| priority.to_string()));
        line("tenant", self.tenant.as_ref().filter(|tenant| !tenant.is_shared()).map(ToString::to_string));
        line("fit", self.fit.as_ref().map(ToString::to_string));
        line("policy", self.policy.map(|policy| policy.to_string()));
        line("since", self.since.map(when));
        line("ended", self.ended.map(when));
        line("attempt", self.attempt.filter(|attempt| *attempt > 0).map(|attempt| attempt.to_string()));
        line("failure", self.failure.as_ref().map(ToString::to_string));
        line("stored", self.subject.as_ref().zip(self.sequence).map(|(subject, n)| format!("{subject}, sequence {n}")));
        let estimate = self.estimate_ms.filter(|_| self.expected.is_none());
        line("estimate", estimate.map(|ms| long((ms * 1_000.0) as u64)));
        lines.extend(self.reasons.iter().map(|why| format!("  - {}", plain(&why.text))));
        lines.extend(self.expected.as_ref().map(|expected| format!("  Expected: it {}", expected.line())));
        lines.join("\n")
    }

    fn head(&self) -> String {
        let queue = self.queue.as_ref().map_or_else(|| "its queue".into(), |queue| format!("the queue {queue}"));
        let id = &self.id;
        match self.state {
            State::Ended => match self.outcome {
                Some(outcome) => format!("{id} has ended: {outcome}."),
                None => format!("{id} has ended."),
            },
            State::Delayed => format!("{id} is delayed in {queue}."),
            State::Waiting => format!("{id} waits in {queue}."),
            State::Dispatched => format!("{id} has been dispatched in {queue} and waits for an executor."),
            State::Running => format!("{id} has been given to an executor of {queue}: it runs, or is about to."),
            State::Unknown => format!("{id} is not known."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::question::Expectation;

    fn explanation(reasons: Vec<Reason>) -> Explanation {
        Explanation {
            id: TaskId::new("s7").expect("valid"),
            queue: QueueName::default_queue(),
            task_type: TaskType::new("a.b").expect("valid"),
            priority: Priority::Low,
            tenant: Tenant::new("acme").expect("valid"),
            fit: Fit::default(),
            policy: PolicyName::Sjf,
            first_arrival: Micros(1_700_000_000_000_000),
            reasons,
            expected: Expectation {
                start: Some(Micros(clock::now().0 + 3_000_000)),
                finish: None,
                estimate_us: 2_000_000,
                ahead: 3,
                meets_deadline: false,
            },
        }
    }

    #[test]
    fn every_reason_is_one_sentence_and_keeps_its_numbers_for_programs() {
        let until = Micros(clock::now().0 + 60_000_000);
        let all = vec![
            Reason::Paused,
            Reason::NoExecutorFits { fit: Fit::new("gpu").expect("valid") },
            Reason::NoRoom,
            Reason::Behind { tasks: 1_234, of_its_flow: 5 },
            Reason::OverShare,
            Reason::Resting { until },
            Reason::Delayed { until },
            Reason::Leaving,
        ];
        let told = Told::explained(explanation(all.clone()));
        let page = told.page();
        assert!(page.contains("1,234 tasks go before it by the policy sjf, 5 of its own flow."), "{page}");
        assert!(page.contains("Expected: it starts in ") && page.contains("miss its deadline"), "{page}");
        assert_eq!(page.matches("\n  - ").count(), all.len());
        let json = serde_json::to_value(&told).expect("JSON");
        assert_eq!((&json["state"], &json["reasons"][3]["tasks"]), (&"waiting".into(), &1_234.into()));
        for (reason, why) in all.iter().zip(json["reasons"].as_array().expect("reasons")) {
            assert!(why["text"].as_str().is_some_and(|text| text.len() > 20), "{reason:?}");
            let back: Reason = serde_json::from_value(why.clone()).expect("still a reason");
            assert_eq!(back, *reason);
        }
    }

    #[test]
    fn words_of_others_cannot_steer_the_terminal() {
        let mut told = Told::at(&TaskId::new("s7").expect("valid"), State::Ended);
        told.failure = Some(jetlane::Failure::new("handler", "a\u{1b}[2Jb"));
        assert!(!told.page().contains('\u{1b}'));
    }
}
