//! `/api/v1/openapi.json`: made from the same types that the handlers read and write, with what their fields may hold.

mod rules;

use std::sync::OnceLock;

use actix_web::HttpResponse;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::collection::{Change, Collection, Create, Filter};
use super::guard::{MAX_HEADERS, PUBLIC};
use super::{
    body, flows, grants, groups, nodes, policies, policy_file, problem, reports, resources, service_accounts,
    sites, tokens,
};

/// `GET /openapi.json`
pub async fn serve() -> HttpResponse {
    HttpResponse::Ok().json(document())
}

/// The methods that an address takes, as `Allow` lists them.
pub fn methods(pattern: &str) -> String {
    let item = document().get("paths").and_then(|paths| paths.get(pattern)).and_then(Value::as_object);
    let methods = item.into_iter().flatten().map(|(method, _)| method.to_uppercase());
    methods.collect::<Vec<_>>().join(", ")
}

/// What the document is built from.
#[derive(Default)]
struct Writer {
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
}

/// One operation, as far as operations differ.
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    id: String,
    tag: &'a str,
    summary: String,
    query: Vec<Value>,
    body: Option<Value>,
    status: &'a str,
    answer: Option<Value>,
    headers: &'a [&'a str],
}

/// What a refusal of this status means.
fn refusal(status: &str) -> &'static str {
    match status {
        "400" => "Malformed: `field` names what is wrong, `detail` says what to write",
        "401" => "No token, or one that is not known or has ended",
        "403" => "The token's scopes do not reach so far",
        "404" => "Nothing with that id or name in this account",
        "408" => "The body did not come in time",
        "409" => "The name is taken, something still refers to it, or it cannot be changed like this",
        "412" => "It was changed since the answer that `If-Match` comes from",
        "413" => "The body is too large",
        "415" => "The body is not JSON",
        "429" => {
            "Too many requests with this token, or failed sign-ins; `Retry-After` says when to come back"
        }
        "431" => "Address and headers are too large",
        "503" => "Storage is busy or away: nothing was changed, try again",
        "507" => "The disk of the database is full: reading goes on, nothing was changed",
        _ => "A fault of control; its log says why",
    }
}

impl Writer {
    /// A type among the components, by reference.
    fn shape<T: ToSchema>(&mut self) -> Value {
        let mut all: Vec<(String, RefOr<Schema>)> = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut all);
        for (name, schema) in all {
            if !self.schemas.contains_key(&name) {
                let mut schema = serde_json::to_value(schema).unwrap_or_default();
                rules::refine(&name, &mut schema);
                self.schemas.insert(name, schema);
            }
        }
        json!({"$ref": format!("#/components/schemas/{}", T::name())})
    }

    fn operation(&mut self, operation: Operation<'_>) {
        let Operation { method, path, id, tag, summary, query, body, status, answer, headers } = operation;
        let public = !path.starts_with("/api/v1/") || path == PUBLIC;
        let mut parameters = Vec::new();
        for part in path.split('/').filter(|part| part.starts_with('{')) {
            let name = part.trim_matches(['{', '}']);
            parameters.push(json!({
                "name": name, "in": "path", "required": true, "description": "Id or name",
                "schema": rules::reference(),
            }));
        }
        parameters.extend(query);
        let mut refused = vec!["400", "401", "403", "429", "431", "503"];
        if path.contains('{') {
            refused.push("404");
        }
        if body.is_some() {
            refused.extend(["404", "408", "413", "415"]);
        }
        if method != "get" {
            refused.extend(["409", "507"]);
        }
        let mut description = String::new();
        if matches!(method, "patch" | "delete") && !public {
            refused.push("412");
            description =
                "Takes `If-Match` with the `ETag` of an earlier answer: a change that was decided on \
                           something older is refused with 412."
                    .into();
        }
        if method == "post" {
            description =
                "Takes an `Idempotency-Key` (1 to 255 visible ASCII characters): the same request with the \
                           same key is carried out once, and answered again for 24 hours while control runs."
                    .into();
        }
        if public {
            refused.clear();
        }
        refused.sort_unstable();
        refused.dedup();
        let problem = self.shape::<problem::Problem>();
        let mut responses: Map<String, Value> = refused
            .into_iter()
            .map(|status| (status.to_owned(), problem_response(refusal(status), &problem)))
            .collect();
        let mut done = json!({"description": "Done"});
        match answer {
            Some(schema) if schema == json!("text/plain") => {
                done["content"] = json!({"text/plain": {"schema": {"type": "string"}}});
            }
            Some(schema) => done["content"] = json!({"application/json": {"schema": schema}}),
            None => {}
        }
        let limits: &[&str] =
            if public { &[] } else { &["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"] };
        let all = headers.iter().chain(limits);
        let all: Map<String, Value> = all.map(|name| ((*name).to_owned(), header(name))).collect();
        if !all.is_empty() {
            done["headers"] = all.into();
        }
        responses.insert(status.to_owned(), done);
        if path == "/readyz" {
            let text = json!({"description": "Not ready, and why",
                "content": {"text/plain": {"schema": {"type": "string"}}}});
            responses.insert("503".into(), text);
        }
        if !public {
            responses.insert("default".into(), problem_response(refusal(""), &problem));
        }
        let mut written = json!({
            "operationId": id, "tags": [tag], "summary": summary, "parameters": parameters, "responses": responses,
        });
        if !description.is_empty() {
            written["description"] = description.into();
        }
        if let Some(schema) = body {
            written["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        if public {
            written["security"] = json!([]);
        }
        let item = self.paths.entry(path).or_insert_with(|| json!({}));
        item[method] = written;
    }

    fn read<C: Collection>(&mut self) {
        let (path, noun) = (format!("/api/v1/{}", C::PATH), C::NOUN);
        let view = self.shape::<C::View>();
        let list = list_of(&view);
        self.operation(Operation {
            method: "get",
            path: &path,
            id: format!("list-{}", C::PATH),
            tag: C::PATH,
            summary: format!("Lists what kind {noun} there is, in the order in which they were made"),
            query: list_query(C::FILTERS, C::NAMED),
            body: None,
            status: "200",
            answer: Some(list),
            headers: &[],
        });
        let one = format!("{path}/{{ref}}");
        let noun_id = noun.replace(' ', "-");
        self.operation(Operation {
            method: "get",
            path: &one,
            id: format!("show-{noun_id}"),
            tag: C::PATH,
            summary: format!("Shows one {noun}"),
            query: Vec::new(),
            body: None,
            status: "200",
            answer: Some(view),
            headers: &["ETag"],
        });
        self.operation(Operation {
            method: "delete",
            path: &one,
            id: format!("delete-{noun_id}"),
            tag: C::PATH,
            summary: format!("Deletes one {noun}"),
            query: Vec::new(),
            body: None,
            status: "204",
            answer: None,
            headers: &[],
        });
    }

    fn change<C: Change>(&mut self) {
        let (body, view) = (self.shape::<C::Body>(), self.shape::<C::View>());
        self.operation(Operation {
            method: "patch",
            path: &format!("/api/v1/{}/{{ref}}", C::PATH),
            id: format!("change-{}", C::NOUN.replace(' ', "-")),
            tag: C::PATH,
            summary: format!("Changes one {}; what is left out stays", C::NOUN),
            query: Vec::new(),
            body: Some(body),
            status: "200",
            answer: Some(view),
            headers: &["ETag"],
        });
    }

    fn create<C: Create>(&mut self) {
        let (body, created) = (self.shape::<C::Body>(), self.shape::<C::Created>());
        self.operation(Operation {
            method: "post",
            path: &format!("/api/v1/{}", C::PATH),
            id: format!("create-{}", C::NOUN.replace(' ', "-")),
            tag: C::PATH,
            summary: format!("Makes one {}", C::NOUN),
            query: Vec::new(),
            body: Some(body),
            status: "201",
            answer: Some(created),
            headers: &["Location", "ETag"],
        });
    }

    fn editable<C: Create + Change>(&mut self) {
        self.read::<C>();
        self.create::<C>();
        self.change::<C>();
    }

    fn joined<C: Change>(&mut self) {
        self.read::<C>();
        self.change::<C>();
    }

    /// What is no collection of its own.
    fn beside(
        &mut self,
        (method, path, id): (&str, &str, &str),
        summary: &str,
        query: Vec<Value>,
        body: Option<Value>,
        (status, answer): (&str, Option<Value>),
    ) {
        let tag = path.strip_prefix("/api/v1/").and_then(|rest| rest.split('/').next()).unwrap_or("beside");
        self.operation(Operation {
            method,
            path,
            id: id.into(),
            tag,
            summary: summary.into(),
            query,
            body,
            status,
            answer,
            headers: &[],
        });
    }
}

fn problem_response(description: &str, problem: &Value) -> Value {
    json!({"description": description, "content": {"application/problem+json": {"schema": problem}}})
}

fn header(name: &str) -> Value {
    let number = json!({"type": "integer", "minimum": 0});
    let text = json!({"type": "string"});
    let (description, schema) = match name {
        "ETag" => ("Stands for the object as an administrator last left it; send it in `If-Match`", text),
        "Location" => ("Where it is", text),
        "RateLimit-Limit" => ("Requests that the token may make at once", number),
        "RateLimit-Remaining" => ("How many of them are left", number),
        _ => ("Seconds until all of them are there again", number),
    };
    json!({"description": description, "required": true, "schema": schema})
}

fn parameter(name: &str, description: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "query", "required": false, "description": description, "schema": schema})
}

fn list_query(filters: &[Filter], named: bool) -> Vec<Value> {
    let limit = json!({"type": "integer", "minimum": 1, "maximum": 1000, "default": 200});
    let mut query = vec![
        parameter("limit", "At most so many", &limit),
        parameter(
            "after",
            "What `next` of the part before said",
            &json!({"type": "string", "format": "uuid"}),
        ),
    ];
    if named {
        query.push(parameter("name", "Only with this name", &json!({"type": "string"})));
    }
    for filter in filters {
        let schema = match filter.values {
            [] => json!({"type": "string"}),
            values => json!({"type": "string", "enum": values}),
        };
        query.push(parameter(filter.name, &format!("Only with this {}", filter.name), &schema));
    }
    query
}

/// A part of a collection.
fn list_of(item: &Value) -> Value {
    json!({
        "type": "object",
        "required": ["items", "next"],
        "properties": {
            "items": {"type": "array", "items": item},
            "next": {"type": ["string", "null"], "description": "The cursor of the next part, if there is one"},
        },
    })
}

fn written() -> Value {
    let mut writer = Writer::default();
    writer.editable::<sites::Sites>();
    writer.joined::<nodes::Gateways>();
    writer.joined::<nodes::Relays>();
    writer.joined::<nodes::Devices>();
    writer.editable::<tokens::GatewayTokens>();
    writer.editable::<tokens::RelayTokens>();
    writer.editable::<tokens::AdminTokens>();
    writer.editable::<resources::Resources>();
    writer.editable::<policies::Policies>();
    writer.editable::<groups::Groups>();
    writer.editable::<service_accounts::ServiceAccounts>();
    writer.read::<grants::Grants>();

    let (reference, group) = (writer.shape::<super::collection::Ref>(), writer.shape::<groups::GroupView>());
    let member = writer.shape::<groups::MemberCreate>();
    let members = "/api/v1/groups/{ref}/members";
    let all = list_of(&reference);
    let part = || list_query(&[], false);
    writer.beside(("get", members, "list-members"), "Lists the members", part(), None, ("200", Some(all)));
    let added = ("201", Some(group));
    writer.beside(("post", members, "add-member"), "Adds a member", Vec::new(), Some(member), added);
    let member = "/api/v1/groups/{ref}/members/{principal}";
    let removed = ("204", None);
    writer.beside(("delete", member, "remove-member"), "Removes a member", Vec::new(), None, removed);

    let (token, created) = (writer.shape::<tokens::TokenView>(), writer.shape::<tokens::TokenCreated>());
    let body = writer.shape::<tokens::ServiceTokenCreate>();
    let of_account = "/api/v1/service-accounts/{ref}/tokens";
    let all = ("200", Some(list_of(&token)));
    writer.beside(("get", of_account, "list-tokens"), "Lists its tokens", part(), None, all);
    let made = ("201", Some(created));
    writer.beside(("post", of_account, "create-token"), "Makes a token", Vec::new(), Some(body), made);
    let token = "/api/v1/service-accounts/{ref}/tokens/{token}";
    writer.beside(("delete", token, "delete-token"), "Deletes a token", Vec::new(), None, ("204", None));

    let file = writer.shape::<policy_file::PolicyFileGiven>();
    let planned = ("200", Some(writer.shape::<policy_file::PlanView>()));
    let exported = ("200", Some(writer.shape::<policy_file::PolicyFileView>()));
    let export = ("get", "/api/v1/policy-file", "export-policy-file");
    writer.beside(export, "Writes the policies as a file", Vec::new(), None, exported);
    let (plan, told) = (("post", "/api/v1/policy-file/plan", "plan-policy-file"), planned.clone());
    let summary = "Says what a policy file would change, and runs its tests";
    writer.beside(plan, summary, Vec::new(), Some(file.clone()), told);
    let apply = ("post", "/api/v1/policy-file/apply", "apply-policy-file");
    let summary = "Runs a policy file's tests and stores its policies";
    writer.beside(apply, summary, Vec::new(), Some(file), planned);
    let asked = writer.shape::<reports::DecisionAsked>();
    let decided = ("200", Some(writer.shape::<reports::DecisionView>()));
    let decide = ("post", "/api/v1/decisions", "decide");
    writer.beside(decide, "Says what would be decided, and why", Vec::new(), Some(asked), decided);
    let rows = ("200", Some(writer.shape::<reports::AuditPart>()));
    let query = vec![
        parameter("limit", "At most so many", &json!({"type": "integer", "minimum": 1, "maximum": 1000})),
        parameter(
            "after",
            "Only rows after this one",
            &json!({"type": "string", "pattern": super::patterns::SEQUENCE}),
        ),
    ];
    writer.beside(("get", "/api/v1/audit", "read-audit"), "Reads the audit log", query, None, rows);
    let part = ("200", Some(writer.shape::<flows::FlowPart>()));
    let mut query = list_query(&flows::FILTERS, false);
    let moment = json!({"type": "string", "format": "date-time"});
    query.push(parameter("since", "Only what had not ended then", &moment));
    query.push(parameter("until", "Only what had begun before then", &moment));
    writer.beside(("get", "/api/v1/flows", "list-flows"), "Lists flows that have ended", query, None, part);
    let account = ("200", Some(writer.shape::<reports::AccountView>()));
    let show = ("get", "/api/v1/account", "show-account");
    writer.beside(show, "Shows the token's account", Vec::new(), None, account);

    let any = ("200", Some(json!({"type": "object"})));
    writer.beside(("get", PUBLIC, "show-openapi"), "Shows this document", Vec::new(), None, any);
    let text = || ("200", Some(json!("text/plain")));
    writer.beside(("get", "/healthz", "healthz"), "Says that the process lives", Vec::new(), None, text());
    writer.beside(("get", "/readyz", "readyz"), "Says whether it does its work", Vec::new(), None, text());

    let Writer { paths, mut schemas } = writer;
    rules::add_conditions(&mut schemas);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Postern control API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": format!(
                "Sites, resources, policies and what else one account holds. The token decides the account. Errors are \
                 `application/problem+json`. Headers are at most {MAX_HEADERS} bytes, bodies {} bytes. \
                 Nodes hold WebSocket sessions at `/session`, with their own tokens; those are not described here.",
                body::MAX_BODY
            ),
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"admin": {"type": "http", "scheme": "bearer", "description": "An admin token"}},
        },
        "security": [{"admin": []}],
    })
}

/// The document.
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(written)
}
