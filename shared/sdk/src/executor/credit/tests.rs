//! What there is room for, by slots and by means.

use super::*;

fn needs(cpu_milli: u32, memory_mib: u32, gpu: u32) -> Needs {
    let resources = if gpu > 0 { [("gpu".to_owned(), gpu)].into() } else { Default::default() };
    Needs { cpu_milli, memory_mib, resources, ..Needs::default() }
}

fn fit(name: &str, covers: Needs) -> FitEntry {
    FitEntry { name: Fit::new(name).expect("valid"), covers }
}

fn declared() -> Vec<FitEntry> {
    vec![
        FitEntry::default(),
        fit("small", needs(1_000, 0, 0)),
        fit("large", needs(4_000, 1_024, 0)),
        fit("gpu", needs(0, 0, 1)),
    ]
}

fn ledger(slots: usize, prefetch: usize, means: Needs) -> Ledger {
    Ledger::new("e".into(), slots, Prefetch::new(Some(prefetch)), means)
}

fn names(tallies: &[Arc<Tally>]) -> Vec<&str> {
    tallies.iter().map(|tally| tally.fit().as_str()).collect()
}

fn take(ledger: &Ledger, tally: &Tally, tasks: usize) -> Admitted {
    ledger.arrive(tally);
    ledger.open(tally, tasks)
}

#[test]
fn an_executor_serves_the_fits_that_its_means_cover_the_narrowest_first() {
    let small = ledger(16, 2, needs(2_000, 512, 0));
    assert_eq!(names(&small.serve(&declared())), ["small", "any"]);
    let large = ledger(16, 2, needs(8_000, 4_096, 1));
    assert_eq!(names(&large.serve(&declared())), ["gpu", "large", "small", "any"]);
    assert_eq!(large.credit().fits, ["gpu", "large", "small", "any"]);
}

#[test]
fn of_a_scarce_fit_no_more_is_wanted_than_means_are_left_for_and_the_slots_are_left_to_the_others() {
    let ledger = ledger(16, 2, needs(8_000, 4_096, 1));
    let [gpu, large, small, any] = &ledger.serve(&declared())[..] else { panic!("four fits") };
    let wanted = || [gpu, large, small, any].map(|tally| ledger.wanted(tally));
    assert_eq!(wanted(), [1, 2, 8, 18]);
    take(&ledger, large, 1);
    assert_eq!(wanted(), [1, 1, 4, 17], "large takes up four cores");
    take(&ledger, gpu, 1);
    assert_eq!(wanted(), [0, 1, 4, 16], "and the gpu is in use");
    take(&ledger, any, 16);
    assert_eq!(wanted(), [0, 0, 0, 0], "no slot is left");
    ledger.settle(gpu);
    assert_eq!(wanted(), [1, 1, 1, 1]);
    let rooms = ledger.credit().of_fits.iter().map(|of| of.room).collect::<Vec<_>>();
    assert_eq!(rooms, [1, 1, 4, u32::MAX], "the leader is told of means and of slots apart");
}

#[test]
fn what_arrives_beyond_the_room_of_its_fit_or_of_all_is_told_apart() {
    let ledger = ledger(3, 1, needs(8_000, 4_096, 1));
    let [gpu, _, _, any] = &ledger.serve(&declared())[..] else { panic!("four fits") };
    ledger.arrive(gpu);
    assert_eq!(take(&ledger, gpu, 1), Admitted { by_capacity: 4, by_means: 1 }, "what is unopened takes nothing yet");
    assert_eq!(ledger.open(gpu, 1), Admitted { by_capacity: 3, by_means: 0 });
    ledger.settle(gpu);
    assert_eq!(take(&ledger, any, 5), Admitted { by_capacity: 3, by_means: usize::MAX });
    assert_eq!(take(&ledger, any, 1).by_capacity, 0);
}

#[test]
fn a_message_takes_room_before_it_is_opened() {
    let ledger = ledger(2, 1, Needs::default());
    let any = &ledger.serve(&declared())[0];
    ledger.arrive(any);
    assert_eq!(ledger.wanted(any), 2);
    ledger.open(any, 3);
    assert_eq!(ledger.wanted(any), 0);
}

#[test]
fn a_fit_declared_later_is_served_and_its_totals_begin_at_nothing() {
    let ledger = ledger(4, 1, needs(8_000, 4_096, 1));
    let first = ledger.serve(&declared()[..1]);
    assert_eq!(names(&first), ["any"]);
    take(&ledger, &first[0], 2);
    let later = ledger.serve(&declared());
    assert_eq!(names(&later), ["gpu", "large", "small"]);
    assert!(later.iter().all(|tally| tally.rank() < first[0].rank()));
    let credit = ledger.credit();
    assert_eq!(credit.fits, ["any", "gpu", "large", "small"], "what was told keeps its totals");
    assert_eq!(credit.of_fits.iter().map(|of| of.taken).collect::<Vec<_>>(), [2, 0, 0, 0]);
    assert!(ledger.serve(&declared()).is_empty(), "nothing is new twice");
}

#[test]
fn a_fit_declared_anew_beyond_the_means_has_no_more_room_and_one_withdrawn_keeps_its_own() {
    let ledger = ledger(4, 1, needs(8_000, 4_096, 1));
    let [gpu, large, small, _] = &ledger.serve(&declared())[..] else { panic!("four fits") };
    let grown: Vec<FitEntry> = vec![FitEntry::default(), fit("gpu", needs(0, 0, 2)), fit("small", needs(2_000, 0, 0))];
    ledger.serve(&grown);
    assert_eq!([gpu, large, small].map(|tally| ledger.wanted(tally)), [0, 2, 4], "its lanes may still hold tasks");
    take(&ledger, small, 1);
    assert_eq!(ledger.wanted(large), 1, "a task of it takes up what is declared now");
    ledger.serve(&declared());
    assert_eq!(ledger.wanted(gpu), 1);
}

#[test]
fn labels_are_not_used_up() {
    let mut means = needs(1_000, 0, 0);
    means.labels.insert("zone-a".into());
    let ledger = ledger(8, 1, means.clone());
    let zone =
        FitEntry { name: Fit::new("zone").expect("valid"), covers: Needs { labels: means.labels, ..Needs::default() } };
    let [zone, _any] = &ledger.serve(&[FitEntry::default(), zone])[..] else { panic!("two fits") };
    take(&ledger, zone, 5);
    assert_eq!(ledger.wanted(zone), 4);
    assert_eq!(ledger.credit().of_fits[0].room, u32::MAX);
}

#[test]
fn a_lowered_limit_lowers_capacity_and_its_share_of_prefetch_and_stays_visible() {
    let ledger = ledger(16, 4, Needs::default());
    let any = &ledger.serve(&declared())[0];
    assert_eq!((ledger.capacity(), ledger.step(any)), (20, 2));
    ledger.limit(4);
    let credit = ledger.credit();
    assert_eq!((credit.slots, credit.capacity, ledger.wanted(any), ledger.step(any)), (16, 5, 5, 1));
    ledger.limit(1);
    assert_eq!((ledger.credit().capacity, ledger.step(any)), (2, 1));
    ledger.limit(99);
    assert_eq!(ledger.capacity(), 20);
    ledger.close();
    assert_eq!((ledger.credit().capacity, ledger.wanted(any)), (0, 0));
}

#[test]
fn whoever_pulls_is_woken_once_a_step_and_for_a_scarce_fit_each_time() {
    let ledger = ledger(32, 8, needs(8_000, 4_096, 1));
    let [gpu, .., any] = &ledger.serve(&declared())[..] else { panic!("four fits") };
    take(&ledger, any, 8);
    assert_eq!((0..8).filter(|_| ledger.settle(any)).count(), 2);
    take(&ledger, gpu, 1);
    assert!(ledger.settle(gpu));
}

#[test]
fn the_totals_of_all_fits_add_up() {
    let ledger = ledger(8, 1, needs(8_000, 4_096, 1));
    let tallies = ledger.serve(&declared());
    for (tasks, tally) in tallies.iter().enumerate() {
        take(&ledger, tally, tasks + 1);
        ledger.settle(tally);
    }
    let credit = ledger.credit();
    assert_eq!((credit.taken, credit.settled), (10, 4));
    assert_eq!(credit.of_fits.iter().map(|of| of.taken - of.settled).sum::<u64>(), 6);
}
