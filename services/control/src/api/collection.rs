//! What all collections share: list, show, create, change, delete.

use std::future::Future;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actors_control::model::{Key, Object, Record};
use actors_control::storage::{Op, Page, StorageError, find, list};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::auth::Admin;
use super::body::Body;
pub use super::names::Names;
use super::precondition::{IfMatch, etag_header};
use super::problem::{Code, Problem};

/// A reference to something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Ref {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
}

/// Part of a collection.
#[derive(Debug, Serialize)]
pub struct Listed<T> {
    /// The things.
    pub items: Vec<T>,
    /// The cursor of the next part, if there is one.
    pub next: Option<String>,
}

/// The most references in one list of a body.
const MAX_REFS: usize = 1000;
/// Records that are read at once while a filter looks for those that fit.
const READ_AT_ONCE: usize = 500;

/// Which part of a collection, as the query says.
#[derive(Debug)]
pub struct ListQuery {
    /// At most this many.
    pub limit: usize,
    /// Only what was made after this.
    pub after: Option<Uuid>,
    name: Option<String>,
    filters: Vec<(&'static str, String)>,
}

impl ListQuery {
    /// Reads a query that may hold these filters beside `limit`, `after` and, where there are names, `name`.
    ///
    /// # Errors
    /// A limit or cursor that is none, an unknown parameter, or one that is there twice.
    pub fn read(query: &str, filters: &[Filter], named: bool) -> Result<Self, Problem> {
        let mut read = Self { limit: 200, after: None, name: None, filters: Vec::new() };
        let mut seen = std::collections::BTreeSet::new();
        let pairs = web::Query::<Vec<(String, String)>>::from_query(query)
            .map_err(|error| Problem::new(Code::Invalid, format!("the query: {error}")))?;
        for (key, value) in pairs.into_inner() {
            if !seen.insert(key.clone()) {
                return Err(Problem::field(&key, "it stands in the query twice; send it once"));
            }
            match key.as_str() {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=1000).contains(limit));
                    read.limit = limit.ok_or_else(|| Problem::field("limit", "write 1 to 1000"))?;
                }
                "after" => {
                    let after = value.parse();
                    let crooked = |_| Problem::field("after", "not a cursor; send what `next` said");
                    read.after = Some(after.map_err(crooked)?);
                }
                "name" if named => read.name = Some(value),
                other => match filters.iter().find(|filter| filter.name == other) {
                    Some(filter) if filter.takes(&value) => read.filters.push((filter.name, value)),
                    Some(filter) => return Err(Problem::field(other, filter.choices())),
                    None => {
                        let known: Vec<_> = filters.iter().map(|filter| filter.name).collect();
                        let also = if named { ", name" } else { "" };
                        let more =
                            if known.is_empty() { String::new() } else { format!(", {}", known.join(", ")) };
                        return Err(Problem::field(
                            other,
                            format!("unknown; this list takes limit, after{also}{more}"),
                        ));
                    }
                },
            }
        }
        Ok(read)
    }

    /// What a filter was given.
    pub fn filter(&self, name: &str) -> Option<&str> {
        self.filters.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_str())
    }

    /// Whether something that is shown passes all filters.
    fn passes(&self, shown: &serde_json::Value) -> bool {
        self.filters.iter().all(|(name, wanted)| {
            // `group` filters by what stands in `groups`.
            let value = shown.get(name).or_else(|| shown.get(plural(name)));
            value.is_some_and(|value| is(value, wanted))
        })
    }
}

fn plural(name: &str) -> String {
    format!("{name}s")
}

/// Whether a value is the wanted one: by its text, or a reference by id or name, or a list that holds it.
fn is(value: &serde_json::Value, wanted: &str) -> bool {
    use serde_json::Value;
    match value {
        Value::String(text) => text == wanted,
        Value::Bool(yes) => wanted == if *yes { "true" } else { "false" },
        Value::Number(number) => number.to_string() == wanted,
        Value::Array(items) => items.iter().any(|item| is(item, wanted)),
        Value::Object(reference) => {
            let id = reference.get("id").and_then(Value::as_str);
            let by_id = Uuid::parse_str(wanted).is_ok_and(|wanted| id == Some(wanted.to_string().as_str()));
            by_id || reference.get("name").and_then(Value::as_str) == Some(wanted)
        }
        Value::Null => false,
    }
}

/// Something that a list can be narrowed by.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    /// The parameter: a field of what is shown, or one of a list in it.
    pub name: &'static str,
    /// What it may be; empty for an id or name.
    pub values: &'static [&'static str],
}

impl Filter {
    /// By id or name.
    pub const fn by_ref(name: &'static str) -> Self {
        Self { name, values: &[] }
    }

    /// By one of a few words.
    pub const fn one_of(name: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, values }
    }

    fn takes(&self, value: &str) -> bool {
        self.values.is_empty() || self.values.contains(&value)
    }

    fn choices(&self) -> String {
        format!("write {}", self.values.join(" or "))
    }
}

/// Yes or no, in a query.
pub const YES_NO: &[&str] = &["true", "false"];
/// What a node's session may be.
pub const STATES: &[&str] = &["online", "draining", "offline"];

/// Finds what a field of a body refers to.
///
/// # Errors
/// There is none: the field is to blame.
pub async fn resolve<R: Record>(api: &Api, admin: &Admin, field: &str, text: &str) -> Result<R, Problem> {
    let found = find::<R>(&*api.storage, admin.account.id, Key::parse(text)).await;
    found.map_err(|error| Problem::from(error).blame(field))
}

/// Finds what a list in a body refers to.
///
/// # Errors
/// One is not there: its place in the list is to blame.
pub async fn resolve_all<R: Record>(
    api: &Api,
    admin: &Admin,
    field: &str,
    texts: &[String],
) -> Result<Vec<R>, Problem> {
    if texts.len() > MAX_REFS {
        return Err(Problem::field(field, format!("more than {MAX_REFS}; send fewer")));
    }
    let mut found = Vec::with_capacity(texts.len());
    for (n, text) in texts.iter().enumerate() {
        found.push(resolve(api, admin, &format!("{field}[{n}]"), text).await?);
    }
    Ok(found)
}

/// One kind of thing behind `/api/v1/<PATH>`.
pub trait Collection: 'static {
    /// The plural in the address.
    const PATH: &'static str;
    /// One of it, in words.
    const NOUN: &'static str;
    /// What is stored.
    type Record: Record;
    /// What is shown.
    type View: Serialize + ToSchema + 'static;
    /// What its list can be narrowed by.
    const FILTERS: &'static [Filter] = &[];
    /// Whether its things have names of their own.
    const NAMED: bool = true;

    /// Whether a stored record belongs to this collection.
    fn holds(record: &Self::Record) -> bool {
        let _ = record;
        true
    }

    /// Whether a record may go.
    fn deletable(
        api: &Api,
        admin: &Admin,
        record: &Self::Record,
    ) -> impl Future<Output = Result<(), Problem>> {
        let _ = (api, admin, record);
        async { Ok(()) }
    }

    /// A record as it is shown.
    fn view(
        api: &Api,
        record: Self::Record,
        names: &mut Names<'_>,
        online: &Online,
    ) -> impl Future<Output = Result<Self::View, Problem>>;
}

/// A collection that can be added to.
pub trait Create: Collection {
    /// The body.
    type Body: DeserializeOwned + ToSchema + 'static;
    /// What is shown once, after creating it.
    type Created: Serialize + ToSchema + 'static;

    /// Checks the body, writes, and shows.
    fn create(
        api: &Api,
        admin: &Admin,
        body: Self::Body,
    ) -> impl Future<Output = Result<Self::Created, Problem>>;

    /// The id in what is shown.
    fn id(created: &Self::Created) -> Uuid;
}

/// A collection whose things can be changed.
pub trait Change: Collection {
    /// The body: what is left out stays.
    type Body: DeserializeOwned + ToSchema + 'static;

    /// Checks the body and gives what it changes.
    fn change(
        api: &Api,
        admin: &Admin,
        body: Self::Body,
    ) -> impl Future<Output = Result<impl FnOnce(&mut Self::Record) -> Result<(), String> + Send + 'static, Problem>>;

    /// Changes of other records that belong to the same change.
    fn beside(
        api: &Api,
        admin: &Admin,
        record: &Self::Record,
        body: &Self::Body,
    ) -> impl Future<Output = Result<Vec<Op>, Problem>> {
        let _ = (api, admin, record, body);
        async { Ok(Vec::new()) }
    }
}

/// The nodes that are connected.
pub type Online = std::collections::BTreeMap<Uuid, actors_control::directory::Presence>;

/// `GET /<PATH>`
pub async fn list_all<C: Collection>(
    api: web::Data<Api>,
    admin: Admin,
    request: HttpRequest,
) -> Result<web::Json<Listed<serde_json::Value>>, Problem> {
    let query = ListQuery::read(request.query_string(), C::FILTERS, C::NAMED)?;
    let online = api.online(admin.account.id).await;
    let mut names = Names::new(&api, &admin);
    let (mut items, mut last, mut after) = (Vec::new(), None, query.after);
    // One more than is asked for tells whether there is more.
    let at_once = if query.filters.is_empty() { query.limit + 1 } else { READ_AT_ONCE };
    loop {
        let page = Page { after, limit: at_once, name: query.name.clone() };
        let records = list::<C::Record>(&*api.storage, admin.account.id, page).await?;
        let ended = records.len() < at_once;
        for record in records {
            let id = record.uuid();
            after = Some(id);
            if !C::holds(&record) {
                continue;
            }
            let view = C::view(&api, record, &mut names, &online).await?;
            let shown = serde_json::to_value(view);
            let shown = shown.map_err(|error| Problem::internal("an answer could not be written", &error))?;
            if !query.passes(&shown) {
                continue;
            }
            if items.len() == query.limit {
                return Ok(web::Json(Listed { items, next: last }));
            }
            items.push(shown);
            last = Some(id.to_string());
        }
        if ended {
            return Ok(web::Json(Listed { items, next: None }));
        }
    }
}

/// Finds a record of a collection.
///
/// # Errors
/// There is none.
pub async fn one<C: Collection>(api: &Api, admin: &Admin, key: &str) -> Result<C::Record, Problem> {
    let account = admin.account.id;
    let found = match Key::parse(key) {
        Key::Id(id) => match find::<C::Record>(&*api.storage, account, Key::Id(id)).await {
            Ok(record) => Some(record),
            Err(StorageError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        },
        // Two collections may share a kind, and a name then.
        Key::Name(name) => {
            let page = Page { after: None, limit: 16, name: Some(name) };
            list::<C::Record>(&*api.storage, account, page).await?.into_iter().find(C::holds)
        }
    };
    let noun = C::NOUN;
    found.filter(|record| C::holds(record)).ok_or_else(|| {
        Problem::new(Code::NotFound, format!("there is no {noun} {key}; list shows what there is"))
    })
}

/// `GET /<PATH>/{ref}`
pub async fn show<C: Collection>(
    api: web::Data<Api>,
    admin: Admin,
    key: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let record = one::<C>(&api, &admin, &key).await?;
    answer::<C>(&api, &admin, record).await
}

/// A record as it is shown now, with the tag to change it by.
async fn answer<C: Collection>(api: &Api, admin: &Admin, record: C::Record) -> Result<HttpResponse, Problem> {
    let object: Object = record.into();
    let tag = etag_header(&object);
    let record = C::Record::from_object(object);
    let record = record.ok_or_else(|| Problem::new(Code::Internal, "a record lost its kind"))?;
    Ok(HttpResponse::Ok().insert_header(tag).json(viewed::<C>(api, admin, record).await?))
}

/// A record as it is shown now.
pub async fn viewed<C: Collection>(api: &Api, admin: &Admin, record: C::Record) -> Result<C::View, Problem> {
    let online = api.online(admin.account.id).await;
    C::view(api, record, &mut Names::new(api, admin), &online).await
}

/// `POST /<PATH>`
pub async fn create<C: Create>(
    api: web::Data<Api>,
    admin: Admin,
    body: Body<C::Body>,
) -> Result<HttpResponse, Problem> {
    let created = C::create(&api, &admin, body.0).await?;
    let id = C::id(&created);
    let location = format!("/api/v1/{}/{id}", C::PATH);
    let made = api.storage.find(admin.account.id, C::Record::KIND, Key::Id(id)).await?;
    let tag = made.as_ref().map(etag_header);
    let mut response = HttpResponse::Created();
    // A token in it must not be kept on the way.
    response.insert_header((header::LOCATION, location)).insert_header((header::CACHE_CONTROL, "no-store"));
    if let Some(tag) = tag {
        response.insert_header(tag);
    }
    Ok(response.json(created))
}

/// `PATCH /<PATH>/{ref}`
pub async fn change<C: Change>(
    api: web::Data<Api>,
    admin: Admin,
    key: web::Path<String>,
    expected: IfMatch,
    body: Body<C::Body>,
) -> Result<HttpResponse, Problem> {
    let record = one::<C>(&api, &admin, &key).await?;
    let mut ops: Vec<Op> = expected.op(C::Record::KIND, record.uuid()).into_iter().collect();
    ops.extend(C::beside(&api, &admin, &record, &body.0).await?);
    let change = C::change(&api, &admin, body.0).await?;
    ops.push(patch::<C::Record>(record.uuid(), change));
    let committed = api.commit(&admin, ops).await?;
    let record = committed.last_object().cloned().and_then(C::Record::from_object);
    let record = record.ok_or_else(|| Problem::new(Code::Internal, "the change left nothing"))?;
    answer::<C>(&api, &admin, record).await
}

/// A step that changes a record.
pub fn patch<R: Record>(id: Uuid, change: impl FnOnce(&mut R) -> Result<(), String> + Send + 'static) -> Op {
    let patch = move |object: &mut Object| match R::from_object_mut(object) {
        Some(record) => change(record).map_err(StorageError::Refused),
        None => Err(StorageError::Damaged("record")),
    };
    Op::Patch(R::KIND, Key::Id(id), Box::new(patch))
}

/// `DELETE /<PATH>/{ref}`
pub async fn delete<C: Collection>(
    api: web::Data<Api>,
    admin: Admin,
    key: web::Path<String>,
    expected: IfMatch,
) -> Result<HttpResponse, Problem> {
    let record = one::<C>(&api, &admin, &key).await?;
    C::deletable(&api, &admin, &record).await?;
    let mut ops: Vec<Op> = expected.op(C::Record::KIND, record.uuid()).into_iter().collect();
    ops.push(Op::Delete(C::Record::KIND, Key::Id(record.uuid())));
    api.commit(&admin, ops).await?;
    Ok(HttpResponse::NoContent().finish())
}
