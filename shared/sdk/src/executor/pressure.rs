//! How short the machine is of memory and processor time: one small reading, which a test can feed.

pub(crate) mod files;

use std::sync::Arc;

/// How short things are where an executor runs. What is not known is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// The part of its memory that is in use, 0 to 1.
    pub memory_used: f64,
    /// The part of the last 10 seconds in which everything stood still for want of memory, 0 to 1.
    pub memory_stalled: f64,
    /// The part of the last 10 seconds in which something waited for a processor, 0 to 1.
    pub cpu_waited: f64,
}

/// Where pressure is read.
pub(crate) type Gauge = Arc<dyn Fn() -> Pressure + Send + Sync>;

/// Reads this machine: the cgroup's memory or `/proc/meminfo`, and pressure stall information where the
/// kernel keeps it.
pub(crate) fn machine() -> Gauge {
    Arc::new(files::read)
}
