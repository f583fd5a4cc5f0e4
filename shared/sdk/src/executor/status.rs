//! Status of an executor, for health checks: whether its types are announced, whether it pulls its
//! lanes, and whether its run loop moves.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long after its last refusal a lane counts as pulled again: the server refuses a pull at once, and leaves one
/// that it accepts unanswered.
const ACCEPTED_AFTER: Duration = Duration::from_secs(2);
/// Lanes that a report names; a queue of 32 fits has 128.
const LANES_NAMED_MAX: usize = 3;

/// Whether an executor can do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether its types stand in the registry; otherwise why not.
    pub announced: Result<(), String>,
    /// Whether it pulls all its lanes; otherwise which it does not, and why.
    pub pulling: Result<(), String>,
}

/// The status of one executor, from [`Executor::status`](super::Executor::status).
#[derive(Debug, Clone)]
pub struct Status {
    reports: watch::Receiver<Report>,
    turns: Arc<AtomicU64>,
}

impl Status {
    /// Returns whether the executor can do its work at this moment.
    pub fn report(&self) -> Report {
        self.reports.borrow().clone()
    }

    /// Waits for the next change of the report, and returns it; `None` once the executor has ended.
    pub async fn changed(&mut self) -> Option<Report> {
        self.reports.changed().await.ok()?;
        Some(self.reports.borrow_and_update().clone())
    }

    /// Counts the turns of the executor's loops: grows at least once a second while they move.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }
}

/// The executor's side of [`Status`].
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    shared: Arc<Shared>,
    turns: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Shared {
    reports: watch::Sender<Report>,
    /// Lanes that cannot be pulled, and why.
    failing: Mutex<BTreeMap<String, String>>,
}

impl Default for Reporter {
    fn default() -> Self {
        let report =
            Report { announced: Err("not announced yet".into()), pulling: Err("no lane is pulled yet".into()) };
        let shared = Shared { reports: watch::Sender::new(report), failing: Mutex::default() };
        Self { shared: Arc::new(shared), turns: Arc::default() }
    }
}

impl Reporter {
    pub(crate) fn status(&self) -> Status {
        Status { reports: self.shared.reports.subscribe(), turns: Arc::clone(&self.turns) }
    }

    /// Reports whether the types stand in the registry.
    pub(crate) fn announced(&self, state: Result<(), String>) {
        self.shared.reports.send_if_modified(|report| {
            let changes = report.announced != state;
            report.announced = state;
            changes
        });
    }

    /// Reports a turn of a loop.
    pub(crate) fn turned(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Reports whether something named is pulled: a lane, or the lanes of a fit.
    pub(crate) fn pulling(&self, name: &str, state: Result<(), String>) {
        let mut failing = self.shared.failing.lock().expect("nobody panics while holding the failing lanes");
        match state {
            Ok(()) => drop(failing.remove(name)),
            Err(reason) => drop(failing.insert(name.to_owned(), reason)),
        }
        let state = summary(&failing);
        self.shared.reports.send_if_modified(|report| {
            let changes = report.pulling != state;
            report.pulling = state;
            changes
        });
    }
}

fn summary(failing: &BTreeMap<String, String>) -> Result<(), String> {
    if failing.is_empty() {
        return Ok(());
    }
    let named = failing.iter().take(LANES_NAMED_MAX).map(|(name, reason)| format!("{name}: {reason}"));
    let mut text = named.collect::<Vec<_>>().join("; ");
    if failing.len() > LANES_NAMED_MAX {
        text = format!("{text}; and {} more", failing.len() - LANES_NAMED_MAX);
    }
    Err(text)
}

/// The status of one lane, kept by whoever pulls it. On the normal path it only looks at a field.
#[derive(Debug)]
pub(crate) struct LaneStatus {
    reporter: Reporter,
    lane: String,
    failed_at: Option<Instant>,
}

impl LaneStatus {
    pub(crate) fn new(reporter: Reporter, lane: String) -> Self {
        Self { reporter, lane, failed_at: None }
    }

    /// Reports that the lane cannot be pulled.
    pub(crate) fn failed(&mut self, reason: impl Into<String>) {
        self.failed_at = Some(Instant::now());
        self.reporter.pulling(&self.lane, Err(reason.into()));
    }

    /// Reports that the lane is pulled, if that is news.
    pub(crate) fn pulled(&mut self) {
        if self.failed_at.take().is_some() {
            self.reporter.pulling(&self.lane, Ok(()));
        }
    }

    /// Resolves once the lane has failed no more for [`ACCEPTED_AFTER`]; never while it does not fail.
    pub(crate) async fn accepted(&self) {
        match self.failed_at {
            Some(failed) => tokio::time::sleep_until(failed + ACCEPTED_AFTER).await,
            None => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_the_lanes_that_are_not_pulled_and_counts_the_others() {
        let reporter = Reporter::default();
        let status = reporter.status();
        assert!(status.report().pulling.is_err(), "nothing is pulled before the first lane");
        reporter.announced(Ok(()));
        reporter.pulling("all", Ok(()));
        assert_eq!(status.report(), Report { announced: Ok(()), pulling: Ok(()) });
        for lane in ["a", "b", "c", "d", "e"] {
            reporter.pulling(lane, Err("gone".into()));
        }
        assert_eq!(status.report().pulling, Err("a: gone; b: gone; c: gone; and 2 more".into()));
        for lane in ["a", "b", "c", "d", "e"] {
            reporter.pulling(lane, Ok(()));
        }
        assert_eq!(status.report().pulling, Ok(()));
    }
}
