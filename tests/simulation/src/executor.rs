//! An executor: pulls by its room, asks `jetlane_core::run` what becomes of each delivered run, runs handlers,
//! stores what they answer, and acks last.

use crate::broker::{Answer, Body, Broker, Delivery, Expect, LANE_ACK_WAIT, Publish, Stream, Subject};
use crate::checker::HandlerEnd;
use crate::mutant::Mutant;
use crate::network::News;
use crate::plan::{Ends, Hop, Point, Role};
use crate::site::{Completed, PUBLISH_DEADLINE, Published, RANKS, RESULT_DEADLINE, Site, ack, index_of, lane};
use crate::world::{MS, Mailbox, Process, SECOND, Time};
use jetlane_core::retry::{Backoff, Step, follow};
use jetlane_core::run::{
    Answered, Arrived, Begin, Custody, Evidence, Freshness, Hold, Mark, Marking, Owner, Reception, Run, Settlement,
    Suspicion, Verdict, is_marked, judge, needs_inquiry, receive, settle,
};
use jetlane_schemas::frame::{Credit, RunEnd, RunEnded};
use jetlane_schemas::{Micros, Outcome, RunToken, TaskEvent};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// How often an executor looks whether it is alive, and for room.
const TICK: Time = 500 * MS;
/// How often it says that its runs are alive.
const HOLD_EVERY: Time = 3 * SECOND;
/// How often it announces its credit at least.
const CREDIT_EVERY: Time = SECOND;
/// How long a pull waits in the server.
const PULL_EXPIRES: Time = 10 * SECOND;
/// How long an answer to "does anybody run this" is waited for.
const OWNER_TIMEOUT: Time = 500 * MS;
/// How long until an owner that did not answer is asked again, and until a lapsed lease is looked at again.
const LOOK_AGAIN: Time = SECOND;
/// Evidence that is older is gathered again before a handler begins.
const EVIDENCE_AGE_MAX: Time = SECOND;
/// After how long without a turn of its own an executor takes what it reads for stale.
const STALE_AFTER: Time = LANE_ACK_WAIT / 2;
/// How long a poison handler lives.
const POISON_AFTER: Time = 5 * MS;
/// How long a process that was poisoned is down.
const POISONED_FOR: Time = 300 * MS;
/// The back-off of the type.
const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

/// A message in hand, and its lease.
struct Message {
    delivered: u64,
    delivery: RefCell<Delivery>,
    /// When the last confirmed sign of life was sent; `None` once the lease is over.
    proven: Cell<Option<Time>>,
    signed_at: Cell<Time>,
    open: Cell<usize>,
    is_abandoned: Cell<bool>,
}

/// A task in hand.
struct Job {
    task: Rc<TaskEvent>,
    message: Rc<Message>,
    freshness: Freshness,
    suspicion: Suspicion,
}

#[derive(Default)]
struct State {
    taken: u64,
    settled: u64,
    waiting: VecDeque<Job>,
    /// Handlers at work, and what is looked up before they begin.
    busy: usize,
    messages: BTreeMap<(usize, u64), Rc<Message>>,
    /// Tasks whose handler is at work, or whose result is not stored.
    running: BTreeMap<Rc<str>, usize>,
    cancelled: BTreeSet<Rc<str>>,
    /// Marks that are being stored.
    undecided: Vec<RunToken>,
    /// Marks whose handlers never began.
    never_began: Vec<RunToken>,
    ended: Vec<RunEnded>,
    /// Pulls: lane, messages that are still to come, end.
    pulls: Vec<(usize, u32, Time)>,
}

struct Executor {
    site: Rc<Site>,
    process: Process,
    name: String,
    state: RefCell<State>,
}

/// Whether a delivery is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    Yes,
    /// It is to come again.
    No,
}

/// Starts an executor in a process.
pub fn start(site: &Rc<Site>, process: Process, name: &str) {
    let inbox = site.network.listen(process);
    let mut state = State::default();
    // The watch of notes begins with what is there.
    for message in site.network.broker.borrow().messages(Stream::Notes) {
        if let Subject::Of(id) = &message.subject {
            state.cancelled.insert(Rc::clone(id));
        }
    }
    let executor =
        Rc::new(Executor { site: Rc::clone(site), process, name: name.to_owned(), state: RefCell::new(state) });
    let serving = Rc::clone(&executor);
    site.world.spawn(process, async move { serving.serve(inbox).await });
    site.world.spawn(process, async move { executor.keep_alive().await });
}

/// Asks all executors whether one of them runs a task.
///
/// Whoever runs it adopts the delivery that the question is about: it may never come to its hands otherwise.
pub async fn is_run_by_anybody(site: &Rc<Site>, from: Process, id: &Rc<str>, delivery: Option<Delivery>) -> bool {
    let answers = Mailbox::new(&site.world);
    for other in site.live(Role::Executor).into_iter().filter(|other| *other != from) {
        site.network.notify(
            from,
            other,
            Hop::Question,
            &News::Question(Rc::clone(id), delivery.clone(), answers.clone()),
        );
    }
    site.world.timeout(OWNER_TIMEOUT, answers.take()).await.is_some()
}

impl Executor {
    fn now(&self) -> Time {
        self.site.world.now()
    }

    fn has(&self, mutant: Mutant) -> bool {
        self.site.mutants.has(mutant)
    }

    fn capacity(&self) -> usize {
        self.site.plan.slots + self.site.plan.prefetch
    }

    async fn serve(self: &Rc<Self>, inbox: Mailbox<News>) {
        let (mut alive_at, mut told_at) = (self.now(), 0);
        loop {
            self.pull();
            let mut news = self.site.world.timeout(TICK, inbox.take()).await;
            let now = self.now();
            // What lies here after a pause may be older than its lease.
            let freshness = if now > alive_at + STALE_AFTER { Freshness::Stale } else { Freshness::Fresh };
            alive_at = now;
            while let Some(next) = news {
                self.take(next, freshness);
                news = inbox.try_take();
            }
            self.begin_waiting();
            if now >= told_at + CREDIT_EVERY {
                told_at = now;
                self.announce();
            }
        }
    }

    fn take(self: &Rc<Self>, news: News, freshness: Freshness) {
        match news {
            News::Delivery(delivery) => self.take_delivery(delivery, freshness),
            News::Cancelled(id) | News::Noted(id) => {
                let mut state = self.state.borrow_mut();
                if !self.has(Mutant::CancelNotRemembered) || state.running.contains_key(&id) {
                    state.cancelled.insert(id);
                }
            }
            News::Question(id, delivery, answers) => {
                if self.state.borrow().running.contains_key(&id) {
                    self.adopt(delivery);
                    // The answer's way is the question's.
                    answers.send(());
                }
            }
            News::OwnerQuestion(id, token, answers) => {
                let state = self.state.borrow();
                let owner = if state.running.contains_key(&id) || state.undecided.contains(&token) {
                    Owner::Runs
                } else if state.never_began.contains(&token) {
                    Owner::NeverBegan
                } else {
                    Owner::Disowns
                };
                drop(state);
                answers.send(owner);
            }
            News::CreditWanted => self.announce(),
            News::Credit(_) => {}
        }
    }

    /// Asks every lane for as much as there is room.
    fn pull(self: &Rc<Self>) {
        let now = self.now();
        for rank in 0..RANKS {
            let missing = {
                let mut state = self.state.borrow_mut();
                state.pulls.retain(|(_, left, until)| *left > 0 && *until > now);
                let asked: u32 = state.pulls.iter().filter(|pull| pull.0 == rank).map(|pull| pull.1).sum();
                let held = state.taken.saturating_sub(state.settled);
                // A message whose lease is over is asked for beyond the room, to be adopted.
                let lapsed = state.messages.values().filter(|held| !self.holds(held)).count() as u64;
                let room = (self.capacity() as u64 + lapsed).saturating_sub(held);
                let missing = u32::try_from(room).unwrap_or(0).saturating_sub(asked);
                if missing == 0 {
                    continue;
                }
                state.pulls.push((rank, missing, now + PULL_EXPIRES));
                missing
            };
            let (executor, name) = (Rc::clone(self), lane(rank));
            let (to, until) = (self.process.0, now + PULL_EXPIRES);
            self.site.world.spawn(self.process, async move {
                let ask = move |broker: &mut Broker, now| broker.pull(now, &name, to, missing, until).is_some();
                let site = &executor.site;
                if site.network.request(executor.process, Hop::Pull, Stream::Lanes, ask).await.got() != Some(true) {
                    site.world.sleep(SECOND).await;
                    let mut state = executor.state.borrow_mut();
                    state.pulls.retain(|pull| *pull != (rank, missing, until));
                }
            });
        }
    }

    fn take_delivery(self: &Rc<Self>, delivery: Delivery, freshness: Freshness) {
        let Subject::Lane(rank) = delivery.consumer.subject else { return };
        let Body::Tasks(tasks) = &delivery.body else { return };
        let tasks = Rc::clone(tasks);
        let mut state = self.state.borrow_mut();
        if let Some(pull) = state.pulls.iter_mut().find(|pull| pull.0 == rank && pull.1 > 0) {
            pull.1 -= 1;
        }
        let held = state.messages.get(&(rank, delivery.sequence)).cloned();
        let custody =
            if held.is_some() && !self.has(Mutant::RedeliveryNotAdopted) { Custody::Held } else { Custody::New };
        let arrived = Arrived { delivered: delivery.delivered, tasks: tasks.len(), freshness, custody };
        match (receive(arrived), held) {
            (Reception::Adopt, Some(_)) => {
                drop(state);
                self.adopt(Some(delivery));
            }
            (Reception::TakeApart, _) => {
                state.taken += tasks.len() as u64;
                drop(state);
                let executor = Rc::clone(self);
                self.site.world.spawn(self.process, async move {
                    executor.take_apart(rank, &delivery, &tasks).await;
                    executor.state.borrow_mut().settled += tasks.len() as u64;
                    executor.announce();
                });
            }
            (Reception::Open, _) => {
                drop(state);
                self.open(rank, delivery, &tasks, freshness);
            }
            (Reception::Adopt, None) => {}
        }
    }

    /// Goes on with what is held of a message under the lease of a later delivery.
    fn adopt(&self, delivery: Option<Delivery>) {
        let Some(delivery) = delivery.filter(|_| !self.has(Mutant::RedeliveryNotAdopted)) else { return };
        let Subject::Lane(rank) = delivery.consumer.subject else { return };
        if let Some(held) = self.state.borrow().messages.get(&(rank, delivery.sequence)) {
            held.proven.set(Some(self.now()));
            held.signed_at.set(self.now());
            *held.delivery.borrow_mut() = delivery;
        }
    }

    fn open(self: &Rc<Self>, rank: usize, delivery: Delivery, tasks: &[Rc<TaskEvent>], freshness: Freshness) {
        let (now, sequence) = (self.now(), delivery.sequence);
        let message = Rc::new(Message {
            delivered: delivery.delivered,
            delivery: RefCell::new(delivery),
            proven: Cell::new(Some(now)),
            signed_at: Cell::new(now),
            open: Cell::new(tasks.len()),
            is_abandoned: Cell::new(false),
        });
        let mut state = self.state.borrow_mut();
        state.messages.insert((rank, sequence), Rc::clone(&message));
        let mut room = (self.capacity() as u64).saturating_sub(state.taken.saturating_sub(state.settled));
        state.taken += tasks.len() as u64;
        for task in tasks {
            let suspicion = if task.suspect { Suspicion::Suspect } else { Suspicion::None };
            let job = Job { task: Rc::clone(task), message: Rc::clone(&message), freshness, suspicion };
            if room > 0 {
                room -= 1;
                state.waiting.push_back(job);
            } else {
                let executor = Rc::clone(self);
                self.site.world.spawn(self.process, async move { executor.hand_back(job).await });
            }
        }
    }

    /// Starts what waits, as far as there are slots.
    fn begin_waiting(self: &Rc<Self>) {
        loop {
            let job = {
                let mut state = self.state.borrow_mut();
                if state.busy >= self.site.plan.slots {
                    return;
                }
                let Some(job) = state.waiting.pop_front() else { return };
                state.busy += 1;
                job
            };
            let executor = Rc::clone(self);
            self.site.world.spawn(self.process, async move {
                let mut end = (RunEnd::NotRun, 0);
                let settled = executor.run(&job, &mut end).await;
                executor.state.borrow_mut().busy -= 1;
                executor.over(&job, settled, end).await;
                executor.begin_waiting();
                executor.pull();
            });
        }
    }

    /// A job is over: its message is acked once all of them are.
    async fn over(self: &Rc<Self>, job: &Job, settled: Settled, end: (RunEnd, Time)) {
        let index = index_of(&job.task);
        self.site.checker.borrow_mut().settled(index, self.process, job.task.run, self.now());
        {
            let mut state = self.state.borrow_mut();
            state.settled += 1;
            state.ended.push(RunEnded {
                task_type: Some(job.task.task_type.clone()),
                id: job.task.id.clone(),
                run: job.task.run,
                run_us: end.1,
                end: end.0,
            });
        }
        let message = &job.message;
        message.is_abandoned.set(message.is_abandoned.get() || settled == Settled::No);
        message.open.set(message.open.get().saturating_sub(1));
        if message.open.get() == 0 || self.has(Mutant::BundleSettledAtFirst) {
            self.state.borrow_mut().messages.retain(|_, held| !Rc::ptr_eq(held, message));
            if !message.is_abandoned.get() && self.holds(message) {
                self.site.point(self.process, Point::ExecutorBeforeAck).await;
                ack(&self.site, self.process, Hop::AckLane, &message.delivery.borrow());
            }
        }
        if self.has(Mutant::CallbacksAfterAck) {
            self.trigger_late(job).await;
        }
        self.announce();
    }

    async fn trigger_late(self: &Rc<Self>, job: &Job) {
        self.site.world.sleep(MS).await;
        self.site.point(self.process, Point::ExecutorBeforeCallbacks).await;
        let id: Rc<str> = job.task.id.as_str().into();
        if let Some(Some(done)) = self.site.read_done(self.process, &id, PUBLISH_DEADLINE).await {
            self.site.trigger(self.process, &done, PUBLISH_DEADLINE).await;
        }
    }

    /// Whether a run may still act for its task.
    fn holds(&self, message: &Message) -> bool {
        self.has(Mutant::LeaseNotChecked)
            || message.proven.get().is_some_and(|proven| self.now() - proven < LANE_ACK_WAIT)
    }

    /// A task is given up because its lease is over: its message comes again, even if it is adopted meanwhile.
    fn given_up(&self) -> Settled {
        if self.has(Mutant::GivenUpIsSettled) { Settled::Yes } else { Settled::No }
    }

    /// Signs of life for everything that is held.
    async fn keep_alive(self: &Rc<Self>) {
        loop {
            self.site.world.sleep(HOLD_EVERY / 3).await;
            let now = self.now();
            let due: Vec<Rc<Message>> = {
                let state = self.state.borrow();
                let held = state.messages.values().filter(|held| now >= held.signed_at.get() + HOLD_EVERY);
                held.filter(|held| self.holds(held)).cloned().collect()
            };
            for message in due {
                message.signed_at.set(now);
                let executor = Rc::clone(self);
                self.site.world.spawn(self.process, async move {
                    let (site, sent) = (&executor.site, executor.now());
                    let delivery = message.delivery.borrow().clone();
                    let extend = move |broker: &mut Broker, now| broker.in_progress(now, &delivery);
                    let answered = site.network.request(executor.process, Hop::HoldLane, Stream::Lanes, extend).await;
                    if answered.got().is_some() {
                        // A lease that is over does not come back.
                        let still = message.proven.get().filter(|proven| executor.now() - proven < LANE_ACK_WAIT);
                        message.proven.set(still.map(|proven| proven.max(sent)));
                    }
                });
            }
        }
    }

    fn announce(&self) {
        let credit = {
            let mut state = self.state.borrow_mut();
            Rc::new(Credit {
                executor: self.name.clone(),
                slots: u32::try_from(self.site.plan.slots).unwrap_or(0),
                capacity: u32::try_from(self.capacity()).unwrap_or(0),
                taken: state.taken,
                settled: state.settled,
                fits: vec![jetlane_schemas::Fit::default().to_string()],
                runs: std::mem::take(&mut state.ended),
                ..Credit::default()
            })
        };
        for dispatcher in self.site.live(Role::Dispatcher) {
            self.site.network.notify(self.process, dispatcher, Hop::Credit, &News::Credit(Rc::clone(&credit)));
        }
    }

    /// Gives a task back to its queue without spending an attempt. One that may run elsewhere goes back as the same run.
    async fn hand_back(self: &Rc<Self>, job: Job) {
        if needs_inquiry(&self.facts(&job)) {
            self.over(&job, Settled::No, (RunEnd::NotRun, 0)).await;
            return;
        }
        let next = TaskEvent { run: job.task.run.saturating_add(1), ..TaskEvent::clone(&job.task) };
        let settled = self.store_next(&job, next, 0).await;
        self.over(&job, settled, (RunEnd::NotRun, 0)).await;
    }

    /// Stores the next run, as long as this one's lease holds.
    async fn store_next(self: &Rc<Self>, job: &Job, mut next: TaskEvent, delay: Time) -> Settled {
        if !self.holds(&job.message) {
            return self.given_up();
        }
        // If this process dies before the ack, this run comes again beside the next.
        next.suspect |= !self.has(Mutant::NextRunTrusted);
        let at = self.now() + delay;
        if self.has(Mutant::NextRunAfterAck) {
            let (executor, process) = (Rc::clone(self), self.process);
            self.site.world.spawn(process, async move {
                executor.site.world.sleep(MS).await;
                executor.site.point(process, Point::ExecutorBeforeRetryAck).await;
                executor.site.store_due(process, &next, at, PUBLISH_DEADLINE).await;
            });
            return Settled::Yes;
        }
        if !self.site.store_due(self.process, &next, at, PUBLISH_DEADLINE).await {
            return Settled::No;
        }
        self.site.point(self.process, Point::ExecutorBeforeRetryAck).await;
        Settled::Yes
    }

    /// Sends on what has not completed of a bundle, each task alone, then acks it.
    async fn take_apart(self: &Rc<Self>, rank: usize, delivery: &Delivery, tasks: &[Rc<TaskEvent>]) {
        for task in tasks {
            // Whoever runs it goes on, under this delivery.
            if is_run_by_anybody(&self.site, self.process, &task.id.as_str().into(), Some(delivery.clone())).await {
                return;
            }
        }
        for task in tasks {
            let id: Rc<str> = task.id.as_str().into();
            match self.site.read_done(self.process, &id, PUBLISH_DEADLINE).await {
                None => return,
                Some(Some(done)) => {
                    if self.finish(&done).await == Settled::No {
                        return;
                    }
                }
                Some(None) => {
                    let mut single = TaskEvent::clone(task);
                    single.suspect = true;
                    let out = Publish {
                        id: Some(single.message_id(jetlane_schemas::task::Hop::Lane).into()),
                        ..Publish::new(Stream::Lanes, Subject::Lane(rank), Body::Tasks(Rc::new([Rc::new(single)])))
                    };
                    if self.site.publish(self.process, Hop::ToLane, out, PUBLISH_DEADLINE).await == Published::Unknown {
                        return;
                    }
                }
            }
        }
        ack(&self.site, self.process, Hop::AckLane, delivery);
    }

    /// Makes sure of what follows from a completion: whoever stored it may have died.
    async fn finish(self: &Rc<Self>, done: &crate::broker::Record) -> Settled {
        if done.outcome == Outcome::Failed
            && !self.has(Mutant::DeadLetterForgotten)
            && !self.site.bury(self.process, &done.id, PUBLISH_DEADLINE).await
        {
            return Settled::No;
        }
        if self.has(Mutant::CallbacksAfterAck) || self.site.trigger(self.process, done, PUBLISH_DEADLINE).await {
            Settled::Yes
        } else {
            Settled::No
        }
    }

    /// One run of a task: decide, run, store.
    async fn run(self: &Rc<Self>, job: &Job, end: &mut (RunEnd, Time)) -> Settled {
        let (site, process) = (&self.site, self.process);
        let id: Rc<str> = job.task.id.as_str().into();
        let token = site.token();
        site.point(process, Point::ExecutorBeforeBegin).await;
        let mut waited = 0;
        let marked_at;
        let begin = loop {
            let run = self.facts(job);
            let asked = self.now();
            let Some((evidence, mark_at)) = self.evidence(&id, &run, waited, job).await else { return Settled::No };
            if !self.holds(&job.message) {
                return self.given_up();
            }
            match judge(&run, &evidence, Micros(self.now())) {
                Verdict::Begin(begin) => {
                    let index = index_of(&job.task);
                    if begin.marking != Marking::None {
                        site.checker.borrow_mut().marks(index, process, self.now());
                    }
                    self.state.borrow_mut().undecided.push(token);
                    if self.mark(&id, begin, mark_at, token).await {
                        marked_at = asked;
                        break begin;
                    }
                    self.never_begins(token);
                }
                Verdict::Completed => {
                    return match site.read_done(process, &id, PUBLISH_DEADLINE).await {
                        Some(Some(done)) => self.finish(&done).await,
                        Some(None) | None => Settled::No,
                    };
                }
                Verdict::Cancelled | Verdict::Superseded => return Settled::Yes,
                Verdict::LeaveToOwner => return Settled::No,
                Verdict::WaitForOwner => {
                    site.world.sleep(LOOK_AGAIN).await;
                    waited += LOOK_AGAIN;
                }
                Verdict::Expired => return self.end(job, Outcome::Expired, "expired", 0).await,
                Verdict::Crashed { .. } => return self.end(job, Outcome::Failed, "crashed", 0).await,
            }
        };
        if begin.marking != Marking::None {
            site.point(process, Point::ExecutorAfterMark).await;
            if !self.holds(&job.message) {
                self.never_begins(token);
                return self.given_up();
            }
            // Cancelled while the mark was on its way.
            if self.state.borrow().cancelled.contains(&id) {
                self.never_begins(token);
                return Settled::Yes;
            }
            if (is_suspect(&self.facts(job)) || self.now() > marked_at + EVIDENCE_AGE_MAX)
                && !self.has(Mutant::SuspectsNotLookedUp)
                && let Some(Some(done)) = site.read_done(process, &id, PUBLISH_DEADLINE).await
            {
                self.never_begins(token);
                return self.finish(&done).await;
            }
        }
        self.state.borrow_mut().undecided.retain(|other| *other != token);
        *self.state.borrow_mut().running.entry(Rc::clone(&id)).or_default() += 1;
        let began = self.now();
        let ended = self.handle(job, &id).await;
        *end = (if ended == HandlerEnd::Success { RunEnd::Done } else { RunEnd::Broken }, self.now() - began);
        site.point(process, Point::ExecutorBeforeDone).await;
        let settled = self.answer(job, begin, ended, token).await;
        let mut state = self.state.borrow_mut();
        if let Some(runs) = state.running.get_mut(&id) {
            *runs -= 1;
            if *runs == 0 {
                state.running.remove(&id);
            }
        }
        settled
    }

    /// The handler of a mark that is, or may be, stored does not begin.
    fn never_begins(&self, token: RunToken) {
        let mut state = self.state.borrow_mut();
        state.undecided.retain(|other| *other != token);
        state.never_began.push(token);
    }

    /// Moves the mark of a run on; `false` where another executor has stored one since.
    async fn advance(self: &Rc<Self>, id: &Rc<str>, token: RunToken, to: Mark) -> bool {
        let (site, process) = (&self.site, self.process);
        let subject = Subject::Mark(Rc::clone(id));
        let advance = move |broker: &mut Broker, now| match broker.last(Stream::Notes, &subject) {
            Some((_, message)) => match message.body {
                Body::Mark { token: stored, owner, .. } if stored == token => {
                    let body = Body::Mark { mark: to, token, owner };
                    broker.publish(now, &Publish::new(Stream::Notes, subject.clone(), body));
                    true
                }
                Body::Mark { .. }
                | Body::Tasks(_)
                | Body::Done(_)
                | Body::Holder(_)
                | Body::Delivered(_)
                | Body::Claim(_)
                | Body::Nothing => false,
            },
            None => false,
        };
        site.ask(process, Hop::Mark, Stream::Notes, advance, PUBLISH_DEADLINE).await == Some(true)
    }

    fn facts(&self, job: &Job) -> Run {
        let task = &job.task;
        let spent = u32::try_from(job.message.delivered - 1).unwrap_or(u32::MAX);
        let attempts = if self.has(Mutant::DeliveryIsAttempt) { task.attempts + spent } else { task.attempts };
        Run {
            run: task.run,
            attempts,
            retries: task.retries.unwrap_or_default(),
            yields: task.yields,
            deadline: task.deadline,
            delivered: job.message.delivered,
            freshness: job.freshness,
            suspicion: job.suspicion,
        }
    }

    /// What is known of a run from elsewhere, and the revision of its mark; `None` where nobody answers.
    async fn evidence(self: &Rc<Self>, id: &Rc<str>, this: &Run, waited: Time, job: &Job) -> Option<(Evidence, u64)> {
        let delivery = job.message.delivery.borrow().clone();
        let (site, process) = (&self.site, self.process);
        let is_cancelled = self.state.borrow().cancelled.contains(id);
        let mut evidence = Evidence { is_cancelled, waited: Duration::from_micros(waited), ..Evidence::NONE };
        if is_suspect(this) && !self.has(Mutant::SuspectsNotLookedUp) {
            evidence.is_done = site.read_done(process, id, PUBLISH_DEADLINE).await?.is_some();
        }
        if !is_marked(this) {
            return Some((evidence, 0));
        }
        let subject = Subject::Mark(Rc::clone(id));
        let read = move |broker: &mut Broker, _| {
            broker.last(Stream::Notes, &subject).map(|(at, message)| (at, message.body.clone()))
        };
        let mut mark_at = 0;
        let mut owner_is = None;
        if let Some((at, Body::Mark { mark, owner, token })) =
            site.ask(process, Hop::Mark, Stream::Notes, read, PUBLISH_DEADLINE).await?
        {
            mark_at = at;
            evidence.mark = Some(mark).filter(|mark| mark.run >= this.run || !self.has(Mutant::MarkOfOneRun));
            owner_is = Some((owner, token));
        }
        if needs_inquiry(this) || evidence.mark.is_some() {
            evidence.owner = self.owner(id, owner_is, delivery).await;
        }
        evidence.is_cancelled = self.state.borrow().cancelled.contains(id);
        Some((evidence, mark_at))
    }

    /// Asks whether anybody runs a task.
    async fn owner(self: &Rc<Self>, id: &Rc<str>, marked_by: Option<(usize, RunToken)>, delivery: Delivery) -> Owner {
        let (site, process) = (&self.site, self.process);
        if self.state.borrow().running.contains_key(id) {
            return Owner::Runs;
        }
        if is_run_by_anybody(site, process, id, Some(delivery)).await {
            return Owner::Runs;
        }
        match marked_by {
            None => Owner::Unknown,
            Some((owner, token)) if owner == process.0 => {
                let state = self.state.borrow();
                if state.undecided.contains(&token) {
                    Owner::Runs
                } else if state.never_began.contains(&token) {
                    Owner::NeverBegan
                } else {
                    Owner::Disowns
                }
            }
            Some((owner, token)) if site.is_connected(owner) => {
                let answers = Mailbox::new(&site.world);
                let question = News::OwnerQuestion(Rc::clone(id), token, answers.clone());
                site.network.notify(process, Process(owner), Hop::Question, &question);
                site.world.timeout(OWNER_TIMEOUT, answers.take()).await.unwrap_or(Owner::Silent)
            }
            Some(_) => Owner::Gone,
        }
    }

    /// Stores the mark of a run that is to begin; `false` where another was first.
    async fn mark(self: &Rc<Self>, id: &Rc<str>, begin: Begin, last: u64, token: RunToken) -> bool {
        let Marking::Store(mark) = begin.marking else { return true };
        if self.has(Mutant::BeginNotMarked) {
            return true;
        }
        self.store_mark(id, mark, last, token).await
    }

    /// Stores a mark where the last one is at this sequence; `false` where another was first.
    async fn store_mark(self: &Rc<Self>, id: &Rc<str>, mark: Mark, last: u64, token: RunToken) -> bool {
        let (site, process) = (&self.site, self.process);
        let subject = Subject::Mark(Rc::clone(id));
        let out = Publish {
            expect: Expect::Last(last),
            ..Publish::new(Stream::Notes, subject.clone(), Body::Mark { mark, token, owner: process.0 })
        };
        let store = move |broker: &mut Broker, now| match broker.publish(now, &out) {
            Answer::Stored(_) | Answer::Duplicate(_) => true,
            // Perhaps by an earlier send of this very mark.
            Answer::WrongLast => matches!(
                broker.last(Stream::Notes, &subject),
                Some((_, message)) if matches!(message.body, Body::Mark { token: stored, .. } if stored == token)
            ),
        };
        site.ask(process, Hop::Mark, Stream::Notes, store, PUBLISH_DEADLINE).await == Some(true)
    }

    /// The handler, as its plan says.
    async fn handle(self: &Rc<Self>, job: &Job, id: &Rc<str>) -> HandlerEnd {
        let (site, process, index) = (&self.site, self.process, index_of(&job.task));
        let planned = site.plan.tasks[index];
        let run = job.task.run;
        site.checker.borrow_mut().begins(index, process, run, self.now());
        let begun = site.checker.borrow().begun(index);
        if let Ends::Poison(times) = planned.ends
            && begun <= times
        {
            site.world.sleep(POISON_AFTER).await;
            site.kill(process, POISONED_FOR);
            std::future::pending::<()>().await;
        }
        let ends_at = self.now() + planned.takes;
        let mut is_stopped = false;
        site.point(process, Point::ExecutorRunning).await;
        while self.now() < ends_at && !is_stopped {
            site.world.sleep((ends_at - self.now()).min(SECOND)).await;
            is_stopped = self.state.borrow().cancelled.contains(id);
        }
        let failures = match planned.ends {
            Ends::After(failures) => failures,
            Ends::ForGood | Ends::Poison(_) => 0,
        };
        let end = match planned.ends {
            _ if is_stopped => HandlerEnd::Stopped,
            Ends::ForGood => HandlerEnd::ForGood,
            _ if begun <= failures => HandlerEnd::Failure,
            Ends::After(_) | Ends::Poison(_) => HandlerEnd::Success,
        };
        site.checker.borrow_mut().ended(index, process, run, self.now(), end);
        end
    }

    /// Stores what follows from a handler's answer.
    async fn answer(self: &Rc<Self>, job: &Job, begin: Begin, ended: HandlerEnd, token: RunToken) -> Settled {
        use jetlane_core::retry::Answer as Said;
        let answer = match ended {
            HandlerEnd::Success => Said::Done,
            HandlerEnd::Failure => Said::RetryAfter(None),
            HandlerEnd::ForGood | HandlerEnd::Stopped => Said::Fail,
        };
        let index = index_of(&job.task) as u64;
        let answered = if ended == HandlerEnd::Success { Answered::Success } else { Answered::Step };
        let ended_at = self.now();
        loop {
            let hold = if self.holds(&job.message) {
                Hold::Holds
            } else if self.is_anothers(job, token).await {
                Hold::Lost
            } else {
                Hold::Lapsed
            };
            match settle(answered, hold, Duration::from_micros(self.now() - ended_at)) {
                Settlement::Store => break,
                Settlement::Keep => self.site.world.sleep(LOOK_AGAIN).await,
                Settlement::Leave => return Settled::No,
            }
        }
        match follow(answer, begin.attempt, job.task.retries.unwrap_or_default(), BACKOFF, index) {
            Step::Complete => self.end(job, Outcome::Succeeded, "", token.bits()).await,
            Step::DeadLetter if ended == HandlerEnd::Stopped => {
                self.end(job, Outcome::Cancelled, "stopped", token.bits()).await
            }
            Step::DeadLetter => self.end(job, Outcome::Failed, "handler", token.bits()).await,
            Step::Retry { delay, attempts } => {
                let delay = Time::try_from(delay.as_micros()).unwrap_or(Time::MAX);
                let run = job.task.run.saturating_add(1);
                let next = TaskEvent { run, attempts, ..TaskEvent::clone(&job.task) };
                let id: Rc<str> = job.task.id.as_str().into();
                let Marking::Store(mark) = begin.marking else { return self.store_next(job, next, delay).await };
                let is_marked = !self.has(Mutant::BeginNotMarked) && !self.has(Mutant::MarkNotMovedOn);
                if is_marked && !self.advance(&id, token, mark.answered()).await {
                    return Settled::No;
                }
                let settled = self.store_next(job, next, delay).await;
                if settled == Settled::Yes && is_marked && !self.advance(&id, token, mark.next()).await {
                    return Settled::No;
                }
                settled
            }
        }
    }

    /// Whether another executor has begun the task since.
    async fn is_anothers(self: &Rc<Self>, job: &Job, token: RunToken) -> bool {
        let subject = Subject::Mark(job.task.id.as_str().into());
        let read = move |broker: &mut Broker, _| match broker.last(Stream::Notes, &subject) {
            Some((_, message)) => match message.body {
                Body::Mark { token: stored, .. } => stored != token,
                Body::Tasks(_)
                | Body::Done(_)
                | Body::Holder(_)
                | Body::Delivered(_)
                | Body::Claim(_)
                | Body::Nothing => false,
            },
            None => false,
        };
        self.site.network.request(self.process, Hop::Mark, Stream::Notes, read).await.got() == Some(true)
    }

    /// Stores the completion of a task, and its dead letter where it failed.
    async fn end(self: &Rc<Self>, job: &Job, outcome: Outcome, code: &'static str, token: u64) -> Settled {
        let (site, process) = (&self.site, self.process);
        if outcome != Outcome::Succeeded && !self.holds(&job.message) {
            return self.given_up();
        }
        let mut record = site.record(&job.task, outcome, code);
        if token != 0 {
            record.token = RunToken::from_bits(token);
        }
        let crash = async {
            site.world.sleep(150).await;
            site.point(process, Point::ExecutorCompleting).await;
        };
        let completed = crate::submitter::both(site.complete(process, &record, RESULT_DEADLINE), crash).await;
        site.point(process, Point::ExecutorBeforeCallbacks).await;
        match completed {
            Completed::Unknown => Settled::No,
            Completed::Won if outcome == Outcome::Failed => {
                if site.bury(process, &record.id, PUBLISH_DEADLINE).await {
                    Settled::Yes
                } else {
                    Settled::No
                }
            }
            Completed::Won => Settled::Yes,
            // Whoever stored it may have died before its dead letter.
            Completed::Lost(done) => self.finish(&done).await,
        }
    }
}

/// Whether DONE is read before a run begins: it may have begun, or even ended, before.
fn is_suspect(run: &Run) -> bool {
    run.delivered > 1 || run.freshness == Freshness::Stale || run.suspicion == Suspicion::Suspect
}
