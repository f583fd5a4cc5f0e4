//! In which order a queue's tasks are dispatched, and what tunes it.

use crate::options::Priority;
use crate::token::InvalidName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The order in which a queue's tasks are dispatched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyName {
    /// First in, first out, whatever the priority.
    Fifo,
    /// Round robin over tenants, or over task types: one task a turn.
    Rr,
    /// Strictly by priority, first in first out inside one.
    Strict,
    /// Priorities share the work by their weights, first in first out inside one.
    Weighted,
    /// The shortest estimated run time first.
    Sjf,
    /// The shortest remaining time first: running tasks with checkpoints yield to much shorter ones.
    Srtf,
    /// The earliest deadline first; what cannot meet its deadline any more comes after what can.
    Edf,
    /// Fair between tenants, then short, old and urgent first, and nobody waits without bound.
    #[default]
    Adaptive,
}

impl PolicyName {
    /// All policies.
    pub const ALL: [Self; 8] =
        [Self::Fifo, Self::Rr, Self::Strict, Self::Weighted, Self::Sjf, Self::Srtf, Self::Edf, Self::Adaptive];

    /// The word that stands in the registry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::Rr => "rr",
            Self::Strict => "strict",
            Self::Weighted => "weighted",
            Self::Sjf => "sjf",
            Self::Srtf => "srtf",
            Self::Edf => "edf",
            Self::Adaptive => "adaptive",
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PolicyName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text).ok_or_else(|| {
            InvalidName::new("policy", text, "must be fifo, rr, strict, weighted, sjf, srtf, edf or adaptive")
        })
    }
}

/// What round robin goes round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Round {
    /// Tenants.
    #[default]
    Tenant,
    /// Task types.
    Type,
}

/// What the four priorities weigh, the most urgent first. Default 64:16:4:1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Weights(pub [u32; 4]);

impl Default for Weights {
    fn default() -> Self {
        Self([64, 16, 4, 1])
    }
}

impl Weights {
    /// The largest weight.
    pub const MAX: u32 = 10_000;

    /// The weight of a priority, at least 1.
    pub fn of(self, priority: Priority) -> u32 {
        self.0[priority.rank()].max(1)
    }
}

/// The order of dispatch with everything that tunes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Order {
    /// The policy.
    #[serde(default)]
    pub policy: PolicyName,
    /// What the priorities weigh, in `weighted` and `adaptive`.
    #[serde(default)]
    pub weights: Weights,
    /// What `rr` goes round.
    #[serde(default)]
    pub round: Round,
    /// How long a task waits in `adaptive` until the oldest go first on a tenth of the work, in
    /// milliseconds. Absent: a multiple of the mean run time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_wait_ms: Option<u64>,
}

impl Order {
    /// This policy, with everything else at its default.
    pub fn of(policy: PolicyName) -> Self {
        Self { policy, ..Self::default() }
    }
}
