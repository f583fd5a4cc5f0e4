//! What came of a policy: response times, slowdowns and waits, without the warm-up.

use crate::arrivals::{Arrivals, SECOND, Task};
use crate::run::Policy;
use jetlane_schemas::{Micros, Priority};
use serde::Serialize;
use std::collections::BTreeMap;

/// Sizes under this part of the mean count as that: nobody minds a tenfold wait for a millisecond.
const SLOWDOWN_FLOOR: f64 = 0.1;
/// Points of the curve of slowdowns.
const CURVE_POINTS: usize = 160;

/// What happened to each task, and how busy the servers were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lives {
    lives: Vec<Life>,
    /// Server time spent between the first task that counts and the last arrival.
    busy: u64,
    counted: (Micros, Micros),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Life {
    started: Option<Micros>,
    ended: Option<Micros>,
    yields: u32,
}

impl Lives {
    /// Nothing has happened yet.
    pub fn new(arrivals: &Arrivals) -> Self {
        let tasks = arrivals.tasks();
        let counted = (tasks[arrivals.warm_from()].arrival, tasks[tasks.len() - 1].arrival);
        Self { lives: vec![Life::default(); tasks.len()], busy: 0, counted }
    }

    /// A task ran on a server from then to then.
    pub fn ran(&mut self, task: u32, since: Micros, until: Micros) {
        self.lives[task as usize].started.get_or_insert(since);
        let clip = |at: Micros| at.clamp(self.counted.0, self.counted.1).0;
        self.busy += clip(until) - clip(since);
    }

    /// A task stopped before its end.
    pub fn yielded(&mut self, task: u32) {
        self.lives[task as usize].yields += 1;
    }

    /// How often a task has stopped before its end.
    pub fn yields(&self, task: u32) -> u32 {
        self.lives[task as usize].yields
    }

    /// A task is done.
    ///
    /// # Panics
    /// Where it was done before: the queue has repeated it.
    pub fn ended(&mut self, task: u32, at: Micros) {
        let was = self.lives[task as usize].ended.replace(at);
        assert_eq!(was, None, "task {task} has ended twice");
    }

    /// Tasks that are not done.
    pub fn unended(&self) -> usize {
        self.lives.iter().filter(|life| life.ended.is_none()).count()
    }
}

/// What came of one policy. Times in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// The policy's word; `srpt` is the ideal that no queue can reach.
    pub policy: &'static str,
    /// Tasks that count: all but the first tenth.
    pub tasks: usize,
    /// Mean time from arrival to end.
    pub mean_response: f64,
    /// Mean slowdown: response over size, sizes under a tenth of the mean counting as that, at least 1.
    pub mean_slowdown: f64,
    /// The slowdown that half of the tasks stay under.
    pub p50_slowdown: f64,
    /// The slowdown that 99 in 100 stay under.
    pub p99_slowdown: f64,
    /// The slowdown that 999 in 1,000 stay under.
    pub p999_slowdown: f64,
    /// Mean time from arrival to the first start.
    pub mean_wait: f64,
    /// The wait that 99 in 100 stay under.
    pub p99_wait: f64,
    /// The longest wait.
    pub max_wait: f64,
    /// The part of the tasks with deadlines that ended after theirs.
    pub deadline_miss: f64,
    /// How often a task was stopped before its end.
    pub preemptions: u64,
    /// The most times that one task was.
    pub max_preemptions: u32,
    /// The part of the servers' time that was spent on tasks, what yields cost included.
    pub utilisation: f64,
    /// Waits of each priority that has tasks.
    pub by_priority: BTreeMap<Priority, Waits>,
    /// Waits of the tenants that a noisy one floods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub victims: Option<Group>,
    /// Waits of the noisy tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noisy: Option<Group>,
    /// Slowdowns, and the part of the tasks that had more: for the plot.
    #[serde(skip)]
    pub slowdowns: Vec<(f64, f64)>,
}

/// Waits of some tasks, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Waits {
    /// How many tasks.
    pub tasks: usize,
    /// Mean time from arrival to the first start.
    pub mean_wait: f64,
    /// The wait that 99 in 100 stay under.
    pub p99_wait: f64,
    /// The longest.
    pub max_wait: f64,
}

/// Waits of some tenants' tasks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Group {
    /// All of them.
    #[serde(flatten)]
    pub waits: Waits,
    /// By priority.
    pub by_priority: BTreeMap<Priority, Waits>,
}

/// A task that counts: all in seconds.
struct Ended<'a> {
    task: &'a Task,
    response: f64,
    wait: f64,
    slowdown: f64,
}

impl Figures {
    /// Sums up what happened to all tasks, on so many servers. Those that have not ended are left out.
    pub fn of(policy: Policy, arrivals: &Arrivals, lives: &Lives, servers: u32) -> Self {
        let ended = ended(arrivals, lives);
        let count = ended.len().max(1) as f64;
        let mean = |of: fn(&Ended<'_>) -> f64| ended.iter().map(of).sum::<f64>() / count;
        let mut slowdowns: Vec<f64> = ended.iter().map(|ended| ended.slowdown).collect();
        slowdowns.sort_unstable_by(f64::total_cmp);
        let Group { waits, by_priority } = group(&ended, |_| true);
        let is_noisy = |task: &Task| Some(task.tenant) == arrivals.noisy();
        let of_noisy = arrivals.noisy().map(|_| group(&ended, is_noisy));
        let counted = &lives.lives[arrivals.warm_from()..];
        let span = (lives.counted.1.0 - lives.counted.0.0).max(1) as f64;
        Self {
            policy: policy.as_str(),
            tasks: ended.len(),
            mean_response: mean(|ended| ended.response),
            mean_slowdown: mean(|ended| ended.slowdown),
            p50_slowdown: percentile(&slowdowns, 0.5),
            p99_slowdown: percentile(&slowdowns, 0.99),
            p999_slowdown: percentile(&slowdowns, 0.999),
            mean_wait: waits.mean_wait,
            p99_wait: waits.p99_wait,
            max_wait: waits.max_wait,
            deadline_miss: deadline_miss(&ended),
            preemptions: counted.iter().map(|life| u64::from(life.yields)).sum(),
            max_preemptions: counted.iter().map(|life| life.yields).max().unwrap_or(0),
            utilisation: lives.busy as f64 / span / f64::from(servers),
            by_priority,
            victims: of_noisy.is_some().then(|| group(&ended, |task| !is_noisy(task))),
            noisy: of_noisy,
            slowdowns: curve(&slowdowns),
        }
    }
}

fn ended<'a>(arrivals: &'a Arrivals, lives: &Lives) -> Vec<Ended<'a>> {
    let floor = SLOWDOWN_FLOOR * arrivals.mean_size();
    let counted = arrivals.tasks().iter().zip(&lives.lives).skip(arrivals.warm_from());
    let counted = counted.filter_map(|(task, life)| {
        let seconds = |at: Micros| (at.0 - task.arrival.0) as f64 / SECOND;
        let (response, wait) = (seconds(life.ended?), seconds(life.started?));
        let size = task.size.0 as f64 / SECOND;
        Some(Ended { task, response, wait, slowdown: (response / size.max(floor)).max(1.0) })
    });
    counted.collect()
}

fn deadline_miss(ended: &[Ended<'_>]) -> f64 {
    let (mut due, mut missed) = (0_u64, 0_u64);
    for ended in ended {
        if let Some(deadline) = ended.task.due {
            due += 1;
            let end = ended.task.arrival.0 + (ended.response * SECOND).round() as u64;
            missed += u64::from(end > deadline.0);
        }
    }
    if due == 0 { 0.0 } else { missed as f64 / due as f64 }
}

fn group(ended: &[Ended<'_>], belongs: impl Fn(&Task) -> bool) -> Group {
    let mut by_priority: BTreeMap<Priority, Vec<f64>> = BTreeMap::new();
    let mut all = Vec::new();
    for ended in ended.iter().filter(|ended| belongs(ended.task)) {
        all.push(ended.wait);
        by_priority.entry(ended.task.priority).or_default().push(ended.wait);
    }
    let by_priority = by_priority.into_iter().map(|(priority, waits)| (priority, Waits::of(waits)));
    Group { by_priority: by_priority.collect(), waits: Waits::of(all) }
}

impl Waits {
    fn of(mut waits: Vec<f64>) -> Self {
        let sum: f64 = waits.iter().sum();
        waits.sort_unstable_by(f64::total_cmp);
        let Some(max_wait) = waits.last().copied() else { return Self::default() };
        let tasks = waits.len();
        Self { tasks, mean_wait: sum / tasks as f64, p99_wait: percentile(&waits, 0.99), max_wait }
    }
}

/// The least of sorted values that this part of them does not exceed.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}

/// For each part of the tasks, from all down to a hundred-thousandth, the slowdown that this part had more of.
fn curve(sorted: &[f64]) -> Vec<(f64, f64)> {
    let least = 1.0 / sorted.len().clamp(1, 100_000) as f64;
    let points = (0..CURVE_POINTS).map(|at| least.powf(at as f64 / (CURVE_POINTS - 1) as f64));
    points.map(|above| (percentile(sorted, 1.0 - above), above)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_task() -> Lives {
        let task = Task {
            arrival: Micros(0),
            size: Micros(1),
            estimate: None,
            priority: Priority::Normal,
            tenant: 0,
            task_type: 0,
            due: None,
        };
        Lives::new(&Arrivals::new(vec![task], vec!["t".into()], vec!["a".into()]).expect("one"))
    }

    #[test]
    fn a_task_that_never_ends_is_counted() {
        let mut lives = one_task();
        assert_eq!(lives.unended(), 1);
        lives.ended(0, Micros(1));
        assert_eq!(lives.unended(), 0);
    }

    #[test]
    #[should_panic(expected = "has ended twice")]
    fn a_task_that_ends_twice_is_no_result() {
        let mut lives = one_task();
        lives.ended(0, Micros(1));
        lives.ended(0, Micros(2));
    }

    #[test]
    fn a_percentile_is_a_value_that_has_occurred() {
        let sorted: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 0.999, 1.0].map(|part| percentile(&sorted, part)), [500.0, 990.0, 999.0, 1000.0]);
        assert_eq!((percentile(&[7.0], 0.99), percentile(&[], 0.5)), (7.0, 0.0));
    }
}
