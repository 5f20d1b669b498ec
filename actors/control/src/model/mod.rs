//! What the control plane keeps: one plain struct for each kind of thing.

mod records;
mod resource;
mod target;

use std::fmt;

use protocol_identity::AccountId;
use uuid::Uuid;

pub(crate) use records::MAX_HOST;
pub use records::{
    Device, Gateway, Grant, GrantState, Group, Policy, Principal, Relay, Resource, Scope, Site, Token,
    inner_addresses,
};
pub use resource::{InvalidAddress, InvalidFilter, parse_address, parse_filter, write_address, write_filter};
pub use target::{NotADestination, Over, To};

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its id.
    pub id: AccountId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: jiff::Timestamp,
}

/// The kinds of things that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Kind {
    Site,
    Gateway,
    Relay,
    Device,
    Token,
    Resource,
    Group,
    Principal,
    Policy,
    Grant,
}

impl Kind {
    /// The kind's name, as the change log and the API write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Gateway => "gateway",
            Self::Relay => "relay",
            Self::Device => "device",
            Self::Token => "token",
            Self::Resource => "resource",
            Self::Group => "group",
            Self::Principal => "service-account",
            Self::Policy => "policy",
            Self::Grant => "grant",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How something is referred to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// By id.
    Id(Uuid),
    /// By name.
    Name(String),
}

impl Key {
    /// Text that reads as a UUID is an id; a name never does.
    pub fn parse(text: &str) -> Self {
        Uuid::parse_str(text).map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// One thing, whatever its kind.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Object {
    Site(Site),
    Gateway(Gateway),
    Relay(Relay),
    Device(Device),
    Token(Token),
    Resource(Resource),
    Group(Group),
    Principal(Principal),
    Policy(Policy),
    Grant(Box<Grant>),
}

/// A struct that [`Object`] has a variant for.
pub trait Record: Sized + Into<Object> + Send + 'static {
    /// Its kind.
    const KIND: Kind;
    /// Its id, without its kind.
    fn uuid(&self) -> Uuid;
    /// The struct inside, when the object is of this kind.
    fn from_object(object: Object) -> Option<Self>;
    /// The struct inside, when the object is of this kind.
    fn from_object_mut(object: &mut Object) -> Option<&mut Self>;
}

macro_rules! records {
    ($($name:ident),*) => {$(
        impl From<$name> for Object {
            fn from(record: $name) -> Self {
                Self::$name(record)
            }
        }

        impl Record for $name {
            const KIND: Kind = Kind::$name;
            fn uuid(&self) -> Uuid {
                self.id.0
            }
            fn from_object(object: Object) -> Option<Self> {
                if let Object::$name(record) = object { Some(record) } else { None }
            }
            fn from_object_mut(object: &mut Object) -> Option<&mut Self> {
                if let Object::$name(record) = object { Some(record) } else { None }
            }
        }
    )*};
}

records!(Site, Gateway, Relay, Device, Token, Resource, Group, Principal, Policy);

impl From<Grant> for Object {
    fn from(record: Grant) -> Self {
        Self::Grant(Box::new(record))
    }
}

impl Record for Grant {
    const KIND: Kind = Kind::Grant;
    fn uuid(&self) -> Uuid {
        self.id.0
    }
    fn from_object(object: Object) -> Option<Self> {
        if let Object::Grant(record) = object { Some(*record) } else { None }
    }
    fn from_object_mut(object: &mut Object) -> Option<&mut Self> {
        if let Object::Grant(record) = object { Some(record) } else { None }
    }
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Site(_) => Kind::Site,
            Self::Gateway(_) => Kind::Gateway,
            Self::Relay(_) => Kind::Relay,
            Self::Device(_) => Kind::Device,
            Self::Token(_) => Kind::Token,
            Self::Resource(_) => Kind::Resource,
            Self::Group(_) => Kind::Group,
            Self::Principal(_) => Kind::Principal,
            Self::Policy(_) => Kind::Policy,
            Self::Grant(_) => Kind::Grant,
        }
    }

    /// Its id, without its kind.
    pub fn id(&self) -> Uuid {
        match self {
            Self::Site(it) => it.id.0,
            Self::Gateway(it) => it.id.0,
            Self::Relay(it) => it.id.0,
            Self::Device(it) => it.id.0,
            Self::Token(it) => it.id.0,
            Self::Resource(it) => it.id.0,
            Self::Group(it) => it.id.0,
            Self::Principal(it) => it.id.0,
            Self::Policy(it) => it.id.0,
            Self::Grant(it) => it.id.0,
        }
    }

    /// Changes whenever somebody changes the record, and not when it is merely seen or used: what an administrator
    /// compares before writing over it. The same in every process of one version of this program.
    pub fn revision(&self) -> u64 {
        use std::hash::{Hash as _, Hasher as _};
        let mut still = self.clone();
        match &mut still {
            Self::Token(it) => it.last_used_at = None,
            Self::Gateway(it) => (it.token, it.version, it.last_seen_at) = (None, None, None),
            Self::Relay(it) => (it.token, it.version, it.last_seen_at) = (None, None, None),
            Self::Device(it) => {
                (it.token, it.version, it.last_seen_at) = (None, None, None);
                (it.os, it.os_version) = (None, None);
            }
            Self::Site(_)
            | Self::Resource(_)
            | Self::Group(_)
            | Self::Principal(_)
            | Self::Policy(_)
            | Self::Grant(_) => {}
        }
        // Without keys of its own: two processes agree.
        let mut hasher = std::hash::DefaultHasher::new();
        format!("{still:?}").hash(&mut hasher);
        hasher.finish()
    }

    /// Its name; a grant has none.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Site(it) => Some(&it.name),
            Self::Gateway(it) => Some(&it.name),
            Self::Relay(it) => Some(&it.name),
            Self::Device(it) => Some(&it.name),
            Self::Token(it) => Some(&it.name),
            Self::Resource(it) => Some(&it.name),
            Self::Group(it) => Some(&it.name),
            Self::Principal(it) => Some(&it.name),
            Self::Policy(it) => Some(&it.name),
            Self::Grant(_) => None,
        }
    }
}
