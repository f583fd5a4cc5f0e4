//! One nats-server as a child process.

use super::data::Data;
use super::options::log_file;
use super::ready::{free_port, is_free, random, until_ready};
use super::watchdog::{Watchdog, Watched};
use super::{Binary, Error, Options};
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long a start may take; a large store is read first.
pub(super) const READY_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a graceful end may take before the server is killed.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);
/// How often a start is tried where the chosen port was taken in between.
const STARTS_MAX: usize = 10;

/// One nats-server as a child process. It ends when this is dropped, and when this process ends in
/// whatever way.
#[derive(Debug)]
pub struct Server {
    binary: Binary,
    options: Options,
    name: String,
    port: u16,
    monitor: Option<u16>,
    data: Data,
    watchdog: Option<Watchdog>,
}

impl Server {
    /// Starts a server and returns once it takes clients: 0.05 s with an empty data folder.
    ///
    /// # Errors
    /// [`Error::PortInUse`], [`Error::DataInUse`], and [`Error::Ended`] with what the server said.
    pub async fn start(binary: &Binary, options: Options) -> Result<Self, Error> {
        let data = Data::open(options.data.as_deref()).await?;
        // Who answers on the port is told by the name, so it must be nobody else's.
        let name = format!("{}-{:04x}{:04x}", options.name, random(), random());
        let (port, monitor) = (options.port, options.monitor);
        let mut server = Self { binary: binary.clone(), options, name, port, monitor, data, watchdog: None };
        for _ in 0..STARTS_MAX {
            server.choose_ports()?;
            match server.launch().await {
                Err(Error::PortInUse { port }) if server.may_choose(port) => continue,
                other => return other.map(|()| server),
            }
        }
        Err(Error::PortInUse { port: server.port })
    }

    /// Where clients connect: `nats://127.0.0.1:PORT`. A restart keeps it.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the server's HTTP monitoring is, if it was asked for.
    pub fn monitor_url(&self) -> Option<String> {
        self.monitor.map(|port| format!("http://127.0.0.1:{port}"))
    }

    /// The server's process id; none while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.watchdog.as_ref().map(Watchdog::pid)
    }

    /// The folder of its streams, configuration and log.
    pub fn data_dir(&self) -> &Path {
        &self.data.dir
    }

    /// The binary that runs.
    pub fn binary(&self) -> &Binary {
        &self.binary
    }

    /// Ends it at once by SIGKILL, as a crash would, and waits until it is gone. The data stay for a restart.
    pub async fn kill(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            watchdog.signal(Signal::KILL);
            gone(&mut watchdog).await;
        }
    }

    /// Ends it by SIGTERM and waits until it is gone; by SIGKILL where that takes over 10 s. The data stay.
    pub async fn stop(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.signal(Signal::TERM);
            if tokio::time::timeout(STOP_TIME_MAX, gone(watchdog)).await.is_err() {
                tracing::warn!("The nats-server did not stop in time and is killed.");
            }
        }
        self.kill().await;
    }

    /// Starts it again on the same ports with the same data, after stopping it if it runs.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.stop().await;
        self.launch().await
    }

    /// Waits until the server has ended, whoever ended it.
    pub async fn ended(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            gone(watchdog).await;
        }
        self.watchdog = None;
    }

    /// Whether the port was left to us.
    fn may_choose(&self, port: u16) -> bool {
        (self.options.port == 0 && port == self.port) || (self.options.monitor == Some(0) && Some(port) == self.monitor)
    }

    fn choose_ports(&mut self) -> Result<(), Error> {
        let choose = |wanted| match wanted {
            0 => free_port().ok_or(Error::PortInUse { port: 0 }),
            port => Ok(port),
        };
        self.port = choose(self.options.port)?;
        self.monitor = self.options.monitor.map(choose).transpose()?;
        Ok(())
    }

    /// Starts the process and waits until it is ready.
    async fn launch(&mut self) -> Result<(), Error> {
        if let Some(port) = [Some(self.port), self.monitor].into_iter().flatten().find(|port| !is_free(*port)) {
            return Err(Error::PortInUse { port });
        }
        let dir = &self.data.dir;
        let (config, stderr) = (dir.join("nats-server.conf"), dir.join("nats-server.stderr"));
        let log_start = fs::metadata(log_file(dir)).map_or(0, |log| log.len());
        let file = self.options.config_file(&self.name, self.port, self.monitor, dir);
        fs::write(&config, file).map_err(|source| Error::Data { dir: dir.clone(), source })?;
        let remove = self.data.temporary.then_some(dir.as_path());
        let watched =
            Watched { binary: &self.binary.path, config: &config, stderr: &stderr, remove, lock: &self.data.lock };
        let mut watchdog = Watchdog::start(&watched)
            .await
            .map_err(|source| Error::Start { path: self.binary.path.clone(), source })?;
        let outcome = tokio::select! {
            () = until_ready(self.port, &self.name) => Ok(()),
            () = gone(&mut watchdog) => Err(self.why_ended(&stderr, log_start)),
            () = tokio::time::sleep(READY_TIME_MAX) => Err(Error::NotReady { port: self.port, waited: READY_TIME_MAX }),
        };
        self.watchdog = Some(watchdog);
        if outcome.is_err() {
            self.kill().await;
        }
        outcome
    }

    /// What a server that ended has said since its start.
    fn why_ended(&self, stderr: &Path, log_start: u64) -> Error {
        let mut said = fs::read(stderr).unwrap_or_default();
        let log = fs::read(log_file(&self.data.dir)).unwrap_or_default();
        said.extend_from_slice(log.get(log_start as usize..).unwrap_or_default());
        let said = String::from_utf8_lossy(&said);
        let taken = said.lines().find(|line| line.contains("address already in use"));
        let mut ports = [Some(self.port), self.monitor].into_iter().flatten();
        match ports.find(|port| taken.is_some_and(|line| line.contains(&format!(":{port}:")))) {
            Some(port) => Error::PortInUse { port },
            None => Error::Ended { said: last_words(&said) },
        }
    }
}

/// The line that says most: the last fatal one, or else the last.
fn last_words(said: &str) -> String {
    let mut lines = said.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let fatal = lines.clone().find(|line| line.contains("[FTL]"));
    fatal.or_else(|| lines.next()).unwrap_or("it said nothing").to_owned()
}

impl Drop for Server {
    fn drop(&mut self) {
        // Dropping the watchdog closes its pipe: it ends the server and removes a temporary folder.
        if self.watchdog.is_none() {
            self.data.remove_if_temporary();
        }
    }
}

/// Waits until the server is gone.
async fn gone(watchdog: &mut Watchdog) {
    if let Err(error) = watchdog.ended().await {
        tracing::warn!(%error, "The end of the nats-server could not be awaited.");
    }
}
