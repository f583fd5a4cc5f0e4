//! The clocks: the broker's, for delays, back-offs and deadlines; this machine's calendar; the monotonic one
//! of tokio, for waits; and one that counts suspension, for leases.
//!
//! The broker keeps the time of schedules and stored messages, so whatever is compared with them is read from
//! the broker's clock too: an estimate from an answer that carries the server's time, carried on by the clock
//! that counts suspension. A machine whose calendar is wrong or is set meanwhile changes nothing. Until a server
//! has told its time, [`now`] is this machine's calendar.

use crate::connection::Shared;
use jetlane_schemas::Micros;
use jetlane_schemas::subject::STREAM_TIME;
use jiff::Timestamp;
use serde::Deserialize;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// How often the estimate of the broker's clock is refreshed: quartz drifts by less than 3 ms meanwhile.
const REFRESH_EVERY: Duration = Duration::from_secs(30);
/// The pause after the first request without a time, such as before the streams exist. It doubles up to the longest.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long one request for the server's time may take: a slower answer tells little.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(1);
/// Requests of one measurement; the quickest answer counts.
const SAMPLES: usize = 3;
/// What two good clocks may drift apart, in parts per million.
const DRIFT_PPM: i64 = 100;
/// No server has told its time yet.
const UNKNOWN: i64 = i64::MIN;

/// The broker's time less the time since boot, in microseconds. One for the process: its connections are to one
/// cluster.
static OFFSET_US: AtomicI64 = AtomicI64::new(UNKNOWN);
/// How far the estimate may be wrong, in microseconds.
static ERROR_US: AtomicI64 = AtomicI64::new(0);
/// The estimate that both come from.
static ESTIMATE: Mutex<Option<Estimate>> = Mutex::new(None);

/// The broker's time, as far as it is known.
pub fn now() -> Micros {
    match OFFSET_US.load(Ordering::Relaxed) {
        UNKNOWN => calendar(),
        offset => micros(Boottime::now().micros().saturating_add(offset)),
    }
}

/// Whether a server has told its time.
pub(crate) fn is_known() -> bool {
    OFFSET_US.load(Ordering::Relaxed) != UNKNOWN
}

/// The broker's time this long after now. It is not earlier, whatever the error of the estimate.
pub fn after(delay: Duration) -> Micros {
    let delay = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
    let error = ERROR_US.load(Ordering::Relaxed);
    micros(i64::try_from(now().0).unwrap_or(i64::MAX).saturating_add(error).saturating_add(delay))
}

/// The time of this machine's calendar, for people and for files.
pub fn calendar() -> Micros {
    micros(Timestamp::now().as_microsecond())
}

/// The broker's time at a time of this machine's calendar.
pub fn from_calendar(at: SystemTime) -> Micros {
    let (now, calendar) = (now(), SystemTime::now());
    match at.duration_since(calendar) {
        Ok(ahead) => Micros(now.0.saturating_add(u64::try_from(ahead.as_micros()).unwrap_or(u64::MAX))),
        Err(past) => Micros(now.0.saturating_sub(u64::try_from(past.duration().as_micros()).unwrap_or(u64::MAX))),
    }
}

/// The time of this machine's calendar at a time of the broker's.
pub fn to_calendar(at: Micros) -> SystemTime {
    let (now, calendar) = (now(), SystemTime::now());
    let shifted = match at.0.checked_sub(now.0) {
        Some(ahead) => calendar.checked_add(Duration::from_micros(ahead)),
        None => calendar.checked_sub(Duration::from_micros(now.0 - at.0)),
    };
    shifted.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn micros(at: i64) -> Micros {
    Micros(u64::try_from(at).unwrap_or(0))
}

/// What one answer of a server says about its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Estimate {
    /// The broker's time less the time since boot.
    offset_us: i64,
    /// Half the time that the answer took.
    error_us: i64,
    /// The time since boot when it came.
    at_us: i64,
}

impl Estimate {
    /// The server read its clock between request and answer.
    fn of(server: Micros, asked: Boottime, answered: Boottime) -> Self {
        let (asked, answered) = (asked.micros(), answered.micros());
        let server = i64::try_from(server.0).unwrap_or(i64::MAX);
        let error_us = (answered - asked + 1) / 2;
        Self { offset_us: server.saturating_sub(asked + error_us), error_us, at_us: answered }
    }

    /// The better one of this estimate and an older one. The older stays where it is more exact even after its
    /// drift, unless the two contradict each other: then the broker's clock was set.
    fn or_older(self, older: Self) -> Self {
        let drift = (self.at_us - older.at_us).max(0) / 1_000_000 * DRIFT_PPM;
        let older_error = older.error_us + drift;
        let contradict = (self.offset_us - older.offset_us).abs() > self.error_us + older_error;
        if contradict || self.error_us <= older_error { self } else { older }
    }
}

/// The part of a stream's description that is read here.
#[derive(Debug, Deserialize)]
struct Described {
    ts: Option<String>,
}

/// Estimates the clock of the broker that keeps the time of schedules; returns whether it told its time.
pub(crate) async fn measure(shared: &Shared) -> bool {
    let mut best: Option<Estimate> = None;
    for _ in 0..SAMPLES {
        let Some(estimate) = sample(shared).await else { break };
        best = best.filter(|best| best.error_us <= estimate.error_us).or(Some(estimate));
    }
    let Some(measured) = best else { return false };
    let mut current = ESTIMATE.lock().expect("nobody panics while holding the estimate");
    let estimate = current.map_or(measured, |older| measured.or_older(older));
    *current = Some(estimate);
    OFFSET_US.store(estimate.offset_us, Ordering::Relaxed);
    ERROR_US.store(estimate.error_us, Ordering::Relaxed);
    true
}

async fn sample(shared: &Shared) -> Option<Estimate> {
    let asked = Boottime::now();
    let request = shared.client.request(format!("$JS.API.STREAM.INFO.{STREAM_TIME}"), "".into());
    let answer = tokio::time::timeout(ANSWER_TIME_MAX, request).await.ok()?.ok()?;
    let answered = Boottime::now();
    let described: Described = serde_json::from_slice(&answer.payload).ok()?;
    Some(Estimate::of(parse_rfc3339(&described.ts?)?, asked, answered))
}

/// Refreshes the estimate for as long as the connection lives, and at once after a reconnect.
pub(crate) async fn follow(shared: Weak<Shared>, mut connections: watch::Receiver<u64>, is_known: bool) {
    let mut pause = if is_known { REFRESH_EVERY } else { RETRY_PAUSE };
    connections.mark_unchanged();
    loop {
        // The sender lives in the connection's callback: without it the connection is closed for good.
        if let Ok(Err(_closed)) = tokio::time::timeout(pause, connections.changed()).await {
            return;
        }
        let Some(shared) = shared.upgrade() else { return };
        pause = if measure(&shared).await { REFRESH_EVERY } else { (pause * 2).min(RETRY_PAUSE_MAX) };
    }
}

/// RFC 3339 in UTC with microseconds.
pub fn rfc3339(at: Micros) -> String {
    let micros = i64::try_from(at.0).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX).to_string()
}

/// Reads RFC 3339; `None` for anything else. A time before 1970 is read as 1970, and one after the last that can be
/// computed with, such as the last second of the year 9999, as that last one.
pub fn parse_rfc3339(text: &str) -> Option<Micros> {
    let text = text.trim();
    let at = text.parse::<Timestamp>().ok().or_else(|| is_beyond(text).then_some(Timestamp::MAX))?;
    Some(micros(at.as_microsecond()))
}

/// Whether a text is a moment in the last hours of the year 9999, which are beyond what the calendar's library has.
fn is_beyond(text: &str) -> bool {
    let pieces = jiff::fmt::temporal::Pieces::parse(text);
    pieces.is_ok_and(|pieces| pieces.date().year() == 9999 && pieces.time().is_some() && pieces.offset().is_some())
}

/// Time since boot, suspension included: a lease that ran out while the machine slept is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boottime(Duration);

impl Boottime {
    /// This moment.
    pub fn now() -> Self {
        #[cfg(target_os = "linux")]
        let clock = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        let clock = rustix::time::ClockId::Monotonic;
        let at = rustix::time::clock_gettime(clock);
        Self(Duration::new(u64::try_from(at.tv_sec).unwrap_or(0), u32::try_from(at.tv_nsec).unwrap_or(0)))
    }

    fn micros(self) -> i64 {
        i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX)
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(us: u64) -> Boottime {
        Boottime(Duration::from_micros(us))
    }

    #[test]
    fn an_estimate_is_wrong_by_half_the_time_of_its_answer_at_most() {
        for told_after in [0, 300, 400] {
            let estimate = Estimate::of(Micros(9_000_000 + told_after), boot(1_000), boot(1_400));
            let real = 9_000_000 - 1_000;
            assert!((estimate.offset_us - real).abs() <= estimate.error_us, "{estimate:?}");
            assert_eq!(estimate.error_us, 200);
        }
    }

    #[test]
    fn a_slow_answer_replaces_a_quick_one_only_where_the_clock_was_set() {
        let quick = Estimate { offset_us: 1_000, error_us: 100, at_us: 0 };
        let slow = Estimate { offset_us: 40_000, error_us: 50_000, at_us: 30_000_000 };
        assert_eq!(slow.or_older(quick), quick);
        let set = Estimate { offset_us: 120_000_000, ..slow };
        assert_eq!(set.or_older(quick), set, "nobody's clock drifts by two minutes");
        let later = Estimate { at_us: 1_000_000_000_000, ..slow };
        assert_eq!(later.or_older(quick), later, "the quick one is worth no more by then");
    }

    #[test]
    fn a_time_of_the_calendar_is_as_far_ahead_by_the_brokers_clock() {
        let ahead = SystemTime::now() + Duration::from_secs(30);
        let off = from_calendar(ahead).0.abs_diff(now().0 + 30_000_000);
        assert!(off < 1_000_000, "{off}");
        let back = to_calendar(from_calendar(ahead));
        let off = back.duration_since(ahead).unwrap_or_else(|error| error.duration());
        assert!(off < Duration::from_secs(1), "{off:?}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let at = Micros(1_700_000_000_123_456);
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20.123456Z");
        assert_eq!(parse_rfc3339(&rfc3339(at)), Some(at));
        assert_eq!(parse_rfc3339("2023-11-14T23:13:20.123456+01:00"), Some(at));
        assert_eq!(parse_rfc3339("tomorrow"), None);
        // What other languages send for "never" and for "not set".
        for never in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.9999999+00:00"] {
            assert_eq!(parse_rfc3339(never), Some(micros(Timestamp::MAX.as_microsecond())), "{never}");
        }
        assert_eq!(parse_rfc3339("9999-12-31T23:59:59"), None, "it names no moment without its zone");
        assert_eq!(parse_rfc3339("9999-12-31"), None);
        for past in ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z"] {
            assert_eq!(parse_rfc3339(past), Some(Micros(0)), "{past}");
        }
    }
}
