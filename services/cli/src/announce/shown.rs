//! `jetlane types show`: a type's announcement, and what is learned of its run times.

use super::{announced, waiting};
use crate::args::TypesShow;
use crate::moment::ago;
use crate::output::{Exit, Failure, Output, grouped, table, took};
use crate::reach::{self, Nats};
use crate::result::NO_STREAMS;
use jetlane::{TaskType, TypeEntry};
use jetlane_bus::{Error, clock};
use jetlane_schemas::TypeOverride;
use jetlane_schemas::registry::{EstimateEntry, RunTimes};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A type as programs read it. The names are a contract.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    #[serde(rename = "type")]
    task_type: &'a TaskType,
    announced: bool,
    entry: Option<&'a TypeEntry>,
    /// Options of the entry that people have set.
    set: Vec<&'static str>,
    waiting: u64,
    /// All its tasks together; absent before the first run was measured.
    run_times: Option<Times>,
    /// By size key.
    sizes: BTreeMap<&'a str, Times>,
    learned_at: Option<String>,
}

/// Learned run times.
#[derive(Debug, Clone, Copy, Serialize)]
struct Times {
    runs: u64,
    mean_ms: f64,
    p50_ms: f64,
    p90_ms: f64,
}

impl Times {
    fn of(times: &RunTimes) -> Option<Self> {
        let RunTimes { runs, .. } = *times;
        (runs > 0).then(|| Self { runs, mean_ms: times.mean_ms(), p50_ms: times.p50_ms(), p90_ms: times.p90_ms() })
    }

    fn row(self, name: &str) -> [String; 5] {
        [name.to_owned(), grouped(self.runs), took(self.mean_ms), took(self.p50_ms), took(self.p90_ms)]
    }
}

/// Shows one type.
pub(super) async fn run(nats: &Nats, args: &TypesShow, output: &Output) -> Result<Exit, Failure> {
    let failed = |error: Error| Failure::of(Exit::Error, &error).help(NO_STREAMS);
    let task_type = TaskType::new(args.task_type.as_str()).map_err(|error| Failure::of(Exit::Usage, &error))?;
    let client = reach::client(nats).await?;
    let announced = announced(client.bus()).await.map_err(failed)?;
    let waiting = waiting(client.bus()).await.map_err(failed)?.get(&task_type).copied();
    let entry = announced.types.get(&task_type);
    let estimate = announced.estimates.get(&task_type);
    if entry.is_none() && estimate.is_none() && waiting.is_none() {
        return Err(Failure::new(Exit::NotFound, format!("nobody has announced {task_type}, and none of it waits"))
            .help("`jetlane types ls` lists what is there."));
    }
    let set = announced.layers.of_people(&task_type).map(TypeOverride::names).unwrap_or_default();
    let shown = Shown { set, ..shown(&task_type, entry, estimate, waiting.unwrap_or(0)) };
    output.data(&shown, || page(&shown, estimate));
    Ok(Exit::Ok)
}

fn shown<'a>(
    task_type: &'a TaskType,
    entry: Option<&'a TypeEntry>,
    estimate: Option<&'a EstimateEntry>,
    waiting: u64,
) -> Shown<'a> {
    let sizes = estimate.iter().flat_map(|estimate| &estimate.sizes);
    Shown {
        task_type,
        announced: entry.is_some(),
        entry,
        set: Vec::new(),
        waiting,
        run_times: estimate.and_then(|estimate| Times::of(&estimate.all)),
        sizes: sizes.filter_map(|(key, times)| Some((key.as_str(), Times::of(times)?))).collect(),
        learned_at: estimate.filter(|one| one.updated_at.0 > 0).map(|one| clock::rfc3339(one.updated_at)),
    }
}

fn page(shown: &Shown<'_>, estimate: Option<&EstimateEntry>) -> String {
    let mut lines = Vec::new();
    match shown.entry {
        Some(entry) => {
            let told = |ms| humantime::format_duration(Duration::from_millis(ms)).to_string();
            lines.push(("queue", entry.queue.to_string()));
            lines.push(("retries", entry.retries.to_string()));
            lines.push(("timeout", told(entry.timeout_ms)));
            lines.push(("back-off", format!("{} to {}", told(entry.backoff_ms), told(entry.backoff_ms_max))));
            lines.push(("codec", entry.codec.media_type().into()));
            if !shown.set.is_empty() {
                lines.push(("set", format!("{} (by `jetlane types set`)", shown.set.join(", "))));
            }
            lines.push(("schema", if entry.schema.is_some() { "yes" } else { "no" }.into()));
        }
        None => lines.push(("queue", "nobody serves it".into())),
    }
    lines.push(("waiting", format!("{} in the open door", grouped(shown.waiting))));
    let lines: String = lines.iter().map(|(name, value)| format!("\n  {name:<9} {value}")).collect();
    let Some(all) = shown.run_times else {
        return format!("{}{lines}\n\nNo run of it was measured yet.", shown.task_type);
    };
    let rows = shown.sizes.iter().map(|(key, times)| times.row(&crate::result::plain(key)));
    let table = table(["size key", "runs", "mean", "p50", "p90"], std::iter::once(all.row("(all)")).chain(rows));
    let when = estimate.filter(|one| one.updated_at.0 > 0).map(|one| format!(", written {}", ago(one.updated_at)));
    format!("{}{lines}\n\nRun times as learned{}:\n{table}", shown.task_type, when.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane::QueueName;

    #[test]
    fn run_times_are_told_for_all_tasks_and_by_size_key() {
        let name = TaskType::new("a.b").expect("valid");
        let entry = TypeEntry::new(QueueName::default_queue());
        // 1 ms and 1 s, exactly.
        let times = |ms: f64, runs| RunTimes { runs, mu: (ms * 1_000.0).ln(), variance: 0.0 };
        let sizes = [("large".to_owned(), times(1_000.0, 3)), ("never".to_owned(), times(1.0, 0))].into();
        let estimate = EstimateEntry { all: times(1.0, 12_000), sizes, ..EstimateEntry::default() };
        let shown = shown(&name, Some(&entry), Some(&estimate), 4);
        let json = serde_json::to_value(&shown).expect("JSON");
        assert_eq!(json["run_times"]["runs"], 12_000);
        assert!((json["sizes"]["large"]["p90_ms"].as_f64().expect("a number") - 1_000.0).abs() < 1e-6, "{json}");
        assert_eq!(json["sizes"].as_object().map(serde_json::Map::len), Some(1), "what never ran has no times");
        let page = page(&shown, Some(&estimate));
        assert!(page.contains("12,000") && page.contains("1000 ms") && page.contains("4 in the open door"), "{page}");
    }

    #[test]
    fn a_type_that_never_ran_says_so() {
        let name = TaskType::new("a.b").expect("valid");
        let page = page(&shown(&name, None, None, 1), None);
        assert!(page.contains("nobody serves it") && page.contains("No run of it was measured"), "{page}");
    }
}
