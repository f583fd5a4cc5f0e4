//! The reference executor: pictures, HTTP requests, and tasks to test with.
//!
//! # Layout
//! - [`thumbnail`] makes small pictures of large ones: `image.thumbnail`
//! - [`http`] sends requests: `http.request`
//! - [`probe`] is for tests: `jetlane.echo`, `jetlane.sleep`, `jetlane.fail`
//! - `settings`: what an operator says of it
//! - `readiness`: what it reports of itself to health probes
//! - this file: the executor that serves them, and its process
//!
//! A new type is one file and one line in [`executor`].

pub mod http;
pub mod probe;
mod readiness;
mod settings;
pub mod thumbnail;

pub use settings::Settings;

use jetlane::{Client, Connect, Executor, WhenAbsent};
use jetlane_service::egress::{self, Policy};
use jetlane_service::frame::{Frame, Service};
use readiness::Readiness;
use std::time::Duration;
use thumbnail::Pictures;
use tracing::info;

/// Who this process is.
pub const SERVICE: Service = Service { name: "executor", version: env!("CARGO_PKG_VERSION") };
/// What of the drain time of the process is kept for handing back what has not ended.
const HAND_BACK_TIME: Duration = Duration::from_secs(5);

/// What ends the executor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker cannot be reached, or will not do.
    #[error("could not connect")]
    Connect(#[source] Box<jetlane::Error>),
    /// HTTP cannot be spoken.
    #[error("could not prepare for requests")]
    Prepare(#[source] egress::Error),
    /// The folder for pictures cannot be opened.
    #[error("could not serve image.thumbnail")]
    Pictures(#[source] thumbnail::Failure),
    /// Its types cannot be served.
    #[error("could not serve tasks")]
    Serve(#[source] Box<jetlane::Error>),
}

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct App {
    http: egress::Client,
}

impl App {
    /// Handlers whose requests go out under this policy.
    ///
    /// # Errors
    /// [`egress::Error::Prepare`].
    pub fn new(policy: Policy) -> Result<Self, egress::Error> {
        Ok(Self { http: egress::Client::new(policy)? })
    }
}

/// The executor with all reference types, not running yet. Without a `pictures_root` it does not serve
/// `image.thumbnail`.
///
/// # Errors
/// [`Error::Prepare`] and [`Error::Pictures`].
pub fn executor(client: &Client, settings: &Settings) -> Result<Executor<App>, Error> {
    let policy = if settings.allow_private_addresses { Policy::AnyAddress } else { Policy::PublicOnly };
    let app = App::new(policy).map_err(Error::Prepare)?;
    let executor = Executor::new(client, settings.queue.as_str()).state(app).slots(settings.slots);
    let executor = settings.means(executor).task(http::request).task(probe::echo).task(probe::sleep).task(probe::fail);
    let Some(root) = &settings.pictures_root else {
        info!("Not serving image.thumbnail: executor.pictures_root is not set.");
        return Ok(executor);
    };
    let stated = settings.pictures_memory_mib.map(|mib| u64::from(mib) << 20);
    let memory_bytes = stated.unwrap_or_else(|| Pictures::default_memory_bytes(settings.memory_mib));
    let pictures = Pictures::new(root, memory_bytes).map_err(Error::Pictures)?;
    info!(root = %root.display(), memory_mib = memory_bytes >> 20, "Serving image.thumbnail.");
    Ok(executor.task_blocking(thumbnail::handler(pictures)))
}

/// Runs the executor in its frame.
///
/// # Errors
/// [`Error`].
pub async fn serve(frame: Frame, settings: Settings) -> Result<(), Error> {
    let readiness = Readiness::new(&frame.health);
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
    let executor = executor(&client, &settings)?.drain_within(drain_within(frame.drain_time));
    let status = executor.status();
    tokio::select! {
        ended = executor.run_until(frame.drain) => ended.map_err(|error| Error::Serve(Box::new(error))),
        never = readiness.watch(client.bus(), status) => match never {},
    }
}

/// How long handlers may go on within the drain time of the process: what has not ended by then is handed back.
fn drain_within(drain_time: Duration) -> Duration {
    drain_time.saturating_sub(HAND_BACK_TIME).max(drain_time / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_get_the_drain_time_less_what_handing_back_takes() {
        let seconds = Duration::from_secs;
        assert_eq!(drain_within(seconds(300)), seconds(295));
        assert_eq!(drain_within(seconds(30)), seconds(25));
        assert_eq!(drain_within(seconds(5)), Duration::from_millis(2_500));
    }
}
