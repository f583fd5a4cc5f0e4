//! The flows of a queue: a consumer each, made when the flow is first used and kept; pulled as the
//! core has room. Until then a subscription stands in for it, which hears the first publish: each ack asks
//! all consumers of the stream, and in a cluster each is a group of its own.

use crate::door::Door;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use jetlane_bus::pull::REFUSED_PAUSE;
use jetlane_bus::{Bus, Error, Pulled, Puller};
use jetlane_core::FlowId;
use jetlane_schemas::{Flow, Priority, QueueName, Shard};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;

/// Consumers that are being made at once.
const OPENINGS_MAX: usize = 16;
/// Messages taken from a flow in one turn, before other events are looked at.
const MESSAGES_A_TURN: usize = 256;

/// Requests on their way to a flow's reader. The core has a few under way at most; beyond this they are
/// asked again after the next turn.
const ASKS_MAX: usize = 64;

/// What the core wants of a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    messages: u32,
    bytes: u64,
}

/// What a flow brought, with everything that is needed to go on reading it.
pub(crate) struct Turn {
    pub(crate) flow: FlowId,
    pub(crate) puller: Puller,
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) pulled: Vec<Pulled>,
}

/// A flow whose consumer was to be made.
pub(crate) struct Opened {
    pub(crate) flow: Flow,
    pub(crate) puller: Result<Puller, Error>,
}

/// A flow that is read, or was.
pub(crate) struct Reading {
    pub(crate) flow: Flow,
    /// Up to this sequence another leader may have dispatched.
    pub(crate) suspect_until: u64,
    /// Messages that the core has asked for and that have not come.
    pub(crate) asked: u32,
    asks: Option<mpsc::Sender<Ask>>,
}

/// The flows of one queue.
pub(crate) struct Flows {
    bus: Bus,
    door: Door,
    epoch: u64,
    readings: Vec<Reading>,
    numbers: BTreeMap<Flow, FlowId>,
    to_open: VecDeque<Flow>,
    opening: BTreeSet<Flow>,
    pub(crate) turns: FuturesUnordered<BoxFuture<'static, Turn>>,
    pub(crate) openings: FuturesUnordered<BoxFuture<'static, Opened>>,
    /// The flows whose first publish is listened for, and those of them that have one.
    listening: BTreeSet<Flow>,
    pub(crate) rings: FuturesUnordered<BoxFuture<'static, Flow>>,
}

impl Flows {
    pub(crate) fn new(bus: Bus, door: Door, epoch: u64) -> Self {
        Self {
            bus,
            door,
            epoch,
            readings: Vec::new(),
            numbers: BTreeMap::new(),
            to_open: VecDeque::new(),
            opening: BTreeSet::new(),
            turns: FuturesUnordered::new(),
            openings: FuturesUnordered::new(),
            listening: BTreeSet::new(),
            rings: FuturesUnordered::new(),
        }
    }

    /// The flows that are read from the start: where most tasks are submitted, and where those of no tenant come
    /// back, since nobody hears what a schedule publishes.
    pub(crate) fn eager(queue: &QueueName) -> impl Iterator<Item = Flow> + '_ {
        let back = Priority::ALL.into_iter().map(|priority| Flow::Due(queue.clone(), priority, Shard::default()));
        std::iter::once(Flow::Task(queue.clone(), Priority::default(), Shard::default())).chain(back)
    }

    /// What the SDK submits for a shard, the most urgent first.
    pub(crate) fn of_shard(queue: &QueueName, shard: Shard) -> impl Iterator<Item = Flow> + '_ {
        Priority::ALL.into_iter().map(move |priority| Flow::Task(queue.clone(), priority, shard))
    }

    /// Notes up to where another leader had read a flow.
    pub(crate) fn suspect(&mut self, flow: &Flow, until: u64) {
        let number = self.number(flow);
        let reading = self.reading(number);
        reading.suspect_until = reading.suspect_until.max(until);
    }

    /// Makes the flow's consumer unless it is read or about to be.
    pub(crate) fn open(&mut self, flow: &Flow) {
        let number = self.number(flow);
        if self.reading(number).asks.is_none() && self.opening.insert(flow.clone()) {
            self.to_open.push_back(flow.clone());
            self.open_next();
        }
    }

    /// Opens the flow at the first publish to it from now on. What lies there already is found by a poll of the
    /// subjects.
    pub(crate) fn open_when_used(&mut self, flow: Flow) {
        let is_read = self.numbers.get(&flow).copied().is_some_and(|number| self.is_read(number));
        if is_read || self.opening.contains(&flow) || !self.listening.insert(flow.clone()) {
            return;
        }
        self.rings.push(Box::pin(first_publish(self.bus.clone(), flow)));
    }

    /// A flow has had its first publish.
    pub(crate) fn rang(&mut self, flow: &Flow) {
        self.listening.remove(flow);
        self.open(flow);
    }

    fn open_next(&mut self) {
        while self.openings.len() < OPENINGS_MAX
            && let Some(flow) = self.to_open.pop_front()
        {
            let (bus, epoch) = (self.bus.clone(), self.epoch);
            let number = self.number(&flow);
            let suspect_until = self.reading(number).suspect_until;
            let reader = match &flow {
                // What anyone may publish can cost the connection that reads it.
                Flow::Raw(_) => self.door.borrow().clone(),
                Flow::Task(..) | Flow::Due(..) => self.bus.clone(),
            };
            self.openings.push(Box::pin(async move {
                let puller = match bus.open_flow(&flow, epoch, suspect_until).await {
                    Ok(consumer) => reader.puller(flow.stream(), &consumer).await,
                    Err(error) => Err(error),
                };
                Opened { flow, puller }
            }));
        }
    }

    /// Begins to read a flow; `None` where its consumer could not be made. It is tried again when the
    /// flow is next seen.
    ///
    /// # Errors
    /// Where an earlier leader's consumer reads the flow: the server did not list it as the queue was taken over, or has
    /// made it since.
    pub(crate) fn opened(&mut self, opened: Opened) -> Result<Option<FlowId>, Error> {
        self.opening.remove(&opened.flow);
        self.open_next();
        let number = self.number(&opened.flow);
        match opened.puller {
            Ok(puller) => {
                let (sender, asks) = mpsc::channel(ASKS_MAX);
                let reading = self.reading(number);
                (reading.asks, reading.asked) = (Some(sender), 0);
                self.read_on(Turn { flow: number, puller, asks, pulled: Vec::new() }, Duration::ZERO);
                Ok(Some(number))
            }
            Err(error) if error.is_overlap() => Err(error),
            Err(error) => {
                let cause = std::error::Error::source(&error);
                tracing::warn!(flow = %opened.flow, %error, cause, "A flow cannot be read yet; trying again.");
                Ok(None)
            }
        }
    }

    /// Goes on reading a flow after a pause.
    pub(crate) fn read_on(&mut self, turn: Turn, pause: Duration) {
        self.turns.push(Box::pin(read(turn, pause)));
    }

    /// Asks for messages of a flow.
    pub(crate) fn ask(&mut self, flow: FlowId, messages: u32, bytes: u64) {
        let reading = self.reading(flow);
        reading.asked += messages;
        if let Some(asks) = &reading.asks {
            // One that finds no room is missed when the turn's count is compared, and asked again.
            let _full = asks.try_send(Ask { messages, bytes });
        }
    }

    /// Reads a flow no more.
    pub(crate) fn close(&mut self, flow: FlowId) {
        self.reading(flow).asks = None;
    }

    /// Reads nothing any more: the pulls that wait in the server lose their listener.
    pub(crate) fn close_all(&mut self) {
        self.turns.clear();
        self.openings.clear();
        self.to_open.clear();
        self.rings.clear();
    }

    /// A flow by its number.
    pub(crate) fn flow(&self, flow: FlowId) -> &Flow {
        &self.readings[flow.0 as usize].flow
    }

    /// The number of a flow that is asked about: one that stands for none where it was never read.
    pub(crate) fn number_of(&self, flow: &Flow) -> FlowId {
        self.numbers.get(flow).copied().unwrap_or(FlowId(u32::MAX))
    }

    /// The flows of these shards.
    pub(crate) fn of_shards<'a>(&'a self, shards: &'a [Shard]) -> impl Iterator<Item = (FlowId, Shard)> + 'a {
        self.numbers.iter().filter_map(|(flow, number)| match flow {
            Flow::Task(_, _, shard) | Flow::Due(_, _, shard) if shards.contains(shard) => Some((*number, *shard)),
            Flow::Task(..) | Flow::Due(..) | Flow::Raw(_) => None,
        })
    }

    pub(crate) fn reading(&mut self, flow: FlowId) -> &mut Reading {
        &mut self.readings[flow.0 as usize]
    }

    /// The name of the flow's consumer.
    pub(crate) fn consumer(&self, flow: &Flow) -> String {
        flow.consumer(self.epoch)
    }

    pub(crate) fn is_read(&mut self, flow: FlowId) -> bool {
        self.reading(flow).asks.is_some()
    }

    /// The raw flows that are read.
    pub(crate) fn raw(&self) -> Vec<(Flow, FlowId)> {
        let read = |flow: &Flow, number: FlowId| {
            matches!(flow, Flow::Raw(_)) && self.readings[number.0 as usize].asks.is_some()
        };
        self.numbers.iter().filter(|(flow, number)| read(flow, **number)).map(|(f, n)| (f.clone(), *n)).collect()
    }

    fn number(&mut self, flow: &Flow) -> FlowId {
        if let Some(number) = self.numbers.get(flow) {
            return *number;
        }
        let number = FlowId(u32::try_from(self.readings.len()).expect("a stream has fewer consumers"));
        self.readings.push(Reading { flow: flow.clone(), suspect_until: 0, asked: 0, asks: None });
        self.numbers.insert(flow.clone(), number);
        number
    }
}

/// Resolves once something is published to a flow. The message itself comes by the flow's consumer.
async fn first_publish(bus: Bus, flow: Flow) -> Flow {
    if let Ok(mut published) = bus.subscribe(&flow.subject()).await
        && published.next().await.is_some()
    {
        return flow;
    }
    // The connection is closed for good, which ends the leader by other ways.
    std::future::pending().await
}

/// Sends what is asked for and waits until something comes; then takes all that has come.
async fn read(mut turn: Turn, pause: Duration) -> Turn {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    loop {
        tokio::select! {
            biased;
            Some(ask) = turn.asks.recv() => if send(&mut turn.puller, ask).await == Sent::Closed {
                turn.pulled.push(Pulled::Closed);
                return turn;
            },
            pulled = turn.puller.next() => {
                turn.pulled.push(pulled);
                while turn.pulled.len() < MESSAGES_A_TURN && let Some(pulled) = turn.puller.try_next() {
                    turn.pulled.push(pulled);
                }
                return turn;
            }
        }
    }
}

/// What became of a pull's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Yes,
    /// The connection is closed for good.
    Closed,
}

pub(crate) async fn send(puller: &mut Puller, ask: Ask) -> Sent {
    let bytes = usize::try_from(ask.bytes).unwrap_or(usize::MAX);
    match puller.ask(ask.messages as usize, Some(bytes)).await {
        Ok(()) => Sent::Yes,
        Err(_closed) => Sent::Closed,
    }
}

/// How long a flow rests after the server refused a pull of it.
pub(crate) const REST: Duration = REFUSED_PAUSE;
