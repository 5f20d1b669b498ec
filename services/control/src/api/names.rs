//! Names of what is referred to, for one answer.

use std::collections::BTreeMap;

use actors_control::model::{Gateway, Group, Key, Kind, Object};
use actors_control::storage::{Page, list};
use protocol_identity::{PrincipalId, SiteId};
use uuid::Uuid;

use super::Api;
use super::auth::Admin;
use super::collection::Ref;
use super::problem::Problem;

/// After so many single looks for names of one kind, all of the kind are read at once.
const MOST_LOOKS: u32 = 16;

fn all() -> Page {
    Page { limit: usize::MAX, ..Page::default() }
}

/// Looks names up, each once.
pub struct Names<'a> {
    api: &'a Api,
    admin: &'a Admin,
    known: BTreeMap<(Kind, Uuid), String>,
    asked: BTreeMap<Kind, u32>,
    groups: Option<BTreeMap<PrincipalId, Vec<Uuid>>>,
    gateways: Option<BTreeMap<SiteId, Vec<Uuid>>>,
}

impl<'a> Names<'a> {
    /// Nothing known yet.
    pub fn new(api: &'a Api, admin: &'a Admin) -> Self {
        Self { api, admin, known: BTreeMap::new(), asked: BTreeMap::new(), groups: None, gateways: None }
    }

    /// A reference with its name; the id stands in for a name of what is gone.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn of(&mut self, kind: Kind, id: Uuid) -> Result<Ref, Problem> {
        if let Some(name) = self.known.get(&(kind, id)) {
            return Ok(Ref { id, name: name.clone() });
        }
        let asked = self.asked.entry(kind).or_default();
        *asked += 1;
        if *asked == MOST_LOOKS {
            for object in self.api.storage.list(self.admin.account.id, kind, all()).await? {
                let name = object.name().map_or_else(|| object.id().to_string(), str::to_owned);
                self.known.insert((kind, object.id()), name);
            }
            if let Some(name) = self.known.get(&(kind, id)) {
                return Ok(Ref { id, name: name.clone() });
            }
        }
        let found = self.api.storage.find(self.admin.account.id, kind, Key::Id(id)).await?;
        let name = found.as_ref().and_then(Object::name).map_or_else(|| id.to_string(), str::to_owned);
        self.known.insert((kind, id), name.clone());
        Ok(Ref { id, name })
    }

    /// The groups that a principal was put into.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn groups_of(&mut self, principal: PrincipalId) -> Result<Vec<Ref>, Problem> {
        let groups = match self.groups.take() {
            Some(groups) => groups,
            None => {
                let mut groups = BTreeMap::<PrincipalId, Vec<Uuid>>::new();
                for group in list::<Group>(&*self.api.storage, self.admin.account.id, all()).await? {
                    for member in group.members {
                        groups.entry(member).or_default().push(group.id.0);
                    }
                    self.known.insert((Kind::Group, group.id.0), group.name);
                }
                groups
            }
        };
        let own = groups.get(&principal).cloned().unwrap_or_default();
        self.groups = Some(groups);
        self.all(Kind::Group, own).await
    }

    /// The gateways of a site.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn gateways_of(&mut self, site: SiteId) -> Result<&[Uuid], Problem> {
        let gateways = match self.gateways.take() {
            Some(gateways) => gateways,
            None => {
                let mut gateways = BTreeMap::<SiteId, Vec<Uuid>>::new();
                for gateway in list::<Gateway>(&*self.api.storage, self.admin.account.id, all()).await? {
                    gateways.entry(gateway.site).or_default().push(gateway.id.0);
                }
                gateways
            }
        };
        Ok(self.gateways.insert(gateways).get(&site).map_or(&[], Vec::as_slice))
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
