//! Traces: arrivals as CSV with a header, for replay under another policy.
//!
//! `arrival_s,size_s` and optionally `estimate_s,priority,tenant,deadline_s,type`, in any order. An empty
//! field is an absent one. `deadline_s` is a time, as `arrival_s` is.

use crate::Error;
use crate::arrivals::{Arrivals, SECOND, SECONDS_MAX, TASKS_MAX, Task, micros};
use csv::StringRecord;
use jetlane_schemas::{Micros, Priority, TaskType, Tenant};
use rand_distr::{Distribution, StandardNormal};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::SeedableRng;
use std::collections::BTreeMap;
use std::io::{Read, Write};

/// The columns that a trace can have, in the order in which they are written.
pub const COLUMNS: [&str; 7] = ["arrival_s", "size_s", "estimate_s", "priority", "tenant", "deadline_s", "type"];

/// How the tasks are estimated that have no estimate and no type of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Noise {
    /// Estimates are size x e^(sigma x N), N standard normal.
    pub sigma: f64,
    /// What the chance follows from.
    pub seed: u64,
}

/// Reads a trace. A row's estimate is its own; else what is learned online of its type; else its size with noise.
///
/// # Errors
/// [`Error::Trace`] names line and column.
pub fn read(from: impl Read, noise: Noise) -> Result<Arrivals, Error> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(from);
    let header = reader.headers().map_err(|error| unreadable(&error))?.clone();
    let columns = Columns::of(&header)?;
    let chance = Pcg64::seed_from_u64(noise.seed);
    let mut rows = Rows { noise, chance, tenants: Names::default(), types: Names::default() };
    let mut record = StringRecord::new();
    let mut tasks = Vec::new();
    while reader.read_record(&mut record).map_err(|error| unreadable(&error))? {
        let row = Row { columns: &columns, record: &record };
        if tasks.len() == TASKS_MAX {
            return Err(row.refused(Column::Arrival, &format!("a trace has at most {TASKS_MAX} tasks")));
        }
        tasks.push(rows.task(&row)?);
    }
    if tasks.is_empty() {
        return Err(Error::Trace { line: 2, column: COLUMNS[0].into(), reason: "there is no task".into() });
    }
    Arrivals::new(tasks, rows.tenants.names, rows.types.names)
}

/// Writes arrivals as a trace that [`read`] reads: every column, and empty fields where there is nothing.
///
/// # Errors
/// The writer's.
pub fn write(arrivals: &Arrivals, to: impl Write) -> Result<(), Error> {
    let mut writer = csv::Writer::from_writer(to);
    writer.write_record(COLUMNS).map_err(Error::Write)?;
    let seconds = |at: Micros| format!("{}.{:06}", at.0 / 1_000_000, at.0 % 1_000_000);
    for task in arrivals.tasks() {
        let fields = [
            &seconds(task.arrival),
            &seconds(task.size),
            &task.estimate.map(seconds).unwrap_or_default(),
            task.priority.as_str(),
            &arrivals.tenants()[task.tenant as usize],
            &task.due.map(seconds).unwrap_or_default(),
            &arrivals.types()[task.task_type as usize],
        ];
        writer.write_record(fields).map_err(Error::Write)?;
    }
    writer.flush().map_err(|error| Error::Write(error.into()))
}

/// A column, numbered as in [`COLUMNS`].
#[derive(Debug, Clone, Copy)]
enum Column {
    Arrival,
    Size,
    Estimate,
    Priority,
    Tenant,
    Deadline,
    Type,
}

/// Where each column stands in this trace.
struct Columns([Option<usize>; COLUMNS.len()]);

impl Columns {
    fn of(header: &StringRecord) -> Result<Self, Error> {
        let refused =
            |column: &str, reason: String| Err(Error::Trace { line: 1, column: format!("\"{column}\""), reason });
        let mut places = [None; COLUMNS.len()];
        for (place, name) in header.iter().enumerate() {
            let Some(known) = COLUMNS.iter().position(|known| *known == name) else {
                return refused(name, format!("is none of {}", COLUMNS.join(", ")));
            };
            if places[known].replace(place).is_some() {
                return refused(name, "is there twice".into());
            }
        }
        for wanted in [Column::Arrival, Column::Size] {
            if places[wanted as usize].is_none() {
                return refused(COLUMNS[wanted as usize], "is missing".into());
            }
        }
        Ok(Self(places))
    }
}

struct Row<'a> {
    columns: &'a Columns,
    record: &'a StringRecord,
}

impl Row<'_> {
    /// A field that is not empty.
    fn field(&self, column: Column) -> Option<&str> {
        self.record.get(self.columns.0[column as usize]?).filter(|text| !text.is_empty())
    }

    fn seconds(&self, column: Column) -> Result<Option<f64>, Error> {
        let Some(text) = self.field(column) else { return Ok(None) };
        match text.parse::<f64>() {
            Ok(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok(Some(seconds)),
            _ => Err(self.refused(column, &format!("\"{text}\" must be a number of seconds, 0 or more"))),
        }
    }

    fn wanted(&self, column: Column) -> Result<f64, Error> {
        self.seconds(column)?.ok_or_else(|| self.refused(column, "is empty, wanted a number of seconds"))
    }

    fn refused(&self, column: Column, reason: &str) -> Error {
        let line = self.record.position().map_or(0, csv::Position::line);
        Error::Trace { line, column: COLUMNS[column as usize].into(), reason: reason.into() }
    }
}

/// What is carried from row to row.
struct Rows {
    noise: Noise,
    chance: Pcg64,
    tenants: Names,
    types: Names,
}

impl Rows {
    fn task(&mut self, row: &Row<'_>) -> Result<Task, Error> {
        let size = micros(row.wanted(Column::Size)?);
        let arrival = Micros((row.wanted(Column::Arrival)? * SECOND).round() as u64);
        let priority = match row.field(Column::Priority) {
            Some(text) => text.parse().map_err(|error| row.refused(Column::Priority, &format!("{error}")))?,
            None => Priority::default(),
        };
        let tenant = row.field(Column::Tenant).unwrap_or_default();
        Tenant::new(tenant).map_err(|error| row.refused(Column::Tenant, &error.to_string()))?;
        let task_type = row.field(Column::Type).map(TaskType::new).transpose();
        let task_type = task_type.map_err(|error| row.refused(Column::Type, &error.to_string()))?;
        // Drawn for each row, so that an estimate here does not change the noise there.
        let noise: f64 = StandardNormal.sample(&mut self.chance);
        let by_size = || micros(size.0 as f64 / SECOND * (self.noise.sigma * noise).exp());
        let estimate = match (row.seconds(Column::Estimate)?, &task_type) {
            (Some(seconds), _) => Some(micros(seconds)),
            (None, Some(_)) => None,
            (None, None) => Some(by_size()),
        };
        Ok(Task {
            arrival,
            size,
            estimate,
            priority,
            tenant: self.tenants.number(tenant),
            task_type: self.types.number(task_type.as_ref().map_or(UNTYPED, TaskType::as_str)),
            due: row.seconds(Column::Deadline)?.map(|at| Micros((at * SECOND).round() as u64)),
        })
    }
}

/// The type of rows that have none.
const UNTYPED: &str = "untyped";

/// Names by number, in the order in which they come.
#[derive(Debug, Default)]
struct Names {
    names: Vec<String>,
    numbers: BTreeMap<String, u32>,
}

impl Names {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }
}

/// What the reader itself finds: no UTF-8, or a row of another length.
fn unreadable(error: &csv::Error) -> Error {
    let line = error.position().map_or(1, csv::Position::line);
    let (column, reason) = match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            ((len.min(expected_len) + 1).to_string(), format!("the row has {len} fields, wanted {expected_len}"))
        }
        csv::ErrorKind::Utf8 { err, .. } => ((err.field() + 1).to_string(), "is no UTF-8".into()),
        _ => ("1".into(), format!("cannot be read: {error}")),
    };
    Error::Trace { line, column, reason }
}
