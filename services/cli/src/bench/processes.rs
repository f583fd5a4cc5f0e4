//! The whole system as processes of its own, so that what each uses is known. They end with this one.

use crate::output::{Exit, Failure};
use crate::stack::{Service, start_server_with};
use jetlane_bus::local::{Options, Server};
use jetlane_service::egress::{Client, Policy, Request};
use serde::Deserialize;
use std::ops::Sub;
use std::time::Duration;

/// How long the server's monitoring may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A server whose monitoring is on, and services.
pub(super) struct Processes {
    pub(super) server: Server,
    variables: Vec<(&'static str, String)>,
    services: Vec<Service>,
}

/// Messages that clients sent to a server, and that it sent to clients.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Messages {
    #[serde(rename = "in_msgs")]
    pub(super) received: u64,
    #[serde(rename = "out_msgs")]
    pub(super) sent: u64,
}

impl Sub for Messages {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { received: self.received - before.received, sent: self.sent - before.sent }
    }
}

impl Processes {
    /// Starts a server; services follow, which get these variables.
    pub(super) async fn start(variables: Vec<(&'static str, String)>) -> Result<Self, Failure> {
        let server = start_server_with(Options { monitor: Some(0), ..Options::default() }).await?;
        let quiet = std::env::var_os("JETLANE_LOG").is_none().then(|| ("JETLANE_LOG", "error".to_owned()));
        Ok(Self { server, variables: variables.into_iter().chain(quiet).collect(), services: Vec::new() })
    }

    /// Starts a service of this name with these words.
    pub(super) fn run(&mut self, name: &'static str, words: &[&str]) -> Result<(), Failure> {
        self.services.push(Service::start(name, words, &self.server.url(), &self.variables)?);
        Ok(())
    }

    /// Ends the service of this name.
    pub(super) async fn end(&mut self, name: &str) {
        if let Some(at) = self.services.iter().position(|service| service.name() == name) {
            self.services.remove(at).stop().await;
        }
    }

    /// The processes that run, by name; the server last.
    pub(super) fn ids(&self) -> Vec<(&'static str, u32)> {
        let services = self.services.iter().map(|service| (service.name(), service.pid()));
        let all = services.chain([("nats-server", self.server.pid())]);
        all.filter_map(|(name, pid)| Some((name, pid?))).collect()
    }

    /// How many messages the server has seen.
    pub(super) async fn messages(&self) -> Result<Messages, Failure> {
        let unknown = |why: &dyn std::fmt::Display| {
            Failure::new(Exit::Error, format!("the server's monitoring does not tell its messages: {why}"))
        };
        let url = self.server.monitor_url().ok_or_else(|| unknown(&"it is off"))?;
        let client = Client::new(Policy::AnyAddress).map_err(|error| unknown(&error))?;
        let request = Request { timeout: ANSWER_WITHIN, ..Request::new("GET", format!("{url}/varz")) };
        let answer = client.send(request).await.map_err(|error| unknown(&error))?;
        serde_json::from_slice(&answer.body).map_err(|error| unknown(&error))
    }

    /// Drains the services, then ends the server.
    pub(super) async fn stop(mut self) {
        self.services.iter_mut().for_each(Service::drain);
        for service in self.services {
            service.stop().await;
        }
        self.server.stop().await;
    }
}
