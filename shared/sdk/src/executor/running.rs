//! The runs under way here, by task: which of them are to stop, and which to yield.

use super::context::Ctx;
use super::parcel::Parcel;
use jetlane_bus::Subscription;
use jetlane_core::run::Hold;
use jetlane_schemas::frame::Yield;
use jetlane_schemas::inquiry::InquiredRun;
use jetlane_schemas::{TaskEvent, TaskRef};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};

/// The runs under way here.
#[derive(Default)]
pub(crate) struct Running(Mutex<HashMap<TaskRef, Runs>>);

/// The runs of one task: seldom more than one.
enum Runs {
    One(Ctx),
    Several(Vec<Ctx>),
}

impl Runs {
    fn all(&self) -> &[Ctx] {
        match self {
            Self::One(ctx) => std::slice::from_ref(ctx),
            Self::Several(all) => all,
        }
    }

    fn push(&mut self, ctx: Ctx) {
        match self {
            Self::One(first) => *self = Self::Several(vec![first.clone(), ctx]),
            Self::Several(all) => all.push(ctx),
        }
    }
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskRef, Runs>> {
        self.0.lock().expect("nobody panics while holding the list of runs")
    }

    /// A run begins.
    pub(crate) fn begin(&self, ctx: &Ctx) {
        let mut runs = self.lock();
        match runs.entry(ctx.identity()) {
            Entry::Occupied(mut of_task) => of_task.get_mut().push(ctx.clone()),
            Entry::Vacant(free) => {
                free.insert(Runs::One(ctx.clone()));
            }
        }
    }

    /// The run of this very delivery is over; returns it, if it was listed.
    pub(crate) fn end(&self, task: &Arc<TaskEvent>) -> Option<Ctx> {
        let (mut runs, identity) = (self.lock(), task.identity());
        let of_task = runs.get_mut(&identity)?;
        let place = of_task.all().iter().position(|ctx| ctx.is_of(task))?;
        match of_task {
            Runs::Several(all) if all.len() > 1 => Some(all.remove(place)),
            Runs::One(_) | Runs::Several(_) => match runs.remove(&identity)? {
                Runs::One(ctx) => Some(ctx),
                Runs::Several(mut all) => all.pop(),
            },
        }
    }

    /// Stops the runs of a task that was cancelled.
    pub(crate) fn cancel(&self, task: &TaskRef) {
        if let Some(of_task) = self.lock().get(task) {
            of_task.all().iter().for_each(Ctx::cancel);
        }
    }

    /// Asks tasks to yield at their next checkpoint, as the leader asks. One that has ended here, or that
    /// runs once more, is not meant.
    pub(crate) async fn hear_yields(self: Arc<Self>, mut yields: Subscription) {
        while let Some(message) = yields.next().await {
            match Yield::decode(&message.body) {
                Ok(wanted) => self.ask(wanted),
                Err(error) => tracing::debug!(%error, "A request to yield cannot be read."),
            }
        }
    }

    pub(crate) fn ask(&self, Yield { task_type, id, run }: Yield) {
        if let Some(of_task) = self.lock().get(&TaskRef { task_type, id }) {
            of_task.all().iter().for_each(|ctx| ctx.ask_to_yield(run));
        }
    }

    /// The newest run of a task here.
    pub(crate) fn newest(&self, task: &TaskRef) -> Option<Ctx> {
        self.lock().get(task)?.all().iter().max_by_key(|ctx| (ctx.run(), ctx.started_at())).cloned()
    }

    /// The messages whose lease has lapsed while tasks of them run here.
    pub(crate) fn lapsed(&self) -> Vec<(Arc<Parcel>, Vec<InquiredRun>)> {
        let mut lapsed = Vec::<(Arc<Parcel>, Vec<InquiredRun>)>::new();
        for ctx in self.lock().values().flat_map(Runs::all) {
            let parcel = ctx.parcel();
            if parcel.lease.state() != Hold::Lapsed {
                continue;
            }
            match lapsed.iter_mut().find(|(other, _)| Arc::ptr_eq(other, parcel)) {
                Some((_, runs)) => runs.push(ctx.inquired()),
                None => lapsed.push((Arc::clone(parcel), vec![ctx.inquired()])),
            }
        }
        lapsed
    }
}
