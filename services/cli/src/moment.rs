//! Times for people: how far away, when exactly, and when a task is expected to run.

use jetlane_bus::clock;
use jetlane_schemas::Micros;
use jetlane_schemas::question::Expectation;
use serde::Serialize;
use std::time::Duration;

/// When a task is expected to run, by the estimates of its queue's leader. The names are a contract.
#[derive(Debug, Serialize)]
pub(crate) struct Expected {
    start: Option<String>,
    finish: Option<String>,
    estimate_ms: f64,
    ahead: u64,
    meets_deadline: bool,
    #[serde(skip)]
    expectation: Expectation,
}

impl Expected {
    pub(crate) fn of(expectation: Expectation) -> Self {
        Self {
            start: expectation.start.map(clock::rfc3339),
            finish: expectation.finish.map(clock::rfc3339),
            estimate_ms: expectation.estimate_us as f64 / 1_000.0,
            ahead: expectation.ahead,
            meets_deadline: expectation.meets_deadline,
            expectation,
        }
    }

    /// For people, after `it`.
    pub(crate) fn line(&self) -> String {
        let Expectation { start, finish, estimate_us, meets_deadline, .. } = self.expectation;
        let estimate = format!("estimated run time {}", long(estimate_us));
        let late = if meets_deadline { "" } else { " It would miss its deadline." };
        match (start, finish) {
            (Some(start), Some(finish)) => {
                format!("starts {} and finishes {}; {estimate}.{late}", when(start), when(finish))
            }
            (Some(start), None) => format!("starts {}; {estimate}.{late}", when(start)),
            (None, _) => {
                format!("has no start in sight: no executor can take it, or its queue is paused; {estimate}.{late}")
            }
        }
    }
}

/// `in 3s (2026-11-22T14:00:03Z)`, or how long ago.
pub(crate) fn when(at: Micros) -> String {
    told(at, clock::now())
}

/// `12s ago`, or `in 3s`.
pub(crate) fn ago(at: Micros) -> String {
    relative(at, clock::now())
}

/// How long something takes, to three digits or so.
pub(crate) fn long(micros: u64) -> String {
    // What is finer than a hundredth of it is noise.
    let grain = match micros {
        0..1_000 => 1,
        1_000..1_000_000 => 1_000,
        1_000_000..60_000_000 => 100_000,
        _ => 1_000_000,
    };
    let rounded = (micros + grain / 2) / grain * grain;
    humantime::format_duration(Duration::from_micros(rounded)).to_string()
}

fn told(at: Micros, now: Micros) -> String {
    format!("{} ({})", relative(at, now), clock::rfc3339(Micros(at.0 / 1_000_000 * 1_000_000)))
}

/// What lies nearer than this is now.
const NOW_US: u64 = 20_000;

fn relative(at: Micros, now: Micros) -> String {
    if at.0.abs_diff(now.0) < NOW_US {
        return "now".into();
    }
    if at.0 >= now.0 { format!("in {}", long(at.0 - now.0)) } else { format!("{} ago", long(now.0 - at.0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_by_its_distance_and_exactly() {
        let now = Micros(1_700_000_000_000_000);
        assert_eq!(told(Micros(now.0 + 3_240_000), now), "in 3s 200ms (2023-11-14T22:13:23Z)");
        assert_eq!(told(Micros(now.0 - 90_400_000), now), "1m 30s ago (2023-11-14T22:11:49Z)");
        assert_eq!(told(Micros(now.0 - 500), now), "now (2023-11-14T22:13:19Z)");
        assert_eq!((long(250), long(12_345), long(0)), ("250us".into(), "12ms".into(), "0s".into()));
    }
}
