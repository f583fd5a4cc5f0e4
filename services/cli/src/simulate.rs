//! `jetlane simulate`: how the policies compare over the same tasks, before anything runs. No server.

use crate::args::Simulate;
use crate::output::{Exit, Failure, Output, grouped, table};
use jetlane::Priority;
use jetlane_simulator::figures::Waits;
use jetlane_simulator::plot::{self, Caption};
use jetlane_simulator::trace::{self, Noise};
use jetlane_simulator::{Arrivals, Error, Figures, Load, Settings, simulate_all};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// What was simulated, and what came of each policy. The names are a contract; times in seconds.
#[derive(Debug, Serialize)]
struct Report {
    settings: Told,
    policies: Vec<Figures>,
}

/// What was simulated. What a trace decides is `null`.
#[derive(Debug, Serialize)]
struct Told {
    trace: Option<String>,
    workload: Option<&'static str>,
    tasks: usize,
    servers: u32,
    rho: Option<f64>,
    seed: u64,
    sigma: f64,
    tenants: usize,
    priorities: Option<[f64; 4]>,
    noisy: Option<Flood>,
    window: u32,
    quantum: f64,
    resume_cost: f64,
    mean_size_s: f64,
    offered_load: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Flood {
    load: f64,
    burst: u32,
}

/// Simulates, prints and draws.
pub(crate) fn run(args: &Simulate, output: &Output) -> Result<Exit, Failure> {
    let arrivals = arrivals(args)?;
    let settings =
        Settings { servers: args.servers, window: args.window, quantum: args.quantum, resume: args.resume_cost };
    let policies = simulate_all(&arrivals, &args.policy.0, &settings).map_err(|error| failed(&error))?;
    let report = Report { settings: Told::of(args, &arrivals, &settings), policies };
    if args.json {
        output.json(&report);
    } else {
        output.data(&report, || report.text());
    }
    if let Some(path) = &args.plot {
        let drawn = plot::svg(&report.caption(), arrivals.mean_size(), &report.policies);
        let drawn = drawn.map_err(|error| failed(&error))?;
        std::fs::write(path, drawn)
            .map_err(|error| Failure::new(Exit::Error, format!("{} cannot be written: {error}", path.display())))?;
        output.say(format_args!("the plot is in {}", path.display()));
    }
    Ok(Exit::Ok)
}

fn arrivals(args: &Simulate) -> Result<Arrivals, Failure> {
    let arrivals = match &args.trace {
        Some(path) => read(path, Noise { sigma: args.sigma, seed: args.seed })?,
        None => Load {
            workload: args.workload,
            tasks: args.tasks,
            servers: args.servers,
            rho: args.rho,
            seed: args.seed,
            sigma: args.sigma,
            tenants: args.tenants,
            priorities: args.priorities.0,
            noisy: args.noisy,
        }
        .arrivals(),
    };
    arrivals.map_err(|error| failed(&error))
}

/// The trace; a file that cannot be opened is a failure of its own.
fn read(path: &Path, noise: Noise) -> Result<Result<Arrivals, Error>, Failure> {
    if path == Path::new("-") {
        return Ok(trace::read(std::io::stdin().lock(), noise));
    }
    let file = File::open(path)
        .map_err(|error| Failure::new(Exit::Usage, format!("{} cannot be read: {error}", path.display())))?;
    Ok(trace::read(BufReader::new(file), noise))
}

fn failed(error: &Error) -> Failure {
    let exit = match error {
        Error::Setting { .. } | Error::Trace { .. } => Exit::Usage,
        Error::Write(_) | Error::Plot(_) | Error::Stalled { .. } => Exit::Error,
    };
    let failure = Failure::of(exit, error);
    match error {
        Error::Trace { .. } => failure.help(format!("A trace has a header with {}.", trace::COLUMNS.join(","))),
        _ => failure,
    }
}

impl Told {
    fn of(args: &Simulate, arrivals: &Arrivals, settings: &Settings) -> Self {
        let is_drawn = args.trace.is_none();
        Self {
            trace: args.trace.as_ref().map(|path| path.display().to_string()),
            workload: is_drawn.then(|| args.workload.as_str()),
            tasks: arrivals.tasks().len(),
            servers: args.servers,
            rho: is_drawn.then_some(args.rho),
            seed: args.seed,
            sigma: args.sigma,
            tenants: arrivals.tenants().len(),
            priorities: is_drawn.then_some(args.priorities.0),
            noisy: args.noisy.map(|noisy| Flood { load: noisy.load, burst: noisy.burst }),
            window: args.window,
            quantum: args.quantum,
            resume_cost: settings.resume(),
            mean_size_s: arrivals.mean_size(),
            offered_load: arrivals.offered_load(args.servers),
        }
    }
}

impl Report {
    fn caption(&self) -> Caption {
        let told = &self.settings;
        let title = match (&told.trace, told.workload) {
            (Some(trace), _) => format!("The policies over {trace}"),
            (None, workload) => format!("The policies over {} sizes", workload.unwrap_or_default()),
        };
        let noisy = told.noisy.map_or_else(String::new, |noisy| {
            format!(", a noisy tenant with {} of the load in bursts of {}", noisy.load, noisy.burst)
        });
        let settings = format!(
            "{} tasks of {:.3} s in the mean, {} servers, load {:.2}, {} tenants, sigma {}, seed {}{noisy}",
            grouped(told.tasks as u64),
            told.mean_size_s,
            told.servers,
            told.offered_load,
            told.tenants,
            told.sigma,
            told.seed
        );
        Caption { title, settings }
    }

    fn text(&self) -> String {
        let Caption { settings, .. } = self.caption();
        let head = [
            "policy",
            "response",
            "slowdown",
            "p50",
            "p99",
            "p99.9",
            "wait",
            "p99 wait",
            "max wait",
            "missed",
            "preempted",
            "busy",
        ];
        let rows = self.policies.iter().map(|of| {
            [
                of.policy.to_owned(),
                number(of.mean_response),
                number(of.mean_slowdown),
                number(of.p50_slowdown),
                number(of.p99_slowdown),
                number(of.p999_slowdown),
                number(of.mean_wait),
                number(of.p99_wait),
                number(of.max_wait),
                percent(of.deadline_miss),
                grouped(of.preemptions),
                percent(of.utilisation),
            ]
        });
        let mut text =
            format!("{settings}\n\nresponse and waits in seconds, slowdown in times the size\n{}", table(head, rows));
        text.push_str("\n\np99 wait in seconds\n");
        text.push_str(&self.waits());
        text
    }

    /// The waits by priority, of those that a noisy tenant floods and of itself apart.
    fn waits(&self) -> String {
        let rows = self.policies.iter().flat_map(|of| {
            let all = [("all", of.p99_wait, &of.by_priority)];
            let parts = [("victims", &of.victims), ("noisy", &of.noisy)];
            let parts = parts.into_iter().filter_map(|(name, group)| {
                group.as_ref().map(|group| (name, group.waits.p99_wait, &group.by_priority))
            });
            let rows: Vec<_> =
                all.into_iter().chain(parts).map(|(name, p99, by)| waits_of(of, name, p99, by)).collect();
            rows
        });
        table(["policy", "tenants", "all", "critical", "high", "normal", "low"], rows)
    }
}

fn waits_of(of: &Figures, tenants: &str, p99: f64, by: &BTreeMap<Priority, Waits>) -> [String; 7] {
    let one = |priority| by.get(&priority).map_or_else(|| "-".to_owned(), |waits| number(waits.p99_wait));
    let [critical, high, normal, low] = Priority::ALL.map(one);
    [of.policy.to_owned(), tenants.to_owned(), number(p99), critical, high, normal, low]
}

fn number(value: f64) -> String {
    let digits = match value {
        v if v >= 1_000.0 => 0,
        v if v >= 100.0 => 1,
        v if v >= 10.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

fn percent(part: f64) -> String {
    format!("{:.2} %", part * 100.0)
}

#[cfg(test)]
mod tests;
