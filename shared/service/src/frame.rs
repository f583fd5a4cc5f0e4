//! A whole process: configuration, runtime, telemetry, signals, drain, exit code.
//!
//! A service's main is ten lines: it names itself and hands over an async function. The first SIGTERM
//! or SIGINT asks for a drain, which has a bound; the second ends the process at once. A child whose
//! parent set `JETLANE_DIE_WITH_PARENT=1` also drains when its standard input closes.

mod signals;

use crate::config::{self, Nats, Process, Sources};
use crate::health::{self, Health};
use crate::telemetry::{self, Telemetry};
use serde::de::DeserializeOwned;
use signals::{Signal, Signals};
use std::error::Error as StdError;
use std::io;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a process may drain whose parent is gone: what it needs may be gone as well.
const ORPHAN_DRAIN_TIME_MAX: Duration = Duration::from_secs(5);
/// The exit code of a process that was told twice to end.
const INTERRUPTED: u8 = 130;

/// Who a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The one word for it: configuration section, log, trace and deployed service.
    pub name: &'static str,
    /// Its version: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
}

/// What a service is given to run in.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Who it is.
    pub service: Service,
    /// Further sections of the configuration.
    pub sources: Sources,
    /// Where the broker is.
    pub nats: Nats,
    /// To be told when the service can be sent work.
    pub health: Health,
    /// Cancelled when the service should take no more, finish what it has, and return.
    pub drain: CancellationToken,
    /// How long the drain may take before the process ends all the same.
    pub drain_time: Duration,
}

/// Why a process ended badly.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong.
    #[error("the configuration is wrong")]
    Config(#[source] Box<config::Error>),
    /// Logs or traces could not be started.
    #[error("telemetry could not be started")]
    Telemetry(#[source] telemetry::Error),
    /// The system refused threads or signals.
    #[error("the runtime could not be started")]
    Runtime(#[source] io::Error),
    /// The health port is taken or forbidden.
    #[error("the health port {port} could not be opened")]
    Health {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The service failed.
    #[error("{service} failed")]
    Service {
        /// The service.
        service: &'static str,
        /// Why.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The drain took too long; what was in hand goes back to the broker when its lease is over.
    #[error("{service} did not finish within {} ms after the signal to end", allowed.as_millis())]
    Overdue {
        /// The service.
        service: &'static str,
        /// The time allowed.
        allowed: Duration,
    },
    /// A second signal to end came during the drain.
    #[error("{service} was told twice to end")]
    Interrupted {
        /// The service.
        service: &'static str,
    },
}

impl Error {
    /// What the process exits with: 2 for what its user has to change, 130 when interrupted, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Telemetry(telemetry::Error::Variable { .. }) => 2,
            Self::Interrupted { .. } => INTERRUPTED,
            Self::Telemetry(_)
            | Self::Runtime(_)
            | Self::Health { .. }
            | Self::Service { .. }
            | Self::Overdue { .. } => 1,
        }
    }
}

/// Runs a service as a process: `fn main() -> ExitCode { frame::main(SERVICE, run) }`.
///
/// `run` gets the service's own section of the configuration. It returns when it has drained, or
/// earlier. An error is printed on one line with its causes.
pub fn main<C, E, F>(service: Service, run: impl FnOnce(Frame, C) -> F) -> ExitCode
where
    C: DeserializeOwned,
    E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
{
    main_with(service, &[], run)
}

/// As [`main`], with variables that go before the environment's and the file: what a command line says.
pub fn main_with<C, E, F>(
    service: Service,
    flags: &[(&'static str, String)],
    run: impl FnOnce(Frame, C) -> F,
) -> ExitCode
where
    C: DeserializeOwned,
    E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
{
    match start(service, flags, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jetlane {}: {}", service.name, one_line(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// As [`main_with`], but what went wrong is left to the caller to print.
pub fn start<C, E, F>(
    service: Service,
    flags: &[(&'static str, String)],
    run: impl FnOnce(Frame, C) -> F,
) -> Result<(), Error>
where
    C: DeserializeOwned,
    E: Into<Box<dyn StdError + Send + Sync>> + Send + 'static,
    F: Future<Output = Result<(), E>> + Send + 'static,
{
    let config = |error| Error::Config(Box::new(error));
    let sources = Sources::from_process().map_err(config)?;
    let sources = flags.iter().fold(sources, |sources, (variable, value)| sources.with(*variable, value));
    sources.check_sections(Some(service.name)).map_err(config)?;
    let (process, own) = sources.load_service::<C>(service.name).map_err(config)?;
    let nats = Nats::load(&sources).map_err(config)?;
    let telemetry = Telemetry::new(service.name, service.version, sources.variables()).map_err(Error::Telemetry)?;
    let (health, drain, drain_time) = (Health::default(), CancellationToken::new(), process.drain_time);
    let frame = Frame { service, sources, nats, health, drain, drain_time };
    let work = run(frame.clone(), own);
    let work: Work = Box::pin(async move { work.await.map_err(Into::into) });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::Runtime)?;
    let ended = runtime.block_on(Box::pin(within(frame, &process, &telemetry, work)));
    // Standard input may still be read, which nothing can end.
    runtime.shutdown_background();
    ended
}

/// An error and its causes on one line.
pub fn one_line(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some errors already say what their cause says.
        if !line.contains(&said) {
            line = format!("{line}: {said}");
        }
        cause = error.source();
    }
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

type Work = Pin<Box<dyn Future<Output = Result<(), Box<dyn StdError + Send + Sync>>> + Send>>;

/// Runs the work between telemetry and its last flush.
async fn within(frame: Frame, process: &Process, telemetry: &Telemetry, work: Work) -> Result<(), Error> {
    let mut signals = Signals::new(frame.sources.variables()).map_err(Error::Runtime)?;
    let telemetry = telemetry::init(telemetry).map_err(Error::Telemetry)?;
    for variable in frame.sources.unread_variables(Some(frame.service.name)) {
        tracing::warn!(variable, "This variable looks like a setting, and no program reads it.");
    }
    let probes = serve_health(process.health_port, &frame.health).await?;
    // Its own task: work that blocks its thread must not keep signals from being heard.
    let mut work = tokio::spawn(work);
    let ended = tokio::select! {
        ended = &mut work => outcome(frame.service.name, ended),
        error = told_to_end(&mut signals, &frame, process.drain_time) => Err(error),
    };
    work.abort();
    if let Some(probes) = probes {
        probes.abort();
    }
    match &ended {
        // At once means at once: whoever takes the spans may be what the drain waited for.
        Err(Error::Interrupted { .. }) => telemetry.abandon(),
        _ => telemetry.shutdown().await,
    }
    ended
}

async fn serve_health(port: Option<u16>, health: &Health) -> Result<Option<JoinHandle<()>>, Error> {
    let Some(port) = port else { return Ok(None) };
    let failed = |source| Error::Health { port, source };
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, "Health probes are answered.");
    Ok(Some(tokio::spawn(health::serve(listener, health.clone()))))
}

fn outcome(
    service: &'static str,
    ended: Result<Result<(), Box<dyn StdError + Send + Sync>>, tokio::task::JoinError>,
) -> Result<(), Error> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(Error::Service { service, source }),
        Err(panicked) => Err(Error::Service { service, source: Box::new(panicked) }),
    }
}

/// Passes the first signal on as a drain; returns when the drain is not to be waited for any longer.
async fn told_to_end(signals: &mut Signals, frame: &Frame, drain_time: Duration) -> Error {
    let service = frame.service.name;
    let mut signal = signals.next().await;
    tracing::info!(%signal, "Told to end: finishing what is in hand.");
    frame.health.draining();
    frame.drain.cancel();
    let started = tokio::time::Instant::now();
    loop {
        let allowed = match signal {
            Signal::Interrupt | Signal::Terminate => drain_time,
            Signal::ParentGone => drain_time.min(ORPHAN_DRAIN_TIME_MAX),
        };
        let again = tokio::time::timeout_at(started + allowed, signals.next()).await;
        match again {
            Err(_) => return Error::Overdue { service, allowed },
            Ok(Signal::Interrupt | Signal::Terminate) => return Error::Interrupted { service },
            Ok(Signal::ParentGone) => signal = Signal::ParentGone,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
