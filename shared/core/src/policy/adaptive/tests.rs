//! What `adaptive` promises, one by one.

use super::*;
use crate::entry::{FitId, FlowId, TypeId};
use std::collections::{BTreeMap, BTreeSet};

/// A mean cost, in µs.
const G: u64 = 1_000_000;

fn entry(id: u64, tenant: u32, priority: Priority, arrival: u64, estimate: u64) -> Entry {
    Entry {
        id: EntryId(id),
        flow: FlowId(tenant * 4 + priority.rank() as u32),
        priority,
        tenant: TenantId(tenant),
        task_type: TypeId(0),
        fit: FitId::default(),
        first_arrival: Micros(arrival),
        expires: None,
        due: None,
        estimate: Micros(estimate),
        yields: 0,
        bytes: 100,
    }
}

/// A policy that has learned a mean cost of [`G`].
fn learned(guard: u64) -> Adaptive {
    let mut policy = Adaptive::with(Limit::MeanCosts(guard), Weights::default());
    for id in 0..100 {
        let entry = entry(1_000_000 + id, 999, Priority::Normal, 0, G);
        policy.add(Micros(0), &entry);
        policy.take(Micros(0), Lanes::all());
        policy.ended(&entry, Micros(G));
    }
    policy
}

fn add_all(policy: &mut Adaptive, entries: &[Entry]) {
    entries.iter().for_each(|entry| policy.add(entry.first_arrival, entry));
}

fn order(policy: &mut Adaptive, now: u64) -> Vec<u64> {
    std::iter::from_fn(|| policy.take(Micros(now), Lanes::all())).map(|id| id.0).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 29)) % end
    }
}

/// What a run in virtual time says.
#[derive(Debug, Default, PartialEq)]
struct Told {
    order: Vec<u64>,
    started: BTreeMap<u64, u64>,
    /// The work that went ahead of each task since it passed the limit, without that of older tasks.
    ahead: BTreeMap<u64, u64>,
    /// The work of the tasks older than each.
    older: BTreeMap<u64, u64>,
}

/// Runs tasks of these costs on `servers` and keeps the books of the guard's promise.
fn run(policy: &mut Adaptive, tasks: &[(Entry, u64)], servers: usize, limit: u64) -> Told {
    let mut told = Told::default();
    let mut running: BTreeSet<(u64, usize)> = BTreeSet::new();
    let mut waiting: BTreeSet<usize> = BTreeSet::new();
    let (mut next, mut floor) = (0, policy.floor);
    loop {
        let arrival = tasks.get(next).map(|task| task.0.first_arrival.0);
        let now = match (arrival, running.first().copied()) {
            (None, None) => break,
            (Some(at), ended) if ended.is_none_or(|ended| at < ended.0) => {
                policy.add(Micros(at), &tasks[next].0);
                waiting.insert(next);
                next += 1;
                at
            }
            (_, Some(ended)) => {
                running.remove(&ended);
                policy.ended(&tasks[ended.1].0, Micros(tasks[ended.1].1));
                ended.0
            }
            (Some(_), None) => break,
        };
        while running.len() < servers {
            let Some(id) = policy.take(Micros(now), Lanes::all()) else { break };
            let place = id.0 as usize;
            let (entry, cost) = tasks[place];
            assert!(waiting.remove(&place), "task {place} was taken twice");
            assert!(policy.floor >= floor, "the floor fell");
            floor = policy.floor;
            let bound = DEBT_MAX * policy.mean_cost();
            let debt = policy.tenants.get(&entry.tenant).map_or(0, |tenant| tenant.vt - policy.floor);
            assert!(debt <= bound, "a tenant owes {debt} of {bound}");
            for &late in &waiting {
                let arrived = tasks[late].0.first_arrival.0;
                if now > arrived + limit {
                    let books = if place < late { &mut told.older } else { &mut told.ahead };
                    *books.entry(late as u64).or_default() += cost;
                }
            }
            told.order.push(id.0);
            told.started.insert(id.0, now);
            running.insert((now + cost, place));
        }
    }
    told
}

/// Overload, estimates off by up to 64 times either way, four tenants, one of which floods.
fn overload(seed: u64, count: u64) -> Vec<(Entry, u64)> {
    let mut random = Random(seed);
    let mut now = 0;
    (0..count)
        .map(|id| {
            now += random.below(G / 5);
            let cost = 1 + (G >> random.below(8)) * if random.below(20) == 0 { 8 } else { 1 };
            let estimate = if random.below(2) == 0 { cost << random.below(7) } else { cost >> random.below(7) };
            let tenant = if random.below(2) == 0 { 0 } else { 1 + random.below(3) as u32 };
            let priority = Priority::ALL[[2, 2, 3, 3, 1, 0][random.below(6) as usize]];
            (entry(id, tenant, priority, now, estimate.max(1)), cost)
        })
        .collect()
}

#[test]
fn the_shorter_goes_first_and_age_makes_up_for_length() {
    let mut policy = learned(GUARD_LIMIT);
    let old = entry(3, 3, Priority::Normal, 0, G);
    let tasks = [entry(1, 1, Priority::Normal, 10, 2 * G), entry(2, 2, Priority::Normal, 10, G), old];
    add_all(&mut policy, &tasks);
    assert_eq!(order(&mut policy, 20), [3, 2, 1]);
    add_all(&mut policy, &[entry(4, 1, Priority::Normal, 0, 2 * G), entry(5, 2, Priority::Normal, 60 * G, G)]);
    assert_eq!(order(&mut policy, 60 * G), [4, 5], "50 mean costs make up for one");
}

#[test]
fn urgent_tasks_go_first_and_no_more_than_half_of_the_work() {
    let mut policy = learned(GUARD_LIMIT);
    let mut tasks: Vec<_> = (0..100).map(|id| entry(id, id as u32, Priority::Critical, 0, 4 * G)).collect();
    tasks.extend((100..200).map(|id| entry(id, id as u32, Priority::Normal, 0, G / 4)));
    add_all(&mut policy, &tasks);
    let urgent = order(&mut policy, 1).into_iter().take(100).filter(|&id| id < 100).count();
    assert!((48..=60).contains(&urgent), "{urgent} of 100");
}

#[test]
fn an_urgent_giant_does_not_go_ahead() {
    let mut policy = learned(GUARD_LIMIT);
    add_all(&mut policy, &[entry(1, 1, Priority::Critical, 0, 100 * G), entry(2, 2, Priority::Low, 0, G)]);
    assert_eq!(order(&mut policy, 1), [2, 1]);
}

#[test]
fn a_flood_delays_nobody_who_has_no_backlog() {
    let mut policy = learned(GUARD_LIMIT);
    let flood: Vec<_> = (0..500).map(|id| entry(id, 0, Priority::Normal, 0, G / 10)).collect();
    add_all(&mut policy, &flood);
    add_all(&mut policy, &(500..520).map(|id| entry(id, id as u32, Priority::Low, 9, 4 * G)).collect::<Vec<_>>());
    assert!(policy.is_over_share(&flood[0]));
    let order = order(&mut policy, 10);
    let flood_among_first = order[..24].iter().filter(|&&id| id < 500).count();
    assert!(flood_among_first <= 8, "{flood_among_first} of the flood went before the others");
    assert_eq!(order.len(), 520);
}

#[test]
fn a_mean_that_was_far_too_large_gives_no_flood_a_lead() {
    for servers in [1, 16] {
        let mut policy = Adaptive::with(Limit::MeanCosts(1 << 40), Weights::default());
        // Said to take an hour each before anything has run; they take a thousandth of a second.
        let mut tasks: Vec<_> = (0..500).map(|id| entry(id, 0, Priority::Normal, 0, 3_600 * G)).collect();
        add_all(&mut policy, &tasks);
        let round = |policy: &mut Adaptive, tasks: &[Entry]| {
            let went: Vec<u64> =
                (0..servers).map_while(|_| policy.take(Micros(0), Lanes::all())).map(|id| id.0).collect();
            went.iter().for_each(|id| policy.ended(&tasks[*id as usize], Micros(G / 1_000)));
            went
        };
        (0..5).for_each(|_| assert!(round(&mut policy, &tasks).iter().all(|id| *id < 500)));
        tasks.extend((500..505).map(|id| entry(id, 1, Priority::Normal, 1, 3_600 * G)));
        add_all(&mut policy, &tasks[500..]);
        let order: Vec<u64> = (0..5).flat_map(|_| round(&mut policy, &tasks)).take(5 + servers).collect();
        let others = order.iter().filter(|id| **id >= 500).count();
        assert_eq!(others, 5, "on {servers} servers: {order:?}");
    }
}

#[test]
fn what_is_urgent_in_a_flooding_tenant_overtakes_its_flood() {
    let mut policy = learned(GUARD_LIMIT);
    add_all(&mut policy, &(0..500).map(|id| entry(id, 0, Priority::Normal, 0, G)).collect::<Vec<_>>());
    add_all(&mut policy, &(500..540).map(|id| entry(id, id as u32, Priority::Normal, 9, G)).collect::<Vec<_>>());
    let high = entry(900, 0, Priority::High, 9, G);
    add_all(&mut policy, &[high]);
    assert!(!policy.is_over_share(&high));
    assert_eq!(policy.take(Micros(10), Lanes::all()), Some(EntryId(900)));
}

#[test]
fn a_flood_of_urgent_tasks_is_a_flood_all_the_same() {
    let mut policy = learned(GUARD_LIMIT);
    let flood: Vec<_> = (0..500).map(|id| entry(id, 0, Priority::Critical, 0, G)).collect();
    add_all(&mut policy, &flood);
    add_all(&mut policy, &(500..520).map(|id| entry(id, id as u32, Priority::Low, 9, G)).collect::<Vec<_>>());
    assert!(policy.is_over_share(&flood[0]));
    assert!(order(&mut policy, 10)[..24].iter().filter(|&&id| id < 500).count() <= 8);
}

#[test]
fn a_tenant_alone_and_tenants_with_equal_backlogs_are_never_gated() {
    let mut policy = learned(GUARD_LIMIT);
    let tasks: Vec<_> =
        (0..800).map(|id| entry(id, (id % 4) as u32, Priority::Normal, 0, 1 + (800 - id) * 1_000)).collect();
    add_all(&mut policy, &tasks);
    assert!(tasks.iter().all(|task| !policy.is_over_share(task)));
    assert_eq!(order(&mut policy, 1), (0..800).rev().collect::<Vec<_>>());
}

#[test]
fn two_floods_share_what_is_left_by_work() {
    let mut policy = learned(GUARD_LIMIT);
    let costs = |id: u64| if id.is_multiple_of(2) { G } else { 4 * G };
    let tasks: Vec<_> =
        (0..1_000).map(|id| (entry(id, (id % 2) as u32, Priority::Normal, 0, costs(id)), costs(id))).collect();
    let mut all: Vec<_> = tasks.clone();
    all.extend(
        (1_000..9_000).map(|id| (entry(id, 2 + (id % 20) as u32, Priority::Low, (id - 1_000) * G / 4, G / 4), G / 4)),
    );
    let told = run(&mut policy, &all, 2, u64::MAX / 2);
    let work = |tenant: u64| {
        told.order[..4_000].iter().filter(|&&id| id < 1_000 && id % 2 == tenant).map(|&id| costs(id)).sum::<u64>()
    };
    assert!(work(0).abs_diff(work(1)) <= 40 * G, "{} and {}", work(0), work(1));
}

#[test]
fn past_the_limit_nine_parts_at_most_go_ahead_of_one_of_the_older() {
    const LIMIT: u64 = 4;
    for seed in 0..40 {
        let mut policy = learned(LIMIT);
        let tasks = overload(seed, 1_500);
        // The mean cost moves: the promise counts from the latest moment that the limit can be.
        let told = run(&mut policy, &tasks, 2, LIMIT * 2 * G);
        let largest = tasks.iter().map(|task| task.1).max().unwrap_or(0);
        for (late, ahead) in &told.ahead {
            // What older tasks were given before this one passed the limit is theirs as well.
            let older: u64 = tasks[..*late as usize].iter().map(|task| task.1).sum();
            let waited_for = told.older.get(late).copied().unwrap_or(0) + lent(&told, &tasks, *late, LIMIT * 2 * G);
            assert!(*ahead <= 9 * waited_for.min(older) + 2 * largest, "seed {seed}, task {late}: {ahead}");
        }
    }
}

/// The work of older tasks whose nine parts were still being worked off when this one passed.
fn lent(told: &Told, tasks: &[(Entry, u64)], late: u64, limit: u64) -> u64 {
    let passed = tasks[late as usize].0.first_arrival.0 + limit;
    let recent = told.order.iter().rev().filter(|&&id| id < late && told.started[&id] <= passed);
    recent.take(32).map(|&id| tasks[id as usize].1).sum()
}

#[test]
fn nothing_waits_for_ever_under_lasting_overload_as_it_would_without_the_guard() {
    let wait = |guard| {
        let task = |id: u64| (entry(id, id as u32 % 8, Priority::Normal, id * G / 10, G / 2), G / 2);
        let mut tasks: Vec<_> = (0..8_000).map(task).collect();
        tasks[100].0.estimate = Micros(500 * G);
        run(&mut learned(guard), &tasks, 2, u64::MAX / 2).started[&100]
    };
    assert!(wait(100) <= 125 * G, "waited {} s", wait(100) / G);
    assert!(wait(u64::MAX) > 1_000 * G, "the guard has nothing to do here");
}

#[test]
fn the_guard_takes_no_more_than_a_tenth_of_the_work() {
    let mut policy = learned(10);
    let mut tasks: Vec<_> = (0..500).map(|id| (entry(id, 1, Priority::Low, 0, 40 * G), G)).collect();
    tasks.extend((500..4_500).map(|id| (entry(id, id as u32 % 7 + 2, Priority::Normal, 20 * G, G / 2), G)));
    let told = run(&mut policy, &tasks, 1, u64::MAX / 2);
    let late = told.order.iter().filter(|&&id| told.started[&id] > 40 * G && told.started[&id] < 1_040 * G && id < 500);
    let count = late.count();
    assert!((90..=115).contains(&count), "{count} of 1,000");
}

#[test]
fn the_same_events_give_the_same_decisions() {
    for seed in 0..5 {
        let tasks = overload(seed, 3_000);
        assert_eq!(run(&mut learned(50), &tasks, 4, G), run(&mut learned(50), &tasks, 4, G));
    }
}

#[test]
fn a_task_that_could_not_be_stored_costs_its_tenant_nothing() {
    let mut policy = learned(GUARD_LIMIT);
    let tasks: Vec<_> = (0..50).map(|id| entry(id, 0, Priority::Normal, 0, G)).collect();
    add_all(&mut policy, &tasks);
    let books = |policy: &Adaptive| (policy.tenants[&TenantId(0)].vt, policy.guard.owed);
    policy.take(Micros(1), Lanes::all());
    let before = books(&policy);
    let id = policy.take(Micros(1), Lanes::all()).expect("49 wait");
    let taken = tasks[id.0 as usize];
    policy.not_stored(&taken);
    policy.add(Micros(2), &taken);
    assert_eq!((books(&policy), policy.running.len()), (before, 1));
    assert_eq!(policy.take(Micros(3), Lanes::all()), Some(id));
}

#[test]
fn what_is_removed_or_has_no_room_is_not_taken() {
    let mut policy = learned(GUARD_LIMIT);
    let tasks = [entry(1, 1, Priority::Normal, 0, G), entry(2, 1, Priority::Normal, 0, G)];
    let gpu = Entry { fit: FitId::new(1).expect("in range"), ..entry(3, 2, Priority::Critical, 0, G) };
    add_all(&mut policy, &[tasks[0], tasks[1], gpu]);
    policy.remove(&tasks[0]);
    let mut lanes = Lanes::default();
    lanes.insert_fit(FitId::default());
    assert_eq!(policy.take(Micros(1), lanes), Some(EntryId(2)));
    assert_eq!(policy.take(Micros(1), lanes), None);
    assert_eq!(order(&mut policy, 1), [3]);
}

#[test]
fn what_fits_is_found_behind_any_number_of_floods_that_do_not() {
    let mut policy = learned(GUARD_LIMIT);
    let gpu = FitId::new(1).expect("in range");
    let floods = SCAN as u64 + 10;
    // Quiet tenants, without whom nobody would be over; then floods, of which the last one fits.
    let quiet: Vec<_> = (0..500).map(|n| entry(900_000 + n, 1_000 + n as u32, Priority::Low, 9, G)).collect();
    add_all(&mut policy, &quiet);
    for id in 0..floods * 100 {
        let flood = entry(id, (id % floods) as u32, Priority::Normal, 0, G);
        policy.add(Micros(0), &Entry { fit: gpu, ..flood });
    }
    add_all(&mut policy, &(0..100).map(|n| entry(910_000 + n, 2_000, Priority::Normal, 9, G)).collect::<Vec<_>>());
    let mut lanes = Lanes::default();
    lanes.insert_fit(FitId::default());
    let taken = std::iter::from_fn(|| policy.take(Micros(10), lanes)).count();
    assert_eq!(taken, 600);
}

#[test]
fn nothing_is_lost_whatever_the_rules_do() {
    for seed in 0..10 {
        let tasks = overload(seed, 2_000);
        let told = run(&mut learned(20), &tasks, 3, G);
        assert_eq!(told.order.iter().collect::<BTreeSet<_>>().len(), tasks.len());
    }
}

#[test]
fn idle_tenants_are_forgotten_beyond_the_bound() {
    let mut policy = learned(GUARD_LIMIT);
    for id in 0..TENANTS_MAX as u64 + 1_000 {
        policy.add(Micros(id), &entry(id, id as u32, Priority::Normal, id, G));
        policy.take(Micros(id), Lanes::all());
    }
    assert!(policy.tenants.len() <= TENANTS_MAX + 1);
    assert_eq!(policy.filed[Standing::Idle as usize].len(), policy.tenants.len());
}
