//! Whether the runs of a type usually end at once.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A run that has ended within this time ends at once.
pub(crate) const AT_ONCE: Duration = Duration::from_micros(50);
/// So many runs in a row have to.
const IN_A_ROW: u32 = 16;

/// How many runs in a row have ended at once.
#[derive(Debug, Default)]
pub(crate) struct Pace(AtomicU32);

impl Pace {
    /// A run has ended after so long.
    pub(crate) fn ran(&self, took: Duration) {
        if took > AT_ONCE {
            self.0.store(0, Ordering::Relaxed);
        } else if !self.ends_at_once() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the next one is expected to.
    pub(crate) fn ends_at_once(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= IN_A_ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_short_runs_in_a_row_say_so_and_one_that_is_longer_takes_it_back() {
        let pace = Pace::default();
        (0..15).for_each(|_| pace.ran(AT_ONCE));
        assert!(!pace.ends_at_once());
        pace.ran(Duration::ZERO);
        assert!(pace.ends_at_once());
        pace.ran(AT_ONCE + Duration::from_nanos(1));
        assert!(!pace.ends_at_once());
    }
}
