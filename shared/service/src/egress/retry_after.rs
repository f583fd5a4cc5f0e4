//! `Retry-After`: how long a receiver asks to wait (RFC 9110, 10.2.3).

use super::Response;
use std::time::{Duration, SystemTime};

impl Response {
    /// Returns how long the receiver asks to wait; `None` where it asks for nothing that can be read.
    ///
    /// A date is counted from the answer's own `Date`, so that it does not matter whose clock is right; without one
    /// from `now`. Dates of all three forms of HTTP are read.
    pub fn retry_after(&self, now: SystemTime) -> Option<Duration> {
        let asked = self.header("retry-after")?.trim();
        if !asked.is_empty() && asked.bytes().all(|b| b.is_ascii_digit()) {
            // More digits than a number has are a very long time.
            return Some(Duration::from_secs(asked.parse().unwrap_or(u64::MAX)));
        }
        let until = httpdate::parse_http_date(asked).ok()?;
        let from = self.header("date").and_then(|date| httpdate::parse_http_date(date.trim()).ok()).unwrap_or(now);
        Some(until.duration_since(from).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1994-11-06 08:49:37, the date of RFC 9110's example.
    const EXAMPLE: Duration = Duration::from_secs(784_111_777);

    fn asked(headers: &[(&str, &str)], now: Duration) -> Option<u64> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let response = Response { status: 503, headers, body: Vec::new(), cut: false };
        response.retry_after(SystemTime::UNIX_EPOCH + now).map(|pause| pause.as_secs())
    }

    #[test]
    fn receiver_asks_by_seconds_or_by_a_date_of_any_form() {
        let now = EXAMPLE - Duration::from_secs(8);
        for (text, expected) in [
            ("8", Some(8)),
            (" 60 ", Some(60)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(8)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(8)),
            ("Sun Nov  6 08:49:37 1994", Some(8)),
            ("Sun, 06 Nov 1983 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("soon", None),
            ("-5", None),
            ("1.5", None),
            ("", None),
        ] {
            let found = asked(&[("retry-after", text)], now);
            // A date whose weekday is wrong may be read or not; it lies in the past.
            assert!(found == expected || (expected.is_none() && found == Some(0)), "{text:?}: {found:?}");
        }
        assert_eq!(asked(&[], now), None);
    }

    #[test]
    fn date_is_counted_from_the_receivers_own_clock() {
        let headers = [("date", "Sun, 06 Nov 1994 08:49:29 GMT"), ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")];
        for skew in [0, 3_600] {
            assert_eq!(asked(&headers, EXAMPLE + Duration::from_secs(skew)), Some(8));
        }
        let unreadable = [("date", "today"), ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")];
        assert_eq!(asked(&unreadable, EXAMPLE - Duration::from_secs(8)), Some(8));
    }
}
