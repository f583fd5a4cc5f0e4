//! The memory of processes over time.

use super::super::usage::Usage;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;

/// How often memory is read.
const EVERY: Duration = Duration::from_millis(250);

/// What processes had resident, in kilobytes, and when since the first submission.
pub(super) struct Sample {
    pub(super) at: Duration,
    pub(super) resident: Vec<(&'static str, u64)>,
}

/// Reads the memory of processes until it is told to end.
pub(super) struct Memory {
    asked: oneshot::Sender<()>,
    samples: JoinHandle<Vec<Sample>>,
}

impl Memory {
    /// Begins with the processes of these ids, which may change.
    pub(super) fn watch(ids: Arc<Mutex<Vec<(&'static str, u32)>>>) -> Self {
        let (asked, mut end) = oneshot::channel();
        let samples = tokio::spawn(async move {
            let begun = Instant::now();
            let mut samples = Vec::new();
            let mut clock = tokio::time::interval(EVERY);
            loop {
                tokio::select! {
                    _ = clock.tick() => {
                        let resident = resident(&ids.lock().await);
                        samples.push(Sample { at: begun.elapsed(), resident });
                    }
                    _ = &mut end => return samples,
                }
            }
        });
        Self { asked, samples }
    }

    pub(super) async fn end(self) -> Vec<Sample> {
        let _ended = self.asked.send(());
        self.samples.await.unwrap_or_default()
    }
}

fn resident(ids: &[(&'static str, u32)]) -> Vec<(&'static str, u64)> {
    ids.iter().map(|(name, pid)| (*name, Usage::of(*pid).resident_kb)).collect()
}
