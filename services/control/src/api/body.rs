//! Bodies: JSON, bounded, and checked field by field.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, web};
use protocol_policy::{Labels, Selector, check_label};
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::Value;

use super::problem::{Code, Problem};

/// The largest body, bytes.
pub const MAX_BODY: usize = 1024 * 1024;
/// How long a body may take to come.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// The longest name.
const MAX_NAME: usize = 64;
/// The longest description.
const MAX_DESCRIPTION: usize = 1024;

/// A JSON body.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for Body<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let is_json = request.content_type().eq_ignore_ascii_case("application/json");
        let payload = web::Payload::from_request(request, payload).into_inner();
        let announced = announced(request);
        Box::pin(async move {
            if !is_json {
                return Err(Problem::new(
                    Code::UnsupportedMediaType,
                    "the body must be JSON; send Content-Type: application/json",
                ));
            }
            let payload = payload.map_err(|_| Problem::new(Code::Invalid, "the body could not be read"))?;
            let bytes = read(payload, announced).await?;
            parse(&bytes).map(Self)
        })
    }
}

/// How long the body is, as the client says.
pub fn announced(request: &HttpRequest) -> Option<usize> {
    request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok())
}

/// Reads a body, bounded in size and in time.
pub async fn read(payload: web::Payload, announced: Option<usize>) -> Result<web::Bytes, Problem> {
    let too_large = || Problem::new(Code::TooLarge, format!("the body is over {MAX_BODY} bytes; send less"));
    if announced.is_some_and(|length| length > MAX_BODY) {
        return Err(too_large());
    }
    let late = || {
        let seconds = BODY_WITHIN.as_secs();
        Problem::new(Code::Timeout, format!("the body did not come within {seconds} s; send it at once"))
    };
    let whole = tokio::time::timeout(BODY_WITHIN, payload.to_bytes_limited(MAX_BODY)).await;
    let whole = whole.map_err(|_| late())?.map_err(|_| too_large())?;
    whole.map_err(|_| Problem::new(Code::Invalid, "the body could not be read"))
}

/// Reads a JSON object; an error names the field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let broken = |error: serde_json::Error| {
        // The position in a body that a program wrote helps nobody.
        let text = error.to_string();
        Problem::new(
            Code::Invalid,
            format!("the body: {}", text.split(" at line ").next().unwrap_or_default()),
        )
    };
    let mut value: Value = serde_json::from_slice(bytes).map_err(broken)?;
    if !value.is_object() {
        return Err(Problem::new(Code::Invalid, "the body must be a JSON object: {…}"));
    }
    make_whole(&mut value);
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let text = error.inner().to_string();
        // Unknown and missing fields stand in backticks in the text, beside the path of what holds them.
        let named = ["unknown field `", "missing field `"]
            .into_iter()
            .find_map(|start| text.strip_prefix(start)?.split('`').next().map(str::to_owned));
        let field = match (path.as_str(), named) {
            (".", None) => return Problem::new(Code::Invalid, format!("the body: {text}")),
            (".", Some(name)) => name,
            // An unknown field is in the path already; a missing one is not.
            (path, Some(name)) if !path.ends_with(&name) => format!("{path}.{name}"),
            (path, Some(_) | None) => path.to_owned(),
        };
        Problem::field(field, text)
    })
}

/// To JSON 60.0 and 60 are the same number; to what reads it as a whole one they shall be too.
fn make_whole(value: &mut Value) {
    /// Up to here a float is exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Some(float) = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < EXACT) {
                #[allow(clippy::cast_possible_truncation, reason = "it is whole and exact")]
                let whole = float as i64;
                *number = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(make_whole),
        Value::Object(fields) => fields.values_mut().for_each(make_whole),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Tells a field that is `null` from one that is left out: `Some(None)` and `None`.
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    json: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(json).map(Some)
}

/// Checks a name: 1 to 64 letters, digits, `.`, `_`, `-`, beginning with a letter or digit, and no UUID.
pub fn check_name(name: &str) -> Result<(), Problem> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if !first || !rest || name.len() > MAX_NAME {
        return Err(Problem::field(
            "name",
            format!(
                "not a name; write 1 to {MAX_NAME} letters, digits, dots, hyphens and underscores, a letter or digit first"
            ),
        ));
    }
    if uuid::Uuid::parse_str(name).is_ok() {
        return Err(Problem::field("name", "a name must not look like an id; choose another"));
    }
    Ok(())
}

/// Checks a description.
pub fn check_description(description: Option<&str>) -> Result<(), Problem> {
    match description {
        Some(text) if text.chars().count() > MAX_DESCRIPTION => Err(Problem::field(
            "description",
            format!("longer than {MAX_DESCRIPTION} characters; write less"),
        )),
        // PostgreSQL keeps no such text, and nobody means it.
        Some(text) if text.contains('\0') => Err(Problem::field("description", "it holds a zero character")),
        Some(_) | None => Ok(()),
    }
}

/// The most labels of one thing, or selectors in one rule.
const MAX_LABELS: usize = 64;

/// Checks labels.
///
/// # Errors
/// One that is none: its place is to blame.
pub fn check_labels(labels: &Labels) -> Result<(), Problem> {
    if labels.len() > MAX_LABELS {
        return Err(Problem::field("labels", format!("more than {MAX_LABELS}")));
    }
    for (name, value) in labels {
        check_label(name, value).map_err(|error| Problem::field(format!("labels.{name}"), error))?;
    }
    Ok(())
}

/// Reads selectors.
///
/// # Errors
/// One that is none: its place in the list is to blame.
pub fn selectors(field: &str, texts: &[String]) -> Result<BTreeSet<Selector>, Problem> {
    if texts.len() > MAX_LABELS {
        return Err(Problem::field(field, format!("more than {MAX_LABELS}")));
    }
    let read = |(n, text): (usize, &String)| {
        text.parse().map_err(|error| Problem::field(format!("{field}[{n}]"), error))
    };
    texts.iter().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Example {
        name: String,
        #[serde(default)]
        filters: Vec<u16>,
        #[serde(default, deserialize_with = "present")]
        description: Option<Option<String>>,
    }

    fn blamed(json: &str) -> Option<String> {
        parse::<Example>(json.as_bytes()).unwrap_err().field
    }

    #[test]
    fn an_error_names_the_field() {
        assert_eq!(blamed(r#"{"name": 7}"#).as_deref(), Some("name"));
        assert_eq!(blamed(r#"{"name": "a", "filters": [1, "x"]}"#).as_deref(), Some("filters[1]"));
        assert_eq!(blamed(r#"{"name": "a", "colour": 1}"#).as_deref(), Some("colour"));
        assert_eq!(blamed("{}").as_deref(), Some("name"));
        assert_eq!(blamed("[").as_deref(), None);
    }

    #[test]
    fn a_body_is_an_object_and_whole_numbers_may_have_a_point() {
        #[derive(Debug, Deserialize)]
        struct Seconds {
            seconds: Option<u64>,
        }

        assert_eq!(parse::<Seconds>(br#"{"seconds": 60.0}"#).unwrap().seconds, Some(60));
        assert_eq!(parse::<Seconds>(br#"{"seconds": 60.5}"#).unwrap_err().field.as_deref(), Some("seconds"));
        assert!(parse::<Seconds>(b"[null]").unwrap_err().detail.contains("object"));
        assert!(parse::<Seconds>(br#"{"seconds": 1} x"#).is_err());
    }

    #[test]
    fn null_and_left_out_are_two_things() {
        let absent: Example = parse(br#"{"name": "a"}"#).unwrap();
        let null: Example = parse(br#"{"name": "a", "description": null}"#).unwrap();

        assert_eq!((absent.description, null.description), (None, Some(None)));
    }

    #[test]
    fn names_are_checked() {
        for name in ["wiki", "a", "office-1", "10.0.0.0_8"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a b", "ä", &"a".repeat(65), "01890a5d-ac96-774b-bcce-b302099a8057"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
