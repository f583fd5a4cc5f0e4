//! Promise: every bug that is planted in the product is found. Each scenario provokes one class of bug by a scripted
//! fault, in a few seconds; the checker of the fault suite judges it, finds nothing without a planted bug, and the
//! violation that belongs to the bug with it.
//!
//! Built by `cargo test --workspace --features jetlane-faults/mutants --test planted` alone.

mod scenarios;
mod spy;
mod theatre;

use jetlane_faults::checker::Kind;
use jetlane_mutants::Mutant;
use scenarios::Scenario;
use std::time::Instant;
use theatre::turn;

/// Which scenario finds which planted bug, and by which violation.
const FOUND: &[(Scenario, &[(Mutant, Kind)])] = &[
    (Scenario::LanesTakeNothing, &[(Mutant::AckBeforePublish, Kind::Lost)]),
    (
        Scenario::DispatcherCrashesBeforeItsAck,
        &[(Mutant::NoMessageId, Kind::RanAgain), (Mutant::DedupWindowTooShort, Kind::RanAgain)],
    ),
    (
        Scenario::ExecutorDiesWithHalfABundle,
        &[(Mutant::BundleSettledAtFirst, Kind::Lost), (Mutant::SuspectsNotLookedUp, Kind::RanAfterCompletion)],
    ),
    (Scenario::ExecutorDiesAtACompletion, &[(Mutant::CallbacksAfterAck, Kind::CallbackMissing)]),
    (Scenario::TwoRunsOfATask, &[(Mutant::NoExpectedSequence, Kind::CompletedTwice)]),
    (
        Scenario::AnswersAreLost,
        &[(Mutant::NoReadBack, Kind::CallbackMissing), (Mutant::RunTokenNotCompared, Kind::HeardOtherwise)],
    ),
    (Scenario::ExecutorIsCutOffPastItsLease, &[(Mutant::LeaseNotChecked, Kind::SuccessAsFailure)]),
    (Scenario::NobodyAnswersForCompletions, &[(Mutant::NoRespondersFinal, Kind::RanAgain)]),
    (Scenario::CompletionsAreFull, &[(Mutant::ResultDroppedWhileFull, Kind::RanAgain)]),
    (Scenario::CancelledWhileItWaits, &[(Mutant::CancelNotRemembered, Kind::RanAfterCompletion)]),
    (Scenario::MoreTasksThanRoom, &[(Mutant::CreditCountedTwice, Kind::LanesOverfilled)]),
    (Scenario::LeaderHangs, &[(Mutant::TakeOverWithoutPause, Kind::TrustedAfterTakeOver)]),
];

/// How often a scenario is played with a bug until it is found: a machine under load may miss the moment. Without a bug it
/// is played once, and must be clean.
const PLAYS_MAX: usize = 3;

/// Plays a scenario with a bug until it is found.
async fn finds(scenario: Scenario, mutant: Mutant, wanted: Kind) -> Result<(), String> {
    for play in 1..=PLAYS_MAX {
        let _turn = turn().await;
        let begun = Instant::now();
        let findings = scenario.play(Some(mutant)).await;
        let found = findings.unwrap_or_else(|error| panic!("{scenario:?} with {mutant:?}: {error:#}"));
        let took = begun.elapsed().as_secs_f64();
        println!("{scenario:?}: {}: {:?} ({took:.1} s, play {play})", mutant.name(), found.counts);
        if found.counts.contains_key(&wanted) {
            return Ok(());
        }
    }
    Err(format!("{scenario:?} does not find {mutant:?} as {wanted:?} in {PLAYS_MAX} plays"))
}

/// Plays a scenario without a bug.
async fn is_clean(scenario: Scenario) -> Result<(), String> {
    let _turn = turn().await;
    let begun = Instant::now();
    let found = scenario.play(None).await.unwrap_or_else(|error| panic!("{scenario:?}: {error:#}"));
    println!("{scenario:?}: clean ({:.1} s)", begun.elapsed().as_secs_f64());
    let broken = || format!("{scenario:?} is not clean without a planted bug: {:#?}", found.violations);
    if found.violations.is_empty() { Ok(()) } else { Err(broken()) }
}

/// Plays a scenario without a bug and with each of its bugs.
async fn play(scenario: Scenario) {
    let bugs = FOUND.iter().find(|(of, _)| *of == scenario).map(|(_, bugs)| *bugs).expect("it is in the table");
    let found = futures::future::join_all(bugs.iter().map(|(mutant, wanted)| finds(scenario, *mutant, *wanted)));
    let (clean, found) = tokio::join!(is_clean(scenario), found);
    let missed: Vec<String> = found.into_iter().chain([clean]).filter_map(Result::err).collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// One test a scenario, with the name of its promise.
macro_rules! scenarios {
    ($($name:ident: $scenario:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                play(Scenario::$scenario).await;
            }
        )*

        #[test]
        fn every_planted_bug_has_a_scenario_and_every_scenario_is_played() {
            let played = [$(Scenario::$scenario),*];
            for mutant in Mutant::ALL {
                let finds = |scenario: &Scenario| {
                    FOUND.iter().any(|(of, bugs)| of == scenario && bugs.iter().any(|(bug, _)| *bug == mutant))
                };
                assert!(played.iter().any(finds), "no scenario finds {mutant:?}");
            }
            assert_eq!(played.len(), FOUND.len());
        }
    };
}

scenarios! {
    task_that_is_not_in_its_lane_is_still_in_its_stream: LanesTakeNothing;
    task_that_is_dispatched_twice_is_stored_once: DispatcherCrashesBeforeItsAck;
    bundle_of_a_dead_executor_loses_and_repeats_nothing: ExecutorDiesWithHalfABundle;
    callback_of_a_dead_executor_is_delivered: ExecutorDiesAtACompletion;
    two_runs_of_a_task_store_one_completion: TwoRunsOfATask;
    completion_whose_answer_is_lost_is_told_as_it_is_stored: AnswersAreLost;
    executor_without_a_lease_ends_nothing: ExecutorIsCutOffPastItsLease;
    result_waits_until_somebody_answers_for_completions: NobodyAnswersForCompletions;
    result_waits_until_there_is_room_for_completions: CompletionsAreFull;
    task_that_is_cancelled_while_it_waits_never_begins: CancelledWhileItWaits;
    lanes_hold_what_executors_have_room_for: MoreTasksThanRoom;
    task_that_a_hanging_leader_was_given_is_suspect: LeaderHangs;
}
