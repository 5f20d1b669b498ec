//! Errors as `application/problem+json` (RFC 9457): which field is to blame, and what to do.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use actors_control::storage::StorageError;
use actors_control::store::with_cause;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, in a word that programs can rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request is malformed.
    Invalid,
    /// No token, or one that is not accepted.
    Unauthenticated,
    /// The token's scopes do not reach so far.
    Forbidden,
    /// There is no such thing in this account.
    NotFound,
    /// Not with this method.
    MethodNotAllowed,
    /// The name is taken, or something still uses it.
    Conflict,
    /// It is not as `If-Match` says any more.
    PreconditionFailed,
    /// The body, or what stands before it, did not come in time.
    Timeout,
    /// The body is too large.
    TooLarge,
    /// The headers are too large.
    HeadersTooLarge,
    /// The body is not JSON.
    UnsupportedMediaType,
    /// The WebSocket subprotocol is missing.
    UpgradeRequired,
    /// Too many failed sign-ins, or requests.
    SlowDown,
    /// Storage is busy or away.
    Unavailable,
    /// The disk of the database is full.
    StorageFull,
    /// A fault of the server.
    Internal,
}

impl Code {
    fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
            Self::SlowDown => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// The body of an error.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the status says the class of the error.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What went wrong and what to do, for a person.
    pub detail: String,
    /// What went wrong, for a program.
    pub code: Code,
    /// The field of the body that is to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    #[serde(skip)]
    headers: Box<Headers>,
}

/// What stands beside the body; apart from it, because most problems have none of this.
#[derive(Debug, Clone, Default)]
struct Headers {
    retry_after: Option<u64>,
    allow: Option<String>,
}

impl Problem {
    /// A problem that no one field is to blame for.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let status = code.status();
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or_default().into(),
            status: status.as_u16(),
            detail: detail.into(),
            code,
            field: None,
            headers: Box::default(),
        }
    }

    /// A field that is wrong.
    pub fn field(field: impl Into<String>, detail: impl fmt::Display) -> Self {
        let field = field.into();
        let problem = Self::new(Code::Invalid, format!("{field}: {detail}"));
        Self { field: Some(field), ..problem }
    }

    /// The same, to be tried again after so many seconds.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.headers.retry_after = Some(seconds);
        self
    }

    /// The same, blamed on a field of the body that the detail speaks of already.
    pub fn in_field(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..self }
    }

    /// The same, with the methods that would do.
    pub fn allow(mut self, methods: String) -> Self {
        self.headers.allow = Some(methods);
        self
    }

    /// The same, blamed on a field of the body.
    pub fn blame(self, field: impl Into<String>) -> Self {
        let field = field.into();
        Self { detail: format!("{field}: {}", self.detail), field: Some(field), ..self }
    }

    /// A fault of ours: the log has the cause, the answer does not.
    pub fn internal(what: &'static str, error: &dyn std::error::Error) -> Self {
        tracing::error!(error = %with_cause(error), "{what}");
        Self::new(Code::Internal, "control could not do it; its log says why")
    }

    /// Storage has too much to do.
    pub fn busy() -> Self {
        Self::new(Code::Unavailable, "storage is busy; try again").retry_after(1)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response.content_type("application/problem+json");
        if let Some(seconds) = self.headers.retry_after {
            response.insert_header((header::RETRY_AFTER, HeaderValue::from(seconds)));
        }
        if let Some(methods) =
            self.headers.allow.as_ref().and_then(|methods| HeaderValue::from_str(methods).ok())
        {
            response.insert_header((header::ALLOW, methods));
        }
        if self.code == Code::Unauthenticated {
            response.insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        response.body(serde_json::to_string(self).unwrap_or_default())
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NotFound { .. } => Self::new(Code::NotFound, error.to_string()),
            StorageError::NameTaken { .. } => {
                let problem = Self::new(Code::Conflict, format!("{error}; choose another name"));
                Self { field: Some("name".into()), ..problem }
            }
            StorageError::InUse { ref by_kind, ref by_name } => {
                Self::new(Code::Conflict, format!("{error}; delete or change {by_kind} {by_name} first"))
            }
            StorageError::Refused(detail) => Self::new(Code::Conflict, detail),
            StorageError::Changed { .. } => {
                Self::new(Code::PreconditionFailed, format!("{error}; read it again and decide anew"))
            }
            StorageError::Busy => Self::busy(),
            StorageError::Away(_) => {
                tracing::warn!(error = %with_cause(&error), "the database cannot be reached");
                let detail = "the database cannot be reached, and nothing was changed; try again. What was granted \
                              goes on meanwhile";
                Self::new(Code::Unavailable, detail).retry_after(5)
            }
            StorageError::Full(_) => {
                tracing::error!(error = %with_cause(&error), "the database cannot write");
                let detail = "the disk of the database is full or failing, and nothing was changed; make room, then \
                              try again. Reading and what was granted go on meanwhile";
                Self::new(Code::StorageFull, detail).retry_after(60)
            }
            StorageError::OtherInstallation
            | StorageError::Disabled(_)
            | StorageError::NoAddressLeft
            | StorageError::Database(_)
            | StorageError::Migration(_)
            | StorageError::Damaged(_) => Self::internal("the API could not reach storage", &error),
        }
    }
}
