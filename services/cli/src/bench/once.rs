//! Whether every task completed exactly once: what was run, what is stored, what was heard.

use super::noop::Noop;
use crate::output::{Exit, Failure};
use jetlane::{Bus, Client, TaskType};
use jetlane_bus::Hearing;
use jetlane_schemas::frame::Told;
use jetlane_schemas::subject::STREAM_DONE;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::ops::AddAssign;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long late runs may straggle in before they are counted.
pub(super) const STRAGGLERS: Duration = Duration::from_secs(2);
/// How long the server may take to say what a stream holds.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What went wrong with tasks; nothing, it is to be hoped. The names are a contract.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Faults {
    /// Tasks whose result never came, or was another task's.
    pub(super) lost: u64,
    /// Runs, stored completions and heard completions beyond one a task.
    pub(super) duplicates: u64,
}

impl Faults {
    pub(super) fn exit(self) -> Exit {
        if self == Self::default() { Exit::Ok } else { Exit::Error }
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicates += other.duplicates;
    }
}

/// How many completions are stored.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Stored {
    messages: u64,
    last_seq: u64,
}

impl Stored {
    /// Asks the server.
    pub(super) async fn read(bus: &Bus) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Info {
            state: Stored,
        }
        let unknown = |why: &str| Failure::new(Exit::Error, format!("what {STREAM_DONE} holds is not known: {why}"));
        let asked = bus.ask(&format!("$JS.API.STREAM.INFO.{STREAM_DONE}"), "".into(), ANSWER_WITHIN).await;
        let answer = asked.map_err(|error| Failure::of(Exit::Unreachable, &error))?;
        let answer = answer.ok_or_else(|| unknown("no answer"))?;
        let info: Info = serde_json::from_slice(&answer).map_err(|error| unknown(&error.to_string()))?;
        Ok(info.state)
    }

    /// What is wrong where `tasks` tasks were submitted since: each has one record of its own, and no
    /// other was ever stored. Those that are known to be lost have none.
    pub(super) fn compare(self, now: Self, tasks: u64, lost: u64) -> Faults {
        let (stored, kept) = (now.last_seq - self.last_seq, now.messages.saturating_sub(self.messages));
        let completed = tasks.saturating_sub(lost);
        Faults { lost: completed.saturating_sub(kept), duplicates: stored.saturating_sub(tasks) }
    }
}

/// Listens to every completion, to see whether one is told twice. Costs the broker a delivery a task.
pub(super) struct Witness {
    asked: oneshot::Sender<()>,
    told: JoinHandle<u64>,
}

impl Witness {
    pub(super) async fn listen(client: Client) -> Result<Self, Failure> {
        let mut completions = completions(client.bus()).await?;
        let (asked, mut end) = oneshot::channel();
        let told = tokio::spawn(async move {
            // The connection lives as long as the witness.
            let _client = client;
            let (mut seen, mut twice) = (HashSet::new(), 0);
            loop {
                tokio::select! {
                    ids = completions.next() => match ids {
                        Some(ids) => twice += ids.into_iter().map(|id| u64::from(!seen.insert(id))).sum::<u64>(),
                        None => return twice,
                    },
                    _ = &mut end => return twice,
                }
            }
        });
        Ok(Self { asked, told })
    }

    /// How many completions were told twice.
    pub(super) async fn twice(self) -> u64 {
        let _ended = self.asked.send(());
        self.told.await.unwrap_or(u64::MAX)
    }
}

/// Stored completions, as submitters are told of them.
pub(super) struct Heard(Hearing);

impl Heard {
    /// The ids of the tasks of the next message; `None` once the connection is closed for good.
    pub(super) async fn next(&mut self) -> Option<Vec<String>> {
        let message = self.0.next().await?;
        let told = Told::decode(&message.body);
        Some(told.map_or_else(|_| Vec::new(), |told| told.iter().map(|(id, _)| id.to_owned()).collect()))
    }
}

/// Every stored completion of a no-op task, as it is told.
pub(super) async fn completions(bus: &Bus) -> Result<Heard, Failure> {
    let noop = Client::type_of::<Noop>().map_err(|error| Failure::of(Exit::Error, &error))?;
    completions_of(bus, &noop).await
}

/// Every stored completion of a type.
pub(super) async fn completions_of(bus: &Bus, task_type: &TaskType) -> Result<Heard, Failure> {
    let subscribed = bus.hear_told(task_type).await;
    subscribed.map(Heard).map_err(|error| Failure::of(Exit::Error, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_too_few_is_a_loss_and_one_too_many_a_double() {
        let before = Stored { messages: 1, last_seq: 1 };
        let faults = |messages, last_seq, lost| before.compare(Stored { messages, last_seq }, 10, lost);
        assert_eq!(faults(11, 11, 0), Faults::default());
        assert_eq!(faults(10, 10, 0), Faults { lost: 1, duplicates: 0 });
        assert_eq!(faults(11, 12, 0), Faults { lost: 0, duplicates: 1 });
        assert_eq!(faults(10, 10, 1), Faults::default(), "it is counted already");
    }
}
