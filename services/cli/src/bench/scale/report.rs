//! What the scale's bench tells.

use super::super::once::Faults;
use super::super::plot::{Panel, Picture};
use super::super::report;
use crate::output::{Exit, grouped, table};
use serde::Serialize;

/// All figures. The names are a contract.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) tasks: usize,
    pub(super) bundle: usize,
    pub(super) turns: usize,
    pub(super) cases: Vec<Case>,
    #[serde(flatten)]
    pub(super) faults: Faults,
}

/// The medians of all turns.
#[derive(Debug, Serialize)]
pub(super) struct Case {
    /// Of all queues together.
    pub(super) executors: usize,
    pub(super) queues: usize,
    pub(super) body_bytes: usize,
    pub(super) codec: &'static str,
    pub(super) submitted_by: &'static str,
    pub(super) tasks: usize,
    pub(super) tasks_per_s: f64,
    pub(super) floor_tasks_per_s: f64,
    pub(super) ratio: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bundled_floor_tasks_per_s: Option<f64>,
}

impl Report {
    fn settings(&self) -> String {
        let bundles = if self.bundle > 1 { format!("bundles of up to {}", self.bundle) } else { "no bundles".into() };
        format!("{} tasks a run, fewer of large bodies; {bundles}", grouped(self.tasks as u64))
    }
}

impl report::Report for Report {
    const NAME: &'static str = "scale";

    fn table(&self) -> String {
        let rows = self.cases.iter().map(|case| {
            let bundled = case.bundled_floor_tasks_per_s.map_or_else(|| "-".into(), |rate| format!("{rate:.0}"));
            [
                case.executors.to_string(),
                case.queues.to_string(),
                case.body_bytes.to_string(),
                case.codec.to_owned(),
                case.submitted_by.to_owned(),
                format!("{:.0}", case.floor_tasks_per_s),
                bundled,
                format!("{:.0}", case.tasks_per_s),
                format!("{:.3}", case.ratio),
                format!("{:.1}", case.tasks_per_s * case.body_bytes as f64 / 1e6),
            ]
        });
        let heads = [
            "executors",
            "queues",
            "bytes",
            "codec",
            "by",
            "bare tasks/s",
            "bare, bundled",
            "pipeline",
            "ratio",
            "MB/s",
        ];
        let Faults { lost, duplicates } = self.faults;
        let table = table(heads, rows);
        let settings = self.settings();
        format!("{table}\n\n{settings}; medians of {} turns; {lost} lost, {duplicates} doubled", self.turns)
    }

    fn picture(&self) -> Picture {
        let name = |case: &Case| {
            let Case { executors, queues, body_bytes, codec, submitted_by, .. } = case;
            format!("{executors}x{queues}, {:.1} kB {codec} ({submitted_by})", *body_bytes as f64 / 1e3)
        };
        let bars = |of: fn(&Case) -> f64| self.cases.iter().map(|case| (name(case), of(case))).collect();
        let panels = vec![
            Panel::Bars { title: "Tasks a second (executors x queues)".into(), bars: bars(|case| case.tasks_per_s) },
            Panel::Bars { title: "Of the bare broker's rate".into(), bars: bars(|case| case.ratio) },
        ];
        Picture { title: "What more of something does".into(), settings: self.settings(), panels }
    }

    fn exit(&self) -> Exit {
        self.faults.exit()
    }
}
