//! The table at the end of the demo.

use super::{Done, succeeded};
use crate::output::table;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the demo went.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    #[serde(rename = "type")]
    task_type: &'static str,
    submitted: usize,
    succeeded: usize,
    failed: usize,
    callbacks: usize,
    wait_ms: Percentiles,
    run_ms: Percentiles,
    took_ms: u64,
    tasks_per_s: f64,
    gallery: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
}

#[derive(Debug, Serialize)]
struct Percentiles {
    p50: f64,
    p95: f64,
}

impl Percentiles {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1)) - 1;
            values.get(place).map_or(0.0, |value| (value * 10.0).round() / 10.0)
        };
        Self { p50: at(0.50), p95: at(0.95) }
    }
}

impl Summary {
    pub(crate) fn of(pictures: &[PathBuf], done: &Done, took: Duration, page: &Path, trace_id: Option<String>) -> Self {
        let all = || done.completions.values();
        let succeeded = all().filter(|completion| succeeded(completion)).count();
        let per_s = pictures.len() as f64 / took.as_secs_f64().max(0.001);
        Self {
            task_type: "image.thumbnail",
            submitted: pictures.len(),
            succeeded,
            failed: done.completions.len() - succeeded,
            callbacks: done.callbacks,
            wait_ms: Percentiles::of(all().map(|completion| completion.wait_ms).collect()),
            run_ms: Percentiles::of(all().map(|completion| completion.run_ms).collect()),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            tasks_per_s: (per_s * 10.0).round() / 10.0,
            gallery: page.to_path_buf(),
            trace: trace_id.map(|id| format!("{}/trace/{id}", jaeger_ui())),
        }
    }

    /// Every task reached a completion, and every completion its callback.
    pub(crate) fn all_went_through(&self) -> bool {
        self.succeeded + self.failed == self.submitted && self.callbacks == self.submitted
    }

    pub(crate) fn table(&self) -> String {
        let pair = |percentiles: &Percentiles| format!("{} / {}", percentiles.p50, percentiles.p95);
        let mut text = table(
            ["type", "submitted", "succeeded", "failed", "wait p50/p95 ms", "run p50/p95 ms", "tasks/s"],
            [[
                self.task_type.to_owned(),
                self.submitted.to_string(),
                self.succeeded.to_string(),
                self.failed.to_string(),
                pair(&self.wait_ms),
                pair(&self.run_ms),
                self.tasks_per_s.to_string(),
            ]],
        );
        text.push_str(&format!("\n\nGallery: {}", self.gallery.display()));
        if let Some(trace) = &self.trace {
            text.push_str(&format!("\nOne task's trace: {trace}"));
        }
        text
    }
}

/// Where people look at traces: `JETLANE_JAEGER_UI`, else Jaeger's own default.
fn jaeger_ui() -> String {
    std::env::var("JETLANE_JAEGER_UI").unwrap_or_else(|_| "http://localhost:16686".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let percentiles = Percentiles::of((1..=100).rev().map(f64::from).collect());
        assert_eq!((percentiles.p50, percentiles.p95), (50.0, 95.0));
        let none = Percentiles::of(Vec::new());
        assert_eq!((none.p50, none.p95), (0.0, 0.0));
    }
}
