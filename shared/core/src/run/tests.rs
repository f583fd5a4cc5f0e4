//! Deliveries in every state of the evidence, and what becomes of their runs.

use super::*;
use proptest::prelude::*;

const RUN: Run = Run {
    run: 1,
    attempts: 0,
    retries: 3,
    yields: 0,
    deadline: None,
    delivered: 1,
    freshness: Freshness::Fresh,
    suspicion: Suspicion::None,
};
fn mark(run: u32, begun: u32) -> Mark {
    Mark { run, begun, stage: MarkStage::Begun }
}

const NOW: Micros = Micros(1_000);

fn arrived(delivered: u64, tasks: usize) -> Arrived {
    Arrived { delivered, tasks, freshness: Freshness::Fresh, custody: Custody::New }
}

fn began(verdict: Verdict) -> Begin {
    match verdict {
        Verdict::Begin(begin) => begin,
        other => panic!("it does not begin: {other:?}"),
    }
}

#[test]
fn first_delivery_opens_and_redelivered_bundle_is_taken_apart() {
    assert_eq!(receive(arrived(1, 8)), Reception::Open);
    assert_eq!(receive(arrived(2, 1)), Reception::Open);
    assert_eq!(receive(arrived(2, 8)), Reception::TakeApart);
    let stale = |tasks| Arrived { freshness: Freshness::Stale, ..arrived(1, tasks) };
    assert_eq!(receive(stale(1)), Reception::Open);
    assert_eq!(receive(stale(8)), Reception::TakeApart);
}

#[test]
fn redelivery_of_a_message_in_hand_is_adopted_whatever_it_carries() {
    for (delivered, tasks) in [(1, 1), (2, 1), (40, 128)] {
        assert_eq!(receive(Arrived { custody: Custody::Held, ..arrived(delivered, tasks) }), Reception::Adopt);
    }
}

#[test]
fn first_delivery_begins_without_a_mark_unless_the_task_must_not_run_twice() {
    let begin = began(judge(&RUN, &Evidence::NONE, NOW));
    assert_eq!((begin.attempt, begin.number(), begin.marking), (1, 1, Marking::None));
    let once = Run { retries: 0, ..RUN };
    let mark = mark(1, 1);
    assert_eq!(began(judge(&once, &Evidence::NONE, NOW)).marking, Marking::Store(mark));
}

#[test]
fn deliveries_that_began_nothing_spend_no_attempt_of_a_task_without_retries() {
    for delivered in [2, 3, 100] {
        let run = Run { retries: 0, delivered, ..RUN };
        let begin = began(judge(&run, &Evidence::NONE, NOW));
        assert_eq!((begin.attempt, begin.crashes), (1, 0), "delivery {delivered}");
    }
}

#[test]
fn deliveries_that_may_have_begun_count_once_and_not_as_attempts() {
    for delivered in [2, 3, 100] {
        let begin = began(judge(&Run { delivered, ..RUN }, &Evidence::NONE, NOW));
        assert_eq!((begin.attempt, begin.crashes, begin.number()), (1, 1, 2), "delivery {delivered}");
    }
}

#[test]
fn task_without_retries_that_began_elsewhere_waits_for_its_owner_and_then_is_crashed() {
    let run = Run { retries: 0, delivered: 2, ..RUN };
    let evidence = |owner, waited| Evidence { mark: Some(mark(1, 1)), owner, waited, ..Evidence::NONE };
    let almost = |limit: Duration| limit - Duration::from_millis(1);
    let crashed = Verdict::Crashed { runs: 1 };
    assert_eq!(judge(&run, &evidence(Owner::Runs, OUTAGE_MAX), NOW), Verdict::LeaveToOwner);
    assert_eq!(judge(&run, &evidence(Owner::Gone, almost(RECONNECT_GRACE)), NOW), Verdict::WaitForOwner);
    assert_eq!(judge(&run, &evidence(Owner::Gone, RECONNECT_GRACE), NOW), crashed);
    assert_eq!(judge(&run, &evidence(Owner::Silent, almost(OUTAGE_MAX)), NOW), Verdict::WaitForOwner);
    assert_eq!(judge(&run, &evidence(Owner::Silent, OUTAGE_MAX), NOW), crashed);
    assert_eq!(judge(&run, &evidence(Owner::Disowns, Duration::ZERO), NOW), crashed);
}

#[test]
fn task_with_retries_waits_only_for_an_owner_that_answers() {
    let run = Run { delivered: 2, ..RUN };
    for owner in [Owner::Unknown, Owner::Silent, Owner::Gone] {
        assert_eq!(began(judge(&run, &Evidence { owner, ..Evidence::NONE }, NOW)).attempt, 1);
    }
    assert_eq!(judge(&run, &Evidence { owner: Owner::Runs, ..Evidence::NONE }, NOW), Verdict::LeaveToOwner);
}

#[test]
fn task_that_kills_its_executors_is_crashed_after_as_many_runs_as_it_may_have_attempts() {
    for retries in [0, 1, 3] {
        let (mut mark, mut runs) = (None, 0);
        let crashed = loop {
            let run = Run { retries, delivered: runs + 1, ..RUN };
            match judge(&run, &Evidence { mark, waited: OUTAGE_MAX, ..Evidence::NONE }, NOW) {
                Verdict::Begin(begin) => {
                    runs += 1;
                    mark = match begin.marking {
                        Marking::Store(mark) => Some(mark),
                        Marking::None => None,
                    };
                }
                Verdict::Crashed { runs } => break runs,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((runs, crashed), (u64::from(retries) + 1, retries + 1));
    }
}

#[test]
fn only_redeliveries_and_what_must_not_run_twice_are_asked_for() {
    let suspect = Run { suspicion: Suspicion::Suspect, ..RUN };
    assert!(!needs_inquiry(&RUN) && !needs_inquiry(&suspect) && !needs_inquiry(&Run { retries: 0, ..RUN }));
    assert!(needs_inquiry(&Run { delivered: 2, ..RUN }) && needs_inquiry(&Run { retries: 0, ..suspect }));
    let stale = Run { freshness: Freshness::Stale, ..RUN };
    assert!(needs_inquiry(&stale) && is_marked(&stale) && !is_marked(&suspect));
}

#[test]
fn mark_of_an_earlier_run_counts_for_nothing_and_a_later_one_supersedes() {
    let run = Run { run: 3, ..RUN };
    let evidence = |run| Evidence { mark: Some(mark(run, 1)), ..Evidence::NONE };
    assert_eq!(began(judge(&run, &evidence(2), NOW)).crashes, 0);
    assert_eq!(judge(&run, &evidence(4), NOW), Verdict::Superseded);
}

#[test]
fn earlier_run_of_a_task_without_retries_that_began_is_a_copy_that_began() {
    let run = Run { run: 3, retries: 0, ..RUN };
    let evidence = |mark| Evidence { mark: Some(mark), owner: Owner::Disowns, ..Evidence::NONE };
    assert_eq!(judge(&run, &evidence(mark(2, 1)), NOW), Verdict::Crashed { runs: 1 });
    assert_eq!(began(judge(&run, &evidence(mark(2, 1).answered()), NOW)).crashes, 0, "it yielded");
    assert_eq!(began(judge(&run, &evidence(mark(2, 1).next()), NOW)).crashes, 0, "this run has not begun");
}

#[test]
fn run_that_answered_did_not_end_with_its_executor() {
    let run = Run { run: 2, retries: 1, delivered: 3, ..RUN };
    let evidence = |mark| Evidence { mark: Some(mark), owner: Owner::Gone, waited: OUTAGE_MAX, ..Evidence::NONE };
    assert_eq!(judge(&run, &evidence(mark(2, 2)), NOW), Verdict::Crashed { runs: 2 });
    assert_eq!(began(judge(&run, &evidence(mark(2, 2).answered()), NOW)).crashes, 1);
    let once = Run { retries: 0, ..run };
    assert_eq!(judge(&once, &evidence(mark(2, 1).answered()), NOW), Verdict::Crashed { runs: 1 }, "it began");
    assert_eq!(judge(&once, &evidence(mark(2, 1).next()), NOW), Verdict::Superseded, "its next run is stored");
}

#[test]
fn mark_of_a_handler_that_never_began_counts_for_nothing() {
    let once = Run { retries: 0, delivered: 2, ..RUN };
    let evidence = Evidence { mark: Some(mark(1, 1)), owner: Owner::NeverBegan, ..Evidence::NONE };
    assert_eq!(began(judge(&once, &evidence, NOW)).crashes, 0);
}

#[test]
fn completed_and_cancelled_tasks_never_begin() {
    let done = Evidence { is_done: true, is_cancelled: true, owner: Owner::Runs, ..Evidence::NONE };
    assert_eq!(judge(&RUN, &done, NOW), Verdict::Completed);
    assert_eq!(judge(&RUN, &Evidence { is_cancelled: true, ..Evidence::NONE }, NOW), Verdict::Cancelled);
}

#[test]
fn deadline_ends_only_what_has_not_begun() {
    let late = Run { deadline: Some(Micros(NOW.0 - 1)), ..RUN };
    assert_eq!(judge(&late, &Evidence::NONE, NOW), Verdict::Expired);
    assert_eq!(judge(&Run { deadline: Some(NOW), ..RUN }, &Evidence::NONE, NOW), judge(&RUN, &Evidence::NONE, NOW));
    for begun in [Run { attempts: 1, ..late }, Run { yields: 1, ..late }, Run { delivered: 2, ..late }] {
        began(judge(&begun, &Evidence::NONE, NOW));
    }
}

#[test]
fn success_is_stored_whoever_holds_the_task_and_other_answers_are_kept_for_an_outage() {
    for hold in [Hold::Holds, Hold::Lapsed, Hold::Lost] {
        assert_eq!(settle(Answered::Success, hold, Duration::ZERO), Settlement::Store);
    }
    assert_eq!(settle(Answered::Step, Hold::Holds, OUTAGE_MAX), Settlement::Store);
    assert_eq!(settle(Answered::Step, Hold::Lapsed, Duration::ZERO), Settlement::Keep);
    assert_eq!(settle(Answered::Step, Hold::Lapsed, OUTAGE_MAX), Settlement::Leave);
    assert_eq!(settle(Answered::Step, Hold::Lost, Duration::ZERO), Settlement::Leave);
}

proptest! {
    #[test]
    fn task_without_retries_begins_only_where_no_run_of_it_has_begun(delivered in 1..200_u64, begun: Option<u32>) {
        let mark = begun.map(|begun| mark(1, begun.max(1)));
        let evidence = Evidence { mark, waited: OUTAGE_MAX, ..Evidence::NONE };
        let begins = matches!(judge(&Run { retries: 0, delivered, ..RUN }, &evidence, NOW), Verdict::Begin(_));
        prop_assert_eq!(begins, mark.is_none());
    }

    #[test]
    fn no_numbers_make_it_panic(run: u32, attempts: u32, retries: u32, begun: u32, delivered: u64) {
        let run = Run { run, attempts, retries, delivered, ..RUN };
        let mark = Some(mark(run.run, begun));
        let _verdict = judge(&run, &Evidence { mark, ..Evidence::NONE }, NOW);
    }
}
