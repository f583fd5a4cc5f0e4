//! A service as a child of this process: it ends when its standard input does, which is a pipe from here.

use crate::output::{Exit, Failure};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, ChildStdin, Command};

/// How long a service may take to drain.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A service that runs as a child.
#[derive(Debug)]
pub(crate) struct Service {
    name: &'static str,
    child: Child,
    /// Its standard input: closed, it drains. Apart from the child, since waiting for that would close it.
    lifeline: Option<ChildStdin>,
}

impl Service {
    /// Starts this very program with these words, told where the broker is.
    pub(crate) fn start(
        name: &'static str,
        words: &[&str],
        url: &str,
        variables: &[(&'static str, String)],
    ) -> Result<Self, Failure> {
        let failed =
            |error: std::io::Error| Failure::new(Exit::Error, format!("the {name} cannot be started: {error}"));
        let this = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(this)
            .args(words)
            // Before all that the environment and a file may say.
            .env("JETLANE_NATS_URL", url)
            .env_remove("NATS_CREDS")
            .env_remove("JETLANE_NATS_CREDS")
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
        Ok(Self { name, child, lifeline })
    }

    /// Its one word.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Its process id, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Tells it to drain, without waiting.
    pub(crate) fn drain(&mut self) {
        drop(self.lifeline.take());
    }

    /// Waits until it has ended by itself, and tells how.
    pub(crate) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Drains it, and ends it where that takes too long.
    pub(crate) async fn stop(mut self) {
        self.drain();
        let name = self.name;
        if tokio::time::timeout(STOP_WITHIN, self.child.wait()).await.is_err() {
            eprintln!("jetlane: the {name} did not drain in {} s and is ended.", STOP_WITHIN.as_secs());
            if let Err(error) = self.child.kill().await {
                eprintln!("jetlane: the {name} could not be ended: {error}");
            }
        }
    }
}
