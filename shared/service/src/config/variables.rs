//! Which variables speak of a section, and what they say.

use super::Variables;
use ::config::{Config, ConfigError, File, FileFormat, Value, ValueKind};

/// Variables that look like a field of a section and are none: `JETLANE_NATS_SERVER` names a binary.
const OTHERS: [&str; 1] = ["JETLANE_NATS_SERVER"];

/// A variable that speaks of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// The variable.
    pub(super) name: String,
    /// The field that it sets, from the outermost table to the innermost.
    pub(super) path: Vec<String>,
    text: String,
}

/// The start of a section's variables.
pub(super) fn prefix(section: &str) -> String {
    format!("JETLANE_{}_", section.to_uppercase())
}

/// The variables that speak of a section, by name. An empty one counts as absent. Blanks and line ends around a text
/// are not part of it: files and shells leave them behind.
pub(super) fn given(section: &str, variables: &Variables) -> Vec<Given> {
    let prefix = prefix(section);
    let ours = variables.iter().filter(|(name, text)| !text.trim().is_empty() && !OTHERS.contains(&name.as_str()));
    ours.filter_map(|(name, text)| {
        let rest = name.strip_prefix(&prefix).filter(|rest| !rest.is_empty() && !is_service_link(rest))?;
        let path = rest.to_lowercase().split("__").map(str::to_owned).collect();
        Some(Given { name: name.clone(), path, text: text.trim().to_owned() })
    })
    .collect()
}

impl Given {
    /// Text as it stands; a list or a table as TOML. Numbers are left to the type that reads them.
    pub(super) fn value(&self) -> Result<Value, ConfigError> {
        let origin = Some(&self.name);
        if !self.text.starts_with(['[', '{']) {
            return Ok(Value::new(origin, ValueKind::String(self.text.clone())));
        }
        let file = File::from_str(&format!("value = {}", self.text), FileFormat::Toml);
        Config::builder().add_source(file).build()?.get::<Value>("value")
    }

    /// Whether it set the value at this path, or something around or inside it.
    pub(super) fn is_at(&self, key: &str) -> bool {
        let mut key = key.split(['.', '[']);
        self.path.iter().all(|part| key.next().is_none_or(|other| other == part))
            && self.path.first().is_some_and(|first| !first.is_empty())
    }
}

/// Variables that are read and belong to no section.
const COMMON: [&str; 8] = [
    "JETLANE_CONFIG",
    "JETLANE_LOG",
    "JETLANE_LOG_FORMAT",
    "JETLANE_CACHE",
    "JETLANE_NATS_SERVER",
    "JETLANE_MONITOR_URL",
    "JETLANE_SDK_PATH",
    "JETLANE_DIE_WITH_PARENT",
];

/// The variables that look like settings and that nobody reads, by name.
pub(super) fn unread<'a>(variables: &'a Variables, sections: &[&str]) -> Vec<&'a str> {
    let is_read = |name: &str| {
        let Some(rest) = name.strip_prefix("JETLANE_") else { return true };
        let is_of = |section: &&str| name.starts_with(&prefix(section));
        // What Kubernetes adds for any Service whose name starts with `jetlane-`.
        let is_link = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT"].iter().any(|part| rest.contains(part));
        COMMON.contains(&name) || rest.starts_with("TEST_") || is_link || sections.iter().any(is_of)
    };
    variables.keys().map(String::as_str).filter(|name| !is_read(name)).collect()
}

/// Kubernetes adds such variables to every pod for a Service named, say, `jetlane-dispatcher`.
fn is_service_link(rest: &str) -> bool {
    rest == "PORT" || ["PORT_", "SERVICE_HOST", "SERVICE_PORT"].iter().any(|start| rest.starts_with(start))
}
