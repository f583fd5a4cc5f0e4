//! How long tasks run: learned from their runs, for each type and, within a type, each size key.
//!
//! Run times are taken as log-normal: moving mean and variance of their logarithm. A key with few runs
//! leans on its type, a type on all types together, a first task on its submitter's hint. A run that
//! failed or was cut off counts as at least so long, or types that break would look short and win.
//! Source of the shape and of the constants: docs/scheduling.md.

use jetlane_schemas::registry::{EstimateEntry, RunTimes};
use jetlane_schemas::{Micros, TaskType};
use std::collections::BTreeMap;

/// Runs after which an old one weighs half as much as it did, roughly: the length of the memory.
const MEMORY_RUNS: f64 = 64.0;
/// So many runs in a row that far off are a change for good, not chance: what was known is forgotten.
const DRIFT_RUNS: u32 = 8;
/// Standard deviations that count as far off.
const DRIFT_DEVIATIONS: f64 = 3.0;
/// Runs after which one that is far off is told from the others.
const RUNS_TO_KNOW: f64 = 16.0;
/// The standard normal distribution's 99th percentile.
const Z99: f64 = 2.326_347_874_040_841;
/// What the parent's estimate weighs, in runs.
const PARENT_RUNS: f64 = 3.0;
/// What is assumed of how far hints are off, in runs, and the variance that is assumed: as if such
/// hints had told a time within a factor of three.
const HINT_RUNS: f64 = 3.0;
const HINT_VARIANCE_ASSUMED: f64 = 1.0;
/// The variance that is assumed where nothing is known: most runs within a factor of three.
const VARIANCE_ASSUMED: f64 = 1.0;
/// The least variance that is believed: run times are never told to the microsecond.
const VARIANCE_MIN: f64 = 1e-4;
/// The largest logarithm of a time or of a ratio, the largest variance and the most runs that are believed
/// of what was kept: a day and a bit, and a spread over all of it.
const MU_MAX: f64 = 26.0;
const VARIANCE_MAX: f64 = 25.0;
const RUNS_BELIEVED: u64 = 1 << 32;
/// What is assumed of a first task of all: a tenth of a second.
const FIRST: Micros = Micros(100_000);
/// The most size keys of a type; beyond it the one seen longest ago is forgotten.
pub const SIZE_KEYS_MAX: usize = 64;
/// The most types, as many as the registry takes; beyond it the one seen longest ago is forgotten.
pub const TYPES_MAX: usize = jetlane_schemas::limits::TYPES_MAX;

/// How a run ended, as far as its time is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// It ended by itself: so long it is.
    Whole,
    /// It failed, was cut off or yielded: so long at least.
    AtLeast,
}

/// What is expected of a task's run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// The mean: what sums up to work.
    pub mean: Micros,
    /// The median.
    pub p50: Micros,
    /// What nine in ten stay under.
    pub p90: Micros,
    /// What ninety-nine in a hundred stay under; `None` until enough runs of the type were measured.
    pub p99: Option<Micros>,
}

/// The run times of a queue's types.
#[derive(Debug, Clone, Default)]
pub struct Estimates {
    types: BTreeMap<TaskType, TypeTimes>,
    all: Moving,
    /// Counts observations: what was seen when.
    clock: u64,
}

#[derive(Debug, Clone, Default)]
struct TypeTimes {
    all: Moving,
    sizes: BTreeMap<String, (Moving, u64)>,
    /// How far runs are from their submitters' hints.
    hints: Moving,
    seen: u64,
}

/// A moving mean and variance of logarithms.
#[derive(Debug, Clone, Copy, Default)]
struct Moving {
    times: RunTimes,
    /// Runs in a row that were far off.
    off: u32,
    /// What the past weighs, in runs: up to [`MEMORY_RUNS`].
    weight: f64,
}

impl Moving {
    fn observe(&mut self, ln: f64) {
        let far = DRIFT_DEVIATIONS * self.times.variance.max(VARIANCE_MIN).sqrt();
        let mut off_by = ln - self.times.mu;
        let is_off = self.weight >= RUNS_TO_KNOW && off_by.abs() > far;
        self.off = if is_off { self.off + 1 } else { 0 };
        if self.off >= DRIFT_RUNS {
            (self.weight, self.off, self.times.variance) = (0.0, 0, 0.0);
        } else if is_off {
            // One of a kind, as far as is known: it counts, but does not blur what is known of the others.
            off_by = off_by.clamp(-far, far);
        }
        self.weight = (self.weight + 1.0).min(MEMORY_RUNS);
        let share = 1.0 / self.weight;
        self.times.mu += share * off_by;
        self.times.variance = (1.0 - share) * (self.times.variance + share * off_by * off_by);
        self.times.runs = self.times.runs.saturating_add(1);
    }

    /// What was measured here, leaning on what is believed of the parent.
    fn leaning_on(&self, parent: RunTimes, parent_runs: f64) -> RunTimes {
        let share = self.weight / (self.weight + parent_runs);
        RunTimes {
            runs: self.times.runs,
            mu: parent.mu + share * (self.times.mu - parent.mu),
            variance: (parent.variance + share * (self.times.variance - parent.variance)).max(VARIANCE_MIN),
        }
    }

    fn restored(times: RunTimes) -> Self {
        // Anyone who announces types can write there: what is no run time is not believed.
        let is_sound = times.mu.abs() <= MU_MAX && (0.0..=VARIANCE_MAX).contains(&times.variance);
        if !is_sound {
            return Self::default();
        }
        let weight = (times.runs as f64).min(MEMORY_RUNS);
        Self { times: RunTimes { runs: times.runs.min(RUNS_BELIEVED), ..times }, off: 0, weight }
    }
}

/// What is expected by these times, learned from so many runs, and by a hint that is off as `off` says.
fn with_hint(times: RunTimes, runs: f64, hint: f64, off: Moving) -> RunTimes {
    // Whoever gives a hint means the mean, which lies above the median by half the variance.
    let assumed = RunTimes { runs: 0, mu: -HINT_VARIANCE_ASSUMED / 2.0, variance: HINT_VARIANCE_ASSUMED };
    let off = off.leaning_on(assumed, HINT_RUNS);
    // Of a type that has hardly run nothing is known that could speak against the hint.
    let learned = runs / (runs + PARENT_RUNS) / times.variance;
    let told = 1.0 / off.variance;
    let share = told / (told + learned);
    let mu = times.mu + share * (hint + off.mu - times.mu);
    RunTimes { runs: times.runs, mu, variance: (1.0 / (told + learned)).max(VARIANCE_MIN) }
}

fn ln(time: Micros) -> f64 {
    (time.0.max(1) as f64).ln()
}

fn micros(time: f64) -> Micros {
    // A day at most, as for one attempt; under it every float is a whole number of microseconds.
    Micros(time.clamp(1.0, 86_400e6) as u64)
}

impl Estimates {
    /// Takes note of a run.
    pub fn observe(&mut self, task_type: &TaskType, size_key: Option<&str>, time: Micros, observed: Observed) {
        self.clock += 1;
        let time = match observed {
            Observed::Whole => time,
            // What is expected of a run that has gone on for so long is that, or more.
            Observed::AtLeast => time.max(self.expect(task_type, size_key, None).mean),
        };
        let ln = ln(time);
        self.all.observe(ln);
        let seen = self.clock;
        self.make_room(task_type);
        let times = self.types.entry(task_type.clone()).or_default();
        times.seen = seen;
        times.all.observe(ln);
        if let Some(key) = size_key {
            if times.sizes.len() >= SIZE_KEYS_MAX && !times.sizes.contains_key(key) {
                let oldest = times.sizes.iter().min_by_key(|(_, (_, seen))| *seen).map(|(key, _)| key.clone());
                oldest.map(|key| times.sizes.remove(&key));
            }
            let (moving, last) = times.sizes.entry(key.to_owned()).or_default();
            moving.observe(ln);
            *last = seen;
        }
    }

    /// Takes note of how well a submitter's hint told a run time.
    pub fn observe_hint(&mut self, task_type: &TaskType, hint: Micros, time: Micros) {
        if let Some(known) = self.types.get_mut(task_type) {
            known.hints.observe(ln(time) - ln(hint));
        }
    }

    /// What is expected of a task of this type and size key, with its submitter's hint.
    ///
    /// The hint and what was learned of the type are weighed by how well each has told (the inverse of
    /// their variances): a hint of a type whose hints are good decides alone, and one of a type whose
    /// hints are noise says nothing.
    pub fn expect(&self, task_type: &TaskType, size_key: Option<&str>, hint: Option<Micros>) -> Estimate {
        let first = RunTimes { runs: 0, mu: ln(FIRST), variance: VARIANCE_ASSUMED };
        let all = self.all.leaning_on(first, f64::from(u8::from(self.all.weight == 0.0)));
        // How far types lie apart says nothing of how far the runs of one do.
        let all = RunTimes { variance: all.variance.min(VARIANCE_ASSUMED), ..all };
        let known = self.types.get(task_type);
        let mut times = known.map_or(all, |known| known.all.leaning_on(all, PARENT_RUNS));
        if let (Some(known), Some(key)) = (known, size_key)
            && let Some((moving, _)) = known.sizes.get(key)
        {
            times = moving.leaning_on(times, PARENT_RUNS);
        }
        if let Some(hint) = hint {
            let off = known.map(|known| known.hints).unwrap_or_default();
            times = with_hint(times, known.map_or(0.0, |known| known.all.weight), ln(hint), off);
        }
        Estimate {
            mean: micros(times.mean_ms() * 1_000.0),
            p50: micros(times.p50_ms() * 1_000.0),
            p90: micros(times.p90_ms() * 1_000.0),
            p99: known
                .filter(|known| known.all.weight >= RUNS_TO_KNOW)
                .map(|_| micros((times.mu + Z99 * times.variance.max(0.0).sqrt()).exp())),
        }
    }

    /// What is known of a type, to be kept.
    pub fn snapshot(&self, now: Micros, task_type: &TaskType) -> Option<EstimateEntry> {
        let known = self.types.get(task_type)?;
        let sizes = known.sizes.iter().map(|(key, (moving, _))| (key.clone(), moving.times)).collect();
        Some(EstimateEntry { all: known.all.times, sizes, hints: known.hints.times, updated_at: now })
    }

    /// Takes up what was kept of a type, unless more is known already.
    pub fn restore(&mut self, task_type: &TaskType, kept: &EstimateEntry) {
        if self.types.get(task_type).is_some_and(|known| known.all.times.runs >= kept.all.runs) {
            return;
        }
        self.make_room(task_type);
        let sizes = kept.sizes.iter().take(SIZE_KEYS_MAX);
        let sizes = sizes.map(|(key, times)| (key.clone(), (Moving::restored(*times), self.clock))).collect();
        let all = Moving::restored(kept.all);
        if self.all.weight < all.weight {
            self.all = all;
        }
        let hints = Moving::restored(kept.hints);
        self.types.insert(task_type.clone(), TypeTimes { all, sizes, hints, seen: self.clock });
    }

    /// Forgets the type that was seen least lately, where one more is to be known.
    fn make_room(&mut self, coming: &TaskType) {
        if self.types.len() >= TYPES_MAX && !self.types.contains_key(coming) {
            let oldest = self.types.iter().min_by_key(|(_, known)| known.seen).map(|(name, _)| name.clone());
            oldest.map(|name| self.types.remove(&name));
        }
    }
}

#[cfg(test)]
mod tests;
