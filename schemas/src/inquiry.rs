//! Inquiries to executors: which of them runs a task that was delivered again, or that a dispatcher is about to end.
//! JSON over core NATS, request and reply.

use crate::id::{RunToken, TaskId};
use crate::options::Micros;
use crate::token::TaskType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Asks whether another executor runs the tasks of a delivered message. A dispatcher asks without a delivery: `ack` is
/// empty, and the answer is [`InquiryReply::Running`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Inquiry {
    /// The executor or dispatcher that asks.
    pub executor: String,
    /// The sequence of the message in the lanes' stream.
    pub sequence: u64,
    /// When the message was stored: tells it from one of an earlier stream.
    pub stored_at: Micros,
    /// How often it has been delivered, to whoever asks.
    pub delivered: u64,
    /// The ack subject of that delivery: whoever runs the tasks settles it. Empty where there is no delivery to settle.
    pub ack: String,
    /// The tasks.
    pub runs: Vec<InquiredRun>,
    /// The token of the mark that whoever asks has found, asked of the executor that stored it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub mark: Option<RunToken>,
}

/// A run that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InquiredRun {
    /// Its task's type.
    pub task_type: TaskType,
    /// Its task.
    pub id: TaskId,
    /// Its number.
    pub run: u32,
    /// When the asking executor began it; `None` where it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Micros>,
}

/// Answers an [`Inquiry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InquiryReply {
    /// The answering executor runs the tasks, and settles this delivery with its own.
    Adopted,
    /// It runs a later run of the task: this one is acked away.
    Superseded,
    /// It runs one of the tasks at least; the question had no delivery to settle.
    Running,
    /// It runs none of them.
    Unheld,
    /// It stored the mark that is asked for, and the handler never began, nor will.
    Unbegun,
}

/// The mark that a run begins: stored before the handler where the task must not run twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginMark {
    /// When its task was submitted: a later task of the same id is another one.
    pub submitted_at: Micros,
    /// The number of the run.
    pub run: u32,
    /// How often it has begun, as far as is known. 0 for a run that is stored and has not begun.
    pub begun: u32,
    /// How far it came.
    #[serde(default)]
    pub stage: MarkStage,
    /// Token of the run, drawn by its executor.
    pub token: RunToken,
    /// That executor.
    pub executor: String,
}

/// How far a marked run came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MarkStage {
    /// Its handler was about to begin.
    #[default]
    Begun,
    /// Its handler has answered with a next run, which is being stored.
    Answered,
}
