//! The processes of a soak that are not services: each writes what it does to its journal.
//!
//! # Layout
//! - `tasks`: the task types, and how their handlers behave
//! - `producer`: submits by the SDK; `outsider`: submits as any NATS client does
//! - `executor`: serves by the SDK; `worker`: serves a plain lane as any NATS client does
//! - `receiver`: takes webhooks

mod executor;
mod outsider;
mod producer;
mod receiver;
pub mod tasks;
mod worker;

use crate::journal::Journal;
use clap::{Args, Subcommand};
use jetlane::{Client, Connect, WhenAbsent};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// A role that a process takes.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Submit tasks by the SDK.
    Producer(Producer),
    /// Submit tasks as any NATS client does.
    Outsider(Producer),
    /// Serve tasks by the SDK.
    Executor(Executor),
    /// Serve a plain lane as any NATS client does.
    Worker(Place),
    /// Take webhooks.
    Receiver(Receiver),
}

/// Where a process finds the broker and its journal.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Servers, separated by commas.
    #[arg(long)]
    pub url: String,
    /// Folder of the journals.
    #[arg(long)]
    pub folder: PathBuf,
    /// Name of the process.
    #[arg(long)]
    pub name: String,
}

/// A process that submits.
#[derive(Debug, Clone, Args)]
pub struct Producer {
    #[command(flatten)]
    place: Place,
    /// Tasks a second.
    #[arg(long)]
    rate: u64,
    /// Seed of its choices.
    #[arg(long)]
    seed: u64,
    /// Most tasks in all; 0 for no limit.
    #[arg(long, default_value_t = 0)]
    tasks: u64,
    /// Which tasks it submits.
    #[arg(long, value_enum, default_value_t = tasks::Mix::All)]
    mix: tasks::Mix,
}

/// A process that serves by the SDK.
#[derive(Debug, Clone, Args)]
pub struct Executor {
    #[command(flatten)]
    place: Place,
    /// Handlers at once.
    #[arg(long, default_value_t = 16)]
    slots: usize,
    /// How long running handlers may go on after SIGTERM, in milliseconds.
    #[arg(long, default_value_t = 5_000)]
    drain_ms: u64,
}

/// A process that takes webhooks.
#[derive(Debug, Clone, Args)]
pub struct Receiver {
    /// Folder of the journals.
    #[arg(long)]
    folder: PathBuf,
    /// Name of the process.
    #[arg(long)]
    name: String,
    /// Port to listen on.
    #[arg(long)]
    port: u16,
}

/// Runs a role until it is told to end or its parent is gone.
///
/// # Errors
/// What ended it; its supervisor starts it again.
pub async fn run(role: Role) -> anyhow::Result<()> {
    let (folder, name) = match &role {
        Role::Producer(producer) | Role::Outsider(producer) => (&producer.place.folder, &producer.place.name),
        Role::Executor(executor) => (&executor.place.folder, &executor.place.name),
        Role::Worker(place) => (&place.folder, &place.name),
        Role::Receiver(receiver) => (&receiver.folder, &receiver.name),
    };
    let level = EnvFilter::try_from_env("JETLANE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(level).with_writer(std::io::stderr).with_ansi(false).init();
    let journal = Arc::new(Journal::open(folder, name)?);
    let synced = Arc::clone(&journal);
    tokio::spawn(async move { synced.sync_forever().await });
    tokio::spawn(end_with_parent());
    let drain = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let told = drain.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        told.cancel();
    });
    match role {
        Role::Producer(producer) => producer::run(&producer, &journal, drain).await?,
        Role::Outsider(producer) => outsider::run(&producer, &journal, drain).await?,
        Role::Executor(executor) => executor::run(&executor, journal, drain).await?,
        Role::Worker(place) => worker::run(&place, &journal, drain).await?,
        Role::Receiver(receiver) => receiver::run(&receiver, journal, drain).await?,
    }
    // A thread that reads standard input would keep the runtime waiting.
    std::process::exit(0)
}

/// Ends the process once its standard input is closed: whoever started it is gone.
async fn end_with_parent() {
    let (mut input, mut ignored) = (tokio::io::stdin(), [0; 64]);
    while input.read(&mut ignored).await.is_ok_and(|bytes| bytes > 0) {}
    std::process::exit(2)
}

impl Place {
    /// Connects by the SDK, waiting for a server.
    async fn client(&self) -> anyhow::Result<Client> {
        let connect = Connect { when_absent: WhenAbsent::Wait, ..Connect::to(&self.url, &self.name) };
        Ok(Client::connect_with(&connect).await?)
    }

    /// Connects as any NATS client does, waiting for a server.
    async fn plain(&self) -> anyhow::Result<async_nats::Client> {
        let addresses: Vec<async_nats::ServerAddr> = self.url.split(',').map(str::parse).collect::<Result<_, _>>()?;
        let options = async_nats::ConnectOptions::new().name(&self.name).retry_on_initial_connect();
        Ok(options.connect(addresses).await?)
    }
}
