//! What the policies must reach in simulation, measured over the same arrivals and told as a median over seeds.

use crate::run::{Policy, Settings, in_parallel, simulate};
use crate::workload::{Load, Noisy, Workload};
use crate::{Error, Figures, formulas};
use jetlane_schemas::Priority;
use jetlane_schemas::registry::PolicyName;
use std::fmt;

/// How much is simulated for each bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Seeds, from 1.
    pub seeds: u64,
    /// Tasks of a run.
    pub tasks: usize,
}

/// What a figure must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wanted {
    /// So much or more.
    AtLeast(f64),
    /// So much or less.
    AtMost(f64),
    /// This, or off by this part of it at most.
    Near(f64, f64),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) => write!(f, ">= {least}"),
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::Near(value, part) => write!(f, "{value:.3} +- {:.0} %", part * 100.0),
        }
    }
}

/// A bar, and what was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What is measured, on which workload.
    pub name: String,
    /// What it must be.
    pub wanted: Wanted,
    /// The median over the seeds.
    pub measured: f64,
    /// The least and the most over the seeds.
    pub range: (f64, f64),
}

impl Bar {
    fn of(name: impl Into<String>, wanted: Wanted, measured: impl IntoIterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = measured.into_iter().collect();
        all.sort_unstable_by(f64::total_cmp);
        let (least, most) = (all[0], all[all.len() - 1]);
        Self { name: name.into(), wanted, measured: all[all.len() / 2], range: (least, most) }
    }

    /// Whether the median is as wanted.
    pub fn holds(&self) -> bool {
        self.holds_within(0.0)
    }

    /// The same with a margin, for fewer seeds and tasks than the bar is meant for: a part of what is wanted.
    pub fn holds_within(&self, margin: f64) -> bool {
        match self.wanted {
            Wanted::AtLeast(least) => self.measured >= least * (1.0 - margin),
            Wanted::AtMost(most) => self.measured <= most * (1.0 + margin),
            Wanted::Near(value, part) => (self.measured / value - 1.0).abs() <= part + margin,
        }
    }
}

/// Closed forms: M/M/1 and M/M/8 at load 0.9, mean response.
///
/// # Errors
/// As [`simulate`].
pub fn closed_forms(effort: Effort) -> Result<Vec<Bar>, Error> {
    const RHO: f64 = 0.9;
    let cases = [
        ("M/M/1 fifo", 1, FIFO, formulas::fifo(RHO)),
        ("M/M/1 sjf", 1, SJF, formulas::sjf(RHO)),
        ("M/M/1 srpt", 1, Policy::IdealSrpt, formulas::srpt(RHO)),
        ("M/M/8 fifo", 8, FIFO, formulas::erlang_c(8, RHO)),
    ];
    let bars = cases.map(|(name, servers, policy, formula)| {
        let response = |seed: &u64| {
            let load = Load { servers, rho: RHO, sigma: 0.0, ..load(Workload::Exp, *seed, effort) };
            let settings = Settings { servers, ..Settings::default() };
            Ok(simulate(&load.arrivals()?, policy, &settings)?.mean_response)
        };
        Ok(Bar::of(name, Wanted::Near(formula, 0.03), over_seeds(effort, response)?))
    });
    bars.into_iter().collect()
}

/// The size-based policies on every workload: ratios of mean response.
///
/// # Errors
/// As [`simulate`].
pub fn sizes(effort: Effort) -> Result<Vec<Bar>, Error> {
    let mut bars = Vec::new();
    for (workload, gain) in Workload::ALL.into_iter().zip([1.3, 3.8, 8.0, 14.0, 5.0]) {
        let ratios = over_seeds(effort, |seed| {
            let noisy = load(workload, *seed, effort).arrivals()?;
            let exact = Load { sigma: 0.0, ..load(workload, *seed, effort) }.arrivals()?;
            let of = |policy| Ok(simulate(&exact, policy, &Settings::default())?.mean_response);
            let (fifo, sjf, srtf, srpt) = (of(FIFO)?, of(SJF)?, of(SRTF)?, of(Policy::IdealSrpt)?);
            let estimated = simulate(&noisy, SJF, &Settings::default())?.mean_response;
            Ok([fifo / sjf, estimated / sjf, srtf / srpt])
        })?;
        let wanted = [
            ("fifo / sjf, exact sizes", Wanted::AtLeast(gain)),
            ("sjf sigma 1 / sjf exact", Wanted::AtMost(1.2)),
            ("srtf / ideal srpt", Wanted::AtMost(1.15)),
        ];
        for (at, (name, wanted)) in wanted.into_iter().enumerate() {
            bars.push(Bar::of(format!("{workload}: {name}"), wanted, ratios.iter().map(|ratio| ratio[at])));
        }
    }
    Ok(bars)
}

/// The default policy with sigma 1: what its fairness costs, and what it is worth.
///
/// # Errors
/// As [`simulate`].
pub fn adaptive(effort: Effort) -> Result<Vec<Bar>, Error> {
    let mut bars = Vec::new();
    for workload in Workload::ALL {
        let ratios = over_seeds(effort, |seed| {
            let arrivals = load(workload, *seed, effort).arrivals()?;
            let of = |policy| Ok(simulate(&arrivals, policy, &Settings::default())?.mean_response);
            Ok(of(ADAPTIVE)? / of(SJF)?)
        })?;
        bars.push(Bar::of(format!("{workload}: adaptive / sjf, sigma 1"), Wanted::AtMost(1.3), ratios));
    }
    for (workload, most) in [(Workload::Exp, 2.0), (Workload::Bp13, 0.5), (Workload::Azure, 1.1)] {
        bars.extend(noisy_tenant(workload, most, effort)?);
    }
    Ok(bars)
}

/// A tenant that floods: its victims against the same load without it, and what is urgent inside the flood.
fn noisy_tenant(workload: Workload, most: f64, effort: Effort) -> Result<Vec<Bar>, Error> {
    let ratios = over_seeds(effort, |seed| {
        let quiet = load(workload, *seed, effort);
        let flooded = Load { noisy: Some(NOISY), ..quiet.clone() };
        let quiet = simulate(&quiet.arrivals()?, ADAPTIVE, &Settings::default())?;
        let arrivals = flooded.arrivals()?;
        let [noisy, strict] = [ADAPTIVE, STRICT].map(|policy| simulate(&arrivals, policy, &Settings::default()));
        let (noisy, strict) = (noisy?, strict?);
        let low = |figures: &Figures| figures.by_priority[&Priority::Low].p99_wait;
        let victims = noisy.victims.as_ref().expect("there is a noisy tenant");
        let urgent = |figures: &Figures| {
            let flood = figures.noisy.as_ref().expect("there is a noisy tenant");
            flood.by_priority[&Priority::High].p99_wait
        };
        let of_low = victims.by_priority[&Priority::Low].p99_wait / low(&quiet);
        Ok([victims.waits.p99_wait / quiet.p99_wait, of_low, urgent(&noisy) / urgent(&strict)])
    })?;
    let wanted = [
        ("victims' p99 wait, flooded / not", Wanted::AtMost(most)),
        ("the same of low priority", Wanted::AtMost(most)),
        ("high inside the flood, p99 wait / strict's", Wanted::AtMost(2.0)),
    ];
    let bars = wanted.into_iter().enumerate().map(|(at, (name, wanted))| {
        Bar::of(format!("{workload}: {name}"), wanted, ratios.iter().map(|ratio| ratio[at]))
    });
    Ok(bars.collect())
}

const FIFO: Policy = Policy::Queue(PolicyName::Fifo);
const STRICT: Policy = Policy::Queue(PolicyName::Strict);
const SJF: Policy = Policy::Queue(PolicyName::Sjf);
const SRTF: Policy = Policy::Queue(PolicyName::Srtf);
const ADAPTIVE: Policy = Policy::Queue(PolicyName::Adaptive);
/// The flood of the bars: a fifth of the load, in bursts of 2,000.
const NOISY: Noisy = Noisy { load: 0.18, burst: 2_000 };

fn load(workload: Workload, seed: u64, effort: Effort) -> Load {
    Load { workload, seed, tasks: effort.tasks, ..Load::default() }
}

fn over_seeds<R: Send>(effort: Effort, of: impl Fn(&u64) -> Result<R, Error> + Sync) -> Result<Vec<R>, Error> {
    let seeds: Vec<u64> = (1..=effort.seeds.max(1)).collect();
    in_parallel(&seeds, of).into_iter().collect()
}
