//! What the ledger promises, one by one, and under random announcements.

use super::*;
use proptest::prelude::*;

const ANY: FitSet = FitSet::of(1);

fn told(capacity: u32, taken: u64, settled: u64) -> Told {
    of_fits(capacity, ANY, &[(u32::MAX, taken, settled)])
}

fn of_fits(capacity: u32, fits: FitSet, totals: &[(u32, u64, u64)]) -> Told {
    let mut of = [Totals::default(); FITS_MAX];
    for (place, &(room, taken, settled)) in totals.iter().enumerate() {
        of[place] = Totals { room, taken, settled };
    }
    Told { slots: capacity, capacity, fits, of }
}

fn any() -> FitId {
    FitId::default()
}

fn room(ledger: &Ledger) -> u64 {
    ledger.room(FitId::default())
}

fn with(capacity: u32) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.told(Micros(0), "a".into(), told(capacity, 0, 0));
    ledger
}

#[test]
fn a_dispatch_takes_room_until_it_is_settled() {
    let mut ledger = with(2);
    ledger.dispatched(any());
    ledger.dispatched(any());
    assert_eq!(room(&ledger), 0);
    ledger.told(Micros(1), "a".into(), told(2, 2, 0));
    assert_eq!(room(&ledger), 0);
    ledger.told(Micros(2), "a".into(), told(2, 2, 1));
    assert_eq!(room(&ledger), 1);
}

#[test]
fn a_lost_announcement_heals_with_the_next() {
    let mut ledger = with(4);
    (0..4).for_each(|_| ledger.dispatched(any()));
    // Those that told of the first three never came.
    ledger.told(Micros(9), "a".into(), told(4, 4, 4));
    assert_eq!((room(&ledger), ledger.outstanding()), (4, 0));
}

#[test]
fn a_repeated_or_late_announcement_changes_nothing() {
    let mut ledger = with(4);
    (0..4).for_each(|_| ledger.dispatched(any()));
    ledger.told(Micros(2), "a".into(), told(4, 4, 2));
    ledger.told(Micros(3), "a".into(), told(4, 4, 2));
    ledger.told(Micros(4), "a".into(), told(4, 3, 1));
    assert_eq!((room(&ledger), ledger.outstanding()), (2, 2));
}

#[test]
fn what_a_silent_executor_holds_stays_outstanding_until_another_settles_it() {
    let mut ledger = with(2);
    ledger.told(Micros(0), "b".into(), told(2, 0, 0));
    (0..2).for_each(|_| ledger.dispatched(any()));
    ledger.told(Micros(1), "a".into(), told(2, 2, 0));
    let later = Micros(EXECUTOR_SILENCE_MAX.0 + 2);
    ledger.told(later, "b".into(), told(2, 0, 0));
    ledger.check(later);
    assert_eq!((room(&ledger), ledger.outstanding()), (0, 2), "b keeps its room for what comes back from a");
    ledger.told(later, "b".into(), told(2, 2, 2));
    assert_eq!((room(&ledger), ledger.outstanding()), (2, 0));
}

#[test]
fn a_silent_executor_that_speaks_again_counts_again_once() {
    let mut ledger = with(3);
    let later = Micros(EXECUTOR_SILENCE_MAX.0 + 1);
    ledger.check(later);
    assert_eq!(room(&ledger), 0);
    ledger.told(later, "a".into(), told(3, 5, 5));
    assert_eq!(room(&ledger), 3);
}

#[test]
fn a_new_leader_starts_with_what_the_executors_hold() {
    let mut ledger = Ledger::default();
    ledger.counted(any(), 1);
    ledger.told(Micros(0), "a".into(), told(4, 103, 100));
    assert_eq!((room(&ledger), ledger.outstanding()), (1, 3));
    ledger.counted(any(), 4);
    assert_eq!(room(&ledger), 0, "one more lies in the lane");
}

#[test]
fn an_executor_adds_room_only_to_the_fits_that_it_satisfies() {
    let mut ledger = with(2);
    let gpu = FitId::new(1).expect("in range");
    ledger.told(Micros(0), "b".into(), of_fits(1, FitSet::of(3), &[(9, 0, 0), (9, 0, 0)]));
    assert_eq!((room(&ledger), ledger.room(gpu)), (3, 1));
}

#[test]
fn what_lies_in_a_lane_that_nobody_serves_any_more_stops_nobody() {
    let gpu = FitId::new(1).expect("in range");
    let mut ledger = with(4);
    ledger.told(Micros(0), "g".into(), of_fits(18, FitSet::of(2), &[(9, 0, 0), (u32::MAX, 0, 0)]));
    (0..18).for_each(|_| ledger.dispatched(gpu));
    ledger.lost("g");
    assert_eq!((room(&ledger), ledger.room(gpu)), (4, 0));
}

#[test]
fn a_narrow_fit_has_room_while_the_others_tasks_can_go_elsewhere() {
    let gpu = FitId::new(1).expect("in range");
    let mut ledger = Ledger::default();
    // Both are full but for a slot each, and one task is on its way to whoever takes it.
    ledger.told(Micros(0), "a".into(), of_fits(4, FitSet::of(1), &[(u32::MAX, 3, 0)]));
    ledger.told(Micros(0), "b".into(), of_fits(4, FitSet::of(3), &[(u32::MAX, 3, 0), (u32::MAX, 0, 0)]));
    ledger.dispatched(any());
    assert_eq!((room(&ledger), ledger.room(gpu)), (1, 1));
    ledger.dispatched(any());
    assert_eq!((room(&ledger), ledger.room(gpu)), (0, 0), "both slots are spoken for");
}

#[test]
fn a_scarce_resource_bounds_its_fit_and_leaves_the_slots_to_the_others() {
    let gpu = FitId::new(1).expect("in range");
    let mut ledger = Ledger::default();
    ledger.told(Micros(0), "a".into(), of_fits(16, FitSet::of(3), &[(u32::MAX, 0, 0), (1, 0, 0)]));
    (0..8).for_each(|_| ledger.dispatched(any()));
    assert_eq!((room(&ledger), ledger.room(gpu)), (8, 1), "what lies in the other lane takes slots, no gpu");
    ledger.dispatched(gpu);
    assert_eq!((room(&ledger), ledger.room(gpu)), (7, 0));
    ledger.told(Micros(1), "a".into(), of_fits(16, FitSet::of(3), &[(u32::MAX, 8, 8), (0, 1, 0)]));
    assert_eq!((room(&ledger), ledger.room(gpu)), (15, 0), "it is in use");
    ledger.told(Micros(2), "a".into(), of_fits(16, FitSet::of(3), &[(u32::MAX, 8, 8), (1, 1, 1)]));
    assert_eq!((room(&ledger), ledger.room(gpu)), (16, 1));
}

#[test]
fn executors_beyond_the_bound_push_out_the_one_silent_for_longest() {
    let mut ledger = Ledger::default();
    for n in 0..=EXECUTORS_MAX {
        ledger.told(Micros(n as u64), format!("e{n}"), told(1, 0, 0));
    }
    assert_eq!(ledger.executors.len(), EXECUTORS_MAX);
    assert_eq!(room(&ledger), EXECUTORS_MAX as u64);
    assert!(!ledger.executors.contains_key("e0"));
}

/// Executors with true totals, of which some announcements are lost, repeated or late.
#[derive(Debug, Clone)]
enum Step {
    Dispatch,
    Take(usize),
    Settle(usize),
    Announce(usize),
    AnnounceLate(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Dispatch),
        3 => (0..3usize).prop_map(Step::Take),
        3 => (0..3usize).prop_map(Step::Settle),
        2 => (0..3usize).prop_map(Step::Announce),
        1 => (0..3usize, 0..20usize).prop_map(|(e, back)| Step::AnnounceLate(e, back)),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn never_more_is_on_its_way_or_held_than_the_executors_have_capacity(steps in steps()) {
        const CAPACITY: u32 = 4;
        let mut ledger = Ledger::default();
        let mut history: Vec<Vec<Told>> = vec![vec![told(CAPACITY, 0, 0)]; 3];
        for (e, told) in history.iter().enumerate() {
            ledger.told(Micros(0), format!("{e}"), told[0]);
        }
        let (mut in_lane, mut dispatched) = (0u64, 0u64);
        for step in steps {
            match step {
                Step::Dispatch if room(&ledger) > 0 => {
                    ledger.dispatched(any());
                    dispatched += 1;
                    in_lane += 1;
                }
                Step::Dispatch => {}
                Step::Take(e) => {
                    let mut now = *history[e].last().expect("never empty");
                    if in_lane > 0 && now.held() < u64::from(CAPACITY) {
                        in_lane -= 1;
                        now.of[0].taken += 1;
                        history[e].push(now);
                    }
                }
                Step::Settle(e) => {
                    let mut now = *history[e].last().expect("never empty");
                    if now.held() > 0 {
                        now.of[0].settled += 1;
                        history[e].push(now);
                    }
                }
                Step::Announce(e) => ledger.told(Micros(1), format!("{e}"), *history[e].last().expect("never empty")),
                Step::AnnounceLate(e, back) => {
                    let place = history[e].len().saturating_sub(back + 1);
                    ledger.told(Micros(1), format!("{e}"), history[e][place]);
                }
            }
            let settled: u64 = history.iter().map(|h| h.last().expect("never empty").of[0].settled).sum();
            let truly = dispatched - settled;
            prop_assert!(ledger.outstanding() >= truly, "{} told, {truly} true", ledger.outstanding());
            prop_assert!(truly <= 3 * u64::from(CAPACITY));
            prop_assert_eq!(ledger.sums[0].held, ledger.executors.values().map(|e| e.told.held()).sum::<u64>());
        }
        // Totals heal: after one announcement of each the ledger is exact.
        for (e, told) in history.iter().enumerate() {
            ledger.told(Micros(2), format!("{e}"), *told.last().expect("never empty"));
        }
        let settled: u64 = history.iter().map(|h| h.last().expect("never empty").of[0].settled).sum();
        prop_assert_eq!(ledger.outstanding(), dispatched - settled);
    }
}
