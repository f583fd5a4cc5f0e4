//! The client whose results are awaited: as many tasks as it can, one at a time, or as a clock wants them.

use super::bundling::BundleMax;
use super::noop::{Elsewhere, Noop, Runs};
use super::once::{Faults, Stored};
use super::pace::Pace;
use super::services::connect;
use crate::output::{Exit, Failure};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use jetlane::{Client, Outcome, Submit, TaskHandle};
use jetlane_bus::floor::BATCHES_IN_FLIGHT;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

/// How long one round may take before what is missing counts as lost.
pub(super) const ROUND_WITHIN: Duration = Duration::from_secs(120);

/// Submits no-op tasks and counts those whose results do not come.
pub(super) struct Submitter {
    client: Client,
    body_bytes: usize,
    next: u32,
    queues: u32,
    pub(super) faults: Faults,
}

/// How long a task took that was alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latency {
    /// From its submission until its handler began, as its completion says.
    pub(super) handler: Duration,
    /// From its submission until its result was there.
    pub(super) result: Duration,
}

/// What came of an open loop.
pub(super) struct Paced {
    /// From the moment a task was meant to be sent until its result was there.
    pub(super) latencies: Vec<Duration>,
    /// From the first intended moment to the last result.
    pub(super) took: Duration,
}

impl Submitter {
    pub(super) async fn connect(url: &str, bundle: BundleMax, body_bytes: usize) -> Result<Self, Failure> {
        let client = bundle.apply_to_client(connect(url, "bench-submitter").await?);
        Ok(Self { client, body_bytes, next: 0, queues: 1, faults: Faults::default() })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What went wrong, once the last runs have straggled in.
    pub(super) async fn faults(&self, before: Stored, runs: &Runs) -> Result<Faults, Failure> {
        let mut faults = self.faults;
        let now = Stored::read(self.client.bus()).await?;
        faults += before.compare(now, self.next.into(), self.faults.lost);
        let counts = runs.counts();
        // A task that completed and was not run is none that was done.
        faults.lost += u64::from(self.next).saturating_sub(faults.lost).saturating_sub(counts.tasks);
        faults.duplicates += counts.beyond_one;
        Ok(faults)
    }

    pub(super) fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    /// From now on every other task goes to the second queue.
    pub(super) fn use_both_queues(&mut self) {
        self.queues = 2;
    }

    fn submit(&self, number: u32) -> Submit<u32> {
        let noop = Noop::new(number, self.body_bytes);
        if number.is_multiple_of(self.queues) { self.client.submit(noop) } else { self.client.submit(Elsewhere(noop)) }
    }

    /// The numbers of the next tasks.
    pub(super) fn take(&mut self, tasks: usize) -> std::ops::Range<u32> {
        let first = self.next;
        self.next += u32::try_from(tasks).unwrap_or(u32::MAX - first);
        first..self.next
    }

    /// Submits, pipelined, and awaits every result. Returns tasks a second.
    pub(super) async fn throughput(&mut self, tasks: usize) -> Result<f64, Failure> {
        let numbers = self.take(tasks);
        let begun = Instant::now();
        let submits = numbers.clone().map(|number| self.submit(number));
        let mut handles = Vec::with_capacity(tasks);
        for handle in self.client.submit_all(submits).await {
            handles.push(handle?);
        }
        let end = tokio::time::Instant::now() + ROUND_WITHIN;
        let mut done = 0;
        for (number, handle) in numbers.zip(handles) {
            done += u64::from(is_answered(handle, number, end).await);
        }
        self.faults.lost += tasks as u64 - done;
        Ok(done as f64 / begun.elapsed().as_secs_f64())
    }

    /// Submits one at a time; the time of each until its handler began and until its result was there.
    pub(super) async fn latencies(&mut self, tasks: usize) -> Result<Vec<Latency>, Failure> {
        let mut latencies = Vec::with_capacity(tasks);
        for number in self.take(tasks) {
            let begun = Instant::now();
            let mut handle = self.submit(number).await?;
            let completion = tokio::time::timeout(ROUND_WITHIN, handle.completion()).await;
            let result = begun.elapsed();
            let completion = completion.map_err(|late| Failure::of(Exit::TimedOut, &late))??;
            if completion.outcome != Outcome::Succeeded {
                return Err(jetlane::Error::Task(Box::new(completion)).into());
            }
            latencies.push(Latency { handler: Duration::from_secs_f64(completion.wait_ms.max(0.0) / 1e3), result });
        }
        Ok(latencies)
    }

    /// Submits tasks when they fall due and waits for no result. With [`BATCHES_IN_FLIGHT`] submissions under
    /// way the rest gathers, to go together: its latency counts from when each was meant to be sent.
    pub(super) async fn follow(&mut self, schedule: &[Duration]) -> Result<Paced, Failure> {
        let first = self.take(schedule.len()).start;
        let Pace { begun, mut due } = Pace::start(schedule);
        let free = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT));
        let mut under_way = JoinSet::new();
        let mut next = 0;
        while next < schedule.len() {
            let permit = Arc::clone(&free).acquire_owned().await.map_err(|error| Failure::of(Exit::Error, &error))?;
            let told = due.wait_for(|due| *due > next).await.map(|due| *due);
            let end = told.map_err(|error| Failure::of(Exit::Error, &error))?;
            let batch: Vec<_> = (next..end).map(|at| (first + at as u32, begun + schedule[at])).collect();
            under_way.spawn(answers(self.client.clone(), batch, self.body_bytes, permit));
            next = end;
        }
        let mut latencies = Vec::with_capacity(schedule.len());
        let mut took = Duration::ZERO;
        while let Some(ended) = under_way.join_next().await {
            for (latency, at) in ended.unwrap_or_default() {
                latencies.push(latency);
                took = took.max(at.saturating_duration_since(begun));
            }
        }
        self.faults.lost += (schedule.len() - latencies.len()) as u64;
        Ok(Paced { latencies, took })
    }
}

/// Submits these tasks together; of each that was answered the latency, and when.
async fn answers(
    client: Client,
    due: Vec<(u32, Instant)>,
    body_bytes: usize,
    permit: OwnedSemaphorePermit,
) -> Vec<(Duration, Instant)> {
    let submits: Vec<_> = due.iter().map(|(number, _)| client.submit(Noop::new(*number, body_bytes))).collect();
    let handles = client.submit_all(submits).await;
    drop(permit);
    let end = tokio::time::Instant::now() + ROUND_WITHIN;
    let mut answers: FuturesUnordered<_> = due
        .into_iter()
        .zip(handles)
        .filter_map(|((number, meant), handle)| Some((number, meant, handle.ok()?)))
        .map(|(number, meant, handle)| async move {
            let answered = is_answered(handle, number, end).await;
            let now = Instant::now();
            answered.then(|| (now.saturating_duration_since(meant), now))
        })
        .collect();
    let mut answered = Vec::with_capacity(answers.len());
    while let Some(answer) = answers.next().await {
        answered.extend(answer);
    }
    answered
}

/// Waits for the result, and says whether it came and is this task's.
async fn is_answered(handle: TaskHandle<u32>, number: u32, end: tokio::time::Instant) -> bool {
    matches!(tokio::time::timeout_at(end, handle.into_future()).await, Ok(Ok(told)) if told == number)
}
