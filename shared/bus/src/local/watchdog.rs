//! Why a server dies with its parent: a shell stands between them and reads a pipe.
//!
//! The parent holds the pipe's other end. However the parent goes, SIGKILL included, the pipe closes,
//! and the shell ends the server and removes the folder that was only temporary. Where the server
//! ends by itself, so does the shell. Both hold the data folder's lock until they have ended.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

// $1 binary, $2 configuration, $3 where start errors go, $4 folder to remove in the end, or empty.
// Descriptor 2 is the lock: kept open as 4, here and in the server.
// The reader hears of the parent's end, the main shell of the server's: only a parent can wait.
// A stopped server takes SIGTERM only once it continues, hence SIGCONT. Once the parent is gone the
// reader is no longer to be ended by the main shell, hence the trap; its status tells which it was.
const SCRIPT: &str = r#"
exec 3<&0 4>&2 2>/dev/null
"$1" -c "$2" </dev/null >/dev/null 2>"$3" 3<&- &
server=$!
echo "$server"
exec >/dev/null
(
  while read -r _ <&3; do :; done
  trap '' TERM
  kill -TERM "$server"; kill -CONT "$server"
  tries=0
  while kill -0 "$server" && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
  kill -KILL "$server"
  exit 0
) &
reader=$!
wait "$server"
kill -TERM "$reader"
wait "$reader" && [ -n "$4" ] && rm -rf -- "$4"
exit 0
"#;

/// A server, and the shell that watches over it.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// The shell: it ends when the server has ended.
    shell: Child,
    /// Closing it ends the server. Held, never written.
    _alive: ChildStdin,
    /// The server's own process id.
    server: rustix::process::Pid,
}

/// What a watchdog starts.
#[derive(Debug)]
pub(super) struct Watched<'a> {
    pub(super) binary: &'a Path,
    pub(super) config: &'a Path,
    pub(super) stderr: &'a Path,
    /// A folder to remove once the parent is gone.
    pub(super) remove: Option<&'a Path>,
    /// The lock to hold until the end.
    pub(super) lock: &'a File,
}

impl Watchdog {
    pub(super) async fn start(watched: &Watched<'_>) -> io::Result<Self> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, "jetlane-nats-server"]).arg(watched.binary).arg(watched.config);
        command.arg(watched.stderr).arg(watched.remove.unwrap_or(Path::new("")));
        // A group of its own: Ctrl-C on the terminal is for the parent, which decides what ends when.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(watched.lock.try_clone()?);
        let mut shell = command.spawn()?;
        let stdin = shell.stdin.take().expect("stdin was piped");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("stdout was piped")).read_line(&mut line).await?;
        let pid = line.trim().parse().ok().and_then(rustix::process::Pid::from_raw);
        let server = pid.ok_or_else(|| io::Error::other("the shell did not tell the server's process id"))?;
        Ok(Self { shell, _alive: stdin, server })
    }

    pub(super) fn pid(&self) -> u32 {
        self.server.as_raw_nonzero().get().unsigned_abs()
    }

    /// Signals the server, unless it has ended.
    pub(super) fn signal(&mut self, signal: rustix::process::Signal) {
        // The shell waits for the server and then ends: while it lives, the id is the server's.
        if let Ok(None) = self.shell.try_wait()
            && let Err(error) = rustix::process::kill_process(self.server, signal)
        {
            tracing::debug!(%error, pid = self.pid(), "The nats-server ended before it was signalled.");
        }
    }

    /// Waits until the server has ended and its shell as well.
    pub(super) async fn ended(&mut self) -> io::Result<()> {
        self.shell.wait().await.map(|_| ())
    }
}
