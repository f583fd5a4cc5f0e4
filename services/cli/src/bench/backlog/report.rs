//! What the backlog's bench tells.

use super::super::bundling::BundleMax;
use super::super::latency::ratio;
use super::super::once::Faults;
use super::super::plot::{Axis, Panel, Picture, Scale};
use super::super::report;
use super::super::usage::megabytes;
use super::System;
use super::drain::Drain;
use super::memory::Sample;
use crate::output::{Exit, grouped, table};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Points of the memory over time that are told.
const POINTS: usize = 200;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) tasks: usize,
    pub(super) bundle: BundleMax,
    pub(super) body_bytes: usize,
}

/// The bare loop over the same backlog.
pub(super) struct Bare {
    pub(super) bundle: usize,
    pub(super) submitted: Duration,
    pub(super) drain: Drain,
}

/// All figures. The names are a contract.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    tasks: usize,
    bundle: usize,
    body_bytes: usize,
    #[serde(flatten)]
    ours: Drained,
    /// Drained, best over the bare loop's.
    ratio: f64,
    floor: Drained,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundled_floor: Option<BundledFloor>,
    /// Seconds from the start of the executor to the first completion.
    first_heard_s: f64,
    /// Resident, in MB: before the drain, at most, at the end.
    memory_mb: BTreeMap<&'static str, Resident>,
    memory_over_time: Vec<Point>,
    /// When the drain began on the axis of `memory_over_time`.
    drain_at_s: f64,
    #[serde(flatten)]
    faults: Faults,
}

#[derive(Debug, Serialize)]
struct BundledFloor {
    bundle: usize,
    ratio: f64,
    #[serde(flatten)]
    drained: Drained,
}

#[derive(Debug, Serialize)]
struct Drained {
    submitted_per_s: f64,
    drained_per_s: f64,
    /// Tasks of the first part, and of the last.
    part: usize,
    first_per_s: f64,
    last_per_s: f64,
    last_over_first: f64,
    rate_over_time: Vec<(f64, f64)>,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Resident {
    /// None where it was off.
    before_drain: Option<f64>,
    peak: f64,
    end: f64,
}

#[derive(Debug, Serialize)]
struct Point {
    at_s: f64,
    #[serde(flatten)]
    mb: BTreeMap<&'static str, f64>,
}

impl Drained {
    fn of(tasks: usize, submitted: Duration, drain: &Drain) -> Self {
        let (first, last) = (drain.first_rate(), drain.last_rate());
        let round = |(at, rate): (f64, f64)| ((at * 1e3).round() / 1e3, rate.round());
        Self {
            submitted_per_s: (tasks as f64 / submitted.as_secs_f64().max(f64::MIN_POSITIVE)).round(),
            drained_per_s: drain.rate().round(),
            part: drain.part(),
            first_per_s: first.round(),
            last_per_s: last.round(),
            last_over_first: ratio(last, first),
            rate_over_time: drain.over_time().into_iter().map(round).collect(),
        }
    }
}

impl Report {
    pub(super) fn of(settings: Settings, floor: &Bare, bundled_floor: Option<&Bare>, system: &System) -> Self {
        let Settings { tasks, bundle, body_bytes } = settings;
        let ours = Drained::of(tasks, system.submitted, &system.drain);
        let bare = |bare: &Bare| Drained::of(tasks, bare.submitted, &bare.drain);
        let floor = bare(floor);
        let bundled_floor = bundled_floor.map(|of| {
            let drained = bare(of);
            BundledFloor { bundle: of.bundle, ratio: ratio(ours.drained_per_s, drained.drained_per_s), drained }
        });
        Self {
            tasks,
            bundle: bundle.0,
            body_bytes,
            ratio: ratio(ours.drained_per_s, floor.drained_per_s),
            ours,
            floor,
            bundled_floor,
            first_heard_s: system.drain.first().as_secs_f64(),
            memory_mb: memory(&system.samples, system.drain_at),
            memory_over_time: points(&system.samples),
            drain_at_s: system.drain_at.as_secs_f64(),
            faults: system.faults,
        }
    }

    fn settings(&self) -> String {
        let bundles = if self.bundle > 1 { format!("bundles of up to {}", self.bundle) } else { "no bundles".into() };
        format!("{} tasks, bodies of {} bytes, {bundles}", grouped(self.tasks as u64), self.body_bytes)
    }

    fn drains(&self) -> Vec<(String, &Drained)> {
        let bundled = self.bundled_floor.as_ref();
        let bundled = bundled.map(|floor| (format!("bare broker, {} a message", floor.bundle), &floor.drained));
        let bare = [("bare broker, three hops".to_owned(), &self.floor)];
        bare.into_iter().chain(bundled).chain([("pipeline".to_owned(), &self.ours)]).collect()
    }
}

/// The memory of each process, those that were not there before the drain included.
fn memory(samples: &[Sample], drain_at: Duration) -> BTreeMap<&'static str, Resident> {
    let mut memory: BTreeMap<&'static str, Resident> = BTreeMap::new();
    for sample in samples {
        for (name, kb) in &sample.resident {
            let of = memory.entry(name).or_default();
            let mb = megabytes(*kb);
            if sample.at <= drain_at {
                of.before_drain = Some(mb);
            }
            of.peak = of.peak.max(mb);
            of.end = mb;
        }
    }
    memory
}

fn points(samples: &[Sample]) -> Vec<Point> {
    let every = samples.len().div_ceil(POINTS).max(1);
    let told = samples.iter().step_by(every);
    told.map(|sample| Point {
        at_s: (sample.at.as_secs_f64() * 1e3).round() / 1e3,
        mb: sample.resident.iter().map(|(name, kb)| (*name, megabytes(*kb))).collect(),
    })
    .collect()
}

impl report::Report for Report {
    const NAME: &'static str = "backlog";

    fn table(&self) -> String {
        let rows = self.drains().into_iter().map(|(name, of)| {
            [
                name,
                format!("{:.0}", of.submitted_per_s),
                format!("{:.0}", of.drained_per_s),
                format!("{:.0}", of.first_per_s),
                format!("{:.0}", of.last_per_s),
                format!("{:.3}", of.last_over_first),
            ]
        });
        let part = grouped(self.ours.part as u64);
        let (first, last) = (format!("first {part}/s"), format!("last {part}/s"));
        let drains = table(["system", "submitted/s", "drained/s", &first, &last, "last/first"], rows);
        let memory = self.memory_mb.iter().map(|(name, of)| {
            let before = of.before_drain.map_or_else(|| "off".into(), |mb| format!("{mb:.1}"));
            [(*name).to_owned(), before, format!("{:.1}", of.peak), format!("{:.1}", of.end)]
        });
        let memory = table(["process", "before drain MB", "at most MB", "at the end MB"], memory);
        let mut ratios = format!("ratio {:.3} of the bare broker", self.ratio);
        if let Some(floor) = &self.bundled_floor {
            ratios += &format!(", {:.3} of the bare broker with {} a message", floor.ratio, floor.bundle);
        }
        let Faults { lost, duplicates } = self.faults;
        format!(
            "{drains}\n\n{ratios}; first completion {:.1} s after the executor's start\n{}; {lost} lost, {duplicates} \
             doubled\n\n{memory}",
            self.first_heard_s,
            self.settings()
        )
    }

    fn picture(&self) -> Picture {
        let rates = self.drains().into_iter().map(|(name, of)| (name, of.rate_over_time.clone()));
        let memory = self.memory_mb.keys().map(|name| {
            let points = self.memory_over_time.iter().filter_map(|point| Some((point.at_s, *point.mb.get(name)?)));
            ((*name).to_owned(), points.collect())
        });
        let across = |name| Axis { name, scale: Scale::Linear };
        let panels = vec![
            Panel::Lines {
                title: "Rate of the drain".into(),
                across: across("s since the drain began"),
                up: Axis { name: "tasks/s", scale: Scale::Linear },
                lines: rates.collect(),
            },
            Panel::Lines {
                title: format!("Resident memory; the drain began at {:.1} s", self.drain_at_s),
                across: across("s since the first submission"),
                up: Axis { name: "MB", scale: Scale::Linear },
                lines: memory.collect(),
            },
        ];
        Picture { title: "A backlog, submitted and drained".into(), settings: self.settings(), panels }
    }

    fn exit(&self) -> Exit {
        self.faults.exit()
    }
}
