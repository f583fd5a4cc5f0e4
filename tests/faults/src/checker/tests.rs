//! Hand-made histories: each promise is kept by one and broken by another.

use super::*;

/// A history that is written line by line, a second a line.
#[derive(Default)]
struct Tale {
    history: History,
}

const SECOND: u64 = 1_000_000;

impl Tale {
    fn at(mut self, second: u64, event: Event) -> Self {
        self.history.lines.push(Line { at_us: second * SECOND, by: "test".into(), event });
        self
    }

    fn submitted(self, id: &str, expect: Expect, retries: u32) -> Self {
        let (marker, task_type) = (id.to_owned(), "t".to_owned());
        let submit =
            Event::Submit { marker, id: Some(id.into()), task_type, expect, retries, webhook: false, delay_us: 0 };
        self.at(0, submit).at(0, Event::Accept { marker: id.into(), id: id.into(), duplicate: false })
    }

    fn run(self, id: &str, pid: u32, from: u64, returned: Option<(u64, Returned)>) -> Self {
        let task_type = || "t".to_owned();
        let begun = self.at(from, Event::Begin { id: id.into(), task_type: task_type(), attempt: 1, pid });
        match returned {
            Some((at, returned)) => {
                begun.at(at, Event::End { id: id.into(), task_type: task_type(), attempt: 1, pid, returned })
            }
            None => begun,
        }
    }

    fn fault(self, kind: &str, target: &str, pid: u32, from: u64, to: u64) -> Self {
        let (kind, target) = (kind.to_owned(), target.to_owned());
        let fault = Event::Fault { kind, target, pids: vec![pid], begin_us: from * SECOND, end_us: to * SECOND };
        self.at(from, fault)
    }

    fn completed(mut self, id: &str, outcome: &str) -> Self {
        self.history.completions.push(Stored {
            id: id.into(),
            task_type: "t".into(),
            outcome: outcome.into(),
            code: String::new(),
            marker: None,
            sequence: self.history.completions.len() as u64 + 1,
            at_us: 50 * SECOND,
            text: String::new(),
        });
        self
    }

    fn found(self) -> Vec<Kind> {
        check(&self.history).violations.into_iter().map(|violation| violation.kind).collect()
    }
}

#[test]
fn task_that_ran_and_completed_once_is_well() {
    let tale = Tale::default().submitted("a", Expect::Success, 3).run("a", 1, 1, Some((2, Returned::Output)));
    assert_eq!(tale.completed("a", "succeeded").found(), []);
}

#[test]
fn acknowledged_task_without_a_completion_is_lost_and_unacknowledged_one_is_not() {
    assert_eq!(Tale::default().submitted("a", Expect::Success, 3).found(), [Kind::Lost]);
    let submit = Event::Submit {
        marker: "b".into(),
        id: Some("b".into()),
        task_type: "t".into(),
        expect: Expect::Success,
        retries: 3,
        webhook: false,
        delay_us: 0,
    };
    assert_eq!(Tale::default().at(0, submit).found(), []);
}

#[test]
fn two_completions_of_one_task_and_one_of_nobodys_are_seen() {
    let tale = Tale::default().submitted("a", Expect::Success, 3).completed("a", "succeeded");
    assert_eq!(
        tale.completed("a", "succeeded").completed("z", "succeeded").found(),
        [Kind::CompletedTwice, Kind::NeverSubmitted]
    );
}

#[test]
fn failure_of_a_handler_that_never_fails_needs_a_broken_lease_for_each_attempt() {
    let once = || Tale::default().submitted("a", Expect::Success, 0).run("a", 7, 10, None).completed("a", "failed");
    assert_eq!(once().found(), [Kind::SuccessAsFailure]);
    assert_eq!(once().fault("kill", "executor-1", 7, 11, 11).found(), []);
    assert_eq!(once().fault("kill", "executor-2", 8, 11, 11).found(), [Kind::SuccessAsFailure]);
    assert_eq!(once().fault("stop", "executor-1", 7, 11, 13).found(), [Kind::SuccessAsFailure], "shorter than a lease");
    assert_eq!(once().fault("stop", "executor-1", 7, 11, 31).found(), [], "longer than a lease");
    assert_eq!(once().fault("server-kill", "0", 0, 11, 14).found(), [Kind::SuccessAsFailure], "an election");
    let never_began = Tale::default().submitted("a", Expect::Success, 0).completed("a", "failed");
    assert_eq!(never_began.fault("kill", "executor-1", 7, 11, 11).found(), [Kind::SuccessAsFailure]);
}

#[test]
fn second_run_needs_a_fault_and_with_retries_0_one_that_broke_the_lease() {
    let twice = |retries| {
        let tale = Tale::default().submitted("a", Expect::Success, retries).run("a", 7, 10, None);
        tale.run("a", 8, 21, Some((22, Returned::Output))).completed("a", "succeeded")
    };
    assert_eq!(twice(3).found(), [Kind::RanAgain]);
    assert_eq!(twice(0).found(), [Kind::OnceRanAgain]);
    assert_eq!(twice(3).fault("kill", "executor-1", 7, 11, 11).found(), []);
    assert_eq!(twice(0).fault("kill", "executor-1", 7, 11, 11).found(), []);
    assert_eq!(twice(3).fault("server-kill", "0", 0, 11, 14).found(), []);
    assert_eq!(twice(0).fault("server-kill", "0", 0, 11, 14).found(), [Kind::OnceRanAgain]);
}

#[test]
fn second_run_after_an_error_is_a_retry() {
    let tale = Tale::default().submitted("a", Expect::Success, 3).run("a", 7, 1, Some((2, Returned::Retry)));
    let history = tale.run("a", 7, 3, Some((4, Returned::Output))).completed("a", "succeeded").history;
    let findings = check(&history);
    assert_eq!((findings.violations.len(), findings.retries), (0, 1));
}

#[test]
fn task_without_an_id_is_known_by_its_marker() {
    let submit = |marker: &str| Event::Submit {
        marker: marker.into(),
        id: None,
        task_type: "t".into(),
        expect: Expect::Success,
        retries: 3,
        webhook: false,
        delay_us: 0,
    };
    let mut history = Tale::default().at(0, submit("m")).completed("x", "succeeded").history;
    assert_eq!(check(&history).violations[0].kind, Kind::NeverSubmitted);
    history.completions[0].marker = Some("m".into());
    assert!(check(&history).violations.is_empty());
}

#[test]
fn webhook_is_delivered_dead_or_due() {
    let tale = || {
        let submit = Event::Submit {
            marker: "a".into(),
            id: Some("a".into()),
            task_type: "t".into(),
            expect: Expect::Success,
            retries: 3,
            webhook: true,
            delay_us: 0,
        };
        Tale::default().at(0, submit).completed("a", "succeeded")
    };
    assert_eq!(tale().found(), [Kind::CallbackMissing]);
    let callback = Event::Callback { id: "a".into(), task_type: "t".into(), outcome: "succeeded".into() };
    assert_eq!(tale().at(1, callback).found(), []);
    let mut dead = tale();
    dead.history.dead_callbacks.insert("t.a".into());
    assert_eq!(dead.found(), []);
}

#[test]
fn streams_replicas_consumers_and_processes_are_judged() {
    let mut tale = Tale::default();
    tale.history.left.insert("jetlane.lane.q.normal.any".into(), 1);
    let replica = |digest| Replica { server: "s".into(), state: (1, 1, 1), digest };
    tale.history.replicas.insert("S".into(), vec![replica(1), replica(2)]);
    tale.history.replicas.insert("T".into(), vec![replica(1), replica(1)]);
    tale.history.consumers.insert("S".into(), vec!["task-q-normal-0-12".into(), "task-q-normal-0-19".into()]);
    tale.history.consumers.insert("T".into(), vec!["task-q-normal-0-12".into(), "task-q-normal-1-12".into()]);
    tale.history.memory_kib.insert("dispatcher-0".into(), (20_000, 500_000));
    let ended = Event::Ended { process: "callback".into(), pid: 3, status: "exit status: 1".into() };
    assert_eq!(
        tale.at(3, ended).found(),
        [Kind::Leftover, Kind::ReplicasDiffer, Kind::ConsumerLeft, Kind::Memory, Kind::EndedByItself]
    );
}

#[test]
fn submitter_that_heard_otherwise_is_seen() {
    let heard = Event::Heard { id: "a".into(), task_type: "t".into(), outcome: "failed".into() };
    let tale = Tale::default().submitted("a", Expect::Success, 3).completed("a", "succeeded").at(9, heard);
    assert_eq!(tale.found(), [Kind::HeardOtherwise]);
}

#[test]
fn rejected_message_that_nobody_can_read_is_counted() {
    let mut history = Tale::default().completed("s9", "rejected").history;
    history.completions[0].task_type = "jetlane.unreadable".into();
    let findings = check(&history);
    assert_eq!((findings.violations.len(), findings.unreadable), (0, 1));
}

#[test]
fn task_whose_executor_died_as_it_was_about_to_begin_may_end_as_crashed() {
    let mark = |second: u64, executor: &str| {
        let (id, task_type) = ("a".to_owned(), "t".to_owned());
        (second, Event::Mark { id, task_type, executor: executor.into(), begun: 1 })
    };
    let (at, marked) = mark(10, "x");
    let tale = || Tale::default().submitted("a", Expect::Success, 0).at(at, marked.clone()).completed("a", "failed");
    assert_eq!(tale().found(), [Kind::SuccessAsFailure], "nobody died");
    assert_eq!(
        tale().fault("kill", "executor-1", 7, 8, 8).found(),
        [Kind::SuccessAsFailure],
        "it died before the mark"
    );
    assert_eq!(tale().fault("kill", "executor-1", 7, 11, 11).found(), []);
}

#[test]
fn task_that_begins_before_its_delay_is_over_is_too_early() {
    let submit = Event::Submit {
        marker: "a".into(),
        id: Some("a".into()),
        task_type: "t".into(),
        expect: Expect::Success,
        retries: 3,
        webhook: false,
        delay_us: 5 * SECOND,
    };
    let run_at = |second| {
        let tale = Tale::default().at(1, submit.clone()).run("a", 7, second, Some((second + 1, Returned::Output)));
        tale.completed("a", "succeeded").found()
    };
    assert_eq!(run_at(5), [Kind::TooEarly]);
    assert_eq!(run_at(6), []);
}

#[test]
fn service_that_is_ready_three_seconds_after_the_last_server_was_killed_does_not_tell_the_truth() {
    let health =
        |ready| Event::Health { process: "callback".into(), ready: Some(ready), live: Some(true), why: String::new() };
    let tale = |servers| {
        let mut tale = Tale::default().at(1, health(true)).fault("server-kill", "0", 0, 10, 15);
        tale.history.servers = servers;
        tale
    };
    assert_eq!(tale(1).found(), [Kind::ReadyWithoutBroker]);
    assert_eq!(tale(1).at(12, health(false)).found(), []);
    assert_eq!(tale(3).found(), [], "the others are there");
    assert_eq!(tale(1).fault("stop", "callback", 7, 9, 14).found(), [], "it cannot tell");
    let mut tale = Tale::default();
    tale.history.not_ready.insert("callback".into(), "broker: gone".into());
    assert_eq!(tale.found(), [Kind::NotReady]);
}

/// A task that was accepted at 0 s, a stream that is deleted at 20 s, and a task of after that which completes.
fn tale_of_a_deletion(stream: &str) -> Tale {
    let submit = Event::Submit {
        marker: "new".into(),
        id: Some("new".into()),
        task_type: "t".into(),
        expect: Expect::Success,
        retries: 3,
        webhook: false,
        delay_us: 0,
    };
    let accept = Event::Accept { marker: "new".into(), id: "new".into(), duplicate: false };
    Tale::default()
        .submitted("old", Expect::Success, 3)
        .fault(WORK_DELETE, stream, 0, 20, 20)
        .at(30, submit)
        .at(30, accept)
}

#[test]
fn task_without_a_completion_that_was_accepted_before_its_stream_was_deleted_is_counted_and_no_violation() {
    let history = tale_of_a_deletion("JETLANE_TASKS").completed("new", "succeeded").history;
    let findings = check(&history);
    assert_eq!((findings.violations.len(), findings.lost_by_deletion), (0, 1), "{:?}", findings.violations);
    let history =
        tale_of_a_deletion("JETLANE_TASKS").completed("new", "succeeded").completed("old", "succeeded").history;
    assert_eq!(check(&history).lost_by_deletion, 0, "it was not lost");
}

#[test]
fn task_that_was_accepted_after_the_deletion_is_lost_as_ever() {
    let later = |tale: Tale| {
        let submit = Event::Submit {
            marker: "later".into(),
            id: Some("later".into()),
            task_type: "t".into(),
            expect: Expect::Success,
            retries: 3,
            webhook: false,
            delay_us: 0,
        };
        tale.at(23, submit).at(23, Event::Accept { marker: "later".into(), id: "later".into(), duplicate: false })
    };
    let tale = later(tale_of_a_deletion("JETLANE_TASKS")).completed("new", "succeeded");
    assert_eq!(tale.found(), [Kind::Lost]);
}

#[test]
fn deletion_excuses_no_second_completion_no_second_run_and_no_failure() {
    let tale = || tale_of_a_deletion("JETLANE_LANES").completed("new", "succeeded");
    assert_eq!(tale().completed("old", "succeeded").completed("old", "succeeded").found(), [Kind::CompletedTwice]);
    let again = tale().run("old", 7, 19, Some((20, Returned::Output))).run("old", 8, 22, Some((23, Returned::Output)));
    assert_eq!(again.found(), [Kind::RanAgain], "though it has no completion");
    assert_eq!(tale().completed("old", "failed").found(), [Kind::SuccessAsFailure]);
    let late = tale().completed("old", "succeeded").run("old", 8, 55, Some((56, Returned::Output)));
    assert_eq!(late.found(), [Kind::RanAfterCompletion]);
}

#[test]
fn queue_that_stands_still_after_a_deletion_is_seen() {
    assert_eq!(tale_of_a_deletion("JETLANE_TIME").found(), [Kind::Lost, Kind::StoodStill]);
    let mut tale = tale_of_a_deletion("JETLANE_TIME").completed("new", "succeeded");
    tale.history.completions[0].at_us = 81 * SECOND;
    assert_eq!(tale.found(), [Kind::StoodStill]);
}

#[test]
fn callback_is_excused_by_the_deletion_of_the_stream_in_which_it_waits_and_by_no_other() {
    let tale = |stream| {
        let submit = Event::Submit {
            marker: "hook".into(),
            id: Some("hook".into()),
            task_type: "t".into(),
            expect: Expect::Success,
            retries: 3,
            webhook: true,
            delay_us: 0,
        };
        let tale = tale_of_a_deletion(stream).completed("old", "succeeded").completed("new", "succeeded");
        let mut tale = tale.at(0, submit).completed("hook", "succeeded");
        tale.history.completions[2].at_us = 19 * SECOND;
        tale
    };
    assert_eq!(tale("JETLANE_TASKS").found(), [Kind::CallbackMissing]);
    assert_eq!(tale("JETLANE_TIME").found(), []);
    let mut later = tale("JETLANE_TIME");
    later.history.completions[2].at_us = 40 * SECOND;
    assert_eq!(later.found(), [Kind::CallbackMissing]);
}
