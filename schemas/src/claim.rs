//! Claims of idempotency keys: who has a key, for as long as its task waits or runs and for a time after it.

use crate::id::TaskId;
use crate::options::Micros;
use crate::task::TaskEvent;
use serde::{Deserialize, Serialize};

/// How long a claim is kept whose task is never seen to end, in seconds, beyond the task's delay: 30 days.
pub const CLAIM_AGE_S: u64 = 30 * 24 * 60 * 60;
/// The longest time that a key stays taken after its task has ended, in milliseconds: one year.
pub const UNIQUE_FOR_MS_MAX: u64 = 365 * 24 * 60 * 60 * 1_000;

/// The claim of a key, as it is stored in its bucket under [`crate::subject::claim`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The task that has the key.
    pub id: TaskId,
    /// How long the key stays taken after the task has ended; as long as its completion is kept where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_for_ms: Option<u64>,
    /// How far the task has come.
    #[serde(flatten)]
    pub state: ClaimState,
}

/// How far the task of a claim has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum ClaimState {
    /// It was or is being submitted.
    Submitted,
    /// A leader has read it: this message is the task, and any other is a copy.
    Held {
        /// The stream of the message.
        stream: String,
        /// Its sequence.
        sequence: u64,
    },
    /// It has ended.
    Ended {
        /// Until when the key stays taken.
        until: Micros,
    },
}

impl TaskEvent {
    /// The name of the claim of the task's key within its type: what the id of a task is that has a key and no id of
    /// its own.
    pub fn claim(&self) -> Option<TaskId> {
        let key = self.key.as_ref()?;
        Some(TaskId::from_key(self.task_type.as_str(), self.tenant.as_str(), key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_small_json() {
        let id = TaskId::new("k1").expect("valid");
        for (state, json) in [
            (ClaimState::Submitted, r#"{"id":"k1","state":"submitted"}"#),
            (
                ClaimState::Held { stream: "JETLANE_TASKS".into(), sequence: 7 },
                r#"{"id":"k1","state":"held","stream":"JETLANE_TASKS","sequence":7}"#,
            ),
            (ClaimState::Ended { until: Micros(5) }, r#"{"id":"k1","state":"ended","until":5}"#),
        ] {
            let claim = Claim { id: id.clone(), unique_for_ms: None, state };
            assert_eq!(serde_json::to_string(&claim).expect("JSON"), json);
            assert_eq!(serde_json::from_str::<Claim>(json).expect("a claim"), claim);
        }
    }
}
