//! What all collections share: list, show, create, change, delete.

use std::collections::BTreeMap;
use std::future::Future;

use actix_web::http::header;
use actix_web::{HttpResponse, web};
use actors_control::model::{Key, Kind, Object, Record};
use actors_control::storage::{Op, Page, find, list};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::auth::Admin;
use super::body::Body;
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

/// Which part of a collection.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    limit: Option<usize>,
    after: Option<String>,
    name: Option<String>,
}

impl ListQuery {
    /// The page that is asked for.
    ///
    /// # Errors
    /// A limit or cursor that is none.
    pub fn page(&self) -> Result<Page, Problem> {
        let limit = self.limit.unwrap_or(200);
        if !(1..=1000).contains(&limit) {
            return Err(Problem::field("limit", "write 1 to 1000"));
        }
        let after = self.after.as_ref().map(|after| after.parse()).transpose();
        let after = after.map_err(|_| Problem::field("after", "not a cursor; send what `next` said"))?;
        Ok(Page { after, limit, name: self.name.clone() })
    }
}

/// Looks names up, each once.
pub struct Names<'a> {
    api: &'a Api,
    admin: &'a Admin,
    known: BTreeMap<(Kind, Uuid), String>,
}

impl<'a> Names<'a> {
    /// Nothing known yet.
    pub fn new(api: &'a Api, admin: &'a Admin) -> Self {
        Self { api, admin, known: BTreeMap::new() }
    }

    /// The account that it is about.
    pub fn account(&self) -> protocol_identity::AccountId {
        self.admin.account.id
    }

    /// A reference with its name; the id stands in for a name of what is gone.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn of(&mut self, kind: Kind, id: Uuid) -> Result<Ref, Problem> {
        if let Some(name) = self.known.get(&(kind, id)) {
            return Ok(Ref { id, name: name.clone() });
        }
        let found = self.api.storage.find(self.admin.account.id, kind, Key::Id(id)).await?;
        let name = found.as_ref().and_then(Object::name).map_or_else(|| id.to_string(), str::to_owned);
        self.known.insert((kind, id), name.clone());
        Ok(Ref { id, name })
    }

    /// References, sorted by name.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn all(
        &mut self,
        kind: Kind,
        ids: impl IntoIterator<Item = Uuid>,
    ) -> Result<Vec<Ref>, Problem> {
        let mut refs = Vec::new();
        for id in ids {
            refs.push(self.of(kind, id).await?);
        }
        refs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(refs)
    }
}

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

    /// Whether a stored record belongs to this collection.
    fn holds(record: &Self::Record) -> bool {
        let _ = record;
        true
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
    query: web::Query<ListQuery>,
) -> Result<web::Json<Listed<C::View>>, Problem> {
    let page = query.page()?;
    let records = list::<C::Record>(&*api.storage, admin.account.id, page.clone()).await?;
    let full = records.len() == page.limit;
    let next = records.last().filter(|_| full).map(|record| record.uuid().to_string());
    let online = api.online(admin.account.id).await;
    let mut names = Names::new(&api, &admin);
    let mut items = Vec::with_capacity(records.len());
    for record in records.into_iter().filter(C::holds) {
        items.push(C::view(&api, record, &mut names, &online).await?);
    }
    Ok(web::Json(Listed { items, next }))
}

/// Finds a record of a collection.
///
/// # Errors
/// There is none.
pub async fn one<C: Collection>(api: &Api, admin: &Admin, key: &str) -> Result<C::Record, Problem> {
    let account = admin.account.id;
    let found = match Key::parse(key) {
        Key::Id(id) => find::<C::Record>(&*api.storage, account, Key::Id(id)).await.ok(),
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
) -> Result<web::Json<C::View>, Problem> {
    let record = one::<C>(&api, &admin, &key).await?;
    Ok(web::Json(viewed::<C>(&api, &admin, record).await?))
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
    let location = format!("/api/v1/{}/{}", C::PATH, C::id(&created));
    // A token in it must not be kept on the way.
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, location))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(created))
}

/// `PATCH /<PATH>/{ref}`
pub async fn change<C: Change>(
    api: web::Data<Api>,
    admin: Admin,
    key: web::Path<String>,
    body: Body<C::Body>,
) -> Result<web::Json<C::View>, Problem> {
    let record = one::<C>(&api, &admin, &key).await?;
    let mut ops = C::beside(&api, &admin, &record, &body.0).await?;
    let change = C::change(&api, &admin, body.0).await?;
    ops.push(patch::<C::Record>(record.uuid(), change));
    let committed = api.commit(&admin, ops).await?;
    let record = committed.last_object().cloned().and_then(C::Record::from_object);
    let record = record.ok_or_else(|| Problem::new(Code::Internal, "the change left nothing"))?;
    Ok(web::Json(viewed::<C>(&api, &admin, record).await?))
}

/// A step that changes a record.
pub fn patch<R: Record>(id: Uuid, change: impl FnOnce(&mut R) -> Result<(), String> + Send + 'static) -> Op {
    let patch = move |object: &mut Object| match R::from_object_mut(object) {
        Some(record) => change(record).map_err(actors_control::storage::StorageError::Refused),
        None => Err(actors_control::storage::StorageError::Damaged("record")),
    };
    Op::Patch(R::KIND, Key::Id(id), Box::new(patch))
}

/// `DELETE /<PATH>/{ref}`
pub async fn delete<C: Collection>(
    api: web::Data<Api>,
    admin: Admin,
    key: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = one::<C>(&api, &admin, &key).await?.uuid();
    api.commit(&admin, vec![Op::Delete(C::Record::KIND, Key::Id(id))]).await?;
    Ok(HttpResponse::NoContent().finish())
}
