//! The executor as an operator types it.

use jetlane::{Concurrency, Executor, QueueName};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Slots where nobody says how many.
const SLOTS_DEFAULT: usize = 16;
/// The most slots, as the SDK has them.
const SLOTS_MAX: usize = 10_000;
/// The fewest cores, as the SDK has them: a thousandth is the unit.
const CPU_MIN: f64 = 0.001;

/// Section `executor`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The queue that it serves. Default `default`.
    #[serde(deserialize_with = "queue")]
    pub queue: String,
    /// How many tasks run at once. Default 16.
    #[serde(deserialize_with = "slots")]
    pub slots: usize,
    /// Whether it takes less while memory is short or its runs take longer than usual. Default true.
    pub adaptive: bool,
    /// The processor cores that its tasks may use, such as `1.5`. Default: those of this process.
    #[serde(deserialize_with = "cpu")]
    pub cpu: Option<f64>,
    /// The memory that its tasks may use, in MiB. Default: its cgroup's limit, or the machine's memory.
    pub memory_mib: Option<u32>,
    /// Properties that tasks may ask for: `zone-a,ssd`. Default none.
    #[serde(deserialize_with = "labels")]
    pub labels: BTreeSet<String>,
    /// Countable things that tasks may ask for: `gpu=2,licence=1`. Default none.
    #[serde(deserialize_with = "resources")]
    pub resources: BTreeMap<String, u32>,
    /// Whether `http.request` may reach private and loopback addresses. Default false.
    pub allow_private_addresses: bool,
    /// The folder that `image.thumbnail` reads and writes in, and nowhere else. Default none: the type
    /// is not served.
    pub pictures_root: Option<PathBuf>,
    /// The memory that decoding pictures may take, all runs together, in MiB. Default: 75 % of
    /// `memory_mib`, or of the cgroup's limit or the memory available at the start.
    #[serde(deserialize_with = "pictures_memory")]
    pub pictures_memory_mib: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            queue: "default".into(),
            slots: SLOTS_DEFAULT,
            adaptive: true,
            cpu: None,
            memory_mib: None,
            labels: BTreeSet::new(),
            resources: BTreeMap::new(),
            allow_private_addresses: false,
            pictures_root: None,
            pictures_memory_mib: None,
        }
    }
}

impl Settings {
    /// Tells an executor what it has.
    pub(crate) fn means<S: Clone + Send + Sync + 'static>(&self, executor: Executor<S>) -> Executor<S> {
        let concurrency = if self.adaptive { Concurrency::Adaptive } else { Concurrency::Fixed };
        let mut executor = executor.concurrency(concurrency);
        if let Some(cores) = self.cpu {
            executor = executor.cpu(cores);
        }
        if let Some(mib) = self.memory_mib {
            executor = executor.memory(mib);
        }
        let executor = self.labels.iter().fold(executor, Executor::label);
        self.resources.iter().fold(executor, |executor, (name, amount)| executor.resource(name, *amount))
    }
}

/// As a list, or as one text with commas, which is all that a variable can hold with ease.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written<T> {
    Text(String),
    Whole(T),
}

/// What is wrong is said before there is a broker to ask.
fn queue<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    QueueName::new(name.as_str()).map_err(D::Error::custom)?;
    Ok(name)
}

fn slots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let slots = usize::deserialize(deserializer)?;
    if (1..=SLOTS_MAX).contains(&slots) {
        return Ok(slots);
    }
    Err(D::Error::custom(format!("{slots} slots are not 1 to {SLOTS_MAX}")))
}

fn cpu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let cores = Option::<f64>::deserialize(deserializer)?;
    if cores.is_none_or(|cores| cores.is_finite() && cores >= CPU_MIN) {
        return Ok(cores);
    }
    Err(D::Error::custom(format!("it is no number of cores, {CPU_MIN} or more")))
}

fn pictures_memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let mib = Option::<u32>::deserialize(deserializer)?;
    if mib == Some(0) {
        return Err(D::Error::custom("no picture is made in 0 MiB"));
    }
    Ok(mib)
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    Ok(match Written::<BTreeSet<String>>::deserialize(deserializer)? {
        Written::Whole(labels) => labels,
        Written::Text(text) => parts(&text).map(str::to_owned).collect(),
    })
}

fn resources<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, u32>, D::Error> {
    let read = |part: &str| {
        let (name, amount) = part.split_once('=')?;
        Some((name.trim().to_owned(), amount.trim().parse().ok()?))
    };
    match Written::<BTreeMap<String, u32>>::deserialize(deserializer)? {
        Written::Whole(resources) => Ok(resources),
        Written::Text(text) => {
            let mut resources = BTreeMap::new();
            for part in parts(&text) {
                let read = read(part);
                let (name, amount) =
                    read.ok_or_else(|| D::Error::custom(format!("{part:?} is no resource such as `gpu=1`")))?;
                if resources.insert(name, amount).is_some() {
                    return Err(D::Error::custom(format!("{part:?} is said twice")));
                }
            }
            Ok(resources)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jetlane_service::config::{Sources, Variables};

    fn read(variables: &[(&str, &str)], file: &str) -> Result<Settings, String> {
        let variables: Variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let sources = Sources::new(variables, Some(("jetlane.toml".into(), file.to_owned())));
        sources.load("executor").map_err(|error| jetlane_service::frame::one_line(&error))
    }

    #[test]
    fn variables_say_what_the_executor_has() {
        let read = read(
            &[
                ("JETLANE_EXECUTOR_CPU", "1.5"),
                ("JETLANE_EXECUTOR_MEMORY_MIB", "2048"),
                ("JETLANE_EXECUTOR_LABELS", "zone-a, ssd"),
                ("JETLANE_EXECUTOR_RESOURCES", "gpu=2,licence=1"),
                ("JETLANE_EXECUTOR_ADAPTIVE", "false"),
            ],
            "",
        );
        let read = read.expect("all are well");
        assert_eq!((read.cpu, read.memory_mib, read.adaptive), (Some(1.5), Some(2_048), false));
        assert_eq!(read.labels, ["ssd".to_owned(), "zone-a".to_owned()].into());
        assert_eq!(read.resources, [("gpu".to_owned(), 2), ("licence".to_owned(), 1)].into());
    }

    #[test]
    fn the_pictures_root_and_the_memory_for_decoding_are_settings() {
        let variables =
            [("JETLANE_EXECUTOR_PICTURES_ROOT", "/srv/pictures"), ("JETLANE_EXECUTOR_PICTURES_MEMORY_MIB", "512")];
        let read = read(&variables, "").expect("all are well");
        assert_eq!((read.pictures_root, read.pictures_memory_mib), (Some("/srv/pictures".into()), Some(512)));
    }

    #[test]
    fn a_file_says_the_same_with_lists_and_tables() {
        let file = "[executor]\ncpu = 2\nlabels = [\"ssd\"]\nresources = { gpu = 2 }\n";
        let read = read(&[], file).expect("all are well");
        assert_eq!((read.cpu, read.labels.len(), read.resources["gpu"]), (Some(2.0), 1, 2));
        assert_eq!(super::tests::read(&[], "").expect("nothing is needed"), Settings::default());
    }

    #[test]
    fn what_no_executor_can_start_with_is_refused_before_there_is_a_broker() {
        for (variable, text) in [
            ("SLOTS", "0"),
            ("SLOTS", "10001"),
            ("SLOTS", "18446744073709551615"),
            ("QUEUE", "a.b"),
            ("QUEUE", "*"),
            ("CPU", "nan"),
            ("CPU", "inf"),
            ("CPU", "-1"),
            ("CPU", "0"),
            ("PICTURES_MEMORY_MIB", "0"),
        ] {
            let variable = format!("JETLANE_EXECUTOR_{variable}");
            let refused = read(&[(&variable, text)], "").expect_err(text);
            assert!(refused.contains(&variable), "{refused}");
        }
    }

    #[test]
    fn blanks_around_a_variable_are_not_part_of_it() {
        let variables = [
            ("JETLANE_EXECUTOR_SLOTS", " 4 "),
            ("JETLANE_EXECUTOR_QUEUE", "pictures\n"),
            ("JETLANE_EXECUTOR_CPU", "\t"),
            ("JETLANE_EXECUTOR_ADAPTIVE", " false"),
            ("JETLANE_EXECUTOR_LABELS", " [\"ssd\"] "),
        ];
        let read = read(&variables, "").expect("all are well");
        assert_eq!((read.slots, read.queue.as_str(), read.cpu, read.adaptive), (4, "pictures", None, false));
        assert!(read.labels.contains("ssd"));
    }

    #[test]
    fn a_resource_without_its_number_is_refused_with_the_variables_name() {
        for text in ["gpu", "gpu=many", "gpu=-1", "gpu=1,gpu=2"] {
            let refused = read(&[("JETLANE_EXECUTOR_RESOURCES", text)], "").expect_err(text);
            assert!(refused.contains("JETLANE_EXECUTOR_RESOURCES") && refused.contains("gpu"), "{refused}");
        }
    }
}
