//! The three clocks: the calendar, for people; the monotonic one of tokio, for waits; and one that
//! counts suspension, for leases.

use jetlane_schemas::Micros;
use jiff::Timestamp;
use std::time::Duration;

/// The calendar's time.
pub fn now() -> Micros {
    Micros(u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(0))
}

/// RFC 3339 in UTC with microseconds.
pub fn rfc3339(at: Micros) -> String {
    let micros = i64::try_from(at.0).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX).to_string()
}

/// Reads RFC 3339; `None` for anything else and for times before 1970.
pub fn parse_rfc3339(text: &str) -> Option<Micros> {
    let at: Timestamp = text.trim().parse().ok()?;
    u64::try_from(at.as_microsecond()).ok().map(Micros)
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

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let at = Micros(1_700_000_000_123_456);
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20.123456Z");
        assert_eq!(parse_rfc3339(&rfc3339(at)), Some(at));
        assert_eq!(parse_rfc3339("2023-11-14T23:13:20.123456+01:00"), Some(at));
        assert_eq!(parse_rfc3339("tomorrow"), None);
    }
}
