//! The services of a bench in this process, each with a connection of its own.

use super::bincoded;
use super::bundling::BundleMax;
use super::noop::{Noop, Runs, elsewhere, noop};
use crate::output::{Exit, Failure};
use jetlane::{Bus, Client, Connect, Executor, PayloadCodec, Submit};
use jetlane_bus::floor::Shape;
use jetlane_callback::Endpoints;
use jetlane_dispatcher::Config;
use jetlane_service::frame;
use jetlane_service::health::Health;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Slots of an executor of no-op tasks: as many tasks under way as the floor has publishes.
pub(super) const SLOTS: usize = 1_000;
/// The queue of no-op tasks.
pub(super) const QUEUE: &str = "bench";
/// The second queue.
const ELSEWHERE: &str = "bench-elsewhere";
/// How long the services may take until a first task has gone all the way.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// The pause between two probes.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

/// Services that run until they are stopped.
pub(super) struct Services {
    url: String,
    drain: CancellationToken,
    services: JoinSet<Result<(), String>>,
}

/// Which services run no-op tasks.
pub(super) struct Wanted {
    pub(super) bundle: BundleMax,
    pub(super) executors: usize,
    /// Whether the callback service runs, too.
    pub(super) callbacks: bool,
    /// Copies of every stream.
    pub(super) replicas: usize,
    /// How bodies are written that executors read.
    pub(super) codec: PayloadCodec,
}

impl Wanted {
    /// One of each, without the callback service.
    pub(super) fn plain(bundle: BundleMax) -> Self {
        let replicas = Shape::default().replicas;
        Self { bundle, executors: 1, callbacks: false, replicas, codec: PayloadCodec::Json }
    }
}

impl Services {
    /// Starts a dispatcher; the others follow.
    pub(super) async fn start(url: &str, config: Config) -> Result<Self, Failure> {
        let bus = Bus::connect(&Connect::to(url, "bench-dispatcher")).await;
        let bus = bus.map_err(|error| Failure::of(Exit::Unreachable, &error))?;
        let mut started = Self { url: url.to_owned(), drain: CancellationToken::new(), services: JoinSet::new() };
        let until = started.drain.clone();
        started.services.spawn(async move {
            jetlane_dispatcher::run(bus, config, until).await.map_err(|error| frame::one_line(&error))
        });
        Ok(started)
    }

    /// Starts all that no-op tasks need, and returns once a first one has gone all the way.
    pub(super) async fn of_noop(url: &str, runs: &Runs, wanted: &Wanted) -> Result<Self, Failure> {
        let mut config = Config::default();
        config.streams.replicas = wanted.replicas;
        wanted.bundle.apply_to_dispatcher(&mut config);
        let mut services = Self::start(url, config).await?;
        for _ in 0..wanted.executors {
            services.serve_noop(runs, wanted.codec).await?;
        }
        if wanted.callbacks {
            services.call_back().await?;
        }
        let client = connect(url, "bench-probe").await?;
        services.first(|| client.submit(Noop::probe())).await?;
        Ok(services)
    }

    /// As [`first`]; an error as soon as one of the services ends before.
    pub(super) async fn first<O>(&mut self, probe: impl Fn() -> Submit<O>) -> Result<(), Failure>
    where
        O: DeserializeOwned + Send + 'static,
    {
        tokio::select! {
            gone = first(probe) => gone,
            Some(ended) = self.services.join_next() => {
                let reason = match ended {
                    Ok(Ok(())) => "it was told to".to_owned(),
                    Ok(Err(error)) => error,
                    Err(panicked) => panicked.to_string(),
                };
                Err(Failure::new(Exit::Error, format!("a service ended before the first task had: {reason}")))
            }
        }
    }

    async fn serve_noop(&mut self, runs: &Runs, codec: PayloadCodec) -> Result<(), Failure> {
        let client = connect(&self.url, "bench-executor").await?;
        let executor = Executor::new(&client, QUEUE).state(runs.clone()).slots(SLOTS).task(noop);
        self.serve(match codec {
            PayloadCodec::Json => executor,
            PayloadCodec::Bincode => bincoded::read_by(executor, runs),
        });
        Ok(())
    }

    /// Starts an executor of the second queue.
    pub(super) async fn serve_elsewhere(&mut self, runs: &Runs) -> Result<(), Failure> {
        let client = connect(&self.url, "bench-elsewhere").await?;
        self.serve(Executor::new(&client, ELSEWHERE).state(runs.clone()).slots(SLOTS).task(elsewhere));
        Ok(())
    }

    /// Starts an executor.
    pub(super) fn serve<S: Clone + Send + Sync + 'static>(&mut self, executor: Executor<S>) {
        let until = self.drain.clone();
        self.services.spawn(async move { executor.run_until(until).await.map_err(|error| frame::one_line(&error)) });
    }

    /// Starts the callback service.
    async fn call_back(&mut self) -> Result<(), Failure> {
        let client = connect(&self.url, "bench-callback").await?;
        let endpoints = Endpoints::new(&jetlane_callback::Settings::default())
            .map_err(|error| Failure::new(Exit::Error, error.to_string()))?;
        let until = self.drain.clone();
        self.services.spawn(async move {
            let served = jetlane_callback::serve(client, endpoints, Arc::default(), Health::default(), until);
            served.await.map_err(|error| frame::one_line(&error))
        });
        Ok(())
    }

    /// Drains them and waits for them.
    pub(super) async fn stop(mut self) {
        self.drain.cancel();
        while let Some(ended) = self.services.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => eprintln!("jetlane: a service ended badly: {error}"),
                Err(error) => eprintln!("jetlane: a service panicked: {error}"),
            }
        }
    }
}

/// Returns once a first task has gone all the way, which also warms everything up.
pub(super) async fn first<O>(probe: impl Fn() -> Submit<O>) -> Result<(), Failure>
where
    O: DeserializeOwned + Send + 'static,
{
    let probing = async {
        loop {
            // Until the streams are made and the type is announced nobody takes it.
            match probe().await {
                Ok(handle) => return handle.await.map(|_| ()).map_err(Failure::from),
                Err(_) => tokio::time::sleep(PROBE_PAUSE).await,
            }
        }
    };
    let late = |_| Failure::new(Exit::TimedOut, format!("the services are not ready in {} s", READY_WITHIN.as_secs()));
    tokio::time::timeout(READY_WITHIN, probing).await.map_err(late)?
}

/// A client with a connection of its own.
pub(super) async fn connect(url: &str, name: &str) -> Result<Client, Failure> {
    Ok(Client::connect_with(&Connect::to(url, name)).await?)
}
