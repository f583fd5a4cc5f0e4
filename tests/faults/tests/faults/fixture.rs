//! A stage in a temporary folder, and turns: several processes and servers at once are all that two cores can carry.

use jetlane_bus::local::SyncInterval;
use jetlane_faults::journal::{Event, Line};
use jetlane_faults::servers::Wanted;
use jetlane_faults::stage::Stage;
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Tests that run at one time.
static TURNS: Semaphore = Semaphore::const_new(2);

/// The program that takes all roles.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_soak");

/// A stage, its folder, and the turn to use it.
pub(crate) struct Fixture {
    pub(crate) stage: Stage,
    _folder: TempDir,
    _turn: SemaphorePermit<'static>,
}

/// Waits for a turn.
pub(crate) async fn turn() -> SemaphorePermit<'static> {
    TURNS.acquire().await.expect("it is never closed")
}

impl Fixture {
    /// Starts servers and two dispatchers.
    pub(crate) async fn start(servers: usize) -> Self {
        let turn = turn().await;
        let folder = tempfile::tempdir().expect("a folder");
        let wanted = Wanted { size: servers, sync: SyncInterval::ServerDefault, data: Vec::new() };
        let mut stage = Stage::start(&PathBuf::from(PROGRAM), folder.path(), &wanted).await.expect("the servers start");
        for name in ["dispatcher-0", "dispatcher-1"] {
            stage.dispatcher(name).await.expect("starts");
        }
        stage.streams().await.expect("the streams are made");
        Self { stage, _folder: folder, _turn: turn }
    }

    /// Starts an executor.
    pub(crate) async fn executor(&mut self, name: &str, more: &[&str]) {
        self.stage.role(name, "executor", more).await.expect("starts");
        self.stage.announced(&["fault.work", "fault.once"]).await.expect("announced");
    }

    /// Starts a producer.
    pub(crate) async fn producer(&mut self, mix: &str, rate: u64, tasks: u64) {
        let (rate, tasks) = (rate.to_string(), tasks.to_string());
        let arguments = ["--seed", "1", "--mix", mix, "--rate", &rate, "--tasks", &tasks];
        self.stage.role("producer", "producer", &arguments).await.expect("starts");
    }

    /// The process id of a process.
    pub(crate) fn pid(&self, name: &str) -> u32 {
        self.stage.process(name).expect("there is one").pid().expect("it runs")
    }
}

/// Runs that began in a process and have not ended: their tasks.
pub(crate) fn running(lines: &[Line], process: u32) -> Vec<String> {
    let mut running = Vec::new();
    for line in lines {
        match &line.event {
            Event::Begin { id, pid, .. } if *pid == process => running.push(id.clone()),
            Event::End { id, pid, .. } if *pid == process => running.retain(|running| running != id),
            _ => {}
        }
    }
    running
}

/// The first line of this time or later that is wanted.
pub(crate) fn first_after(lines: &[Line], at_us: u64, is_wanted: impl Fn(&Event) -> bool) -> Option<&Line> {
    lines.iter().find(|line| line.at_us >= at_us && is_wanted(&line.event))
}
