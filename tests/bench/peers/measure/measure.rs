//! What every Rust driver measures with: numbered tasks, which of them were started, and one line of JSON.

use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Bytes of a task's JSON body.
const BODY_BYTES: usize = 200;
/// What the body has around number and padding.
const FRAME_BYTES: usize = r#"{"number":,"padding":""}"#.len();
/// Tasks that only warm up: connections, scripts, caches.
const WARM_UP_TASKS: usize = 1_000;
/// How long nothing may happen before what is missing counts as lost.
const STANDSTILL: Duration = Duration::from_secs(20);

/// A task that does nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Noop {
    pub number: usize,
    pub padding: String,
}

impl Noop {
    pub fn new(number: usize) -> Self {
        let digits = number.checked_ilog10().unwrap_or(0) as usize + 1;
        Self { number, padding: "x".repeat(BODY_BYTES.saturating_sub(FRAME_BYTES + digits)) }
    }
}

/// What to do, read from the environment: the tasks' numbers, phase by phase.
pub struct Plan {
    pub url: String,
    pub warm_up: std::ops::Range<usize>,
    pub latency: std::ops::Range<usize>,
    pub tasks: std::ops::Range<usize>,
}

impl Plan {
    pub fn from_env() -> Self {
        let number = |name: &str| variable(name).parse::<usize>().expect("a number of tasks");
        let warm_up = 0..WARM_UP_TASKS;
        let latency = warm_up.end..warm_up.end + number("PEER_LATENCY_TASKS");
        let tasks = latency.end..latency.end + number("PEER_TASKS");
        Self { url: variable("PEER_URL"), warm_up, latency, tasks }
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run.sh sets it"))
}

/// Which tasks were started, and how often.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    starts: Vec<AtomicU8>,
    distinct: AtomicUsize,
    target: AtomicUsize,
    reached: Notify,
    reached_at: Mutex<Option<Instant>>,
}

impl Ledger {
    pub fn of(plan: &Plan) -> Self {
        let starts = (0..plan.tasks.end).map(|_| AtomicU8::new(0)).collect();
        let (distinct, target) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
        Self(Arc::new(Inner { starts, distinct, target, reached: Notify::new(), reached_at: Mutex::default() }))
    }

    /// Counts a start: the first thing that a handler does.
    pub fn started(&self, number: usize) {
        if self.0.starts[number].fetch_add(1, Ordering::Relaxed) == 0 {
            let distinct = self.0.distinct.fetch_add(1, Ordering::SeqCst) + 1;
            if distinct == self.0.target.load(Ordering::SeqCst) {
                *self.0.reached_at.lock().expect("nobody panics holding it") = Some(Instant::now());
                self.0.reached.notify_one();
            }
        }
    }

    pub fn distinct(&self) -> usize {
        self.0.distinct.load(Ordering::SeqCst)
    }

    /// Submits, waits until so many different tasks were started (or nothing happened for too long), and
    /// tells how long that took.
    pub async fn time<E>(&self, target: usize, submit: impl Future<Output = Result<(), E>>) -> Result<Duration, E> {
        *self.0.reached_at.lock().expect("nobody panics holding it") = None;
        self.0.target.store(target, Ordering::SeqCst);
        let begun = Instant::now();
        submit.await?;
        let (mut before, mut last) = (0, Instant::now());
        while self.distinct() < target {
            let waited = tokio::time::timeout(STANDSTILL, self.0.reached.notified()).await;
            if waited.is_err() && self.distinct() == before {
                return Ok(last - begun);
            }
            (before, last) = (self.distinct(), Instant::now());
        }
        let reached_at = *self.0.reached_at.lock().expect("nobody panics holding it");
        Ok(reached_at.unwrap_or_else(Instant::now) - begun)
    }

    pub fn lost(&self, tasks: &std::ops::Range<usize>) -> usize {
        self.0.starts[tasks.clone()].iter().filter(|starts| starts.load(Ordering::SeqCst) == 0).count()
    }

    pub fn doubled(&self) -> usize {
        self.0.starts.iter().map(|starts| usize::from(starts.load(Ordering::SeqCst)).saturating_sub(1)).sum()
    }
}

/// What a driver prints: one line of JSON.
#[derive(Serialize)]
pub struct Outcome {
    pub tasks: usize,
    pub tasks_per_s: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub latency_until: &'static str,
    pub hears_result: bool,
    pub lost: usize,
    pub doubled: usize,
    pub settings: String,
}

impl Outcome {
    /// Sums up; what is lost did not happen in the time.
    pub fn of(tasks: usize, lost: usize, took: Duration, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let at = |share: f64| {
            let last = latencies.len().saturating_sub(1);
            let index = (latencies.len() as f64 * share).ceil() as usize;
            latencies.get(index.saturating_sub(1).min(last)).map_or(0.0, |latency| latency.as_secs_f64() * 1_000.0)
        };
        Self {
            tasks,
            tasks_per_s: (tasks - lost) as f64 / took.as_secs_f64(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            latency_until: "handler",
            hears_result: false,
            lost,
            doubled: 0,
            settings: String::new(),
        }
    }

    /// Prints the line and ends the process: nothing of a driver has to be drained.
    pub fn print(&self) -> ! {
        println!("{}", serde_json::to_string(self).expect("an outcome is JSON"));
        std::process::exit(0);
    }
}
