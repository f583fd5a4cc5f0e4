//! A server with Jetlane's streams and a connection to it, for the tests of this crate.

use super::{Options, Server};
use crate::connection::{Bus, Connect};
use crate::topology::Settings;

pub(crate) async fn place() -> (Server, Bus) {
    let binary = super::find(|text| eprintln!("{text}")).await.expect("there is a nats-server");
    let server = Server::start(&binary, Options::default()).await.expect("it starts");
    let bus = Bus::connect(&Connect::to(server.url(), "test")).await.expect("it answers");
    bus.ensure(&Settings::default()).await.expect("made");
    (server, bus)
}
