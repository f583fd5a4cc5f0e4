//! Journals: every process of a soak appends what it did to a file of its own, one JSON object a line.
//!
//! A line is written before the call returns, so a kill of the process loses none: the page cache survives it. The
//! file is synced to the disk once a second, for a reading after the machine itself died.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// How often a journal is synced to the disk.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Which completions a submitter allows its task to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// The handler succeeds whenever it may run to its end.
    Success,
    /// The handler fails for good at every run.
    Failure,
    /// The submitter cancels it: whichever is first.
    SuccessOrCancel,
    /// The body is no good: it never runs.
    Rejection,
    /// A record that was put into DONE by somebody who may not: whatever it says.
    Anything,
}

/// How a handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Returned {
    /// It returned its output.
    Output,
    /// It returned an error that may be retried.
    Retry,
    /// It returned an error for good.
    Error,
    /// It stopped since it was told to.
    Stopped,
}

/// What a process did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A producer is about to submit a task. The marker is echoed by the task's output.
    Submit {
        /// Names the task where the producer does not choose its id.
        marker: String,
        /// The id, where the producer chooses it.
        id: Option<String>,
        /// The type.
        task_type: String,
        /// How it may end.
        expect: Expect,
        /// Its retries.
        retries: u32,
        /// Whether it asks for a webhook.
        webhook: bool,
        /// How long it is to wait before it may run, in microseconds.
        #[serde(default)]
        delay_us: u64,
    },
    /// The broker has acknowledged a submission.
    Accept {
        /// The task.
        marker: String,
        /// Its id.
        id: String,
        /// Whether the stream had it already.
        duplicate: bool,
    },
    /// It is not known whether a submission was stored.
    Unknown {
        /// The task.
        marker: String,
        /// What the client said.
        error: String,
    },
    /// A completion came to whoever waited for it.
    Heard {
        /// The task.
        id: String,
        /// Its type.
        task_type: String,
        /// How it ended.
        outcome: String,
    },
    /// A handler begins.
    Begin {
        /// The task.
        id: String,
        /// Its type.
        task_type: String,
        /// The attempt.
        attempt: u32,
        /// The process.
        pid: u32,
    },
    /// A handler ended.
    End {
        /// The task.
        id: String,
        /// Its type.
        task_type: String,
        /// The attempt.
        attempt: u32,
        /// The process.
        pid: u32,
        /// How.
        returned: Returned,
    },
    /// A webhook came.
    Callback {
        /// The task.
        id: String,
        /// Its type.
        task_type: String,
        /// How it ended, as the webhook says.
        outcome: String,
    },
    /// A process was started.
    Started {
        /// Its name.
        process: String,
        /// Its process id.
        pid: u32,
    },
    /// A process ended without anybody having ended it.
    Ended {
        /// Its name.
        process: String,
        /// Its process id.
        pid: u32,
        /// How, as the system says.
        status: String,
    },
    /// An executor has stored the mark that a run is about to begin.
    Mark {
        /// The task.
        id: String,
        /// Its type.
        task_type: String,
        /// The executor, by the id that it drew.
        executor: String,
        /// How often the run has begun, as far as is known.
        begun: u32,
    },
    /// What a service answers to probes has changed.
    Health {
        /// The service.
        process: String,
        /// Whether `/readyz` says 200; `None` where nobody answers.
        ready: Option<bool>,
        /// Whether `/livez` says 200; `None` where nobody answers.
        live: Option<bool>,
        /// The reasons.
        why: String,
    },
    /// A fault was injected, and is over.
    Fault {
        /// Its kind.
        kind: String,
        /// Whom it hit.
        target: String,
        /// The process ids that it hit.
        pids: Vec<u32>,
        /// When it began, in microseconds since 1970.
        begin_us: u64,
        /// When it was over.
        end_us: u64,
    },
}

/// One line of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When, in microseconds since 1970.
    pub at_us: u64,
    /// Who.
    pub by: String,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// The time of this machine in microseconds since 1970, from the system itself: a clock that is stepped for a process
/// leaves it alone. All processes of a soak share it.
pub fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let (seconds, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    seconds * 1_000_000 + nanos / 1_000
}

/// A process's own journal.
#[derive(Debug)]
pub struct Journal {
    by: String,
    file: Mutex<File>,
}

impl Journal {
    /// Opens the journal of a process; a process of the same name appends to what the last one wrote.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(folder: &Path, by: &str) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).append(true).open(folder.join(format!("{by}.jsonl")))?;
        // A process that was killed may have left half a line.
        file.write_all(b"\n")?;
        Ok(Self { by: by.to_owned(), file: Mutex::new(file) })
    }

    /// Appends an event. A journal that cannot be written ends its process: what it does afterwards would count as
    /// unexplained.
    pub fn write(&self, event: Event) {
        let line = Line { at_us: now_us(), by: self.by.clone(), event };
        let mut text = serde_json::to_vec(&line).expect("an event is JSON");
        text.push(b'\n');
        let written = self.file.lock().expect("nobody panics while holding the journal").write_all(&text);
        if let Err(error) = written {
            eprintln!("the journal of {} cannot be written: {error}", self.by);
            std::process::exit(1);
        }
    }

    /// Syncs the journal once a second, for as long as the process lives.
    pub async fn sync_forever(&self) {
        loop {
            tokio::time::sleep(SYNC_EVERY).await;
            let file = self.file.lock().expect("nobody panics while holding the journal").try_clone();
            let synced = tokio::task::spawn_blocking(move || file.and_then(|file| file.sync_data())).await;
            if let Ok(Err(error)) = synced {
                eprintln!("the journal of {} cannot be synced: {error}", self.by);
            }
        }
    }
}

/// Reads all journals of a folder, sorted by time. Half a line at the end of a killed process's life is left out.
///
/// # Errors
/// When a file cannot be read.
pub fn read_all(folder: &Path) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    let files: Result<Vec<PathBuf>, io::Error> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect();
    for path in files?.into_iter().filter(|path| path.extension().is_some_and(|end| end == "jsonl")) {
        let text = std::fs::read(&path)?;
        lines.extend(text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok()));
    }
    lines.sort_by_key(|line| line.at_us);
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_of_a_killed_process_is_read_up_to_its_last_whole_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(folder.path(), "one").expect("opens");
        let event = Event::Heard { id: "a".into(), task_type: "t".into(), outcome: "succeeded".into() };
        journal.write(event.clone());
        journal.file.lock().expect("free").write_all(b"{\"at_us\":1,\"by\"").expect("written");
        let again = Journal::open(folder.path(), "one").expect("opens");
        again.write(event.clone());
        let lines = read_all(folder.path()).expect("reads");
        assert_eq!(lines.iter().map(|line| &line.event).collect::<Vec<_>>(), [&event, &event]);
    }
}
