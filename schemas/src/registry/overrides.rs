//! Code announces types, people override their options: two keys, so that neither undoes the other.

use super::TypeEntry;
use crate::task::InvalidOption;
use crate::token::{QueueName, TaskType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Options of a type that people have set: the value of `overrides.<type>`. An option that is given goes before the
/// announcement's; with a queue it makes a type known that nobody has announced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TypeOverride {
    /// The queue whose executors serve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueName>,
    /// JSON Schema of its body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Value>,
    /// Retries after the first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// How long one attempt may run, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The first back-off before a retry, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u64>,
    /// The longest back-off, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff_ms_max: Option<u64>,
}

impl TypeOverride {
    /// Returns the type as it is served: the announcement under what people have set. `None` where neither names a
    /// queue.
    pub fn over(&self, announced: Option<&TypeEntry>) -> Option<TypeEntry> {
        let queue = self.queue.clone();
        let base = match (announced, queue) {
            (Some(announced), None) => announced.clone(),
            (Some(announced), Some(queue)) => TypeEntry { queue, ..announced.clone() },
            (None, queue) => TypeEntry::new(queue?),
        };
        let backoff_ms = self.backoff_ms.unwrap_or(base.backoff_ms);
        Some(TypeEntry {
            schema: self.schema.clone().or_else(|| base.schema.clone()),
            retries: self.retries.unwrap_or(base.retries),
            timeout_ms: self.timeout_ms.unwrap_or(base.timeout_ms),
            backoff_ms,
            // The longest gives way to the first, unless it is set itself.
            backoff_ms_max: self.backoff_ms_max.unwrap_or(base.backoff_ms_max.max(backoff_ms)),
            ..base
        })
    }

    /// Returns the names of the options that are set.
    pub fn names(&self) -> Vec<&'static str> {
        let set = [
            ("queue", self.queue.is_some()),
            ("schema", self.schema.is_some()),
            ("retries", self.retries.is_some()),
            ("timeout", self.timeout_ms.is_some()),
            ("back-off", self.backoff_ms.is_some() || self.backoff_ms_max.is_some()),
        ];
        set.into_iter().filter(|(_, is_set)| *is_set).map(|(name, _)| name).collect()
    }
}

/// Both layers of every type, for whoever follows the registry.
#[derive(Debug, Clone, Default)]
pub struct TypeLayers {
    layers: BTreeMap<TaskType, Layers>,
}

#[derive(Debug, Clone, Default)]
struct Layers {
    announced: Option<TypeEntry>,
    set: Option<TypeOverride>,
}

impl TypeLayers {
    /// Takes a type's announcement; `None` once it is deleted. Returns the type as it is served from now on.
    pub fn announce(&mut self, task_type: &TaskType, entry: Option<TypeEntry>) -> Option<TypeEntry> {
        self.change(task_type, |layers| layers.announced = entry)
    }

    /// Takes what people have set of a type; `None` once it is deleted. Returns the type as it is served from now on.
    ///
    /// # Errors
    /// [`InvalidOption`] where the options make no valid type: they are left out then.
    pub fn set(&mut self, task_type: &TaskType, set: Option<TypeOverride>) -> Result<Option<TypeEntry>, InvalidOption> {
        let announced = self.layers.get(task_type).and_then(|layers| layers.announced.as_ref());
        if let Some(merged) = set.as_ref().and_then(|set| set.over(announced)) {
            merged.check()?;
        }
        Ok(self.change(task_type, |layers| layers.set = set))
    }

    /// Returns whether a type is announced, or something set of it.
    pub fn knows(&self, task_type: &TaskType) -> bool {
        self.layers.contains_key(task_type)
    }

    /// Counts the types that are announced, or of which something is set.
    pub fn count(&self) -> usize {
        self.layers.len()
    }

    /// Returns what people have set of a type.
    pub fn of_people(&self, task_type: &TaskType) -> Option<&TypeOverride> {
        self.layers.get(task_type)?.set.as_ref()
    }

    /// Returns a type as it is served.
    pub fn merged(&self, task_type: &TaskType) -> Option<TypeEntry> {
        let Layers { announced, set } = self.layers.get(task_type)?;
        let merged = set.as_ref().and_then(|set| set.over(announced.as_ref()));
        // A new announcement may not go with what was set for an older one: then it stands alone.
        merged.filter(|merged| merged.check().is_ok()).or_else(|| announced.clone())
    }

    fn change(&mut self, task_type: &TaskType, change: impl FnOnce(&mut Layers)) -> Option<TypeEntry> {
        let layers = self.layers.entry(task_type.clone()).or_default();
        change(layers);
        if layers.announced.is_none() && layers.set.is_none() {
            self.layers.remove(task_type);
        }
        self.merged(task_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task_type() -> TaskType {
        TaskType::new("a.b").expect("valid")
    }

    fn entry(queue: &str, retries: u32) -> TypeEntry {
        TypeEntry { retries, ..TypeEntry::new(QueueName::new(queue).expect("valid")) }
    }

    #[test]
    fn what_people_set_survives_every_announcement_of_code() {
        let mut layers = TypeLayers::default();
        layers.announce(&task_type(), Some(entry("q", 3)));
        let set = TypeOverride { retries: Some(9), backoff_ms: Some(900_000), ..TypeOverride::default() };
        let merged = layers.set(&task_type(), Some(set)).expect("valid").expect("known");
        assert_eq!((merged.retries, merged.backoff_ms, merged.backoff_ms_max), (9, 900_000, 900_000));
        for retries in [0, 5] {
            let merged = layers.announce(&task_type(), Some(entry("q2", retries))).expect("known");
            assert_eq!((merged.retries, merged.queue.as_str()), (9, "q2"));
        }
        let back = layers.set(&task_type(), None).expect("valid").expect("known");
        assert_eq!((back.retries, back.backoff_ms), (5, 1_000), "taken back, the announcement counts");
        assert_eq!(layers.announce(&task_type(), None), None);
    }

    #[test]
    fn people_make_a_type_known_by_its_queue() {
        let mut layers = TypeLayers::default();
        let retries = TypeOverride { retries: Some(1), ..TypeOverride::default() };
        assert_eq!(layers.set(&task_type(), Some(retries.clone())), Ok(None));
        let queue = Some(QueueName::new("q").expect("valid"));
        let merged = layers.set(&task_type(), Some(TypeOverride { queue, ..retries })).expect("valid");
        assert_eq!(merged, Some(entry("q", 1)));
        assert_eq!(layers.of_people(&task_type()).map(TypeOverride::names), Some(vec!["queue", "retries"]));
    }

    #[test]
    fn option_out_of_range_is_refused_and_changes_nothing() {
        let mut layers = TypeLayers::default();
        layers.announce(&task_type(), Some(entry("q", 3)));
        let bad = TypeOverride { retries: Some(crate::limits::RETRIES_MAX + 1), ..TypeOverride::default() };
        assert!(layers.set(&task_type(), Some(bad)).is_err());
        assert_eq!(layers.merged(&task_type()), Some(entry("q", 3)));
        let small = TypeOverride { backoff_ms_max: Some(2_000), ..TypeOverride::default() };
        layers.set(&task_type(), Some(small)).expect("valid");
        // The next release begins with a longer back-off than people allow.
        let next = TypeEntry { backoff_ms: 60_000, ..entry("q", 3) };
        assert_eq!(layers.announce(&task_type(), Some(next.clone())), Some(next));
    }
}
