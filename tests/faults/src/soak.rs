//! One soak: start everything, inject the plan, heal, drain, read, judge.

use crate::admin::{Admin, WORK};
use crate::checker::{self, History};
use crate::disk::Disk;
use crate::journal::{self, Event};
use crate::plan::{Class, Planned, Wish};
use crate::process::Process;
use crate::report::{Figures, Report};
use crate::roles::tasks::{PLAIN_TYPE, Work};
use crate::servers::Wanted;
use crate::stage::Stage;
use anyhow::Context as _;
use jetlane::Task;
use jetlane_bus::local::SyncInterval;
use jetlane_schemas::subject;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long faults that have begun may take to end.
const FAULTS_TIME_MAX: Duration = Duration::from_secs(120);
/// How long all tasks may take to complete once everything is healed.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(120);
/// How long they may take while completions go on: a backlog on a slow machine.
const BACKLOG_TIME_MAX: Duration = Duration::from_secs(600);
/// How soon the next completion comes where somebody works on a backlog: a handler of 12 s and a redelivery.
const COMPLETES_WITHIN: Duration = Duration::from_secs(40);
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long the streams of work stay empty before all is taken to be done.
const EMPTY_FOR: Duration = Duration::from_secs(2);
/// How long after the last fault it is asked whether messages are left that nobody will ever get.
const STRANDED_AFTER: Duration = Duration::from_secs(60);
/// How long services may take to be ready once everything is healed and done.
const READY_TIME_MAX: Duration = Duration::from_secs(30);
/// How long tasks flow before the first memory is read.
const WARM_UP: Duration = Duration::from_secs(2);

/// What a soak is to be.
#[derive(Debug, Clone)]
pub struct Soak {
    /// The program that takes all roles.
    pub program: PathBuf,
    /// Its seed.
    pub seed: u64,
    /// How long faults are injected.
    pub length: Duration,
    /// One or three servers.
    pub servers: usize,
    /// Which faults.
    pub classes: Vec<Class>,
    /// Tasks a second.
    pub rate: u64,
    /// Folder of journals and logs.
    pub folder: PathBuf,
}

impl Soak {
    /// Runs the soak and judges it.
    ///
    /// # Errors
    /// When it could not be run; broken promises are in the report.
    pub async fn run(&self) -> anyhow::Result<Report> {
        std::fs::create_dir_all(&self.folder)?;
        let begun = Instant::now();
        let stage = Arc::new(self.start().await?);
        let marks = tokio::spawn(stage.admin.clone().marks(Arc::clone(&stage.journal)));
        let mut memory = BTreeMap::new();
        tokio::time::sleep(WARM_UP).await;
        for service in services(&stage.processes) {
            memory.insert(service.name().to_owned(), (service.memory_kib().unwrap_or(0), 0));
        }
        let wish = Wish { seed: self.seed, length: self.length, servers: self.servers, classes: self.classes.clone() };
        self.inject(&stage, wish.plan()).await;
        let faults_over_us = journal::now_us();
        eprintln!("{} s: faults are over, draining", begun.elapsed().as_secs());
        for name in ["producer", "outsider"] {
            if let Some(process) = stage.processes.get(name)
                && let Err(error) = process.terminate().await
            {
                stage.trouble.lock().await.push(format!("{error:#}"));
            }
        }
        let frames_gone = stage.take_unknown_frames().await?;
        let drained = drain(&stage.admin).await;
        let drain_time = Duration::from_micros(journal::now_us().saturating_sub(faults_over_us));
        eprintln!("{} s: drained ({drained:?} left), reading", begun.elapsed().as_secs());
        for service in services(&stage.processes) {
            memory.entry(service.name().to_owned()).or_default().1 = service.memory_kib().unwrap_or(0);
        }
        let not_ready = not_ready(&stage).await;
        let stranded = stage.admin.stranded().await?;
        marks.abort();
        let mut history = read(&stage.admin, &self.folder, self.servers).await?;
        (history.frames_gone, history.not_ready, history.stranded) = (frames_gone, not_ready, stranded);
        if !drained.is_empty() {
            history.trouble.extend(stage.admin.describe_work().await);
        }
        history.left = drained;
        history.memory_kib = memory;
        history.trouble.extend(stage.trouble.lock().await.clone());
        let findings = checker::check(&history);
        let figures = Figures::of(&history, drain_time);
        stage.servers.end().await;
        Ok(Report::new(self, findings, figures))
    }

    /// Starts servers and processes, and returns once tasks can be submitted.
    async fn start(&self) -> anyhow::Result<Stage> {
        let wants_disk = self.classes.iter().any(|class| matches!(class, Class::All | Class::Disk));
        let disk = if wants_disk { Disk::mount(&self.folder) } else { None };
        let data = disk.iter().map(Disk::folder).collect();
        let wanted = Wanted { size: self.servers, sync: SyncInterval::ServerDefault, data };
        let mut stage = Stage::start(&self.program, &self.folder, &wanted).await?;
        stage.disk = disk;
        for number in 0..2 {
            stage.dispatcher(&format!("dispatcher-{number}")).await?;
        }
        stage.streams().await?;
        stage.callback().await?;
        for number in 0..3 {
            stage.role(&format!("executor-{number}"), "executor", &[]).await?;
        }
        stage.role("worker", "worker", &[]).await?;
        stage.service("reference", "executor", &[]).await?;
        stage.announced(&[Work::TYPE, PLAIN_TYPE]).await?;
        let (seed, rate) = (self.seed.to_string(), (self.rate * 4 / 5).max(1).to_string());
        stage.role("producer", "producer", &["--seed", &seed, "--rate", &rate]).await?;
        let rate = (self.rate / 5).max(1).to_string();
        stage.role("outsider", "outsider", &["--seed", &seed, "--rate", &rate]).await?;
        Ok(stage)
    }

    /// Injects each fault at its time, and waits until all are over.
    async fn inject(&self, stage: &Arc<Stage>, plan: Vec<Planned>) {
        let (begun, mut under_way) = (Instant::now(), JoinSet::new());
        for Planned { at, fault } in plan {
            tokio::time::sleep_until(begun + at).await;
            eprintln!("{:.1} s: {fault:?}", at.as_secs_f64());
            let stage = Arc::clone(stage);
            under_way.spawn(async move { stage.inject(fault).await });
        }
        tokio::time::sleep_until(begun + self.length).await;
        let over = async { while under_way.join_next().await.is_some() {} };
        if tokio::time::timeout(FAULTS_TIME_MAX, over).await.is_err() {
            stage.trouble.lock().await.push("a fault did not end in time".into());
        }
    }
}

/// Waits until all services are ready and alive, and says which are not where that takes too long.
async fn not_ready(stage: &Stage) -> BTreeMap<String, String> {
    let until = Instant::now() + READY_TIME_MAX;
    loop {
        let mut not_ready = BTreeMap::new();
        for probe in &stage.probes {
            let now = probe.now().await;
            if (now.ready, now.live) != (Some(true), Some(true)) {
                not_ready.insert(probe.process.clone(), format!("{now:?}"));
            }
        }
        if not_ready.is_empty() || Instant::now() > until {
            return not_ready;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn services(processes: &BTreeMap<String, Process>) -> impl Iterator<Item = &Process> {
    let services = ["dispatcher-0", "dispatcher-1", "callback"];
    services.into_iter().filter_map(|name| processes.get(name))
}

/// Waits until the streams of work are empty, and returns what they hold where that takes too long. Callbacks that are
/// scheduled for later do not count.
pub async fn drain(admin: &Admin) -> BTreeMap<String, u64> {
    let begun = Instant::now();
    let mut until = begun + DRAIN_TIME_MAX;
    let (mut empty_since, mut completions) = (None, 0);
    loop {
        let mut left = BTreeMap::new();
        for stream in WORK {
            match admin.counts(stream).await {
                Ok(counts) => left.extend(counts),
                Err(error) => {
                    left.insert(format!("{stream}: {error:#}"), 1);
                }
            }
        }
        left.retain(|subject, _| !is_scheduled_callback(subject));
        if left.is_empty() {
            let since = *empty_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= EMPTY_FOR {
                return left;
            }
        } else {
            empty_since = None;
            // The number of messages is no measure: one that carries many tasks goes with the last of them.
            if let Ok(stored) = admin.last_sequence(subject::STREAM_DONE).await
                && stored > completions
            {
                completions = stored;
                until = until.max(Instant::now() + COMPLETES_WITHIN).min(begun + BACKLOG_TIME_MAX);
            }
            // Nobody waits for what is never delivered.
            let is_late = begun.elapsed() > STRANDED_AFTER;
            if is_late && admin.stranded().await.is_ok_and(|stranded| stranded == left) {
                return BTreeMap::new();
            }
            if Instant::now() > until {
                return left;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn is_scheduled_callback(subject: &str) -> bool {
    subject.starts_with("jetlane.schedule.callback.")
}

/// Reads what the streams hold, from each replica, and the journals.
///
/// # Errors
/// When a stream cannot be read to its end.
pub async fn read(admin: &Admin, folder: &Path, servers: usize) -> anyhow::Result<History> {
    let mut history = History { servers, completions: admin.completions().await?, ..History::default() };
    history.dead_callbacks = admin.dead_callbacks().await?;
    let scheduled = admin.counts(subject::STREAM_TIME).await?;
    history.due_callbacks =
        scheduled.keys().filter(|subject| is_scheduled_callback(subject)).map(|s| task_of(s)).collect();
    for stream in WORK {
        history.consumers.insert(stream.into(), admin.consumers(stream).await?);
    }
    for stream in [subject::STREAM_DONE, subject::STREAM_DEAD] {
        let mut replicas = Vec::new();
        let names = admin.replicas_of(stream).await?;
        if names.len() < servers {
            history.trouble.push(format!("{stream} is on {names:?} alone"));
        }
        for name in names {
            if servers > 1 {
                admin.lead(stream, &name).await?;
            }
            replicas.push(admin.replica(stream).await.with_context(|| format!("{stream} on {name}"))?);
        }
        history.replicas.insert(stream.into(), replicas);
    }
    history.lines = journal::read_all(folder)?;
    Ok(history)
}

/// The task of a scheduled callback, `jetlane.schedule.callback.<id>.<index>.<type>`, as `<type>.<id>`.
fn task_of(subject: &str) -> String {
    let place = subject.trim_start_matches("jetlane.schedule.callback.");
    let mut parts = place.splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(id), Some(_index), Some(task_type)) => format!("{task_type}.{id}"),
        _ => place.to_owned(),
    }
}

/// Counts the starts of processes in the journals.
pub fn starts(history: &History) -> usize {
    history.lines.iter().filter(|line| matches!(line.event, Event::Started { .. })).count()
}
