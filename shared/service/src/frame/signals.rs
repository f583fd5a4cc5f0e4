//! What tells a process to end.

use crate::config::Variables;
use std::fmt;
use std::io;
use tokio::io::{AsyncReadExt as _, Stdin};
use tokio::signal::unix::{self, SignalKind};

/// What told the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    Interrupt,
    Terminate,
    /// Standard input closed, which the parent held.
    ParentGone,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::ParentGone => "the parent is gone",
        })
    }
}

/// Everything that tells the process to end.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    /// None where no parent holds it, and once it has closed.
    parent: Option<Stdin>,
}

impl Signals {
    pub(super) fn new(variables: &Variables) -> io::Result<Self> {
        let has_parent = variables.get("JETLANE_DIE_WITH_PARENT").is_some_and(|set| set == "1");
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            parent: has_parent.then(tokio::io::stdin),
        })
    }

    /// The next one. May be dropped and called again: no signal is lost.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            () = closed(&mut self.parent) => {
                self.parent = None;
                Signal::ParentGone
            }
        }
    }
}

/// Returns when standard input has closed; what comes from it is thrown away.
async fn closed(parent: &mut Option<Stdin>) {
    let Some(stdin) = parent else { return std::future::pending().await };
    let mut thrown_away = [0; 256];
    while stdin.read(&mut thrown_away).await.is_ok_and(|bytes| bytes > 0) {}
}
