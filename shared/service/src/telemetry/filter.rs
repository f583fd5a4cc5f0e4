//! What goes into the log, and what into a trace.

use super::{Error, SPAN_TARGET};
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterFn, LevelFilter};

/// Libraries that speak while spans are exported or messages travel: a span of theirs in a trace
/// would make the export feed itself. By the start of the crate's name.
const PLUMBING: [&str; 8] = ["h2", "hyper", "tonic", "tower", "reqwest", "opentelemetry", "async_nats", "rustls"];

/// The log: what was asked for, plumbing from warnings on unless asked for, and no span of the pipeline.
pub(super) fn log(wanted: &str) -> Result<EnvFilter, Error> {
    let quiet = PLUMBING.map(|library| format!("{library}=warn")).join(",");
    let all = format!("{quiet},{wanted},{SPAN_TARGET}=off");
    EnvFilter::builder().parse(all).map_err(|error| Error::Variable {
        variable: "JETLANE_LOG",
        value: wanted.into(),
        wanted: format!("a filter such as `info` or `info,jetlane=debug` ({error})"),
    })
}

/// Traces: the pipeline's spans, a user's own from `info` on, and of events only those that the
/// pipeline means for a trace. The layer turns a span red at any event of level `error`, whatever its
/// settings say; so log lines stay out, and find their trace by its id instead.
pub(super) fn traced() -> FilterFn {
    FilterFn::new(is_traced as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::INFO)
}

fn is_traced(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    if PLUMBING.iter().any(|library| target.starts_with(library)) {
        return false;
    }
    (metadata.is_span() || target == SPAN_TARGET) && *metadata.level() <= Level::INFO
}
