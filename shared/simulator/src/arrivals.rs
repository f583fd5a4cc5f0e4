//! What arrives: tasks in the order of their arrival, the same for every policy.

use crate::Error;
use jetlane_schemas::{Micros, Priority};

/// The most tasks of a simulation.
pub const TASKS_MAX: usize = 10_000_000;
/// Microseconds in a second.
pub(crate) const SECOND: f64 = 1e6;
/// The latest second of a trace: a thousand years, so that no sum of times overflows.
pub(crate) const SECONDS_MAX: f64 = 3e10;

/// A task, as the world knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// When it is submitted.
    pub arrival: Micros,
    /// How long it runs.
    pub size: Micros,
    /// How long the queue believes that it runs; absent: what it has learned of the type.
    pub estimate: Option<Micros>,
    /// How urgent it is.
    pub priority: Priority,
    /// Whose it is: a place in [`Arrivals::tenants`].
    pub tenant: u32,
    /// What it is: a place in [`Arrivals::types`].
    pub task_type: u32,
    /// Until when it should have ended.
    pub due: Option<Micros>,
}

/// All tasks of a simulation.
#[derive(Debug, Clone, PartialEq)]
pub struct Arrivals {
    tasks: Vec<Task>,
    tenants: Vec<String>,
    types: Vec<String>,
    noisy: Option<u32>,
    mean_size: f64,
}

impl Arrivals {
    /// Takes up tasks in any order; those that arrive at once keep theirs.
    ///
    /// # Errors
    /// None, or more than [`TASKS_MAX`].
    pub fn new(mut tasks: Vec<Task>, tenants: Vec<String>, types: Vec<String>) -> Result<Self, Error> {
        if tasks.is_empty() || tasks.len() > TASKS_MAX {
            return Err(Error::setting("tasks", format!("must be 1 to {TASKS_MAX}")));
        }
        tasks.sort_by_key(|task| task.arrival);
        let sum: f64 = tasks.iter().map(|task| task.size.0 as f64).sum();
        let mean_size = sum / tasks.len() as f64 / SECOND;
        Ok(Self { tasks, tenants, types, noisy: None, mean_size })
    }

    /// The same, where this tenant is the noisy one.
    #[must_use]
    pub fn with_noisy(self, tenant: u32) -> Self {
        Self { noisy: Some(tenant), ..self }
    }

    /// The tasks in the order of arrival.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The names of the tenants.
    pub fn tenants(&self) -> &[String] {
        &self.tenants
    }

    /// The names of the types.
    pub fn types(&self) -> &[String] {
        &self.types
    }

    /// The tenant that floods the others.
    pub fn noisy(&self) -> Option<u32> {
        self.noisy
    }

    /// The mean of all sizes, in seconds.
    pub fn mean_size(&self) -> f64 {
        self.mean_size
    }

    /// The work offered, as a part of what so many servers can do from the first arrival to the last.
    pub fn offered_load(&self, servers: u32) -> f64 {
        let (first, last) = (self.tasks[0].arrival.0, self.tasks[self.tasks.len() - 1].arrival.0);
        let span = (last - first).max(1) as f64 / SECOND;
        self.mean_size * self.tasks.len() as f64 / span / f64::from(servers)
    }

    /// The first task that counts: a tenth is left out until the queue has warmed up.
    pub(crate) fn warm_from(&self) -> usize {
        self.tasks.len() / 10
    }
}

/// Seconds as microseconds, at least one.
pub(crate) fn micros(seconds: f64) -> Micros {
    Micros((seconds * SECOND).round().max(1.0) as u64)
}
