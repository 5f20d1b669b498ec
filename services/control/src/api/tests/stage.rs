//! A control plane with real actors and a real database, and an API to talk to.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::{App, test, web};
use actors_control::clock::Clock;
use actors_control::sql::{Location, Sql};
use actors_control::storage::Storage;
use actors_runtime::TreeHandle;
use jiff::Timestamp;
use protocol_identity::{CertificatePin, Token, TokenKind};
use serde_json::Value;
use services_chassis::Readiness;
use tempfile::TempDir;

use crate::api::{Api, Idempotency, Rates, Throttle, routes};
use crate::public::Public;
use crate::tree::{self, Context};

pub struct Stage {
    pub api: web::Data<Api>,
    pub token: String,
    pub storage: Arc<dyn Storage>,
    /// The admin token of an account beside the first.
    other: String,
    handle: TreeHandle,
    thread: Option<std::thread::JoinHandle<()>>,
    directory: Option<TempDir>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub location: Option<String>,
    pub kind: String,
    pub headers: actix_web::http::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }
}

impl Stage {
    pub async fn new() -> Self {
        Self::with_rates(Rates::default()).await
    }

    pub async fn with_rates(rates: Rates) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> =
            Arc::new(Sql::open(&Location::Sqlite(directory.path().join("control.sqlite"))).await.unwrap());
        let token = Token::generate(TokenKind::Admin).unwrap();
        storage.create_account("default".into(), token.hash(), Timestamp::now()).await.unwrap();
        let other = Token::generate(TokenKind::Admin).unwrap();
        storage.create_account("beside".into(), other.hash(), Timestamp::now()).await.unwrap();
        let tokens = (token.reveal().to_string(), other.reveal().to_string());
        Self::over(directory, storage, tokens, rates).await
    }

    async fn over(
        directory: TempDir,
        storage: Arc<dyn Storage>,
        (token, other): (String, String),
        rates: Rates,
    ) -> Self {
        let accounts = storage.accounts().await.unwrap();
        let (sender, addresses) = mpsc::channel();
        let context = Context {
            storage: Arc::clone(&storage),
            accounts: accounts.into_iter().map(|account| (account.id, account.name)).collect(),
            max_partition: Duration::from_secs(3600),
            flow_retention: Duration::from_secs(3600),
            countries: Default::default(),
            clock: Clock::System,
            addresses: sender,
        };
        let (started, wait) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let ended = tree::table().run_with(context, move |handle| started.send(handle.clone()).unwrap());
            assert_eq!(ended.unwrap(), 0);
        });
        let handle = wait.recv().unwrap();
        let tree::Addresses { store, offices, directory: sessions, audit } = addresses.recv().unwrap();
        let readiness = Readiness::default();
        readiness.ready();
        let api = web::Data::new(Api {
            storage: Arc::clone(&storage),
            store,
            offices,
            directory: sessions,
            audit,
            countries: Default::default(),
            clock: Clock::System,
            public: Public {
                url: "https://192.0.2.1:8443".into(),
                pin: Some(CertificatePin::of(b"certificate")),
            },
            readiness,
            throttle: Throttle::default(),
            rates,
            idempotency: Idempotency::default(),
            joins: tokio::sync::Semaphore::new(crate::api::JOINS),
        });
        Self { api, token, other, storage, handle, thread: Some(thread), directory: Some(directory) }
    }

    /// Ends everything and starts again over the same files.
    pub async fn restart(mut self) -> Self {
        self.stop();
        let directory = self.directory.take().unwrap();
        let storage = Sql::open(&Location::Sqlite(directory.path().join("control.sqlite"))).await.unwrap();
        let tokens = (self.token.clone(), self.other.clone());
        Self::over(directory, Arc::new(storage), tokens, Rates::default()).await
    }

    /// The same control plane as the administrator of the other account sees it.
    pub fn as_other(&self) -> Self {
        Self {
            api: self.api.clone(),
            token: self.other.clone(),
            other: self.token.clone(),
            storage: Arc::clone(&self.storage),
            handle: self.handle.clone(),
            thread: None,
            directory: None,
        }
    }

    fn stop(&mut self) {
        // A second view of the same control plane has no thread, and ends nothing.
        if let Some(thread) = self.thread.take() {
            self.handle.shutdown(0);
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }

    /// Asks as the administrator.
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        self.ask_as(Some(&self.token), method, path, body).await
    }

    pub async fn ask_as(&self, token: Option<&str>, method: &str, path: &str, body: Value) -> Answer {
        let mut request = test::TestRequest::default()
            .method(method.parse().unwrap())
            .uri(path)
            .peer_addr("198.51.100.7:5000".parse().unwrap());
        if let Some(token) = token {
            request = request.insert_header(("Authorization", format!("Bearer {token}")));
        }
        if !body.is_null() {
            request = request.set_json(body);
        }
        self.send(request).await
    }

    pub async fn send(&self, request: test::TestRequest) -> Answer {
        let app = test::init_service(App::new().app_data(self.api.clone()).configure(routes)).await;
        let response: ServiceResponse = app.call(request.to_request()).await.unwrap();
        let header = |name: &str| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let (status, location) = (response.status(), header("location"));
        let kind = header("content-type").unwrap_or_default();
        let headers = response.headers().clone();
        let body = test::read_body(response).await;
        Answer { status, location, kind, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.ask("POST", path, body).await;
        assert_eq!(answer.status, 201, "{path}: {}", answer.body);
        answer.body
    }

    pub async fn patch(&self, path: &str, body: Value) -> Value {
        let answer = self.ask("PATCH", path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    pub async fn delete(&self, path: &str) {
        let answer = self.ask("DELETE", path, Value::Null).await;
        assert_eq!(answer.status, 204, "{path}: {}", answer.body);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop();
    }
}
