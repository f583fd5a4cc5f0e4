//! Processes that are supervised: started again whenever they end, and killed, stopped and restarted on purpose.

use crate::journal::{Event, Journal};
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The pause of the supervisor before it starts a process again.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// How long a process may take to end after SIGTERM: its drain time and a margin.
const TERMINATE_TIME_MAX: Duration = Duration::from_secs(40);
/// How long a process may take to be started by its supervisor.
const START_TIME_MAX: Duration = Duration::from_secs(10);

/// How a process is started.
#[derive(Debug, Clone)]
pub struct Start {
    /// Its name, unique in the soak.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its variables.
    pub variables: Vec<(String, String)>,
}

impl Start {
    fn spawn(&self, folder: &Path) -> std::io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).open(folder.join(format!("{}.log", self.name)))?;
        Command::new(&self.program)
            .args(&self.arguments)
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .env("JETLANE_DIE_WITH_PARENT", "1")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

/// A supervised process. It ends when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: watch::Receiver<Option<u32>>,
    held: watch::Sender<bool>,
    /// Whether its next end is the soak's own doing.
    expected: Arc<AtomicBool>,
    supervisor: AbortHandle,
}

impl Process {
    /// Starts a process and its supervisor. Its log stands beside the journals.
    pub fn start(start: Start, folder: PathBuf, journal: Arc<Journal>) -> Self {
        let (tells_pid, pid) = watch::channel(None);
        let (held, mut may_start) = watch::channel(false);
        let expected = Arc::new(AtomicBool::new(false));
        let (name, ended_by_soak) = (start.name.clone(), Arc::clone(&expected));
        let supervisor = tokio::spawn(async move {
            while may_start.wait_for(|held| !held).await.is_ok() {
                let mut child = match start.spawn(&folder) {
                    Ok(child) => child,
                    Err(error) => {
                        eprintln!("{} cannot be started: {error}", start.name);
                        tokio::time::sleep(RESTART_PAUSE).await;
                        continue;
                    }
                };
                // Apart from the child: waiting for a child closes its standard input, which ends it.
                let lifeline = child.stdin.take();
                let pid = child.id().unwrap_or(0);
                journal.write(Event::Started { process: start.name.clone(), pid });
                tells_pid.send_replace(Some(pid));
                let status = child.wait().await;
                tells_pid.send_replace(None);
                drop(lifeline);
                if !ended_by_soak.swap(false, Ordering::Relaxed) {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    journal.write(Event::Ended { process: start.name.clone(), pid, status });
                }
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        });
        Self { name, pid, held, expected, supervisor: supervisor.abort_handle() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        *self.pid.borrow()
    }

    /// Ends it by SIGKILL; its supervisor starts it again once `down` is over. Returns the process that was killed.
    pub async fn kill(&self, down: Duration) -> Vec<u32> {
        self.held.send_replace(true);
        let pid = self.signal(Signal::KILL);
        tokio::time::sleep(down).await;
        self.held.send_replace(false);
        self.running().await;
        pid.into_iter().collect()
    }

    /// Ends it by SIGKILL for good.
    pub fn hold_killed(&self) {
        self.held.send_replace(true);
        self.signal(Signal::KILL);
    }

    /// Stops it by SIGSTOP and continues it once `time` is over.
    pub async fn stop(&self, time: Duration) -> Vec<u32> {
        let Some(pid) = self.pid() else { return Vec::new() };
        send(pid, Signal::STOP);
        tokio::time::sleep(time).await;
        // It may have been killed in the meantime, and its number given to another.
        if self.pid() == Some(pid) {
            send(pid, Signal::CONT);
        }
        vec![pid]
    }

    /// Ends it by SIGTERM, waits until it has drained, and lets it start again. By SIGKILL where that takes too long.
    ///
    /// # Errors
    /// When it did not drain in time.
    pub async fn restart(&self) -> anyhow::Result<Vec<u32>> {
        let ended = self.terminate().await;
        self.held.send_replace(false);
        self.running().await;
        ended
    }

    /// Ends it by SIGTERM for good.
    ///
    /// # Errors
    /// When it did not drain in time.
    pub async fn terminate(&self) -> anyhow::Result<Vec<u32>> {
        self.held.send_replace(true);
        let Some(pid) = self.signal(Signal::TERM) else { return Ok(Vec::new()) };
        let mut pids = self.pid.clone();
        if tokio::time::timeout(TERMINATE_TIME_MAX, pids.wait_for(|now| *now != Some(pid))).await.is_err() {
            self.signal(Signal::KILL);
            anyhow::bail!("{} did not end within {} s of SIGTERM", self.name, TERMINATE_TIME_MAX.as_secs());
        }
        Ok(vec![pid])
    }

    /// Waits until it runs.
    pub async fn running(&self) -> Option<u32> {
        let mut pid = self.pid.clone();
        let running = tokio::time::timeout(START_TIME_MAX, pid.wait_for(Option::is_some)).await;
        running.ok().and_then(Result::ok).and_then(|pid| *pid)
    }

    /// The memory that it has in RAM, in KiB.
    ///
    /// # Errors
    /// When it does not run, or the system does not tell.
    pub fn memory_kib(&self) -> anyhow::Result<u64> {
        let pid = self.pid().context("it does not run")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    fn signal(&self, signal: Signal) -> Option<u32> {
        let pid = self.pid()?;
        self.expected.store(true, Ordering::Relaxed);
        send(pid, signal);
        Some(pid)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, signal)) {
        eprintln!("a process ended before it was signalled: {error}");
    }
}
