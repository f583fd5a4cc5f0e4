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
use jetlane_core::run::Mark;
use jetlane_schemas::frame::{Yield, decode_bundle, encode_bundle};
use jetlane_schemas::inquiry::MarkStage;
use jetlane_schemas::subject::{self, BUCKET_NOTES, Lane, LaneKind, STREAM_LANES};
use jetlane_schemas::{Fit, FitEntry, Headers, Needs, Priority, TaskEvent, TaskId};
use std::sync::PoisonError;

/// What the handler does with its run.
type Does = Arc<dyn Fn(&Ctx) -> Result<(), TaskError> + Send + Sync>;

/// The body of a task whose handler does not end at its first poll.
const LATER: &[u8] = b"\"later\"";

/// The mark of a first run that has begun.
const BEGUN: Mark = Mark { run: 1, begun: 1, stage: MarkStage::Begun };

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
        let (holding, running, unbegun) = (Arc::new(Holding::default()), Arc::default(), Arc::default());
        let owners = Owners::new(
            bus.clone(),
            QueueName::default_queue(),
            ledger.executor().to_owned(),
            Arc::clone(&holding),
            Arc::clone(&running),
            Arc::clone(&unbegun),
        );
        let desk = Desk {
            owners: Arc::new(owners),
            cancelled: Arc::new(Cancelled::default()),
            unbegun,
            registry: Registry::follow(bus.clone()).0,
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

    /// A mark of the task, as an executor stored it.
    async fn mark(&self, task: &TaskEvent, mark: Mark, token: RunToken, executor: &str) {
        let mark = mark::of(mark, task, token, executor);
        let stored = mark::store(&self.desk.bus, task, &mark, None).await.expect("an answer");
        assert!(matches!(stored, Stored::This(_)), "{stored:?}");
    }

    /// The mark that is stored of the task.
    async fn marked(&self, task: &TaskEvent) -> Option<Mark> {
        mark::read(&self.desk.bus, task).await.expect("read").and_then(|found| found.of(task))
    }

    /// How the task has completed.
    async fn outcome(&self, task: &TaskEvent) -> Option<(Outcome, String)> {
        let done = self.desk.bus.read_done(&task.task_type, &task.id).await.expect("read")?;
        Some((done.outcome, done.failure().map(|failure| failure.code.to_string()).unwrap_or_default()))
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
async fn what_is_handed_back_is_suspect_and_what_is_halted_keeps_its_place() {
    let mut stage = Stage::open(|_| Ok(())).await;
    for delivered in [1, 2] {
        let job = stage.job(task(1), delivered).await;
        next_run::hand_back(&stage.desk, &job).await;
        assert!(stage.next_run().await.suspect, "delivery {delivered}");
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
    stage.mark(&earlier, BEGUN, RunToken::draw(), "an executor that died").await;
    let later = TaskEvent { submitted_at: Micros(earlier.submitted_at.0 + 1), ..earlier };
    let job = stage.job(later, 1).await;
    assert_eq!(run(&stage.desk, &job).await.ran.end, RunEnd::Done);
    assert_eq!(stage.unanswered().await, 0);
}

/// A task that must not begin twice.
fn once() -> TaskEvent {
    TaskEvent { retries: Some(0), ..task(1) }
}

#[tokio::test]
async fn mark_of_a_run_whose_lease_ended_while_it_was_stored_is_withdrawn() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let job = stage.job(once(), 1).await;
    let lease = job.parcel.lease.clone();
    // The mark is on its way when the lease ends.
    let (over, ()) = tokio::join!(run(&stage.desk, &job), async { lease.lose() });
    assert_eq!((over.ran, stage.begun().len(), stage.marked(&job.task).await), (Ran::NOT, 0, None));
}

#[tokio::test]
async fn mark_of_a_handler_that_never_began_crashes_no_task() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let task = once();
    let token = RunToken::draw();
    stage.mark(&task, BEGUN, token, stage.desk.owners.executor()).await;
    drop(stage.desk.unbegun.decide(token));
    let job = stage.job(task, 2).await;
    assert_eq!(inquire(&stage.desk, &job).await.expect("answers"), Inquired::Ready(None));
    assert_eq!(run(&stage.desk, &job).await.ran.end, RunEnd::Done);
    assert_eq!(stage.outcome(&job.task).await, Some((Outcome::Succeeded, String::new())));
}

#[tokio::test]
async fn run_whose_copy_begins_while_it_waits_for_its_slot_is_left_to_that_one() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let task = once();
    let job = stage.job(task.clone(), 2).await;
    assert_eq!(inquire(&stage.desk, &job).await.expect("answers"), Inquired::Ready(None));
    let token = RunToken::draw();
    let _begins = stage.desk.unbegun.decide(token);
    stage.mark(&task, BEGUN, token, stage.desk.owners.executor()).await;
    assert_eq!(run(&stage.desk, &job).await.ran, Ran::NOT);
    assert_eq!((stage.begun().len(), stage.outcome(&task).await), (0, None));
}

#[tokio::test]
async fn copy_of_a_marked_run_whose_next_run_is_stored_is_acked_away() {
    let answer = Arc::new(Mutex::new(None));
    let answers = Arc::clone(&answer);
    let mut stage = Stage::open(move |_| answers.lock().expect("whole").take().map_or(Ok(()), Err)).await;
    // One that yields though it must not begin twice, and one whose retry follows a crash.
    for (task, delivered, error) in
        [(once(), 1, TaskError::yielded()), (TaskEvent { retries: Some(2), ..task(1) }, 2, TaskError::retry("again"))]
    {
        let yields = error.is_yield();
        *answer.lock().expect("whole") = Some(error);
        let job = stage.job(task.clone(), delivered).await;
        run(&stage.desk, &job).await;
        // A retry is due later.
        let next = if yields { stage.next_run().await } else { TaskEvent { run: 2, suspect: true, ..task.clone() } };
        assert_eq!((next.run, next.suspect), (2, true));
        let marked = stage.marked(&task).await.expect("a mark");
        assert_eq!((marked.run, marked.begun), (2, 0));
        let begun = stage.begun().len();
        let copy = stage.job(task.clone(), 3).await;
        assert_eq!(inquire(&stage.desk, &copy).await.expect("answers"), Inquired::Over(Settled::Ack));
        assert_eq!(run(&stage.desk, &copy).await.ran, Ran::NOT);
        assert_eq!((stage.begun().len(), stage.outcome(&task).await), (begun, None));
        let next = stage.job(next, 1).await;
        assert_eq!(run(&stage.desk, &next).await.ran.end, RunEnd::Done);
    }
}

#[tokio::test]
async fn task_that_was_cancelled_while_its_mark_was_stored_never_begins() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let job = stage.job(once(), 1).await;
    let token = Some(RunToken::draw());
    let completion = Completion { token, ..Completion::of(&job.task, Outcome::Cancelled, clock::now()) };
    stage.desk.bus.complete(&completion).await.expect("stored");
    let cancelled = Arc::clone(&stage.desk.cancelled);
    let (over, ()) = tokio::join!(run(&stage.desk, &job), async { cancelled.insert(job.task.identity()) });
    assert_eq!((over.ran, stage.begun().len(), stage.unanswered().await), (Ran::NOT, 0, 0));
}

#[tokio::test]
async fn task_without_retries_that_outlives_the_drain_ends_as_interrupted() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let mut job = stage.job(once(), 1).await;
    let ctx = Ctx::new(&stage.desk, &job, 1, 1, clock::now());
    let mark = mark::of(BEGUN, &job.task, RunToken::draw(), stage.desk.owners.executor());
    let Stored::This(mark) = mark::store(&stage.desk.bus, &job.task, &mark, None).await.expect("an answer") else {
        panic!("there was a mark");
    };
    ctx.marked(mark);
    stage.desk.running.begin(&ctx);
    next_run::halt(&stage.desk, &mut job).await;
    assert_eq!(stage.outcome(&job.task).await, Some((Outcome::Failed, "interrupted".into())));
    assert_eq!((stage.is_nothing_stored().await, stage.unanswered().await), (true, 0));
}

#[tokio::test]
async fn result_that_loses_to_a_failure_makes_sure_of_its_dead_letter() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let mut ended = Ended::of(1);
    let [alone, together] = [stage.job(task(1), 1).await, stage.job(task(1), 1).await];
    let (bus, tasks) = (stage.desk.bus.clone(), [Arc::clone(&alone.task), Arc::clone(&together.task)]);
    for task in &tasks {
        // Whoever stored it died then.
        let failed =
            Completion { token: Some(RunToken::draw()), ..Completion::of(task, Outcome::Failed, clock::now()) };
        bus.complete(&failed.with_failure(Failure::new("broken", "no"))).await.expect("stored");
    }
    run(&stage.desk, &alone).await;
    let Look::Ended = look(&stage.desk, together, &mut ended).await else { panic!("it ends at once") };
    settle_all(&stage.desk, ended).await;
    for task in tasks {
        assert!(bus.find_dead(&task.id).await.expect("read").is_some());
    }
    assert_eq!(stage.unanswered().await, 0);
}

#[tokio::test]
async fn copy_of_a_run_that_is_under_way_here_is_settled_with_it() {
    let mut stage = Stage::open(|_| Ok(())).await;
    let first = task(1);
    let under_way = stage.job(first.clone(), 1).await;
    stage.desk.running.begin(&Ctx::new(&stage.desk, &under_way, 1, 4, clock::now()));
    let copy = stage.job(TaskEvent { suspect: true, ..first.clone() }, 1).await;
    assert_eq!(run(&stage.desk, &copy).await.ran, Ran::NOT);
    assert_eq!((stage.begun().len(), stage.unanswered().await), (0, 2));
    let later = stage.job(TaskEvent { run: 2, suspect: true, ..first }, 1).await;
    assert_eq!(run(&stage.desk, &later).await.ran.end, RunEnd::Done, "a later run is no copy");
    under_way.parcel.settle_one().await;
    assert_eq!(stage.unanswered().await, 0);
}
