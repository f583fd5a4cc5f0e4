//! Which addresses a guarded client may talk to: pure rules over URLs and IP addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use url::{Host, Url};

/// The longest URL, in bytes: what browsers and proxies take as well.
const URL_BYTES_MAX: usize = 2048;

/// Where a client may connect to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Only to addresses of the public internet: for a URL that comes with a task.
    PublicOnly,
    /// To any address: for an endpoint that an operator has configured.
    AnyAddress,
}

/// A destination that the policy forbids, or a URL that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{target} {reason}")]
pub struct Refused {
    /// Host or address, without user, path and query: those may hold secrets.
    pub target: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Refused {
    fn new(target: impl std::fmt::Display, reason: &'static str) -> Self {
        Self { target: target.to_string().chars().take(200).collect(), reason }
    }
}

/// Reads a URL and checks all that can be checked before its name is resolved.
///
/// Decimal, octal, hexadecimal and short forms of an IPv4 address are that address (WHATWG URL,
/// 3.5), so that `http://0x7f.1/` is refused as `127.0.0.1`.
///
/// # Errors
/// [`Refused`] where the text is no URL, is not http or https, carries user information, or names
/// an address or a port that the policy forbids.
pub fn parse(text: &str, policy: Policy) -> Result<Url, Refused> {
    if text.len() > URL_BYTES_MAX {
        return Err(Refused::new("the URL", "is over 2048 bytes"));
    }
    let url = Url::parse(text).map_err(|_| Refused::new("the URL", "cannot be read"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refused::new(url.scheme(), "is no scheme to send to: use https or http"));
    }
    let host = url.host().ok_or_else(|| Refused::new("the URL", "has no host"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refused::new(&host, "comes with a user or a password in its URL: send a header instead"));
    }
    match host {
        Host::Ipv4(ip) => check(IpAddr::V4(ip), policy)?,
        Host::Ipv6(ip) => check(IpAddr::V6(ip), policy)?,
        Host::Domain(_) => {}
    }
    if policy == Policy::PublicOnly {
        check_port(&url)?;
    }
    Ok(url)
}

/// Keeps http from being spoken to mail, database and management ports of other people.
fn check_port(url: &Url) -> Result<(), Refused> {
    match url.port_or_known_default() {
        Some(80 | 443 | 1024..) => Ok(()),
        _ => Err(Refused::new(url.authority(), "has a port other than 80, 443 and 1024 or more")),
    }
}

/// Checks what a name was resolved to. One forbidden address refuses the name: a name with public
/// and private addresses is a trap more often than a mistake.
///
/// # Errors
/// [`Refused`] where there is no address or the policy forbids one of them.
pub fn check_resolved(name: &str, addresses: &[SocketAddr], policy: Policy) -> Result<(), Refused> {
    if addresses.is_empty() {
        return Err(Refused::new(name, "has no address"));
    }
    addresses.iter().try_for_each(|address| {
        check(address.ip(), policy)
            .map_err(|refused| Refused { target: format!("{name} ({})", refused.target), ..refused })
    })
}

fn check(ip: IpAddr, policy: Policy) -> Result<(), Refused> {
    match (policy, why_not_public(ip)) {
        (Policy::PublicOnly, Some(reason)) => Err(Refused::new(ip, reason)),
        _ => Ok(()),
    }
}

/// Why an address is not of the public internet; `None` where it is.
pub fn why_not_public(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => why_not_public_v4(ip),
        IpAddr::V6(ip) => why_not_public_v6(ip),
    }
}

/// The special-purpose registry of IPv4 (RFC 6890 and its successors at IANA).
fn why_not_public_v4(ip: Ipv4Addr) -> Option<&'static str> {
    Some(match ip.octets() {
        [0, ..] => "is unspecified (0.0.0.0/8)",
        [127, ..] => "is loopback",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "is private",
        [100, 64..=127, ..] => "is shared by a carrier (100.64.0.0/10)",
        [169, 254, ..] => "is link-local",
        [192, 0, 0, _] => "is reserved for protocols (192.0.0.0/24)",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "is for documentation",
        [192, 88, 99, _] => "is a 6to4 relay",
        [198, 18..=19, ..] => "is for benchmarks (198.18.0.0/15)",
        // Public by its number, yet answered by the host of every virtual machine there.
        [168, 63, 129, 16] => "is the platform's own address at Azure",
        [224..=239, ..] => "is multicast",
        [240..=255, ..] => "is reserved (240.0.0.0/4)",
        _ => return None,
    })
}

/// Global unicast (2000::/3) less what is set apart within it; all else is refused, named or not.
fn why_not_public_v6(ip: Ipv6Addr) -> Option<&'static str> {
    Some(match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "is unspecified",
        [0, 0, 0, 0, 0, 0, 0, 1] => "is loopback",
        [0, 0, 0, 0, 0, 0xffff, ..] => "is an IPv4 address in disguise (mapped)",
        [0, 0, 0, 0, 0xffff, 0, ..] => "is an IPv4 address in disguise (translated)",
        [0, 0, 0, 0, 0, 0, ..] => "is an IPv4 address in disguise (compatible)",
        [0x64, 0xff9b, ..] => "is an IPv4 address in disguise (NAT64)",
        [0x2002, ..] => "is an IPv4 address in disguise (6to4)",
        [0x2001, 0, ..] => "is an IPv4 address in disguise (Teredo)",
        [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => "is for documentation",
        [0x2001, 0..=0x01ff, ..] => "is reserved for protocols (2001::/23)",
        [0xfc00..=0xfdff, ..] => "is private (unique local)",
        [0xfe80..=0xfebf, ..] => "is link-local",
        [0xfec0..=0xfeff, ..] => "is private (site-local)",
        [0xff00..=0xffff, ..] => "is multicast",
        [0x2000..=0x3fff, ..] => return None,
        _ => "is not global unicast",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// URL, and a part of the reason why nobody but an operator may send to it.
    const REFUSED: &[(&str, &str)] = &[
        // Loopback in every spelling.
        ("http://127.0.0.1/", "loopback"),
        ("http://127.0.0.1:8080/x?y=1", "loopback"),
        ("http://127.1/", "loopback"),
        ("http://127.0.1/", "loopback"),
        ("http://127.255.255.254/", "loopback"),
        ("http://2130706433/", "loopback"),
        ("http://017700000001/", "loopback"),
        ("http://0177.0.0.1/", "loopback"),
        ("http://0177.0.0.01/", "loopback"),
        ("http://0x7f000001/", "loopback"),
        ("http://0x7f.0.0.1/", "loopback"),
        ("http://0x7f.1/", "loopback"),
        ("http://0X7F.0x0.0x0.0x1/", "loopback"),
        ("http://127.0.0.1./", "loopback"),
        ("http://%31%32%37.0.0.1/", "loopback"),
        ("http://１２７.０.０.１/", "loopback"),
        ("http://①②⑦.⓪.⓪.①/", "loopback"),
        ("http://127。0。0。1/", "loopback"),
        ("http:\\\\127.0.0.1\\", "loopback"),
        ("http:127.0.0.1", "loopback"),
        ("HTTP://127.0.0.1/", "loopback"),
        ("\thttp://127.0.\n0.1/ ", "loopback"),
        ("https://[::1]/", "loopback"),
        ("https://[0:0:0:0:0:0:0:1]:8443/", "loopback"),
        // This host, and nobody.
        ("http://0/", "unspecified"),
        ("http://0.0.0.0:9000/", "unspecified"),
        ("http://0x0/", "unspecified"),
        ("http://0.1.2.3/", "unspecified"),
        ("http://[::]/", "unspecified"),
        // Private networks.
        ("http://10.0.0.1/", "private"),
        ("http://10.255.255.255/", "private"),
        ("http://0xa000001/", "private"),
        ("http://172.16.0.1/", "private"),
        ("http://172.31.255.254/", "private"),
        ("http://192.168.1.1/", "private"),
        ("http://3232235777/", "private"),
        ("http://192.168.257/", "private"),
        ("http://[fc00::1]/", "unique local"),
        ("http://[fd00:ec2::254]/latest/meta-data/", "unique local"),
        ("http://[fec0::1]/", "site-local"),
        // Link-local, and with it the metadata services.
        ("http://169.254.169.254/latest/meta-data/", "link-local"),
        ("http://2852039166/latest/meta-data/", "link-local"),
        ("http://0xa9fea9fe/", "link-local"),
        ("http://0251.0376.0251.0376/", "link-local"),
        ("http://169.254.170.2/v2/credentials", "link-local"),
        ("http://[fe80::1]/", "link-local"),
        ("http://[febf::1]/", "link-local"),
        ("http://168.63.129.16/machine", "Azure"),
        // Carriers, protocols, documentation, benchmarks, multicast, reserved.
        ("http://100.64.0.1/", "carrier"),
        ("http://100.100.100.200/latest/", "carrier"),
        ("http://100.127.255.255/", "carrier"),
        ("http://192.0.0.170/", "protocols"),
        ("http://192.0.2.1/", "documentation"),
        ("http://198.51.100.7/", "documentation"),
        ("http://203.0.113.9/", "documentation"),
        ("http://[2001:db8::1]/", "documentation"),
        ("http://[3fff:123::1]/", "documentation"),
        ("http://198.18.0.1/", "benchmarks"),
        ("http://198.19.255.255/", "benchmarks"),
        ("http://192.88.99.1/", "6to4"),
        ("http://224.0.0.1/", "multicast"),
        ("http://239.255.255.250:1900/", "multicast"),
        ("http://[ff02::1]/", "multicast"),
        ("http://240.0.0.1/", "reserved"),
        ("http://255.255.255.255/", "reserved"),
        ("http://4294967295/", "reserved"),
        // IPv4 inside IPv6, whatever the IPv4.
        ("http://[::ffff:127.0.0.1]/", "mapped"),
        ("http://[::ffff:7f00:1]/", "mapped"),
        ("http://[::ffff:8.8.8.8]/", "mapped"),
        ("http://[::ffff:0:127.0.0.1]/", "translated"),
        ("http://[::127.0.0.1]/", "compatible"),
        ("http://[::8.8.8.8]/", "compatible"),
        ("http://[64:ff9b::7f00:1]/", "NAT64"),
        ("http://[64:ff9b:1::a9fe:a9fe]/", "NAT64"),
        ("http://[2002:7f00:1::]/", "6to4"),
        ("http://[2002:a9fe:a9fe::1]/", "6to4"),
        ("http://[2001:0:7f00:1::]/", "Teredo"),
        ("http://[2001:20::1]/", "protocols"),
        ("http://[100::1]/", "not global"),
        ("http://[5f00::1]/", "not global"),
        ("http://[4000::1]/", "not global"),
        // Ports.
        ("http://example.com:22/", "port"),
        ("http://example.com:25/", "port"),
        ("https://8.8.8.8:53/", "port"),
        ("http://example.com:0/", "port"),
    ];

    /// URL, and a part of the reason why nobody at all may send to it.
    const NEVER: &[(&str, &str)] = &[
        ("", "cannot be read"),
        ("example.com/hook", "cannot be read"),
        ("//example.com", "cannot be read"),
        ("http://", "cannot be read"),
        ("http://256.256.256.256/", "cannot be read"),
        ("http://1.2.3.4.5/", "cannot be read"),
        ("http://[::1", "cannot be read"),
        ("http://[fe80::1%25eth0]/", "cannot be read"),
        ("http://exa mple.com/", "cannot be read"),
        ("http://example.com:99999/", "cannot be read"),
        ("ftp://example.com/", "no scheme"),
        ("file:///etc/passwd", "no scheme"),
        ("gopher://example.com:70/", "no scheme"),
        ("javascript:alert(1)", "no scheme"),
        ("data:text/plain,x", "no scheme"),
        ("unix:/var/run/docker.sock", "no scheme"),
        ("ws://example.com/", "no scheme"),
        ("http://user@example.com/", "user"),
        ("http://user:pw@example.com/", "user"),
        ("http://:pw@example.com/", "user"),
        ("http://example.com@127.0.0.1/", "user"),
        ("http://example.com%40x@10.0.0.1/", "user"),
    ];

    const ACCEPTED: &[&str] = &[
        "https://example.com/hook",
        "http://example.com/",
        "https://example.com.:8443/hook?x=1#part",
        "https://bücher.example/",
        "http://8.8.8.8/",
        "http://134744072/",
        "http://1.1.1.1:8080/",
        "http://100.63.255.255/",
        "http://100.128.0.1/",
        "http://172.15.0.1/",
        "http://172.32.0.1/",
        "http://192.167.1.1/",
        "http://198.17.0.1/",
        "http://198.20.0.1/",
        "http://223.255.255.255/",
        "https://[2606:4700:4700::1111]/",
        "https://[2a00:1450:4001:82a::200e]:443/",
        "https://[2001:200::1]/",
        "https://[2001:4860:4860::8888]/",
    ];

    #[test]
    fn no_spelling_of_a_forbidden_address_gets_out() {
        for (url, reason) in REFUSED {
            let refused = parse(url, Policy::PublicOnly).expect_err(url);
            assert!(refused.to_string().contains(reason), "{url}: {refused}");
        }
    }

    #[test]
    fn an_operators_endpoint_may_be_anywhere() {
        for (url, _) in REFUSED {
            parse(url, Policy::AnyAddress).expect(url);
        }
    }

    #[test]
    fn what_is_no_http_url_or_holds_a_user_is_refused_under_any_policy() {
        for (url, reason) in NEVER {
            for policy in [Policy::PublicOnly, Policy::AnyAddress] {
                let refused = parse(url, policy).expect_err(url);
                assert!(refused.to_string().contains(reason), "{url}: {refused}");
                assert!(!refused.to_string().contains("pw"), "the password of {url} is told");
            }
        }
    }

    #[test]
    fn public_addresses_pass_up_to_the_edges_of_the_forbidden_ranges() {
        for url in ACCEPTED {
            parse(url, Policy::PublicOnly).expect(url);
        }
    }

    #[test]
    fn a_name_with_one_forbidden_address_is_refused_whole() {
        let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), 443);
        let mixed = [at("93.184.216.34"), at("10.0.0.1")];
        let refused = check_resolved("rebind.example", &mixed, Policy::PublicOnly).expect_err("a private address");
        assert_eq!(refused.to_string(), "rebind.example (10.0.0.1) is private");
        assert_eq!(check_resolved("rebind.example", &mixed, Policy::AnyAddress), Ok(()));
        assert_eq!(check_resolved("example.com", &mixed[..1], Policy::PublicOnly), Ok(()));
        assert!(check_resolved("nowhere.example", &[], Policy::AnyAddress).is_err());
    }

    #[test]
    fn a_url_that_is_too_long_is_refused() {
        let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
        assert!(parse(&long, Policy::AnyAddress).is_err());
    }
}
