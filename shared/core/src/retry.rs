//! What follows from a handler's answer: complete, run again, or give up.

use std::time::Duration;

/// A back-off is cut or stretched by at most this share of itself, in percent, so that tasks that
/// failed together do not return together.
pub const JITTER_PERCENT: u32 = 20;

/// A handler's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// It failed and may succeed later: after the given time, or after the type's back-off.
    RetryAfter(Option<Duration>),
    /// It failed for good.
    Fail,
    /// It stops for now and goes on in a later run; that spends no attempt.
    Yield,
}

/// The back-off of a task type: the first delay, doubled with each attempt up to the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first delay.
    pub base: Duration,
    /// The longest delay.
    pub max: Duration,
}

/// What to do with the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Store the completion.
    Complete,
    /// Run it again.
    Retry {
        /// How long from now.
        delay: Duration,
        /// Attempts spent before that next run.
        attempts: u32,
    },
    /// Store a failed completion and the dead letter.
    DeadLetter,
}

/// What follows from the answer of the `attempt`-th attempt (from 1) of a task with so many retries.
///
/// `seed` is any number that differs between tasks and attempts; it sets the jitter of the back-off.
/// A delay that the handler asked for is kept as it is.
pub fn follow(answer: Answer, attempt: u32, retries: u32, backoff: Backoff, seed: u64) -> Step {
    match answer {
        Answer::Done => Step::Complete,
        Answer::Fail => Step::DeadLetter,
        Answer::Yield => Step::Retry { delay: Duration::ZERO, attempts: attempt.saturating_sub(1) },
        Answer::RetryAfter(_) if attempt > retries => Step::DeadLetter,
        Answer::RetryAfter(wanted) => {
            Step::Retry { delay: wanted.unwrap_or_else(|| delay_of(backoff, attempt, seed)), attempts: attempt }
        }
    }
}

fn delay_of(backoff: Backoff, attempt: u32, seed: u64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    let full = backoff.base.saturating_mul(1 << doublings).min(backoff.max);
    // 80 % to 120 %, and never beyond the longest.
    let percent = 100 - JITTER_PERCENT + (scramble(seed) % u64::from(2 * JITTER_PERCENT + 1)) as u32;
    (full / 100).saturating_mul(percent).min(backoff.max)
}

/// Spreads neighbouring seeds over all numbers (the finaliser of SplitMix64).
fn scramble(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

    #[test]
    fn a_task_runs_once_and_then_as_often_as_it_has_retries() {
        let mut attempts = 0;
        let mut runs = 0;
        loop {
            runs += 1;
            match follow(Answer::RetryAfter(None), attempts + 1, 3, BACKOFF, 0) {
                Step::Retry { attempts: spent, .. } => attempts = spent,
                Step::DeadLetter => break,
                Step::Complete => panic!("a failure completed"),
            }
        }
        assert_eq!(runs, 4);
    }

    #[test]
    fn a_yield_spends_no_attempt_even_on_the_last_one() {
        let step = follow(Answer::Yield, 4, 3, BACKOFF, 0);
        assert_eq!(step, Step::Retry { delay: Duration::ZERO, attempts: 3 });
    }

    #[test]
    fn a_failure_for_good_is_never_retried() {
        assert_eq!(follow(Answer::Fail, 1, 100, BACKOFF, 0), Step::DeadLetter);
        assert_eq!(follow(Answer::Done, 1, 100, BACKOFF, 0), Step::Complete);
    }

    #[test]
    fn a_delay_that_the_handler_asks_for_is_kept() {
        let wanted = Duration::from_millis(7);
        let step = follow(Answer::RetryAfter(Some(wanted)), 1, 1, BACKOFF, 9);
        assert_eq!(step, Step::Retry { delay: wanted, attempts: 1 });
    }

    proptest! {
        #[test]
        fn the_back_off_doubles_within_its_jitter_and_never_passes_its_longest(attempt in 1..200u32, seed: u64) {
            let delay = delay_of(BACKOFF, attempt, seed);
            let full = (1u64 << (attempt - 1).min(20)).min(60) * 1000;
            prop_assert!(delay.as_millis() as u64 >= full * 80 / 100);
            prop_assert!(delay.as_millis() as u64 <= (full * 120 / 100).min(60_000));
        }

        #[test]
        fn no_numbers_make_it_panic(attempt: u32, retries: u32, base: u64, max: u64, seed: u64) {
            let backoff = Backoff { base: Duration::from_nanos(base), max: Duration::from_nanos(max) };
            let step = follow(Answer::RetryAfter(None), attempt, retries, backoff, seed);
            prop_assert_eq!(step == Step::DeadLetter, attempt > retries);
        }
    }
}
