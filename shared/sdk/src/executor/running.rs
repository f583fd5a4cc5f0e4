//! The runs under way here, by task: who is to stop, and who is to yield.

use super::context::Ctx;
use jetlane_bus::Subscription;
use jetlane_schemas::frame::Yield;
use jetlane_schemas::{TaskEvent, TaskRef, subject};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// The runs under way here.
#[derive(Default)]
pub(crate) struct Running(Mutex<HashMap<TaskRef, Ctx>>);

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<TaskRef, Ctx>> {
        self.0.lock().expect("nobody panics while holding the list of runs")
    }

    pub(crate) fn begin(&self, ctx: &Ctx) {
        self.lock().insert(ctx.identity(), ctx.clone());
    }

    /// The run of this very delivery is over: a later one of the task may have begun here. What it was,
    /// if it was listed.
    pub(crate) fn end(&self, task: &Arc<TaskEvent>) -> Option<Ctx> {
        let (mut runs, task_ref) = (self.lock(), task.identity());
        if runs.get(&task_ref).is_some_and(|ctx| ctx.is_of(task)) { runs.remove(&task_ref) } else { None }
    }

    /// Stops tasks that were cancelled.
    pub(crate) async fn hear_cancels(self: Arc<Self>, mut cancels: Subscription) {
        while let Some(message) = cancels.next().await {
            let Some(task) = subject::parse_cancel(&message.subject) else { continue };
            if let Some(ctx) = self.lock().get(&task) {
                ctx.cancel();
            }
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
        if let Some(ctx) = self.lock().get(&TaskRef { task_type, id }) {
            ctx.ask_to_yield(run);
        }
    }
}
