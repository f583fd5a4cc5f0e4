//! One callback of one completion on its way: how it waits for another delivery, and how it is kept
//! when it is given up. Both are stored before the message that it came with is acked.

use jetlane_bus::publish::Expect;
use jetlane_bus::{Bus, Delivery, Outgoing, clock};
use jetlane_schemas::completion::Unreadable;
use jetlane_schemas::{Callback, Completion, Headers, TaskId, TaskType, header, intake, subject};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

/// The longest reason that is kept with a callback that was given up, in characters.
const REASON_CHARS_MAX: usize = 1_000;

/// Keeps a message that should bring callbacks and cannot be read as a dead letter, whole, and says why and from where.
///
/// Its subject is never that of a callback: who may publish such a message must not take the place of a real one.
pub(crate) async fn bury_unreadable(bus: &Bus, delivery: &Delivery, reason: &str) -> Result<(), jetlane_bus::Error> {
    let sequence = delivery.facts.stream_sequence;
    let kind = if subject::parse_done(&delivery.subject).is_some() { "completion" } else { "callback" };
    let task_type = TaskType::new(format!("jetlane.unreadable.{kind}")).expect("three tokens of letters");
    let dead = subject::dead_callback(&task_type, &TaskId::from_sequence(sequence), 0);
    let reason: String = format!("{reason} ({})", delivery.subject).chars().take(REASON_CHARS_MAX).collect();
    let mut headers: Headers = delivery.headers().into_pairs().into_iter().filter(|(name, _)| is_kept(name)).collect();
    headers.push(header::REASON, intake::percent_encode(&reason));
    let message_id = Some(format!("unreadable:{kind}:{sequence}"));
    let out = |headers| Outgoing {
        subject: dead.clone(),
        headers,
        body: delivery.body.clone(),
        message_id: message_id.clone(),
        expect: Expect::Anything,
    };
    match bus.publish(out(headers)).await {
        // With one header more it may be over the server's limit.
        Err(jetlane_bus::Error::Refused { .. }) => {
            let mut short = Headers::new();
            short.push(header::REASON, intake::percent_encode(&reason));
            bus.publish(out(short)).await?.or_refused(&dead).map(|_sequence| ())
        }
        other => other?.or_refused(&dead).map(|_sequence| ()),
    }
}

/// Headers that start with `Nats-` speak to the server: they would schedule the dead letter.
fn is_kept(name: &str) -> bool {
    !name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"))
}

/// One callback of one completion.
#[derive(Debug, Clone)]
pub(crate) struct Parcel {
    /// The completion.
    pub(crate) completion: Arc<Completion>,
    /// The callback's place among those of the completion.
    pub(crate) index: usize,
    /// Deliveries before this one, all in vain.
    pub(crate) in_vain: u32,
}

impl Parcel {
    /// All callbacks of a completion, none of them delivered yet.
    pub(crate) fn all_of(completion: Completion) -> Vec<Self> {
        let completion = Arc::new(completion);
        let parcel = |index| Self { completion: completion.clone(), index, in_vain: 0 };
        (0..completion.callbacks.len()).map(parcel).collect()
    }

    /// Reads a callback that is due once more.
    pub(crate) fn from_due(delivery: &Delivery) -> Result<Self, Unreadable> {
        let place = subject::parse_callback(&delivery.subject);
        let (task_type, id, index) = place.ok_or_else(|| Unreadable::Subject(delivery.subject.clone()))?;
        let headers = delivery.headers();
        let completion = Completion::from_message(&subject::done(&task_type, &id), &headers, &delivery.body)?;
        if index >= completion.callbacks.len() {
            return Err(Unreadable::Header(header::CALLBACKS));
        }
        let in_vain = headers.get(header::DELIVERY).and_then(|text| text.parse().ok());
        Ok(Self {
            completion: Arc::new(completion),
            index,
            in_vain: in_vain.ok_or(Unreadable::Header(header::DELIVERY))?,
        })
    }

    /// The callback itself.
    pub(crate) fn callback(&self) -> &Callback {
        &self.completion.callbacks[self.index]
    }

    /// The same at every delivery, so that a receiver knows it again: `<type>:<task id>:<index>`. Has no `.`, which
    /// separates the parts of a signed webhook: those of the type are written as `/`, which no type holds.
    pub(crate) fn id(&self) -> String {
        let task_type = self.completion.task_type.as_str().replace('.', "/");
        format!("{task_type}:{}:{}", self.completion.id, self.index)
    }

    /// A share from 0 to 1 that differs between callbacks and between deliveries of one.
    pub(crate) fn jitter(&self) -> f64 {
        let mut hasher = DefaultHasher::new();
        (self.completion.task_type.as_str(), self.completion.id.as_str(), self.index, self.in_vain).hash(&mut hasher);
        f64::from(hasher.finish() as u32) / f64::from(u32::MAX)
    }

    /// Stores it to be due after a pause, once `in_vain` deliveries have failed.
    pub(crate) async fn store_due(&self, bus: &Bus, pause: Duration, in_vain: u32) -> Result<(), jetlane_bus::Error> {
        let at = clock::after(pause);
        let due = subject::callback(&self.completion.task_type, &self.completion.id, self.index);
        let mut headers = self.headers();
        headers.push(header::DELIVERY, in_vain.to_string());
        headers.push(header::SCHEDULE, format!("@at {}", clock::rfc3339(at)));
        headers.push(header::SCHEDULE_TARGET, due);
        let schedule = subject::schedule_callback(&self.completion.task_type, &self.completion.id, self.index);
        // The time is part of the id: an id that named less would pass a later schedule for an earlier
        // one that has fired, and lose the callback.
        let message_id = Some(format!("{}:callback:{}", self.id(), at.0));
        let out = self.outgoing(schedule.clone(), headers, message_id, Expect::Anything);
        bus.publish(out).await?.or_refused(&schedule).map(|_sequence| ())
    }

    /// Keeps it as a dead letter: the completion, whole, and why nobody got it.
    pub(crate) async fn bury(&self, bus: &Bus, in_vain: u32, reason: &str) -> Result<(), jetlane_bus::Error> {
        let mut headers = self.headers();
        headers.push(header::DELIVERY, in_vain.to_string());
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        headers.push(header::REASON, intake::percent_encode(&reason));
        let dead = subject::dead_callback(&self.completion.task_type, &self.completion.id, self.index);
        let out = self.outgoing(dead.clone(), headers, None, Expect::Absent);
        match bus.publish(out).await? {
            // It was buried before, and its message came again.
            jetlane_bus::Published::Taken => Ok(()),
            other => other.or_refused(&dead).map(|_sequence| ()),
        }
    }

    /// The completion's headers, as they were stored with it.
    pub(crate) fn headers(&self) -> Headers {
        let finished_at = self.completion.finished_at;
        self.completion.headers(&if finished_at.0 == 0 { String::new() } else { clock::rfc3339(finished_at) })
    }

    fn outgoing(&self, subject: String, headers: Headers, message_id: Option<String>, expect: Expect) -> Outgoing {
        Outgoing { subject, headers, body: self.completion.body.clone().into(), message_id, expect }
    }
}
