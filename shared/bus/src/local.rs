//! A nats-server of one's own: found or fetched, started as a child, ended with its parent.
//!
//! # Layout
//! - `version`: what `nats-server --version` says
//! - `find`: where a binary can be found; `fetch`: how one is fetched into the cache
//! - `server`: one server as a child process; `options`: what it is started with; `data`: its folder;
//!   `ready`: when it can be used; `watchdog`: why it dies with its parent
//! - `cluster`: servers that find each other
//!
//! For `jetlane dev`, tests and benches. Deliberately absent: accounts; they go through
//! [`Options::config`].

mod cluster;
mod data;
mod fetch;
mod find;
mod options;
mod ready;
mod server;
#[cfg(test)]
pub(crate) mod stage;
mod version;
mod watchdog;

pub use cluster::Cluster;
pub use find::{find, installed};
pub use options::{Options, SyncInterval};
pub use server::Server;
pub use version::{ADVISED, MINIMUM, Version};

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// An executable nats-server that is new enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// Where it is.
    pub path: PathBuf,
    /// What it says of itself.
    pub version: Version,
}

/// Why there is no local nats-server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file does not run, or does not say a version.
    #[error("{} does not answer `--version` as nats-server does", path.display())]
    NoVersion {
        /// The file.
        path: PathBuf,
        /// Why it does not run; none where its answer was not understood.
        #[source]
        source: Option<io::Error>,
    },
    /// The binary that was named is below [`MINIMUM`].
    #[error(
        "{} is nats-server {found}, but {MINIMUM} or newer is needed: upgrade it, or unset JETLANE_NATS_SERVER \
         to have a newer one fetched",
        path.display()
    )]
    TooOld {
        /// The binary.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// Every way to a binary failed.
    #[error(
        "no nats-server of {MINIMUM} or newer: {}. Put one on PATH, name one by JETLANE_NATS_SERVER, \
         or use a running one by NATS_URL",
        tried.join("; ")
    )]
    NotFound {
        /// Each way, and why it led nowhere.
        tried: Vec<String>,
    },
    /// The data folder cannot be made or written.
    #[error("could not prepare the nats-server data folder {}", dir.display())]
    Data {
        /// The folder.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another server of ours uses the data folder.
    #[error("the data folder {} is in use by another nats-server: stop it or choose another folder", dir.display())]
    DataInUse {
        /// The folder.
        dir: PathBuf,
    },
    /// Somebody else listens on the port.
    #[error("port {port} on 127.0.0.1 is in use: choose another port, or 0 for a free one")]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// The process could not be started.
    #[error("could not start {}", path.display())]
    Start {
        /// The binary.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server ended instead of becoming ready.
    #[error("nats-server ended while it was starting: {said}")]
    Ended {
        /// The last line of its log.
        said: String,
    },
    /// The server did not answer in time.
    #[error("nats-server did not answer on port {port} within {} s", waited.as_secs())]
    NotReady {
        /// Its port.
        port: u16,
        /// The time allowed.
        waited: Duration,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
