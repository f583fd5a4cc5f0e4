//! Dispatches to lanes. What goes to the same lane in the same turn shares messages, as far as the core's
//! bounds allow. A message goes at the end of its turn, full or not, while fewer than two of its lane are
//! under way; behind those it takes in more until one of them is answered, as Nagle's algorithm has it
//! (RFC 896): an idle lane waits for nothing, and a busy one gets fewer and fuller messages.

use super::output::Carried;
use super::{Held, Leader};
use crate::carry::{self, Joins, Waits};
use crate::read::Fate;
use jetlane_bus::{Error, Outgoing, Published, clock};
use jetlane_core::bundle::{Filling, More};
use jetlane_core::duplicates::Departure;
use jetlane_core::{EntryId, Event, FitId, Stored, Waited};
use jetlane_mutants::mutant;
use jetlane_schemas::frame::frame_bytes;
use jetlane_schemas::subject::{Lane, LaneKind};
use jetlane_schemas::{Failure, Fit, Micros, Priority};
use tracing::Span;

/// Messages of a lane under way behind which one that is not full waits.
const UNDER_WAY_MAX: usize = 2;
/// Messages that are waited for together, at most.
const TOGETHER_MAX: usize = 64;
/// The rest after a lane was full.
const FULL_REST: Micros = Micros(100_000);
/// The rest after a fault.
const FAULT_REST: Micros = Micros(1_000_000);

/// Tasks that go to a lane in one message.
pub(crate) struct Parcel {
    kind: LaneKind,
    /// The lane of which it counts as under way.
    lane: Option<(Priority, Fit)>,
    entries: Vec<EntryId>,
    /// The spans of their dispatches, which end when the message is stored.
    spans: Vec<Span>,
}

impl Parcel {
    /// A message that begins with this task.
    fn begin(kind: LaneKind, first: EntryId, span: Option<Span>) -> Self {
        Self { kind, lane: None, entries: vec![first], spans: Vec::from_iter(span) }
    }
}

/// A bundle that is being filled.
struct Open {
    parcel: Parcel,
    fit: FitId,
    filling: Filling,
}

/// The bundles that are being filled, one a lane at most.
#[derive(Default)]
pub(super) struct Bundles(Vec<Open>);

impl Bundles {
    /// How many messages they will be.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// How many messages of each lane are under way.
#[derive(Default)]
pub(super) struct UnderWay(Vec<(Priority, Fit, usize)>);

impl UnderWay {
    fn of(&mut self, priority: Priority, fit: &Fit) -> &mut usize {
        let place = self.0.iter().position(|(p, f, _)| *p == priority && f == fit);
        let place = place.unwrap_or_else(|| {
            self.0.push((priority, fit.clone(), 0));
            self.0.len() - 1
        });
        &mut self.0[place].2
    }
}

impl Leader {
    /// A task goes to its lane: into the bundle that is being filled for it, or into a new one.
    pub(super) fn dispatch(&mut self, bundles: &mut Bundles, entry: EntryId, kind: LaneKind, waited: Waited) {
        let Some(span) = self.begin(entry, kind, waited) else { return };
        let Some(held) = self.held.get(&entry) else { return };
        let more = More { bytes: frame_bytes(&held.task), run_most: held.expected.most };
        let span = (!span.is_disabled()).then_some(span);
        if kind == LaneKind::Plain {
            self.note_called_back(entry);
            return self.send(Parcel::begin(kind, entry, span));
        }
        let is_its = |open: &Open| {
            let first = open.parcel.entries.first().and_then(|first| self.held.get(first));
            first.is_some_and(|first| first.task.priority == held.task.priority && first.task.fit == held.task.fit)
        };
        let place = bundles.0.iter().position(is_its);
        let fit = self.core.fit(&held.task.fit).unwrap_or_default();
        let most = self.world.config.bundle_max;
        if let Some(open) = place.and_then(|place| bundles.0.get_mut(place))
            && open.filling.take(self.core.bundle_bound(fit, most, open.filling.tasks() + 1), more)
        {
            open.parcel.entries.push(entry);
            open.parcel.spans.extend(span);
            return;
        }
        let open = Open { parcel: Parcel::begin(kind, entry, span), fit, filling: Filling::begin(more) };
        match place {
            // The full one goes before the next of its lane.
            Some(place) => {
                let full = std::mem::replace(&mut bundles.0[place], open);
                self.depart(full);
            }
            None => bundles.0.push(open),
        }
    }

    /// The end of a turn: sends what is full, and what need not wait.
    pub(super) fn send_due(&mut self, bundles: &mut Bundles) {
        for open in std::mem::take(&mut bundles.0) {
            let first = open.parcel.entries.first().and_then(|first| self.held.get(first));
            let under_way = first.map(|first| *self.under_way.of(first.task.priority, &first.task.fit));
            let bound = self.core.bundle_bound(open.fit, self.world.config.bundle_max, open.filling.tasks());
            if open.filling.is_full(bound) || under_way.is_none_or(|under_way| under_way < UNDER_WAY_MAX) {
                self.depart(open);
            } else {
                bundles.0.push(open);
            }
        }
    }

    /// Sends all that is being filled.
    pub(super) fn send_all(&mut self) {
        for open in std::mem::take(&mut self.bundles).0 {
            self.depart(open);
        }
    }

    fn depart(&mut self, open: Open) {
        let first = open.parcel.entries.first().and_then(|first| self.held.get(first));
        let lane = first.map(|first| (first.task.priority, first.task.fit.clone()));
        if let Some((priority, fit)) = &lane {
            *self.under_way.of(*priority, fit) += 1;
        }
        self.send(Parcel { lane, ..open.parcel });
    }

    /// The dispatch of a task begins: its span, and the run as one that is under way. Before it is
    /// stored: its end may be told before its storing is.
    fn begin(&mut self, entry: EntryId, kind: LaneKind, waited: Waited) -> Option<Span> {
        let held = self.held.get_mut(&entry)?;
        let waits = Waits {
            intake_us: held.read_at.0.saturating_sub(held.stored_at.0),
            delay_us: held.task.due_at.map_or(0, |due| due.0.saturating_sub(held.task.submitted_at.0)),
            waited,
        };
        let span = carry::dispatch_span(&mut held.task, kind, waits, held.joins);
        // The trace is joined once; a second try of the same run has it.
        held.joins = Joins::Child;
        self.run_begins(clock::now(), entry);
        Some(span)
    }

    /// A message goes to its lane, with the others of this turn.
    fn send(&mut self, parcel: Parcel) {
        match self.message_of(&parcel) {
            Some(Ok(out)) => {
                mutant!(AckBeforePublish => {
                    let early = parcel.entries.iter().filter_map(|entry| self.held.get(entry));
                    early.for_each(|held| self.acks.extend(self.sources.settle(held.source)));
                });
                self.on_the_way += 1;
                self.leaving.push((parcel, out));
            }
            Some(Err(error)) => {
                self.arrived(&parcel);
                self.refused(parcel, "frame", &format!("the task cannot be written: {error}"));
            }
            None => self.arrived(&parcel),
        }
    }

    /// Sends what a turn has for the lanes: together, since what is waited for together costs one wait.
    pub(super) fn send_leaving(&mut self) {
        while !self.leaving.is_empty() {
            let rest = self.leaving.split_off(self.leaving.len().min(TOGETHER_MAX));
            let (parcels, outs): (Vec<Parcel>, _) = std::mem::replace(&mut self.leaving, rest).into_iter().unzip();
            let bus = self.world.bus.clone();
            self.works.push(Box::pin(async move {
                let published = bus.publish_all(outs).await;
                Carried::ToLanes(parcels.into_iter().zip(published).collect())
            }));
        }
    }

    /// A message is not under way any more.
    fn arrived(&mut self, parcel: &Parcel) {
        if let Some((priority, fit)) = &parcel.lane {
            let under_way = self.under_way.of(*priority, fit);
            *under_way = under_way.saturating_sub(1);
        }
    }

    fn message_of(&self, parcel: &Parcel) -> Option<Result<Outgoing, jetlane_schemas::frame::FrameError>> {
        let held: Vec<&Held> = parcel.entries.iter().filter_map(|entry| self.held.get(entry)).collect();
        let first = &held.first()?.task;
        let (priority, fit) = (first.priority, first.fit.clone());
        let lane = Lane { kind: parcel.kind, queue: self.queue.clone(), priority, fit };
        Some(carry::to_lane(held.iter().map(|held| &*held.task), &lane))
    }

    /// It can never be stored: each task goes alone, and one that is alone ends instead of standing in the
    /// way for ever.
    fn refused(&mut self, parcel: Parcel, code: &str, reason: &str) {
        if parcel.entries.len() > 1 {
            for entry in parcel.entries {
                self.send(Parcel { kind: parcel.kind, lane: None, entries: vec![entry], spans: Vec::new() });
            }
            return;
        }
        for entry in parcel.entries {
            let Some(held) = self.held.get_mut(&entry) else { continue };
            held.fate = Fate::Reject(Failure::new(code, reason));
            self.run_is_void(entry);
            self.core.on(clock::now(), Event::NotRun(entry));
            self.end(entry);
        }
    }

    /// What became of a message.
    pub(super) fn sent_to_lane(&mut self, parcel: Parcel, published: Result<Published, Error>) {
        self.on_the_way -= 1;
        self.arrived(&parcel);
        match published {
            Ok(Published::Stored(sequence)) => {
                crash_between_publish_and_ack();
                for entry in parcel.entries {
                    if parcel.kind == LaneKind::Plain {
                        self.sent_plain(sequence, entry);
                    }
                    self.gone(entry, Stored::New, Departure::MayEnd);
                }
                self.take_early(sequence);
            }
            Ok(Published::Duplicate(_)) => {
                parcel.entries.into_iter().for_each(|entry| self.gone(entry, Stored::Before, Departure::MayEnd))
            }
            Ok(Published::Full) => self.not_in_lane(&parcel, FULL_REST, "the lanes are full"),
            Ok(Published::Taken | Published::NoStream) => {
                self.not_in_lane(&parcel, FAULT_REST, "no stream takes the lane");
            }
            Err(Error::Refused { subject, source }) => {
                self.refused(parcel, "refused", &format!("the broker refused it for {subject}: {source}"));
            }
            Err(error) => {
                // Unknown. A task that was alone goes out again as the same bytes under the same id; others may
                // go in other company, under another id: whoever runs them looks first.
                if parcel.entries.len() > 1 {
                    for entry in &parcel.entries {
                        if let Some(held) = self.held.get_mut(entry) {
                            held.task.suspect = true;
                        }
                    }
                }
                self.not_in_lane(&parcel, FAULT_REST, &error.to_string());
            }
        }
        if self.on_the_way == 0 {
            self.clients.answers.all_known();
        }
    }

    fn not_in_lane(&mut self, parcel: &Parcel, rest: Micros, reason: &str) {
        for entry in &parcel.entries {
            self.run_is_void(*entry);
            self.back(*entry, rest, reason);
        }
    }
}

/// Ends the process where a test says so.
fn crash_between_publish_and_ack() {
    fail::fail_point!("dispatcher::between-publish-and-ack", |_| std::process::abort());
}
