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

#[test]
fn types_that_differ_only_in_dots_have_consumers_of_their_own() {
    let stem = |name: &str| Flow::Raw(TaskType::new(name).expect("valid")).consumer_stem();
    assert_ne!(stem("a.b"), stem("a_b"));
}
