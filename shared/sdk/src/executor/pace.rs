//! Whether the runs of a type usually end at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A run that has ended within this time ends at once.
pub(crate) const AT_ONCE: Duration = Duration::from_micros(50);
/// From this score on they do: so many in a row, at first.
const USUALLY: u32 = 16;
/// The highest score. From there three longer runs close together take it back; one alone may have been as short as
/// the others, and its processor somebody else's for a while.
const SCORE_MAX: u32 = 64;

/// How usual it is, as a score: a run that ends at once adds one, a longer one halves it. So they usually do where no
/// more than one of about 16 is longer.
#[derive(Debug, Default)]
pub(crate) struct Pace(AtomicU32);

impl Pace {
    /// A run has ended after so long.
    pub(crate) fn ran(&self, took: Duration) {
        // Of two at the same time one may not be counted.
        let score = self.0.load(Ordering::Relaxed);
        let next = if took > AT_ONCE { score / 2 } else { (score + 1).min(SCORE_MAX) };
        if next != score {
            self.0.store(next, Ordering::Relaxed);
        }
    }

    /// Whether the next one is expected to.
    pub(crate) fn ends_at_once(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= USUALLY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGER: Duration = AT_ONCE.saturating_add(Duration::from_nanos(1));

    fn after(runs: impl IntoIterator<Item = Duration>) -> Pace {
        let pace = Pace::default();
        runs.into_iter().for_each(|took| pace.ran(took));
        pace
    }

    #[test]
    fn sixteen_short_runs_in_a_row_say_so_and_one_that_is_longer_takes_it_back() {
        let pace = after([AT_ONCE; 15]);
        assert!(!pace.ends_at_once());
        pace.ran(Duration::ZERO);
        assert!(pace.ends_at_once());
        pace.ran(LONGER);
        assert!(!pace.ends_at_once());
    }

    #[test]
    fn a_long_habit_outlives_a_single_exception_and_no_three() {
        let pace = after([Duration::ZERO; 1_000]);
        pace.ran(LONGER);
        pace.ran(LONGER);
        assert!(pace.ends_at_once());
        pace.ran(LONGER);
        assert!(!pace.ends_at_once());
    }

    #[test]
    fn where_one_in_eight_is_longer_they_do_not_usually_end_at_once() {
        let pace = after((0..800).map(|number| if number % 8 == 7 { LONGER } else { Duration::ZERO }));
        assert!(!pace.ends_at_once());
    }
}
