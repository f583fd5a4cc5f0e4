//! Connecting as a command does: to the server that services connect to, with an answer or an error at once.

use crate::args::ServerFlags;
use crate::output::{Exit, Failure};
use jetlane::{Client, Connect};
use jetlane_service::config::{self, Sources};

/// Where the broker is: by the flags, then by what services read.
#[derive(Debug, Clone)]
pub(crate) struct Nats {
    settings: config::Nats,
    /// The address, where a flag gave it: a next command needs the flag, too.
    flag: Option<String>,
}

impl Nats {
    /// Reads flags, environment and file.
    ///
    /// # Errors
    /// [`Exit::Usage`] where the configuration is wrong.
    pub(crate) fn read(flags: &ServerFlags) -> Result<Self, Failure> {
        let wrong = |error: config::Error| Failure::of(Exit::Usage, &error);
        let sources = Sources::from_process().map_err(wrong)?;
        let sources = variables(flags).into_iter().fold(sources, |sources, (name, value)| sources.with(name, value));
        sources.check_sections(None).map_err(wrong)?;
        Ok(Self { settings: config::Nats::load(&sources).map_err(wrong)?, flag: flags.server.clone() })
    }

    /// The address, which may hold a password.
    pub(crate) fn url(&self) -> &str {
        &self.settings.url
    }

    /// The address without user, password and token.
    pub(crate) fn shown_url(&self) -> String {
        let shown = self.settings.url.split(',').map(|url| match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            (None, Some((_, host))) => host.to_owned(),
            (_, None) => url.to_owned(),
        });
        shown.collect::<Vec<_>>().join(",")
    }

    /// What a command needs to reach the same server: nothing where the environment or the file says it. A password
    /// is not printed.
    pub(crate) fn words(&self) -> String {
        let flag = self.flag.as_deref().filter(|url| !url.contains('@'));
        flag.map_or_else(String::new, |url| format!(" --server {url}"))
    }

    /// A connection of this name that must answer.
    pub(crate) fn connect(&self, name: &str) -> Connect {
        let config::Nats { url, creds, name: named, inbox_prefix } = &self.settings;
        Connect {
            credentials: creds.clone(),
            inbox_prefix: inbox_prefix.clone(),
            ..Connect::to(url, named.as_deref().unwrap_or(name))
        }
    }
}

/// The flags as the variables that say the same.
pub(crate) fn variables(flags: &ServerFlags) -> Vec<(&'static str, String)> {
    let creds = flags.creds.as_ref().map(|path| path.display().to_string());
    let pairs = [("JETLANE_NATS_URL", flags.server.clone()), ("JETLANE_NATS_CREDS", creds)];
    pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A client for one command.
pub(crate) async fn client(nats: &Nats) -> Result<Client, Failure> {
    Client::connect_with(&nats.connect("jetlane-cli")).await.map_err(|error| {
        Failure::from(error).help(
            "Start everything with `jetlane dev`, or point --server, NATS_URL or [nats] of jetlane.toml to your cluster.",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(url: &str, flag: Option<&str>) -> Nats {
        let settings = config::Nats { url: url.into(), ..config::Nats::default() };
        Nats { settings, flag: flag.map(str::to_owned) }
    }

    #[test]
    fn next_command_reaches_the_same_server_and_shows_no_password() {
        assert_eq!(at("nats://b:4222", None).words(), "");
        assert_eq!(at("nats://b:4222", Some("nats://b:4222")).words(), " --server nats://b:4222");
        let secret = "nats://me:p@ss@b:4222";
        assert_eq!(at(secret, Some(secret)).words(), "");
    }

    #[test]
    fn shown_address_has_no_password() {
        for (url, shown) in [
            ("nats://b:4222", "nats://b:4222"),
            ("nats://me:p%40ss@b:4222,nats://t0ken@c", "nats://b:4222,nats://c"),
            ("me:secret@b", "b"),
        ] {
            assert_eq!(at(url, None).shown_url(), shown);
        }
    }
}
