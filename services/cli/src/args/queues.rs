//! The words of `jetlane queues`.

use super::needs;
use clap::{ArgGroup, Subcommand};
use jetlane_schemas::registry::{Round, Weights};
use jetlane_schemas::{FitEntry, PolicyName};
use std::time::Duration;

/// List, show and set queues.
#[derive(Debug, clap::Args)]
pub struct Queues {
    /// What to do with them.
    #[command(subcommand)]
    pub action: QueuesAction,
}

/// What to do with queues.
#[derive(Debug, Subcommand)]
pub enum QueuesAction {
    /// List queues: policy, fits, types, what waits, who leads.
    Ls,
    /// Show one queue with all its settings.
    Show(QueuesShow),
    /// Change a queue while it runs: order of dispatch, fits, pause.
    ///
    /// Every dispatcher follows at once; no task is lost, repeated or started anew. A queue that nobody
    /// has announced is announced.
    Set(QueuesSet),
}

/// Show one queue.
#[derive(Debug, clap::Args)]
pub struct QueuesShow {
    /// The queue.
    pub queue: String,
}

/// Change a queue.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true).args([
    "policy", "weights", "round", "max_wait", "fit", "drop_fit", "pause", "resume",
]))]
pub struct QueuesSet {
    /// The queue.
    pub queue: String,
    /// The order of dispatch: fifo, rr, strict, weighted, sjf, srtf, edf or adaptive.
    #[arg(long)]
    pub policy: Option<PolicyName>,
    /// What critical, high, normal and low weigh in weighted and adaptive, such as `64:16:4:1`.
    #[arg(long, value_parser = weights, value_name = "C:H:N:L")]
    pub weights: Option<Weights>,
    /// What rr goes round: `tenant` or `type`.
    #[arg(long, value_parser = round)]
    pub round: Option<Round>,
    /// How long a task waits in adaptive until the oldest go first on a tenth of the work, such as `30s`;
    /// `none` for a multiple of the mean run time.
    #[arg(long, value_parser = max_wait, value_name = "TIME")]
    pub max_wait: Option<MaxWait>,
    /// Declares a class of needs, or changes it: what one of its tasks may use at most, such as
    /// `large=cpu:4,memory:8192,gpu:1,label:zone-a` (cpu in cores, memory in MiB). May be given more than once.
    #[arg(long, value_parser = needs::fit, value_name = "NAME=NEEDS")]
    pub fit: Vec<FitEntry>,
    /// Takes a fit back. May be given more than once.
    #[arg(long, value_name = "NAME")]
    pub drop_fit: Vec<String>,
    /// Dispatch rests: tasks are accepted and wait, what is dispatched goes on.
    #[arg(long, conflicts_with = "resume")]
    pub pause: bool,
    /// Dispatch goes on.
    #[arg(long)]
    pub resume: bool,
}

/// How long a task waits until the oldest go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxWait {
    /// A multiple of the mean run time.
    None,
    /// This long.
    After(Duration),
}

fn weights(text: &str) -> Result<Weights, String> {
    let wanted = || format!("must be four numbers from 1 to {}, such as 64:16:4:1", Weights::MAX);
    let numbers: Vec<u32> = text.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| wanted())?;
    let weights = <[u32; 4]>::try_from(numbers).map_err(|_| wanted())?;
    if weights.iter().all(|weight| (1..=Weights::MAX).contains(weight)) { Ok(Weights(weights)) } else { Err(wanted()) }
}

fn round(text: &str) -> Result<Round, String> {
    match text {
        "tenant" => Ok(Round::Tenant),
        "type" => Ok(Round::Type),
        _ => Err("must be tenant or type".into()),
    }
}

fn max_wait(text: &str) -> Result<MaxWait, String> {
    if text == "none" {
        return Ok(MaxWait::None);
    }
    super::duration(text).map(MaxWait::After)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_four_numbers_from_one_on() {
        assert_eq!(weights("64:16:4:1"), Ok(Weights([64, 16, 4, 1])));
        for bad in ["", "1", "1:2:3", "1:2:3:4:5", "0:1:1:1", "1:1:1:10001", "a:b:c:d", "-1:1:1:1"] {
            assert!(weights(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_longest_wait_is_a_time_or_none() {
        assert_eq!(max_wait("none"), Ok(MaxWait::None));
        assert_eq!(max_wait("1m30s"), Ok(MaxWait::After(Duration::from_secs(90))));
        assert!(max_wait("long").is_err());
    }
}
