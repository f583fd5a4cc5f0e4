//! Everything on this machine: a NATS server and the services, each a process of its own, so that
//! traces and logs name each service. All of it ends with this process, however that ends.

mod service;

pub(crate) use service::Service;

use crate::output::{Exit, Failure};
use jetlane::{Client, Connect, TaskType};
use jetlane_bus::local::{self, Binary, Options, Server};
use std::path::PathBuf;
use std::time::Duration;

/// The services of a stack.
pub(crate) const SERVICES: [&str; 3] = ["dispatcher", "executor", "callback"];
/// How long the services may take until a first task has gone all the way.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How often is looked whether they are.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A server and its services.
pub(crate) struct Stack {
    pub(crate) server: Server,
    pub(crate) client: Client,
    services: Vec<Service>,
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
            services.push(Service::start(service, &["run", service], &server.url(), &wanted.variables)?);
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
            service.drain();
        }
        for service in self.services {
            service.stop().await;
        }
        self.server.stop().await;
    }
}

/// Finds (or fetches) a server and starts it.
pub(crate) async fn start_server(port: u16, data: Option<PathBuf>) -> Result<Server, Failure> {
    start_server_with(Options { port, data, ..Options::default() }).await
}

/// The same with other options.
pub(crate) async fn start_server_with(options: Options) -> Result<Server, Failure> {
    let binary = find_server().await?;
    let options = Options { name: "jetlane".into(), ..options };
    Server::start(&binary, options).await.map_err(|error| Failure::of(Exit::Error, &error))
}

/// Finds (or fetches) a server.
pub(crate) async fn find_server() -> Result<Binary, Failure> {
    local::find(|text| eprintln!("{text}")).await.map_err(|error| Failure::of(Exit::Error, &error))
}

async fn first_to_end(services: &mut [Service]) -> (&'static str, String) {
    let ends = services.iter_mut().map(|service| Box::pin(async { (service.name(), service.ended().await) }));
    futures::future::select_all(ends).await.0
}
