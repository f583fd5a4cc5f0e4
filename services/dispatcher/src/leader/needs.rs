//! What tasks need: the lanes of a queue's fits, and what waits because nobody fits.

use super::{Held, Leader};
use crate::read::{Fate, NO_FIT_PAUSE};
use jetlane_bus::clock;
use jetlane_core::credit::EXECUTOR_SILENCE_MAX;
use jetlane_core::{Event, FitId};
use jetlane_schemas::frame::Credit;
use jetlane_schemas::subject::LaneKind;
use jetlane_schemas::{Fit, FitEntry, Micros, Priority, QueueEntry, TaskType};
use std::collections::BTreeMap;

/// How often it is looked for what nobody fits.
const LOOK_EVERY: Micros = Micros(5_000_000);
/// How often the same is said again.
const SAY_EVERY: Micros = Micros(60_000_000);
/// The target of events that are read as metrics.
const METRIC: &str = "jetlane::metric";

/// The fits of a queue, as far as they are more than names to the core.
#[derive(Debug)]
pub(crate) struct Fits {
    /// Those that are declared, `any` among them.
    pub(crate) declared: Vec<FitEntry>,
    /// When an executor that satisfies it last told so.
    heard: BTreeMap<Fit, Micros>,
    said: BTreeMap<Fit, Micros>,
    look_at: Micros,
    /// Tasks that no declared fit with a number covers, since that was last said.
    uncovered: u64,
    uncovered_said: Micros,
    /// Tasks of types that nobody has announced, since it was said last, and one of the types.
    unknown: u64,
    unknown_type: Option<TaskType>,
    unknown_said: Micros,
}

impl Fits {
    pub(crate) fn new(entry: &QueueEntry) -> Self {
        Self {
            declared: entry.all_fits(),
            heard: BTreeMap::new(),
            said: BTreeMap::new(),
            // Executors tell of themselves once a second: until then nobody is missed.
            look_at: Micros(clock::now().0 + LOOK_EVERY.0),
            uncovered: 0,
            uncovered_said: Micros(0),
            unknown: 0,
            unknown_type: None,
            unknown_said: Micros(0),
        }
    }

    /// Whether an executor that announces credit satisfies the fit.
    pub(crate) fn is_live(&self, now: Micros, fit: &Fit) -> bool {
        self.heard.get(fit).is_some_and(|at| now.0.saturating_sub(at.0) <= EXECUTOR_SILENCE_MAX.0)
    }

    /// Tasks that no declared fit covers, if it is time to speak of them again.
    fn say_uncovered(&mut self, now: Micros) -> Option<u64> {
        if self.uncovered == 0 || now.0.saturating_sub(self.uncovered_said.0) < SAY_EVERY.0 {
            return None;
        }
        self.uncovered_said = now;
        Some(std::mem::take(&mut self.uncovered))
    }

    /// Tasks of types that nobody has announced and one such type, if it is time to speak of them again.
    fn say_unknown(&mut self, now: Micros) -> Option<(u64, TaskType)> {
        if now.0.saturating_sub(self.unknown_said.0) < SAY_EVERY.0 {
            return None;
        }
        let task_type = self.unknown_type.take()?;
        self.unknown_said = now;
        Some((std::mem::take(&mut self.unknown), task_type))
    }

    /// Of what waits because nobody fits, that of which it is time to speak again.
    fn say(&mut self, now: Micros, mut unfit: BTreeMap<Fit, u64>) -> BTreeMap<Fit, u64> {
        // Once somebody has come, it is said at once if nobody is there the next time.
        self.said.retain(|fit, _| unfit.contains_key(fit));
        unfit.retain(|fit, _| self.said.get(fit).is_none_or(|at| now.0.saturating_sub(at.0) >= SAY_EVERY.0));
        self.said.extend(unfit.keys().map(|fit| (fit.clone(), now)));
        unfit
    }
}

impl Leader {
    /// Takes up the fits that the queue declares. Lanes of others stay for what waits in them.
    pub(super) fn take_fits(&mut self, entry: &QueueEntry) {
        self.fits.declared = entry.all_fits();
        for fit in entry.all_fits() {
            // Declared ones get their numbers before any that somebody merely names.
            if self.core.fit(&fit.name).is_none() {
                tracing::warn!(queue = %self.queue, fit = %fit.name, "A fit was declared that the queue has no room for until its leader changes.");
            }
            self.ensure_lanes(&fit.name);
        }
    }

    /// The number of a task's fit, whose lanes are there from now on.
    pub(super) fn fit_of(&mut self, held: &mut Held) -> FitId {
        match &held.fate {
            Fate::NoFit(_) => self.fits.uncovered += 1,
            Fate::Unknown(_) => {
                self.fits.unknown += 1;
                self.fits.unknown_type = Some(held.task.task_type.clone());
            }
            _ => {}
        }
        if held.fate != Fate::Run {
            // It goes to no lane: a name that nobody declared takes no number from one that is.
            return FitId::default();
        }
        let Some(fit) = self.core.fit(&held.task.fit) else {
            // The next leader numbers them anew.
            held.fate = Fate::NoFit(Micros(held.read_at.0.saturating_add(NO_FIT_PAUSE.0)));
            self.fits.uncovered += 1;
            return FitId::default();
        };
        self.ensure_lanes(&held.task.fit);
        fit
    }

    /// Makes the lanes of a fit when it is first met.
    pub(super) fn ensure_lanes(&mut self, fit: &Fit) {
        if self.upkeep.fits.contains(fit) {
            return;
        }
        self.upkeep.fits.insert(fit.clone());
        self.fits.heard.entry(fit.clone()).or_default();
        for lane in super::upkeep::lanes_of(&self.queue, fit) {
            if lane.kind == LaneKind::Plain {
                self.clients.listen(&self.world.bus, &lane);
            }
            self.write("make a lane", |bus| async move { bus.ensure_lane(&lane).await });
        }
    }

    /// An executor told which fits it satisfies.
    pub(super) fn hear_fits(&mut self, now: Micros, credit: &Credit) {
        for name in &credit.fits {
            // A handful: compared one by one, nothing is made of the name.
            if let Some((_, at)) = self.fits.heard.iter_mut().find(|(fit, _)| fit.as_str() == name) {
                *at = now;
            }
        }
    }

    /// Whether anybody takes tasks of this priority and fit now.
    pub(super) fn is_served(&self, now: Micros, priority: Priority, fit: &Fit) -> bool {
        self.fits.is_live(now, fit) || self.clients.serves(now, priority, fit)
    }

    /// Says what waits because nobody fits.
    pub(super) fn look_for_unfit(&mut self) {
        let now = clock::now();
        if now < self.fits.look_at {
            return;
        }
        self.fits.look_at = Micros(now.0 + LOOK_EVERY.0);
        if let Some(tasks) = self.fits.say_uncovered(now) {
            tracing::warn!(target: METRIC, queue = %self.queue, jetlane.queue.uncovered = tasks, "Tasks need what no declared fit covers; they are looked at again within 10 min.");
        }
        if let Some((tasks, task_type)) = self.fits.say_unknown(now) {
            tracing::warn!(target: METRIC, queue = %self.queue, %task_type, jetlane.queue.unknown = tasks, "Tasks are of types that nobody has announced, such as this one; they are looked at again within 10 min.");
        }
        // While everything that waits can go, nobody is missed.
        if !self.core.is_starved() {
            return;
        }
        let mut waiting: BTreeMap<(Priority, &Fit), u64> = BTreeMap::new();
        for held in self.held.values().filter(|held| held.fate == Fate::Run) {
            *waiting.entry((held.task.priority, &held.task.fit)).or_default() += 1;
        }
        let mut unfit: BTreeMap<Fit, u64> = BTreeMap::new();
        for ((priority, fit), tasks) in waiting {
            if !self.is_served(now, priority, fit) {
                *unfit.entry(fit.clone()).or_default() += tasks;
            }
        }
        for (fit, tasks) in self.fits.say(now, unfit) {
            tracing::warn!(target: METRIC, queue = %self.queue, %fit, jetlane.queue.unfit = tasks, "Tasks wait for an executor that satisfies their fit.");
        }
    }

    /// The core counts what lies in the bundle lanes of each fit by itself.
    pub(super) fn take_bundles(&mut self, counted: BTreeMap<Fit, u64>) {
        for (fit, tasks) in counted {
            if let Some(fit) = self.core.fit(&fit) {
                self.core.on(clock::now(), Event::BundlesCounted { fit, tasks });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_fits_is_said_once_a_minute_and_anew_after_somebody_came() {
        let mut fits = Fits::new(&QueueEntry::default());
        let gpu = || BTreeMap::from([(Fit::new("gpu").expect("valid"), 7)]);
        let at = |s: u64| Micros(s * 1_000_000);
        assert_eq!(fits.say(at(100), gpu()), gpu());
        assert!(fits.say(at(159), gpu()).is_empty());
        assert_eq!(fits.say(at(160), gpu()), gpu());
        assert!(fits.say(at(165), BTreeMap::new()).is_empty());
        assert_eq!(fits.say(at(170), gpu()), gpu());
    }

    #[test]
    fn what_no_fit_covers_is_counted_until_it_is_said() {
        let mut fits = Fits::new(&QueueEntry::default());
        fits.uncovered = 3;
        assert_eq!(fits.say_uncovered(Micros(100_000_000)), Some(3));
        fits.uncovered = 2;
        assert_eq!(fits.say_uncovered(Micros(159_000_000)), None);
        assert_eq!(fits.say_uncovered(Micros(160_000_000)), Some(2));
        assert_eq!(fits.say_uncovered(Micros(900_000_000)), None);
    }

    #[test]
    fn an_executor_that_is_silent_serves_no_fit() {
        let mut fits = Fits::new(&QueueEntry::default());
        let any = Fit::default();
        assert!(!fits.is_live(Micros(9_000_000), &any));
        fits.heard.insert(any.clone(), Micros(9_000_000));
        assert!(fits.is_live(Micros(9_000_000 + EXECUTOR_SILENCE_MAX.0), &any));
        assert!(!fits.is_live(Micros(9_000_001 + EXECUTOR_SILENCE_MAX.0), &any));
    }
}
