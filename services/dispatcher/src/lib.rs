//! Reads task events, decides what runs next, routes it to lanes against credit.
//!
//! # Layout
//! - [`run`]: a dispatcher: leads every queue that has no other leader; [`serve`]: the same as a process
//! - `registry`, `cancelled`, `discovery`: what is announced, cancelled and waiting in the streams
//! - `supervisor`: asks for the lead of each queue and keeps it; `keeper`: the lease while it lasts
//! - `delivered`: what earlier leaders were given, noted across take-overs
//! - `leader`: one queue led: its flows read, its tasks held, decisions carried out
//! - `read`, `validate`: a message as tasks, and what is wrong with them
//! - `carry`: what a decision stores; `plain`: tasks as messages for clients in any language
//! - `door`: the connection that the open door is read by, and what costs it
//! - `sweeper`: ends what the server gave up
//! - `unserved`: ends what nobody serves at the public intake
//! - `restore`: streams and buckets that are deleted meanwhile are made anew
//! - `readiness`: what it reports of itself to health probes
//!
//! Deliberately absent: the order of dispatch and the count of credit, which are the core's; and any
//! clock that a task would wait for, which is the broker's.

mod cancelled;
mod carry;
mod config;
mod delivered;
mod discovery;
mod door;
mod error;
mod keeper;
mod leader;
mod names;
mod plain;
mod read;
mod readiness;
mod registry;
mod restore;
mod share;
mod supervisor;
mod sweeper;
mod unserved;
mod validate;

pub use config::Config;
pub use error::Error;

use cancelled::Cancelled;
use jetlane_bus::topology::Births;
use jetlane_bus::{Bus, Connect, WhenAbsent};
use jetlane_service::frame::{self, Frame, Service};
use jetlane_service::health::Health;
use readiness::Readiness;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Who a dispatcher is, as a process.
pub const SERVICE: Service = Service { name: "dispatcher", version: env!("CARGO_PKG_VERSION") };

/// How often the start is tried: a server that is just starting answers late.
const PREPARE_ATTEMPTS_MAX: u32 = 5;
/// The pause between two tries.
const PREPARE_PAUSE: Duration = Duration::from_millis(500);

/// What all parts of a dispatcher share.
#[derive(Clone)]
struct World {
    bus: Bus,
    config: Config,
    holder: String,
    registry: registry::Known,
    found: discovery::Seen,
    door: door::Door,
    cancelled: Cancelled,
    shares: Arc<share::Shares>,
    readiness: Readiness,
}

/// Runs a dispatcher in its frame.
///
/// # Errors
/// [`Error`].
pub async fn serve(frame: Frame, config: Config) -> Result<(), Error> {
    let readiness = Readiness::new(&frame.health);
    let connect = Connect {
        url: frame.nats.url.clone(),
        name: frame.nats.name.clone().unwrap_or_else(|| SERVICE.name.into()),
        credentials: frame.nats.creds.clone(),
        inbox_prefix: frame.nats.inbox_prefix.clone(),
        when_absent: WhenAbsent::Wait,
    };
    let bus = tokio::select! {
        bus = Bus::connect(&connect) => bus.map_err(Error::Connect)?,
        () = frame.drain.cancelled() => return Ok(()),
    };
    report(bus, config, readiness, frame.drain).await
}

/// Leads queues until it is told to drain: then it stops reading, finishes what it is storing, gives
/// back what it holds and gives up its leases.
///
/// # Errors
/// [`Error`] when the connection is closed for good, or the streams can be neither found nor made at start.
pub async fn run(bus: Bus, config: Config, drain: CancellationToken) -> Result<(), Error> {
    report(bus, config, Readiness::new(&Health::default()), drain).await
}

/// Leads, and reports on the broker meanwhile.
async fn report(bus: Bus, config: Config, readiness: Readiness, drain: CancellationToken) -> Result<(), Error> {
    tokio::select! {
        ended = lead(bus.clone(), config, readiness.clone(), drain) => ended,
        never = readiness.watch(&bus) => match never {},
    }
}

/// Leads until it is told to drain. Whenever streams or buckets were deleted, all of it begins anew.
async fn lead(bus: Bus, config: Config, readiness: Readiness, drain: CancellationToken) -> Result<(), Error> {
    let mut start = Start::First;
    while !drain.is_cancelled() {
        match lead_until_lost(&bus, &config, &readiness, &drain).await {
            Ok(Ended::Drained) => return Ok(()),
            Ok(Ended::StreamsLost) => {}
            // A watch ends with its bucket; the connection itself ends when its client is dropped.
            Err(Error::Closed) if bus.connections().has_changed().is_ok() => {
                tracing::warn!("A bucket is no longer read; beginning anew.");
                tokio::time::sleep(PREPARE_PAUSE).await;
            }
            Err(error) if start == Start::First || matches!(error, Error::Closed) => return Err(error),
            Err(error) => {
                tracing::warn!(error = frame::one_line(&error), "Could not begin anew; trying again.");
                tokio::time::sleep(PREPARE_PAUSE).await;
            }
        }
        start = Start::Another;
    }
    Ok(())
}

/// Which start of a dispatcher it is: only the first may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    First,
    Another,
}

/// Why a dispatcher stopped leading.
enum Ended {
    Drained,
    /// Streams or buckets were deleted, and are there again.
    StreamsLost,
}

async fn lead_until_lost(
    bus: &Bus,
    config: &Config,
    readiness: &Readiness,
    drain: &CancellationToken,
) -> Result<Ended, Error> {
    let (bus, config, readiness) = (bus.clone(), config.clone(), readiness.clone());
    let mut helpers = JoinSet::new();
    let mut attempt = 1;
    let Prepared { born, registry, cancelled } = loop {
        let prepared = tokio::select! {
            prepared = prepare(&bus, &config, &mut helpers) => prepared,
            () = drain.cancelled() => return Ok(Ended::Drained),
        };
        match prepared {
            Ok(prepared) => break prepared,
            Err(error) if attempt >= PREPARE_ATTEMPTS_MAX => return Err(error),
            Err(error) => {
                tracing::warn!(error = frame::one_line(&error), attempt, "Not ready yet; trying again.");
                helpers = JoinSet::new();
                attempt += 1;
                tokio::select! {
                    () = tokio::time::sleep(PREPARE_PAUSE) => {}
                    () = drain.cancelled() => return Ok(Ended::Drained),
                }
            }
        }
    };
    let found = discovery::watch(&bus, registry.clone(), &readiness, &mut helpers);
    let door = door::open(&bus, registry.clone(), &mut helpers).await?;
    helpers.spawn(sweeper::sweep(bus.clone()));
    helpers.spawn(unserved::watch(bus.clone(), config.clone(), registry.clone()));
    let holder = config.holder();
    let shares = Default::default();
    let world = World { bus, config, holder, registry, found, door, cancelled, shares, readiness };
    let ended = tokio::select! {
        ended = supervisor::lead_all(&world, drain) => ended.map(|()| Ended::Drained),
        Some(ended) = helpers.join_next() => match ended {
            Ok(ended) => ended.map(|()| Ended::Drained),
            // A helper that panicked ends the dispatcher; the next leader takes over.
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        },
        () = restore::restored(&world.bus, &world.config, &born) => Ok(Ended::StreamsLost),
    };
    helpers.shutdown().await;
    ended
}

/// What a dispatcher has before it leads.
struct Prepared {
    born: Births,
    registry: registry::Known,
    cancelled: Cancelled,
}

/// Makes the streams that are missing, and reads what is announced and cancelled.
async fn prepare(bus: &Bus, config: &Config, helpers: &mut JoinSet<Result<(), Error>>) -> Result<Prepared, Error> {
    restore::ensure(bus, config).await.map_err(Error::Prepare)?;
    // Before anything is read: whatever is deleted from now on is noticed.
    let born = bus.births().await.map_err(Error::Prepare)?;
    let registry = registry::watch(bus, helpers).await?;
    Ok(Prepared { born, registry, cancelled: Cancelled::watch(bus, helpers).await? })
}
