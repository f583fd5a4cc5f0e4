//! What was recorded: one row a task, names once, all of it within bounds.

use jetlane::Completion;
use jetlane_schemas::Micros;
use jetlane_simulator::{Arrivals, Task};
use std::collections::HashMap;

/// The most different tenants of a trace, so that memory has a bound; what is beyond it is shared.
const TENANTS_MAX: usize = 100_000;
/// The most different types of a trace; tasks of others are left out.
const TYPES_MAX: usize = 10_000;
/// What was recorded. A task takes 64 bytes or so, each name its length once.
#[derive(Debug)]
pub(super) struct Rows {
    anonymous: bool,
    pub(super) tasks: Vec<Task>,
    tenants: Names,
    types: Names,
    /// Tasks without a run, which have no size.
    pub(super) without_run: u64,
    /// Tasks whose type is one too many.
    pub(super) left_out: u64,
}

/// Names by number, in the order in which they came.
#[derive(Debug)]
struct Names {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
    most: usize,
}

impl Names {
    fn of_at_most(most: usize) -> Self {
        Self { names: Vec::new(), numbers: HashMap::new(), most }
    }

    /// The number of a name; `None` where it is one too many.
    fn number(&mut self, name: &str) -> Option<u32> {
        if let Some(number) = self.numbers.get(name) {
            return Some(*number);
        }
        if self.names.len() >= self.most {
            return None;
        }
        let number = u32::try_from(self.names.len()).ok()?;
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        Some(number)
    }
}

impl Rows {
    pub(super) fn new(anonymous: bool) -> Self {
        let mut tenants = Names::of_at_most(TENANTS_MAX);
        // The shared tenant is always there: what is beyond the bound falls to it.
        tenants.number("");
        let types = Names::of_at_most(TYPES_MAX);
        Self { anonymous, tasks: Vec::new(), tenants, types, without_run: 0, left_out: 0 }
    }

    pub(super) fn take(&mut self, completion: &Completion, ended: Micros) {
        if completion.run_ms <= 0.0 {
            self.without_run += 1;
            return;
        }
        let Some(task_type) = self.types.number(completion.task_type.as_str()) else {
            self.left_out += 1;
            return;
        };
        let micros = |ms: f64| (ms * 1_000.0).round() as u64;
        // Of a task that was delayed, this is when it was due.
        let arrival = ended.0.saturating_sub(micros(completion.wait_ms + completion.run_ms));
        self.tasks.push(Task {
            arrival: Micros(arrival),
            size: Micros(micros(completion.run_ms).max(1)),
            estimate: None,
            priority: completion.priority,
            tenant: self.tenants.number(completion.tenant.as_str()).unwrap_or(0),
            task_type,
            due: None,
        });
    }

    /// The trace: from the first arrival on.
    pub(super) fn arrivals(mut self) -> Result<Arrivals, jetlane_simulator::Error> {
        let first = self.tasks.iter().map(|task| task.arrival).min().unwrap_or_default();
        for task in &mut self.tasks {
            task.arrival = Micros(task.arrival.0 - first.0);
        }
        if self.anonymous {
            let mut place = 0;
            for name in self.tenants.names.iter_mut().filter(|name| !name.is_empty()) {
                place += 1;
                *name = format!("t{place}");
            }
        }
        Arrivals::new(self.tasks, self.tenants.names, self.types.names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane::{Outcome, Priority, QueueName, TaskId, TaskType};
    use jetlane_schemas::{TaskEvent, Tenant};
    use jetlane_simulator::trace::{self, Noise};

    const START: u64 = 1_700_000_000_000_000;

    fn completion(tenant: &str, submitted_us: u64, wait_ms: f64, run_ms: f64) -> Completion {
        let task_type = TaskType::new("a.b").expect("valid");
        let mut task = TaskEvent::new(
            TaskId::generate(),
            task_type,
            QueueName::default_queue(),
            Micros(START + submitted_us),
            Vec::new(),
        );
        task.tenant = Tenant::new(tenant).expect("valid");
        task.priority = Priority::High;
        Completion { wait_ms, run_ms, ..Completion::of(&task, Outcome::Succeeded, Micros::default()) }
    }

    fn ended(completion: &Completion) -> Micros {
        Micros(completion.submitted_at.0 + ((completion.wait_ms + completion.run_ms) * 1_000.0) as u64)
    }

    fn recorded(anonymous: bool) -> Arrivals {
        let mut rows = Rows::new(anonymous);
        // The second to arrive is the first to end; the last never ran.
        let long = completion("acme, \"inc\"", 0, 500.0, 4_000.0);
        let short = completion("", 1_250_000, 0.0, 20.5);
        for one in [&short, &long, &completion("acme, \"inc\"", 0, 10.0, 0.0)] {
            rows.take(one, ended(one));
        }
        // Due ten seconds after it was submitted: it arrives then.
        let delayed = completion("b", 0, 0.0, 1_000.0);
        rows.take(&delayed, Micros(START + 11_000_000));
        assert_eq!(rows.without_run, 1);
        rows.arrivals().expect("tasks")
    }

    #[test]
    fn a_trace_has_the_arrivals_in_their_order_and_is_read_back() {
        let arrivals = recorded(false);
        let mut csv = Vec::new();
        trace::write(&arrivals, &mut csv).expect("written");
        let text = String::from_utf8(csv.clone()).expect("text");
        assert!(text.starts_with("arrival_s,size_s,estimate_s,priority,tenant,deadline_s,type\n"), "{text}");
        let read = trace::read(&*csv, Noise::default()).expect("read back");
        let told: Vec<_> = read.tasks().iter().map(|task| (task.arrival.0, task.size.0)).collect();
        assert_eq!(told, [(0, 4_000_000), (1_250_000, 20_500), (10_000_000, 1_000_000)]);
        let tenant = |place: usize| read.tenants()[read.tasks()[place].tenant as usize].as_str();
        assert_eq!((tenant(0), tenant(1), tenant(2)), ("acme, \"inc\"", "", "b"));
        assert_eq!(read.tasks()[0].estimate, None, "a policy learns them of the type");
    }

    #[test]
    fn an_anonymous_trace_names_nobody() {
        let mut csv = Vec::new();
        trace::write(&recorded(true), &mut csv).expect("written");
        let text = String::from_utf8(csv).expect("text");
        assert!(!text.contains("acme") && text.contains(",t1,") && text.contains(",t2,"), "{text}");
    }

    #[test]
    fn tenants_beyond_the_bound_are_shared_and_types_left_out() {
        let mut names = Names::of_at_most(2);
        assert_eq!(["a", "b", "a", "c"].map(|name| names.number(name)), [Some(0), Some(1), Some(0), None]);
    }
}
