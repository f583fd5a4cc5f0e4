//! How many handlers an executor lets run at once: its slots, less what its own pressure takes away.
//!
//! Two things lower the limit. Memory that runs short halves it at once. Run times that rise lower it
//! by the gradient, usual over present: compared are run times over what is usual *for their type*, by
//! their logarithm, and only beyond what chance explains, so that a mix of small and large tasks is no
//! congestion. Processor time that runs short makes this comparison stricter, and nothing counts as
//! usual meanwhile; by itself it lowers nothing, since a busy machine whose runs take no longer than
//! usual is a healthy one. Run times alone lower it to a quarter of the slots at the least. What is
//! lowered recovers by itself.
//!
//! Pure: the time and the readings are arguments.

use super::pressure::Pressure;
use std::time::Duration;

/// Whether an executor takes less when it is under pressure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// It does. Memory that runs short halves what it takes, down to one task at a time. Run times that
    /// rise, compared type by type, lower it to a quarter of its slots; to one at a time while
    /// processors are short as well. It recovers by itself.
    #[default]
    Adaptive,
    /// It always takes what it has slots for.
    Fixed,
}

/// How often the limit is judged.
pub(crate) const JUDGE_EVERY: Duration = Duration::from_millis(250);
/// How often memory that stays short halves the limit again: what was spared must show first.
const HALVE_EVERY: Duration = Duration::from_secs(1);
/// Memory is short from this part on, ...
const MEMORY_HIGH: f64 = 0.95;
/// ... until it is back under this one.
const MEMORY_LOW: f64 = 0.90;
/// The same for the part of the time in which everything stands still for want of memory.
const MEMORY_STALL_HIGH: f64 = 0.10;
const MEMORY_STALL_LOW: f64 = 0.05;
/// The same for the part of the time in which something waits for a processor.
const CPU_HIGH: f64 = 0.80;
const CPU_LOW: f64 = 0.60;
/// Run times may be so many times the usual ones, ...
const TOLERANCE: f64 = 1.5;
/// ... and so many while processors are short.
const TOLERANCE_CPU_SHORT: f64 = 1.1;
/// One step never lowers the limit to less than this part, before smoothing.
const GRADIENT_MIN: f64 = 0.5;
/// How far one step goes down, and up.
const SMOOTHING_DOWN: f64 = 0.4;
const SMOOTHING_UP: f64 = 0.2;
/// Run times alone lower the limit to no less than this part of the slots: it may be the tasks that have
/// become others, and not the machine.
const UNCONFIRMED_MIN: f64 = 0.25;
/// Runs that one comparison needs.
const WINDOW_RUNS_MIN: u32 = 16;
/// Without a run for so long, what was seen last says nothing any more.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Runs of a type before it is compared with itself.
const TYPE_RUNS_MIN: u32 = 8;
/// The usual is a moving mean over at least so many runs, ...
const USUAL_RUNS_MIN: f64 = 300.0;
/// ... and over at least so long: what a busy executor does in a second is not usual yet.
const USUAL_TIME_MIN: Duration = Duration::from_secs(60);
/// What chance explains: so many standard errors.
const CHANCE: f64 = 3.0;
/// Shorter runs say nothing: what is measured there is the runtime and not the handler.
const RUN_MIN: Duration = Duration::from_millis(5);

/// Whether runs count towards what is usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Learning {
    Yes,
    /// Not beyond the first: what is seen now is not usual.
    No,
}

/// A moving mean with its spread.
#[derive(Debug, Clone, Copy, Default)]
struct Moving {
    runs: u32,
    mean: f64,
    variance: f64,
    at: Duration,
}

impl Moving {
    fn learn(&mut self, now: Duration, x: f64) {
        self.runs = self.runs.saturating_add(1);
        let by_runs = 1.0 / f64::from(self.runs).min(USUAL_RUNS_MIN);
        let by_time = now.saturating_sub(self.at).as_secs_f64() / USUAL_TIME_MIN.as_secs_f64();
        // The first ones are a plain mean, however fast they come.
        let weight = if f64::from(self.runs) <= USUAL_RUNS_MIN { by_runs } else { by_runs.min(by_time) };
        self.at = now;
        let off = x - self.mean;
        self.mean += weight * off;
        self.variance += weight * (off * off - self.variance);
    }
}

/// The usual run time of a type, by its logarithm.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usual(Moving);

impl Usual {
    /// How a run that ended now compares with the type's usual one: the logarithm of their ratio. `None`
    /// while too little is known, and for runs that say nothing.
    pub(crate) fn compare(&mut self, now: Duration, took: Duration, learning: Learning) -> Option<f64> {
        if took < RUN_MIN && self.0.runs == 0 {
            return None;
        }
        let x = took.max(RUN_MIN).as_secs_f64().ln();
        let is_known = self.0.runs >= TYPE_RUNS_MIN;
        let compared = is_known.then_some(x - self.0.mean);
        if learning == Learning::Yes || !is_known {
            self.0.learn(now, x);
        }
        compared
    }
}

/// Why a limit moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// Memory is short.
    Memory,
    /// Runs take longer than is usual for their types.
    RunTimes,
    /// Neither, any more.
    Recovery,
}

/// A limit that moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) why: Why,
}

/// Something that is short from one mark on until it is back under another.
#[derive(Debug, Clone, Copy, Default)]
struct Short(bool);

impl Short {
    fn update(&mut self, is_high: bool, is_low: bool) {
        self.0 = is_high || (self.0 && !is_low);
    }
}

/// The limit of one executor.
#[derive(Debug)]
pub(crate) struct Limit {
    slots: f64,
    limit: f64,
    window: Window,
    usual: Moving,
    /// What the last comparison said; 1 where nothing is amiss.
    gradient: f64,
    ran_at: Duration,
    memory: Short,
    cpu: Short,
    halved_at: Option<Duration>,
}

/// The runs since the last comparison.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    runs: u32,
    sum: f64,
}

impl Limit {
    /// The limit of an executor with so many slots, at its highest.
    pub(crate) fn new(slots: usize) -> Self {
        Self {
            slots: slots as f64,
            limit: slots as f64,
            window: Window::default(),
            usual: Moving::default(),
            gradient: 1.0,
            ran_at: Duration::ZERO,
            memory: Short::default(),
            cpu: Short::default(),
            halved_at: None,
        }
    }

    /// Handlers that may run at once: 1 to all slots.
    pub(crate) fn limit(&self) -> usize {
        self.limit.round() as usize
    }

    /// Whether runs count towards what is usual.
    pub(crate) fn learning(&self) -> Learning {
        if self.cpu.0 { Learning::No } else { Learning::Yes }
    }

    /// A run ended; `compared` is what [`Usual::compare`] said.
    pub(crate) fn ended(&mut self, now: Duration, compared: f64) {
        self.window.runs += 1;
        self.window.sum += compared;
        self.ran_at = now;
        if !self.cpu.0 {
            self.usual.learn(now, compared);
        }
    }

    /// Judges what has happened since the last time, [`JUDGE_EVERY`] ago. `now` counts from anywhere.
    pub(crate) fn judge(&mut self, now: Duration, pressure: Pressure) -> Option<Moved> {
        let Pressure { memory_used, memory_stalled, cpu_waited } = pressure;
        self.memory.update(
            memory_used >= MEMORY_HIGH || memory_stalled >= MEMORY_STALL_HIGH,
            memory_used < MEMORY_LOW && memory_stalled < MEMORY_STALL_LOW,
        );
        self.cpu.update(cpu_waited >= CPU_HIGH, cpu_waited < CPU_LOW);
        let from = self.limit();
        let why = if self.memory.0 {
            if self.halved_at.is_none_or(|at| now.saturating_sub(at) >= HALVE_EVERY) {
                self.limit /= 2.0;
                self.halved_at = Some(now);
            }
            Why::Memory
        } else {
            self.follow_run_times(now)
        };
        self.limit = self.limit.clamp(1.0, self.slots);
        let to = self.limit();
        (from != to).then_some(Moved { from, to, why })
    }

    /// Lowers once for each window of runs that took too long, and raises while the last one did not.
    fn follow_run_times(&mut self, now: Duration) -> Why {
        let is_new = self.compare_window();
        if now.saturating_sub(self.ran_at) > IDLE_MAX {
            (self.gradient, self.window) = (1.0, Window::default());
        }
        if self.gradient >= 1.0 {
            self.limit += SMOOTHING_UP * self.limit.sqrt();
            return Why::Recovery;
        }
        if is_new {
            // One more than the gradient says, so that a little room to try is left.
            let towards = self.limit * self.gradient + 1.0;
            let least = if self.cpu.0 { 1.0 } else { (self.slots * UNCONFIRMED_MIN).ceil() };
            let lowered = self.limit + SMOOTHING_DOWN * (towards - self.limit);
            self.limit = lowered.max(least.min(self.limit));
        }
        Why::RunTimes
    }

    /// Compares the window, once it has runs enough: usual run times over present ones, within tolerance
    /// and chance.
    fn compare_window(&mut self) -> bool {
        if self.window.runs < WINDOW_RUNS_MIN {
            return false;
        }
        let window = std::mem::take(&mut self.window);
        let runs = f64::from(window.runs);
        let chance = CHANCE * (self.usual.variance / runs).sqrt();
        let risen = window.sum / runs - self.usual.mean - chance;
        let tolerance = if self.cpu.0 { TOLERANCE_CPU_SHORT } else { TOLERANCE };
        self.gradient = (tolerance * (-risen).exp()).clamp(GRADIENT_MIN, 1.0);
        true
    }
}

#[cfg(test)]
mod tests;
