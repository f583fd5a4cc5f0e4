//! The way to the broker and back: delays that a seed sets, and the faults of a plan.

use crate::broker::{Broker, Delivery, Record, Stream};
use crate::plan::{Effect, Fault, Hop, Plan, mix};
use crate::world::{Mailbox, Process, SECOND, Time, World};
use jetlane_core::run::Owner;
use jetlane_schemas::RunToken;
use jetlane_schemas::frame::Credit;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// How long a client waits for an answer.
const ANSWER_TIMEOUT: Time = 5 * SECOND;
/// The shortest way to the broker.
const LATENCY_MIN: Time = 80;
/// How much longer the others are, at most.
const LATENCY_SPREAD: u64 = 400;

/// What comes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<R> {
    /// The answer.
    Got(R),
    /// Nobody answers for the stream now.
    NoResponders,
    /// It may have been carried out.
    Unknown,
}

impl<R> Reply<R> {
    /// The answer, if one came.
    pub fn got(self) -> Option<R> {
        match self {
            Self::Got(answer) => Some(answer),
            Self::NoResponders | Self::Unknown => None,
        }
    }
}

/// What reaches a process over the network without its waiting for it.
#[derive(Clone)]
pub enum News {
    /// A message of a consumer.
    Delivery(Delivery),
    /// An executor's credit.
    Credit(Rc<Credit>),
    /// A task was cancelled: a broadcast, which may be lost.
    Cancelled(Rc<str>),
    /// A cancelled id was noted: a watch, which is repeated until it is known.
    Noted(Rc<str>),
    /// Whether the process runs a task, and the delivery of it that whoever asks has.
    Question(Rc<str>, Option<Delivery>, Mailbox<()>),
    /// What the process that stored a mark says of it.
    OwnerQuestion(Rc<str>, RunToken, Mailbox<Owner>),
    /// Executors are to announce their credit.
    CreditWanted,
}

/// The network and the broker behind it.
pub struct Network {
    world: World,
    seed: u64,
    /// The broker.
    pub broker: RefCell<Broker>,
    counts: RefCell<BTreeMap<Hop, u32>>,
    faults: BTreeMap<Hop, Vec<(u32, u32, Effect)>>,
    cuts: RefCell<BTreeMap<Process, Time>>,
    inboxes: RefCell<BTreeMap<Process, Mailbox<News>>>,
    ticks_at: Cell<Time>,
    /// Hears of each completion as it is stored.
    pub on_done: RefCell<Option<OnDone>>,
}

type OnDone = Box<dyn Fn(Time, Rc<Record>)>;

impl Network {
    /// The network of a plan.
    pub fn new(world: &World, plan: &Plan, broker: Broker) -> Rc<Self> {
        let mut faults = BTreeMap::<Hop, Vec<_>>::new();
        for fault in &plan.faults {
            if let Fault::Message { hop, first, count, effect } = *fault {
                faults.entry(hop).or_default().push((first, count, effect));
            }
        }
        Rc::new(Self {
            world: world.clone(),
            seed: plan.seed,
            broker: RefCell::new(broker),
            counts: RefCell::default(),
            faults,
            cuts: RefCell::default(),
            inboxes: RefCell::default(),
            ticks_at: Cell::new(Time::MAX),
            on_done: RefCell::default(),
        })
    }

    /// Listens in the name of a process.
    pub fn listen(&self, process: Process) -> Mailbox<News> {
        let inbox = Mailbox::new(&self.world);
        self.inboxes.borrow_mut().insert(process, inbox.clone());
        inbox
    }

    /// Cuts a process off until then.
    pub fn cut(&self, process: Process, until: Time) {
        self.cuts.borrow_mut().insert(process, until);
    }

    /// Whether a process has no connection.
    pub fn is_cut(&self, process: Process) -> bool {
        self.cuts.borrow().get(&process).is_some_and(|until| *until > self.world.now())
    }

    /// The next message of a hop: how long it takes, and what becomes of it.
    fn next_of(&self, hop: Hop) -> (Time, Option<Effect>) {
        let nth = {
            let mut counts = self.counts.borrow_mut();
            let count = counts.entry(hop).or_default();
            *count += 1;
            *count - 1
        };
        let noise = mix(self.seed ^ ((hop as u64) << 40) ^ u64::from(nth));
        let faults = self.faults.get(&hop).map(Vec::as_slice).unwrap_or_default();
        let effect = faults.iter().find(|(first, count, _)| (*first..first + count).contains(&nth)).map(|f| f.2);
        let delay = if let Some(Effect::Delay(delay)) = effect { delay } else { 0 };
        (LATENCY_MIN + noise % LATENCY_SPREAD + delay, effect)
    }

    /// Sends a request and waits for its answer.
    pub async fn request<R: 'static>(
        self: &Rc<Self>,
        from: Process,
        hop: Hop,
        stream: Stream,
        what: impl Fn(&mut Broker, Time) -> R + 'static,
    ) -> Reply<R> {
        let (latency, effect) = self.next_of(hop);
        let answers = Mailbox::new(&self.world);
        if !self.is_cut(from) && effect != Some(Effect::LoseRequest) {
            let (network, told) = (Rc::clone(self), answers.clone());
            let arrive = move || {
                let now = network.world.now();
                let is_electing = network.broker.borrow().is_electing(stream, now);
                let reply = if is_electing || effect == Some(Effect::NoResponders) {
                    Reply::NoResponders
                } else {
                    let reply = what(&mut network.broker.borrow_mut(), now);
                    network.flush();
                    Reply::Got(reply)
                };
                if effect == Some(Effect::Repeat) {
                    let again = Rc::clone(&network);
                    network.world.at(now + 2 * latency, move || {
                        drop(what(&mut again.broker.borrow_mut(), again.world.now()));
                        again.flush();
                    });
                }
                if effect != Some(Effect::LoseAnswer) {
                    let back = Rc::clone(&network);
                    network.world.at(now + latency.min(LATENCY_MIN + LATENCY_SPREAD), move || {
                        if !back.is_cut(from) {
                            told.send(reply);
                        }
                    });
                }
            };
            self.world.at(self.world.now() + latency, arrive);
        }
        self.world.timeout(ANSWER_TIMEOUT, answers.take()).await.unwrap_or(Reply::Unknown)
    }

    /// Sends something that is not answered.
    pub fn send(self: &Rc<Self>, from: Process, hop: Hop, what: impl Fn(&mut Broker, Time) + 'static) {
        let (latency, effect) = self.next_of(hop);
        if self.is_cut(from) || matches!(effect, Some(Effect::LoseRequest | Effect::NoResponders)) {
            return;
        }
        let network = Rc::clone(self);
        self.world.at(self.world.now() + latency, move || {
            what(&mut network.broker.borrow_mut(), network.world.now());
            network.flush();
            if effect == Some(Effect::Repeat) {
                let again = Rc::clone(&network);
                network.world.at(network.world.now() + latency, move || {
                    what(&mut again.broker.borrow_mut(), again.world.now());
                    again.flush();
                });
            }
        });
    }

    /// Sends something to a process by core NATS.
    pub fn notify(self: &Rc<Self>, from: Process, to: Process, hop: Hop, news: &News) {
        let (latency, effect) = self.next_of(hop);
        if self.is_cut(from) || matches!(effect, Some(Effect::LoseRequest | Effect::LoseAnswer | Effect::NoResponders))
        {
            return;
        }
        let copies = if effect == Some(Effect::Repeat) { 2 } else { 1 };
        for copy in 1..=copies {
            let (network, news) = (Rc::clone(self), news.clone());
            self.world.at(self.world.now() + copy * latency, move || network.hand_over(to, news));
        }
    }

    /// Brings something to a process that it will know in the end, whatever is lost.
    pub fn watch(self: &Rc<Self>, to: Process, news: News) {
        let network = Rc::clone(self);
        let until = self.cuts.borrow().get(&to).copied().unwrap_or(0).max(self.world.now());
        self.world.at(until + LATENCY_MIN + LATENCY_SPREAD, move || {
            if network.is_cut(to) { network.watch(to, news) } else { network.hand_over(to, news) }
        });
    }

    fn hand_over(&self, to: Process, news: News) {
        if self.is_cut(to) {
            return;
        }
        if let Some(inbox) = self.inboxes.borrow().get(&to) {
            inbox.send(news);
        }
    }

    /// Sends out what the broker has delivered, and wakes it when something is due.
    pub fn flush(self: &Rc<Self>) {
        let (outbox, done) = {
            let mut broker = self.broker.borrow_mut();
            (std::mem::take(&mut broker.outbox), std::mem::take(&mut broker.completed))
        };
        if let Some(on_done) = &*self.on_done.borrow() {
            done.into_iter().for_each(|record| on_done(self.world.now(), record));
        }
        for delivery in outbox {
            let (latency, effect) = self.next_of(Hop::Deliver);
            if matches!(effect, Some(Effect::LoseRequest | Effect::LoseAnswer | Effect::NoResponders)) {
                continue;
            }
            let copies = if effect == Some(Effect::Repeat) { 2 } else { 1 };
            for copy in 1..=copies {
                let (network, delivery) = (Rc::clone(self), delivery.clone());
                let to = Process(delivery.to);
                self.world.at(self.world.now() + copy * latency, move || {
                    network.hand_over(to, News::Delivery(delivery));
                });
            }
        }
        let Some(next) = self.broker.borrow().next_at() else { return };
        if next < self.ticks_at.get() {
            self.ticks_at.set(next);
            let network = Rc::clone(self);
            self.world.at(next, move || {
                if network.ticks_at.get() == next {
                    network.ticks_at.set(Time::MAX);
                }
                network.broker.borrow_mut().tick(network.world.now());
                network.flush();
            });
        }
    }
}
