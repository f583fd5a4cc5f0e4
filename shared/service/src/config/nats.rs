//! Where the broker is: the same for every process.

use super::{Error, Sources};
use serde::Deserialize;
use std::path::PathBuf;

/// Where the broker is, section `[nats]`. How its streams are kept is the bus's own section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nats {
    /// Comma-separated URLs. Also read from `NATS_URL`. Defaults to `nats://127.0.0.1:4222`.
    pub url: String,
    /// A credentials file. Also read from `NATS_CREDS`. Defaults to none.
    pub creds: Option<PathBuf>,
    /// The name of the connection, as the server lists it. Defaults to the service's name.
    pub name: Option<String>,
    /// A private prefix for inboxes, so that permissions can fence them. Defaults to the client's own.
    pub inbox_prefix: Option<String>,
}

impl Default for Nats {
    fn default() -> Self {
        Self { url: "nats://127.0.0.1:4222".into(), creds: None, name: None, inbox_prefix: None }
    }
}

impl Nats {
    /// Reads the section. `JETLANE_NATS_URL` goes before `NATS_URL`, and that before the file.
    pub fn load(sources: &Sources) -> Result<Self, Error> {
        let mut sources = sources.clone();
        for (common, own) in [("NATS_URL", "JETLANE_NATS_URL"), ("NATS_CREDS", "JETLANE_NATS_CREDS")] {
            if let Some(value) = sources.variables.get(common).cloned() {
                sources.variables.entry(own.into()).or_insert(value);
            }
        }
        sources.load("nats")
    }
}
