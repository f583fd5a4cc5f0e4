//! The clock of an open loop: when each task is meant to be sent, whatever became of those before it.

use crate::args::Clock;
use crate::output::{Exit, Failure};
use jetlane_simulator::Load;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The first task is meant to be sent so long after the start, when all is set up.
const LEAD: Duration = Duration::from_millis(50);
/// What falls due within so long is told together: a clock that wakes for each task takes the processor from
/// what it measures. A task's latency counts from when it was meant to be sent all the same.
const TICK: Duration = Duration::from_micros(500);

/// When tasks fall due at this rate for so long, counted from the first.
pub(super) fn schedule(clock: Clock, tasks_per_s: f64, seconds: f64, seed: u64) -> Result<Vec<Duration>, Failure> {
    let tasks = ((tasks_per_s * seconds).round() as usize).max(1);
    match clock {
        Clock::Fixed => Ok((0..tasks).map(|task| Duration::from_secs_f64(task as f64 / tasks_per_s)).collect()),
        Clock::Poisson => {
            // The simulator's arrivals: its unit is the mean size, so that rho tasks arrive in a unit.
            let load = Load { tasks, servers: 1, seed, ..Load::default() };
            let arrivals = load.arrivals().map_err(|error| Failure::of(Exit::Usage, &error))?;
            let stretch = load.rho / tasks_per_s;
            Ok(arrivals.tasks().iter().map(|task| Duration::from_micros(task.arrival.0).mul_f64(stretch)).collect())
        }
    }
}

/// A clock that runs: the moment from which times count, and how many tasks have fallen due since.
pub(super) struct Pace {
    pub(super) begun: Instant,
    pub(super) due: watch::Receiver<usize>,
}

impl Pace {
    /// Starts it on a thread of its own: the runtime's timers have steps of a millisecond.
    pub(super) fn start(schedule: &[Duration]) -> Self {
        let (tell, due) = watch::channel(0);
        let begun = Instant::now() + LEAD;
        let schedule = schedule.to_vec();
        // It ends with the schedule, or when nobody listens any more.
        let _detached = thread::spawn(move || {
            let (mut told, mut ticked) = (0, begun);
            while let Some(next) = schedule.get(told) {
                wait_until((begun + *next).max(ticked + TICK));
                ticked = Instant::now();
                told += due_by(&schedule[told..], begun.elapsed());
                if tell.send(told).is_err() {
                    return;
                }
            }
        });
        Self { begun, due }
    }
}

fn wait_until(at: Instant) {
    loop {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::park_timeout(left);
    }
}

/// How many of these have fallen due: at least the first, for which was waited.
fn due_by(schedule: &[Duration], now: Duration) -> usize {
    schedule.partition_point(|due| *due <= now).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_clock_keeps_its_distance_and_a_poisson_clock_its_rate() {
        let fixed = schedule(Clock::Fixed, 1_000.0, 2.0, 1).expect("in range");
        assert_eq!((fixed.len(), fixed[0], fixed[1_999]), (2_000, Duration::ZERO, Duration::from_millis(1_999)));
        let random = schedule(Clock::Poisson, 1_000.0, 20.0, 1).expect("in range");
        assert_eq!(random.len(), 20_000);
        assert!(random.is_sorted(), "in the order of their time");
        let seconds = random[19_999].as_secs_f64();
        assert!((seconds / 20.0 - 1.0).abs() < 0.05, "{seconds} s instead of 20");
        assert_eq!(random, schedule(Clock::Poisson, 1_000.0, 20.0, 1).expect("in range"), "the same seed, the same");
    }

    #[test]
    fn the_gaps_of_a_poisson_clock_are_exponential() {
        let random = schedule(Clock::Poisson, 1_000.0, 20.0, 7).expect("in range");
        let gaps: Vec<f64> = random.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        let beyond = gaps.iter().filter(|gap| **gap > 0.001).count() as f64 / gaps.len() as f64;
        assert!((beyond - (-1.0_f64).exp()).abs() < 0.02, "{beyond} of the gaps are longer than the mean");
    }

    #[test]
    fn who_wakes_late_is_told_of_all_that_fell_due_meanwhile() {
        let schedule = [0, 10, 20, 30].map(Duration::from_millis);
        assert_eq!(due_by(&schedule, Duration::from_millis(20)), 3);
        assert_eq!(due_by(&schedule[3..], Duration::from_millis(20)), 1);
    }

    #[tokio::test]
    async fn no_task_falls_due_early_and_none_is_left_out() {
        let schedule = schedule(Clock::Poisson, 20_000.0, 0.1, 3).expect("in range");
        let Pace { begun, mut due } = Pace::start(&schedule);
        let mut told = 0;
        while told < schedule.len() {
            told = *due.wait_for(|due| *due > told).await.expect("more are to come");
            assert!(begun.elapsed() >= schedule[told - 1], "early");
        }
    }

    #[tokio::test]
    async fn what_falls_due_within_a_tick_is_told_together() {
        let schedule = schedule(Clock::Fixed, 40_000.0, 0.1, 1).expect("in range");
        let Pace { mut due, .. } = Pace::start(&schedule);
        let (mut told, mut times) = (0, 0);
        while told < schedule.len() {
            told = *due.wait_for(|due| *due > told).await.expect("more are to come");
            times += 1;
        }
        let ticks = schedule[schedule.len() - 1].as_micros().div_ceil(TICK.as_micros());
        assert!(times <= ticks + 1, "{times} times in {ticks} ticks");
    }
}
