//! Addresses of servers as people write them: a list separated by commas, with or without a login.

use crate::error::Error;
use async_nats::ServerAddr;
use percent_encoding::percent_decode_str;

/// Where to connect, and as whom.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) addresses: Vec<ServerAddr>,
    pub(crate) login: Option<Login>,
    /// The list as it may be printed: without user, password or token.
    pub(crate) shown: String,
}

/// A login that stands in an address.
#[derive(PartialEq, Eq)]
pub(crate) enum Login {
    Password { user: String, password: String },
    Token(String),
}

// By hand, so that no secret is printed.
impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Token(_) => "Token",
        })
    }
}

impl Servers {
    /// Reads a list of addresses. The first login in it counts for all of them, as in every NATS client.
    ///
    /// # Errors
    /// [`Error::Address`], which never holds a secret.
    pub(crate) fn parse(list: &str) -> Result<Self, Error> {
        let (mut addresses, mut shown, mut login) = (Vec::new(), Vec::new(), None);
        for url in list.split(',').map(str::trim).filter(|url| !url.is_empty()) {
            let printed = without_login(url);
            let invalid = |reason: String| Error::Address { url: printed.clone(), reason };
            let address: ServerAddr = url.parse().map_err(|error: std::io::Error| invalid(error.to_string()))?;
            let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
            if scheme.is_some_and(|scheme| scheme != "nats" && scheme != "tls") {
                // The client library would take some for plain TCP.
                return Err(invalid("only nats:// and tls:// are spoken".into()));
            }
            if address.host().is_empty() {
                return Err(invalid("it names no host".into()));
            }
            let found = login_of(&address).map_err(invalid)?;
            login = login.or(found);
            addresses.push(address);
            shown.push(printed);
        }
        if addresses.is_empty() {
            return Err(Error::Address { url: String::new(), reason: "it names no server".into() });
        }
        Ok(Self { addresses, login, shown: shown.join(",") })
    }
}

fn login_of(address: &ServerAddr) -> Result<Option<Login>, String> {
    let decoded = |text: &str| {
        let bytes = percent_decode_str(text).decode_utf8();
        bytes.map(|text| text.into_owned()).map_err(|_| "its login is not UTF-8 once percent-decoded".to_owned())
    };
    let Some(user) = address.username() else {
        return match address.password() {
            Some(_) => Err("it has a password and no user".into()),
            None => Ok(None),
        };
    };
    Ok(Some(match address.password() {
        Some(password) => Login::Password { user: decoded(user)?, password: decoded(password)? },
        None => Login::Token(decoded(user)?),
    }))
}

/// The address without what stands before its last `@`.
fn without_login(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if scheme.is_empty() { host.to_owned() } else { format!("{scheme}://{host}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(list: &str) -> Option<Login> {
        Servers::parse(list).expect("valid").login
    }

    #[test]
    fn several_servers_are_a_list() {
        let servers = Servers::parse("nats://a:4222, nats://b:4223,c").expect("valid");
        let ports: Vec<u16> = servers.addresses.iter().map(ServerAddr::port).collect();
        assert_eq!(ports, [4222, 4223, 4222]);
        assert_eq!(servers.shown, "nats://a:4222,nats://b:4223,c");
        assert!(servers.login.is_none());
    }

    #[test]
    fn a_login_is_percent_decoded_and_never_shown() {
        let user = |user: &str, password: &str| Login::Password { user: user.into(), password: password.into() };
        assert_eq!(login("nats://jl:p%40ss%231@host"), Some(user("jl", "p@ss#1")));
        assert_eq!(login("nats://a:4222,nats://u%2Fx:p%3A@b:4222"), Some(user("u/x", "p:")));
        assert_eq!(login("tls://s3cr3t@host:4222"), Some(Login::Token("s3cr3t".into())));
        let servers = Servers::parse("nats://jl:p%40ss%231@host,nats://s3cr3t@b:1").expect("valid");
        assert_eq!(servers.shown, "nats://host,nats://b:1");
        assert_eq!(format!("{:?}", servers.login), "Some(Password)");
    }

    #[test]
    fn an_invalid_address_is_named_without_its_secret() {
        for list in [
            "",
            " , ",
            "nats://:hunter2@host",
            "nats://jl:hunter2@host:99999999",
            "nats://jl:hunter2@a b",
            "ws://host",
            "wss://hunter2@host",
            "http://host",
            "nats://",
        ] {
            let error = Servers::parse(list).expect_err("invalid").to_string();
            assert!(error.starts_with("the NATS address"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
