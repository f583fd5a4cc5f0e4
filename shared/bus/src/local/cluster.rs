//! Servers that form a cluster, all on this machine: replicas, elections and routes are real, disks are not
//! apart.

use super::ready::free_port;
use super::server::READY_TIME_MAX;
use super::{Binary, Error, Options, Server};
use async_nats::jetstream::{self, stream};
use std::time::Duration;

/// How often a start is tried where a chosen port was taken in between.
const STARTS_MAX: usize = 3;
/// The pause between two looks whether the cluster takes streams.
const PAUSE: Duration = Duration::from_millis(100);
/// A stream that is made and removed again to see that it can be.
const PROBE: &str = "LOCAL_CLUSTER_PROBE";

/// Servers that form a cluster. They end when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
}

impl Cluster {
    /// Starts so many servers with these options, each on free ports with a folder of its own; returns once
    /// they take streams with a copy on each.
    ///
    /// # Errors
    /// As for [`Server::start`]; [`Error::NotReady`] where they do not find each other.
    pub async fn start(binary: &Binary, size: usize, options: &Options) -> Result<Self, Error> {
        let mut tries = 1;
        loop {
            match Self::start_once(binary, size, options).await {
                // A route's port was taken, most likely.
                Err(Error::Ended { .. } | Error::PortInUse { .. }) if tries < STARTS_MAX => tries += 1,
                other => return other,
            }
        }
    }

    async fn start_once(binary: &Binary, size: usize, options: &Options) -> Result<Self, Error> {
        let ports: Option<Vec<u16>> = (0..size).map(|_| free_port()).collect();
        let ports = ports.ok_or(Error::PortInUse { port: 0 })?;
        let mut servers = Vec::with_capacity(size);
        for port in &ports {
            let config = format!("{}\n{}", options.config, routes(*port, &ports));
            let options = Options { port: 0, data: None, config, ..options.clone() };
            servers.push(Server::start(binary, options).await?);
        }
        let cluster = Self { servers };
        let not_ready =
            || Error::NotReady { port: cluster.servers.first().map_or(0, Server::port), waited: READY_TIME_MAX };
        tokio::time::timeout(READY_TIME_MAX, cluster.takes_streams()).await.map_err(|_| not_ready())?;
        Ok(cluster)
    }

    /// Where clients connect: the first server, which tells them of the others.
    pub fn url(&self) -> String {
        self.servers.first().map(Server::url).unwrap_or_default()
    }

    /// The servers.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Ends all of them by SIGTERM and waits until they are gone.
    pub async fn stop(&mut self) {
        for server in &mut self.servers {
            server.stop().await;
        }
    }

    /// Returns once a stream with a copy on each server can be made.
    async fn takes_streams(&self) {
        let config =
            stream::Config { name: PROBE.into(), num_replicas: self.servers.len(), ..stream::Config::default() };
        loop {
            if let Ok(client) = async_nats::connect(self.url()).await {
                let context = jetstream::new(client);
                let made = context.get_or_create_stream(config.clone()).await;
                if made.is_ok() && context.delete_stream(PROBE).await.is_ok() {
                    return;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The lines that make a server one of a cluster; none for one alone, which would wait for others.
fn routes(port: u16, all: &[u16]) -> String {
    if all.len() < 2 {
        return String::new();
    }
    let routes: Vec<String> = all.iter().map(|other| format!("\"nats://127.0.0.1:{other}\"")).collect();
    format!("cluster {{ name: jetlane, listen: \"127.0.0.1:{port}\", routes: [{}] }}", routes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_server_alone_takes_streams() {
        let binary = super::super::find(|line| eprintln!("{line}")).await.expect("a server");
        let mut cluster = Cluster::start(&binary, 1, &Options::default()).await.expect("ready");
        assert_eq!(cluster.servers().len(), 1);
        cluster.stop().await;
    }

    #[tokio::test]
    async fn three_servers_keep_a_copy_each_and_lose_nothing_with_one() {
        let binary = super::super::find(|line| eprintln!("{line}")).await.expect("a server");
        let mut cluster = Cluster::start(&binary, 3, &Options::default()).await.expect("a cluster");
        assert_eq!(cluster.servers().len(), 3);
        let client = async_nats::connect(cluster.url()).await.expect("connected");
        let context = jetstream::new(client);
        let config = stream::Config {
            name: "KEPT".into(),
            num_replicas: 3,
            subjects: vec!["kept".into()],
            ..Default::default()
        };
        context.create_stream(config).await.expect("made");
        context.publish("kept", "1".into()).await.expect("sent").await.expect("stored");
        let survivor = cluster.servers[1].url();
        cluster.servers[0].kill().await;
        let context = jetstream::new(async_nats::connect(survivor).await.expect("connected"));
        let read = async {
            loop {
                // An election may be going on.
                if let Ok(mut stream) = context.get_stream("KEPT").await
                    && let Ok(info) = stream.info().await
                {
                    return info.state.messages;
                }
            }
        };
        let kept = tokio::time::timeout(READY_TIME_MAX, read).await.expect("in time");
        assert_eq!(kept, 1);
        cluster.stop().await;
    }
}
