//! What the API holds: where each kind lives, what of it fits a table, and its body from flags.

use serde_json::{Map, Value, json};

use super::api::object;
use super::cli;
use services_chassis::Failure;

/// One kind of thing.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// As it is called on the command line.
    pub noun: &'static str,
    /// Its collection's name in the API.
    pub collection: &'static str,
    /// Heading and member (a JSON pointer) of each column of its table.
    pub columns: &'static [(&'static str, &'static str)],
}

macro_rules! kinds {
    ($($name:ident = $noun:literal, $collection:literal, [$($head:literal: $member:literal),* $(,)?];)*) => {$(
        pub const $name: Kind =
            Kind { noun: $noun, collection: $collection, columns: &[$(($head, $member)),*] };
    )*};
}

kinds! {
    SITE = "site", "sites", ["NAME": "/name", "GATEWAYS": "/gateways", "CREATED": "/created_at"];
    GATEWAY = "gateway", "gateways", ["NAME": "/name", "SITE": "/site", "STATE": "/state", "DRAINING": "/draining", "VERSION": "/version", "ADDRESS": "/inner_ipv4", "LAST SEEN": "/last_seen_at"];
    RELAY = "relay", "relays", ["NAME": "/name", "REGION": "/region", "STATE": "/state", "VERSION": "/version", "ADDRESSES": "/addresses", "LAST SEEN": "/last_seen_at"];
    DEVICE = "device", "devices", ["NAME": "/name", "PRINCIPAL": "/principal", "STATE": "/state", "VERIFIED": "/verified", "DISABLED": "/disabled", "ADDRESS": "/inner_ipv4", "LAST SEEN": "/last_seen_at"];
    GATEWAY_TOKEN = "gateway-token", "gateway-tokens", ["NAME": "/name", "SITE": "/site", "EXPIRES": "/expires_at", "LAST USED": "/last_used_at", "ID": "/id"];
    RELAY_TOKEN = "relay-token", "relay-tokens", ["NAME": "/name", "REGION": "/region", "EXPIRES": "/expires_at", "LAST USED": "/last_used_at", "ID": "/id"];
    ADMIN_TOKEN = "admin-token", "admin-tokens", ["NAME": "/name", "SCOPES": "/scopes", "EXPIRES": "/expires_at", "LAST USED": "/last_used_at", "ID": "/id"];
    RESOURCE = "resource", "resources", ["NAME": "/name", "KIND": "/kind", "ADDRESS": "/address", "SITE": "/site", "FILTERS": "/filters", "LISTED": "/listed"];
    GROUP = "group", "groups", ["NAME": "/name", "KIND": "/kind", "MEMBERS": "/members"];
    SERVICE_ACCOUNT = "service-account", "service-accounts", ["NAME": "/name", "GROUPS": "/groups", "DISABLED": "/disabled", "CREATED": "/created_at"];
    SERVICE_ACCOUNT_TOKEN = "token", "tokens", ["NAME": "/name", "EXPIRES": "/expires_at", "LAST USED": "/last_used_at", "ID": "/id"];
    POLICY = "policy", "policies", ["NAME": "/name", "EFFECT": "/effect", "GROUPS": "/groups", "RESOURCES": "/resources", "CONDITIONS": "/conditions", "ENABLED": "/enabled"];
    GRANT = "grant", "grants", ["DEVICE": "/device", "RESOURCE": "/resource", "GATEWAY": "/gateway", "POLICY": "/policy", "STATE": "/state", "EXPIRES": "/expires_at", "ID": "/id"];
    FLOW = "flow", "flows", ["ENDED": "/ended_at", "PRINCIPAL": "/principal", "DEVICE": "/device", "RESOURCE": "/resource", "PROTOCOL": "/protocol", "TO": "/destination", "PATH": "/path", "BYTES IN": "/bytes_in", "BYTES OUT": "/bytes_out", "END": "/end"];
    AUDIT = "entry", "audit", ["SEQUENCE": "/sequence", "AT": "/at", "ACTOR": "/actor", "ACTION": "/action", "KIND": "/kind", "NAME": "/name"];
}

fn some_list(values: &[String]) -> Option<Value> {
    (!values.is_empty()).then(|| json!(values))
}

/// Turns flags into what the API takes for a new thing.
pub trait Create {
    /// The body of the request.
    fn body(&self) -> Map<String, Value>;
}

/// Turns flags into what the API takes for a change.
pub trait Change {
    /// The body of the request, without what stays.
    fn body(&self) -> Result<Map<String, Value>, Failure>;
}

impl Create for cli::SiteCreate {
    fn body(&self) -> Map<String, Value> {
        object([("name", Some(json!(self.name))), ("description", self.description.clone().map(Value::from))])
    }
}

impl Create for cli::ResourceCreate {
    fn body(&self) -> Map<String, Value> {
        let (kind, address) = match (&self.cidr, &self.ip, &self.dns) {
            (Some(cidr), _, _) => ("cidr", Some(cidr.to_string())),
            (None, Some(ip), _) => ("ip", Some(ip.to_string())),
            (None, None, name) => ("dns", name.clone()),
        };
        object([
            ("name", Some(json!(self.name))),
            ("kind", Some(json!(kind))),
            ("address", address.map(Value::from)),
            ("site", Some(json!(self.site))),
            ("listed", Some(json!(self.listed))),
            ("filters", Some(json!(self.filters))),
            ("labels", some_labels(&self.labels, false)),
            ("description", self.description.clone().map(Value::from)),
        ])
    }
}

impl Create for cli::GroupCreate {
    fn body(&self) -> Map<String, Value> {
        object([("name", Some(json!(self.name))), ("members", some_list(&self.members))])
    }
}

impl Create for cli::PolicyCreate {
    fn body(&self) -> Map<String, Value> {
        let conditions = self.conditions.body();
        object([
            ("name", Some(json!(self.name))),
            ("groups", Some(json!(self.groups))),
            ("principal_labels", some_list(&self.principal_labels)),
            ("resources", Some(json!(self.resources))),
            ("resource_labels", some_list(&self.resource_labels)),
            ("effect", Some(json!(if self.deny { "deny" } else { "allow" }))),
            ("enabled", Some(json!(!self.disabled))),
            ("conditions", (!conditions.is_empty()).then_some(conditions.into())),
            ("max_session_seconds", self.max_session.map(|longest| json!(longest.as_secs()))),
        ])
    }
}

impl Create for cli::GatewayTokenCreate {
    fn body(&self) -> Map<String, Value> {
        let mut body =
            object([("name", self.name.clone().map(Value::from)), ("site", Some(json!(self.site)))]);
        body.extend(self.token.body());
        body
    }
}

impl Create for cli::RelayTokenCreate {
    fn body(&self) -> Map<String, Value> {
        let mut body = object([
            ("name", self.name.clone().map(Value::from)),
            ("region", self.region.clone().map(Value::from)),
            ("latitude", self.latitude.map(Value::from)),
            ("longitude", self.longitude.map(Value::from)),
        ]);
        body.extend(self.token.body());
        body
    }
}

impl Create for cli::AdminTokenCreate {
    fn body(&self) -> Map<String, Value> {
        let mut body =
            object([("name", self.name.clone().map(Value::from)), ("scopes", some_list(&self.scopes))]);
        body.extend(self.token.body());
        body
    }
}

impl Create for cli::ServiceAccountCreate {
    fn body(&self) -> Map<String, Value> {
        let mut body = object([
            ("name", Some(json!(self.name))),
            ("groups", some_list(&self.groups)),
            ("labels", some_labels(&self.labels, false)),
            ("token", self.no_token.then_some(json!(false))),
        ]);
        body.extend(self.token.body());
        body
    }
}

impl Create for cli::ServiceAccountToken {
    fn body(&self) -> Map<String, Value> {
        let mut body = object([("name", self.name.clone().map(Value::from))]);
        body.extend(self.token.body());
        body
    }
}

impl Create for cli::TokenFlags {
    fn body(&self) -> Map<String, Value> {
        object([("expires_in_seconds", self.expires.map(|end| json!(end.as_secs())))])
    }
}

/// Labels as an object, when there are any or all are taken away.
fn some_labels(labels: &[(String, String)], none: bool) -> Option<Value> {
    let object: Map<String, Value> =
        labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    (none || !object.is_empty()).then_some(Value::Object(object))
}

impl Change for cli::GatewayUpdate {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        Ok(object([
            ("name", self.new_name.clone().map(Value::from)),
            ("draining", self.draining.map(Value::from)),
        ]))
    }
}

impl Change for cli::SiteUpdate {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        Ok(object([
            ("name", self.new_name.clone().map(Value::from)),
            ("description", self.description.clone().map(Value::from)),
        ]))
    }
}

impl Change for cli::RelayUpdate {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        Ok(object([
            ("name", self.new_name.clone().map(Value::from)),
            ("region", self.region.clone().map(Value::from)),
            ("latitude", self.latitude.map(Value::from)),
            ("longitude", self.longitude.map(Value::from)),
        ]))
    }
}

impl Change for cli::DeviceUpdate {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        Ok(object([
            ("name", self.new_name.clone().map(Value::from)),
            ("verified", self.verified.map(Value::from)),
            ("disabled", self.disabled.map(Value::from)),
        ]))
    }
}

impl Change for cli::TokenUpdate {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        let expires = match (self.expires, self.never_expires) {
            (Some(end), _) => Some(json!(end.as_secs())),
            (None, true) => Some(Value::Null),
            (None, false) => None,
        };
        Ok(object([("name", self.new_name.clone().map(Value::from)), ("expires_in_seconds", expires)]))
    }
}

impl Change for cli::ResourceUpdate {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        let filters = if self.no_filters { Some(json!([])) } else { some_list(&self.filters) };
        Ok(object([
            ("name", self.new_name.clone().map(Value::from)),
            ("site", self.site.clone().map(Value::from)),
            ("address", self.address.clone().map(Value::from)),
            ("filters", filters),
            ("labels", some_labels(&self.labels, self.no_labels)),
            ("listed", self.listed.map(Value::from)),
            ("description", self.description.clone().map(Value::from)),
        ]))
    }
}

impl Change for cli::GroupUpdate {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        Ok(object([("name", self.new_name.clone().map(Value::from))]))
    }
}

impl Change for cli::ServiceAccountUpdate {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        Ok(object([
            ("name", self.new_name.clone().map(Value::from)),
            ("groups", some_list(&self.groups)),
            ("labels", some_labels(&self.labels, self.no_labels)),
            ("disabled", self.disabled.map(Value::from)),
        ]))
    }
}

impl Change for cli::PolicyUpdate {
    /// Everything but the conditions, which depend on what is stored.
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        let longest = match (self.max_session, self.no_max_session) {
            (Some(longest), _) => Some(json!(longest.as_secs())),
            (None, true) => Some(Value::Null),
            (None, false) => None,
        };
        Ok(object([
            ("name", self.new_name.clone().map(Value::from)),
            ("groups", some_list(&self.groups)),
            ("principal_labels", some_list(&self.principal_labels)),
            ("resources", some_list(&self.resources)),
            ("resource_labels", some_list(&self.resource_labels)),
            ("effect", self.effect.map(|effect| json!(effect.name()))),
            ("enabled", self.enabled.map(Value::from)),
            ("max_session_seconds", longest),
        ]))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct OnlyResource {
        #[command(flatten)]
        create: cli::ResourceCreate,
    }

    fn resource(flags: &[&str]) -> Map<String, Value> {
        OnlyResource::try_parse_from(["test"].iter().chain(flags)).unwrap().create.body()
    }

    #[test]
    fn the_kind_of_a_resource_follows_from_its_flag() {
        assert_eq!(resource(&["lan", "--site", "office", "--cidr", "10.0.0.0/8"])["kind"], "cidr");
        assert_eq!(resource(&["db", "--site", "office", "--ip", "10.0.0.1"])["kind"], "ip");
        assert_eq!(resource(&["wiki", "--site", "office", "--dns", "wiki.corp.example"])["kind"], "dns");
    }

    #[test]
    fn a_resource_without_an_address_or_with_two_is_refused() {
        let two = ["test", "db", "--site", "office", "--ip", "10.0.0.1", "--dns", "db"];

        assert!(OnlyResource::try_parse_from(["test", "db", "--site", "office"]).is_err());
        assert!(OnlyResource::try_parse_from(two).is_err());
    }

    #[test]
    fn a_change_carries_only_what_was_named() {
        let change = cli::GatewayUpdate { new_name: None, draining: None };

        assert!(change.body().unwrap().is_empty());
    }

    #[test]
    fn no_longest_session_is_sent_as_null() {
        let change = cli::PolicyUpdate {
            new_name: None,
            groups: vec![],
            principal_labels: vec![],
            resources: vec![],
            resource_labels: vec![],
            effect: None,
            enabled: Some(false),
            max_session: None,
            no_max_session: true,
            no_conditions: false,
            conditions: Default::default(),
        };

        assert_eq!(
            Value::from(change.body().unwrap()),
            json!({"enabled": false, "max_session_seconds": null})
        );
    }
}
