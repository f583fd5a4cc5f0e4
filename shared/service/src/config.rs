//! Configuration: read once, from variables and a file, into a checked type.
//!
//! For a section such as `dispatcher`: the variable `JETLANE_DISPATCHER_<FIELD>` (a nested field after
//! `__`, lists and tables in TOML), then `[dispatcher]` of the file that `JETLANE_CONFIG` names
//! (otherwise `jetlane.toml`, where there is one), then the type's own defaults.
//!
//! Deliberately absent: flags. A command line puts them over the values it gets from here.

mod nats;
mod variables;

pub use nats::Nats;

use ::config::{Config, ConfigError, File, FileFormat, Map, Value, ValueKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use variables::{Given, given};

/// The variables of an environment.
pub type Variables = BTreeMap<String, String>;

/// The file that is read where `JETLANE_CONFIG` names none.
pub const FILE: &str = "jetlane.toml";
/// The sections that programs of this project read. A service of another name may have one of that name.
pub const SECTIONS: [&str; 4] = ["nats", "dispatcher", "executor", "callback"];

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file that `JETLANE_CONFIG` names cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is no TOML.
    #[error("{} is no TOML", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what was expected.
        #[source]
        source: ConfigError,
    },
    /// A value, or the name of a field, is wrong.
    #[error("{place} is wrong")]
    Wrong {
        /// The variable, or the field of the file.
        place: String,
        /// What is wrong with it.
        #[source]
        source: ConfigError,
    },
    /// The file has a section that no program reads: a misspelt one would be passed over.
    #[error("[{section}] of {} is no section: {} are read", path.display(), known.join(", "))]
    UnknownSection {
        /// The file.
        path: PathBuf,
        /// The section.
        section: String,
        /// Those that are read.
        known: Vec<String>,
    },
    /// A value that has no default is given nowhere.
    #[error("nothing says `{field}`: set {variable}, or `{field}` in [{section}] of {file}")]
    Missing {
        /// The field.
        field: String,
        /// The variable that would say it.
        variable: String,
        /// The section that would say it.
        section: String,
        /// The file that would say it.
        file: String,
    },
}

/// What configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    variables: Variables,
    file: Option<(PathBuf, String)>,
}

impl Sources {
    /// Variables, and a file's path and text.
    pub fn new(variables: Variables, file: Option<(PathBuf, String)>) -> Self {
        Self { variables, file }
    }

    /// The environment of this process and its file. Variables that are not UTF-8 are left out.
    pub fn from_process() -> Result<Self, Error> {
        let text =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let variables: Variables = text.collect();
        let named = variables.get("JETLANE_CONFIG").filter(|path| !path.is_empty());
        let path = PathBuf::from(named.map_or(FILE, String::as_str));
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => Some((path, text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => None,
            Err(source) => return Err(Error::Read { path, source }),
        };
        Ok(Self::new(variables, file))
    }

    /// The variables.
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// The same with a variable set, which goes before the environment's and the file: a flag of a command line.
    pub fn with(mut self, variable: impl Into<String>, value: impl Into<String>) -> Self {
        self.variables.insert(variable.into(), value.into());
        self
    }

    /// Checks that every section of the file is one that is read; `own` is read by this process besides.
    ///
    /// # Errors
    /// [`Error::UnknownSection`] names the first that is not; [`Error::Parse`].
    pub fn check_sections(&self, own: Option<&str>) -> Result<(), Error> {
        let Some((path, _)) = &self.file else { return Ok(()) };
        let known: Vec<String> =
            own.into_iter().filter(|own| !SECTIONS.contains(own)).chain(SECTIONS).map(Into::into).collect();
        let mut found: Vec<String> = self.read_file()?.into_keys().filter(|section| !known.contains(section)).collect();
        found.sort();
        match found.into_iter().next() {
            None => Ok(()),
            Some(section) => Err(Error::UnknownSection { path: path.clone(), section, known }),
        }
    }

    /// Returns the variables that look like settings and that no program reads, such as a misspelt
    /// `JETLANE_EXECUTER_SLOTS`; `own` is read by this process besides.
    pub fn unread_variables(&self, own: Option<&str>) -> Vec<&str> {
        let sections: Vec<&str> = own.into_iter().chain(SECTIONS).collect();
        variables::unread(&self.variables, &sections)
    }

    /// Reads a section. A field that the type does not know is an error if the type says
    /// `#[serde(deny_unknown_fields)]`, which it should.
    pub fn load<T: DeserializeOwned>(&self, section: &str) -> Result<T, Error> {
        self.section(section)?.read()
    }

    /// Reads the section of a service: its own settings, and those that every process has.
    pub fn load_service<T: DeserializeOwned>(&self, service: &str) -> Result<(Process, T), Error> {
        let mut own = self.section(service)?;
        let taken = Process::FIELDS.iter().filter_map(|field| own.table.remove_entry(*field)).collect();
        let process = Section { table: taken, ..own.clone() }.read()?;
        Ok((process, own.read()?))
    }

    /// Every section of the file by name; none where there is no file.
    fn read_file(&self) -> Result<Map<String, Value>, Error> {
        let Some((path, text)) = &self.file else { return Ok(Map::new()) };
        let built = Config::builder().add_source(File::from_str(text, FileFormat::Toml)).build();
        let parse = |source| Error::Parse { path: path.clone(), source };
        built.and_then(Config::try_deserialize::<Map<String, Value>>).map_err(parse)
    }

    fn section(&self, section: &str) -> Result<Section, Error> {
        let file = self.file.as_ref().map_or(FILE.into(), |(path, _)| path.display().to_string());
        let mut all = self.read_file()?;
        let wrong = |place, source| Error::Wrong { place, source };
        let table = match all.remove(section) {
            None => Map::new(),
            Some(value) => value.into_table().map_err(|error| wrong(format!("[{section}] of {file}"), error))?,
        };
        let mut found = Section { name: section.into(), file, table, given: given(section, &self.variables) };
        for given in found.given.clone() {
            let value = given.value().map_err(|error| wrong(given.name.clone(), error))?;
            put(&mut found.table, &given.path, value);
        }
        Ok(found)
    }
}

/// With the last flush of telemetry (5 s) it ends within the 30 s that Kubernetes gives a pod.
const DRAIN_TIME_DEFAULT: Duration = Duration::from_secs(24);

/// What every process can be told in its own section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Process {
    /// Where `/livez` and `/readyz` answer, on all interfaces. Defaults to nowhere; 0 chooses a free port.
    pub health_port: Option<u16>,
    /// How long work in hand may take to finish after a signal to end, such as `45s`. Defaults to 24 s.
    #[serde(with = "duration")]
    pub drain_time: Duration,
}

impl Process {
    const FIELDS: [&'static str; 2] = ["health_port", "drain_time"];
}

impl Default for Process {
    fn default() -> Self {
        Self { health_port: None, drain_time: DRAIN_TIME_DEFAULT }
    }
}

/// For `#[serde(with)]` on a [`Duration`] that people write: `250ms`, `1h 30m`.
pub mod duration {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    /// Writes it as people do.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    /// Reads what people write.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|error| D::Error::custom(format!("{text:?} is no duration such as `30s`: {error}")))
    }
}

/// A section with the variables laid over it.
#[derive(Debug, Clone)]
struct Section {
    name: String,
    file: String,
    table: Map<String, Value>,
    given: Vec<Given>,
}

impl Section {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let value = Value::new(None, ValueKind::Table(self.table.clone()));
        T::deserialize(value).map_err(|error| self.explain(error))
    }

    /// Finds out who said what is wrong.
    fn explain(&self, source: ConfigError) -> Error {
        let key = match &source {
            ConfigError::NotFound(field) => return self.missing(field.clone()),
            ConfigError::At { error, key: Some(key), .. } => match error.as_ref() {
                ConfigError::NotFound(field) => return self.missing(format!("{key}.{field}")),
                _ => key.clone(),
            },
            ConfigError::Type { key: Some(key), .. } => key.clone(),
            other => self.unknown_field(&other.to_string()).unwrap_or_default(),
        };
        let variable = self.given.iter().find(|given| given.is_at(&key)).map(|given| given.name.clone());
        let place = variable.unwrap_or_else(|| match key.as_str() {
            "" => format!("[{}] of {}, or a variable {}...,", self.name, self.file, variables::prefix(&self.name)),
            key => format!("`{key}` in [{}] of {}", self.name, self.file),
        });
        Error::Wrong { place, source }
    }

    fn missing(&self, field: String) -> Error {
        let variable = format!("{}{}", variables::prefix(&self.name), field.replace('.', "__").to_uppercase());
        Error::Missing { field, variable, section: self.name.clone(), file: self.file.clone() }
    }

    /// The field of this section that serde complains of by name.
    fn unknown_field(&self, said: &str) -> Option<String> {
        self.table.keys().find(|key| said.starts_with(&format!("unknown field `{key}`"))).cloned()
    }
}

/// Puts a value at a path of tables.
fn put(table: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [field] => {
            table.insert(field.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = table.remove(first).and_then(|inner| inner.into_table().ok());
            let mut inner = inner.unwrap_or_default();
            put(&mut inner, rest, value);
            table.insert(first.clone(), Value::new(None, ValueKind::Table(inner)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
