//! One nats-server, or three that form a cluster, behind proxies: started, killed, stopped, wiped.

use crate::proxy::{Link, Proxy};
use anyhow::Context as _;
use jetlane_bus::local::{self, Binary, Options, Server, SyncInterval};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::Mutex;

/// How the names of servers begin, before their number.
const NAME: &str = "soak-";
/// How often ports are chosen again where one was taken in between.
const STARTS_MAX: usize = 5;

/// The servers of a soak.
#[derive(Debug)]
pub struct Servers {
    servers: Vec<Mutex<Server>>,
    ports: Vec<u16>,
    /// The way from one server to another.
    routes: BTreeMap<(usize, usize), Proxy>,
}

/// Which routes a partition breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apart {
    /// All of one server.
    One(usize),
    /// Those between this server and the next: the third sees both.
    Pair(usize),
}

impl Apart {
    fn breaks(self, (from, to): (usize, usize), size: usize) -> bool {
        match self {
            Self::One(server) => from == server || to == server,
            Self::Pair(server) => {
                let next = (server + 1) % size;
                (from, to) == (server, next) || (from, to) == (next, server)
            }
        }
    }
}

/// The user and the password of the servers' own account.
pub const SYSTEM: &str = "system";

/// What the servers of a soak are started with.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// One or three.
    pub size: usize,
    /// When streams are synced to the disk.
    pub sync: SyncInterval,
    /// A folder for each server's data; temporary ones where there are none.
    pub data: Vec<PathBuf>,
}

impl Servers {
    /// Starts so many servers.
    ///
    /// # Errors
    /// When a server cannot be found or started.
    pub async fn start(wanted: &Wanted) -> anyhow::Result<Self> {
        let binary = local::find(|line| eprintln!("{line}")).await?;
        let mut tries = 1;
        loop {
            match Self::start_once(&binary, wanted).await {
                Err(error) if tries < STARTS_MAX => {
                    eprintln!("the servers did not start, trying again: {error:#}");
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    async fn start_once(binary: &Binary, wanted: &Wanted) -> anyhow::Result<Self> {
        let listens: Vec<u16> = (0..wanted.size).map(|_| free_port()).collect::<anyhow::Result<_>>()?;
        let mut routes = BTreeMap::new();
        for from in 0..wanted.size {
            for (to, port) in listens.iter().enumerate().filter(|(to, _)| *to != from) {
                routes.insert((from, to), Proxy::to_port(*port).await?);
            }
        }
        let (mut servers, mut ports) = (Vec::new(), Vec::new());
        for (number, listen) in listens.iter().enumerate() {
            let own = routes.iter().filter(|((from, _), _)| *from == number).map(|(_, proxy)| proxy.url());
            let options = Options {
                name: format!("{NAME}{number}"),
                data: wanted.data.get(number).cloned(),
                sync: wanted.sync,
                config: config(*listen, &own.collect::<Vec<String>>()),
                ..Options::default()
            };
            let server = Server::start(binary, options).await?;
            ports.push(server.port());
            servers.push(Mutex::new(server));
        }
        Ok(Self { servers, ports, routes })
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.servers.len()
    }

    /// Where clients connect directly, one URL a server.
    pub fn urls(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect()
    }

    /// Starts a proxy to each server, for one process.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn proxies(&self) -> anyhow::Result<Vec<Proxy>> {
        let mut proxies = Vec::new();
        for port in &self.ports {
            proxies.push(Proxy::to_port(*port).await?);
        }
        Ok(proxies)
    }

    /// Kills a server by SIGKILL and starts it again once `down` is over.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn kill(&self, number: usize, down: Duration) -> anyhow::Result<()> {
        let mut server = self.server(number)?.lock().await;
        server.kill().await;
        tokio::time::sleep(down).await;
        server.restart().await.context("a killed server does not start again")
    }

    /// Kills the server of this name, as streams tell their leader, and starts it again once `down` is over.
    ///
    /// # Errors
    /// When there is no such server, or it does not start again.
    pub async fn kill_named(&self, name: &str, down: Duration) -> anyhow::Result<()> {
        let number = name.strip_prefix(NAME).and_then(|rest| rest.split('-').next()).and_then(|n| n.parse().ok());
        // A server that is alone leads nothing by name.
        self.kill(number.unwrap_or(0), down).await
    }

    /// Kills all servers and starts them again once `down` is over.
    ///
    /// # Errors
    /// When one does not start again.
    pub async fn kill_all(&self, down: Duration) -> anyhow::Result<()> {
        let killed = futures::future::join_all((0..self.size()).map(|number| self.kill(number, down))).await;
        killed.into_iter().collect()
    }

    /// Ends a server by SIGTERM and starts it again.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn restart(&self, number: usize) -> anyhow::Result<()> {
        self.server(number)?.lock().await.restart().await.context("a stopped server does not start again")
    }

    /// Stops a server by SIGSTOP and continues it once `time` is over.
    ///
    /// # Errors
    /// When there is no such server.
    pub async fn freeze(&self, number: usize, time: Duration) -> anyhow::Result<()> {
        let server = self.server(number)?.lock().await;
        let pid = server.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).context("it is down")?;
        kill_process(pid, Signal::STOP)?;
        tokio::time::sleep(time).await;
        Ok(kill_process(pid, Signal::CONT)?)
    }

    /// Breaks routes between servers for this time.
    pub async fn part(&self, apart: Apart, link: Link, time: Duration) {
        let broken =
            || self.routes.iter().filter(|(ends, _)| apart.breaks(**ends, self.size())).map(|(_, proxy)| proxy);
        broken().for_each(|proxy| proxy.set(link));
        tokio::time::sleep(time).await;
        broken().for_each(|proxy| proxy.set(Link::Up));
    }

    /// Kills a server, removes its streams and its part in the cluster, and starts it again.
    ///
    /// # Errors
    /// When the data cannot be removed, or it does not start again.
    pub async fn wipe(&self, number: usize) -> anyhow::Result<()> {
        let mut server = self.server(number)?.lock().await;
        server.kill().await;
        std::fs::remove_dir_all(server.data_dir().join("jetstream"))?;
        server.restart().await.context("a wiped server does not start again")
    }

    /// Kills all servers at once, and leaves them down.
    pub async fn kill_for_good(&self) {
        let kills = self.servers.iter().map(|server| async { server.lock().await.kill().await });
        futures::future::join_all(kills).await;
    }

    /// Starts all servers again that are down.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        let starts = self.servers.iter().map(|server| async { server.lock().await.restart().await });
        let started: Result<Vec<()>, local::Error> = futures::future::join_all(starts).await.into_iter().collect();
        started.map(|_| ()).context("a server does not start again")
    }

    /// Kills all servers for good.
    pub async fn end(&self) {
        for server in &self.servers {
            server.lock().await.kill().await;
        }
    }

    fn server(&self, number: usize) -> anyhow::Result<&Mutex<Server>> {
        self.servers.get(number).with_context(|| format!("there is no server {number}"))
    }
}

/// Lines that give the servers an account of their own, disconnect a client that reads too slowly, and make a server one
/// of a cluster whose routes go through proxies. Clients and servers are told of no other ways: they would pass the
/// proxies by.
fn config(listen: u16, routes: &[String]) -> String {
    /// Where nobody listens.
    const NOWHERE: &str = "127.0.0.1:1";
    let mut config = format!(
        "accounts {{ TASKS {{ jetstream: enabled, users: [{{ user: tasks, password: tasks }}] }}, \
         SYS {{ users: [{{ user: {SYSTEM}, password: {SYSTEM} }}] }} }}\n\
         system_account: SYS\nno_auth_user: tasks\nmax_pending: 8MB\nwrite_deadline: \"3s\"\n"
    );
    if !routes.is_empty() {
        let routes: Vec<String> = routes.iter().map(|url| format!("\"{url}\"")).collect();
        config.push_str(&format!(
            "cluster {{ name: soak, listen: \"127.0.0.1:{listen}\", advertise: \"{NOWHERE}\", no_advertise: true, \
             routes: [{}] }}\n",
            routes.join(", ")
        ));
    }
    config
}

/// A port that nobody listens on, below those that systems give to outgoing connections.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    const PORTS: std::ops::Range<u16> = 10_000..30_000;
    const TRIES_MAX: u64 = 100;
    let mut chance = crate::chance::Chance::new(crate::journal::now_us() ^ u64::from(std::process::id()) << 32);
    let ports = (0..TRIES_MAX).map(|_| chance.between(PORTS.start.into(), u64::from(PORTS.end) - 1));
    let mut ports = ports.filter_map(|port| u16::try_from(port).ok());
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).context("no port is free")
}
