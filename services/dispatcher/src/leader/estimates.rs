//! What is learned of run times: kept in the registry, so that the next leader knows it and people see it.

use super::Leader;
use super::runs::Run;
use crate::registry::Registry;
use jetlane_bus::clock;
use jetlane_core::estimate::{Estimates, Observed, TYPES_MAX};
use jetlane_schemas::subject::{self, BUCKET_REGISTRY};
use jetlane_schemas::{EstimateEntry, Micros, QueueName, TaskEvent, TaskType};
use std::collections::BTreeMap;

/// How often what is learned of a type is written, at most.
const WRITE_EVERY: Micros = Micros(5_000_000);
/// The most types that are written at one look; the others follow at the next.
const WRITES_A_LOOK: usize = 64;

/// The run times of a queue's types, and what of them the registry does not know.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    estimates: Estimates,
    types: BTreeMap<TaskType, Known>,
}

/// What is expected of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) mean: Micros,
    /// What nearly all runs of its kind stay under; `None` where too little is known of them.
    pub(crate) most: Option<Micros>,
}

#[derive(Debug, Default)]
struct Known {
    /// Whether an executor has told a run time: what is overheard is not believed then.
    is_measured: bool,
    has_changed: bool,
    written_at: Micros,
}

impl Learned {
    /// What is expected of a task: what its last run told, or what is learned of its type.
    pub(crate) fn expect(&self, task: &TaskEvent) -> Expected {
        match task.remaining_us.filter(|_| task.yields > 0) {
            Some(remaining) => Expected { mean: Micros(remaining), most: None },
            None => self.expect_of(&task.task_type, task.size_key.as_deref(), task.estimate_us),
        }
    }

    /// What is expected of a task of this type.
    pub(crate) fn expect_of(&self, task_type: &TaskType, size_key: Option<&str>, hint_us: Option<u64>) -> Expected {
        let estimate = self.estimates.expect(task_type, size_key, hint_us.map(Micros));
        Expected { mean: estimate.mean, most: estimate.p99 }
    }

    /// Takes note of a run time as its executor measured it.
    pub(crate) fn measured(&mut self, run: &Run, time: Micros, observed: Observed) {
        if let Some(known) = self.known(&run.task_type) {
            (known.is_measured, known.has_changed) = (true, true);
            self.observe(run, time, observed);
        }
    }

    /// Takes note of the time from a dispatch to its answer, unless better is known of the type.
    pub(crate) fn overheard(&mut self, run: &Run, time: Micros, observed: Observed) {
        if let Some(known) = self.known(&run.task_type)
            && !known.is_measured
        {
            known.has_changed = true;
            self.observe(run, time, observed);
        }
    }

    fn observe(&mut self, run: &Run, time: Micros, observed: Observed) {
        self.estimates.observe(&run.task_type, run.size_key.as_deref(), time, observed);
        if let Some(hint) = run.hint.filter(|_| observed == Observed::Whole) {
            self.estimates.observe_hint(&run.task_type, hint, time);
        }
    }

    /// Takes up what was kept of a queue's types that are new here.
    pub(crate) fn restore(&mut self, registry: &Registry, queue: &QueueName) {
        for task_type in registry.types_of(queue) {
            if self.types.contains_key(task_type) {
                continue;
            }
            if let Some(kept) = registry.estimate(task_type) {
                self.estimates.restore(task_type, &kept);
            }
            self.known(task_type);
        }
    }

    /// What is to be written now of what has changed, at most so many.
    fn changed(&mut self, now: Micros, every: Micros, most: usize) -> Vec<(TaskType, EstimateEntry)> {
        let is_due = |known: &Known| known.has_changed && now.0.saturating_sub(known.written_at.0) >= every.0;
        let due = self.types.iter_mut().filter(|(_, known)| is_due(known)).take(most);
        let estimates = &self.estimates;
        due.filter_map(|(task_type, known)| {
            (known.has_changed, known.written_at) = (false, now);
            Some((task_type.clone(), estimates.snapshot(now, task_type)?))
        })
        .collect()
    }

    /// `None` for a type beyond what can be known.
    fn known(&mut self, task_type: &TaskType) -> Option<&mut Known> {
        if !self.types.contains_key(task_type) {
            if self.types.len() >= TYPES_MAX {
                return None;
            }
            self.types.insert(task_type.clone(), Known::default());
        }
        self.types.get_mut(task_type)
    }
}

impl Leader {
    /// Writes what was learned since it was last written.
    pub(super) fn keep_learned(&mut self) {
        for (task_type, entry) in self.learned.changed(clock::now(), WRITE_EVERY, WRITES_A_LOOK) {
            let key = subject::registry_estimate(&task_type);
            self.write("keep what was learned of a type", |bus| async move {
                bus.bucket(BUCKET_REGISTRY).await?.put(&key, &entry).await
            });
        }
    }

    /// Writes all that was learned, and waits for it.
    pub(super) async fn keep_all_learned(&mut self) -> Result<(), jetlane_bus::Error> {
        let changed = self.learned.changed(clock::now(), Micros(0), TYPES_MAX);
        if changed.is_empty() {
            return Ok(());
        }
        let bucket = self.world.bus.bucket(BUCKET_REGISTRY).await?;
        let keys = changed.iter().map(|(task_type, entry)| (subject::registry_estimate(task_type), entry));
        let written = keys.map(|(key, entry)| {
            let bucket = &bucket;
            async move { bucket.put(&key, entry).await }
        });
        futures::future::try_join_all(written).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_core::EntryId;

    fn name(text: &str) -> TaskType {
        TaskType::new(text).expect("valid")
    }

    fn run() -> Run {
        Run::of(Micros(0), EntryId(1), &task(), Micros(1))
    }

    fn task() -> TaskEvent {
        let id = jetlane_schemas::TaskId::generate();
        TaskEvent::new(id, name("a"), QueueName::default_queue(), Micros(0), Vec::new())
    }

    fn observe(learned: &mut Learned, time: u64) {
        learned.measured(&run(), Micros(time), Observed::Whole);
    }

    #[test]
    fn a_type_is_written_when_it_has_changed_and_not_too_often() {
        let mut learned = Learned::default();
        let written = |learned: &mut Learned, s: u64| learned.changed(Micros(s * 1_000_000), WRITE_EVERY, 9).len();
        assert_eq!(written(&mut learned, 100), 0);
        observe(&mut learned, 1_000);
        assert_eq!((written(&mut learned, 100), written(&mut learned, 200)), (1, 0));
        observe(&mut learned, 1_000);
        assert_eq!((written(&mut learned, 104), written(&mut learned, 105)), (0, 1));
    }

    #[test]
    fn what_an_executor_measured_is_not_blurred_by_what_is_overheard() {
        let mut learned = Learned::default();
        let expected = |learned: &Learned| learned.expect_of(&name("a"), None, None).mean.0;
        learned.overheard(&run(), Micros(9_000_000), Observed::Whole);
        assert!(expected(&learned) > 1_000_000);
        (0..100).for_each(|_| observe(&mut learned, 1_000));
        let measured = expected(&learned);
        learned.overheard(&run(), Micros(9_000_000), Observed::Whole);
        assert_eq!(expected(&learned), measured);
    }

    #[test]
    fn a_task_that_yielded_is_expected_to_take_what_it_said_is_left() {
        let mut learned = Learned::default();
        observe(&mut learned, 5_000);
        let mut task = task();
        (task.remaining_us, task.estimate_us) = (Some(77), Some(5_000));
        assert_ne!(learned.expect(&task).mean, Micros(77), "it has not yielded");
        task.yields = 1;
        assert_eq!(learned.expect(&task).mean, Micros(77));
    }
}
