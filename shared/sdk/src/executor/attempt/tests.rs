//! One run against a real nats-server; the test delivers, and ends leases.

use super::*;
use crate::executor::cancelled::Cancelled;
use crate::executor::credit::Tally;
use crate::executor::lease::{Holding, Lease, key_of};
use crate::executor::limit::Concurrency;
use crate::executor::note::Note;
use crate::executor::parcel::{Opened, Parcel};
use crate::executor::prefetch::Prefetch;
use jetlane_bus::local::{self, Options, Server};
use jetlane_bus::publish::Expect;
use jetlane_bus::topology::Settings;
use jetlane_bus::{Connect, Delivery, Outgoing, Pulled, Puller, Subscription};
use jetlane_schemas::frame::{Yield, decode_bundle, encode_bundle};
use jetlane_schemas::subject::{self, BUCKET_NOTES, Lane, LaneKind, STREAM_LANES};
use jetlane_schemas::{Fit, FitEntry, Headers, Needs, Priority, TaskEvent, TaskId};
use std::sync::PoisonError;

/// What the handler does with its run.
type Does = Arc<dyn Fn(&Ctx) -> Result<(), TaskError> + Send + Sync>;

/// The body of a task whose handler does not end at its first poll.
const LATER: &[u8] = b"\"later\"";

struct Stage {
    desk: Desk,
    tally: Arc<Tally>,
    holding: Arc<Holding>,
    puller: Puller,
    returns: Subscription,
    begun: Arc<Mutex<Vec<Ctx>>>,
    // Ends with the stage.
    _server: Server,
}

fn lane() -> Lane {
    let (queue, fit) = (QueueName::default_queue(), Fit::default());
    Lane { kind: LaneKind::Bundle, queue, priority: Priority::Normal, fit }
}

fn task(run: u32) -> TaskEvent {
    let task_type = TaskType::new("a.b").expect("valid");
    let mut task = TaskEvent::new(TaskId::generate(), task_type, QueueName::default_queue(), clock::now(), Vec::new());
    task.run = run;
    task
}

fn serving(begun: Arc<Mutex<Vec<Ctx>>>, does: Does) -> Serving {
    let service = tower::service_fn(move |request: TaskRequest| {
        let (begun, does) = (Arc::clone(&begun), Arc::clone(&does));
        async move {
            if request.task.payload == LATER {
                tokio::task::yield_now().await;
            }
            let answer = does(&request.ctx).map(|()| TaskReply { output: b"null".to_vec() });
            begun.lock().unwrap_or_else(PoisonError::into_inner).push(request.ctx);
            answer
        }
    });
    let entry = TypeEntry::new(QueueName::default_queue());
    Serving { entry, service: TaskService::new(service), usual: Mutex::default(), pace: Pace::default() }
}

fn opened(delivery: Delivery, delivered: u64) -> Opened {
    let (received, freshness) = (jetlane_bus::clock::Boottime::now(), jetlane_core::run::Freshness::Fresh);
    Opened { key: key_of(&delivery), ack: delivery.ack, delivered, received, freshness }
}

impl Stage {
    async fn open(does: impl Fn(&Ctx) -> Result<(), TaskError> + Send + Sync + 'static) -> Self {
        let binary = local::find(|line| eprintln!("{line}")).await.expect("a nats-server");
        let server = Server::start(&binary, Options::default()).await.expect("started");
        let bus = Bus::connect(&Connect::to(server.url(), "test")).await.expect("connected");
        bus.ensure(&Settings::default()).await.expect("the streams are made");
        bus.ensure_lane(&lane()).await.expect("made");
        let puller = bus.puller(STREAM_LANES, &lane().consumer()).await.expect("subscribed");
        let returns = bus.subscribe(subject::DUE_ALL).await.expect("subscribed");
        let ledger = Ledger::new("e".into(), 4, Prefetch::new(Some(1)), Needs::default());
        let tally = ledger.serve(&[FitEntry::default()]).remove(0);
        let begun = Arc::default();
        let serving = serving(Arc::clone(&begun), Arc::new(does));
        let (holding, running) = (Arc::new(Holding::default()), Arc::default());
        let owners = Owners::new(
            bus.clone(),
            QueueName::default_queue(),
            ledger.executor().to_owned(),
            Arc::clone(&holding),
            Arc::clone(&running),
        );
        let desk = Desk {
            owners: Arc::new(owners),
            cancelled: Arc::new(Cancelled::default()),
            completing: Completing::begin(bus.clone(), 4),
            bus,
            queue: QueueName::default_queue(),
            served: [(TaskType::new("a.b").expect("valid"), serving)].into(),
            running,
            ledger: Arc::new(ledger),
            governor: Arc::new(Governor::new(4, Concurrency::Fixed, Arc::new(Default::default))),
        };
        Self { desk, tally, holding, puller, returns, begun, _server: server }
    }

    async fn delivery(&mut self, task: &TaskEvent) -> Delivery {
        let subject = lane().subject();
        let out = Outgoing {
            subject: subject.clone(),
            headers: Headers::new(),
            body: encode_bundle(std::slice::from_ref(task)).expect("small").into(),
            message_id: None,
            expect: Expect::Anything,
        };
        self.desk.bus.publish(out).await.expect("published").or_refused(&subject).expect("stored");
        self.puller.ask(1, None).await.expect("asked");
        loop {
            if let Pulled::Delivery(delivery) = soon(self.puller.next()).await {
                return delivery;
            }
        }
    }

    /// The task in hand, as by its so many-th delivery.
    async fn job(&mut self, task: TaskEvent, delivered: u64) -> Job {
        let delivery = self.delivery(&task).await;
        Parcel::open(opened(delivery, delivered), Arc::clone(&self.tally), &self.holding, vec![task]).remove(0)
    }

    fn begun(&self) -> Vec<Ctx> {
        self.begun.lock().expect("nobody panics").clone()
    }

    /// How many deliveries are not acked, once everything that was sent has been taken.
    async fn unanswered(&mut self) -> u64 {
        // Acks are taken in order: after this one, all before it have been.
        let last = self.delivery(&task(1)).await.ack;
        assert!(last.settle_confirmed().await);
        let backlog = self.desk.bus.backlog(STREAM_LANES, &lane().consumer()).await.expect("told");
        backlog.expect("there").unanswered
    }

    /// The next run that is stored.
    async fn next_run(&mut self) -> TaskEvent {
        let message = soon(self.returns.next()).await.expect("it goes back");
        decode_bundle(&message.body).expect("a bundle").remove(0)
    }

    /// Whether no next run was stored that has not been heard of.
    async fn is_nothing_stored(&mut self) -> bool {
        // Heard in order: before this one, all that went before it.
        let last = self.job(task(1), 1).await;
        next_run::hand_back(&self.desk, &last).await;
        self.next_run().await.id == last.task.id
    }

    /// Where a run of this task resumes.
    async fn resumed(&mut self, task: TaskEvent, delivered: u64) -> Option<u64> {
        let job = self.job(task, delivered).await;
        let ran = run(&self.desk, &job).await.ran;
        assert_eq!(ran.end, RunEnd::Done);
        self.begun().last().expect("it ran").resume()
    }
}

/// Waits for something for a time after which a test counts as stuck.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it happens in time")
}

#[tokio::test]
async fn a_run_whose_lease_holds_is_acked_and_one_whose_lease_was_over_neither_starts_nor_acks() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let job = stage.job(task(1), 1).await;
    assert_eq!(run(&stage.desk, &job).await.ran.end, RunEnd::Done);
    assert_eq!((stage.begun().len(), stage.unanswered().await), (1, 0));
    let job = stage.job(task(1), 1).await;
    job.parcel.lease.lose();
    assert_eq!(run(&stage.desk, &job).await.ran, Ran::NOT);
    assert_eq!((stage.begun().len(), stage.unanswered().await), (1, 1));
}

#[tokio::test]
async fn a_lease_that_ends_while_the_handler_runs_leaves_its_answer_to_the_next_delivery() {
    let (lease, answer) = (Arc::new(Mutex::new(None::<Lease>)), Arc::new(Mutex::new(None)));
    let (ends, answers) = (Arc::clone(&lease), Arc::clone(&answer));
    let mut stage = Stage::open(move |_| {
        ends.lock().expect("whole").take().expect("a lease").lose();
        answers.lock().expect("whole").take().map_or(Ok(()), Err)
    })
    .await;
    let failures = [TaskError::retry("again"), TaskError::permanent("broken", "no"), TaskError::yielded()];
    for (error, unanswered) in failures.into_iter().zip(1..) {
        let job = stage.job(task(1), 1).await;
        *lease.lock().expect("whole") = Some(job.parcel.lease.clone());
        *answer.lock().expect("whole") = Some(error);
        run(&stage.desk, &job).await;
        assert_eq!((stage.is_nothing_stored().await, stage.unanswered().await), (true, unanswered));
        assert_eq!(stage.desk.bus.read_done(&job.task.task_type, &job.task.id).await.expect("read"), None);
    }
}

#[tokio::test]
async fn a_task_is_handed_back_only_while_its_lease_holds() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let job = stage.job(task(1), 1).await;
    next_run::hand_back(&stage.desk, &job).await;
    assert_eq!((stage.next_run().await.id == job.task.id, stage.unanswered().await), (true, 0));
    let job = stage.job(task(1), 1).await;
    job.parcel.lease.lose();
    next_run::hand_back(&stage.desk, &job).await;
    assert_eq!((stage.is_nothing_stored().await, stage.unanswered().await), (true, 1));
}

#[tokio::test]
async fn what_was_delivered_before_is_handed_back_as_suspect_and_what_is_halted_keeps_its_place() {
    let mut stage = Stage::open(|_| Ok(())).await;
    for (delivered, suspect) in [(1, false), (2, true)] {
        let job = stage.job(task(1), delivered).await;
        next_run::hand_back(&stage.desk, &job).await;
        assert_eq!(stage.next_run().await.suspect, suspect);
    }
    let mut job = stage.job(TaskEvent { checkpoint: Some(b"10".to_vec()), ..task(2) }, 1).await;
    let ctx = Ctx::new(&stage.desk, &job, 1, 1, clock::now());
    stage.desk.running.begin(&ctx);
    ctx.checkpoint(&50).await.expect("saved");
    next_run::halt(&stage.desk, &mut job).await;
    let next = stage.next_run().await;
    assert_eq!((next.run, next.suspect, next.checkpoint), (3, true, Some(b"50".to_vec())));
}

#[tokio::test]
async fn a_redelivered_run_resumes_from_what_it_saved_itself_and_not_from_an_older_place() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let task = TaskEvent { checkpoint: Some(b"10".to_vec()), ..task(2) };
    // What an earlier run saved is older than the place that it yielded at.
    for (saved_by, resumed) in [(1, 10), (2, 50), (3, 50)] {
        let task = TaskEvent { id: TaskId::generate(), ..task.clone() };
        let saving = stage.job(TaskEvent { run: saved_by, ..task.clone() }, 1).await;
        Ctx::new(&stage.desk, &saving, 1, 1, clock::now()).checkpoint(&50).await.expect("saved");
        assert_eq!(stage.resumed(task, 2).await, Some(resumed), "saved by {saved_by}");
    }
    let suspect = TaskEvent { suspect: true, ..task };
    let note = Note::Of { run: 2, place: b"50".to_vec() };
    note.write(&stage.desk.bus, &suspect).await.expect("written");
    assert_eq!(stage.resumed(suspect, 1).await, Some(50));
}

#[tokio::test]
async fn a_place_that_was_saved_before_runs_were_told_apart_counts_where_there_is_no_other() {
    let mut stage = Stage::open(|_| Ok(())).await;
    for (with_it, resumed) in [(None, 7), (Some(b"10".to_vec()), 10)] {
        let task = TaskEvent { checkpoint: with_it, ..task(2) };
        let notes = stage.desk.bus.bucket(BUCKET_NOTES).await.expect("there");
        notes.put(&subject::note_checkpoint(&task.task_type, &task.id), &b"7".to_vec()).await.expect("written");
        assert_eq!(stage.resumed(task, 2).await, Some(resumed));
    }
}

#[tokio::test]
async fn the_end_of_a_run_leaves_a_later_one_of_the_same_task_listed() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let first = task(1);
    // A run may come again here under its own number, too.
    for run in [2, 1] {
        let (old, new) = (stage.job(first.clone(), 1).await, stage.job(TaskEvent { run, ..first.clone() }, 1).await);
        let running = &stage.desk.running;
        for job in [&old, &new] {
            running.begin(&Ctx::new(&stage.desk, job, 1, 1, clock::now()));
        }
        assert!(running.end(&old.task).is_some());
        assert!(running.end(&old.task).is_none());
        running.ask(Yield { task_type: first.task_type.clone(), id: first.id.clone(), run });
        let asked = running.end(&new.task).expect("it is listed still");
        let yields = asked.yield_point(&1, Duration::from_secs(1)).expect_err("it was asked");
        assert!(yields.is_yield());
        assert!(running.end(&new.task).is_none());
    }
}

#[tokio::test]
async fn one_of_two_tasks_that_is_settled_after_the_lease_does_not_ack_for_both() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let delivery = stage.delivery(&task(1)).await;
    let jobs = Parcel::open(opened(delivery, 1), Arc::clone(&stage.tally), &stage.holding, vec![task(1), task(1)]);
    run(&stage.desk, &jobs[0]).await;
    jobs[1].parcel.lease.lose();
    run(&stage.desk, &jobs[1]).await;
    assert_eq!((stage.begun().len(), stage.unanswered().await), (1, 1));
}

#[tokio::test]
async fn a_task_that_is_stopped_stops_no_neighbour_and_a_lost_lease_stops_both() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let delivery = stage.delivery(&task(1)).await;
    let jobs = Parcel::open(opened(delivery, 1), Arc::clone(&stage.tally), &stage.holding, vec![task(1), task(1)]);
    let stopped = || (jobs[0].stop().is_cancelled(), jobs[1].stop().is_cancelled());
    assert_eq!(stopped(), (false, false));
    // The same signal for all who ask, before and after.
    let before = jobs[0].stop();
    jobs[0].stop().cancel();
    before.cancelled().await;
    assert_eq!(stopped(), (true, false));
    jobs[1].parcel.lease.lose();
    Arc::clone(&stage.holding).give_signs().await;
    jobs[1].stop().cancelled().await;
    assert_eq!(stopped(), (true, true));
}

#[tokio::test]
async fn runs_that_succeed_at_once_are_stored_together_and_each_is_settled() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let (mut ended, mut tasks) = (Ended::of(3), Vec::new());
    for _ in 0..3 {
        let job = stage.job(task(1), 1).await;
        tasks.push(Arc::clone(&job.task));
        let Look::Ended = look(&stage.desk, job, &mut ended).await else { panic!("it ends at once") };
    }
    // One of them has been cancelled meanwhile.
    let cancelled = &tasks[1];
    let token = Some(RunToken::draw());
    let completion = Completion { token, ..Completion::of(cancelled, Outcome::Cancelled, clock::now()) };
    stage.desk.bus.complete(&completion).await.expect("stored");
    let over = settle_all(&stage.desk, ended).await;
    let mut outcomes = Vec::new();
    for (job, ran) in &over {
        assert_eq!(ran.end, RunEnd::Done);
        let done = stage.desk.bus.read_done(&job.task.task_type, &job.task.id).await.expect("read");
        outcomes.push(done.expect("completed").outcome);
    }
    assert_eq!(outcomes, [Outcome::Succeeded, Outcome::Cancelled, Outcome::Succeeded]);
    assert_eq!(stage.unanswered().await, 0);
}

#[tokio::test]
async fn what_does_not_succeed_at_its_first_poll_goes_on_by_the_way_of_every_run() {
    let fails = Arc::new(Mutex::new(None));
    let failing = Arc::clone(&fails);
    let mut stage = Stage::open(move |_| failing.lock().expect("whole").take().map_or(Ok(()), Err)).await;
    let job = stage.job(TaskEvent { payload: LATER.to_vec(), ..task(1) }, 1).await;
    let mut ended = Ended::of(1);
    let Look::Open(job, begun) = look(&stage.desk, job, &mut ended).await else { panic!("it does not end at once") };
    assert_eq!(go_on(&stage.desk, &job, *begun).await.ran.end, RunEnd::Done);
    assert!(stage.desk.bus.read_done(&job.task.task_type, &job.task.id).await.expect("read").is_some());

    *fails.lock().expect("whole") = Some(TaskError::permanent("broken", "no"));
    let job = stage.job(task(1), 1).await;
    let Look::Open(job, begun) = look(&stage.desk, job, &mut ended).await else { panic!("it has failed") };
    assert_eq!(go_on(&stage.desk, &job, *begun).await.ran.end, RunEnd::Broken);
    let failed = stage.desk.bus.read_done(&job.task.task_type, &job.task.id).await.expect("read");
    assert_eq!(failed.map(|done| done.outcome), Some(Outcome::Failed));
    assert_eq!(stage.unanswered().await, 0);

    let runs = stage.begun().len();
    let job = stage.job(task(1), 1).await;
    job.parcel.lease.lose();
    assert!(matches!(look(&stage.desk, job, &mut ended).await, Look::NotBegun(_)) && ended.is_empty());
    assert_eq!(stage.begun().len(), runs, "the handler of a run without a lease was called");
}

#[tokio::test]
async fn a_task_that_may_have_run_is_looked_up_first_however_short_its_runs_are() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let fresh = stage.job(task(1), 1).await;
    assert!(!may_end_at_once(&stage.desk, &fresh), "nothing is known yet");
    for serving in stage.desk.served.values() {
        (0..16).for_each(|_| serving.pace.ran(Duration::ZERO));
    }
    assert!(may_end_at_once(&stage.desk, &fresh));
    let again = stage.job(task(1), 2).await;
    let suspect = stage.job(TaskEvent { suspect: true, ..task(1) }, 1).await;
    assert!(!may_end_at_once(&stage.desk, &again) && !may_end_at_once(&stage.desk, &suspect));
}

#[tokio::test]
async fn mark_of_an_earlier_task_of_the_same_id_keeps_no_later_one_from_its_run() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let earlier = TaskEvent { retries: Some(0), ..task(1) };
    let mark = jetlane_core::run::Mark { run: 1, begun: 1 };
    let left = mark::of(mark, &earlier, RunToken::draw(), "an executor that died");
    assert!(mark::store(&stage.desk.bus, &earlier, &left, None).await.expect("stored").is_none());
    let later = TaskEvent { submitted_at: Micros(earlier.submitted_at.0 + 1), ..earlier };
    let job = stage.job(later, 1).await;
    assert_eq!(run(&stage.desk, &job).await.ran.end, RunEnd::Done);
    assert_eq!(stage.unanswered().await, 0);
}
