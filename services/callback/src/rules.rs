//! What follows from a delivery: a pure function of the answer and of how often it was tried.

use std::time::Duration;

/// The pauses after deliveries in vain, by the Standard Webhooks recommendation: a callback that
/// nobody takes is given up after ten deliveries in some three days.
pub const PAUSES: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(5 * 60 * 60),
    Duration::from_secs(10 * 60 * 60),
    Duration::from_secs(14 * 60 * 60),
    Duration::from_secs(20 * 60 * 60),
    Duration::from_secs(24 * 60 * 60),
];
/// The longest pause that a receiver may ask for.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A pause grows by up to this share, so that what failed together does not come back together.
const JITTER_SHARE: f64 = 0.2;

/// What came of one delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was taken by someone other than a webhook's receiver.
    Taken,
    /// An HTTP status, and how long the receiver asks to wait (`retry-after`).
    Status(u16, Option<Duration>),
    /// Nobody answered, or not in time.
    Silence(String),
    /// It may not be delivered, or cannot be, whatever the time.
    Impossible(String),
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Delivered,
    /// It is delivered again after a pause.
    Again(Duration, String),
    /// It is given up.
    Dead(String),
    /// It is given up, and its receiver wants nothing more, ever.
    Gone,
}

/// Judges a delivery. `in_vain` counts those before it; `jitter` is drawn from 0 to 1.
pub fn judge(answer: Answer, in_vain: u32, jitter: f64) -> Verdict {
    let (reason, asked) = match answer {
        Answer::Taken | Answer::Status(200..=299, _) => return Verdict::Delivered,
        Answer::Status(410, _) => return Verdict::Gone,
        Answer::Impossible(reason) => return Verdict::Dead(reason),
        Answer::Silence(reason) => (reason, None),
        Answer::Status(status @ 300..=399, _) => (format!("the receiver redirects (status {status})"), None),
        Answer::Status(status @ (429 | 503), asked) => {
            (format!("the receiver is busy (status {status})"), asked.map(|pause| pause.min(RETRY_AFTER_MAX)))
        }
        Answer::Status(status, _) => (format!("the receiver refused it (status {status})"), None),
    };
    match usize::try_from(in_vain).ok().and_then(|index| PAUSES.get(index)) {
        Some(pause) => {
            let pause = pause.mul_f64(1.0 + JITTER_SHARE * jitter.clamp(0.0, 1.0));
            // Never sooner than the schedule: a receiver may slow us down, not speed us up.
            Verdict::Again(asked.map_or(pause, |asked| asked.max(pause)), reason)
        }
        None => Verdict::Dead(format!("given up after {} deliveries: {reason}", in_vain.saturating_add(1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, in_vain: u32) -> Verdict {
        judge(Answer::Status(status, None), in_vain, 0.0)
    }

    fn pause(verdict: &Verdict) -> Duration {
        match verdict {
            Verdict::Again(pause, _) => *pause,
            other => panic!("no retry: {other:?}"),
        }
    }

    #[test]
    fn any_status_of_success_is_a_delivery() {
        for code in [200, 201, 202, 204, 299] {
            assert_eq!(status(code, 9), Verdict::Delivered);
        }
        assert_eq!(judge(Answer::Taken, 0, 0.0), Verdict::Delivered);
    }

    #[test]
    fn everything_else_but_gone_is_tried_again_by_the_schedule() {
        for code in [100, 301, 302, 307, 400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 504, 999] {
            let pauses: Vec<_> = (0..9).map(|in_vain| pause(&status(code, in_vain))).collect();
            assert_eq!(pauses, PAUSES, "status {code}");
            assert!(matches!(status(code, 9), Verdict::Dead(_)), "status {code}");
        }
        assert_eq!(pause(&judge(Answer::Silence("no answer".into()), 1, 0.0)), PAUSES[1]);
        assert!(matches!(judge(Answer::Silence("no answer".into()), u32::MAX, 0.0), Verdict::Dead(_)));
    }

    #[test]
    fn gone_and_impossible_end_it_at_once() {
        assert_eq!(status(410, 0), Verdict::Gone);
        let refused = judge(Answer::Impossible("10.0.0.1 is private".into()), 0, 0.0);
        assert_eq!(refused, Verdict::Dead("10.0.0.1 is private".into()));
    }

    #[test]
    fn jitter_only_lengthens_a_pause_and_by_a_fifth_at_most() {
        for jitter in [0.0, 0.3, 1.0, 7.0] {
            let pause = pause(&judge(Answer::Silence(String::new()), 3, jitter));
            assert!((PAUSES[3]..=PAUSES[3].mul_f64(1.2)).contains(&pause), "{jitter}: {pause:?}");
        }
    }

    #[test]
    fn a_busy_receiver_is_given_the_time_that_it_asks_for_within_bounds() {
        let hour = Duration::from_secs(60 * 60);
        for (code, asked, expected) in [
            (429, Some(hour), hour),
            (503, Some(hour), hour),
            (429, Some(Duration::from_secs(99_999_999_999)), RETRY_AFTER_MAX),
            (429, Some(Duration::from_secs(1)), PAUSES[0]),
            (503, Some(Duration::ZERO), PAUSES[0]),
            (503, None, PAUSES[0]),
            (500, Some(hour), PAUSES[0]),
        ] {
            let verdict = judge(Answer::Status(code, asked), 0, 0.0);
            assert_eq!(pause(&verdict), expected, "{code} {asked:?}");
        }
    }
}
