//! What a soak or a scenario runs on: servers, processes, the links between them, and the broker past the links.

use crate::admin::{Admin, STREAMS};
use crate::clock::Clock;
use crate::disk::Disk;
use crate::journal::{self, Journal, Line};
use crate::probes::Probe;
use crate::process::{Process, Start};
use crate::proxy::Proxy;
use crate::roles::tasks::HOOK;
use crate::servers::{Servers, Wanted, free_port};
use jetlane_schemas::subject;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The processes whose clocks can be stepped.
const CLOCKS: [&str; 2] = ["producer", "outsider"];
/// How long the processes may take until the first task can be submitted.
const START_TIME_MAX: Duration = Duration::from_secs(60);
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Servers and processes.
#[derive(Debug)]
pub struct Stage {
    /// The servers.
    pub servers: Servers,
    /// The processes by name.
    pub processes: BTreeMap<String, Process>,
    /// The connections of each process.
    pub links: BTreeMap<String, Vec<Proxy>>,
    /// The broker past the proxies.
    pub admin: Admin,
    /// The journal of whoever injects faults.
    pub journal: Arc<Journal>,
    /// What could not be done.
    pub trouble: Mutex<Vec<String>>,
    /// Faults of servers come one after the other: who has the turn.
    pub server_turn: Mutex<()>,
    /// Frames of a version that nobody knows.
    pub frames: Mutex<Vec<Frame>>,
    /// The disk of the first server, where it can be made full.
    pub disk: Option<Disk>,
    /// The clocks of processes that submit, where they can be stepped.
    pub clocks: BTreeMap<String, Clock>,
    /// Who asks the services for their health.
    pub probes: Vec<Probe>,
    /// Variables of all processes that are started from now on.
    pub variables: Vec<(String, String)>,
    program: PathBuf,
    folder: PathBuf,
}

/// A frame of a version that nobody knows.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The stream that took it.
    pub stream: &'static str,
    /// Under which sequence.
    pub sequence: u64,
    /// Its bytes.
    pub body: Vec<u8>,
}

impl Stage {
    /// Starts servers and nothing else. The program takes all roles; journals and logs go to the folder.
    ///
    /// # Errors
    /// When the servers do not start.
    pub async fn start(program: &Path, folder: &Path, wanted: &Wanted) -> anyhow::Result<Self> {
        let servers = Servers::start(wanted).await?;
        let admin = Admin::connect(&servers).await?;
        Ok(Self {
            servers,
            processes: BTreeMap::new(),
            links: BTreeMap::new(),
            admin,
            journal: Arc::new(Journal::open(folder, "soak")?),
            trouble: Mutex::default(),
            server_turn: Mutex::default(),
            frames: Mutex::default(),
            disk: None,
            clocks: BTreeMap::new(),
            probes: Vec::new(),
            variables: Vec::new(),
            program: program.to_owned(),
            folder: folder.to_owned(),
        })
    }

    /// Starts a dispatcher, which makes streams with a copy on each server.
    ///
    /// # Errors
    /// When no port can be had for its links.
    pub async fn dispatcher(&mut self, name: &str) -> anyhow::Result<()> {
        let replicas = self.servers.size().to_string();
        let variables =
            [("JETLANE_DISPATCHER_STREAMS__REPLICAS", replicas.as_str()), ("JETLANE_DISPATCHER_NAME", name)];
        self.service(name, "dispatcher", &variables).await
    }

    /// Waits until all streams are there: what is published before that is refused at once, which is no fault.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn streams(&self) -> anyhow::Result<()> {
        for stream in STREAMS {
            self.admin.stream(stream).await?;
        }
        Ok(())
    }

    /// Starts a callback service and the receiver of its webhooks.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn callback(&mut self) -> anyhow::Result<()> {
        let port = free_port()?;
        let hook = format!(
            "{{ {HOOK} = {{ url = \"http://127.0.0.1:{port}/\", secrets = [{:?}], allow_private_addresses = true }} }}",
            jetlane_callback::signature::Secret::generate()
        );
        self.service("callback", "callback", &[("JETLANE_CALLBACK_ENDPOINTS", &hook)]).await?;
        let arguments = self.arguments("receiver", "receiver", &["--port".into(), port.to_string()]);
        self.launch("receiver", arguments, Vec::new());
        Ok(())
    }

    /// Starts a role that connects to the servers through proxies of its own.
    ///
    /// # Errors
    /// When no port can be had for its links.
    pub async fn role(&mut self, name: &str, role: &str, more: &[&str]) -> anyhow::Result<()> {
        let proxies = self.servers.proxies().await?;
        let mut own = vec!["--url".to_owned(), urls(&proxies)];
        own.extend(more.iter().map(|argument| (*argument).to_owned()));
        let clock = if CLOCKS.contains(&name) { Clock::prepare(&self.folder, name)? } else { None };
        let variables = clock.as_ref().map_or_else(Vec::new, |clock| clock.variables().to_vec());
        self.launch(name, self.arguments(name, role, &own), variables);
        self.clocks.extend(clock.map(|clock| (name.to_owned(), clock)));
        self.links.insert(name.into(), proxies);
        Ok(())
    }

    /// Starts a service as it is shipped, through proxies of its own, and asks it for its health.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn service(&mut self, name: &str, service: &str, more: &[(&str, &str)]) -> anyhow::Result<()> {
        let proxies = self.servers.proxies().await?;
        let mut variables = vec![
            ("NATS_URL".to_owned(), urls(&proxies)),
            ("JETLANE_LOG".to_owned(), std::env::var("JETLANE_LOG").unwrap_or_else(|_| "info".into())),
        ];
        let health = free_port()?;
        variables.push((format!("JETLANE_{}_HEALTH_PORT", service.to_uppercase()), health.to_string()));
        variables.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.launch(name, vec!["run".to_owned(), service.to_owned()], variables);
        self.probes.push(Probe::start(name.into(), health, Arc::clone(&self.journal)));
        self.links.insert(name.into(), proxies);
        Ok(())
    }

    fn arguments(&self, name: &str, role: &str, more: &[String]) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let arguments = ["role", role, "--name", name, "--folder", &folder].map(str::to_owned);
        arguments.into_iter().chain(more.iter().cloned()).collect()
    }

    fn launch(&mut self, name: &str, arguments: Vec<String>, mut variables: Vec<(String, String)>) {
        variables.extend(self.variables.iter().cloned());
        let start = Start { name: name.into(), program: self.program.clone(), arguments, variables };
        let process = Process::start(start, self.folder.clone(), Arc::clone(&self.journal));
        self.processes.insert(name.into(), process);
    }

    /// Waits until these types are announced.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn announced(&self, types: &[&str]) -> anyhow::Result<()> {
        let until = Instant::now() + START_TIME_MAX;
        loop {
            let mut missing = types.to_vec();
            if let Ok(registry) = self.admin.jetstream.get_key_value(subject::BUCKET_REGISTRY).await {
                for task_type in types {
                    let key = subject::registry_type(&task_type.parse()?);
                    if matches!(registry.get(key).await, Ok(Some(_))) {
                        missing.retain(|missing| missing != task_type);
                    }
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "nobody announces {missing:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The folder of journals and logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Reads all journals.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn lines(&self) -> anyhow::Result<Vec<Line>> {
        Ok(journal::read_all(&self.folder)?)
    }

    /// Waits until the journals satisfy a condition, and returns what it found in them.
    ///
    /// # Errors
    /// When that takes longer than `within`.
    pub async fn until<T>(
        &self,
        what: &str,
        within: Duration,
        mut found: impl FnMut(&[Line]) -> Option<T>,
    ) -> anyhow::Result<T> {
        let until = Instant::now() + within;
        loop {
            if let Some(found) = found(&self.lines()?) {
                return Ok(found);
            }
            anyhow::ensure!(Instant::now() < until, "not within {} s: {what}", within.as_secs());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A process by its name.
    ///
    /// # Errors
    /// When there is none.
    pub fn process(&self, name: &str) -> anyhow::Result<&Process> {
        self.processes.get(name).ok_or_else(|| anyhow::anyhow!("there is no process {name}"))
    }
}

fn urls(proxies: &[Proxy]) -> String {
    proxies.iter().map(Proxy::url).collect::<Vec<_>>().join(",")
}
