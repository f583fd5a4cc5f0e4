//! What only our own processes read: bundles of tasks, credit, progress. Flat types, one per version.

mod credit;

pub use credit::{Credit, OfFit, RUNS_TOLD_MAX, Remaining, RunEnd, RunEnded};

use crate::codec::{self, Bincode, CodecError, Wire};
use crate::id::TaskId;
use crate::limits::BUNDLE_TASKS_MAX;
use crate::needs::Needs;
use crate::options::{Admit, Micros, PayloadCodec, Priority, Shard};
use crate::task::{Callback, TaskEvent, TraceContext};
use crate::token::{Fit, InvalidName, QueueName, TaskType, Tenant};
use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// A frame that holds no valid content.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame itself.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A name inside it.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Its callbacks.
    #[error("the callbacks in the frame are malformed: {0}")]
    Callbacks(String),
    /// Its needs.
    #[error("the needs in the frame are malformed: {0}")]
    Needs(String),
    /// The number of its tasks.
    #[error("the bundle has {0} tasks, wanted 1 to {BUNDLE_TASKS_MAX}")]
    Count(usize),
}

/// 1 to [`BUNDLE_TASKS_MAX`] tasks in one message.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
struct BundleV1 {
    tasks: Vec<TaskV1>,
}

impl Wire for BundleV1 {
    const KIND: u8 = 1;
    const VERSION: u16 = 1;
}

/// The same with what later versions added. Written only where a task has any of it, so that the
/// frames of all other tasks are read by what was there before.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
struct BundleV2 {
    tasks: Vec<TaskV2>,
}

impl Wire for BundleV2 {
    const KIND: u8 = BundleV1::KIND;
    const VERSION: u16 = 2;
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
struct TaskV2 {
    base: TaskV1,
    needs_json: String,
    estimate_us: u64,
    remaining_us: Option<u64>,
    yields: u32,
    is_admitted_strictly: bool,
}

impl From<&TaskEvent> for TaskV2 {
    fn from(task: &TaskEvent) -> Self {
        Self {
            base: TaskV1::from(task),
            needs_json: if task.needs.is_none() {
                String::new()
            } else {
                serde_json::to_string(&task.needs).expect("needs hold nothing but text and numbers")
            },
            estimate_us: task.estimate_us.unwrap_or(0),
            remaining_us: task.remaining_us,
            yields: task.yields,
            is_admitted_strictly: task.admit == Admit::Strict,
        }
    }
}

impl TryFrom<TaskV2> for TaskEvent {
    type Error = FrameError;

    fn try_from(wire: TaskV2) -> Result<Self, FrameError> {
        let mut task = Self::try_from(wire.base)?;
        if !wire.needs_json.is_empty() {
            task.needs = serde_json::from_str(&wire.needs_json).map_err(|e| FrameError::Needs(e.to_string()))?;
        }
        task.estimate_us = (wire.estimate_us != 0).then_some(wire.estimate_us);
        task.remaining_us = wire.remaining_us;
        task.yields = wire.yields;
        task.admit = if wire.is_admitted_strictly { Admit::Strict } else { Admit::Always };
        Ok(task)
    }
}

/// Whether the first version holds all of the task.
fn is_plain(task: &TaskEvent) -> bool {
    task.needs.is_none()
        && task.estimate_us.is_none()
        && task.remaining_us.is_none()
        && task.yields == 0
        && task.admit == Admit::Always
}

/// [`TaskEvent`] on the wire. Times are microseconds since the Unix epoch; 0 and empty mean none.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
struct TaskV1 {
    id: String,
    task_type: String,
    queue: String,
    priority: u8,
    shard: u8,
    fit: String,
    tenant: String,
    key: String,
    size_key: String,
    codec: u8,
    submitted_us: u64,
    due_us: u64,
    deadline_us: u64,
    retries: Option<u32>,
    timeout_ms: Option<u64>,
    run: u32,
    attempts: u32,
    suspect: bool,
    traceparent: String,
    tracestate: String,
    parent: String,
    callbacks_json: String,
    headers: Vec<(String, String)>,
    checkpoint: Option<Vec<u8>>,
    payload: Vec<u8>,
}

fn optional(micros: Option<Micros>) -> u64 {
    micros.map_or(0, |m| m.0)
}

fn present(micros: u64) -> Option<Micros> {
    (micros != 0).then_some(Micros(micros))
}

fn text(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl From<&TaskEvent> for TaskV1 {
    fn from(task: &TaskEvent) -> Self {
        let callbacks_json = if task.callbacks.is_empty() {
            String::new()
        } else {
            serde_json::to_string(&task.callbacks).expect("callbacks hold nothing but text")
        };
        Self {
            id: task.id.as_str().to_owned(),
            task_type: task.task_type.as_str().to_owned(),
            queue: task.queue.as_str().to_owned(),
            priority: task.priority.rank() as u8,
            shard: task.shard.number(),
            fit: task.fit.as_str().to_owned(),
            tenant: task.tenant.as_str().to_owned(),
            key: task.key.clone().unwrap_or_default(),
            size_key: task.size_key.clone().unwrap_or_default(),
            codec: match task.codec {
                PayloadCodec::Json => 0,
                PayloadCodec::Bincode => 1,
            },
            submitted_us: task.submitted_at.0,
            due_us: optional(task.due_at),
            deadline_us: optional(task.deadline),
            retries: task.retries,
            timeout_ms: task.timeout_ms,
            run: task.run,
            attempts: task.attempts,
            suspect: task.suspect,
            traceparent: task.trace.traceparent.clone(),
            tracestate: task.trace.tracestate.clone(),
            parent: task.parent.as_ref().map_or_else(String::new, |id| id.as_str().to_owned()),
            callbacks_json,
            headers: task.headers.clone(),
            checkpoint: task.checkpoint.clone(),
            payload: task.payload.clone(),
        }
    }
}

impl TryFrom<TaskV1> for TaskEvent {
    type Error = FrameError;

    fn try_from(wire: TaskV1) -> Result<Self, FrameError> {
        let priority = *Priority::ALL
            .get(usize::from(wire.priority))
            .ok_or_else(|| InvalidName::new("priority", &wire.priority.to_string(), "must be 0 to 3"))?;
        let codec = match wire.codec {
            0 => PayloadCodec::Json,
            1 => PayloadCodec::Bincode,
            other => return Err(InvalidName::new("payload codec", &other.to_string(), "must be 0 or 1").into()),
        };
        let callbacks: Vec<Callback> = if wire.callbacks_json.is_empty() {
            Vec::new()
        } else {
            serde_json::from_str(&wire.callbacks_json).map_err(|e| FrameError::Callbacks(e.to_string()))?
        };
        Ok(Self {
            id: TaskId::new(wire.id)?,
            task_type: TaskType::new(wire.task_type)?,
            queue: QueueName::new(wire.queue)?,
            priority,
            shard: Shard::new(wire.shard)?,
            fit: Fit::new(wire.fit)?,
            tenant: Tenant::new(wire.tenant)?,
            key: text(wire.key),
            size_key: text(wire.size_key),
            codec,
            submitted_at: Micros(wire.submitted_us),
            due_at: present(wire.due_us),
            deadline: present(wire.deadline_us),
            needs: Needs::default(),
            estimate_us: None,
            remaining_us: None,
            yields: 0,
            admit: Admit::default(),
            retries: wire.retries,
            timeout_ms: wire.timeout_ms,
            run: wire.run,
            attempts: wire.attempts,
            suspect: wire.suspect,
            trace: TraceContext { traceparent: wire.traceparent, tracestate: wire.tracestate },
            parent: text(wire.parent).map(TaskId::new).transpose()?,
            callbacks,
            headers: wire.headers,
            checkpoint: wire.checkpoint,
            payload: wire.payload,
        })
    }
}

/// Writes a bundle of tasks.
pub fn encode_bundle(tasks: &[TaskEvent]) -> Result<Vec<u8>, FrameError> {
    if tasks.is_empty() || tasks.len() > BUNDLE_TASKS_MAX {
        return Err(FrameError::Count(tasks.len()));
    }
    Ok(if tasks.iter().all(is_plain) {
        codec::encode_frame::<Bincode, _>(&BundleV1 { tasks: tasks.iter().map(TaskV1::from).collect() })?
    } else {
        codec::encode_frame::<Bincode, _>(&BundleV2 { tasks: tasks.iter().map(TaskV2::from).collect() })?
    })
}

/// Reads a bundle of tasks, of either version.
pub fn decode_bundle(frame: &[u8]) -> Result<Vec<TaskEvent>, FrameError> {
    let tasks: Vec<TaskEvent> = if codec::version_of(frame) == Some(BundleV2::VERSION) {
        let bundle: BundleV2 = codec::decode_frame(frame)?;
        bundle.tasks.into_iter().map(TaskEvent::try_from).collect::<Result<_, _>>()?
    } else {
        let bundle: BundleV1 = codec::decode_frame(frame)?;
        bundle.tasks.into_iter().map(TaskEvent::try_from).collect::<Result<_, _>>()?
    };
    if tasks.is_empty() || tasks.len() > BUNDLE_TASKS_MAX {
        return Err(FrameError::Count(tasks.len()));
    }
    Ok(tasks)
}

/// A leader asks for a running task to yield at its next checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Yield {
    /// The task.
    pub id: String,
    /// Which of its runs: an earlier or later one is not meant.
    pub run: u32,
}

impl Wire for Yield {
    const KIND: u8 = 4;
    const VERSION: u16 = 1;
}

impl Yield {
    /// Writes the frame.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_frame::<Bincode, _>(self)
    }

    /// Reads the frame.
    pub fn decode(frame: &[u8]) -> Result<Self, CodecError> {
        codec::decode_frame(frame)
    }
}

/// What a running task tells whoever listens.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 100.
    pub percent: u8,
    /// What it is doing.
    pub message: String,
    /// The attempt, from 1.
    pub attempt: u32,
}

impl Wire for Progress {
    const KIND: u8 = 3;
    const VERSION: u16 = 1;
}

impl Progress {
    /// Writes the frame.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode_frame::<Bincode, _>(self)
    }

    /// Reads the frame.
    pub fn decode(frame: &[u8]) -> Result<Self, CodecError> {
        codec::decode_frame(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Json, decode_frame, encode_frame};
    use proptest::prelude::*;

    fn task() -> TaskEvent {
        let mut task = TaskEvent::new(
            TaskId::generate(),
            TaskType::new("image.thumbnail").expect("valid"),
            QueueName::new("pictures").expect("valid"),
            Micros(1_700_000_000_000_000),
            br#"{"path":"a.png"}"#.to_vec(),
        );
        task.callbacks = vec![Callback::Webhook { endpoint: "gallery".into() }];
        task.parent = Some(TaskId::generate());
        task.checkpoint = Some(vec![1, 2, 3]);
        task.deadline = Some(Micros(1_700_000_001_000_000));
        task.headers = vec![("x-user".into(), "7".into())];
        task
    }

    #[test]
    fn a_bundle_comes_back_as_it_was_sent() {
        let tasks = vec![task(), task()];
        assert_eq!(decode_bundle(&encode_bundle(&tasks).expect("encodes")).expect("decodes"), tasks);
    }

    #[test]
    fn a_task_without_later_additions_is_written_as_before_and_one_with_them_comes_back() {
        assert_eq!(codec::version_of(&encode_bundle(&[task()]).expect("encodes")), Some(1));
        let mut more = task();
        more.needs.cpu_milli = 500;
        more.needs.labels = ["zone-a".to_owned()].into();
        (more.estimate_us, more.remaining_us, more.yields, more.admit) = (Some(7), Some(3), 2, Admit::Strict);
        let tasks = vec![task(), more];
        let frame = encode_bundle(&tasks).expect("encodes");
        assert_eq!(codec::version_of(&frame), Some(2));
        assert_eq!(decode_bundle(&frame).expect("decodes"), tasks);
    }

    #[test]
    fn both_codecs_are_read_by_the_byte_that_names_them() {
        let credit = Credit {
            executor: "e".into(),
            capacity: 4,
            taken: 9,
            settled: 7,
            fits: vec!["any".into()],
            ..Credit::default()
        };
        let json = encode_frame::<Json, _>(&credit).expect("encodes");
        let bincode = credit.encode().expect("encodes");
        assert_eq!(decode_frame::<Credit>(&json), Ok(credit.clone()));
        assert_eq!(decode_frame::<Credit>(&bincode), Ok(credit));
    }

    #[test]
    fn another_kind_version_codec_or_trailing_byte_is_refused() {
        let good = encode_bundle(&[task()]).expect("encodes");
        assert!(Credit::decode(&good).is_err());
        for (place, value) in [(0, b'X'), (2, 9), (3, 3), (5, 7)] {
            let mut bad = good.clone();
            bad[place] = value;
            assert!(decode_bundle(&bad).is_err(), "byte {place} was not checked");
        }
        let mut bad = good.clone();
        bad.push(0);
        assert!(decode_bundle(&bad).is_err(), "a trailing byte was accepted");
        assert!(decode_bundle(&good[..good.len() - 1]).is_err());
    }

    #[test]
    fn a_length_that_lies_allocates_nothing_and_is_refused() {
        let mut frame = b"JL\x01\x01\x00\x01".to_vec();
        // A vector of 2^63 tasks, by bincode's variable-length integers.
        frame.extend_from_slice(&[253, 0, 0, 0, 0, 0, 0, 0, 128]);
        assert!(decode_bundle(&frame).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(mut body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut frame = b"JL\x01\x01\x00\x01".to_vec();
            frame.append(&mut body);
            let _bundle = decode_bundle(&frame);
            let _credit = Credit::decode(&frame[3..]);
        }
    }
}
