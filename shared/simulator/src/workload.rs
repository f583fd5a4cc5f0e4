//! Arrivals drawn from a seed: a Poisson stream of tasks whose sizes have mean 1 s.
//!
//! Each kind of chance has a stream of its own, so that the same seed gives the same arrivals and the
//! same sizes whatever the noise of the estimates, and a comparison of two runs is a paired one.

use crate::arrivals::{Arrivals, SECOND, TASKS_MAX, Task, micros};
use crate::{Error, workload::sizes::Sizes};
use jetlane_schemas::{Micros, Priority};
use rand_distr::{Distribution, Exp1, StandardNormal, StandardUniform};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;
use std::fmt;
use std::str::FromStr;

mod sizes;

/// How far a deadline lies beyond arrival and size, in mean sizes and by priority, before a factor of 1 to 3.
const SLACKS: [f64; 4] = [1.0, 3.0, 10.0, 100.0];

/// The distribution of sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Workload {
    /// Exponential.
    #[default]
    Exp,
    /// Bounded Pareto, shape 1.5, the largest ten thousand times the least.
    Bp15,
    /// The same, shape 1.3.
    Bp13,
    /// The same, shape 1.1: a few giants are most of the work.
    Bp11,
    /// 200 types, log-normal in themselves and among each other, as of a public cloud's functions.
    Azure,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Exp, Self::Bp15, Self::Bp13, Self::Bp11, Self::Azure];

    /// Its word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exp => "exp",
            Self::Bp15 => "bp1.5",
            Self::Bp13 => "bp1.3",
            Self::Bp11 => "bp1.1",
            Self::Azure => "azure",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|workload| workload.as_str() == text);
        found.ok_or_else(|| "must be exp, bp1.5, bp1.3, bp1.1 or azure".into())
    }
}

/// A tenant that floods the others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noisy {
    /// What it offers of the servers' time: a part of the whole load.
    pub load: f64,
    /// Tasks that it submits at once.
    pub burst: u32,
}

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Sizes.
    pub workload: Workload,
    /// How many, those of a noisy tenant included.
    pub tasks: usize,
    /// Servers that the load is measured against.
    pub servers: u32,
    /// The work offered, as a part of what the servers can do; a noisy tenant's included.
    pub rho: f64,
    /// What all chance follows from.
    pub seed: u64,
    /// Noise of the estimates: they are size x e^(sigma x N), N standard normal.
    pub sigma: f64,
    /// Tenants, each as likely as the others; a noisy one is the first of them and has nothing but its bursts.
    pub tenants: u32,
    /// How likely the four priorities are, the most urgent first.
    pub priorities: [f64; 4],
    /// A tenant that floods the others.
    pub noisy: Option<Noisy>,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            workload: Workload::Exp,
            tasks: 300_000,
            servers: 8,
            rho: 0.9,
            seed: 1,
            sigma: 1.0,
            tenants: 16,
            priorities: [0.05, 0.10, 0.55, 0.30],
            noisy: None,
        }
    }
}

impl Load {
    /// Draws the arrivals.
    ///
    /// # Errors
    /// A number out of its range.
    pub fn arrivals(&self) -> Result<Arrivals, Error> {
        self.check()?;
        let bursts = self.bursts();
        let flood = bursts * self.noisy.map_or(0, |noisy| noisy.burst as usize);
        if flood >= self.tasks {
            return Err(Error::setting("noisy", format!("has bursts of {flood} tasks in all, of {}", self.tasks)));
        }
        let times = self.times(self.tasks - flood, bursts);
        let sizes = Sizes::new(self.workload, self.seed).draw(self.tasks, &mut self.chance(Stream::Sizes));
        let mut traits = Traits::new(self);
        let tasks = times.into_iter().zip(sizes).enumerate();
        let tasks = tasks.map(|(at, (arrival, size))| traits.task(arrival, size, at >= self.tasks - flood)).collect();
        let tenants = (0..self.tenants).map(|n| format!("tenant-{n}")).collect();
        let types = (0..sizes::TYPES).map(|n| format!("simulated.t{n}")).collect();
        let arrivals = Arrivals::new(tasks, tenants, types)?;
        Ok(if self.noisy.is_some() { arrivals.with_noisy(NOISY_TENANT) } else { arrivals })
    }

    fn check(&self) -> Result<(), Error> {
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let refused = [
            (self.tasks == 0 || self.tasks > TASKS_MAX, "tasks", format!("must be 1 to {TASKS_MAX}")),
            (self.servers == 0 || self.servers > SERVERS_MAX, "servers", format!("must be 1 to {SERVERS_MAX}")),
            (!positive(self.rho) || self.rho > RHO_MAX, "rho", format!("must be above 0 and at most {RHO_MAX}")),
            (!(0.0..=SIGMA_MAX).contains(&self.sigma), "sigma", format!("must be 0 to {SIGMA_MAX}")),
            (self.tenants == 0 || self.tenants > TENANTS_MAX, "tenants", format!("must be 1 to {TENANTS_MAX}")),
            (
                self.priorities.iter().any(|share| !(0.0..=1.0).contains(share))
                    || (self.priorities.iter().sum::<f64>() - 1.0).abs() > 1e-6,
                "priorities",
                "must be four shares that make 1".into(),
            ),
            (
                self.noisy.is_some_and(|noisy| !positive(noisy.load) || noisy.load >= self.rho || noisy.burst == 0),
                "noisy",
                "must be a load above 0 and under rho, and a burst of at least 1 task".into(),
            ),
            (self.noisy.is_some() && self.tenants < 2, "noisy", "needs another tenant".into()),
        ];
        match refused.into_iter().find(|(is_refused, ..)| *is_refused) {
            Some((_, option, reason)) => Err(Error::setting(option, reason)),
            None => Ok(()),
        }
    }

    fn chance(&self, stream: Stream) -> Pcg64 {
        chance(self.seed, stream)
    }

    /// How many bursts there are: what the noisy tenant offers, over the tasks of one.
    fn bursts(&self) -> usize {
        self.noisy.map_or(0, |noisy| {
            let flood = self.tasks as f64 * noisy.load / self.rho;
            ((flood / f64::from(noisy.burst)).round() as usize).max(1)
        })
    }

    /// When the base arrives, then the bursts: each somewhere in its own part of the time.
    fn times(&self, base: usize, bursts: usize) -> Vec<f64> {
        let rate = (self.rho - self.noisy.map_or(0.0, |noisy| noisy.load)) * f64::from(self.servers);
        let (mut chance, mut at) = (self.chance(Stream::Arrivals), 0.0);
        let mut times: Vec<f64> = Vec::with_capacity(self.tasks);
        for _ in 0..base {
            let gap: f64 = Exp1.sample(&mut chance);
            at += gap / rate;
            times.push(at);
        }
        let mut chance = self.chance(Stream::Bursts);
        for burst in 0..bursts {
            let within: f64 = StandardUniform.sample(&mut chance);
            let begins = at * (burst as f64 + within) / bursts as f64;
            times.extend(std::iter::repeat_n(begins, self.noisy.map_or(0, |noisy| noisy.burst as usize)));
        }
        times
    }
}

/// The tenant that floods, if one does.
const NOISY_TENANT: u32 = 0;
/// The most servers.
pub(crate) const SERVERS_MAX: u32 = 10_000;
/// The most load: beyond it the queue only grows, which a short overload may be meant to show.
const RHO_MAX: f64 = 10.0;
/// The most noise.
const SIGMA_MAX: f64 = 10.0;
/// The most tenants.
const TENANTS_MAX: u32 = 100_000;

/// What chance is drawn for.
#[derive(Debug, Clone, Copy)]
enum Stream {
    Arrivals = 1,
    Sizes,
    Kinds,
    Bursts,
    Priorities,
    Tenants,
    Noise,
    Deadlines,
}

/// The stream of chance of this seed for this purpose.
fn chance(seed: u64, stream: Stream) -> Pcg64 {
    // Seeds that lie side by side are spread by seed_from_u64; the factor keeps purposes apart.
    Pcg64::seed_from_u64(seed.wrapping_mul(64).wrapping_add(stream as u64))
}

/// What a task is beside its arrival and size.
struct Traits<'a> {
    load: &'a Load,
    priorities: Pcg64,
    tenants: Pcg64,
    noise: Pcg64,
    deadlines: Pcg64,
}

impl<'a> Traits<'a> {
    fn new(load: &'a Load) -> Self {
        Self {
            load,
            priorities: load.chance(Stream::Priorities),
            tenants: load.chance(Stream::Tenants),
            noise: load.chance(Stream::Noise),
            deadlines: load.chance(Stream::Deadlines),
        }
    }

    fn task(&mut self, arrival: f64, (size, task_type): (f64, u32), is_flood: bool) -> Task {
        let noise: f64 = StandardNormal.sample(&mut self.noise);
        let slack: f64 = 2.0 * (0.5 + uniform(&mut self.deadlines));
        let (priority, tenant) = (self.priority(), self.tenant());
        let due = arrival + size + slack * SLACKS[priority.rank()];
        Task {
            arrival: Micros((arrival * SECOND).round() as u64),
            size: micros(size),
            estimate: Some(micros(size * (self.load.sigma * noise).exp())),
            priority,
            tenant: if is_flood { NOISY_TENANT } else { tenant },
            task_type,
            due: Some(micros(due)),
        }
    }

    fn priority(&mut self) -> Priority {
        let mut drawn = uniform(&mut self.priorities);
        let shares = Priority::ALL.into_iter().zip(self.load.priorities);
        for (priority, share) in shares {
            if drawn < share {
                return priority;
            }
            drawn -= share;
        }
        // The shares may fall short of 1 by a rounding.
        let likeliest = self.load.priorities.into_iter().zip(Priority::ALL).max_by(|(a, _), (b, _)| a.total_cmp(b));
        likeliest.map_or_else(Priority::default, |(_, priority)| priority)
    }

    fn tenant(&mut self) -> u32 {
        let (least, most) = (u32::from(self.load.noisy.is_some()), self.load.tenants);
        let place = (uniform(&mut self.tenants) * f64::from(most - least)) as u32;
        least + place.min(most - least - 1)
    }
}

/// A number from 0 up to, and without, 1.
fn uniform(chance: &mut Pcg64) -> f64 {
    StandardUniform.sample(chance)
}
