//! What a completion triggers: webhooks, subjects, follow-up tasks.
//!
//! Reads every completion once; delivers the callbacks that it carries; what fails is stored as a
//! schedule of the broker and comes back when it is due, so that nothing waits in this process's
//! memory and neither a restart nor the age of completions loses it. What is given up becomes a dead
//! letter.
//!
//! # Layout
//! - [`endpoint`], [`signature`], [`rules`]: pure: where webhooks go, how they are signed, what follows
//! - `allowed`: which subjects and follow-up types a submitter may name; `places`: who is delivered to, and when
//! - `body`, `parcel`, `deliver`: what is sent, how it waits, one delivery
//! - `serve`: the two consumers
//! - `readiness`: what the service reports of itself to health probes
//!
//! Deliberately absent: exactly once. A receiver knows a repeated callback by its constant id.

mod allowed;
mod body;
mod deliver;
pub mod endpoint;
mod parcel;
mod places;
mod readiness;
pub mod rules;
mod serve;
pub mod signature;

pub use allowed::InvalidPattern;
pub use deliver::Counts;
pub use endpoint::{Endpoints, Settings};
pub use serve::{Error, serve};

use jetlane::{Client, Connect, WhenAbsent};
use jetlane_service::frame::{Frame, Service};
use readiness::Readiness;
use std::sync::Arc;

/// Who this process is.
pub const SERVICE: Service = Service { name: "callback", version: env!("CARGO_PKG_VERSION") };

/// Runs the service in its frame.
///
/// # Errors
/// [`Error`].
pub async fn run(frame: Frame, settings: Settings) -> Result<(), Error> {
    let readiness = Readiness::new(frame.health.clone());
    let endpoints = Endpoints::new(&settings).map_err(Error::Configure)?;
    let connect = Connect {
        url: frame.nats.url.clone(),
        name: frame.nats.name.clone().unwrap_or_else(|| SERVICE.name.into()),
        credentials: frame.nats.creds.clone(),
        inbox_prefix: frame.nats.inbox_prefix.clone(),
        when_absent: WhenAbsent::Wait,
    };
    let client = tokio::select! {
        client = Client::connect_with(&connect) => client.map_err(|error| Error::Connect(Box::new(error)))?,
        () = frame.drain.cancelled() => return Ok(()),
    };
    Box::pin(serve::report(client, endpoints, Arc::new(Counts::default()), readiness, frame.drain)).await
}
