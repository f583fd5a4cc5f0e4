//! How a backlog went away: rates from the moments at which completions were heard. Pure.

use std::time::Duration;

/// The most tasks of the first and of the last part, whose rates are compared.
const PART_MAX: usize = 300_000;
/// Points of the rate over time.
const POINTS: usize = 50;

/// The moments at which completions were heard, since the drain began.
#[derive(Debug)]
pub(super) struct Drain {
    heard: Vec<Duration>,
}

impl Drain {
    pub(super) fn of(mut heard: Vec<Duration>) -> Self {
        heard.sort_unstable();
        Self { heard }
    }

    /// When the first completion was heard.
    pub(super) fn first(&self) -> Duration {
        self.heard.first().copied().unwrap_or_default()
    }

    /// Tasks a second, from the first completion to the last.
    pub(super) fn rate(&self) -> f64 {
        rate(&self.heard)
    }

    /// Tasks of the first part, and of the last.
    pub(super) fn part(&self) -> usize {
        PART_MAX.min(self.heard.len() * 3 / 10)
    }

    /// Tasks a second of the first part.
    pub(super) fn first_rate(&self) -> f64 {
        rate(&self.heard[..self.part()])
    }

    /// Tasks a second of the last part.
    pub(super) fn last_rate(&self) -> f64 {
        rate(&self.heard[self.heard.len() - self.part()..])
    }

    /// Tasks a second over time, in seconds since the drain began.
    pub(super) fn over_time(&self) -> Vec<(f64, f64)> {
        let (Some(first), Some(last)) = (self.heard.first(), self.heard.last()) else { return Vec::new() };
        let step = (*last - *first).as_secs_f64() / POINTS as f64;
        if step <= 0.0 {
            return Vec::new();
        }
        let end = |point: usize| first.as_secs_f64() + step * (point + 1) as f64;
        let until = |point: usize| match point + 1 {
            POINTS => self.heard.len(),
            _ => self.heard.partition_point(|at| at.as_secs_f64() <= end(point)),
        };
        let mut before = 0;
        let points = (0..POINTS).map(|point| {
            let tasks = until(point) - before;
            before += tasks;
            (end(point) - step / 2.0, tasks as f64 / step)
        });
        points.collect()
    }
}

/// Tasks a second between the first of these moments and the last.
fn rate(heard: &[Duration]) -> f64 {
    match heard {
        [first, .., last] if last > first => (heard.len() - 1) as f64 / (*last - *first).as_secs_f64(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand in the first second, then 500 in each of two.
    fn slowing() -> Drain {
        let quick = (0..1_000).map(|task| Duration::from_millis(1_000 + task));
        let slow = (0..1_000).map(|task| Duration::from_millis(2_000 + 2 * task));
        Drain::of(quick.chain(slow).collect())
    }

    #[test]
    fn a_drain_that_slows_down_shows_it() {
        let drain = slowing();
        assert_eq!((drain.part(), drain.first()), (600, Duration::from_secs(1)));
        assert!((drain.first_rate() - 1_000.0).abs() < 5.0, "{}", drain.first_rate());
        assert!((drain.last_rate() - 500.0).abs() < 5.0, "{}", drain.last_rate());
        assert!((drain.rate() - 667.0).abs() < 2.0, "{}", drain.rate());
    }

    #[test]
    fn the_rate_over_time_counts_every_task_once() {
        let drain = slowing();
        let points = drain.over_time();
        let step = points[1].0 - points[0].0;
        let tasks: f64 = points.iter().map(|(_, rate)| rate * step).sum();
        assert!((tasks - 2_000.0).abs() < 0.5, "{tasks}");
        assert!(points[3].1 > 1.5 * points[POINTS - 3].1);
    }

    #[test]
    fn nothing_and_one_have_no_rate() {
        for heard in [vec![], vec![Duration::from_secs(1)]] {
            let drain = Drain::of(heard);
            assert_eq!((drain.rate(), drain.first_rate(), drain.last_rate()), (0.0, 0.0, 0.0));
            assert!(drain.over_time().is_empty());
        }
    }
}
