//! Services and executors as processes of their own, to be killed, stopped and started again.

use jetlane_testkit::soon;
use rustix::process::{Pid, Signal, kill_process};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::AbortHandle;

/// The command as it is shipped, with failure points.
const JETLANE: &str = env!("CARGO_BIN_EXE_jetlane-under-test");
/// An executor that does as it is told.
const EXECUTOR: &str = env!("CARGO_BIN_EXE_executor-under-test");

/// A process; killed when it is dropped, and it ends with this one.
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// `jetlane run SERVICE`.
    pub(crate) fn service(service: &str, url: &str, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(JETLANE);
        command.args(["run", service]).env("JETLANE_DIE_WITH_PARENT", "1");
        Self::start(command, url, variables)
    }

    /// The executor of `src/executor.rs`.
    pub(crate) fn executor(url: &str, variables: &[(&str, &str)]) -> Self {
        Self::start(Command::new(EXECUTOR), url, variables)
    }

    fn start(mut command: Command, url: &str, variables: &[(&str, &str)]) -> Self {
        command.env("NATS_URL", url).envs(variables.iter().copied());
        // What a test does to it is not worth a log, unless somebody asks for it.
        if std::env::var_os("JETLANE_LOG").is_none() {
            command.stderr(Stdio::null());
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = child.expect("the process starts");
        let stdin = child.stdin.take().expect("it is piped");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, stdin, lines }
    }

    /// Waits for a line that begins so, and returns it.
    pub(crate) async fn says(&mut self, beginning: &str) -> String {
        loop {
            let line = soon(self.lines.next_line()).await.expect("readable").expect("it has not ended");
            if line.starts_with(beginning) {
                return line;
            }
        }
    }

    /// Waits until it ends, and returns what it has said and nobody has read.
    pub(crate) async fn rest(&mut self) -> Vec<String> {
        let mut rest = Vec::new();
        while let Some(line) = soon(self.lines.next_line()).await.expect("readable") {
            rest.push(line);
        }
        rest
    }

    /// Lets a run end.
    pub(crate) async fn let_one_end(&mut self) {
        self.stdin.write_all(b"\n").await.expect("it reads");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).expect("a small number")));
        kill_process(pid.expect("it has not ended"), signal).expect("it may be signalled");
    }

    /// The same to a process that may have ended.
    pub(crate) fn signal_if_there(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let _gone = pid.map(|pid| kill_process(pid, signal));
    }

    /// The most memory that it has had resident so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().expect("it has not ended")));
        let status = status.expect("readable");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
        peak.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Ends it at once and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("it is killed");
    }

    /// Waits until it ends, without bound.
    pub(crate) async fn ended(&mut self) -> std::process::ExitStatus {
        self.child.wait().await.expect("it can be waited for")
    }
}

/// A process that is started again whenever it ends.
pub(crate) struct Restarted {
    deaths: Arc<AtomicUsize>,
    keeping: AbortHandle,
}

impl Restarted {
    pub(crate) fn keep(start: impl Fn() -> Process + Send + 'static) -> Self {
        let deaths = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&deaths);
        let keeping = tokio::spawn(async move {
            loop {
                start().ended().await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { deaths, keeping: keeping.abort_handle() }
    }

    /// How often it has ended.
    pub(crate) fn deaths(&self) -> usize {
        self.deaths.load(Ordering::Relaxed)
    }
}

impl Drop for Restarted {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}
