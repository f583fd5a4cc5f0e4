//! What `nats-server --version` says.

use super::{Binary, Error};
use std::fmt;
use std::path::Path;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;
use tokio::process::Command;

/// The oldest server that has every feature in use: cron schedules and consumer resets came with it.
pub const MINIMUM: Version = Version { major: 2, minor: 14, patch: 0 };
/// The oldest server on which everything has been measured; older ones lose messages in known ways.
pub const ADVISED: Version = Version { major: 2, minor: 15, patch: 1 };

/// How long a binary may take to say its version.
const VERSION_TIME_MAX: Duration = Duration::from_secs(10);

/// A version of nats-server. A pre-release counts as its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Grows with breaking changes.
    pub major: u32,
    /// Grows with features.
    pub minor: u32,
    /// Grows with fixes.
    pub patch: u32,
}

/// A text that holds no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} holds no version such as v2.15.1")]
pub struct InvalidVersion(String);

impl FromStr for Version {
    type Err = InvalidVersion;

    /// Reads `2.15.1`, `v2.15.1-RC.1` or a whole line such as `nats-server: v2.15.1`.
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        text.split_whitespace().find_map(parse_word).ok_or_else(|| InvalidVersion(text.chars().take(80).collect()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Asks the file for its version, whatever that is.
pub(super) async fn ask(path: &Path) -> Result<Binary, Error> {
    let failed = |source| Error::NoVersion { path: path.into(), source };
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_TIME_MAX, command.output())
        .await
        .map_err(|elapsed| failed(Some(elapsed.into())))?
        .map_err(|error| failed(Some(error)))?;
    let version = String::from_utf8_lossy(&output.stdout).parse().map_err(|_| failed(None))?;
    Ok(Binary { path: path.into(), version })
}

fn parse_word(word: &str) -> Option<Version> {
    let word = word.strip_prefix('v').unwrap_or(word);
    let release = word.split(['-', '+']).next()?;
    let mut numbers = release.split('.').map(|number| number.parse().ok());
    let version = Version { major: numbers.next()??, minor: numbers.next()??, patch: numbers.next()?? };
    numbers.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_the_server_prints() {
        for (text, version) in [
            ("nats-server: v2.15.1\n", Some((2, 15, 1))),
            ("nats-server: v2.9.10", Some((2, 9, 10))),
            ("v2.16.0-RC.1", Some((2, 16, 0))),
            ("2.14.0+debian", Some((2, 14, 0))),
            ("nats-server version unknown", None),
            ("v2.15", None),
            ("v2.15.1.4", None),
            ("", None),
        ] {
            let wanted = version.map(|(major, minor, patch)| Version { major, minor, patch });
            assert_eq!(text.parse().ok(), wanted, "{text:?}");
        }
    }

    #[test]
    fn versions_compare_by_number_and_not_by_letter() {
        let [nine, ten]: [Version; 2] = ["2.9.10", "2.15.1"].map(|text| text.parse().expect("a version"));
        assert!(nine < MINIMUM && MINIMUM < ten && ten == ADVISED);
    }
}
