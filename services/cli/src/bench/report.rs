//! What a bench tells: a table or JSON on stdout, and files where they are asked for.

use super::plot::{self, Picture};
use crate::args::{Format, Told};
use crate::output::{Exit, Failure, Output};
use serde::Serialize;
use std::path::Path;

/// What a bench has found. Its JSON is a contract.
pub(super) trait Report: Serialize {
    /// The word of the bench.
    const NAME: &'static str;
    /// For people.
    fn table(&self) -> String;
    /// For eyes.
    fn picture(&self) -> Picture;
    /// Failed where a task was lost or doubled, never on a time.
    fn exit(&self) -> Exit;
}

/// Prints the report, writes and draws what is asked for.
pub(super) fn tell<R: Report>(report: &R, told: &Told, output: &Output) -> Result<Exit, Failure> {
    let format = if told.json { Format::Json } else { Format::Table };
    if output.is_json() {
        output.json(report);
    } else {
        Output::new(format).data(report, || report.table());
    }
    if let Some(path) = &told.plot {
        write(path, &plot::svg(&report.picture())?, output)?;
    }
    if let Some(folder) = &told.out {
        std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
        let json = serde_json::to_string_pretty(report).map_err(|error| Failure::of(Exit::Error, &error))?;
        write(&folder.join(format!("{}.json", R::NAME)), &json, output)?;
        write(&folder.join(format!("{}.svg", R::NAME)), &plot::svg(&report.picture())?, output)?;
    }
    Ok(report.exit())
}

fn write(path: &Path, text: &str, output: &Output) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| unwritable(path, &error))?;
    output.say(format_args!("written: {}", path.display()));
    Ok(())
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Error, format!("{} cannot be written: {error}", path.display()))
}
