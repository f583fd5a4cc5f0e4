//! The task types of a soak.

use crate::chance::Chance;
use crate::journal::Expect;
use jetlane::{Task, TaskOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The queue that executors of the SDK serve.
pub const QUEUE: &str = "faults";
/// The queue that plain clients serve.
pub const PLAIN_QUEUE: &str = "plainfaults";
/// The type that plain clients serve.
pub const PLAIN_TYPE: &str = "fault.plain";
/// The name of the webhook endpoint.
pub const HOOK: &str = "hook";
/// By how much the second attempt of [`Behaviour::FailFirst`] takes longer, in milliseconds.
pub const SECOND_MS: u64 = 4_000;
/// How long a slow handler runs: longer than a lease of 10 s.
const SLOW_MS: u64 = 12_000;

/// How long the handlers of long tasks run, in milliseconds.
const LONG_MS: u64 = 3_000;

/// How a handler behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Behaviour {
    /// Succeeds.
    Succeed,
    /// Fails at its first attempt, succeeds at the second.
    FailOnce,
    /// Fails for good at its first attempt, succeeds at the second, which takes longer by [`SECOND_MS`].
    FailFirst,
    /// Fails for good.
    Fail,
    /// Panics at every attempt.
    Panic,
    /// Ends its process at every attempt.
    Abort,
}

/// A task of the default options.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Work {
    /// Names the task.
    pub marker: String,
    /// How long its handler runs, in milliseconds.
    pub ms: u64,
    /// How its handler behaves.
    pub behaviour: Behaviour,
}

/// What a handler returns.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Done {
    /// Names the task.
    pub marker: String,
}

impl Task for Work {
    const TYPE: &'static str = "fault.work";
    type Output = Done;

    fn options() -> TaskOptions {
        TaskOptions { backoff: Duration::from_millis(100), ..TaskOptions::default() }
    }
}

/// A task that runs at most once.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Once {
    /// Names the task.
    pub marker: String,
    /// How long its handler runs, in milliseconds.
    pub ms: u64,
}

impl Task for Once {
    const TYPE: &'static str = "fault.once";
    type Output = Done;

    fn options() -> TaskOptions {
        TaskOptions { retries: 0, ..TaskOptions::default() }
    }
}

/// A task whose handler never succeeds: at most two attempts.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Hard {
    /// Names the task.
    pub marker: String,
    /// How its handler behaves.
    pub behaviour: Behaviour,
}

impl Task for Hard {
    const TYPE: &'static str = "fault.hard";
    type Output = Done;

    fn options() -> TaskOptions {
        TaskOptions { retries: 1, backoff: Duration::from_millis(200), ..TaskOptions::default() }
    }
}

/// Which tasks a producer submits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mix {
    /// All kinds.
    All,
    /// Tasks with `retries 0` alone.
    Once,
    /// Tasks that run for three seconds.
    Long,
    /// Bundled tasks that end at once.
    Short,
}

/// What a producer submits next.
#[derive(Debug, Clone)]
pub enum Choice {
    /// A task without an id of its own, which may share a message with others.
    Bundled(Work),
    /// A task with an id of the producer's, submitted again until it is accepted.
    Named(Work, Option<Duration>),
    /// A task that its producer cancels.
    Cancelled(Work),
    /// A task with a key, submitted twice.
    Keyed(Work),
    /// A task that runs at most once.
    Once(Once),
    /// A task that never succeeds.
    Hard(Hard),
    /// A task that plain clients serve.
    Plain(Work),
}

impl Choice {
    /// How it may end.
    pub fn expect(&self) -> Expect {
        match self {
            Self::Hard(_) => Expect::Failure,
            Self::Cancelled(_) => Expect::SuccessOrCancel,
            Self::Bundled(_) | Self::Named(..) | Self::Keyed(_) | Self::Once(_) | Self::Plain(_) => Expect::Success,
        }
    }

    /// How long it is to wait before it may run.
    pub fn delay(&self) -> Option<Duration> {
        match self {
            Self::Named(_, delay) => *delay,
            _ => None,
        }
    }

    /// Its retries.
    pub fn retries(&self) -> u32 {
        match self {
            Self::Once(_) => 0,
            Self::Hard(_) => 1,
            Self::Bundled(_) | Self::Named(..) | Self::Keyed(_) | Self::Cancelled(_) | Self::Plain(_) => 3,
        }
    }

    /// Draws what is submitted next.
    pub fn draw(mix: Mix, marker: String, chance: &mut Chance) -> Self {
        let ms = if chance.percent(1) { chance.between(1_000, 3_000) } else { chance.between(0, 60) };
        let work = |behaviour, ms| Work { marker: marker.clone(), ms, behaviour };
        match mix {
            Mix::All => {}
            Mix::Once => return Self::Once(Once { marker, ms }),
            Mix::Long => return Self::Named(work(Behaviour::Succeed, LONG_MS), None),
            Mix::Short => return Self::Bundled(work(Behaviour::Succeed, 0)),
        }
        match chance.between(0, 999) {
            0 => Self::Hard(Hard { marker, behaviour: Behaviour::Panic }),
            1..=3 => Self::Hard(Hard { marker, behaviour: Behaviour::Fail }),
            4 => Self::Named(work(Behaviour::Succeed, SLOW_MS), None),
            5..=14 => Self::Named(work(Behaviour::FailOnce, ms), None),
            15..=24 => Self::Cancelled(work(Behaviour::Succeed, ms)),
            25..=44 => Self::Keyed(work(Behaviour::Succeed, ms)),
            45..=54 => Self::Plain(work(Behaviour::Succeed, ms / 2)),
            55..=84 => {
                let delay = Duration::from_millis(chance.between(100, 5_000));
                Self::Named(work(Behaviour::Succeed, ms), Some(delay))
            }
            85..=199 => Self::Named(work(Behaviour::Succeed, ms), None),
            200..=349 => Self::Once(Once { marker, ms }),
            _ => Self::Bundled(work(Behaviour::Succeed, ms)),
        }
    }
}
