//! Connecting as a command does: an answer or an error, at once.

use crate::args::Nats;
use crate::output::Failure;
use jetlane::{Client, Connect};

/// A client for one command.
pub(crate) async fn client(nats: &Nats) -> Result<Client, Failure> {
    let connect = Connect { credentials: nats.creds.clone(), ..Connect::to(&nats.server, "jetlane-cli") };
    Client::connect_with(&connect).await.map_err(|error| {
        Failure::from(error).help("Start everything with `jetlane dev`, or point NATS_URL (--server) to your cluster.")
    })
}
