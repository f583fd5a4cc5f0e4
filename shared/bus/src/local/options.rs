//! What a local server is started with, and the configuration file that says so.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// When a local server writes to the disk for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncInterval {
    /// As the server does by itself: every 2 minutes. A power cut can lose what was acknowledged.
    #[default]
    ServerDefault,
    /// Before each acknowledgement. About half the rate, and nothing acknowledged is lost.
    Always,
    /// This often; at least 1 ms.
    Every(Duration),
}

/// What a local server is started with. It listens on 127.0.0.1 alone, with JetStream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The start of the server's name. Defaults to `jetlane-local`.
    pub name: String,
    /// The port for clients; 0, the default, chooses a free one.
    pub port: u16,
    /// The folder for streams, configuration and log; kept. Without one, the default, a temporary
    /// folder is used and removed with the server.
    pub data: Option<PathBuf>,
    /// When streams are written to the disk for good. Defaults to the server's own interval.
    pub sync: SyncInterval,
    /// The port of the server's HTTP monitoring; 0 chooses a free one. Defaults to none.
    pub monitor: Option<u16>,
    /// The largest message in bytes. Defaults to the server's own limit, 1 MiB.
    pub max_payload: Option<usize>,
    /// More lines for the configuration file, in the server's own syntax. Defaults to none.
    pub config: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "jetlane-local".into(),
            port: 0,
            data: None,
            sync: SyncInterval::default(),
            monitor: None,
            max_payload: None,
            config: String::new(),
        }
    }
}

/// The largest log file in bytes; the server then starts a new one and keeps `LOG_FILES_MAX`.
const LOG_BYTES_MAX: usize = 16 << 20;
const LOG_FILES_MAX: usize = 2;

impl Options {
    /// The configuration file of a server with this name and these ports.
    pub(super) fn config_file(&self, name: &str, port: u16, monitor: Option<u16>, dir: &Path) -> String {
        let mut file = format!(
            "server_name: {}\nlisten: \"127.0.0.1:{port}\"\nlog_file: {}\nlogfile_size_limit: {LOG_BYTES_MAX}\n\
             logfile_max_num: {LOG_FILES_MAX}\n",
            quote(name),
            quote(&log_file(dir).to_string_lossy()),
        );
        let mut line = |text: String| writeln!(file, "{text}").expect("a String takes all that is written");
        if let Some(port) = monitor {
            line(format!("http: \"127.0.0.1:{port}\""));
        }
        if let Some(bytes) = self.max_payload {
            line(format!("max_payload: {bytes}"));
        }
        let sync = match self.sync {
            SyncInterval::ServerDefault => String::new(),
            SyncInterval::Always => ", sync_interval: always".into(),
            SyncInterval::Every(time) => format!(", sync_interval: \"{}ms\"", time.as_millis().max(1)),
        };
        line(format!("jetstream {{ store_dir: {}{sync} }}", quote(&dir.to_string_lossy())));
        line(self.config.clone());
        file
    }
}

/// Where a server with this data folder logs.
pub(super) fn log_file(dir: &Path) -> PathBuf {
    dir.join("nats-server.log")
}

/// A string of the server's configuration syntax.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_quotes_cannot_change_the_configuration() {
        let options = Options { sync: SyncInterval::Every(Duration::from_secs(1)), ..Options::default() };
        let file = options.config_file("n", 4222, Some(8222), Path::new("/a\" b\\"));
        assert!(file.contains(r#"jetstream { store_dir: "/a\" b\\", sync_interval: "1000ms" }"#), "{file}");
        assert!(file.contains("http: \"127.0.0.1:8222\""), "{file}");
    }
}
