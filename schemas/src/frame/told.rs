//! Completions as they are told to submitters: many in one message of core NATS, once they are stored.

use crate::codec::{self, Bincode, CodecError, Wire};
use crate::completion::{Completion, Outcome};
use crate::frame::FrameError;
use crate::id::{RunToken, TaskId};
use crate::options::{Micros, PayloadCodec, Priority};
use crate::task::TraceContext;
use crate::token::{InvalidName, QueueName, TaskType, Tenant};
use bincode::{BorrowDecode, Encode};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The most completions of one message.
pub const TOLD_MAX: usize = 256;
/// What a completion takes up beside its body, in bytes: names, numbers and trace context of usual lengths.
const TOLD_BYTES: usize = 224;

/// What the frame holds, and the version of its layout.
pub(crate) const TOLD_KIND: u8 = 5;
pub(crate) const TOLD_VERSION: u16 = 1;

/// Completions of one type.
#[derive(Debug, Encode, BorrowDecode, Serialize, Deserialize)]
struct ToldV1<'a> {
    task_type: Cow<'a, str>,
    completions: Vec<CompletionV1<'a>>,
}

impl<'a> Wire<'a> for ToldV1<'a> {
    const KIND: u8 = TOLD_KIND;
    const VERSION: u16 = TOLD_VERSION;
}

/// [`Completion`] on the wire, without its type and without callbacks: those are not for who hears this.
#[derive(Debug, Encode, BorrowDecode, Serialize, Deserialize)]
struct CompletionV1<'a> {
    id: Cow<'a, str>,
    queue: Cow<'a, str>,
    outcome: u8,
    attempt: u32,
    run: u32,
    token: Option<u64>,
    tenant: Cow<'a, str>,
    priority: u8,
    submitted_us: u64,
    finished_us: u64,
    wait_ms: f64,
    run_ms: f64,
    late: bool,
    cut: bool,
    parent: Cow<'a, str>,
    traceparent: Cow<'a, str>,
    tracestate: Cow<'a, str>,
    codec: u8,
    body: Cow<'a, [u8]>,
}

/// Writes completions of one type. Their callbacks are left out.
///
/// # Errors
/// [`FrameError::ToldCount`] for none or more than [`TOLD_MAX`]; [`FrameError::Codec`] where the frame would be
/// too large.
pub fn encode_told(task_type: &TaskType, completions: &[&Completion]) -> Result<Vec<u8>, FrameError> {
    if completions.is_empty() || completions.len() > TOLD_MAX {
        return Err(FrameError::ToldCount(completions.len()));
    }
    let bytes = completions.iter().map(|completion| told_bytes(completion)).sum();
    let told = ToldV1 {
        task_type: task_type.as_str().into(),
        completions: completions.iter().map(|completion| CompletionV1::of(completion)).collect(),
    };
    Ok(codec::encode_frame_of::<Bincode, ToldV1<'_>>(&told, bytes)?)
}

/// About how many bytes a completion takes up.
pub fn told_bytes(completion: &Completion) -> usize {
    TOLD_BYTES + completion.body.len()
}

/// Completions of one message, of which only those that somebody waits for are read whole.
#[derive(Debug)]
pub struct Told<'a>(ToldV1<'a>);

impl<'a> Told<'a> {
    /// Reads the frame.
    ///
    /// # Errors
    /// [`CodecError`] where it is none.
    pub fn decode(frame: &'a [u8]) -> Result<Self, CodecError> {
        codec::decode_frame(frame).map(Self)
    }

    /// The ids of its tasks, and how to read each completion.
    pub fn iter(&self) -> impl Iterator<Item = (&str, ToldOne<'_>)> {
        self.0.completions.iter().map(|wire| (&*wire.id, ToldOne { task_type: &self.0.task_type, wire }))
    }
}

/// One completion of a message.
#[derive(Debug, Clone, Copy)]
pub struct ToldOne<'a> {
    task_type: &'a str,
    wire: &'a CompletionV1<'a>,
}

impl ToldOne<'_> {
    /// The completion, without callbacks.
    ///
    /// # Errors
    /// [`FrameError::Name`] where a name in it is none.
    pub fn completion(self) -> Result<Completion, FrameError> {
        let wire = self.wire;
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let one_of = |kind, number: u8, most: usize| {
            if usize::from(number) < most {
                return Ok(usize::from(number));
            }
            Err(InvalidName::new(kind, &number.to_string(), "is a number of no such thing"))
        };
        Ok(Completion {
            id: TaskId::read(&wire.id)?,
            task_type: TaskType::read(self.task_type)?,
            queue: text(&wire.queue).map(QueueName::new).transpose()?,
            outcome: Outcome::ALL[one_of("outcome", wire.outcome, Outcome::ALL.len())?],
            attempt: wire.attempt,
            run: wire.run,
            token: wire.token.map(RunToken::from_bits),
            tenant: Tenant::read(&wire.tenant)?,
            priority: Priority::ALL[one_of("priority", wire.priority, Priority::ALL.len())?],
            submitted_at: Micros(wire.submitted_us),
            finished_at: Micros(wire.finished_us),
            wait_ms: wire.wait_ms,
            run_ms: wire.run_ms,
            late: wire.late,
            cut: wire.cut,
            parent: text(&wire.parent).map(TaskId::new).transpose()?,
            callbacks: Vec::new(),
            claim: None,
            baggage: None,
            trace: TraceContext {
                traceparent: wire.traceparent.clone().into_owned(),
                tracestate: wire.tracestate.clone().into_owned(),
            },
            codec: match wire.codec {
                0 => PayloadCodec::Json,
                1 => PayloadCodec::Bincode,
                other => return Err(InvalidName::new("payload codec", &other.to_string(), "must be 0 or 1").into()),
            },
            body: wire.body.clone().into_owned(),
        })
    }
}

impl<'a> CompletionV1<'a> {
    fn of(completion: &'a Completion) -> Self {
        let outcome = Outcome::ALL.iter().position(|outcome| *outcome == completion.outcome);
        Self {
            id: completion.id.as_str().into(),
            queue: completion.queue.as_ref().map_or("", QueueName::as_str).into(),
            outcome: outcome.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX),
            attempt: completion.attempt,
            run: completion.run,
            token: completion.token.map(RunToken::bits),
            tenant: completion.tenant.as_str().into(),
            priority: completion.priority.rank() as u8,
            submitted_us: completion.submitted_at.0,
            finished_us: completion.finished_at.0,
            wait_ms: completion.wait_ms,
            run_ms: completion.run_ms,
            late: completion.late,
            cut: completion.cut,
            parent: completion.parent.as_ref().map_or("", TaskId::as_str).into(),
            traceparent: completion.trace.traceparent.as_str().into(),
            tracestate: completion.trace.tracestate.as_str().into(),
            codec: u8::from(completion.codec == PayloadCodec::Bincode),
            body: Cow::Borrowed(&completion.body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Callback, Failure, TaskEvent};

    #[test]
    fn what_is_told_is_heard_but_for_its_callbacks() {
        let task_type = TaskType::new("image.thumbnail").expect("valid");
        let queue = QueueName::new("pictures").expect("valid");
        let mut task = TaskEvent::new(TaskId::generate(), task_type.clone(), queue, Micros(1_000_000), Vec::new());
        (task.tenant, task.priority) = (Tenant::new("Zoë").expect("valid"), Priority::High);
        task.parent = Some(TaskId::generate());
        let mut done = Completion::of(&task, Outcome::Succeeded, Micros(1_003_500));
        (done.attempt, done.token, done.body) = (2, Some(RunToken::from_bits(42)), b"[1]".to_vec());
        (done.wait_ms, done.run_ms) = (1.25, 2.25);
        let failed = Completion::of(&task, Outcome::Failed, Micros(1)).with_failure(Failure::new("timeout", "long"));
        let mut called_back = done.clone();
        called_back.callbacks = vec![Callback::Webhook { endpoint: "gallery".into() }];
        let frame = encode_told(&task_type, &[&called_back, &failed]).expect("encodes");
        let told = Told::decode(&frame).expect("decodes");
        let heard: Vec<_> = told.iter().map(|(id, one)| (id.to_owned(), one.completion().expect("valid"))).collect();
        let id = task.id.to_string();
        assert_eq!(heard, [(id.clone(), done), (id, failed)]);
        let none = encode_told(&task_type, &[]).expect_err("none").to_string();
        assert!(none.contains("completions") && none.contains("256"), "{none}");
    }

    #[test]
    fn completion_of_an_unknown_codec_is_not_taken_for_json() {
        let task_type = TaskType::new("a.b").expect("valid");
        let task = TaskEvent::new(TaskId::generate(), task_type, QueueName::default_queue(), Micros(1), Vec::new());
        let done = Completion::of(&task, Outcome::Succeeded, Micros(2));
        let wire = CompletionV1 { codec: 2, ..CompletionV1::of(&done) };
        let read = ToldOne { task_type: task.task_type.as_str(), wire: &wire }.completion();
        assert!(read.is_err_and(|error| error.to_string().contains("codec")));
    }
}
