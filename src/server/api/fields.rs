//! A request's JSON, field by field: each is taken by the one who reads it, and what nobody took is
//! refused by name.

use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::ApiError;

#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let wrong = |message: String| ApiError::new(StatusCode::BAD_REQUEST, message);
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(wrong("the body is not a JSON object".into())),
            Err(error) => Err(wrong(format!("the body is not valid JSON: {error}"))),
        }
    }

    /// A field as it came; none where it is missing or null.
    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A field of one type; none where it is missing or null.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let wrong = |error| ApiError::field(name, format!("'{name}' cannot be read: {error}"));
        serde_json::from_value(value).map(Some).map_err(wrong)
    }

    /// A field that must be there.
    pub fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        let missing = || ApiError::field(name, format!("'{name}' is missing"));
        self.take(name)?.ok_or_else(missing)
    }

    /// A number of a range.
    pub fn number<T>(
        &mut self,
        name: &str,
        fits: impl Fn(&T) -> bool,
        range: &str,
    ) -> Result<Option<T>, ApiError>
    where
        T: DeserializeOwned,
    {
        match self.take(name)? {
            Some(value) if !fits(&value) => Err(ApiError::field(
                name,
                format!("'{name}' is out of range: give {range}"),
            )),
            value => Ok(value),
        }
    }

    /// Ends the reading: refuses what is left, but for values that ask for nothing.
    pub fn end(self) -> Result<(), ApiError> {
        let left = self
            .0
            .iter()
            .find(|(name, value)| !asks_nothing(name, value));
        match left {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::field(
                name,
                format!("'{name}' is not supported here; leave it out"),
            )
            .code("unsupported_parameter")),
        }
    }
}

/// What clients send of themselves although it changes nothing.
fn asks_nothing(name: &str, value: &Value) -> bool {
    match name {
        // Names of the caller's, for its own logs.
        "user" | "metadata" | "safety_identifier" => true,
        "presence_penalty" | "frequency_penalty" | "min_p" => value.as_f64() == Some(0.0),
        "store" | "use_beam_search" | "parallel_tool_calls" => value == &Value::Bool(false),
        "best_of" => value.as_u64() == Some(1),
        "response_format" => value.get("type").and_then(Value::as_str) == Some("text"),
        "tool_choice" => value.as_str() == Some("none"),
        "service_tier" => value.as_str() == Some("auto"),
        _ => is_nothing(value),
    }
}

/// A field of such a value could as well be left out.
pub fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> ApiError {
        Fields::parse(body.as_bytes()).unwrap().end().unwrap_err()
    }

    #[test]
    fn what_nobody_took_is_refused_by_name() {
        let error = refused(r#"{"user": "me", "logit_bias": {"1": 5}}"#);
        assert_eq!(error.param.as_deref(), Some("logit_bias"));
        assert!(error.message.contains("'logit_bias' is not supported"));
        assert_eq!(
            refused(r#"{"presence_penalty": 0.5}"#).param.as_deref(),
            Some("presence_penalty")
        );
        let nothing = r#"{"logit_bias": {}, "presence_penalty": 0, "tools": null, "user": "me"}"#;
        Fields::parse(nothing.as_bytes()).unwrap().end().unwrap();
    }

    #[test]
    fn broken_json_is_a_clear_error() {
        let deep = "[".repeat(100_000);
        for body in ["", "[1]", "{\"a\": NaN}", "{\"a\": 1e999}", "\u{0}", &deep] {
            let error = Fields::parse(body.as_bytes()).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{body}");
        }
        assert!(Fields::parse(b"{\"a\": \"\xff\"}").is_err());
    }

    #[test]
    fn a_field_of_another_type_is_named() {
        let mut fields = Fields::parse(br#"{"n": "two", "seed": -1, "top_p": 3}"#).unwrap();
        for name in ["n", "seed"] {
            let error = fields.take::<u64>(name).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name));
        }
        let error = fields
            .number("top_p", |p: &f32| *p <= 1.0, "0 to 1")
            .unwrap_err();
        assert_eq!(error.param.as_deref(), Some("top_p"));
    }
}
