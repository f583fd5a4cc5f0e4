//! `jetlane types`: what is announced, what waits for an announcement, and announcing by hand.
//!
//! # Layout
//! - `shown`: one type with all that is known of it

mod shown;

use crate::args::{Types, TypesAction, TypesSet};
use crate::output::{Exit, Failure, Output, table, took};
use crate::queues;
use crate::reach::{self, Nats};
use crate::result::NO_STREAMS;
use jetlane::{Bus, Flow, QueueEntry, QueueName, TaskType, TypeEntry};
use jetlane_bus::Error;
use jetlane_bus::kv::{Bucket, Change, Watched};
use jetlane_schemas::subject::{self, BUCKET_REGISTRY, RegistryKey, STREAM_TASKS, SUBMIT_ALL};
use jetlane_schemas::{EstimateEntry, TypeLayers, TypeOverride};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// What is announced, as it is now.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    pub(crate) types: BTreeMap<TaskType, TypeEntry>,
    pub(crate) queues: BTreeMap<QueueName, QueueEntry>,
    /// What people have set of types, in the entries already.
    pub(crate) layers: TypeLayers,
    /// What is learned of run times.
    pub(crate) estimates: BTreeMap<TaskType, EstimateEntry>,
    /// Keys whose values are no such announcement, and why.
    pub(crate) unreadable: Vec<(String, String)>,
}

/// A type as programs read it. The names are a contract.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    #[serde(rename = "type")]
    task_type: &'a TaskType,
    announced: bool,
    queue: Option<&'a QueueName>,
    retries: Option<u32>,
    timeout_ms: Option<u64>,
    schema: bool,
    /// Runs that were measured.
    runs: u64,
    /// Their mean run time; absent before the first.
    mean_ms: Option<f64>,
    /// Tasks in the open door that have not been dispatched.
    waiting: u64,
}

/// Lists types, shows one or sets one.
pub(crate) async fn run(nats: &Nats, args: &Types, output: &Output) -> Result<Exit, Failure> {
    match &args.action {
        TypesAction::Ls => list(nats, output).await,
        TypesAction::Show(show) => shown::run(nats, show, output).await,
        TypesAction::Set(set) => announce(nats, set, output).await,
    }
}

/// Everything that is announced.
pub(crate) async fn announced(bus: &Bus) -> Result<Announced, Error> {
    let mut watch = bus.bucket(BUCKET_REGISTRY).await?.watch(">").await?;
    let mut announced = Announced::default();
    while let Some(Watched::Change(change)) = watch.next().await {
        announced.apply(&change);
    }
    Ok(announced)
}

/// How many tasks of each type wait in the open door.
pub(crate) async fn waiting(bus: &Bus) -> Result<BTreeMap<TaskType, u64>, Error> {
    let counts = bus.subject_counts(STREAM_TASKS, SUBMIT_ALL).await?;
    let raw = counts.into_iter().filter_map(|(subject, count)| match Flow::parse(&subject) {
        Some(Flow::Raw(task_type)) => Some((task_type, count)),
        _ => None,
    });
    Ok(raw.collect())
}

impl Announced {
    fn apply(&mut self, change: &Change) {
        let Some(json) = change.value.as_deref() else { return };
        let bad = match RegistryKey::parse(&change.key) {
            Some(RegistryKey::Type(task_type)) => match serde_json::from_slice(json) {
                Ok(entry) => {
                    let merged = self.layers.announce(&task_type, Some(entry));
                    self.types.extend(merged.map(|entry| (task_type, entry)));
                    None
                }
                Err(error) => Some(error.to_string()),
            },
            Some(RegistryKey::Override(task_type)) => match serde_json::from_slice(json) {
                Ok(set) => match self.layers.set(&task_type, Some(set)) {
                    Ok(merged) => {
                        self.types.extend(merged.map(|entry| (task_type, entry)));
                        None
                    }
                    Err(error) => Some(error.to_string()),
                },
                Err(error) => Some(error.to_string()),
            },
            Some(RegistryKey::Queue(queue)) => match serde_json::from_slice(json) {
                Ok(entry) => self.queues.insert(queue, entry).map(drop).and(None),
                Err(error) => Some(error.to_string()),
            },
            Some(RegistryKey::Estimate(task_type)) => match serde_json::from_slice(json) {
                Ok(entry) => self.estimates.insert(task_type, entry).map(drop).and(None),
                Err(error) => Some(error.to_string()),
            },
            Some(RegistryKey::Shard(_) | RegistryKey::Shared(_)) | None => None,
        };
        self.unreadable.extend(bad.map(|reason| (change.key.clone(), reason)));
    }

    /// Every queue that has an announcement of its own or a type.
    pub(crate) fn all_queues(&self) -> BTreeSet<&QueueName> {
        self.queues.keys().chain(self.types.values().map(|entry| &entry.queue)).collect()
    }
}

async fn list(nats: &Nats, output: &Output) -> Result<Exit, Failure> {
    let failed = |error: Error| Failure::of(Exit::Error, &error).help(NO_STREAMS);
    let client = reach::client(nats).await?;
    let announced = announced(client.bus()).await.map_err(failed)?;
    let waiting = waiting(client.bus()).await.map_err(failed)?;
    for (key, why) in &announced.unreadable {
        output.say(format_args!("{key} in {BUCKET_REGISTRY} is no announcement: {why}"));
    }
    let listed = listed(&announced, &waiting);
    output.data(&serde_json::json!({ "types": listed }), || {
        let rows = listed.iter().map(|listed| {
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
            let queue = listed.queue.map_or("nobody serves it".into(), ToString::to_string);
            let timeout = listed.timeout_ms.map(|ms| humantime::format_duration(Duration::from_millis(ms)).to_string());
            let schema = if listed.schema { "yes" } else { "no" }.to_owned();
            let retries = listed.retries.map(|retries| retries.to_string());
            let waiting = listed.waiting.to_string();
            let mean = or_dash(listed.mean_ms.map(took));
            [listed.task_type.to_string(), queue, or_dash(retries), or_dash(timeout), schema, mean, waiting]
        });
        table(["type", "queue", "retries", "timeout", "schema", "mean", "waiting"], rows)
    });
    Ok(Exit::Ok)
}

fn listed<'a>(announced: &'a Announced, waiting: &'a BTreeMap<TaskType, u64>) -> Vec<Listed<'a>> {
    let all: BTreeSet<&TaskType> = announced.types.keys().chain(waiting.keys()).collect();
    let one = |task_type| {
        let entry = announced.types.get(task_type);
        let times = announced.estimates.get(task_type).map(|estimate| estimate.all).filter(|times| times.runs > 0);
        Listed {
            task_type,
            announced: entry.is_some(),
            queue: entry.map(|entry| &entry.queue),
            retries: entry.map(|entry| entry.retries),
            timeout_ms: entry.map(|entry| entry.timeout_ms),
            schema: entry.is_some_and(|entry| entry.schema.is_some()),
            runs: times.map_or(0, |times| times.runs),
            mean_ms: times.map(|times| times.mean_ms()),
            waiting: waiting.get(task_type).copied().unwrap_or(0),
        }
    };
    all.into_iter().map(one).collect()
}

/// How often the options are read and changed again because somebody else was quicker.
const ATTEMPTS_MAX: usize = 16;

/// Sets options of a type beside its announcement, so that neither undoes the other.
async fn announce(nats: &Nats, set: &TypesSet, output: &Output) -> Result<Exit, Failure> {
    let wrong = |error| Failure::of(Exit::Usage, &error);
    let task_type = TaskType::new(set.task_type.as_str()).map_err(wrong)?;
    let queue = set.queue.as_deref().map(QueueName::new).transpose().map_err(wrong)?;
    let schema = set.schema.as_deref().map(schema).transpose()?;
    let client = reach::client(nats).await?;
    let failed = |error: Error| queues::failed(&error);
    let registry = client.bus().bucket(BUCKET_REGISTRY).await.map_err(failed)?;
    let key = subject::registry_override(&task_type);
    for _ in 0..ATTEMPTS_MAX {
        let announced = announcement(&registry, &task_type, output).await.map_err(failed)?;
        let (known, revision) = overrides(&registry, &key, output).await.map_err(failed)?;
        let created = announced.is_none() && known.queue.is_none();
        let wanted = changed(known, queue.clone(), schema.clone(), set);
        let entry = merged(&wanted, announced.as_ref(), &task_type)?;
        // The queue first: a type must not name one that nobody has announced.
        if created {
            registry.room_for_type(&task_type).await.map_err(failed)?;
        }
        let new_queue = registry.announce_queue(&entry.queue).await.map_err(failed)?;
        if registry.replace(&key, &wanted, revision).await.map_err(failed)?.is_none() {
            // Somebody was quicker: what they wrote is what is changed.
            continue;
        }
        let told = serde_json::json!({
            "type": task_type, "created": created, "queue_created": new_queue, "entry": entry, "set": wanted,
        });
        output.data(&told, || {
            let how = if created { "announced" } else { "changed" };
            let new = if new_queue { " (new)" } else { "" };
            let set = match wanted.names().join(", ") {
                names if names.is_empty() => "nothing is set by hand".into(),
                names => format!("set by hand: {names}"),
            };
            format!("{task_type} {how}: served by the executors of the queue {}{new}; {set}.", entry.queue)
        });
        return Ok(Exit::Ok);
    }
    Err(Failure::new(Exit::Error, format!("others changed {task_type} {ATTEMPTS_MAX} times meanwhile"))
        .help("Nothing was written. Say it again."))
}

/// The announcement as it is; none where what is there is no such JSON.
async fn announcement(registry: &Bucket, task_type: &TaskType, output: &Output) -> Result<Option<TypeEntry>, Error> {
    let value: Option<serde_json::Value> = registry.get(&subject::registry_type(task_type)).await?;
    match value.map(serde_json::from_value).transpose() {
        Ok(known) => Ok(known),
        Err(error) => {
            output.say(format_args!("What was announced of {task_type} is no announcement and is ignored: {error}"));
            Ok(None)
        }
    }
}

/// What people have set, and its revision; nothing where what is there is no such JSON, which is then replaced.
async fn overrides(registry: &Bucket, key: &str, output: &Output) -> Result<(TypeOverride, u64), Error> {
    let (value, revision) = registry.get_revision::<serde_json::Value>(key).await?;
    match value.map(serde_json::from_value).transpose() {
        Ok(known) => Ok((known.unwrap_or_default(), revision)),
        Err(error) => {
            output.say(format_args!("What stood in {key} cannot be read and is replaced: {error}"));
            Ok((TypeOverride::default(), revision))
        }
    }
}

/// What people have set, with the changes.
fn changed(
    known: TypeOverride,
    queue: Option<QueueName>,
    schema: Option<serde_json::Value>,
    set: &TypesSet,
) -> TypeOverride {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let known = if set.reset { TypeOverride::default() } else { known };
    TypeOverride {
        queue: queue.or(known.queue),
        schema: schema.or(known.schema),
        retries: set.retries.or(known.retries),
        timeout_ms: set.timeout.map(ms).or(known.timeout_ms),
        backoff_ms: set.backoff.map(ms).or(known.backoff_ms),
        backoff_ms_max: known.backoff_ms_max,
    }
}

/// The type as it is served, checked.
fn merged(set: &TypeOverride, announced: Option<&TypeEntry>, task_type: &TaskType) -> Result<TypeEntry, Failure> {
    let Some(entry) = set.over(announced) else {
        return Err(Failure::new(Exit::Usage, format!("{task_type} is new, and nothing says which queue serves it"))
            .help(format!("Say it: jetlane types set {task_type} --queue QUEUE")));
    };
    entry.check().map_err(|error| Failure::of(Exit::Usage, &error))?;
    Ok(entry)
}

/// A schema that the dispatcher can check bodies against.
fn schema(path: &Path) -> Result<serde_json::Value, Failure> {
    let wrong = |why: String| Failure::new(Exit::Usage, format!("the schema in {} {why}", path.display()));
    let text = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let schema = serde_json::from_slice(&text).map_err(|error| wrong(format!("is no JSON: {error}")))?;
    match jsonschema::validator_for(&schema) {
        Ok(_) => Ok(schema),
        Err(error) => Err(wrong(format!("is no JSON Schema that stands alone: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task_type(name: &str) -> TaskType {
        TaskType::new(name).expect("valid")
    }

    fn set(change: impl FnOnce(&mut TypesSet)) -> TypesSet {
        let mut set = TypesSet {
            task_type: "a.b".into(),
            queue: None,
            retries: None,
            timeout: None,
            backoff: None,
            schema: None,
            reset: false,
        };
        change(&mut set);
        set
    }

    fn change(key: &str, json: &str) -> Change {
        Change { key: key.into(), value: Some(json.as_bytes().to_vec()), revision: 1 }
    }

    #[test]
    fn a_type_that_waits_unannounced_is_listed_beside_those_that_are_announced() {
        let mut announced = Announced::default();
        announced.apply(&change("types.a.b", r#"{"queue":"q","schema":{"type":"object"}}"#));
        announced.apply(&change("types.c", "no JSON"));
        announced.apply(&change("estimates.a.b", r#"{"runs":7,"mu":6.907755278982137,"variance":0.0}"#));
        let waiting = BTreeMap::from([(task_type("x.y"), 3), (task_type("a.b"), 1)]);
        let listed = listed(&announced, &waiting);
        let told: Vec<_> = listed.iter().map(|l| (l.task_type.as_str(), l.announced, l.schema, l.waiting)).collect();
        assert_eq!(told, [("a.b", true, true, 1), ("x.y", false, false, 3)]);
        assert_eq!((listed[0].runs, listed[0].mean_ms.map(f64::round), listed[1].mean_ms), (7, Some(1.0), None));
        assert_eq!(announced.unreadable[0].0, "types.c");
        assert_eq!(announced.all_queues().len(), 1);
    }

    #[test]
    fn new_type_needs_a_queue_and_a_known_one_keeps_what_is_not_said() {
        let queue = QueueName::new("q").expect("valid");
        let name = task_type("a.b");
        let nothing = changed(TypeOverride::default(), None, None, &set(|_| {}));
        assert_eq!(merged(&nothing, None, &name).expect_err("needs a queue").exit, Exit::Usage);
        let known = TypeOverride { retries: Some(7), ..TypeOverride::default() };
        let wanted = changed(known, None, None, &set(|set| set.timeout = Some(Duration::from_secs(5))));
        let entry = merged(&wanted, Some(&TypeEntry::new(queue.clone())), &name).expect("fits");
        assert_eq!((entry.queue, entry.retries, entry.timeout_ms), (queue, 7, 5_000));
        let reset = changed(wanted, None, None, &set(|set| (set.reset, set.retries) = (true, Some(1))));
        assert_eq!(reset, TypeOverride { retries: Some(1), ..TypeOverride::default() });
    }

    #[test]
    fn option_out_of_range_is_refused_and_a_long_back_off_raises_its_limit() {
        let known = TypeEntry::new(QueueName::new("q").expect("valid"));
        let change = |set: &TypesSet| {
            merged(&changed(TypeOverride::default(), None, None, set), Some(&known), &task_type("a.b"))
        };
        for bad in [set(|set| set.retries = Some(101)), set(|set| set.timeout = Some(Duration::ZERO))] {
            assert_eq!(change(&bad).expect_err("refused").exit, Exit::Usage);
        }
        let long = set(|set| set.backoff = Some(Duration::from_secs(3_600)));
        assert_eq!(change(&long).expect("fits").backoff_ms_max, 3_600_000);
    }

    #[test]
    fn a_schema_that_cannot_be_checked_against_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for (text, good) in [
            (r#"{"type":"object"}"#, true),
            ("{", false),
            (r#"{"type":"nonsense"}"#, false),
            (r#"{"$ref":"http://127.0.0.1:1/s.json"}"#, false),
        ] {
            std::fs::write(file.path(), text).expect("written");
            assert_eq!(schema(file.path()).is_ok(), good, "{text}");
        }
    }
}
