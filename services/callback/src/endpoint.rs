//! Named webhook endpoints: as an operator types them, and checked.

use crate::allowed::{InvalidPattern, Patterns};
use crate::signature::{InvalidSecret, Secret};
use jetlane_service::egress::{self, Policy};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most endpoints.
pub(crate) const ENDPOINTS_MAX: usize = 1_000;
/// The longest name of an endpoint, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The callback service as an operator types it: section `callback`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Webhook endpoints by name: 1 to 64 of A-Z, a-z, 0-9, `_` and `-`. Default none.
    pub endpoints: BTreeMap<String, EndpointSettings>,
    /// What becomes of a task that brings a URL instead of a name. Default refused.
    pub urls_in_tasks: UrlsInTasks,
    /// Subjects that callbacks may be published to, as NATS patterns: `billing.>`. Default none.
    pub subjects: Vec<String>,
    /// Types of follow-up tasks beside those of the parent's own queue, as patterns: `mail.send`, `report.>`.
    /// Default none.
    pub follow_ups: Vec<String>,
}

/// One endpoint as an operator types it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSettings {
    /// Where to: https, or http.
    pub url: String,
    /// `whsec_...`: at least one; several while receivers change from one to the next.
    pub secrets: Vec<SecretText>,
    /// Whether it may have a private or loopback address. Default false.
    #[serde(default)]
    pub allow_private_addresses: bool,
}

/// A secret as it was typed; never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// What becomes of a task that brings a URL instead of the name of an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UrlsInTasks {
    /// Its callback is refused.
    #[default]
    Refused,
    /// It is sent there, unsigned, and only to addresses of the public internet.
    Public,
}

/// An endpoint that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// Its name.
    #[error("the endpoint name {0:?} is not 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")]
    Name(String),
    /// Its URL.
    #[error("the URL of endpoint {name} cannot be used")]
    Url {
        /// The endpoint.
        name: String,
        /// Why.
        #[source]
        source: egress::Refused,
    },
    /// One of its secrets.
    #[error("secret {place} of endpoint {name} cannot be used")]
    Secret {
        /// The endpoint.
        name: String,
        /// The secret's place in the list, from 1.
        place: usize,
        /// Why.
        #[source]
        source: InvalidSecret,
    },
    /// It has no secret: receivers could not tell who sends.
    #[error("endpoint {name} has no secret: give it at least one, such as {}", Secret::generate())]
    Unsigned {
        /// The endpoint.
        name: String,
    },
    /// A subject or a follow-up type.
    #[error("`{list}` cannot be used")]
    Pattern {
        /// The setting.
        list: &'static str,
        /// Why.
        #[source]
        source: InvalidPattern,
    },
    /// There are too many.
    #[error("there are {0} endpoints, at most {ENDPOINTS_MAX} are served")]
    TooMany(usize),
}

/// One endpoint, checked.
#[derive(Debug)]
pub struct Endpoint {
    /// Where to.
    pub url: String,
    /// What it is signed with.
    pub secrets: Vec<Secret>,
    /// Which addresses it may have.
    pub policy: Policy,
    disabled: AtomicBool,
}

impl Endpoint {
    /// Whether its receiver has said that it wants nothing more (status 410).
    pub fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Relaxed)
    }

    /// Sends it nothing more for as long as this process lives; says whether that is news. After a
    /// restart it is asked once more: the operator may have mended it.
    pub(crate) fn disable(&self) -> bool {
        !self.disabled.swap(true, Ordering::Relaxed)
    }
}

/// All endpoints, checked.
#[derive(Debug, Default)]
pub struct Endpoints {
    named: BTreeMap<String, Endpoint>,
    urls_in_tasks: UrlsInTasks,
    subjects: Patterns,
    pub(crate) follow_ups: Patterns,
}

/// Where a webhook goes.
#[derive(Debug)]
pub(crate) enum Target<'a> {
    /// To an endpoint of the configuration.
    Endpoint(&'a Endpoint),
    /// To a URL that came with a task: unsigned, and to public addresses alone.
    Url(&'a str),
}

impl Endpoints {
    /// Checks what was typed.
    ///
    /// # Errors
    /// [`Invalid`], which names the endpoint and never tells a secret.
    pub fn new(settings: &Settings) -> Result<Self, Invalid> {
        if settings.endpoints.len() > ENDPOINTS_MAX {
            return Err(Invalid::TooMany(settings.endpoints.len()));
        }
        let named = settings.endpoints.iter().map(|(name, typed)| Ok((name.clone(), check(name, typed)?)));
        let patterns =
            |list, typed: &[String]| Patterns::parse(typed).map_err(|source| Invalid::Pattern { list, source });
        Ok(Self {
            named: named.collect::<Result<_, Invalid>>()?,
            urls_in_tasks: settings.urls_in_tasks,
            subjects: patterns("subjects", &settings.subjects)?,
            follow_ups: patterns("follow_ups", &settings.follow_ups)?,
        })
    }

    /// The endpoint of this name.
    pub fn get(&self, name: &str) -> Option<&Endpoint> {
        self.named.get(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.named.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// Whether a callback may be published to a subject; otherwise why not.
    pub(crate) fn may_publish(&self, subject: &str) -> Result<(), String> {
        if self.subjects.matches(subject) {
            return Ok(());
        }
        Err(format!("the subject {subject} is not allowed: name it in `subjects` of [callback]"))
    }

    /// Where a task's webhook goes, or why nowhere.
    pub(crate) fn target<'a>(&'a self, asked: &'a str) -> Result<Target<'a>, String> {
        if let Some(endpoint) = self.named.get(asked) {
            return if endpoint.is_disabled() {
                Err(format!("the receiver of endpoint {asked} has said that it wants nothing more (status 410)"))
            } else {
                Ok(Target::Endpoint(endpoint))
            };
        }
        // A name has no colon, so this is a URL, or a mistake that says so.
        match (asked.contains(':'), self.urls_in_tasks) {
            (false, _) => Err(format!("no endpoint {:?} is configured", asked.chars().take(80).collect::<String>())),
            (true, UrlsInTasks::Public) => Ok(Target::Url(asked)),
            (true, UrlsInTasks::Refused) => {
                Err("a URL in a task is refused: name an endpoint, or set urls_in_tasks = \"public\"".into())
            }
        }
    }
}

fn check(name: &str, typed: &EndpointSettings) -> Result<Endpoint, Invalid> {
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !is_name(name) {
        return Err(Invalid::Name(name.chars().take(80).collect()));
    }
    let policy = if typed.allow_private_addresses { Policy::AnyAddress } else { Policy::PublicOnly };
    egress::parse(&typed.url, policy).map_err(|source| Invalid::Url { name: name.into(), source })?;
    if typed.secrets.is_empty() {
        return Err(Invalid::Unsigned { name: name.into() });
    }
    let secrets = typed.secrets.iter().enumerate().map(|(index, text)| {
        Secret::parse(&text.0).map_err(|source| Invalid::Secret { name: name.into(), place: index + 1, source })
    });
    Ok(Endpoint {
        url: typed.url.clone(),
        secrets: secrets.collect::<Result<_, _>>()?,
        policy,
        disabled: AtomicBool::new(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> EndpointSettings {
        EndpointSettings { url: url.into(), secrets: vec![Secret::generate().into()], allow_private_addresses: false }
    }

    fn settings(name: &str, endpoint: EndpointSettings) -> Settings {
        Settings { endpoints: [(name.to_owned(), endpoint)].into(), ..Settings::default() }
    }

    #[test]
    fn an_endpoint_is_found_by_its_name_and_everything_else_is_refused_with_a_reason() {
        let endpoints = Endpoints::new(&settings("billing", endpoint("https://example.com/hook"))).expect("valid");
        assert!(
            matches!(endpoints.target("billing"), Ok(Target::Endpoint(found)) if found.policy == Policy::PublicOnly)
        );
        for (asked, reason) in [
            ("nobody", "no endpoint \"nobody\""),
            ("Billing", "no endpoint"),
            ("https://example.com/hook", "a URL in a task is refused"),
            ("http://169.254.169.254/", "a URL in a task is refused"),
        ] {
            let refused = endpoints.target(asked).expect_err(asked);
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn urls_in_tasks_are_taken_only_where_the_configuration_says_so() {
        let typed = Settings { urls_in_tasks: UrlsInTasks::Public, ..Settings::default() };
        let endpoints = Endpoints::new(&typed).expect("valid");
        assert!(matches!(endpoints.target("https://example.com/"), Ok(Target::Url("https://example.com/"))));
    }

    #[test]
    fn a_private_address_needs_the_operators_word() {
        let private = endpoint("http://127.0.0.1:8080/done");
        let refused = Endpoints::new(&settings("local", private.clone())).expect_err("loopback");
        assert!(matches!(refused, Invalid::Url { .. }));
        let allowed = EndpointSettings { allow_private_addresses: true, ..private };
        let endpoints = Endpoints::new(&settings("local", allowed)).expect("allowed");
        assert_eq!(endpoints.get("local").expect("there").policy, Policy::AnyAddress);
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name_and_secrets_are_not_told() {
        let url = || endpoint("https://example.com/");
        let with = |secrets: &[&str]| EndpointSettings {
            secrets: secrets.iter().map(|text| (*text).to_owned().into()).collect(),
            ..url()
        };
        for (name, typed, reason) in [
            ("a.b", url(), "name"),
            ("", url(), "name"),
            ("a b", url(), "name"),
            ("a", endpoint("ftp://example.com/"), "URL of endpoint a"),
            ("a", endpoint("example.com"), "URL of endpoint a"),
            ("a", with(&[]), "endpoint a has no secret"),
            ("a", with(&[&Secret::generate(), "hunter2"]), "secret 2 of endpoint a"),
        ] {
            let typed = settings(name, typed);
            let refused = Endpoints::new(&typed).expect_err(name);
            assert!(refused.to_string().contains(reason), "{refused}");
            assert!(!format!("{refused:?} {typed:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_disabled_endpoint_takes_nothing_more() {
        let endpoints = Endpoints::new(&settings("a", endpoint("https://example.com/"))).expect("valid");
        assert!(endpoints.get("a").expect("there").disable());
        assert!(!endpoints.get("a").expect("there").disable(), "it is news only once");
        assert!(endpoints.target("a").expect_err("disabled").contains("410"));
    }
}
