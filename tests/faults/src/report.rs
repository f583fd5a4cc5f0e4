//! What a soak found, as text and as JSON.

use crate::checker::{self, Findings, History, Kind, Violation};
use crate::journal::Event;
use crate::soak::Soak;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How long after a fault a time without progress is still put down to it, in microseconds.
const AFTER_FAULT_US: u64 = 15_000_000;

/// Figures of a soak, whatever the checker found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// Completions that the stream holds.
    pub completions: usize,
    /// Completions by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// The longest time without a completion that touches a fault of this kind, in seconds.
    pub longest_without_completion_s: BTreeMap<String, f64>,
    /// The longest time without an accepted submission that touches a fault of this kind, in seconds.
    pub longest_without_accept_s: BTreeMap<String, f64>,
    /// Processes that were started.
    pub starts: usize,
    /// From the last fault until all tasks had completed, in seconds.
    pub drain_s: f64,
}

impl Figures {
    /// Reads the figures from a history.
    pub fn of(history: &History, drain: Duration) -> Self {
        let faults = checker::faults(history);
        let mut figures = Self {
            completions: history.completions.len(),
            starts: crate::soak::starts(history),
            drain_s: drain.as_secs_f64(),
            ..Self::default()
        };
        for stored in &history.completions {
            *figures.outcomes.entry(stored.outcome.clone()).or_default() += 1;
        }
        let mut completed: Vec<u64> = history.completions.iter().map(|stored| stored.at_us).collect();
        completed.sort_unstable();
        let accepted = history.lines.iter().filter(|line| matches!(line.event, Event::Accept { .. }));
        let accepted: Vec<u64> = accepted.map(|line| line.at_us).collect();
        for fault in &faults {
            *figures.faults.entry(fault.kind.clone()).or_default() += 1;
            let window = (fault.begin_us, fault.end_us + AFTER_FAULT_US);
            for (times, longest) in [
                (&completed, &mut figures.longest_without_completion_s),
                (&accepted, &mut figures.longest_without_accept_s),
            ] {
                let seconds = longest_gap(times, window);
                let longest = longest.entry(fault.kind.clone()).or_default();
                *longest = longest.max(seconds);
            }
        }
        figures
    }
}

/// The longest time between two moments of which at least a part lies in the window, in seconds.
fn longest_gap(times: &[u64], (from, to): (u64, u64)) -> f64 {
    let gaps = times.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
    gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or(0) as f64 / 1e6
}

/// What a soak found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Its length in seconds.
    pub length_s: u64,
    /// Its servers.
    pub servers: usize,
    /// Tasks that were acknowledged.
    pub accepted: u64,
    /// Runs beyond one a task that a fault explains.
    pub explained_runs: u64,
    /// Runs after an error that the handler returned.
    pub retries: u64,
    /// Callbacks that are scheduled for later.
    pub callbacks_due: u64,
    /// Messages that nobody could read, told as rejected.
    pub unreadable: u64,
    /// Messages of completed tasks that a full disk left behind.
    pub stranded: u64,
    /// Tasks that a deleted stream took with it, at most: accepted before, and without a completion.
    pub lost_by_deletion: u64,
    /// Callbacks that a deleted stream took with it.
    pub callbacks_lost_by_deletion: u64,
    /// Processes that ended by themselves.
    pub ended: BTreeMap<String, u64>,
    /// Figures.
    pub figures: Figures,
    /// Broken promises by kind.
    pub counts: BTreeMap<Kind, u64>,
    /// Broken promises, with the history of the task.
    pub violations: Vec<Violation>,
    /// Where the journals and logs are.
    pub folder: String,
}

impl Report {
    /// Puts a report together.
    pub fn new(soak: &Soak, findings: Findings, figures: Figures) -> Self {
        Self {
            seed: soak.seed,
            length_s: soak.length.as_secs(),
            servers: soak.servers,
            accepted: findings.accepted,
            explained_runs: findings.explained_runs,
            retries: findings.retries,
            callbacks_due: findings.callbacks_due,
            unreadable: findings.unreadable,
            stranded: findings.stranded,
            lost_by_deletion: findings.lost_by_deletion,
            callbacks_lost_by_deletion: findings.callbacks_lost_by_deletion,
            ended: findings.ended,
            figures,
            counts: findings.counts,
            violations: findings.violations,
            folder: soak.folder.display().to_string(),
        }
    }

    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = &self.figures;
        writeln!(f, "seed {}, {} s, {} servers; journals in {}", self.seed, self.length_s, self.servers, self.folder)?;
        writeln!(f, "accepted {}, completions {} {:?}", self.accepted, figures.completions, figures.outcomes)?;
        writeln!(
            f,
            "runs beyond one a task that faults explain {}, retries {}, callbacks due later {}, unreadable messages {}, stranded by a full disk {}, lost with a deleted stream {} and callbacks {}, process starts {}, drained in {:.1} s",
            self.explained_runs,
            self.retries,
            self.callbacks_due,
            self.unreadable,
            self.stranded,
            self.lost_by_deletion,
            self.callbacks_lost_by_deletion,
            figures.starts,
            figures.drain_s
        )?;
        writeln!(
            f,
            "{} faults; longest time in s without a completion, without an accepted task:",
            figures.faults.values().sum::<u64>()
        )?;
        for (kind, count) in &figures.faults {
            let of = |longest: &BTreeMap<String, f64>| longest.get(kind).copied().unwrap_or(0.0);
            let (done, accepted) = (of(&figures.longest_without_completion_s), of(&figures.longest_without_accept_s));
            writeln!(f, "  {kind:24} {count:5}  {done:6.1} {accepted:6.1}")?;
        }
        if !self.ended.is_empty() {
            writeln!(f, "processes that ended by themselves: {:?}", self.ended)?;
        }
        for violation in &self.violations {
            writeln!(f, "VIOLATION {:?} {}: {}", violation.kind, violation.of, violation.what)?;
            for line in &violation.history {
                writeln!(f, "    {line}")?;
            }
        }
        writeln!(f, "violations: {:?}", self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_time_without_progress_counts_where_it_touches_the_fault() {
        let times = [0, 1_000_000, 5_000_000, 5_500_000, 9_000_000];
        assert!((longest_gap(&times, (2_000_000, 3_000_000)) - 4.0).abs() < 1e-9);
        assert!((longest_gap(&times, (5_100_000, 5_200_000)) - 0.5).abs() < 1e-9);
        assert!((longest_gap(&times, (0, 100)) - 1.0).abs() < 1e-9);
    }
}
