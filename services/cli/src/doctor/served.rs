//! Types and queues that nobody serves: what waits there waits for ever, without any error.

use super::{Check, grouped, told};
use crate::announce::Announced;
use crate::queues::found::{Found, Looked, look};
use jetlane::{Bus, QueueName, TaskType};
use jetlane_schemas::subject::BUCKET_REGISTRY;
use std::collections::BTreeMap;

const TYPES: &str = "types";
const QUEUES: &str = "queues";

/// Checks every type and queue that is announced or waited for.
pub(super) async fn check(bus: &Bus) -> Vec<Check> {
    match look(bus).await {
        Ok(Looked { announced, waiting, queues: found }) => {
            let mut checks = types(&announced, &waiting);
            checks.extend(queues(&found));
            checks
        }
        Err(error) => {
            vec![Check::fail(
                TYPES,
                told(&error),
                "Give this account the right to read streams, consumers and buckets.",
            )]
        }
    }
}

fn types(announced: &Announced, waiting: &BTreeMap<TaskType, u64>) -> Vec<Check> {
    let unknown = waiting.iter().filter(|(task_type, _)| !announced.types.contains_key(*task_type));
    let mut checks: Vec<Check> = unknown
        .map(|(task_type, count)| {
            let detail = format!("nobody serves {task_type}: {} of its tasks wait", grouped(*count));
            let help = format!("Start an executor that serves it, or: jetlane types set {task_type} --queue QUEUE");
            Check::warn(TYPES, detail, help)
        })
        .collect();
    checks.extend(announced.unreadable.iter().map(|(key, why)| {
        let detail = format!("{key} in {BUCKET_REGISTRY} is no announcement: {why}");
        Check::warn(TYPES, detail, "Announce it again: `jetlane types set`, or start its executor.")
    }));
    if checks.is_empty() {
        checks.push(Check::ok(TYPES, format!("{} announced, none waits without", announced.types.len())));
    }
    checks
}

fn queues(found: &BTreeMap<QueueName, Found>) -> Vec<Check> {
    let mut checks: Vec<Check> = found.iter().filter_map(|(queue, found)| problem(queue, found)).collect();
    if checks.is_empty() {
        let idle = found.iter().filter(|(_, found)| !found.executors).map(|(queue, _)| queue.as_str());
        let idle: Vec<&str> = idle.collect();
        let note = if idle.is_empty() { String::new() } else { format!("; no executor now: {}", idle.join(", ")) };
        checks.push(Check::ok(QUEUES, format!("{} known, each with a leader{note}", found.len())));
    }
    checks
}

fn problem(queue: &QueueName, found: &Found) -> Option<Check> {
    let waiting = grouped(found.waiting());
    if found.leader.is_none() {
        return Some(Check::fail(
            QUEUES,
            format!("queue {queue} has no leader: nothing of it is dispatched, {waiting} wait"),
            "Start a dispatcher: `jetlane run dispatcher`. If one runs, its log says why it does not lead this queue.",
        ));
    }
    if found.waiting() == 0 {
        return None;
    }
    if found.is_paused() {
        return Some(Check::warn(
            QUEUES,
            format!("queue {queue} is paused, {waiting} wait"),
            format!("Let it go on: jetlane queues set {queue} --resume"),
        ));
    }
    (!found.executors).then(|| {
        Check::warn(
            QUEUES,
            format!("nobody serves the queue {queue}: no executor pulls from it, {waiting} wait"),
            format!("Start an executor of the queue {queue}."),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use jetlane::QueueEntry;

    fn one(found: Found) -> Check {
        let queue = QueueName::new("q").expect("valid");
        queues(&BTreeMap::from([(queue, found)])).remove(0)
    }

    #[test]
    fn what_nobody_has_announced_and_what_waits_of_it_is_told() {
        let name = TaskType::new("a.b").expect("valid");
        let checks = types(&Announced::default(), &BTreeMap::from([(name, 1_200)]));
        assert_eq!((checks.len(), checks[0].state), (1, State::Warn));
        assert!(checks[0].detail.contains("nobody serves a.b: 1,200"), "{}", checks[0].detail);
        assert_eq!(types(&Announced::default(), &BTreeMap::new())[0].state, State::Ok);
    }

    #[test]
    fn a_queue_without_a_leader_fails_and_one_without_executors_is_warned_of_while_tasks_wait() {
        let leader = Some("a dispatcher".to_owned());
        let well = || Found { leader: leader.clone(), executors: true, before_dispatch: 7, ..Found::default() };
        assert_eq!(one(well()).state, State::Ok);
        assert_eq!(one(Found { leader: None, ..well() }).state, State::Fail);
        let idle = || Found { executors: false, ..well() };
        assert_eq!(one(idle()).state, State::Warn);
        assert!(one(idle()).detail.contains("no executor"));
        assert_eq!(one(Found { before_dispatch: 0, ..idle() }).state, State::Ok);
        assert_eq!(one(Found { before_dispatch: 0, in_lanes: 1, ..idle() }).state, State::Warn);
        let paused = QueueEntry { paused: true, ..QueueEntry::default() };
        assert!(one(Found { entry: Some(paused), ..idle() }).detail.contains("paused"));
    }
}
