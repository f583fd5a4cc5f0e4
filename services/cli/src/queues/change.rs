//! `jetlane queues set`: a queue's announcement is read, changed, and written if nobody was quicker.

use super::{failed, max_wait, round, weights, yes};
use crate::args::needs::written;
use crate::args::{MaxWait, QueuesSet};
use crate::output::{Exit, Failure, Output};
use jetlane::{Bus, QueueEntry, QueueName};
use jetlane_bus::Error;
use jetlane_bus::kv::Bucket;
use jetlane_schemas::registry::{Order, Round, Weights};
use jetlane_schemas::subject::{self, BUCKET_REGISTRY};
use jetlane_schemas::{Fit, FitEntry, PolicyName};
use serde::Serialize;

/// How often it is read and changed again because somebody else was quicker.
const ATTEMPTS_MAX: usize = 16;

/// What is to become different.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    policy: Option<PolicyName>,
    weights: Option<Weights>,
    round: Option<Round>,
    max_wait_ms: Option<Option<u64>>,
    fits: Vec<FitEntry>,
    dropped: Vec<Fit>,
    paused: Option<bool>,
}

/// A setting that has changed. The names are a contract.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Changed {
    setting: String,
    from: String,
    to: String,
}

impl Wanted {
    /// What the words say.
    pub(super) fn read(set: &QueuesSet) -> Result<Self, Failure> {
        let dropped = set.drop_fit.iter().map(|name| Fit::new(name.as_str())).collect::<Result<_, _>>();
        Ok(Self {
            policy: set.policy,
            weights: set.weights,
            round: set.round,
            max_wait_ms: set.max_wait.map(|wait| match wait {
                MaxWait::None => None,
                MaxWait::After(time) => Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            }),
            fits: set.fit.clone(),
            dropped: dropped.map_err(|error| Failure::of(Exit::Usage, &error))?,
            paused: match (set.pause, set.resume) {
                (true, _) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
            },
        })
    }

    /// The announcement with the changes, checked.
    fn apply(&self, entry: &QueueEntry) -> Result<QueueEntry, Failure> {
        let order = Order {
            policy: self.policy.unwrap_or(entry.order.policy),
            weights: self.weights.unwrap_or(entry.order.weights),
            round: self.round.unwrap_or(entry.order.round),
            max_wait_ms: self.max_wait_ms.unwrap_or(entry.order.max_wait_ms),
        };
        let mut fits = entry.fits.clone();
        for name in &self.dropped {
            let before = fits.len();
            fits.retain(|fit| fit.name != *name);
            if *name == Fit::default() || fits.len() == before {
                let why = if *name == Fit::default() { "is always there" } else { "is no fit of this queue" };
                return Err(Failure::new(Exit::Usage, format!("{name} {why}: it cannot be dropped")));
            }
        }
        for fit in &self.fits {
            match fits.iter_mut().find(|known| known.name == fit.name) {
                Some(known) => *known = fit.clone(),
                None => fits.push(fit.clone()),
            }
        }
        let changed = QueueEntry { order, fits, paused: self.paused.unwrap_or(entry.paused) };
        changed.check().map_err(|error| Failure::of(Exit::Usage, &error))?;
        Ok(changed)
    }
}

/// Changes a queue, and tells what has changed.
pub(super) async fn run(bus: &Bus, queue: &QueueName, wanted: &Wanted, output: &Output) -> Result<Exit, Failure> {
    let registry = bus.bucket(BUCKET_REGISTRY).await.map_err(|error| failed(&error))?;
    let key = subject::registry_queue(queue);
    for _ in 0..ATTEMPTS_MAX {
        let (known, revision) = known(&registry, &key, output).await.map_err(|error| failed(&error))?;
        let before = known.clone().unwrap_or_default();
        let after = wanted.apply(&before)?;
        let changed = differences(&before, &after);
        if known.is_none() {
            registry.room_for_queue(queue).await.map_err(|error| failed(&error))?;
        }
        if known.as_ref() != Some(&after)
            && registry.replace(&key, &after, revision).await.map_err(|error| failed(&error))?.is_none()
        {
            // Somebody was quicker: what they wrote is what is changed.
            continue;
        }
        let created = known.is_none();
        let told = serde_json::json!({ "queue": queue, "created": created, "changed": changed, "entry": after });
        output.data(&told, || page(queue, created, &changed));
        return Ok(Exit::Ok);
    }
    Err(Failure::new(Exit::Error, format!("others changed the queue {queue} {ATTEMPTS_MAX} times meanwhile"))
        .help("Nothing was written. Say it again."))
}

/// The announcement as it is, and its revision; none where what is there is no such JSON, which is then
/// replaced.
async fn known(registry: &Bucket, key: &str, output: &Output) -> Result<(Option<QueueEntry>, u64), Error> {
    let (value, revision) = registry.get_revision::<serde_json::Value>(key).await?;
    match value.map(serde_json::from_value).transpose() {
        Ok(known) => Ok((known, revision)),
        Err(error) => {
            output.say(format_args!("What stood in {key} is no announcement and is replaced: {error}"));
            Ok((None, revision))
        }
    }
}

fn differences(before: &QueueEntry, after: &QueueEntry) -> Vec<Changed> {
    let mut changed = Vec::new();
    let mut compare = |setting: &str, from: String, to: String| {
        if from != to {
            changed.push(Changed { setting: setting.into(), from, to });
        }
    };
    compare("policy", before.order.policy.to_string(), after.order.policy.to_string());
    compare("weights", weights(before.order.weights), weights(after.order.weights));
    compare("round", round(before.order.round).into(), round(after.order.round).into());
    compare("max wait", max_wait(before.order.max_wait_ms), max_wait(after.order.max_wait_ms));
    compare("paused", yes(before.paused), yes(after.paused));
    let covers = |entry: &QueueEntry, name: &Fit| {
        let fit = entry.fits.iter().find(|fit| fit.name == *name);
        fit.map_or_else(|| "undeclared".to_owned(), |fit| written(&fit.covers))
    };
    for fit in &before.fits {
        compare(&format!("fit {}", fit.name), written(&fit.covers), covers(after, &fit.name));
    }
    for fit in after.fits.iter().filter(|fit| before.fits.iter().all(|known| known.name != fit.name)) {
        compare(&format!("fit {}", fit.name), "undeclared".into(), written(&fit.covers));
    }
    changed
}

fn page(queue: &QueueName, created: bool, changed: &[Changed]) -> String {
    let head = match (created, changed.is_empty()) {
        (true, _) => format!("The queue {queue} is announced (new)."),
        (false, true) => format!("The queue {queue} was so already: nothing has changed."),
        (false, false) => format!("The queue {queue} has changed."),
    };
    let lines = changed.iter().map(|Changed { setting, from, to }| format!("\n  {setting}: {from} -> {to}"));
    lines.fold(head, |text, line| text + &line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_schemas::Needs;

    fn fit(name: &str, cpu_milli: u32) -> FitEntry {
        FitEntry { name: Fit::new(name).expect("valid"), covers: Needs { cpu_milli, ..Needs::default() } }
    }

    #[test]
    fn what_is_not_said_stays_and_what_has_changed_is_told() {
        let mut before = QueueEntry::default();
        before.order.weights = Weights([9, 3, 2, 1]);
        before.fits.push(fit("small", 500));
        let wanted = Wanted {
            policy: Some(PolicyName::Sjf),
            max_wait_ms: Some(Some(30_000)),
            fits: vec![fit("large", 4_000), fit("small", 1_000)],
            paused: Some(true),
            ..Wanted::default()
        };
        let after = wanted.apply(&before).expect("in range");
        assert_eq!(after.order.weights, before.order.weights);
        let told = differences(&before, &after);
        let told: Vec<_> = told.iter().map(|c| (c.setting.as_str(), c.from.as_str(), c.to.as_str())).collect();
        assert_eq!(
            told,
            [
                ("policy", "adaptive", "sjf"),
                ("max wait", "none: a multiple of the mean run time", "30s"),
                ("paused", "no", "yes"),
                ("fit small", "cpu:0.5", "cpu:1"),
                ("fit large", "undeclared", "cpu:4"),
            ]
        );
        let back = Wanted { max_wait_ms: Some(None), dropped: vec![fit("large", 0).name], ..Wanted::default() };
        let back = back.apply(&after).expect("in range");
        assert_eq!((back.order.max_wait_ms, back.fits.len()), (None, 2));
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        let entry = QueueEntry::default();
        for bad in [
            Wanted { weights: Some(Weights([0, 1, 1, 1])), ..Wanted::default() },
            Wanted { fits: vec![fit("any", 1)], ..Wanted::default() },
            Wanted { fits: (0..20).map(|n| fit(&format!("f{n}"), 1)).collect(), ..Wanted::default() },
            Wanted { dropped: vec![Fit::default()], ..Wanted::default() },
            Wanted { dropped: vec![fit("none", 0).name], ..Wanted::default() },
        ] {
            assert_eq!(bad.apply(&entry).expect_err("refused").exit, Exit::Usage, "{bad:?}");
        }
    }
}
