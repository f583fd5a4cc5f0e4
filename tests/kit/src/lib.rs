//! A private nats-server and dispatcher in one line, for tests of executors.
//!
//! ```no_run
//! # use jetlane::{Executor, Task, TaskError};
//! # #[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)] struct Greet { name: String }
//! # impl Task for Greet { const TYPE: &'static str = "demo.greet"; type Output = String; }
//! # async fn greet(task: Greet) -> Result<String, TaskError> { Ok(task.name) }
//! # async fn test() {
//! let kit = jetlane_testkit::Kit::start().await;
//! kit.serve(Executor::new(kit.client(), "greeters").task(greet));
//! let handle = kit.client().submit(Greet { name: "Ada".into() }).await.expect("accepted");
//! assert_eq!(handle.await.expect("succeeded"), "Ada");
//! # }
//! ```
//!
//! The server is a real one: found, or fetched once into a cache. It ends with the kit, and with the
//! test's process however that ends. Faults panic: a kit is for tests.

use jetlane::{Client, Connect, Executor};
use jetlane_bus::Bus;
use jetlane_bus::local::{self, Binary, Options, Server};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

/// How long a test may wait for anything before it counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(30);

static BINARY: OnceCell<Binary> = OnceCell::const_new();

/// A private server, a dispatcher, and a client.
pub struct Kit {
    server: Server,
    client: Client,
    drain: CancellationToken,
    dispatcher: Mutex<Option<JoinHandle<()>>>,
    services: Mutex<Vec<AbortHandle>>,
}

/// The nats-server that tests run, found once.
pub async fn binary() -> &'static Binary {
    BINARY
        .get_or_init(|| async { local::find(|text| eprintln!("{text}")).await.expect("a nats-server is found") })
        .await
}

/// A private server with nothing else.
pub async fn server() -> Server {
    server_with(Options::default()).await
}

/// A private server, configured.
pub async fn server_with(options: Options) -> Server {
    Server::start(binary().await, options).await.expect("the server starts")
}

impl Kit {
    /// Starts server, dispatcher and client.
    pub async fn start() -> Self {
        Self::on(server().await).await
    }

    /// Starts a dispatcher and a client on a server that is there.
    pub async fn on(server: Server) -> Self {
        Self::with(server, jetlane_dispatcher::Config::default()).await
    }

    /// The same with a dispatcher that is configured.
    pub async fn with(server: Server, config: jetlane_dispatcher::Config) -> Self {
        let drain = CancellationToken::new();
        let dispatcher = start_dispatcher(&server.url(), config, drain.clone()).await;
        let client = Self::connect_to(&server.url()).await;
        Self { server, client, drain, dispatcher: Mutex::new(Some(dispatcher)), services: Mutex::default() }
    }

    async fn connect_to(url: &str) -> Client {
        Client::connect_with(&Connect::to(url, "kit")).await.expect("the client connects")
    }

    /// The client of this kit.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A client with a connection of its own, as another process has.
    pub async fn another_client(&self) -> Client {
        Self::connect_to(&self.url()).await
    }

    /// Where the server is.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The server, to kill and start again.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// Runs an executor until the kit ends, or until the returned token is cancelled: then it drains.
    pub fn serve<S: Clone + Send + Sync + 'static>(&self, executor: Executor<S>) -> CancellationToken {
        let drain = self.drain.child_token();
        let until = drain.clone();
        self.keep(tokio::spawn(async move { executor.run_until(until).await.expect("the executor runs") }));
        drain
    }

    /// Keeps a task of the test's until the kit ends.
    #[expect(clippy::needless_pass_by_value, reason = "the kit owns it from here on")]
    pub fn keep(&self, task: JoinHandle<()>) {
        self.services.lock().expect("no test panics while holding the list of services").push(task.abort_handle());
    }

    /// Ends the dispatcher at once, as a crash would: nothing is drained.
    pub fn crash_dispatcher(&self) {
        let dispatcher = self.dispatcher.lock().expect("no test panics while holding the dispatcher").take();
        if let Some(dispatcher) = dispatcher {
            dispatcher.abort();
        }
    }

    /// Starts another dispatcher beside what runs.
    pub async fn another_dispatcher(&self) {
        let bus = start_dispatcher(&self.url(), jetlane_dispatcher::Config::default(), self.drain.clone()).await;
        self.keep(bus);
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        self.drain.cancel();
        self.crash_dispatcher();
        for service in self.services.lock().expect("no test panics while holding the list of services").drain(..) {
            service.abort();
        }
    }
}

async fn start_dispatcher(url: &str, config: jetlane_dispatcher::Config, drain: CancellationToken) -> JoinHandle<()> {
    let bus = Bus::connect(&Connect::to(url, "kit-dispatcher")).await.expect("the dispatcher connects");
    // Ready when it returns: whoever submits at once finds the streams.
    bus.ensure(&config.streams).await.expect("the streams are made");
    tokio::spawn(async move { jetlane_dispatcher::run(bus, config, drain).await.expect("the dispatcher runs") })
}

/// Waits for something no longer than [`PATIENCE`].
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens in time")
}
