//! Signatures by the Standard Webhooks specification 1.0.0, so that a receiver knows who sent a
//! callback, that nobody changed it, and whether it has had it before.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// The shortest and the longest secret, in bytes (specification, "Signature scheme").
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret that cannot be used. Its text is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret must be `whsec_` and 24 to 64 bytes in base64")]
pub struct InvalidSecret;

/// A secret that callbacks to an endpoint are signed with.
pub struct Secret(standardwebhooks::Webhook);

impl Secret {
    /// Reads `whsec_<base64>`.
    ///
    /// # Errors
    /// [`InvalidSecret`] where it has another form, or too few or too many bytes.
    pub fn parse(text: &str) -> Result<Self, InvalidSecret> {
        let key = text.strip_prefix(PREFIX).and_then(|text| STANDARD.decode(text).ok()).ok_or(InvalidSecret)?;
        if !SECRET_BYTES.contains(&key.len()) {
            return Err(InvalidSecret);
        }
        standardwebhooks::Webhook::from_bytes(key).map(Self).map_err(|_| InvalidSecret)
    }

    /// The text of a new secret of 32 bytes.
    pub fn generate() -> String {
        // Two random UUIDs: 244 bits of the system's randomness.
        let bytes: Vec<u8> = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].iter().flat_map(|u| *u.as_bytes()).collect();
        format!("{PREFIX}{}", STANDARD.encode(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The three headers of a signed webhook: `webhook-id`, `webhook-timestamp`, `webhook-signature`.
///
/// Several secrets give several signatures, so that a receiver changes to a new one at its leisure.
/// `id` is the same at every delivery and has no `.`; `at` is in seconds since the Unix epoch.
pub fn headers(secrets: &[Secret], id: &str, at: i64, body: &str) -> [(&'static str, String); 3] {
    let signatures: Vec<String> = secrets
        .iter()
        .map(|secret| secret.0.sign(id, at, body.as_bytes()).expect("text can be signed: the body is UTF-8"))
        .collect();
    [
        (standardwebhooks::HEADER_WEBHOOK_ID, id.to_owned()),
        (standardwebhooks::HEADER_WEBHOOK_TIMESTAMP, at.to_string()),
        (standardwebhooks::HEADER_WEBHOOK_SIGNATURE, signatures.join(" ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &str = r#"{"test": 2432232314}"#;

    #[test]
    fn the_vector_of_the_specification_is_reproduced() {
        let secret = Secret::parse(SECRET).expect("valid");
        let [id, timestamp, signature] = headers(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, BODY);
        assert_eq!(id, ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned()));
        assert_eq!(timestamp, ("webhook-timestamp", "1614265330".to_owned()));
        assert_eq!(signature, ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".to_owned()));
    }

    #[test]
    fn two_secrets_give_two_signatures_either_of_which_is_verified_alone() {
        let other = Secret::generate();
        let both = [Secret::parse(SECRET).expect("valid"), Secret::parse(&other).expect("valid")];
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let mut received = reqwest::header::HeaderMap::new();
        for (name, value) in headers(&both, "t1:0", i64::try_from(now).expect("small"), BODY) {
            received.insert(name, value.parse().expect("a header"));
        }
        assert_eq!(received["webhook-signature"].to_str().expect("text").split(' ').count(), 2);
        for secret in [SECRET, &other] {
            let receiver = standardwebhooks::Webhook::new(secret).expect("valid");
            receiver.verify(BODY.as_bytes(), &received).expect("verified");
            assert!(receiver.verify(b"{}", &received).is_err(), "another body is verified");
        }
        let stranger = standardwebhooks::Webhook::new(&Secret::generate()).expect("valid");
        assert!(stranger.verify(BODY.as_bytes(), &received).is_err());
    }

    #[test]
    fn a_secret_that_is_too_weak_or_malformed_is_refused_without_being_told() {
        let short = format!("{PREFIX}{}", STANDARD.encode([7; 23]));
        let long = format!("{PREFIX}{}", STANDARD.encode([7; 65]));
        for bad in ["", "hunter2", "whsec_", "whsec_hunter2!", &SECRET[6..], &short, &long] {
            let refused = Secret::parse(bad).expect_err(bad);
            assert!(!refused.to_string().contains("hunter2"));
        }
        for length in [24, 64] {
            assert!(Secret::parse(&format!("{PREFIX}{}", STANDARD.encode(vec![7; length]))).is_ok());
        }
        assert_eq!(format!("{:?}", Secret::parse(SECRET).expect("valid")), "Secret(..)");
    }

    #[test]
    fn generated_secrets_are_valid_and_differ() {
        let (one, two) = (Secret::generate(), Secret::generate());
        assert!(Secret::parse(&one).is_ok() && one != two);
    }
}
