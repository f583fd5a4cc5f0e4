//! What the pipeline's bench tells.

use super::super::bundling::BundleMax;
use super::super::latency::{Latencies, Percentiles, median, ratio};
use super::super::once::Faults;
use super::super::plot::{Axis, Panel, Picture, Scale};
use super::super::report;
use super::super::usage::PerTask;
use super::pairs::Pairs;
use crate::args::Clock;
use crate::output::{Exit, Failure, grouped, table};
use serde::{Serialize, Serializer};

/// What is measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Settings {
    pub(super) tasks: usize,
    #[serde(serialize_with = "tasks_a_message")]
    pub(super) bundle: BundleMax,
    pub(super) body_bytes: usize,
    pub(super) callbacks: bool,
    pub(super) open_loop_seconds: f64,
    #[serde(serialize_with = "word")]
    pub(super) clock: Clock,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde wants")]
fn tasks_a_message<S: Serializer>(bundle: &BundleMax, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(bundle.0 as u64)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde wants")]
fn word<S: Serializer>(clock: &Clock, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match clock {
        Clock::Poisson => "poisson",
        Clock::Fixed => "fixed",
    })
}

/// All figures. The names are a contract.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) settings: Settings,
    /// The best turn of each.
    tasks_per_s: f64,
    floor_tasks_per_s: f64,
    ratio: f64,
    /// The middle one of all turns.
    tasks_per_s_median: f64,
    floor_tasks_per_s_median: f64,
    ratio_median: f64,
    /// The bare loop with as many tasks a message as the pipeline may put into one.
    bundled_floor: Option<BundledFloor>,
    cpu_a_task: Cpu,
    /// One at a time, until the result is there.
    latency_ms: Latency,
    /// One at a time, until the handler begins.
    handler_ms: Percentiles,
    pub(super) open_loop: Vec<OpenLoop>,
    pub(super) pairs: Option<Pairs>,
    pub(super) rss_mb: f64,
    #[serde(flatten)]
    pub(super) faults: Faults,
    pub(super) turns: Vec<Turn>,
    #[serde(skip)]
    pub(super) ours: Latencies,
    #[serde(skip)]
    pub(super) handlers: Latencies,
    #[serde(skip)]
    pub(super) floors: Latencies,
}

#[derive(Debug, Serialize)]
struct BundledFloor {
    bundle: usize,
    tasks_per_s: f64,
    ratio: f64,
    tasks_per_s_median: f64,
    ratio_median: f64,
}

#[derive(Debug, Default, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
    floor_p50: f64,
    floor_p99: f64,
    floor_p99_9: f64,
    floor_max: f64,
}

/// One turn of each.
#[derive(Debug, Serialize)]
pub(super) struct Turn {
    #[serde(flatten)]
    pub(super) ours: Rate,
    #[serde(rename = "floor")]
    pub(super) bare: Rate,
    #[serde(rename = "bundled_floor", skip_serializing_if = "Option::is_none")]
    pub(super) bundled: Option<Rate>,
    pub(super) in_flight: usize,
}

/// How many tasks a second, and what processor time each took.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Rate {
    tasks_per_s: f64,
    cpu: PerTask,
}

impl Rate {
    pub(super) fn of(tasks_per_s: f64, cpu: PerTask) -> Self {
        Self { tasks_per_s: tasks_per_s.round(), cpu }
    }
}

/// Processor time a task: medians of all turns.
#[derive(Debug, Default, Serialize)]
struct Cpu {
    ours: PerTask,
    floor: PerTask,
    bundled_floor: Option<PerTask>,
}

impl Cpu {
    fn of(turns: &[Turn]) -> Self {
        let middle = |of: fn(&Turn) -> Option<Rate>| {
            let of = || turns.iter().filter_map(of);
            (of().count() > 0).then(|| PerTask {
                server_us: median(of().map(|rate| rate.cpu.server_us)),
                clients_us: median(of().map(|rate| rate.cpu.clients_us)),
            })
        };
        Self {
            ours: middle(|turn| Some(turn.ours)).unwrap_or_default(),
            floor: middle(|turn| Some(turn.bare)).unwrap_or_default(),
            bundled_floor: middle(|turn| turn.bundled),
        }
    }
}

/// Pipeline and bare loop under the same open loop.
#[derive(Debug, Serialize)]
pub(super) struct OpenLoop {
    /// As a part of the measured rate.
    load: f64,
    rate_per_s: f64,
    #[serde(flatten)]
    ours: Under,
    floor: Under,
}

/// What came of a load.
#[derive(Debug, Serialize)]
pub(super) struct Under {
    pub(super) heard_per_s: f64,
    pub(super) latency_ms: Percentiles,
    #[serde(skip)]
    pub(super) curve: Vec<(f64, f64)>,
}

impl OpenLoop {
    pub(super) fn of(load: f64, rate: f64, (ours, floor): (Under, Under)) -> Self {
        Self { load, rate_per_s: rate.round(), ours, floor }
    }
}

fn best(rates: impl Iterator<Item = f64>) -> f64 {
    rates.fold(0.0, f64::max)
}

impl Report {
    pub(super) fn new(settings: Settings) -> Result<Self, Failure> {
        Ok(Self {
            settings,
            tasks_per_s: 0.0,
            floor_tasks_per_s: 0.0,
            ratio: 0.0,
            tasks_per_s_median: 0.0,
            floor_tasks_per_s_median: 0.0,
            ratio_median: 0.0,
            bundled_floor: None,
            cpu_a_task: Cpu::default(),
            latency_ms: Latency::default(),
            handler_ms: Percentiles::default(),
            open_loop: Vec::new(),
            pairs: None,
            rss_mb: 0.0,
            faults: Faults::default(),
            turns: Vec::new(),
            ours: Latencies::new()?,
            handlers: Latencies::new()?,
            floors: Latencies::new()?,
        })
    }

    /// Sums the turns up. Returns the rate that counts as the capacity: the middle one, since the best is luck.
    pub(super) fn sum_up(&mut self) -> f64 {
        let turns = &self.turns;
        let ours = || turns.iter().map(|turn| turn.ours.tasks_per_s);
        let floors = || turns.iter().map(|turn| turn.bare.tasks_per_s);
        (self.tasks_per_s, self.tasks_per_s_median) = (best(ours()), median(ours()));
        (self.floor_tasks_per_s, self.floor_tasks_per_s_median) = (best(floors()), median(floors()));
        self.ratio = ratio(self.tasks_per_s, self.floor_tasks_per_s);
        self.ratio_median = median(ours().zip(floors()).map(|(ours, floor)| ratio(ours, floor)));
        let bundled = || turns.iter().filter_map(|turn| Some(turn.bundled?.tasks_per_s));
        self.bundled_floor = (bundled().count() > 0).then(|| BundledFloor {
            bundle: self.settings.floor_bundle(),
            tasks_per_s: best(bundled()),
            ratio: ratio(self.tasks_per_s, best(bundled())),
            tasks_per_s_median: median(bundled()),
            ratio_median: median(ours().zip(bundled()).map(|(ours, floor)| ratio(ours, floor))),
        });
        self.cpu_a_task = Cpu::of(turns);
        let (ours, floor) = (self.ours.percentiles(), self.floors.percentiles());
        self.latency_ms = Latency {
            p50: ours.p50,
            p99: ours.p99,
            p99_9: ours.p99_9,
            max: ours.max,
            floor_p50: floor.p50,
            floor_p99: floor.p99,
            floor_p99_9: floor.p99_9,
            floor_max: floor.max,
        };
        self.handler_ms = self.handlers.percentiles();
        self.tasks_per_s_median
    }

    fn systems(&self) -> String {
        let of = |latency: Percentiles| [latency.p50, latency.p99, latency.p99_9, latency.max].map(ms);
        let row = |name: String, rates: [f64; 2], cpu: PerTask, [p50, p99, p99_9, max]: [String; 4]| {
            let [best, median] = rates.map(|rate| format!("{rate:.0}"));
            let [server, clients] = [cpu.server_us, cpu.clients_us].map(|us| format!("{us:.0}"));
            [name, best, median, server, clients, p50, p99, p99_9, max]
        };
        let none = || [const { String::new() }; 4].map(|_| "-".to_owned());
        let mut rows = vec![row(
            "bare broker, three hops".into(),
            [self.floor_tasks_per_s, self.floor_tasks_per_s_median],
            self.cpu_a_task.floor,
            of(self.floors.percentiles()),
        )];
        rows.extend(self.bundled_floor.as_ref().map(|floor| {
            let name = format!("bare broker, {} a message", floor.bundle);
            let cpu = self.cpu_a_task.bundled_floor.unwrap_or_default();
            row(name, [floor.tasks_per_s, floor.tasks_per_s_median], cpu, none())
        }));
        let rates = [self.tasks_per_s, self.tasks_per_s_median];
        rows.push(row("pipeline".into(), rates, self.cpu_a_task.ours, of(self.ours.percentiles())));
        let heads =
            ["system", "tasks/s", "median", "server us", "clients us", "p50 ms", "p99 ms", "p99.9 ms", "max ms"];
        table(heads, rows)
    }

    fn loads(&self) -> String {
        let rows = self.open_loop.iter().map(|of| {
            let Percentiles { p50, p99, p99_9, max } = of.ours.latency_ms;
            let floor = of.floor.latency_ms;
            [
                format!("{:.0} %", of.load * 100.0),
                format!("{:.0}", of.rate_per_s),
                format!("{:.0}", of.ours.heard_per_s),
                ms(p50),
                ms(p99),
                ms(p99_9),
                ms(max),
                ms(floor.p50),
                ms(floor.p99),
                ms(floor.p99_9),
            ]
        });
        let heads = [
            "load",
            "sent/s",
            "heard/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "max ms",
            "bare p50",
            "bare p99",
            "bare p99.9",
        ];
        table(heads, rows)
    }

    fn clock(&self) -> &'static str {
        match self.settings.clock {
            Clock::Poisson => "a Poisson clock",
            Clock::Fixed => "a fixed clock",
        }
    }

    fn settings(&self) -> String {
        let Settings { tasks, bundle, body_bytes, callbacks, .. } = self.settings;
        let bundles = if bundle.is_on() { format!("bundles of up to {}", bundle.0) } else { "no bundles".into() };
        let callbacks = if callbacks { "with" } else { "without" };
        let tasks = grouped(tasks as u64);
        format!("{tasks} tasks a run, bodies of {body_bytes} bytes, {bundles}, {callbacks} the callback service")
    }
}

impl report::Report for Report {
    const NAME: &'static str = "pipeline";

    fn table(&self) -> String {
        let mut text = format!(
            "{}\n\nratio {:.3} (best over best; median of turns {:.3})",
            self.systems(),
            self.ratio,
            self.ratio_median
        );
        if let Some(floor) = &self.bundled_floor {
            let BundledFloor { bundle, ratio, ratio_median, .. } = floor;
            text += &format!("; {ratio:.3} ({ratio_median:.3}) of the bare broker with {bundle} a message");
        }
        let [p50, p99] = [self.handler_ms.p50, self.handler_ms.p99].map(ms);
        text += &format!("\none at a time, until the handler begins: p50 {p50} ms, p99 {p99} ms");
        let Faults { lost, duplicates } = self.faults;
        text +=
            &format!("\n{}, {lost} lost, {duplicates} doubled, {} MB resident at most", self.settings(), self.rss_mb);
        if !self.open_loop.is_empty() {
            text += &format!(
                "\n\nopen loop by {}, latency from the moment a task was meant to be sent\n{}",
                self.clock(),
                self.loads()
            );
        }
        if let Some(pairs) = &self.pairs {
            text += &format!(
                "\n\n{} pairs at {:.0} tasks/s, a quarter of the rate without bundles ({:.0}): p99 {} ms with bundles, \
                 {} ms without, ratio {:.3} (medians)",
                pairs.pairs.len(),
                pairs.rate_per_s,
                pairs.unbundled_tasks_per_s,
                ms(pairs.p99_bundled_ms),
                ms(pairs.p99_unbundled_ms),
                pairs.p99_ratio
            );
        }
        text
    }

    fn picture(&self) -> Picture {
        let mut rates = vec![("bare broker".to_owned(), self.floor_tasks_per_s)];
        let bundled = self.bundled_floor.as_ref();
        rates.extend(bundled.map(|floor| (format!("bare, {} a message", floor.bundle), floor.tasks_per_s)));
        rates.push(("pipeline".into(), self.tasks_per_s));
        let latency = &self.latency_ms;
        let times = [
            ("bare broker p50", latency.floor_p50),
            ("pipeline p50", latency.p50),
            ("bare broker p99", latency.floor_p99),
            ("pipeline p99", latency.p99),
        ];
        let times = times.map(|(name, ms)| (name.to_owned(), ms)).to_vec();
        let mut panels = vec![
            Panel::Bars { title: "Tasks a second, results awaited".into(), bars: rates },
            Panel::Bars { title: "Latency one at a time, ms".into(), bars: times },
        ];
        let named = |of: &OpenLoop| format!("{:.0} % ({:.0}/s)", of.load * 100.0, of.rate_per_s);
        let curves = |title: &str, of: fn(&OpenLoop) -> &Under| Panel::Lines {
            title: title.into(),
            across: Axis { name: "part of the tasks that took longer", scale: Scale::Falling },
            up: Axis { name: "ms", scale: Scale::Logarithmic },
            lines: self.open_loop.iter().map(|load| (named(load), of(load).curve.clone())).collect(),
        };
        if !self.open_loop.is_empty() {
            panels.push(curves("Open loop: the pipeline's latency", |of| &of.ours));
            panels.push(curves("Open loop: the bare broker's latency", |of| &of.floor));
        }
        Picture { title: "The pipeline beside the bare broker".into(), settings: self.settings(), panels }
    }

    fn exit(&self) -> Exit {
        self.faults.exit()
    }
}

/// Milliseconds at a glance.
fn ms(value: f64) -> String {
    let digits = if value < 100.0 { 3 } else { 0 };
    format!("{value:.digits$}")
}
