//! Times as HDR histograms, told in milliseconds.

use crate::output::{Exit, Failure};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// The longest time that is told apart, in microseconds: ten minutes.
const MICROS_MAX: u64 = 600_000_000;
/// The curve has a point for each of these parts of the tasks that took longer.
const BEYOND: [f64; 13] = [0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001, 0.000_3];

/// Times of tasks, three digits exact.
#[derive(Debug, Clone)]
pub(super) struct Latencies(Histogram<u64>);

/// What is told of them. In milliseconds; the names are a contract.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) p99_9: f64,
    pub(super) max: f64,
}

impl Latencies {
    pub(super) fn new() -> Result<Self, Failure> {
        Histogram::new_with_max(MICROS_MAX, 3).map(Self).map_err(|error| Failure::new(Exit::Error, error))
    }

    pub(super) fn of(times: impl IntoIterator<Item = Duration>) -> Result<Self, Failure> {
        let mut latencies = Self::new()?;
        latencies.extend(times);
        Ok(latencies)
    }

    pub(super) fn extend(&mut self, times: impl IntoIterator<Item = Duration>) {
        for time in times {
            self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        let ms = |percentile| self.0.value_at_percentile(percentile) as f64 / 1e3;
        Percentiles { p50: ms(50.0), p99: ms(99.0), p99_9: ms(99.9), max: self.0.max() as f64 / 1e3 }
    }

    /// Which part took longer, and than how many milliseconds; as far as there are tasks to tell it of.
    pub(super) fn curve(&self) -> Vec<(f64, f64)> {
        let told = BEYOND.into_iter().filter(|beyond| beyond * self.0.len() as f64 >= 1.0);
        told.map(|beyond| (beyond, self.0.value_at_quantile(1.0 - beyond) as f64 / 1e3)).collect()
    }
}

/// The middle one; of an even number the lower. 0 where there is none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// A part of another, to a thousandth; 0 where there is nothing to compare with.
pub(super) fn ratio(of: f64, to: f64) -> f64 {
    if to > 0.0 { (of / to * 1_000.0).round() / 1_000.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_times_in_milliseconds() {
        let latencies = Latencies::of((1..=1_000).map(Duration::from_millis)).expect("in range");
        let Percentiles { p50, p99, p99_9, max } = latencies.percentiles();
        for (told, ms) in [(p50, 500.0), (p99, 990.0), (p99_9, 999.0), (max, 1_000.0)] {
            assert!((told / ms - 1.0_f64).abs() < 0.002, "{told} instead of {ms}");
        }
    }

    #[test]
    fn a_time_beyond_all_bounds_is_kept_as_the_longest() {
        let latencies = Latencies::of([Duration::MAX, Duration::ZERO]).expect("in range");
        assert!(latencies.percentiles().max >= MICROS_MAX as f64 / 1e3);
    }

    #[test]
    fn the_curve_ends_where_there_are_no_tasks_to_tell_it_of() {
        let latencies = Latencies::of((1..=100).map(Duration::from_millis)).expect("in range");
        let curve = latencies.curve();
        assert_eq!(curve.last().map(|(beyond, _)| *beyond), Some(0.01));
        assert!(Latencies::new().expect("in range").curve().is_empty());
    }

    #[test]
    fn a_median_is_a_value_that_was_measured() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.0);
        assert_eq!(median([]), 0.0);
        assert_eq!(ratio(1.0, 0.0), 0.0);
    }
}
