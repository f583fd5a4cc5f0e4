//! What the queue promises, one by one.

use super::*;
use crate::entry::{FlowId, TenantId, TypeId};
use crate::window::FLOW_TASKS_MAX;
use jetlane_schemas::Priority;
use jetlane_schemas::frame::Credit;
use jetlane_schemas::registry::PolicyName;

pub(super) const NOW: Micros = Micros(1_000_000);
const FLOW: FlowId = FlowId(0);

pub(super) fn entry(id: u64, priority: Priority, arrival: u64) -> Entry {
    Entry {
        id: EntryId(id),
        flow: FLOW,
        priority,
        tenant: TenantId(0),
        task_type: TypeId(0),
        fit: FitId::default(),
        first_arrival: Micros(arrival),
        expires: None,
        due: None,
        estimate: Micros(1_000),
        yields: 0,
        bytes: 200,
    }
}

pub(super) fn credit(capacity: u32, taken: u64, settled: u64) -> Event {
    Event::Credit(Credit {
        executor: "e".into(),
        capacity,
        taken,
        settled,
        fits: vec!["any".into()],
        ..Credit::default()
    })
}

pub(super) fn queue_with(entries: &[Entry]) -> Queue {
    let mut queue = Queue::new(Order::of(PolicyName::Strict));
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
    late.expires = Some(Micros(NOW.0 + 5));
    let mut queue = queue_with(&[late, entry(2, Priority::Low, 2)]);
    assert_eq!(queue.next(NOW), None);
    assert_eq!(queue.wake_at(), late.expires);
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
fn task_that_was_to_be_dropped_and_is_reinstated_goes_back_to_its_place() {
    let mut late = entry(1, Priority::Normal, 1);
    late.expires = Some(Micros(NOW.0 + 5));
    let mut queue = queue_with(&[late, entry(2, Priority::Normal, 2)]);
    queue.on(NOW, Event::Cancelled(EntryId(1)));
    queue.on(NOW, Event::Reinstated(EntryId(2)));
    assert_eq!(queue.next(NOW), Some(Decision::Drop(EntryId(1))));
    queue.on(NOW, Event::Reinstated(EntryId(1)));
    queue.on(NOW, Event::Reinstated(EntryId(1)));
    assert_eq!((queue.waiting(), queue.wake_at()), (2, late.expires));
    queue.on(NOW, credit(9, 0, 0));
    assert_eq!(dispatched(&mut queue, NOW), [1, 2]);
}

#[test]
fn a_paused_queue_dispatches_nothing_but_still_expires_and_drops() {
    let mut late = entry(1, Priority::Normal, 1);
    late.expires = Some(NOW);
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
    queue.on(NOW, Event::OrderChanged(Order::of(PolicyName::Fifo)));
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
    let mut queue = Queue::new(Order::of(PolicyName::Strict));
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
    let mut queue = Queue::new(Order::of(PolicyName::Strict));
    let gpu = queue.fit(&Fit::new("gpu").expect("valid")).expect("room in the table");
    queue.on(NOW, Event::Arrived(Entry { fit: gpu, ..entry(1, Priority::Critical, 1) }));
    queue.on(NOW, Event::Arrived(entry(2, Priority::Low, 2)));
    queue.on(NOW, credit(9, 0, 0));
    assert_eq!(dispatched(&mut queue, NOW), [2]);
    assert!(queue.is_starved());
    let able = Credit {
        executor: "g".into(),
        capacity: 1,
        taken: 0,
        settled: 0,
        fits: vec!["gpu".into()],
        ..Credit::default()
    };
    queue.on(NOW, credit(9, 1, 1));
    queue.on(NOW, Event::Credit(able));
    assert_eq!(dispatched(&mut queue, NOW), [1]);
}

#[test]
fn a_flow_is_pulled_as_its_window_has_room_and_never_over_it() {
    let mut queue = Queue::new(Order::of(PolicyName::Strict));
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

fn running(estimates: &[u64], policy: PolicyName) -> Queue {
    let mut queue = Queue::new(Order::of(policy));
    queue.on(NOW, credit(estimates.len() as u32, 0, 0));
    for (id, estimate) in (1..).zip(estimates) {
        queue.on(NOW, Event::Arrived(Entry { estimate: Micros(*estimate), ..entry(id, Priority::Normal, id) }));
    }
    assert_eq!(dispatched(&mut queue, NOW).len(), estimates.len());
    queue
}

fn left(queue: &mut Queue, id: u64, left: u64) {
    let (entry, remaining) = (EntryId(id), Micros(left));
    queue.on(NOW, Event::Remaining { entry, remaining, resume: Micros(10) });
}

fn waits(queue: &mut Queue, id: u64, estimate: u64) {
    queue.on(NOW, Event::Arrived(Entry { estimate: Micros(estimate), ..entry(id, Priority::Normal, id) }));
}

#[test]
fn a_running_task_is_asked_to_yield_only_to_one_of_less_than_half_of_what_is_left() {
    let mut queue = running(&[9_000], PolicyName::Srtf);
    waits(&mut queue, 2, 1_000);
    left(&mut queue, 1, 2_000);
    assert_eq!(queue.next(NOW), None, "half is not less than half");
    left(&mut queue, 1, 2_001);
    assert_eq!(queue.next(NOW), Some(Decision::Yield(EntryId(1))));
    left(&mut queue, 1, 1_900);
    assert_eq!(queue.next(NOW), None, "it is asked once");
}

#[test]
fn a_task_is_never_asked_for_less_than_stopping_costs() {
    let mut queue = running(&[9_000], PolicyName::Srtf);
    waits(&mut queue, 2, 1);
    left(&mut queue, 1, 40);
    assert_eq!(queue.next(NOW), None, "four times the cost of resuming");
    left(&mut queue, 1, 41);
    assert_eq!(queue.next(NOW), Some(Decision::Yield(EntryId(1))));
}

#[test]
fn nobody_yields_to_a_task_that_cannot_take_the_slot() {
    let mut queue = running(&[9_000], PolicyName::Srtf);
    let gpu = queue.fit(&Fit::new("gpu").expect("valid")).expect("room in the table");
    queue.on(NOW, Event::Arrived(Entry { fit: gpu, estimate: Micros(1), ..entry(2, Priority::Critical, 1) }));
    left(&mut queue, 1, 8_000);
    assert_eq!(queue.next(NOW), None);
    waits(&mut queue, 3, 1);
    left(&mut queue, 1, 8_000);
    assert_eq!(queue.next(NOW), Some(Decision::Yield(EntryId(1))));
}

#[test]
fn a_task_that_did_not_run_costs_its_priority_nothing() {
    let mut queue = running(&[9_000], PolicyName::Weighted);
    queue.on(NOW, Event::NotRun(EntryId(1)));
    queue.on(NOW, Event::Arrived(entry(2, Priority::Low, 1)));
    queue.on(NOW, Event::Arrived(entry(3, Priority::Normal, 1)));
    queue.on(NOW, credit(2, 1, 1));
    assert_eq!(dispatched(&mut queue, NOW), [3, 2], "normal has had nothing yet");
}

#[test]
fn one_waiting_task_makes_one_running_task_yield() {
    let mut queue = running(&[9_000, 9_000], PolicyName::Srtf);
    waits(&mut queue, 3, 100);
    left(&mut queue, 1, 8_000);
    left(&mut queue, 2, 8_000);
    assert_eq!(queue.next(NOW), Some(Decision::Yield(EntryId(1))));
    assert_eq!(queue.next(NOW), None);
    queue.on(NOW, Event::Ended { entry: EntryId(1), cost: Micros(50) });
    queue.on(NOW, credit(2, 2, 1));
    assert_eq!(dispatched(&mut queue, NOW), [3]);
}

#[test]
fn a_task_that_told_nothing_is_never_asked_to_yield() {
    let mut queue = running(&[9_000], PolicyName::Srtf);
    waits(&mut queue, 2, 1);
    assert_eq!(queue.next(NOW), None);
}

#[test]
fn nobody_is_asked_to_yield_while_there_is_room_or_under_another_policy_or_in_a_pause() {
    for policy in PolicyName::ALL.into_iter().filter(|policy| *policy != PolicyName::Srtf) {
        let mut queue = running(&[9_000], policy);
        waits(&mut queue, 2, 1);
        left(&mut queue, 1, 8_000);
        assert_eq!(queue.next(NOW), None, "{policy}");
    }
    let mut queue = running(&[9_000], PolicyName::Srtf);
    queue.on(NOW, Event::Paused);
    waits(&mut queue, 2, 1);
    left(&mut queue, 1, 8_000);
    assert_eq!(queue.next(NOW), None, "paused");
    queue.on(NOW, Event::Resumed);
    queue.on(NOW, credit(2, 0, 0));
    left(&mut queue, 1, 8_000);
    assert_eq!(dispatched(&mut queue, NOW), [2], "there is room");
}

#[test]
fn with_each_yield_a_run_goes_on_for_longer_before_it_is_asked_again() {
    let mut queue = Queue::new(Order::of(PolicyName::Srtf));
    queue.on(NOW, credit(1, 0, 0));
    queue.on(NOW, Event::Arrived(Entry { estimate: Micros(9_000), yields: 3, ..entry(1, Priority::Normal, 1) }));
    assert_eq!(dispatched(&mut queue, NOW), [1]);
    waits(&mut queue, 2, 1);
    for (after, asked) in [(29, None), (30, Some(Decision::Yield(EntryId(1))))] {
        let now = Micros(NOW.0 + after);
        queue.on(now, Event::Remaining { entry: EntryId(1), remaining: Micros(8_000), resume: Micros(10) });
        assert_eq!(queue.next(now), asked, "after {after}");
    }
}

#[test]
fn a_task_yields_a_bounded_number_of_times() {
    let mut queue = Queue::new(Order::of(PolicyName::Srtf));
    queue.on(NOW, credit(1, 0, 0));
    let mut yields = 0;
    for id in 1..3_000 {
        let back = Entry { estimate: Micros(1 << 40), yields, ..entry(2 * id, Priority::Normal, id) };
        queue.on(NOW, Event::Arrived(back));
        assert_eq!(dispatched(&mut queue, NOW), [2 * id]);
        waits(&mut queue, 2 * id + 1, 1);
        let later = Micros(NOW.0 + (1 << 50));
        queue.on(later, credit(1, id - 1, id - 1));
        let (remaining, resume) = (back.estimate, Micros(10));
        queue.on(later, Event::Remaining { entry: back.id, remaining, resume });
        if queue.next(later) != Some(Decision::Yield(back.id)) {
            assert_eq!(yields, 1_024);
            return;
        }
        yields += 1;
        queue.on(NOW, Event::Ended { entry: back.id, cost: Micros(1) });
        queue.on(NOW, Event::Cancelled(EntryId(2 * id + 1)));
        queue.on(NOW, credit(1, id, id));
        assert_eq!(queue.next(NOW), Some(Decision::Drop(EntryId(2 * id + 1))));
    }
    panic!("it was asked {yields} times");
}

#[test]
fn late_and_repeated_news_of_a_run_change_nothing() {
    let mut queue = running(&[9_000], PolicyName::Weighted);
    let ended = Event::Ended { entry: EntryId(1), cost: Micros(50) };
    queue.on(NOW, ended.clone());
    queue.on(NOW, ended);
    queue.on(NOW, Event::Ended { entry: EntryId(77), cost: Micros(50) });
    left(&mut queue, 1, 5);
    waits(&mut queue, 2, 1);
    queue.on(NOW, credit(1, 1, 1));
    assert_eq!(dispatched(&mut queue, NOW), [2]);
}

#[test]
fn a_task_is_told_how_many_stand_before_it_and_when_it_starts() {
    let mut queue = running(&[3_000, 5_000], PolicyName::Fifo);
    (3..=5).for_each(|id| waits(&mut queue, id, 4_000));
    let standing = queue.standing(NOW, EntryId(5)).expect("held");
    assert!(standing.has_executor && !standing.has_room && !standing.is_leaving);
    let forecast = standing.forecast;
    assert_eq!((forecast.ahead, forecast.ahead_in_flow), (2, 2));
    // Two servers: 3,000 + 4,000 on one, 5,000 + 4,000 on the other.
    assert_eq!(forecast.start, Some(Micros(NOW.0 + 7_000)));
    assert_eq!(forecast.finish, Some(Micros(NOW.0 + 11_000)));
    assert_eq!(queue.standing(NOW, EntryId(1)).map(|standing| standing.is_leaving), Some(true));
    assert_eq!(queue.standing(NOW, EntryId(99)), None);
}

#[test]
fn a_task_that_is_not_submitted_yet_is_told_when_it_would_start() {
    let mut queue = running(&[3_000], PolicyName::Sjf);
    (2..=4).for_each(|id| waits(&mut queue, id, 1_000 * id));
    let mut prospect = entry(0, Priority::Normal, NOW.0);
    prospect.estimate = Micros(2_500);
    let forecast = queue.forecast(NOW, &prospect);
    assert_eq!((forecast.ahead, forecast.start), (1, Some(Micros(NOW.0 + 5_000))));
    assert_eq!(queue.waiting(), 3, "asking changes nothing");
}

#[test]
fn a_task_that_no_executor_fits_has_no_expected_start_and_says_why() {
    let mut queue = running(&[3_000], PolicyName::Adaptive);
    let gpu = queue.fit(&Fit::new("gpu").expect("valid")).expect("room in the table");
    queue.on(NOW, Event::Arrived(Entry { fit: gpu, ..entry(2, Priority::Critical, 1) }));
    let standing = queue.standing(NOW, EntryId(2)).expect("held");
    assert_eq!((standing.has_executor, standing.forecast.start), (false, None));
    queue.on(NOW, Event::Paused);
    assert!(queue.standing(NOW, EntryId(2)).is_some_and(|standing| standing.is_paused));
}
