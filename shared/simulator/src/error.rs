//! What can go wrong, one variant an operation.

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number that makes no sense.
    #[error("{option} {reason}")]
    Setting {
        /// Which.
        option: &'static str,
        /// What it must be.
        reason: String,
    },
    /// A trace cannot be read.
    #[error("line {line} of the trace, column {column}: {reason}")]
    Trace {
        /// Counted from 1, the header included.
        line: u64,
        /// The column's name in the header.
        column: String,
        /// What is wrong, and what was wanted.
        reason: String,
    },
    /// A trace cannot be written.
    #[error("the trace cannot be written")]
    Write(#[source] csv::Error),
    /// The plot cannot be drawn.
    #[error("the plot cannot be drawn: {0}")]
    Plot(String),
    /// The queue let tasks wait for ever.
    #[error("{policy} has come to a stand with {waiting} tasks that never ended")]
    Stalled {
        /// The policy.
        policy: String,
        /// Tasks.
        waiting: usize,
    },
}

impl Error {
    pub(crate) fn setting(option: &'static str, reason: impl Into<String>) -> Self {
        Self::Setting { option, reason: reason.into() }
    }
}
