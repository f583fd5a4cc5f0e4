//! What holds of subjects: built and read back.

use super::*;
use proptest::prelude::*;

fn names() -> impl Strategy<Value = (QueueName, Priority, Shard, TaskType, TaskId)> {
    (
        "[A-Za-z0-9_-]{1,20}",
        0..4usize,
        0..Shard::COUNT,
        "[A-Za-z0-9_-]{1,9}(\\.[A-Za-z0-9_-]{1,9}){0,5}",
        "[A-Za-z0-9_-]{1,64}",
    )
        .prop_map(|(queue, rank, shard, task_type, id)| {
            (
                QueueName::new(queue).expect("valid"),
                Priority::ALL[rank],
                Shard::new(shard).expect("valid"),
                TaskType::new(task_type).expect("valid"),
                TaskId::new(id).expect("valid"),
            )
        })
}

proptest! {
    #[test]
    fn what_is_built_is_parsed_back((queue, priority, shard, task_type, id) in names()) {
        for flow in [
            Flow::Task(queue.clone(), priority, shard),
            Flow::Due(queue.clone(), priority, shard),
            Flow::Raw(task_type.clone()),
        ] {
            prop_assert_eq!(Flow::parse(&flow.subject()), Some(flow.clone()));
            prop_assert!(!flow.consumer(7).contains('.'));
        }
        for kind in [LaneKind::Bundle, LaneKind::Plain] {
            let lane = Lane { kind, queue: queue.clone(), priority, fit: Fit::default() };
            prop_assert_eq!(Lane::parse(&lane.subject()), Some(lane));
        }
        prop_assert_eq!(parse_done(&done(&task_type, &id)), Some((task_type.clone(), id.clone())));
        prop_assert_eq!(parse_dead(&dead(&queue, &task_type, &id)), Some((queue, task_type, id)));
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in ".{0,120}") {
        let _flow = Flow::parse(&text);
        let _lane = Lane::parse(&text);
        let _done = parse_done(&text);
        let _dead = parse_dead(&text);
        let _key = RegistryKey::parse(&text);
    }
}

proptest! {
    #[test]
    fn lanes_that_differ_have_consumers_that_differ(
        lanes in proptest::collection::vec(("[ab-]{1,3}(-high|-low)?", 0..4usize, "(low-|high-)?[ab-]{1,3}", any::<bool>()), 2..40)
    ) {
        let mut consumers = std::collections::BTreeMap::new();
        for (queue, rank, fit, is_plain) in lanes {
            let lane = Lane {
                kind: if is_plain { LaneKind::Plain } else { LaneKind::Bundle },
                queue: QueueName::new(queue).expect("valid"),
                priority: Priority::ALL[rank],
                fit: Fit::new(fit).expect("valid"),
            };
            prop_assert!(!lane.consumer().contains(['.', '*', '>', ' ', '/']));
            let other = consumers.insert(lane.consumer(), lane.clone());
            prop_assert!(other.is_none_or(|other| other == lane));
        }
    }
}

#[test]
fn lanes_of_two_queues_whose_names_run_into_their_fits_have_consumers_of_their_own() {
    let lane = |queue: &str, priority, fit: &str| Lane {
        kind: LaneKind::Bundle,
        queue: QueueName::new(queue).expect("valid"),
        priority,
        fit: Fit::new(fit).expect("valid"),
    };
    let (one, other) = (lane("img", Priority::High, "low-mem"), lane("img-high", Priority::Low, "mem"));
    assert_ne!(one.consumer(), other.consumer());
    assert_eq!(other.consumer(), "bundle-img-high-low-mem");
}

#[test]
fn longest_type_has_consumers_that_the_server_takes() {
    let longest = [["a"; 64].concat(), ["b"; 64].concat(), ["c"; 64].concat(), "ddddd".into()].join(".");
    assert_eq!(longest.len(), crate::limits::TYPE_BYTES_MAX);
    let task_type = TaskType::new(&*longest).expect("valid");
    for consumer in [Flow::Raw(task_type.clone()).consumer(u64::MAX), callback_consumer(&task_type)] {
        assert!(consumer.len() <= crate::limits::CONSUMER_BYTES_MAX, "{} bytes", consumer.len());
    }
    assert!(TaskType::new(format!("{longest}d")).is_err());
}

#[test]
fn types_that_differ_only_in_dots_have_consumers_of_their_own() {
    let stem = |name: &str| Flow::Raw(TaskType::new(name).expect("valid")).consumer_stem();
    assert_ne!(stem("a.b"), stem("a_b"));
}
