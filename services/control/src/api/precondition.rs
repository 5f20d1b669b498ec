//! `ETag` and `If-Match`: a change that was decided on what is not there any more is refused.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{FromRequest, HttpRequest};
use actors_control::model::{Key, Kind, Object};
use actors_control::storage::{Op, StorageError};
use uuid::Uuid;

use super::problem::Problem;

/// What `If-Match` asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// It was not sent, or says `*`.
    Any,
    /// It must be one of these.
    OneOf(Vec<String>),
}

/// The tag of a record as it is.
pub fn etag(object: &Object) -> String {
    format!("\"{:016x}\"", object.revision())
}

/// The same, for a header.
pub fn etag_header(object: &Object) -> (header::HeaderName, HeaderValue) {
    let value = HeaderValue::from_str(&etag(object));
    (header::ETAG, value.unwrap_or_else(|_| HeaderValue::from_static("\"\"")))
}

impl IfMatch {
    /// Reads the header's value.
    fn read(text: &str) -> Result<Self, Problem> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::Any);
        }
        let tags: Vec<String> = text.split(',').map(|tag| tag.trim().to_owned()).collect();
        let is_tag = |tag: &String| tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"');
        if tags.iter().all(is_tag) {
            Ok(Self::OneOf(tags))
        } else {
            Err(Problem::field("If-Match", "send what the ETag of an answer said, with its quotes, or *"))
        }
    }

    /// The step that refuses the change unless it holds, in the change's own transaction.
    pub fn op(&self, kind: Kind, id: Uuid) -> Option<Op> {
        let Self::OneOf(tags) = self else { return None };
        let tags = tags.clone();
        let expectation = move |object: &Object| match tags.contains(&etag(object)) {
            true => Ok(()),
            false => Err(StorageError::Changed {
                kind: object.kind(),
                name: object.name().map_or_else(|| object.id().to_string(), str::to_owned),
            }),
        };
        Some(Op::Expect(kind, Key::Id(id), Box::new(expectation)))
    }
}

impl FromRequest for IfMatch {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match request.headers().get(header::IF_MATCH) {
            None => Ok(Self::Any),
            Some(value) => Self::read(value.to_str().unwrap_or_default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_with_quotes_and_refused_without() {
        assert_eq!(IfMatch::read("*").unwrap(), IfMatch::Any);
        assert_eq!(
            IfMatch::read("\"a\", \"b\"").unwrap(),
            IfMatch::OneOf(vec!["\"a\"".into(), "\"b\"".into()])
        );
        for text in ["", "a", "W/\"a\"", "\"a\", b"] {
            assert_eq!(IfMatch::read(text).unwrap_err().field.as_deref(), Some("If-Match"), "{text}");
        }
    }
}
