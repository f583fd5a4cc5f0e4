//! `jetlane dev`: everything on this machine, until Ctrl-C.

use crate::args::Dev;
use crate::output::{Exit, Failure};
use crate::stack::{SERVICES, Stack, Wanted};
use jetlane::TaskType;
use jetlane_executor::Settings;
use jetlane_schemas::subject;
use jetlane_service::config::Sources;
use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

/// Starts the stack, tells how to use it, and keeps it until a signal.
pub(crate) async fn run(dev: &Dev) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let wanted = Wanted { port: dev.port, data: dev.data.clone(), name: "jetlane-dev", variables: pictures_root() };
    let mut stack = Stack::start(wanted).await?;
    announce(&stack, begun);
    let exit = tokio::select! {
        () = interrupted() => Exit::Ok,
        (part, how) = stack.broken() => {
            eprintln!("jetlane: {part} has ended: {how}");
            Exit::Error
        }
    };
    eprintln!("Stopping.");
    stack.stop().await;
    Ok(exit)
}

/// One line of JSON for programs; for people, the address and three lines to paste.
fn announce(stack: &Stack, begun: Instant) {
    let url = stack.server.url();
    let ready_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let version = stack.server.binary().version.to_string();
    if std::io::stdout().is_terminal() {
        println!("Jetlane is ready in {ready_ms} ms: nats-server {version}, {}.", SERVICES.join(", "));
    } else {
        let line = serde_json::json!({ "nats": url, "server": version, "services": SERVICES, "ready_ms": ready_ms });
        println!("{line}");
    }
    // A pipe would otherwise keep the line until it is full.
    let _closed = std::io::stdout().flush();
    let place = if url.ends_with(":4222") { String::new() } else { format!(" --server {url}") };
    eprintln!();
    eprintln!("  NATS     {url}");
    eprintln!("  data     {}", stack.server.data_dir().display());
    for (_, root) in pictures_root() {
        eprintln!("  pictures {root} (another: JETLANE_EXECUTOR_PICTURES_ROOT)");
    }
    eprintln!();
    eprintln!("Three lines to paste:");
    eprintln!("  jetlane{place} submit jetlane.echo '{{\"hello\":\"world\"}}' --wait");
    if let Ok(echo) = TaskType::new("jetlane.echo") {
        eprintln!("  nats{place} pub -J {} '{{\"hello\":\"world\"}}'", subject::submit(&echo));
    }
    eprintln!("  jetlane{place} watch");
    eprintln!();
    eprintln!("Ctrl-C ends everything. Not for production: one server, data in a temporary folder unless --data.");
}

/// Confines `image.thumbnail` to the working folder, unless the configuration names another root.
fn pictures_root() -> Vec<(&'static str, String)> {
    // A mistake in the configuration is reported by the executor itself.
    let Ok(sources) = Sources::from_process() else { return Vec::new() };
    let Ok((_, settings)) = sources.load_service::<Settings>("executor") else { return Vec::new() };
    match (settings.pictures_root, std::env::current_dir()) {
        (None, Ok(folder)) => vec![("JETLANE_EXECUTOR_PICTURES_ROOT", folder.display().to_string())],
        _ => Vec::new(),
    }
}

/// Resolves with Ctrl-C or SIGTERM.
pub(crate) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        let _interrupted = tokio::signal::ctrl_c().await;
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
