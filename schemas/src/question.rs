//! What anyone may ask the leader of a queue, and what it answers: why a task waits, and when one would
//! start. JSON over core NATS, request and reply.

use crate::id::TaskId;
use crate::needs::Needs;
use crate::options::{Micros, Priority};
use crate::registry::PolicyName;
use crate::token::{Fit, QueueName, TaskType, Tenant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A question to the leader of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Question {
    /// Why does this task wait?
    Explain {
        /// The task.
        id: TaskId,
        /// Its type: two types may use one id. Without it any task of this id is explained.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task_type: Option<TaskType>,
    },
    /// When would such a task start, were it submitted now?
    Expect(Prospect),
}

/// A task that may be submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Prospect {
    /// Its type.
    pub task_type: TaskType,
    /// Its priority.
    #[serde(default)]
    pub priority: Priority,
    /// Its tenant.
    #[serde(default)]
    pub tenant: Tenant,
    /// What it needs.
    #[serde(default, skip_serializing_if = "Needs::is_none")]
    pub needs: Needs,
    /// Groups tasks for estimates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_key: Option<String>,
    /// The submitter's estimate of its run time, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate_us: Option<u64>,
    /// Until when it must have started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Micros>,
}

/// What the leader answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum Answer {
    /// It holds the task.
    Explanation(Explanation),
    /// It does not hold the task: it stands in the stream behind the window, or has been dispatched, or
    /// has ended.
    Unheld {
        /// The queue that was asked.
        queue: QueueName,
        /// Whether the task was dispatched by this leader and has not ended, as far as it knows.
        dispatched: bool,
    },
    /// When such a task would start.
    Expectation(Expectation),
    /// The question could not be read.
    Refused {
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a task waits, and for how long still, by the leader's estimates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// The task.
    pub id: TaskId,
    /// Its queue.
    pub queue: QueueName,
    /// Its type.
    pub task_type: TaskType,
    /// Its priority.
    pub priority: Priority,
    /// Its tenant.
    pub tenant: Tenant,
    /// The fit that its needs map to.
    pub fit: Fit,
    /// The order of dispatch.
    pub policy: PolicyName,
    /// Since when it stands in line.
    pub first_arrival: Micros,
    /// Why it has not been dispatched, the most important reason first.
    pub reasons: Vec<Reason>,
    /// When it is expected to run.
    pub expected: Expectation,
}

/// When a task is expected to run, by the leader's estimates. No promise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Expectation {
    /// When it starts; absent while no executor can take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Micros>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish: Option<Micros>,
    /// Its estimated run time, in microseconds.
    pub estimate_us: u64,
    /// Tasks that go before it, as far as the leader holds them.
    pub ahead: u64,
    /// Whether it would start by its deadline; true where it has none.
    pub meets_deadline: bool,
}

/// Why a task waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// The queue is paused.
    Paused,
    /// No live executor serves its fit, or no declared fit covers its needs.
    NoExecutorFits {
        /// The fit.
        fit: Fit,
    },
    /// All executors are busy.
    NoRoom,
    /// Others go first by the queue's policy.
    Behind {
        /// How many, of all tenants and flows.
        tasks: u64,
        /// Of them, those of its own flow (its tenant and priority).
        of_its_flow: u64,
    },
    /// Its tenant has had more than its share, and others wait.
    OverShare,
    /// A lane was full or a store failed: dispatch rests for a moment.
    Resting {
        /// Until when.
        until: Micros,
    },
    /// It is not due yet.
    Delayed {
        /// Until when.
        until: Micros,
    },
    /// It is being stored in its lane.
    Leaving,
}
