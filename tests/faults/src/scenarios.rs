//! Scenarios of one kind of fault with a figure that it must reach: short in tests, long by `soak --scenario`.

use crate::checker;
use crate::journal::{Event, Line, now_us};
use crate::servers::Wanted;
use crate::soak::{drain, read};
use crate::stage::Stage;
use clap::ValueEnum;
use jetlane_bus::local::SyncInterval;
use jetlane_schemas::subject::{STREAM_DONE, STREAM_LANES, STREAM_TASKS, STREAM_TIME};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long a scenario may wait for anything, beside the time that its tasks take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Tasks a second that wait for a restart.
const BACKLOG_RATE: u64 = 10_000;
/// Tasks that complete at least in the time that a drain may take, on a slow machine.
const TASKS_A_DRAIN: u64 = 50_000;
/// Tasks a second that run while leaders are killed.
const ONCE_RATE: u64 = 60;

/// A scenario in its long form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// 6,000 tasks with `retries 0` on three servers, a leader of a stream killed every 12 s.
    Leaders,
    /// One server killed and restarted with 200,000 waiting tasks.
    Backlog,
}

/// What a scenario found.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// Tasks that were submitted.
    pub tasks: u64,
    /// Completions by outcome.
    pub outcomes: BTreeMap<String, u64>,
    /// Runs of handlers.
    pub runs: usize,
    /// Runs beyond one a task for which a fault broke the lease.
    pub explained_runs: u64,
    /// Kills of servers.
    pub kills: usize,
    /// From the last start of a server until a task ran, in seconds.
    pub flowing_s: f64,
    /// Messages that the streams of work still hold.
    pub left: BTreeMap<String, u64>,
    /// Broken promises.
    pub violations: Vec<checker::Violation>,
}

impl Found {
    /// Whether every task succeeded, and no promise was broken.
    pub fn is_clean(&self) -> bool {
        let succeeded = self.outcomes.get("succeeded").copied().unwrap_or(0);
        succeeded == self.tasks && self.outcomes.len() == 1 && self.left.is_empty() && self.violations.is_empty()
    }
}

impl Scenario {
    /// Runs the long form.
    ///
    /// # Errors
    /// When it could not be run.
    pub async fn run(self, program: &Path, folder: &Path) -> anyhow::Result<Found> {
        match self {
            Self::Leaders => {
                let streams = [STREAM_LANES, STREAM_TASKS, STREAM_DONE, STREAM_TIME].repeat(3);
                leaders(program, folder, 6_000, &streams, Duration::from_secs(12)).await
            }
            Self::Backlog => backlog(program, folder, 200_000).await,
        }
    }
}

/// Submits tasks with `retries 0` to three servers, and kills the leader of one stream after the other, one each
/// `every`.
///
/// # Errors
/// When it could not be run.
pub async fn leaders(
    program: &Path,
    folder: &Path,
    tasks: u64,
    streams: &[&'static str],
    every: Duration,
) -> anyhow::Result<Found> {
    /// How long a killed server is down.
    const DOWN: Duration = Duration::from_secs(2);
    let mut stage = start(program, folder, 3).await?;
    executor(&mut stage, "executor-0").await?;
    executor(&mut stage, "executor-1").await?;
    let marks = tokio::spawn(stage.admin.clone().marks(Arc::clone(&stage.journal)));
    producer(&mut stage, "once", ONCE_RATE, tasks).await?;
    let mut at = tokio::time::Instant::now();
    for stream in streams {
        let leader = stage.admin.leader(stream).await?.unwrap_or_default();
        let begin_us = now_us();
        stage.servers.kill_named(&leader, DOWN).await?;
        stage.journal.write(Event::Fault {
            kind: "server-kill-leader".into(),
            target: (*stream).into(),
            pids: Vec::new(),
            begin_us,
            end_us: now_us(),
        });
        at += every;
        tokio::time::sleep_until(at).await;
    }
    accepted(&stage, tasks, tasks / ONCE_RATE).await?;
    let found = found(&stage, 3, tasks, streams.len()).await?;
    marks.abort();
    stage.servers.end().await;
    Ok(found)
}

/// Lets tasks wait, kills the server and starts it again, and measures when tasks flow.
///
/// # Errors
/// When it could not be run.
pub async fn backlog(program: &Path, folder: &Path, tasks: u64) -> anyhow::Result<Found> {
    let mut stage = start(program, folder, 1).await?;
    executor(&mut stage, "executor-0").await?;
    stage.process("executor-0")?.terminate().await?;
    producer(&mut stage, "short", BACKLOG_RATE, tasks).await?;
    accepted(&stage, tasks, tasks / 500).await?;
    // Waiting tasks are dispatched as far as there is room only: the others lie in the stream.
    executor(&mut stage, "executor-1").await?;
    let begin_us = now_us();
    stage.servers.kill(0, Duration::ZERO).await?;
    let end_us = now_us();
    let kind = "server-kill".to_owned();
    stage.journal.write(Event::Fault { kind, target: "0".into(), pids: Vec::new(), begin_us, end_us });
    let flows = |lines: &[Line]| {
        let mut begun = lines.iter().filter(|line| line.at_us >= end_us && matches!(line.event, Event::Begin { .. }));
        begun.next().map(|line| line.at_us)
    };
    let flowing_us = stage.until("tasks flow", PATIENCE, flows).await?;
    let mut found = found(&stage, 1, tasks, 1).await?;
    found.flowing_s = flowing_us.saturating_sub(end_us) as f64 / 1e6;
    stage.servers.end().await;
    Ok(found)
}

async fn start(program: &Path, folder: &Path, size: usize) -> anyhow::Result<Stage> {
    let wanted = Wanted { size, sync: SyncInterval::ServerDefault, data: Vec::new() };
    let mut stage = Stage::start(program, folder, &wanted).await?;
    for name in ["dispatcher-0", "dispatcher-1"] {
        stage.dispatcher(name).await?;
    }
    stage.streams().await?;
    Ok(stage)
}

async fn executor(stage: &mut Stage, name: &str) -> anyhow::Result<()> {
    stage.role(name, "executor", &[]).await?;
    stage.announced(&["fault.work", "fault.once"]).await
}

async fn producer(stage: &mut Stage, mix: &str, rate: u64, tasks: u64) -> anyhow::Result<()> {
    let (rate, tasks) = (rate.to_string(), tasks.to_string());
    stage.role("producer", "producer", &["--seed", "1", "--mix", mix, "--rate", &rate, "--tasks", &tasks]).await
}

/// Waits until all tasks are accepted.
async fn accepted(stage: &Stage, tasks: u64, seconds: u64) -> anyhow::Result<()> {
    let all = |lines: &[Line]| {
        let accepted = lines.iter().filter_map(|line| match &line.event {
            Event::Accept { marker, .. } => Some(marker.as_str()),
            _ => None,
        });
        (accepted.collect::<BTreeSet<&str>>().len() as u64 >= tasks).then_some(())
    };
    stage.until("all are accepted", PATIENCE + Duration::from_secs(seconds), all).await
}

/// Drains, reads and judges.
async fn found(stage: &Stage, servers: usize, tasks: u64, kills: usize) -> anyhow::Result<Found> {
    let mut left = drain(&stage.admin).await;
    // Many tasks take longer than those of a soak that has ended.
    for _ in 0..tasks / TASKS_A_DRAIN {
        if left.is_empty() {
            break;
        }
        left = drain(&stage.admin).await;
    }
    let history = read(&stage.admin, stage.folder(), servers).await?;
    let findings = checker::check(&history);
    let mut outcomes = BTreeMap::new();
    for stored in &history.completions {
        *outcomes.entry(stored.outcome.clone()).or_default() += 1;
    }
    let runs = history.lines.iter().filter(|line| matches!(line.event, Event::Begin { .. })).count();
    let (explained_runs, violations) = (findings.explained_runs, findings.violations);
    Ok(Found { tasks, outcomes, runs, explained_runs, kills, flowing_s: 0.0, left, violations })
}
