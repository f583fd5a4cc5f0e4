//! What the queue promises, one by one.

use super::*;
use crate::entry::{FlowId, TenantId};
use crate::window::FLOW_TASKS_MAX;
use jetlane_schemas::Priority;
use jetlane_schemas::frame::Credit;

pub(super) const NOW: Micros = Micros(1_000_000);
const FLOW: FlowId = FlowId(0);

pub(super) fn entry(id: u64, priority: Priority, arrival: u64) -> Entry {
    Entry {
        id: EntryId(id),
        flow: FLOW,
        priority,
        tenant: TenantId(0),
        fit: FitId::default(),
        first_arrival: Micros(arrival),
        deadline: None,
        bytes: 200,
    }
}

pub(super) fn credit(capacity: u32, taken: u64, settled: u64) -> Event {
    Event::Credit(Credit { executor: "e".into(), capacity, taken, settled, fits: vec!["any".into()] })
}

pub(super) fn queue_with(entries: &[Entry]) -> Queue {
    let mut queue = Queue::new(PolicyName::Strict);
    entries.iter().for_each(|entry| queue.on(NOW, Event::Arrived(*entry)));
    queue
}

pub(super) fn dispatched(queue: &mut Queue, now: Micros) -> Vec<u64> {
    let mut ids = Vec::new();
    while let Some(decision) = queue.next(now) {
        if let Decision::Dispatch { entry, .. } = decision {
            ids.push(entry.0);
        }
    }
    ids
}

#[test]
fn nothing_is_dispatched_without_credit_and_no_more_than_there_is() {
    let mut queue = queue_with(&[1, 2, 3].map(|id| entry(id, Priority::Normal, id)));
    assert_eq!(queue.next(NOW), None);
    queue.on(NOW, credit(2, 0, 0));
    assert_eq!(dispatched(&mut queue, NOW), [1, 2]);
    queue.on(NOW, credit(2, 1, 1));
    assert_eq!(dispatched(&mut queue, NOW), [3]);
}

#[test]
fn a_refused_dispatch_goes_back_to_its_place_after_a_rest() {
    let mut queue = queue_with(&[entry(1, Priority::Normal, 1), entry(2, Priority::Normal, 2)]);
    queue.on(NOW, credit(1, 0, 0));
    assert_eq!(dispatched(&mut queue, NOW), [1]);
    let later = Micros(NOW.0 + 100);
    queue.on(NOW, Event::NotStored(EntryId(1), later));
    assert_eq!(queue.next(NOW), None, "a full lane is left alone");
    assert_eq!(queue.wake_at(), Some(later));
    assert_eq!(dispatched(&mut queue, later), [1], "its place is before the younger one, its credit is back");
}

#[test]
fn a_rest_that_is_over_wakes_nobody_again() {
    let mut queue = queue_with(&[entry(1, Priority::Normal, 1)]);
    queue.on(NOW, credit(1, 0, 0));
    assert_eq!(dispatched(&mut queue, NOW), [1]);
    queue.on(NOW, Event::Paused);
    queue.on(NOW, Event::NotStored(EntryId(1), Micros(NOW.0 + 100)));
    let later = Micros(NOW.0 + 100);
    assert_eq!(queue.next(later), None);
    assert!(queue.wake_at().is_none_or(|at| at > later), "it would be woken without end");
}

#[test]
fn a_task_stored_before_gives_its_credit_back() {
    let mut queue = queue_with(&[entry(1, Priority::Normal, 1), entry(2, Priority::Normal, 2)]);
    queue.on(NOW, credit(1, 0, 0));
    assert_eq!(dispatched(&mut queue, NOW), [1]);
    queue.on(NOW, Event::Settled(EntryId(1), Stored::Before));
    assert_eq!(dispatched(&mut queue, NOW), [2]);
}

#[test]
fn a_task_past_its_deadline_expires_and_uses_no_credit() {
    let mut late = entry(1, Priority::Critical, 1);
    late.deadline = Some(Micros(NOW.0 + 5));
    let mut queue = queue_with(&[late, entry(2, Priority::Low, 2)]);
    assert_eq!(queue.next(NOW), None);
    assert_eq!(queue.wake_at(), late.deadline);
    let then = Micros(NOW.0 + 5);
    queue.on(then, credit(1, 0, 0));
    assert_eq!(queue.next(then), Some(Decision::Expire(EntryId(1))));
    assert_eq!(dispatched(&mut queue, then), [2]);
    queue.on(then, Event::Settled(EntryId(1), Stored::New));
    assert_eq!(queue.held(), 1);
}

#[test]
fn a_cancelled_task_is_dropped_unless_it_has_left() {
    let mut queue = queue_with(&[1, 2, 3].map(|id| entry(id, Priority::Normal, id)));
    queue.on(NOW, Event::Cancelled(EntryId(2)));
    assert_eq!(queue.next(NOW), Some(Decision::Drop(EntryId(2))));
    queue.on(NOW, credit(1, 0, 0));
    assert_eq!(dispatched(&mut queue, NOW), [1]);
    queue.on(NOW, Event::Cancelled(EntryId(1)));
    assert_eq!(queue.next(NOW), None, "what is on its way cannot be dropped");
    queue.on(NOW, Event::NotStored(EntryId(1), Micros(0)));
    assert_eq!(queue.next(NOW), Some(Decision::Drop(EntryId(1))), "but it is once it comes back");
    assert_eq!(dispatched(&mut queue, NOW), [3]);
}

#[test]
fn a_paused_queue_dispatches_nothing_but_still_expires_and_drops() {
    let mut late = entry(1, Priority::Normal, 1);
    late.deadline = Some(NOW);
    let mut queue = queue_with(&[late, entry(2, Priority::Normal, 2), entry(3, Priority::Normal, 3)]);
    queue.on(NOW, credit(9, 0, 0));
    queue.on(NOW, Event::Paused);
    queue.on(NOW, Event::Cancelled(EntryId(2)));
    assert_eq!(queue.next(NOW), Some(Decision::Drop(EntryId(2))));
    assert_eq!(queue.next(NOW), Some(Decision::Expire(EntryId(1))));
    assert_eq!(queue.next(NOW), None);
    queue.on(NOW, Event::Resumed);
    assert_eq!(dispatched(&mut queue, NOW), [3]);
}

#[test]
fn a_policy_changed_while_running_loses_and_repeats_nothing() {
    let mut queue = queue_with(&[
        entry(1, Priority::Low, 1),
        entry(2, Priority::Normal, 2),
        entry(3, Priority::Critical, 3),
        entry(4, Priority::Normal, 4),
    ]);
    queue.on(NOW, credit(1, 0, 0));
    assert_eq!(dispatched(&mut queue, NOW), [3]);
    queue.on(NOW, Event::PolicyChanged(PolicyName::Fifo));
    queue.on(NOW, credit(9, 0, 0));
    assert_eq!(dispatched(&mut queue, NOW), [1, 2, 4]);
}

#[test]
fn plain_lanes_take_what_bundles_have_no_room_for() {
    let mut queue = queue_with(&[1, 2, 3].map(|id| entry(id, Priority::Normal, id)));
    let fit = FitId::default();
    queue.on(NOW, credit(1, 0, 0));
    queue.on(NOW, Event::PlainPulled { priority: Priority::Normal, fit, until: NOW });
    let kinds: Vec<LaneKind> = std::iter::from_fn(|| queue.next(NOW))
        .filter_map(|decision| if let Decision::Dispatch { kind, .. } = decision { Some(kind) } else { None })
        .collect();
    assert_eq!(kinds, [LaneKind::Bundle, LaneKind::Plain, LaneKind::Plain]);
}

#[test]
fn a_plain_lane_of_another_priority_takes_nothing_of_this_one() {
    let mut queue = queue_with(&[entry(1, Priority::Normal, 1)]);
    let fit = FitId::default();
    queue.on(NOW, Event::PlainPulled { priority: Priority::High, fit, until: NOW });
    assert_eq!(queue.next(NOW), None);
}

#[test]
fn a_wait_is_split_by_cause() {
    let mut queue = Queue::new(PolicyName::Strict);
    let at = |us| Micros(NOW.0 + us);
    queue.on(at(0), Event::Arrived(entry(1, Priority::Normal, 1)));
    queue.on(at(0), Event::Arrived(entry(2, Priority::Normal, 2)));
    assert_eq!(queue.next(at(0)), None);
    queue.on(at(70), credit(1, 0, 0));
    let Some(Decision::Dispatch { waited, .. }) = queue.next(at(70)) else { panic!("no dispatch") };
    assert_eq!(waited, Waited { window_us: 0, credit_us: 70 });
    queue.on(at(100), credit(1, 1, 1));
    let Some(Decision::Dispatch { waited, .. }) = queue.next(at(100)) else { panic!("no dispatch") };
    assert_eq!(waited, Waited { window_us: 30, credit_us: 70 });
}

#[test]
fn an_arrival_under_a_number_that_is_held_changes_nothing() {
    let mut queue = queue_with(&[entry(1, Priority::Normal, 1), entry(1, Priority::Critical, 9)]);
    assert_eq!((queue.held(), queue.waiting()), (1, 1));
    queue.on(NOW, credit(9, 0, 0));
    assert_eq!(dispatched(&mut queue, NOW), [1]);
}

#[test]
fn a_fit_that_no_executor_satisfies_waits_and_blocks_nobody() {
    let mut queue = Queue::new(PolicyName::Strict);
    let gpu = queue.fit(&Fit::new("gpu").expect("valid")).expect("room in the table");
    queue.on(NOW, Event::Arrived(Entry { fit: gpu, ..entry(1, Priority::Critical, 1) }));
    queue.on(NOW, Event::Arrived(entry(2, Priority::Low, 2)));
    queue.on(NOW, credit(9, 0, 0));
    assert_eq!(dispatched(&mut queue, NOW), [2]);
    assert!(queue.is_starved());
    let able = Credit { executor: "g".into(), capacity: 1, taken: 0, settled: 0, fits: vec!["gpu".into()] };
    queue.on(NOW, credit(9, 1, 1));
    queue.on(NOW, Event::Credit(able));
    assert_eq!(dispatched(&mut queue, NOW), [1]);
}

#[test]
fn a_flow_is_pulled_as_its_window_has_room_and_never_over_it() {
    let mut queue = Queue::new(PolicyName::Strict);
    queue.on(NOW, Event::FlowOpened(FLOW));
    queue.on(NOW, Event::ShareChanged(Share::default()));
    let mut next_id = 0;
    let mut asked = VecDeque::new();
    loop {
        while let Some(decision) = queue.next(NOW) {
            if let Decision::Pull { messages, .. } = decision {
                asked.push_back(messages);
            }
        }
        let Some(messages) = asked.pop_front() else { break };
        for _ in 0..messages {
            queue.on(NOW, Event::MessageTaken { flow: FLOW, tasks: 1 });
            queue.on(NOW, Event::Arrived(entry(next_id, Priority::Normal, next_id)));
            next_id += 1;
        }
    }
    assert_eq!(queue.held(), FLOW_TASKS_MAX as usize);
}
