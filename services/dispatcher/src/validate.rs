//! What is wrong with a body: no JSON, or not of its type's schema. Checked once, before dispatch.

use jetlane_schemas::json::{self, InvalidJson};
use jetlane_schemas::{Failure, PayloadCodec};
use serde::Deserialize;

/// The schema of a type's bodies, compiled.
#[derive(Debug)]
pub(crate) struct Schema(Option<jsonschema::Validator>);

impl Schema {
    /// Any JSON will do.
    pub(crate) fn any() -> Self {
        Self(None)
    }

    /// Compiles a schema; any JSON will do where there is none. References to other documents are refused.
    pub(crate) fn compile(schema: Option<&serde_json::Value>) -> Result<Self, String> {
        schema.map(jsonschema::validator_for).transpose().map(Self).map_err(|e| e.to_string())
    }

    /// Checks a body. The failure never quotes it: completions are read by others than its author.
    pub(crate) fn check(&self, codec: PayloadCodec, body: &[u8]) -> Result<(), Failure> {
        if codec == PayloadCodec::Bincode {
            return Ok(());
        }
        let no_json = |error: InvalidJson| Failure::new("json", format!("the body is no JSON: {error}"));
        let Some(validator) = &self.0 else { return json::check(body).map_err(no_json) };
        // Reading it checks its grammar and text as well; only its depth must be known to be bounded before.
        let value = match json::is_shallow(body).then(|| read(body)) {
            Some(Ok(value)) => value,
            Some(Err(_)) | None => {
                json::check(body).map_err(no_json)?;
                read(body).or_else(|_| read(&finite(body))).map_err(|error| no_json(error.into()))?
            }
        };
        validator.validate(&value).map_err(|error| Failure {
            path: Some(error.instance_path().as_str().to_owned()),
            ..Failure::new("schema", format!("the body does not fit the type's schema: {}", error.masked()))
        })
    }
}

/// Reads JSON whose depth is known to be bounded.
fn read(body: &[u8]) -> Result<serde_json::Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    reader.disable_recursion_limit();
    let value = serde_json::Value::deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// The same JSON, with the largest double in place of numbers that exceed it: a schema is checked with doubles,
/// and the body itself passes as it is.
fn finite(body: &[u8]) -> Vec<u8> {
    let (mut finite, mut rest, mut in_string) = (Vec::with_capacity(body.len()), body, false);
    while let Some(&byte) = rest.first() {
        let is_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let taken = match byte {
            b'"' => {
                in_string = !in_string;
                1
            }
            b'\\' => 2.min(rest.len()),
            b'-' | b'0'..=b'9' if !in_string => rest.iter().take_while(|byte| is_number(byte)).count(),
            _ => 1,
        };
        let (token, behind) = rest.split_at(taken);
        let number = if taken > 1 && !in_string { std::str::from_utf8(token).ok() } else { None };
        match number.and_then(|text| text.parse::<f64>().ok()) {
            Some(number) if number.is_infinite() => {
                finite.extend(f64::MAX.copysign(number).to_string().into_bytes());
            }
            Some(_) | None => finite.extend(token),
        }
        rest = behind;
    }
    finite
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        let schema = json!({
            "type": "object",
            "required": ["path"],
            "properties": { "path": { "type": "string" }, "sizes": { "type": "array", "items": { "type": "integer" } } },
        });
        Schema::compile(Some(&schema)).expect("compiles")
    }

    #[test]
    fn a_body_that_does_not_fit_is_told_by_its_path_without_being_quoted() {
        let body = br#"{"path":"a.png","sizes":[1,"secret"]}"#;
        let failure = schema().check(PayloadCodec::Json, body).expect_err("does not fit");
        assert_eq!((failure.code.as_str(), failure.path.as_deref()), ("schema", Some("/sizes/1")));
        assert!(!failure.message.contains("secret"), "{}", failure.message);
    }

    #[test]
    fn a_body_that_fits_passes() {
        assert_eq!(schema().check(PayloadCodec::Json, br#"{"path":"a.png","sizes":[]}"#), Ok(()));
    }

    #[test]
    fn no_json_is_refused_with_and_without_a_schema() {
        for schema in [schema(), Schema::any()] {
            for body in [&b""[..], b"{", b"{} {}", b"\xff\xfe", b"nil"] {
                let failure = schema.check(PayloadCodec::Json, body).expect_err("no JSON");
                assert_eq!(failure.code, "json");
            }
        }
    }

    #[test]
    fn a_body_nested_without_end_is_refused_and_overflows_no_stack() {
        let body = "[".repeat(200_000);
        assert!(Schema::any().check(PayloadCodec::Json, body.as_bytes()).is_err());
        assert!(schema().check(PayloadCodec::Json, body.as_bytes()).is_err());
    }

    #[test]
    fn a_body_is_checked_the_same_with_and_without_a_schema() {
        for schema in [Schema::any(), Schema::compile(Some(&json!(true))).expect("compiles")] {
            let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
            for body in
                ["18446744073709551616", "[-1e400, \"1e999\"]", r#"{"b":12345678901234567890123,"z":1.10}"#, &deep]
            {
                assert_eq!(schema.check(PayloadCodec::Json, body.as_bytes()), Ok(()), "{body}");
            }
            for body in [&b"{\"t\":\"\xff\xfe\"}"[..], br#"{"t":"\ud800"}"#] {
                let failure = schema.check(PayloadCodec::Json, body).expect_err("no JSON");
                assert_eq!(failure.code, "json");
            }
        }
        let numbers = Schema::compile(Some(&json!({ "type": "array", "items": { "maximum": 7 } }))).expect("compiles");
        assert!(numbers.check(PayloadCodec::Json, b"[1e400]").is_err(), "beyond every double is beyond 7");
        assert_eq!(numbers.check(PayloadCodec::Json, b"[-1e400]"), Ok(()));
    }

    #[test]
    fn a_schema_elsewhere_is_never_fetched() {
        let schema = json!({ "$ref": "http://127.0.0.1:1/schema.json" });
        assert!(Schema::compile(Some(&schema)).is_err());
    }
}
