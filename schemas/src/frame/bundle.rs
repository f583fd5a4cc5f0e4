//! Bundles: 1 to 128 tasks in one message. Written from tasks that are only borrowed; read in every
//! version that was ever written.

use crate::codec::{self, Bincode, CodecError, Wire};
use crate::id::TaskId;
use crate::limits::BUNDLE_TASKS_MAX;
use crate::needs::Needs;
use crate::options::{Admit, Micros, PayloadCodec, Priority, Shard};
use crate::task::{Callback, Hop, TaskEvent, TraceContext};
use crate::token::{Fit, InvalidName, QueueName, TaskType, Tenant};
use bincode::{BorrowDecode, Encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write as _;

/// What a task takes up in a frame beside its payload, checkpoint and headers, in bytes: names, numbers
/// and trace context of usual lengths.
const TASK_BYTES: usize = 192;
/// Bytes of the hash in a bundle's message id: 128 bits, so that no two bundles share one.
const HASH_BYTES: usize = 16;

/// What a frame of tasks holds, and the second version of its layout.
const KIND: u8 = 1;
const SECOND: u16 = 2;

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
    /// The number of completions that are told at once.
    #[error("{0} completions are told in one message, wanted 1 to {max}", max = super::told::TOLD_MAX)]
    ToldCount(usize),
}

/// Writes a bundle of tasks. The version is the first that holds all of them, so that the frames of
/// plain tasks are read by what was there before.
///
/// # Errors
/// [`FrameError::Count`] for no task or more than [`BUNDLE_TASKS_MAX`]; [`FrameError::Codec`] where the
/// frame would be too large.
pub fn encode_bundle<'a>(tasks: impl IntoIterator<Item = &'a TaskEvent>) -> Result<Vec<u8>, FrameError> {
    let tasks: Vec<&TaskEvent> = tasks.into_iter().collect();
    if tasks.is_empty() || tasks.len() > BUNDLE_TASKS_MAX {
        return Err(FrameError::Count(tasks.len()));
    }
    let bytes = tasks.iter().map(|task| frame_bytes(task)).sum();
    let frame = if tasks.iter().all(|task| is_plain(task)) {
        let bundle = BundleV1 { tasks: tasks.into_iter().map(TaskV1::of).collect() };
        codec::encode_frame_of::<Bincode, BundleV1<'_>>(&bundle, bytes)
    } else {
        let bundle = BundleV2 { tasks: tasks.into_iter().map(TaskV2::of).collect() };
        codec::encode_frame_of::<Bincode, BundleV2<'_>>(&bundle, bytes)
    };
    Ok(frame?)
}

/// Reads a bundle of tasks, of either version.
///
/// # Errors
/// [`FrameError`] for whatever is no bundle of 1 to [`BUNDLE_TASKS_MAX`] valid tasks, to the last byte.
pub fn decode_bundle(frame: &[u8]) -> Result<Vec<TaskEvent>, FrameError> {
    if codec::version_of(frame) == Some(SECOND) {
        tasks_of(codec::decode_frame::<BundleV2<'_>>(frame)?.tasks)
    } else {
        tasks_of(codec::decode_frame::<BundleV1<'_>>(frame)?.tasks)
    }
}

/// Whether a frame that cannot be read is a bundle of a version or a codec that this version does not know yet.
pub fn is_of_later_version(frame: &[u8]) -> bool {
    let Some(version) = codec::version_of(frame) else { return false };
    let (codec, kind) = (frame[codec::MAGIC.len()], frame[codec::PREFIX_BYTES - 1]);
    kind == KIND && (version > SECOND || codec > codec::CODEC_ID_MAX)
}

fn tasks_of<T>(wire: Vec<T>) -> Result<Vec<TaskEvent>, FrameError>
where
    TaskEvent: TryFrom<T, Error = FrameError>,
{
    if wire.is_empty() || wire.len() > BUNDLE_TASKS_MAX {
        return Err(FrameError::Count(wire.len()));
    }
    // Tasks are large, and what is collected until the first error does not know its size.
    let mut tasks = Vec::with_capacity(wire.len());
    for task in wire {
        tasks.push(TaskEvent::try_from(task)?);
    }
    Ok(tasks)
}

/// About how many bytes a task takes up in a bundle.
pub fn frame_bytes(task: &TaskEvent) -> usize {
    let headers: usize = task.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    TASK_BYTES + task.payload.len() + task.checkpoint.as_ref().map_or(0, Vec::len) + headers
}

/// The message id of a bundle at one hop: names the exact content. That of a single task is
/// [`TaskEvent::message_id`]; of several it is a hash over their types, ids, runs and submissions, in their order, so
/// that another composition is another message (design, decision 5).
pub fn bundle_message_id<'a>(hop: Hop, tasks: impl ExactSizeIterator<Item = &'a TaskEvent>) -> String {
    let mut tasks = tasks.peekable();
    if tasks.len() == 1
        && let Some(task) = tasks.peek()
    {
        return task.message_id(hop);
    }
    let mut hash = Sha256::new();
    let count = tasks.len();
    let mut last: Option<&TaskType> = None;
    for task in tasks {
        // Most bundles are of one type: it is hashed where it changes. No id has 0 bytes.
        if last != Some(&task.task_type) {
            hash.update([0, task.task_type.as_str().len() as u8]);
            hash.update(task.task_type.as_str().as_bytes());
            last = Some(&task.task_type);
        }
        hash.update([task.id.as_str().len() as u8]);
        hash.update(task.id.as_str().as_bytes());
        hash.update(task.run.to_le_bytes());
        hash.update(task.submitted_at.0.to_le_bytes());
    }
    let start = format!("b{count}:{}:", hop.name());
    hash.finalize().iter().take(HASH_BYTES).fold(start, |mut id, byte| {
        // Writing to a String cannot fail.
        let _infallible = write!(id, "{byte:02x}");
        id
    })
}

#[derive(Debug, Encode, BorrowDecode, Serialize, Deserialize)]
struct BundleV1<'a> {
    tasks: Vec<TaskV1<'a>>,
}

impl<'a> Wire<'a> for BundleV1<'a> {
    const KIND: u8 = KIND;
    const VERSION: u16 = 1;
}

/// The same with what later versions added. Written only where a task has any of it.
#[derive(Debug, Encode, BorrowDecode, Serialize, Deserialize)]
struct BundleV2<'a> {
    tasks: Vec<TaskV2<'a>>,
}

impl<'a> Wire<'a> for BundleV2<'a> {
    const KIND: u8 = KIND;
    const VERSION: u16 = SECOND;
}

#[derive(Debug, Encode, BorrowDecode, Serialize, Deserialize)]
struct TaskV2<'a> {
    base: TaskV1<'a>,
    needs_json: Cow<'a, str>,
    estimate_us: u64,
    remaining_us: Option<u64>,
    yields: u32,
    is_admitted_strictly: bool,
}

impl<'a> TaskV2<'a> {
    fn of(task: &'a TaskEvent) -> Self {
        Self {
            base: TaskV1::of(task),
            needs_json: if task.needs.is_none() {
                Cow::Borrowed("")
            } else {
                serde_json::to_string(&task.needs).expect("needs hold nothing but text and numbers").into()
            },
            estimate_us: task.estimate_us.unwrap_or(0),
            remaining_us: task.remaining_us,
            yields: task.yields,
            is_admitted_strictly: task.admit == Admit::Strict,
        }
    }
}

impl TryFrom<TaskV2<'_>> for TaskEvent {
    type Error = FrameError;

    fn try_from(wire: TaskV2<'_>) -> Result<Self, FrameError> {
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
#[derive(Debug, Encode, BorrowDecode, Serialize, Deserialize)]
struct TaskV1<'a> {
    id: Cow<'a, str>,
    task_type: Cow<'a, str>,
    queue: Cow<'a, str>,
    priority: u8,
    shard: u8,
    fit: Cow<'a, str>,
    tenant: Cow<'a, str>,
    key: Cow<'a, str>,
    size_key: Cow<'a, str>,
    codec: u8,
    submitted_us: u64,
    due_us: u64,
    deadline_us: u64,
    retries: Option<u32>,
    timeout_ms: Option<u64>,
    run: u32,
    attempts: u32,
    suspect: bool,
    traceparent: Cow<'a, str>,
    tracestate: Cow<'a, str>,
    parent: Cow<'a, str>,
    callbacks_json: Cow<'a, str>,
    headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    checkpoint: Option<Cow<'a, [u8]>>,
    payload: Cow<'a, [u8]>,
}

fn optional(micros: Option<Micros>) -> u64 {
    micros.map_or(0, |m| m.0)
}

fn present(micros: u64) -> Option<Micros> {
    (micros != 0).then_some(Micros(micros))
}

fn text(text: Cow<'_, str>) -> Option<String> {
    (!text.is_empty()).then(|| text.into_owned())
}

impl<'a> TaskV1<'a> {
    fn of(task: &'a TaskEvent) -> Self {
        let callbacks_json = if task.callbacks.is_empty() {
            Cow::Borrowed("")
        } else {
            serde_json::to_string(&task.callbacks).expect("callbacks hold nothing but text").into()
        };
        Self {
            id: task.id.as_str().into(),
            task_type: task.task_type.as_str().into(),
            queue: task.queue.as_str().into(),
            priority: task.priority.rank() as u8,
            shard: task.shard.number(),
            fit: task.fit.as_str().into(),
            tenant: task.tenant.as_str().into(),
            key: task.key.as_deref().unwrap_or_default().into(),
            size_key: task.size_key.as_deref().unwrap_or_default().into(),
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
            traceparent: task.trace.traceparent.as_str().into(),
            tracestate: task.trace.tracestate.as_str().into(),
            parent: task.parent.as_ref().map_or("", TaskId::as_str).into(),
            callbacks_json,
            headers: task.headers.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            checkpoint: task.checkpoint.as_deref().map(Cow::Borrowed),
            payload: Cow::Borrowed(&task.payload),
        }
    }
}

impl TryFrom<TaskV1<'_>> for TaskEvent {
    type Error = FrameError;

    fn try_from(wire: TaskV1<'_>) -> Result<Self, FrameError> {
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
            id: TaskId::read(&wire.id)?,
            task_type: TaskType::read(&wire.task_type)?,
            queue: QueueName::read(&wire.queue)?,
            priority,
            shard: Shard::new(wire.shard)?,
            fit: Fit::read(&wire.fit)?,
            tenant: Tenant::read(&wire.tenant)?,
            key: text(wire.key),
            unique_for_ms: None,
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
            trace: TraceContext {
                traceparent: wire.traceparent.into_owned(),
                tracestate: wire.tracestate.into_owned(),
            },
            parent: text(wire.parent).map(TaskId::new).transpose()?,
            callbacks,
            headers: wire.headers.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect(),
            checkpoint: wire.checkpoint.map(Cow::into_owned),
            payload: wire.payload.into_owned(),
        })
    }
}
