//! What every policy promises, and what each does.

use super::*;
use crate::entry::{FitId, FlowId, TenantId, TypeId};
use jetlane_schemas::Priority;
use jetlane_schemas::registry::{Round, Weights};

fn entry(id: u64, priority: Priority, arrival: u64) -> Entry {
    Entry {
        id: EntryId(id),
        flow: FlowId(0),
        priority,
        tenant: TenantId(0),
        task_type: TypeId(0),
        fit: FitId::default(),
        first_arrival: Micros(arrival),
        expires: None,
        due: None,
        estimate: Micros(1_000),
        yields: 0,
        bytes: 100,
    }
}

fn filled(order: Order, entries: &[Entry]) -> Box<dyn Policy> {
    let mut policy = make(order);
    entries.iter().for_each(|entry| policy.add(Micros(0), entry));
    policy
}

fn take_all(policy: &mut dyn Policy, entries: &[Entry], lanes: Lanes) -> Vec<u64> {
    std::iter::from_fn(|| {
        let id = policy.take(Micros(0), lanes)?;
        policy.taken(entries.iter().find(|entry| entry.id == id).expect("one of them"));
        Some(id.0)
    })
    .collect()
}

fn order(policy: PolicyName, entries: &[Entry]) -> Vec<u64> {
    take_all(&mut *filled(Order::of(policy), entries), entries, Lanes::all())
}

#[test]
fn strict_takes_the_urgent_first_and_the_older_first_inside_a_priority() {
    let entries = [
        entry(1, Priority::Low, 1),
        entry(2, Priority::Normal, 5),
        entry(3, Priority::Normal, 4),
        entry(4, Priority::Critical, 9),
        entry(5, Priority::Normal, 4),
    ];
    assert_eq!(order(PolicyName::Strict, &entries), [4, 3, 5, 2, 1]);
    assert_eq!(order(PolicyName::Fifo, &entries), [1, 3, 5, 2, 4]);
}

#[test]
fn round_robin_gives_each_tenant_or_type_a_turn() {
    let of = |id, tenant, task_type| Entry {
        tenant: TenantId(tenant),
        task_type: TypeId(task_type),
        ..entry(id, Priority::Normal, id)
    };
    let entries = [of(1, 1, 7), of(2, 1, 7), of(3, 1, 7), of(4, 2, 7), of(5, 2, 8), of(6, 3, 8)];
    assert_eq!(order(PolicyName::Rr, &entries), [1, 4, 6, 2, 5, 3]);
    let by_type = Order { round: Round::Type, ..Order::of(PolicyName::Rr) };
    assert_eq!(take_all(&mut *filled(by_type, &entries), &entries, Lanes::all()), [1, 5, 2, 6, 3, 4]);
}

#[test]
fn a_tenant_that_comes_back_waits_for_its_turn() {
    let of = |id, tenant| Entry { tenant: TenantId(tenant), ..entry(id, Priority::Normal, id) };
    let mut policy = filled(Order::of(PolicyName::Rr), &[of(1, 1), of(2, 2), of(3, 2), of(4, 3)]);
    assert_eq!(policy.take(Micros(0), Lanes::all()), Some(EntryId(1)));
    policy.add(Micros(0), &of(5, 1));
    let rest: Vec<u64> = std::iter::from_fn(|| policy.take(Micros(0), Lanes::all())).map(|id| id.0).collect();
    assert_eq!(rest, [2, 4, 5, 3]);
}

#[test]
fn weighted_priorities_share_the_work_as_they_weigh() {
    let entries: Vec<Entry> =
        (0..850).map(|id| entry(id, if id < 425 { Priority::High } else { Priority::Normal }, id)).collect();
    let weights = Weights([64, 16, 4, 1]);
    let mut policy = filled(Order { weights, ..Order::of(PolicyName::Weighted) }, &entries);
    let first: Vec<u64> = take_all(&mut *policy, &entries, Lanes::all()).into_iter().take(100).collect();
    let urgent = first.iter().filter(|id| **id < 425).count();
    assert_eq!(urgent, 80, "16 of 20");
    assert!(first.iter().take(8).any(|id| *id >= 425), "the lesser one is not put off until the end");
}

#[test]
fn a_priority_is_charged_what_its_tasks_cost_not_what_was_expected() {
    let entries: Vec<Entry> =
        (0..20).map(|id| entry(id, if id < 10 { Priority::High } else { Priority::Normal }, id)).collect();
    let weights = Weights([1; 4]);
    let mut policy = filled(Order { weights, ..Order::of(PolicyName::Weighted) }, &entries);
    let first = policy.take(Micros(0), Lanes::all()).expect("some wait");
    policy.taken(&entries[first.0 as usize]);
    policy.ended(&entries[first.0 as usize], Micros(5_000));
    let next = take_all(&mut *policy, &entries, Lanes::all());
    assert!(next[..5].iter().all(|id| *id >= 10), "it ran five times as long: {next:?}");
}

#[test]
fn what_another_order_sent_is_neither_charged_nor_refunded() {
    let entries = [entry(1, Priority::Low, 1), entry(2, Priority::High, 1)];
    let mut policy = filled(Order::of(PolicyName::Weighted), &entries);
    let sent = Entry { estimate: Micros(1_000_000), ..entry(9, Priority::Low, 0) };
    policy.ended(&sent, Micros(1));
    policy.not_stored(&sent);
    assert_eq!(take_all(&mut *policy, &entries, Lanes::all()), [2, 1], "low has no lead");
}

#[test]
fn the_shortest_goes_first_and_among_equals_the_oldest() {
    let of = |id, arrival, estimate| Entry { estimate: Micros(estimate), ..entry(id, Priority::Normal, arrival) };
    let entries = [of(1, 1, 9), of(2, 5, 3), of(3, 4, 3), of(4, 9, 1)];
    assert_eq!(order(PolicyName::Sjf, &entries), [4, 3, 2, 1]);
    assert_eq!(order(PolicyName::Srtf, &entries), [4, 3, 2, 1]);
}

#[test]
fn only_srtf_names_contenders_the_shortest_first() {
    let of = |id, priority, estimate| Entry { estimate: Micros(estimate), ..entry(id, priority, id) };
    let entries = [of(1, Priority::Low, 9), of(2, Priority::High, 3), of(3, Priority::Low, 1)];
    let contenders = |policy| {
        let policy = filled(Order::of(policy), &entries);
        (0..4).map(|nth| policy.contender(nth, Lanes::all()).map(|estimate| estimate.0)).collect::<Vec<_>>()
    };
    assert_eq!(contenders(PolicyName::Srtf), [Some(1), Some(3), Some(9), None]);
    for policy in PolicyName::ALL.into_iter().filter(|policy| *policy != PolicyName::Srtf) {
        assert_eq!(contenders(policy), [None; 4], "{policy}");
    }
}

#[test]
fn the_earliest_deadline_goes_first_and_what_is_late_stands_back() {
    let of = |id, due: Option<u64>, estimate| Entry {
        due: due.map(Micros),
        estimate: Micros(estimate),
        ..entry(id, Priority::Normal, id)
    };
    // The third would end past its deadline whenever it began.
    let entries = [of(1, None, 1), of(2, Some(90), 10), of(3, Some(5), 10), of(4, Some(80), 10)];
    assert_eq!(order(PolicyName::Edf, &entries), [4, 2, 1, 3]);
}

#[test]
fn a_late_task_makes_no_other_late() {
    let of = |id, due| Entry { due: Some(Micros(due)), estimate: Micros(10), ..entry(id, Priority::Normal, id) };
    let mut policy = filled(Order::of(PolicyName::Edf), &[of(1, 10), of(2, 20), of(3, 30)]);
    // At 11 the first is lost, the second can still be met.
    assert_eq!(policy.take(Micros(11), Lanes::all()), Some(EntryId(3)), "the second would end at 21");
    assert_eq!(policy.take(Micros(21), Lanes::all()), Some(EntryId(1)));
    assert_eq!(policy.take(Micros(31), Lanes::all()), Some(EntryId(2)));
}

#[test]
fn a_fit_without_room_blocks_nobody_else_under_any_policy() {
    let gpu = FitId::new(3).expect("in range");
    let entries = [Entry { fit: gpu, ..entry(1, Priority::Critical, 1) }, entry(2, Priority::Low, 2)];
    let mut lanes = Lanes::default();
    lanes.insert_fit(FitId::default());
    for name in PolicyName::ALL {
        let taken = take_all(&mut *filled(Order::of(name), &entries), &entries, lanes);
        assert_eq!(taken, [2], "{name}");
    }
}

#[test]
fn what_is_removed_is_never_taken_under_any_policy() {
    for name in PolicyName::ALL {
        let entries = [1, 2, 3].map(|id| Entry { due: Some(Micros(id)), ..entry(id, Priority::Normal, id) });
        let mut policy = filled(Order::of(name), &entries);
        policy.remove(&entries[0]);
        let mut taken = take_all(&mut *policy, &entries, Lanes::all());
        taken.sort_unstable();
        assert_eq!(taken, [2, 3], "{name}");
    }
}

#[test]
fn a_copy_looks_ahead_and_changes_nothing_under_any_policy() {
    for name in PolicyName::ALL {
        let entries = [1, 2, 3, 4].map(|id| entry(id, Priority::Normal, id));
        let mut policy = filled(Order::of(name), &entries);
        let ahead = take_all(&mut *policy.copy(), &entries, Lanes::all());
        assert_eq!(take_all(&mut *policy, &entries, Lanes::all()), ahead, "{name}");
    }
}
