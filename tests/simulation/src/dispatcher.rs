//! A dispatcher: asks for the lead, takes over, and carries out the decisions of `jetlane_core::Queue` by the
//! discipline of every hop: publish, wait for the ack of the publish, then ack the source.

use crate::broker::{Answer, Body, Claim, ConsumerName, Delivery, Expect, FLOW_ACK_WAIT, Publish, Stream, Subject};
use crate::mutant::Mutant;
use crate::network::News;
use crate::plan::{Hop, Point, Sharing};
use crate::site::{Completed, PUBLISH_DEADLINE, Published, RANKS, Site, ack, index_of};
use crate::world::{MS, Mailbox, Process, SECOND, Time};
use jetlane_core::bundle::{Filling, More};
use jetlane_core::duplicates::{Arrival, Arriving, Departure, Duplicates, Source};
use jetlane_core::{Decision, Entry, EntryId, Event, FitId, FlowId, Queue, Stored, TenantId, TypeId};
use jetlane_schemas::frame::{RunEnd, bundle_message_id, frame_bytes};
use jetlane_schemas::limits::BUNDLE_TASKS_MAX;
use jetlane_schemas::registry::Order;
use jetlane_schemas::subject::LaneKind;
use jetlane_schemas::{Micros, Outcome, TaskEvent};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// How long a lease lives without renewal.
const LEASE_TTL: Time = SECOND;
/// How often it is renewed.
const RENEW_EVERY: Time = 300 * MS;
/// How often the lead is asked for while another has it.
const ASK_EVERY: Time = 250 * MS;
/// How often a leader looks after what it holds.
const TICK: Time = 250 * MS;
/// How often a leader says that it still holds its messages.
const HOLD_EVERY: Time = 1_500 * MS;
/// How long a pull waits in the server.
const PULL_EXPIRES: Time = 10 * SECOND;
/// The rest after a fault.
const FAULT_REST: Time = SECOND;
/// How long nothing moves before the lanes are counted.
const COUNT_AFTER: Time = 2 * SECOND;
/// What no task is shorter than, as far as bundles are concerned.
const RUN_MOST: Micros = Micros(1_000);
/// What is never to run leaves the queue at once.
const NEVER_STARTS: Micros = Micros(0);

/// The flows of the queue.
fn flows() -> Vec<(Stream, Subject)> {
    let submitted = (0..RANKS).map(|rank| (Stream::Tasks, Subject::Submit(rank)));
    submitted.chain((0..RANKS).map(|rank| (Stream::Time, Subject::Due(rank)))).collect()
}

/// Starts a dispatcher in a process.
pub fn start(site: &Rc<Site>, process: Process) {
    let inbox = site.network.listen(process);
    let letters = Mailbox::new(&site.world);
    let cancelled = Rc::new(RefCell::new(BTreeSet::new()));
    // The watch of notes begins with what is there.
    for message in site.network.broker.borrow().messages(Stream::Notes) {
        if let Subject::Of(id) = &message.subject {
            cancelled.borrow_mut().insert(Rc::clone(id));
        }
    }
    let (to, ids) = (letters.clone(), Rc::clone(&cancelled));
    site.world.spawn(process, async move {
        loop {
            let news = inbox.take().await;
            if let News::Noted(id) = &news {
                ids.borrow_mut().insert(Rc::clone(id));
            }
            to.send(Letter::News(news));
        }
    });
    let dispatcher = Dispatcher { site: Rc::clone(site), process, letters, cancelled };
    site.world.spawn(process, async move { dispatcher.lead_for_ever().await });
}

enum Letter {
    News(News),
    ToLane(Vec<EntryId>, Published),
    Away(EntryId, bool),
    /// Nobody runs a task that is to be ended.
    Unclaimed(EntryId),
    Claimed(Box<Arrived>, Claimed),
    PullEnded(FlowId, u64),
    Pulled(FlowId, u64, u32),
    Counted(u64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claimed {
    Mine,
    Anothers,
    Unknown,
}

struct Dispatcher {
    site: Rc<Site>,
    process: Process,
    letters: Mailbox<Letter>,
    cancelled: Rc<RefCell<BTreeSet<Rc<str>>>>,
}

impl Dispatcher {
    async fn lead_for_ever(&self) {
        loop {
            self.lead_once().await;
            self.site.world.sleep(ASK_EVERY).await;
        }
    }

    async fn lead_once(&self) {
        let site = &self.site;
        let asked = site.world.now();
        let Some(epoch) = self.write_lease(0).await else { return };
        let lost = Mailbox::new(&site.world);
        let is_leading = Rc::new(Cell::new(true));
        self.keep(epoch, asked + LEASE_TTL, lost.clone(), Rc::clone(&is_leading));
        // Late news of an earlier lead is nobody's.
        while self.letters.try_take().is_some() {}
        let lead = async {
            if let Some(mut leader) = self.take_over(epoch, &is_leading).await {
                leader.serve().await;
            }
        };
        let (mut lead, mut lost) = (std::pin::pin!(lead), std::pin::pin!(lost.take()));
        std::future::poll_fn(|cx| {
            if lost.as_mut().poll(cx).is_ready() { std::task::Poll::Ready(()) } else { lead.as_mut().poll(cx) }
        })
        .await;
        is_leading.set(false);
    }

    /// Writes the lease over this revision; the new one.
    async fn write_lease(&self, last: u64) -> Option<u64> {
        let out = Publish {
            expect: Expect::Last(last),
            ttl: Some(LEASE_TTL),
            ..Publish::new(Stream::Leases, Subject::Lease, Body::Holder(self.process.0))
        };
        let write = move |broker: &mut crate::broker::Broker, now| broker.publish(now, &out);
        match self.site.network.request(self.process, Hop::Lease, Stream::Leases, write).await.got()? {
            Answer::Stored(revision) => Some(revision),
            Answer::Duplicate(_) | Answer::WrongLast => None,
        }
    }

    /// Notes what consumers were given; the last sequence that leaders were given of each flow.
    async fn note_delivered(&self, consumers: &[(ConsumerName, u64)]) -> Option<Vec<u64>> {
        let site = &self.site;
        let read = |broker: &mut crate::broker::Broker, _| {
            broker.last(Stream::Leases, &Subject::Delivered).map(|(at, message)| (at, message.body.clone()))
        };
        let entry = site.network.request(self.process, Hop::Consumer, Stream::Leases, read).await.got()?;
        let (revision, mut all) = match entry {
            Some((revision, Body::Delivered(all))) => (revision, all.to_vec()),
            _ => (0, vec![0; flows().len()]),
        };
        for (name, delivered) in consumers {
            if let Some(flow) = flows().iter().position(|(_, subject)| *subject == name.subject) {
                all[flow] = all[flow].max(*delivered);
            }
        }
        if !consumers.is_empty() && !site.mutants.has(Mutant::TakeOverNotNoted) {
            let body = Body::Delivered(all.as_slice().into());
            let expect = Expect::Last(revision);
            let out = Publish { expect, ..Publish::new(Stream::Leases, Subject::Delivered, body) };
            let write = move |broker: &mut crate::broker::Broker, now| broker.publish(now, &out);
            match site.network.request(self.process, Hop::Consumer, Stream::Leases, write).await.got()? {
                Answer::Stored(_) => {}
                Answer::Duplicate(_) | Answer::WrongLast => return None,
            }
        }
        Some(all)
    }

    /// Renews the lease until it is over by this process's own clock.
    fn keep(&self, epoch: u64, valid_until: Time, lost: Mailbox<()>, is_leading: Rc<Cell<bool>>) {
        let (site, process) = (Rc::clone(&self.site), self.process);
        let keeper = Self {
            site: Rc::clone(&site),
            process,
            letters: self.letters.clone(),
            cancelled: Rc::clone(&self.cancelled),
        };
        let (mut revision, mut valid_until) = (epoch, valid_until);
        self.site.world.spawn(process, async move {
            while is_leading.get() {
                let asked = site.world.now();
                match site.world.timeout(RENEW_EVERY, keeper.write_lease(revision)).await {
                    Some(Some(renewed)) => (revision, valid_until) = (renewed, asked + LEASE_TTL),
                    // Perhaps an earlier renewal was stored and its answer was lost.
                    Some(None) => {
                        let read = |broker: &mut crate::broker::Broker, _| {
                            broker.last(Stream::Leases, &Subject::Lease).map(|(at, m)| (at, m.body.clone()))
                        };
                        let entry = site.network.request(process, Hop::Lease, Stream::Leases, read);
                        if let Some(Some(crate::network::Reply::Got(Some((at, Body::Holder(holder)))))) =
                            Some(site.world.timeout(RENEW_EVERY, entry).await)
                            && holder == process.0
                            && at > revision
                        {
                            revision = at;
                        }
                    }
                    None => {}
                }
                if site.world.now() >= valid_until {
                    lost.send(());
                    return;
                }
                let rest = (valid_until - site.world.now()).min(RENEW_EVERY);
                site.world.sleep(rest).await;
                if site.world.now() >= valid_until {
                    lost.send(());
                    return;
                }
            }
        });
    }

    /// Notes what the consumers of earlier leaders were given, deletes them and makes its own. What they were given is
    /// suspect.
    async fn take_over(&self, epoch: u64, is_leading: &Rc<Cell<bool>>) -> Option<Leader> {
        let (site, process) = (&self.site, self.process);
        let ask = async |stream: Stream, what: Rc<dyn Fn(&mut crate::broker::Broker) -> u64>| {
            let what = move |broker: &mut crate::broker::Broker, _| what(broker);
            site.network.request(process, Hop::Consumer, stream, what).await.got()
        };
        let mut old = Vec::new();
        for stream in [Stream::Tasks, Stream::Time] {
            let list = move |broker: &mut crate::broker::Broker, _| broker.consumers(stream);
            let found = site.network.request(process, Hop::Consumer, stream, list).await.got()?;
            for name in found.into_iter().filter(|name| name.epoch != epoch) {
                if !site.mutants.has(Mutant::TakeOverWithoutPause) {
                    let paused = name.clone();
                    ask(
                        stream,
                        Rc::new(move |broker| {
                            broker.pause_consumer(&paused);
                            0
                        }),
                    )
                    .await?;
                }
                let read = name.clone();
                let delivered = ask(stream, Rc::new(move |broker| broker.delivered(&read).unwrap_or(0))).await?;
                site.point(process, Point::DispatcherTakingOver).await;
                old.push((name, delivered));
            }
        }
        let mut suspect_until = self.note_delivered(&old).await?;
        for (gone, _) in old {
            ask(
                gone.stream,
                Rc::new(move |broker| {
                    broker.delete_consumer(&gone);
                    0
                }),
            )
            .await?;
        }
        site.point(process, Point::DispatcherWithoutConsumers).await;
        if site.mutants.has(Mutant::TakeOverTrustsAll) {
            suspect_until.fill(0);
        }
        let mut leader = Leader::new(self, epoch, suspect_until, Rc::clone(is_leading));
        let counted = leader.count().await?;
        leader.core.on(leader.now(), Event::BundlesCounted { fit: leader.fit, tasks: counted });
        for (flow, (stream, subject)) in flows().into_iter().enumerate() {
            let name = ConsumerName { stream, subject, epoch };
            ask(
                stream,
                Rc::new(move |broker| {
                    broker.ensure_consumer(&name, FLOW_ACK_WAIT);
                    0
                }),
            )
            .await?;
            leader.core.on(leader.now(), Event::FlowOpened(flow_id(flow)));
        }
        for executor in site.live(crate::plan::Role::Executor) {
            site.network.notify(process, executor, Hop::Credit, &News::CreditWanted);
        }
        Some(leader)
    }
}

fn flow_id(flow: usize) -> FlowId {
    FlowId(u32::try_from(flow).unwrap_or(0))
}

/// What is to become of a task that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Run,
    Later(Time),
}

/// A task that has arrived and is not held yet.
struct Arrived {
    flow: usize,
    place: (Stream, u64),
    source: u64,
    task: TaskEvent,
}

struct Held {
    task: Rc<TaskEvent>,
    fate: Fate,
    source: u64,
}

struct SourceMessage {
    delivery: Delivery,
    open: usize,
    held_at: Time,
}

struct Leader {
    site: Rc<Site>,
    process: Process,
    letters: Mailbox<Letter>,
    cancelled: Rc<RefCell<BTreeSet<Rc<str>>>>,
    epoch: u64,
    suspect_until: Vec<u64>,
    core: Queue,
    fit: FitId,
    held: BTreeMap<EntryId, Held>,
    entries: u64,
    runs: Duplicates,
    sources: BTreeMap<u64, SourceMessage>,
    places: BTreeMap<(Stream, u64), u64>,
    source_count: u64,
    /// Messages that each pull may still bring.
    pulls: BTreeMap<u64, (FlowId, u32)>,
    /// Dispatched runs, by task and run, for the news of their ends.
    dispatched: BTreeMap<(Rc<str>, u32), EntryId>,
    is_leading: Rc<Cell<bool>>,
    /// Grows with everything that moves; when that was.
    moves: u64,
    moved_at: Time,
    /// Publishes to lanes whose outcome is not known.
    on_the_way: usize,
    counted_at: Time,
}

impl Leader {
    fn new(of: &Dispatcher, epoch: u64, suspect_until: Vec<u64>, is_leading: Rc<Cell<bool>>) -> Self {
        let mut core = Queue::new(Order::of(of.site.plan.policy));
        let fit = core.fit(&jetlane_schemas::Fit::default()).unwrap_or_default();
        Self {
            site: Rc::clone(&of.site),
            process: of.process,
            letters: of.letters.clone(),
            cancelled: Rc::clone(&of.cancelled),
            epoch,
            suspect_until,
            core,
            fit,
            held: BTreeMap::new(),
            entries: 0,
            runs: Duplicates::default(),
            sources: BTreeMap::new(),
            places: BTreeMap::new(),
            source_count: 0,
            pulls: BTreeMap::new(),
            dispatched: BTreeMap::new(),
            is_leading,
            moves: 0,
            moved_at: of.site.world.now(),
            on_the_way: 0,
            counted_at: 0,
        }
    }

    fn now(&self) -> Micros {
        Micros(self.site.world.now())
    }

    async fn serve(&mut self) {
        let mut ticked_at = self.now().0;
        loop {
            self.decide();
            let now = self.now().0;
            let wake_at = self.core.wake_at().map_or(Time::MAX, |at| at.0).min(ticked_at + TICK);
            let wait = wake_at.saturating_sub(now).max(1);
            let mut letter = self.site.world.timeout(wait, self.letters.take()).await;
            while let Some(next) = letter {
                self.take(next).await;
                letter = self.letters.try_take();
            }
            if self.now().0 >= ticked_at + TICK {
                ticked_at = self.now().0;
                self.look_after();
            }
        }
    }

    async fn take(&mut self, letter: Letter) {
        let now = self.now();
        match letter {
            Letter::News(News::Delivery(delivery)) => self.take_delivery(delivery),
            Letter::News(News::Credit(credit)) => {
                for ended in &credit.runs {
                    let id: Rc<str> = ended.id.as_str().into();
                    if let Some(task_type) = ended.task_type.as_ref().filter(|_| ended.end != RunEnd::Done) {
                        self.runs.goes_on(task_type, &ended.id, ended.run);
                    }
                    if let Some(entry) = self.dispatched.remove(&(id, ended.run)) {
                        self.core.on(
                            now,
                            match ended.end {
                                RunEnd::NotRun => Event::NotRun(entry),
                                RunEnd::Done | RunEnd::Broken | RunEnd::Yielded => {
                                    Event::Ended { entry, cost: Micros(ended.run_us) }
                                }
                            },
                        );
                    }
                }
                let mut credit = jetlane_schemas::frame::Credit::clone(&credit);
                if self.site.mutants.has(Mutant::CreditCountedTwice) {
                    credit.settled *= 2;
                    credit.taken += credit.settled / 2;
                }
                self.core.on(now, Event::Credit(credit));
            }
            Letter::News(News::Noted(id)) => {
                let of_id: Vec<EntryId> = self
                    .held
                    .iter()
                    .filter(|(_, held)| held.task.id.as_str() == &*id)
                    .map(|(entry, _)| *entry)
                    .collect();
                of_id.into_iter().for_each(|entry| self.core.on(now, Event::Cancelled(entry)));
            }
            Letter::News(News::Cancelled(_) | News::Question(..) | News::OwnerQuestion(..) | News::CreditWanted) => {}
            Letter::ToLane(entries, published) => self.sent_to_lane(entries, published).await,
            // A later run is stored, or its completion is.
            Letter::Away(entry, true) => {
                let is_later = self.held.get(&entry).is_some_and(|held| matches!(held.fate, Fate::Later(_)));
                let departure = if is_later { Departure::GoesOn } else { Departure::MayEnd };
                self.gone(entry, Stored::Before, departure);
            }
            Letter::Away(entry, false) => self.back(entry),
            Letter::Unclaimed(entry) => self.unclaimed(entry),
            Letter::Claimed(arrived, claimed) => self.claimed(*arrived, claimed),
            Letter::Pulled(flow, number, messages) => {
                let entry = self.pulls.entry(number).or_insert((flow, 0));
                entry.1 += messages;
            }
            Letter::PullEnded(flow, number) => {
                let left = self.pulls.remove(&number).map_or(0, |(_, left)| left);
                self.core.on(now, Event::PullEnded { flow, messages: left });
            }
            // A count of what moves meanwhile says nothing.
            Letter::Counted(moves, tasks) if moves == self.moves && self.on_the_way == 0 => {
                self.core.on(now, Event::BundlesCounted { fit: self.fit, tasks });
            }
            Letter::Counted(..) => {}
        }
    }

    /// Messages of flows become held tasks.
    fn take_delivery(&mut self, delivery: Delivery) {
        let now = self.now();
        let subject = &delivery.consumer.subject;
        let Some(flow) = flows().iter().position(|(_, of)| of == subject) else { return };
        if delivery.consumer.epoch != self.epoch {
            return;
        }
        if let Some((_, left)) = self.pulls.get_mut(&delivery.pull) {
            *left = left.saturating_sub(1);
        }
        let place = (delivery.consumer.stream, delivery.sequence);
        let held = self.places.get(&place).copied();
        if let Some(source) = held.and_then(|id| self.sources.get_mut(&id))
            && !self.site.mutants.has(Mutant::HeldTakenForCopy)
        {
            source.delivery = delivery;
            self.core.on(now, Event::MessageTaken { flow: flow_id(flow), tasks: 1 });
            return;
        }
        let Body::Tasks(tasks) = &delivery.body else { return };
        let tasks = Rc::clone(tasks);
        self.core.on(now, Event::MessageTaken { flow: flow_id(flow), tasks: u32::try_from(tasks.len()).unwrap_or(1) });
        self.source_count += 1;
        let source = self.source_count;
        let is_suspect = delivery.delivered > 1 || delivery.sequence <= self.suspect_until[flow];
        self.places.insert(place, source);
        let message = SourceMessage { open: tasks.len(), held_at: now.0, delivery };
        self.sources.insert(source, message);
        for task in tasks.iter() {
            let mut task = TaskEvent::clone(task);
            task.suspect |= is_suspect;
            let needs_claim = task.key.is_some() && task.run == 1 && !self.site.mutants.has(Mutant::KeyNotClaimed);
            let arrived = Arrived { flow, place, source, task };
            // Nothing is decided about a copy before it is known which message holds the claim.
            if needs_claim {
                self.claim(arrived);
            } else {
                self.hold(arrived);
            }
        }
    }

    fn hold(&mut self, arrived: Arrived) {
        let Arrived { flow, place, source, task } = arrived;
        let now = self.now();
        self.entries += 1;
        let id = EntryId(self.entries);
        let origin = u32::from(place.0 != Stream::Tasks);
        let line = format!("read by process {}: {place:?}, run {}, suspect {}", self.process.0, task.run, task.suspect);
        self.site.checker.borrow_mut().log(index_of(&task), now.0, line);
        let key = (Rc::<str>::from(task.id.as_str()), task.run);
        let is_under_way = self.dispatched.contains_key(&key);
        let source_of = Source { origin, sequence: place.1 };
        let arriving =
            Arriving { task_type: &task.task_type, id: &task.id, run: task.run, source: source_of, entry: id };
        let arrival = self.runs.arrived(now, arriving, || is_under_way);
        let mut task = task;
        task.suspect |= arrival == Arrival::Repeated;
        if matches!(arrival, Arrival::Copy | Arrival::UnderWay) {
            let index = index_of(&task);
            self.site.checker.borrow_mut().log(index, now.0, format!("arrived as {arrival:?}"));
            self.settle_source(source);
            return;
        }
        let fate = match task.due_at {
            Some(due) if place.0 == Stream::Tasks && due.0 > now.0 + 300 * MS => Fate::Later(due.0),
            _ => Fate::Run,
        };
        let starts_by = task.deadline.filter(|_| task.attempts == 0 && task.yields == 0);
        let entry = Entry {
            id,
            flow: flow_id(flow),
            priority: task.priority,
            tenant: TenantId(0),
            task_type: TypeId(0),
            fit: self.fit,
            first_arrival: task.submitted_at,
            expires: if fate == Fate::Run { starts_by } else { Some(NEVER_STARTS) },
            due: task.deadline,
            estimate: Micros(1_000),
            yields: task.yields,
            bytes: 300,
        };
        let is_cancelled = self.cancelled.borrow().contains(task.id.as_str());
        self.held.insert(id, Held { task: Rc::new(task), fate, source });
        self.core.on(now, Event::Arrived(entry));
        if is_cancelled {
            self.core.on(now, Event::Cancelled(entry.id));
        }
    }

    /// Takes the claim of a key for this message, or finds out that another holds it.
    fn claim(&self, arrived: Arrived) {
        let (site, process, letters) = (Rc::clone(&self.site), self.process, self.letters.clone());
        let (id, place) = (Rc::<str>::from(arrived.task.id.as_str()), arrived.place);
        let mine = Claim::Held { in_time: place.0 == Stream::Time, sequence: place.1 };
        self.spawn(async move {
            let subject = Subject::Of(id);
            let read_at = subject.clone();
            let read = move |broker: &mut crate::broker::Broker, _| {
                broker.last(Stream::Claims, &read_at).map(|(at, message)| (at, message.body.clone()))
            };
            let claimed = match site.ask(process, Hop::Claim, Stream::Claims, read, PUBLISH_DEADLINE).await {
                None => Claimed::Unknown,
                Some(Some((_, Body::Claim(claim)))) if claim == mine => Claimed::Mine,
                Some(Some((_, Body::Claim(Claim::Held { .. } | Claim::Released)))) => Claimed::Anothers,
                Some(last) => {
                    let revision = last.map_or(0, |(at, _)| at);
                    let out = Publish {
                        expect: Expect::Last(revision),
                        ..Publish::new(Stream::Claims, subject, Body::Claim(mine))
                    };
                    match site.publish(process, Hop::Claim, out, PUBLISH_DEADLINE).await {
                        Published::Stored(_) | Published::Duplicate(_) => Claimed::Mine,
                        // Perhaps by an earlier send of ours: it is read again.
                        Published::WrongLast | Published::Unknown => Claimed::Unknown,
                    }
                }
            };
            letters.send(Letter::Claimed(Box::new(arrived), claimed));
        });
    }

    fn claimed(&mut self, arrived: Arrived, claimed: Claimed) {
        let (index, run) = (index_of(&arrived.task), arrived.task.run);
        self.site.checker.borrow_mut().log(index, self.now().0, format!("claim: {claimed:?}, run {run}"));
        match claimed {
            Claimed::Mine => {
                let origin = u32::from(arrived.place.0 != Stream::Tasks);
                let source = Source { origin, sequence: arrived.place.1 };
                // No key of a plan is used by a second task, so no earlier one can be held.
                let _none = self.runs.claimed(&arrived.task.task_type, &arrived.task.id, source);
                self.hold(arrived);
            }
            Claimed::Anothers => self.settle_source(arrived.source),
            Claimed::Unknown => self.claim(arrived),
        }
    }

    /// One of a message's tasks is settled; the last one acks it.
    fn settle_source(&mut self, id: u64) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.open = source.open.saturating_sub(1);
        if source.open > 0 && !self.site.mutants.has(Mutant::BundleSettledAtFirst) {
            return;
        }
        if let Some(source) = self.sources.remove(&id) {
            self.places.remove(&(source.delivery.consumer.stream, source.delivery.sequence));
            ack(&self.site, self.process, Hop::AckFlow, &source.delivery);
        }
    }

    /// Carries out decisions for as long as there are any.
    fn decide(&mut self) {
        let now = self.now();
        let mut open: Vec<(Vec<EntryId>, Filling)> = Vec::new();
        while let Some(decision) = self.core.next(now) {
            match decision {
                Decision::Dispatch { entry, kind, .. } => self.dispatch(&mut open, entry, kind),
                Decision::Expire(entry) => self.end(entry),
                Decision::Drop(entry) => self.gone(entry, Stored::New, Departure::MayEnd),
                Decision::Yield(_) => {}
                Decision::Pull { flow, messages, .. } => self.pull(flow, messages),
            }
        }
        for (entries, _) in open {
            self.send(entries);
        }
    }

    fn dispatch(&mut self, open: &mut Vec<(Vec<EntryId>, Filling)>, entry: EntryId, kind: LaneKind) {
        let Some(held) = self.held.get(&entry) else { return };
        let task = Rc::clone(&held.task);
        let source = self.sources.get(&held.source).map(|message| &message.delivery);
        let source = source.map_or((Stream::Tasks, 0), |of| (of.consumer.stream, of.sequence));
        if kind == LaneKind::Plain {
            self.site.violated("plain lanes nobody pulls get nothing", format!("task {}", index_of(&task)));
        }
        let capacity = self.site.plan.executors * (self.site.plan.slots + self.site.plan.prefetch);
        self.site.checker.borrow_mut().dispatched(index_of(&task), self.now().0, task.run, source, capacity as u64);
        self.dispatched.insert((task.id.as_str().into(), task.run), entry);
        let run_most = (self.site.plan.sharing == Sharing::Bundles).then_some(RUN_MOST);
        let more = More { bytes: frame_bytes(&task), run_most };
        let is_its = |entries: &[EntryId]| {
            let first = entries.first().and_then(|first| self.held.get(first));
            first.is_some_and(|first| first.task.priority == task.priority)
        };
        if let Some((entries, filling)) = open.iter_mut().rev().find(|(entries, _)| is_its(entries)) {
            let bound = self.core.bundle_bound(self.fit, BUNDLE_TASKS_MAX, filling.tasks() + 1);
            if filling.take(bound, more) {
                entries.push(entry);
                return;
            }
        }
        open.push((vec![entry], Filling::begin(more)));
    }

    /// Publishes tasks to their lane in one message.
    fn send(&mut self, entries: Vec<EntryId>) {
        let tasks: Vec<Rc<TaskEvent>> =
            entries.iter().filter_map(|entry| self.held.get(entry)).map(|held| Rc::clone(&held.task)).collect();
        let Some(first) = tasks.first() else { return };
        let rank = first.priority.rank();
        if self.site.mutants.has(Mutant::AckBeforePublish) {
            let sources: Vec<u64> =
                entries.iter().filter_map(|entry| self.held.get(entry)).map(|held| held.source).collect();
            sources.into_iter().for_each(|source| self.settle_source(source));
        }
        let id = bundle_message_id(jetlane_schemas::task::Hop::Lane, tasks.iter().map(|task| &**task));
        let out = Publish {
            id: Some(id.into()),
            ..Publish::new(Stream::Lanes, Subject::Lane(rank), Body::Tasks(tasks.into()))
        };
        self.on_the_way += 1;
        let (site, process, letters) = (Rc::clone(&self.site), self.process, self.letters.clone());
        self.spawn(async move {
            site.point(process, Point::DispatcherBeforePublish).await;
            let published = site.publish(process, Hop::ToLane, out, PUBLISH_DEADLINE).await;
            letters.send(Letter::ToLane(entries, published));
        });
    }

    /// What became of a message to a lane.
    async fn sent_to_lane(&mut self, entries: Vec<EntryId>, published: Published) {
        self.on_the_way -= 1;
        match published {
            Published::Stored(_) => {
                self.site.point(self.process, Point::DispatcherBeforeAck).await;
                entries.into_iter().for_each(|entry| self.gone(entry, Stored::New, Departure::MayEnd));
            }
            Published::Duplicate(_) => {
                entries.into_iter().for_each(|entry| self.gone(entry, Stored::Before, Departure::MayEnd))
            }
            Published::WrongLast | Published::Unknown => {
                // It may be stored; in other company it would have another id.
                let is_shared = entries.len() > 1;
                for entry in entries {
                    if is_shared && let Some(held) = self.held.get_mut(&entry) {
                        Rc::make_mut(&mut held.task).suspect = true;
                    }
                    self.back(entry);
                }
            }
        }
    }

    /// Ends a task that does not run now: it expired, or is not due yet. One that may have begun in time is not ended by
    /// somebody who only looks at the clock.
    fn end(&mut self, entry: EntryId) {
        let Some(held) = self.held.get(&entry) else { return };
        if held.fate != Fate::Run || !held.task.suspect || self.site.mutants.has(Mutant::SuspectExpired) {
            return self.end_now(entry);
        }
        let (site, process, letters) = (Rc::clone(&self.site), self.process, self.letters.clone());
        let (id, next) = (Rc::<str>::from(held.task.id.as_str()), held.task.run.saturating_add(1));
        self.spawn(async move {
            let schedule = Subject::Schedule(Rc::clone(&id), next);
            let read = move |broker: &mut crate::broker::Broker, _| broker.last(Stream::Time, &schedule).is_some();
            let is_run = crate::executor::is_run_by_anybody(&site, process, &id, None).await;
            let is_scheduled = site.network.request(process, Hop::Consumer, Stream::Time, read).await.got();
            letters.send(match is_scheduled {
                Some(false) if !is_run => Letter::Unclaimed(entry),
                Some(_) | None => Letter::Away(entry, false),
            });
        });
    }

    /// Ends a task that nobody runs, unless a later run of it came meanwhile.
    fn unclaimed(&mut self, entry: EntryId) {
        let Some(held) = self.held.get(&entry) else { return };
        let task = &held.task;
        let goes_on = self.runs.has_later(self.now(), &task.task_type, &task.id, task.run);
        if goes_on {
            self.back(entry);
        } else {
            self.end_now(entry);
        }
    }

    fn end_now(&mut self, entry: EntryId) {
        let Some(held) = self.held.get(&entry) else { return };
        let (site, process, letters) = (Rc::clone(&self.site), self.process, self.letters.clone());
        let (task, fate, now) = (Rc::clone(&held.task), held.fate, self.now().0);
        let expired = task.deadline.filter(|_| task.attempts == 0).is_some_and(|deadline| deadline.0 <= now);
        self.spawn(async move {
            let is_stored = match fate {
                Fate::Later(at) if !expired => {
                    let mut next = TaskEvent::clone(&task);
                    next.run = next.run.saturating_add(1);
                    site.store_due(process, &next, at, PUBLISH_DEADLINE).await
                }
                Fate::Later(_) | Fate::Run => {
                    let record = site.record(&task, Outcome::Expired, "expired");
                    match site.complete(process, &record, PUBLISH_DEADLINE).await {
                        Completed::Won => true,
                        // Whoever stored it may have died before its dead letter.
                        Completed::Lost(done) if done.outcome == Outcome::Failed => {
                            site.mutants.has(Mutant::DeadLetterForgotten)
                                || site.bury(process, &done.id, PUBLISH_DEADLINE).await
                        }
                        Completed::Lost(_) => true,
                        Completed::Unknown => false,
                    }
                }
            };
            letters.send(Letter::Away(entry, is_stored));
        });
    }

    /// The task is stored elsewhere, or ended: its message owes nothing for it any more.
    fn gone(&mut self, entry: EntryId, stored: Stored, departure: Departure) {
        let now = self.now();
        (self.moves, self.moved_at) = (self.moves + 1, self.now().0);
        self.core.on(self.now(), Event::Settled(entry, stored));
        if let Some(held) = self.held.remove(&entry) {
            self.runs.left(now, &held.task.task_type, &held.task.id, held.task.run, departure);
            self.settle_source(held.source);
        }
    }

    fn back(&mut self, entry: EntryId) {
        let now = self.now();
        if let Some(held) = self.held.get(&entry) {
            self.dispatched.remove(&(held.task.id.as_str().into(), held.task.run));
        }
        self.core.on(now, Event::NotStored(entry, Micros(now.0 + FAULT_REST)));
    }

    fn pull(&mut self, flow: FlowId, messages: u32) {
        let (stream, subject) = flows()[flow.0 as usize].clone();
        let name = ConsumerName { stream, subject, epoch: self.epoch };
        let (site, process, letters) = (Rc::clone(&self.site), self.process, self.letters.clone());
        self.spawn(async move {
            let expires = site.world.now() + PULL_EXPIRES;
            let ask =
                move |broker: &mut crate::broker::Broker, now| broker.pull(now, &name, process.0, messages, expires);
            let pull = site.network.request(process, Hop::Pull, stream, ask).await.got().flatten();
            // What was asked for and never came is asked for again.
            let number = pull.unwrap_or(u64::MAX - u64::from(flow.0));
            letters.send(Letter::Pulled(flow, number, messages));
            if pull.is_some() {
                site.world.sleep(PULL_EXPIRES + SECOND).await;
            } else {
                site.world.sleep(SECOND).await;
            }
            letters.send(Letter::PullEnded(flow, number));
        });
    }

    /// Signs of life for what is held, and a count of the lanes where nothing moves.
    fn look_after(&mut self) {
        let now = self.now().0;
        for source in self.sources.values_mut().filter(|source| now >= source.held_at + HOLD_EVERY) {
            source.held_at = now;
            let delivery = source.delivery.clone();
            self.site.network.send(self.process, Hop::HoldFlow, move |broker, now| broker.in_progress(now, &delivery));
        }
        // What was dispatched and lost on the way would be missed for ever: the server knows.
        if self.core.is_starved() && now >= self.moved_at.max(self.counted_at) + COUNT_AFTER {
            self.counted_at = now;
            let (count, letters, moves) = (self.count(), self.letters.clone(), self.moves);
            self.spawn(async move {
                if let Some(tasks) = count.await {
                    letters.send(Letter::Counted(moves, tasks));
                }
            });
        }
    }

    /// Asks how many tasks lie in the lanes.
    fn count(&self) -> impl Future<Output = Option<u64>> + use<> {
        let (site, process) = (Rc::clone(&self.site), self.process);
        async move {
            let count = |broker: &mut crate::broker::Broker, _| {
                let tasks = broker.messages(Stream::Lanes).map(|message| match &message.body {
                    Body::Tasks(tasks) => tasks.len() as u64,
                    Body::Done(_)
                    | Body::Holder(_)
                    | Body::Delivered(_)
                    | Body::Mark { .. }
                    | Body::Claim(_)
                    | Body::Nothing => 0,
                });
                tasks.sum::<u64>()
            };
            site.network.request(process, Hop::Consumer, Stream::Lanes, count).await.got()
        }
    }

    /// Does something beside the loop, for as long as this process leads.
    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        let is_leading = Rc::clone(&self.is_leading);
        let mut work = Box::pin(work);
        self.site.world.spawn(
            self.process,
            std::future::poll_fn(
                move |cx| {
                    if is_leading.get() { work.as_mut().poll(cx) } else { std::task::Poll::Ready(()) }
                },
            ),
        );
    }
}
