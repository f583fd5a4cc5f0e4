//! A server, the processes of a scenario with one planted bug in all of them, and a submitter without.

use crate::spy::Spy;
use jetlane::{Client, Submit, Task, TaskHandle};
use jetlane_bus::local::SyncInterval;
use jetlane_faults::admin::WORK;
use jetlane_faults::checker::{self, Findings, History};
use jetlane_faults::journal::{Event, Expect, Line};
use jetlane_faults::proxy::Link;
use jetlane_faults::roles::tasks::{Behaviour, Done, HOOK, Work};
use jetlane_faults::servers::Wanted;
use jetlane_faults::soak;
use jetlane_faults::stage::Stage;
use jetlane_mutants::{Mutant, VARIABLE};
use jetlane_schemas::subject::STREAM_DONE;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Scenarios that are played at one time. They wait more than they work.
static TURNS: Semaphore = Semaphore::const_new(3);

/// The lane of all tasks of the scenarios.
pub(crate) const LANE: &str = "bundle-faults-normal-any";
/// How long a scenario waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How long all work may take once the faults are over: longer than a lease and the pauses of retries.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// How long the streams of work stay empty before all is taken to be done.
const EMPTY_FOR: Duration = Duration::from_millis(700);

/// Waits for a turn.
pub(crate) async fn turn() -> SemaphorePermit<'static> {
    TURNS.acquire().await.expect("it is never closed")
}

/// Waits until a look finds something.
#[macro_export]
macro_rules! until {
    ($what:expr, $look:expr) => {{
        let until = tokio::time::Instant::now() + $crate::theatre::PATIENCE;
        loop {
            if let Some(found) = $look {
                break found;
            }
            anyhow::ensure!(tokio::time::Instant::now() < until, "it took too long until {}", $what);
            $crate::theatre::pause().await;
        }
    }};
}

/// The pause between two looks.
pub(crate) async fn pause() {
    tokio::time::sleep(LOOK_EVERY).await;
}

/// What a scenario is played on.
pub(crate) struct Theatre {
    pub(crate) stage: Stage,
    /// A submitter that carries no bug.
    pub(crate) client: Client,
    /// The most tasks that were seen in lanes, and how many may be there.
    pub(crate) lanes: Option<(u64, u64)>,
    pub(crate) spy: Spy,
    _folder: TempDir,
}

impl Theatre {
    /// Starts a server and a dispatcher; variables are of that dispatcher alone.
    pub(crate) async fn open(bug: Option<Mutant>, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let wanted = Wanted { size: 1, sync: SyncInterval::ServerDefault, data: Vec::new() };
        let program = PathBuf::from(env!("CARGO_BIN_EXE_soak"));
        let mut stage = Stage::start(&program, folder.path(), &wanted).await?;
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let planted = bug.map(|bug| (VARIABLE.to_owned(), bug.name()));
        stage.variables = planted.iter().cloned().chain(variables.iter().map(own)).collect();
        stage.dispatcher("dispatcher-0").await?;
        stage.variables = planted.into_iter().collect();
        stage.streams().await?;
        let client = Client::connect(stage.servers.urls().remove(0)).await?;
        let spy = Spy::on_executors(&stage.admin).await?;
        Ok(Self { stage, client, lanes: None, spy, _folder: folder })
    }

    /// Starts an executor with so many slots.
    pub(crate) async fn executor(&mut self, name: &str, slots: usize) -> anyhow::Result<()> {
        self.stage.role(name, "executor", &["--slots", &slots.to_string()]).await?;
        self.stage.announced(&[Work::TYPE]).await
    }

    /// Starts another executor, and waits until it pulls.
    pub(crate) async fn executor_ready(&mut self, name: &str, slots: usize) -> anyhow::Result<()> {
        let before = self.spy.executors();
        self.executor(name, slots).await?;
        until!("another executor tells its room", (self.spy.executors() > before).then_some(()));
        Ok(())
    }

    /// The process of this name.
    pub(crate) fn pids(&self, name: &str) -> anyhow::Result<Vec<u32>> {
        Ok(self.stage.process(name)?.pid().into_iter().collect())
    }

    /// Sets what the connections of a process carry.
    pub(crate) fn link(&self, name: &str, link: Link) -> anyhow::Result<()> {
        let links = self.stage.links.get(name).ok_or_else(|| anyhow::anyhow!("no links of {name}"))?;
        links.iter().for_each(|proxy| proxy.set(link));
        Ok(())
    }

    /// Submits a task that succeeds after so many milliseconds.
    pub(crate) async fn submit(&self, marker: &str, ms: u64) -> anyhow::Result<TaskHandle<Done>> {
        self.submit_as(marker, ms, Behaviour::Succeed, Expect::Success, |submit| submit).await
    }

    /// The same with a webhook.
    pub(crate) async fn submit_hooked(
        &self,
        marker: &str,
        ms: u64,
        expect: Expect,
    ) -> anyhow::Result<TaskHandle<Done>> {
        self.submit_as(marker, ms, Behaviour::Succeed, expect, |submit| submit.webhook(HOOK)).await
    }

    /// Submits a task. Without an id of its own: such a task is looked up before it runs, whatever happened.
    pub(crate) async fn submit_as(
        &self,
        marker: &str,
        ms: u64,
        behaviour: Behaviour,
        expect: Expect,
        with: impl FnOnce(Submit<Done>) -> Submit<Done>,
    ) -> anyhow::Result<TaskHandle<Done>> {
        let submit = with(self.client.submit(Work { marker: marker.into(), ms, behaviour }));
        self.announce(marker, expect, submit_is_hooked(marker));
        let handle = submit.await?;
        self.accepted(marker, &handle);
        Ok(handle)
    }

    /// Submits tasks that share a message: their markers, and how long they take in milliseconds.
    pub(crate) async fn submit_together(&self, tasks: &[(&str, u64)]) -> anyhow::Result<Vec<TaskHandle<Done>>> {
        let submit = |(marker, ms): &(&str, u64)| {
            self.announce(marker, Expect::Success, false);
            self.client.submit(Work { marker: (*marker).into(), ms: *ms, behaviour: Behaviour::Succeed })
        };
        let submits: Vec<Submit<Done>> = tasks.iter().map(submit).collect();
        let mut handles = Vec::new();
        for (answer, (marker, _)) in self.client.submit_all(submits).await.into_iter().zip(tasks) {
            let handle = answer?;
            self.accepted(marker, &handle);
            handles.push(handle);
        }
        Ok(handles)
    }

    fn announce(&self, marker: &str, expect: Expect, webhook: bool) {
        self.stage.journal.write(Event::Submit {
            marker: marker.into(),
            id: None,
            task_type: Work::TYPE.into(),
            expect,
            retries: 3,
            webhook,
            delay_us: 0,
        });
    }

    fn accepted(&self, marker: &str, handle: &TaskHandle<Done>) {
        let duplicate = handle.accepted().is_some_and(|accepted| accepted.duplicate);
        self.stage.journal.write(Event::Accept { marker: marker.into(), id: handle.id().to_string(), duplicate });
    }

    /// Waits until so many runs of a task have begun.
    pub(crate) async fn begun(&self, of: &TaskHandle<Done>, runs: usize) -> anyhow::Result<()> {
        let id = of.id().to_string();
        let is_it = |line: &&Line| matches!(&line.event, Event::Begin { id: begun, .. } if *begun == id);
        self.stage
            .until("runs begin", PATIENCE, |lines| (lines.iter().filter(is_it).count() >= runs).then_some(()))
            .await
    }

    /// Has the messages in lanes delivered again, until a second run of a task has begun.
    pub(crate) async fn runs_twice(&self, task: &TaskHandle<Done>) -> anyhow::Result<()> {
        let id = task.id().to_string();
        let is_it = |line: &&Line| matches!(&line.event, Event::Begin { id: begun, .. } if *begun == id);
        until!("a second run begins", {
            self.stage.admin.deliver_again(LANE).await?;
            tokio::time::sleep(LOOK_EVERY * 8).await;
            (self.stage.lines()?.iter().filter(is_it).count() >= 2).then_some(())
        });
        Ok(())
    }

    /// Waits until a run of a task has ended.
    pub(crate) async fn ended(&self, of: &TaskHandle<Done>) -> anyhow::Result<()> {
        let id = of.id().to_string();
        let is_it = |line: &Line| matches!(&line.event, Event::End { id: ended, .. } if *ended == id);
        self.stage.until("a run ends", PATIENCE, |lines| lines.iter().any(is_it).then_some(())).await
    }

    /// Waits until DONE holds so many completions.
    pub(crate) async fn completed(&self, count: usize) -> anyhow::Result<()> {
        until!("completions are stored", (self.stage.admin.counts(STREAM_DONE).await?.len() >= count).then_some(()));
        Ok(())
    }

    /// Waits until all is done, or for as long as it may take, and judges.
    pub(crate) async fn judge(self) -> anyhow::Result<Findings> {
        let until = Instant::now() + SETTLED_WITHIN;
        let (mut left, mut empty_since) = (self.left().await?, Instant::now());
        while Instant::now() < until && !(left.is_empty() && empty_since.elapsed() >= EMPTY_FOR) {
            pause().await;
            left = self.left().await?;
            if !left.is_empty() {
                empty_since = Instant::now();
            }
        }
        let mut history = soak::read(&self.stage.admin, self.stage.folder(), 1).await?;
        // Processes crash where a scenario says so.
        history.lines.retain(|line| !matches!(line.event, Event::Ended { .. }));
        let findings = checker::check(&History { left, lanes: self.lanes, trusted: self.spy.trusted(), ..history });
        self.stage.servers.end().await;
        Ok(findings)
    }

    async fn left(&self) -> anyhow::Result<std::collections::BTreeMap<String, u64>> {
        let mut left = std::collections::BTreeMap::new();
        for stream in WORK {
            left.extend(self.stage.admin.counts(stream).await?);
        }
        Ok(left)
    }
}

fn submit_is_hooked(marker: &str) -> bool {
    marker.starts_with(HOOK)
}
