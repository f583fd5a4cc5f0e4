//! Whether a server answers, and whether it will do.

use super::{Check, told};
use crate::reach::Nats;
use jetlane::Bus;
use jetlane_bus::local::{ADVISED, MINIMUM, Version};
use jetlane_bus::{Error, ServerFacts};
use jetlane_schemas::limits::BODY_BYTES_MAX;

const SERVER: &str = "server";
const JETSTREAM: &str = "jetstream";
const PAYLOAD: &str = "payload";

/// Connects; what is found on the way is checked.
pub(super) async fn connect(nats: &Nats) -> (Option<Bus>, Vec<Check>) {
    match Bus::connect(&nats.connect("jetlane-doctor")).await {
        Ok(bus) => {
            let checks = vec![
                version(&bus.server(), &nats.shown_url()),
                Check::ok(JETSTREAM, "answers"),
                payload(&bus.server(), bus.body_bytes_max()),
            ];
            (Some(bus), checks)
        }
        Err(error) => (None, vec![refused(&error)]),
    }
}

fn refused(error: &Error) -> Check {
    match error {
        Error::TooOld { .. } => Check::fail(SERVER, told(error), format!("Upgrade nats-server to {ADVISED} or newer.")),
        Error::NoJetStream { .. } => {
            Check::fail(JETSTREAM, told(error), "Start nats-server with -js, or give this account JetStream.")
        }
        other => {
            let help = "Start everything with `jetlane dev`, or point --server, NATS_URL or [nats] of jetlane.toml to your cluster.";
            Check::fail(SERVER, told(other), help)
        }
    }
}

fn version(server: &ServerFacts, url: &str) -> Check {
    let ServerFacts { version, name, .. } = server;
    match version.parse::<Version>() {
        Ok(found) if found >= ADVISED => Check::ok(SERVER, format!("nats-server {version}, {name}, at {url}")),
        Ok(found) if found < MINIMUM => {
            let detail = format!("nats-server {version}, {name}: Jetlane needs {MINIMUM}");
            Check::fail(SERVER, detail, format!("Upgrade it to {ADVISED} or newer."))
        }
        Ok(_) => {
            let detail = format!("nats-server {version}, {name}: below {ADVISED} messages are lost in known ways");
            Check::warn(SERVER, detail, format!("Upgrade it to {ADVISED} or newer."))
        }
        Err(error) => Check::warn(SERVER, error.to_string(), format!("Run nats-server {ADVISED} or newer.")),
    }
}

fn payload(server: &ServerFacts, body_bytes_max: usize) -> Check {
    let detail = format!("bodies and outputs of up to {} KiB", body_bytes_max / 1024);
    if body_bytes_max >= BODY_BYTES_MAX {
        return Check::ok(PAYLOAD, detail);
    }
    let why = format!("{detail}: the server takes messages of {} KiB", server.max_payload / 1024);
    Check::warn(PAYLOAD, why, "Raise max_payload in the server's configuration to 1MB, its own default.")
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn facts(version: &str) -> ServerFacts {
        ServerFacts { version: version.into(), name: "n".into(), max_payload: 1 << 20 }
    }

    #[test]
    fn a_server_below_what_is_needed_fails_and_one_below_what_is_advised_is_warned_of() {
        for (text, state) in [
            ("2.13.9", State::Fail),
            ("2.14.0", State::Warn),
            ("2.15.0", State::Warn),
            ("2.15.1", State::Ok),
            ("3.0.0", State::Ok),
            ("unknown", State::Warn),
        ] {
            assert_eq!(version(&facts(text), "nats://a:4222").state, state, "{text}");
        }
    }

    #[test]
    fn a_server_that_takes_small_messages_only_is_warned_of() {
        assert_eq!(payload(&facts("2.15.1"), BODY_BYTES_MAX).state, State::Ok);
        assert_eq!(payload(&facts("2.15.1"), BODY_BYTES_MAX - 1).state, State::Warn);
    }
}
