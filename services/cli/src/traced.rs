//! Traces of commands that submit: they begin here, where an OTLP endpoint is configured.

use crate::output::{Exit, Failure};
use jetlane_service::config::Sources;
use jetlane_service::telemetry::{self, Guard, Telemetry};

/// Starts telemetry as the variables ask for it; of logs only errors, unless `JETLANE_LOG` says otherwise.
/// `command` is the name in the traces.
pub(crate) fn start(command: &'static str) -> Result<Guard, Failure> {
    let sources = Sources::from_process().map_err(|error| Failure::of(Exit::Usage, &error))?;
    let mut telemetry = Telemetry::new(command, env!("CARGO_PKG_VERSION"), sources.variables())
        .map_err(|error| Failure::of(Exit::Usage, &error))?;
    if !sources.variables().contains_key("JETLANE_LOG") {
        telemetry.log_filter = "error".into();
    }
    telemetry::init(&telemetry).map_err(|error| Failure::of(Exit::Error, &error))
}
