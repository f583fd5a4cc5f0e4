//! What is wrong with a body: no JSON, or not of its type's schema. Checked once, before dispatch.

use jetlane_schemas::{Failure, PayloadCodec};
use serde::de::IgnoredAny;

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
        let no_json = |e: serde_json::Error| Failure::new("json", format!("the body is no JSON: {e}"));
        let Some(validator) = &self.0 else {
            return serde_json::from_slice::<IgnoredAny>(body).map(|_| ()).map_err(no_json);
        };
        let value: serde_json::Value = serde_json::from_slice(body).map_err(no_json)?;
        validator.validate(&value).map_err(|error| Failure {
            path: Some(error.instance_path().as_str().to_owned()),
            ..Failure::new("schema", format!("the body does not fit the type's schema: {}", error.masked()))
        })
    }
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
    fn a_schema_elsewhere_is_never_fetched() {
        let schema = json!({ "$ref": "http://127.0.0.1:1/schema.json" });
        assert!(Schema::compile(Some(&schema)).is_err());
    }
}
