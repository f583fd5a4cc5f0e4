//! A task that the test lets end, and that counts how many of it run at once.

use jetlane::{Executor, State, Task, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, watch};

/// Runs until a permit is given.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Gated {
    /// What it is counted under.
    pub(crate) kind: String,
}

impl Task for Gated {
    const TYPE: &'static str = "test.gated";
    type Output = ();
}

/// The gate, and what has been seen there.
#[derive(Clone)]
pub(crate) struct Gate {
    permits: Arc<Semaphore>,
    at_once: Arc<Mutex<BTreeMap<String, (usize, usize)>>>,
    begun: Arc<watch::Sender<usize>>,
}

impl Gate {
    pub(crate) fn closed() -> Self {
        let begun = Arc::new(watch::Sender::new(0));
        Self { permits: Arc::new(Semaphore::new(0)), at_once: Arc::default(), begun }
    }

    pub(crate) fn open(&self, tasks: usize) {
        self.permits.add_permits(tasks);
    }

    /// Waits until so many have begun in all.
    pub(crate) async fn begun(&self, tasks: usize) {
        let mut begun = self.begun.subscribe();
        crate::stage::soon(begun.wait_for(|count| *count >= tasks)).await.expect("the gate stands");
    }

    pub(crate) fn begun_so_far(&self) -> usize {
        *self.begun.borrow()
    }

    /// How many of a kind have run at once, at most.
    pub(crate) fn most_at_once(&self, kind: &str) -> usize {
        self.at_once.lock().expect("no test panics while counting").get(kind).map_or(0, |(_, most)| *most)
    }

    fn count(&self, kind: &str, change: impl FnOnce(usize) -> usize) {
        let mut at_once = self.at_once.lock().expect("no test panics while counting");
        let (now, most) = at_once.entry(kind.to_owned()).or_default();
        *now = change(*now);
        *most = (*most).max(*now);
    }
}

async fn gated(task: Gated, State(gate): State<Gate>) -> Result<(), TaskError> {
    gate.count(&task.kind, |now| now + 1);
    gate.begun.send_modify(|count| *count += 1);
    gate.permits.acquire().await?.forget();
    gate.count(&task.kind, |now| now - 1);
    Ok(())
}

/// An executor of the default queue that serves gated tasks.
pub(crate) fn executor(client: &jetlane::Client, gate: &Gate) -> Executor<Gate> {
    Executor::new(client, "default").state(gate.clone()).task(gated)
}
