//! What the simulator promises, one file a promise.

mod bars;
mod conduct;
mod forms;
mod picture;
mod small;
mod traces;

use jetlane_schemas::{Micros, Priority};
use jetlane_simulator::{Arrivals, Figures, Load, Policy, Settings, Task, Workload, simulate};

/// The policy of this word.
fn policy(word: &str) -> Policy {
    word.parse().expect("a policy")
}

/// A load of so many tasks.
fn load(workload: Workload, tasks: usize) -> Load {
    Load { workload, tasks, ..Load::default() }
}

/// Tasks of one tenant and one priority with exact estimates: arrival and size in seconds.
fn arrivals(tasks: &[(f64, f64)]) -> Arrivals {
    let micros = |seconds: f64| Micros((seconds * 1e6) as u64);
    let task = |&(arrival, size): &(f64, f64)| Task {
        arrival: micros(arrival),
        size: micros(size),
        estimate: Some(micros(size)),
        priority: Priority::Normal,
        tenant: 0,
        task_type: 0,
        due: None,
    };
    Arrivals::new(tasks.iter().map(task).collect(), vec!["t".into()], vec!["a.b".into()]).expect("some tasks")
}

/// What comes of them on so many servers.
fn run(arrivals: &Arrivals, of: &str, servers: u32) -> Figures {
    simulate(arrivals, policy(of), &Settings { servers, ..Settings::default() }).expect("it ends")
}
