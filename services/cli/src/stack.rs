//! Everything on this machine: a NATS server and the services, each a process of its own, so that
//! traces and logs name each service. All of it ends with this process, however that ends.

use crate::output::{Exit, Failure};
use jetlane::{Client, Connect, TaskType};
use jetlane_bus::local::{self, Options, Server};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, ChildStdin, Command};

/// The services of a stack.
pub(crate) const SERVICES: [&str; 3] = ["dispatcher", "executor", "callback"];
/// How long the services may take until a first task has gone all the way.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often is looked whether they are.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a service may take to drain.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A server and its services.
pub(crate) struct Stack {
    pub(crate) server: Server,
    pub(crate) client: Client,
    services: Vec<Service>,
}

/// A service that runs as a child.
struct Service {
    name: &'static str,
    child: Child,
    /// Its standard input: closed, it drains. Apart from the child, since waiting for that would close it.
    lifeline: Option<ChildStdin>,
}

/// What a stack is to be.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// The server's port; 0 for a free one.
    pub(crate) port: u16,
    /// The server's data; temporary where there is none.
    pub(crate) data: Option<PathBuf>,
    /// Variables for the services.
    pub(crate) variables: Vec<(&'static str, String)>,
    /// The name of this process's connection.
    pub(crate) name: &'static str,
}

impl Stack {
    /// Starts everything, and returns once a first task has gone all the way.
    pub(crate) async fn start(wanted: Wanted) -> Result<Self, Failure> {
        let server = start_server(wanted.port, wanted.data).await?;
        let mut services = Vec::new();
        for service in SERVICES {
            services.push(start_service(service, &server.url(), &wanted.variables)?);
        }
        let connect = Connect::to(server.url(), wanted.name);
        let client = Client::connect_with(&connect).await?;
        let mut stack = Self { server, client, services };
        match tokio::time::timeout(READY_WITHIN, stack.ready()).await {
            Ok(ready) => ready?,
            Err(_) => {
                return Err(Failure::new(
                    Exit::Error,
                    format!("the services are not ready after {} s", READY_WITHIN.as_secs()),
                )
                .help("Their logs above say why; JETLANE_LOG=debug says more."));
            }
        }
        Ok(stack)
    }

    /// Ready is what has been seen to work: one task, from submission to completion.
    async fn ready(&mut self) -> Result<(), Failure> {
        let client = self.client.clone();
        let probe = async move {
            // A probe before the executor has announced its types would be a task that nobody serves.
            let echo = TaskType::new("jetlane.echo").map_err(|error| Failure::of(Exit::Error, &error))?;
            while client.task_type(&echo).is_none() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            loop {
                let probe = client.submit_json("jetlane.echo", b"null".to_vec()).await;
                match probe {
                    Ok(handle) => return handle.await.map(|_| ()).map_err(Failure::from),
                    Err(jetlane::Error::Submit { .. }) => tokio::time::sleep(LOOK_EVERY).await,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        tokio::select! {
            ready = probe => ready,
            (service, status) = first_to_end(&mut self.services) => {
                Err(Failure::new(Exit::Error, format!("the {service} ended at start: {status}")).help("Its log above says why."))
            }
        }
    }

    /// Resolves when a part of the stack has ended by itself, with its name and how.
    pub(crate) async fn broken(&mut self) -> (&'static str, String) {
        tokio::select! {
            ended = first_to_end(&mut self.services) => ended,
            () = self.server.ended() => ("nats-server", "it ended".into()),
        }
    }

    /// Drains the services, then ends the server.
    pub(crate) async fn stop(mut self) {
        for service in &mut self.services {
            drop(service.lifeline.take());
        }
        for Service { name, child, .. } in &mut self.services {
            if tokio::time::timeout(STOP_WITHIN, child.wait()).await.is_err() {
                eprintln!("jetlane: the {name} did not drain in {} s and is ended.", STOP_WITHIN.as_secs());
                if let Err(error) = child.kill().await {
                    eprintln!("jetlane: the {name} could not be ended: {error}");
                }
            }
        }
        self.server.stop().await;
    }
}

/// Finds (or fetches) a server and starts it.
pub(crate) async fn start_server(port: u16, data: Option<PathBuf>) -> Result<Server, Failure> {
    let failed = |error: local::Error| Failure::of(Exit::Error, &error);
    let binary = local::find(|text| eprintln!("{text}")).await.map_err(failed)?;
    Server::start(&binary, Options { name: "jetlane".into(), port, data, ..Options::default() }).await.map_err(failed)
}

fn start_service(service: &'static str, url: &str, variables: &[(&'static str, String)]) -> Result<Service, Failure> {
    let failed = |error: std::io::Error| Failure::new(Exit::Error, format!("the {service} cannot be started: {error}"));
    let this = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(this)
        .args(["run", service])
        .env("NATS_URL", url)
        .env("JETLANE_DIE_WITH_PARENT", "1")
        .env_remove("OTEL_SERVICE_NAME")
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // Ctrl-C is for this process alone, which then drains the others in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let lifeline = child.stdin.take();
    Ok(Service { name: service, child, lifeline })
}

async fn first_to_end(services: &mut [Service]) -> (&'static str, String) {
    let ends = services.iter_mut().map(|Service { name, child, .. }| {
        let name = *name;
        Box::pin(async move {
            let how = match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            (name, how)
        })
    });
    futures::future::select_all(ends).await.0
}
