//! The command line of `postern admin`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use protocol_identity::CertificatePin;

use super::audit;
use super::conditions::ConditionFlags;
use super::duration;
use super::flows;
use super::policy_file;

/// Where the API is and how to sign in; what is missing comes from the profile.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// Address of control, https://HOST:PORT
    #[arg(long, global = true, env = "POSTERN_CONTROL_URL", value_name = "URL")]
    pub control_url: Option<String>,
    /// The certificate that control must show, sha256:…
    #[arg(long, visible_alias = "pin", global = true, env = "POSTERN_CONTROL_PIN", value_name = "PIN")]
    pub control_pin: Option<CertificatePin>,
    /// Certificate authorities (PEM) that control's certificate is checked against
    #[arg(long, global = true, env = "POSTERN_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// File with an admin token; POSTERN_ADMIN_TOKEN may hold the token instead
    #[arg(long, global = true, env = "POSTERN_ADMIN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Which of the profiles that `postern admin login` wrote
    #[arg(long, global = true, env = "POSTERN_PROFILE", default_value = "default", value_name = "NAME")]
    pub profile: String,
    /// Answer as one JSON object on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to wait for an answer
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS")]
    pub timeout: u64,
}

/// `postern admin …`.
#[derive(Debug, Args)]
pub struct Admin {
    /// Where and as whom.
    #[command(flatten)]
    pub connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `postern admin` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try an address and a token, and remember them for the next commands
    Login,
    /// Forget the address and the token
    Logout,
    /// Show which control and which account the commands go to
    Whoami,
    /// Places with resources, served by gateways
    #[command(subcommand)]
    Site(Verbs<SiteCreate, SiteUpdate>),
    /// Gateways that have joined
    #[command(subcommand)]
    Gateway(JoinedVerbs<GatewayUpdate>),
    /// Relays that have joined
    #[command(subcommand)]
    Relay(JoinedVerbs<RelayUpdate>),
    /// Tokens that join a gateway to a site
    #[command(subcommand)]
    GatewayToken(Verbs<GatewayTokenCreate, TokenUpdate>),
    /// Tokens that join a relay
    #[command(subcommand)]
    RelayToken(Verbs<RelayTokenCreate, TokenUpdate>),
    /// Tokens of administrators and their scripts, with what each may do
    #[command(subcommand)]
    AdminToken(Verbs<AdminTokenCreate, TokenUpdate>),
    /// What is reached: networks, addresses, names
    #[command(subcommand)]
    Resource(Verbs<ResourceCreate, ResourceUpdate>),
    /// Sets of principals
    #[command(subcommand)]
    Group(Verbs<GroupCreate, GroupUpdate>),
    /// Principals that are machines
    #[command(subcommand)]
    ServiceAccount(ServiceAccountVerbs),
    /// Rules: which groups may reach which resources, under which conditions
    #[command(subcommand)]
    Policy(PolicyVerbs),
    /// Devices that have signed in
    #[command(subcommand)]
    Device(JoinedVerbs<DeviceUpdate>),
    /// Decisions in force
    #[command(subcommand)]
    Grant(GrantVerbs),
    /// Ask what policy says, without changing anything (exit code 2: denied)
    Decide(Decide),
    /// Say what decides about a destination, and what is missing when it is denied (exit code 2: denied)
    Explain(Explain),
    /// What happened in the account: decisions, grants, revocations, changes, sessions
    #[command(subcommand)]
    Audit(AuditVerbs),
    /// What passed between devices and resources: one record for each flow that has ended
    #[command(subcommand)]
    Flows(FlowVerbs),
}

/// Verbs of what is created here.
#[derive(Debug, Subcommand)]
pub enum Verbs<C: Args, U: Args> {
    /// Show all, or only some
    List(Only),
    /// Show one
    Show(Which),
    /// Make one
    Create(C),
    /// Change one; what is not named stays
    Update(Update<U>),
    /// Remove one
    Delete(Which),
}

/// Verbs of what joins by itself, with a token.
#[derive(Debug, Subcommand)]
pub enum JoinedVerbs<U: Args> {
    /// Show all, or only some
    List(Only),
    /// Show one
    Show(Which),
    /// Change one; what is not named stays
    Update(Update<U>),
    /// Remove one: its session ends, its grants are revoked
    Delete(Which),
}

/// Verbs of service accounts.
#[derive(Debug, Subcommand)]
pub enum ServiceAccountVerbs {
    /// Show all, or only some
    List(Only),
    /// Show one
    Show(Which),
    /// Make one, and its first token
    Create(ServiceAccountCreate),
    /// Change one; what is not named stays
    Update(Update<ServiceAccountUpdate>),
    /// Remove one: its devices lose their access
    Delete(Which),
    /// Make another token
    Token(ServiceAccountToken),
    /// Show its tokens (never the tokens themselves)
    Tokens(Which),
    /// Remove a token: devices that signed in with it are cut off
    DeleteToken(DeleteToken),
}

/// Verbs of policies.
#[derive(Debug, Subcommand)]
pub enum PolicyVerbs {
    /// Show all, or only some
    List(Only),
    /// Show one
    Show(Which),
    /// Make one
    Create(PolicyCreate),
    /// Change one; what is not named stays
    Update(Update<PolicyUpdate>),
    /// Remove one
    Delete(Which),
    /// Say who would gain and lose what by a policy file (exit code 2: something changes)
    Plan(policy_file::Given),
    /// Run the tests in a policy file, and write its policies if they pass
    Apply(policy_file::Apply),
    /// Run the tests in a policy file
    Test(policy_file::Given),
    /// Write the policies as a file
    Export(policy_file::Export),
    /// Print the JSON schema of policy files, for editors
    Schema,
}

/// Verbs of grants, which policy makes and ends.
#[derive(Debug, Subcommand)]
pub enum GrantVerbs {
    /// Show all
    List(GrantFilter),
    /// Show one, by its id
    Show(Which),
    /// End one now, by its id: its flows end; the device may ask again, and policy decides anew
    Delete(Which),
}

/// Which things a list shows.
#[derive(Debug, Args)]
pub struct Only {
    /// Only those with this value, such as site=office, state=online or name=wiki (repeatable)
    #[arg(long = "only", value_name = "FIELD=VALUE", value_parser = field_and_value)]
    pub only: Vec<(String, String)>,
}

fn field_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((field, value)) if !field.is_empty() && !value.is_empty() => Ok((field.into(), value.into())),
        Some(_) | None => Err("write FIELD=VALUE, such as site=office".into()),
    }
}

/// A name or an id.
#[derive(Debug, Args)]
pub struct Which {
    /// Name or id
    #[arg(value_name = "NAME")]
    pub which: String,
}

/// A name or an id, and what changes.
#[derive(Debug, Args)]
pub struct Update<U: Args> {
    /// Name or id
    #[arg(value_name = "NAME")]
    pub which: String,
    /// What changes.
    #[command(flatten)]
    pub change: U,
}

/// What can change about a gateway.
#[derive(Debug, Args)]
pub struct GatewayUpdate {
    /// New name
    #[arg(long = "name", value_name = "NAME")]
    pub new_name: Option<String>,
    /// Whether it is taken out of service: it keeps what it has, and gets nothing new
    #[arg(long, value_name = "true|false")]
    pub draining: Option<bool>,
}

/// A new site.
#[derive(Debug, Args)]
pub struct SiteCreate {
    /// Its name
    pub name: String,
    /// For people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

/// What can change about a site.
#[derive(Debug, Args)]
pub struct SiteUpdate {
    /// New name
    #[arg(long = "name", value_name = "NAME")]
    pub new_name: Option<String>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

/// What can change about a relay.
#[derive(Debug, Args)]
pub struct RelayUpdate {
    /// New name
    #[arg(long = "name", value_name = "NAME")]
    pub new_name: Option<String>,
    /// Where it stands, such as eu-west
    #[arg(long)]
    pub region: Option<String>,
    /// Degrees north
    #[arg(long, allow_negative_numbers = true, value_name = "DEGREES", requires = "longitude")]
    pub latitude: Option<f64>,
    /// Degrees east
    #[arg(long, allow_negative_numbers = true, value_name = "DEGREES", requires = "latitude")]
    pub longitude: Option<f64>,
}

/// What can change about a device.
#[derive(Debug, Args)]
pub struct DeviceUpdate {
    /// New name
    #[arg(long = "name", value_name = "NAME")]
    pub new_name: Option<String>,
    /// Whether somebody has checked that the device is what it says
    #[arg(long, value_name = "true|false")]
    pub verified: Option<bool>,
    /// Takes it out of service at once (true), or back (false)
    #[arg(long, value_name = "true|false")]
    pub disabled: Option<bool>,
}

/// How a new token is kept.
#[derive(Debug, Args)]
pub struct TokenFlags {
    /// When it stops working, such as 30d; without it, never
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub expires: Option<Duration>,
    /// Write the token to this new file (0600) instead of showing it
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// A new gateway token.
#[derive(Debug, Args)]
pub struct GatewayTokenCreate {
    /// Its name; without it, control draws one
    pub name: Option<String>,
    /// The site that the gateway serves
    #[arg(long)]
    pub site: String,
    /// How it is kept.
    #[command(flatten)]
    pub token: TokenFlags,
}

/// A new relay token.
#[derive(Debug, Args)]
pub struct RelayTokenCreate {
    /// Its name; without it, control draws one
    pub name: Option<String>,
    /// Where the relay stands, such as eu-west
    #[arg(long)]
    pub region: Option<String>,
    /// Degrees north
    #[arg(long, allow_negative_numbers = true, value_name = "DEGREES", requires = "longitude")]
    pub latitude: Option<f64>,
    /// Degrees east
    #[arg(long, allow_negative_numbers = true, value_name = "DEGREES", requires = "latitude")]
    pub longitude: Option<f64>,
    /// How it is kept.
    #[command(flatten)]
    pub token: TokenFlags,
}

/// What can change about a token; never the token itself.
#[derive(Debug, Args)]
pub struct TokenUpdate {
    /// New name
    #[arg(long = "name", value_name = "NAME")]
    pub new_name: Option<String>,
    /// When it stops working, counted from now, such as 30d
    #[arg(long, value_parser = duration::parse, value_name = "DURATION", conflicts_with = "never_expires")]
    pub expires: Option<Duration>,
    /// It works until it is deleted
    #[arg(long)]
    pub never_expires: bool,
}

/// A new admin token.
#[derive(Debug, Args)]
pub struct AdminTokenCreate {
    /// Its name; without it, control draws one
    pub name: Option<String>,
    /// What it may do (repeatable): read, network, access or admin; without it, everything
    #[arg(long = "scope", value_name = "SCOPE", value_parser = ["read", "network", "access", "admin"])]
    pub scopes: Vec<String>,
    /// How it is kept.
    #[command(flatten)]
    pub token: TokenFlags,
}

/// A new resource.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("address").required(true)))]
pub struct ResourceCreate {
    /// Its name
    pub name: String,
    /// The site it is in
    #[arg(long)]
    pub site: String,
    /// A network, such as 192.168.1.0/24
    #[arg(long, group = "address", value_name = "NETWORK")]
    pub cidr: Option<IpNet>,
    /// One address
    #[arg(long, group = "address", value_name = "ADDRESS")]
    pub ip: Option<IpAddr>,
    /// A DNS name, resolved by the gateway
    #[arg(long, group = "address", value_name = "NAME")]
    pub dns: Option<String>,
    /// What may pass: tcp, tcp:443, tcp:8000-8100, udp:53, icmp; repeatable; without it, everything
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// Let every device know of it, also those that may not reach it
    #[arg(long)]
    pub listed: bool,
    /// What policies may select it by, NAME=VALUE; repeatable
    #[arg(long = "label", value_parser = parse_label, value_name = "LABEL")]
    pub labels: Vec<(String, String)>,
    /// For people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

/// What can change about a resource.
#[derive(Debug, Args)]
pub struct ResourceUpdate {
    /// New name
    #[arg(long = "name", value_name = "NAME")]
    pub new_name: Option<String>,
    /// The site it is in
    #[arg(long)]
    pub site: Option<String>,
    /// The new network, address or name; of the same kind as before
    #[arg(long, visible_aliases = ["cidr", "ip", "dns"])]
    pub address: Option<String>,
    /// What may pass, instead of what might so far; repeatable
    #[arg(long = "filter", value_name = "FILTER")]
    pub filters: Vec<String>,
    /// Let everything pass
    #[arg(long, conflicts_with = "filters")]
    pub no_filters: bool,
    /// Whether every device knows of it
    #[arg(long, value_name = "true|false")]
    pub listed: Option<bool>,
    /// The labels, instead of those so far; repeatable
    #[arg(long = "label", value_parser = parse_label, value_name = "LABEL")]
    pub labels: Vec<(String, String)>,
    /// Take all labels away
    #[arg(long, conflicts_with = "labels")]
    pub no_labels: bool,
    /// For people
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

/// A new group.
#[derive(Debug, Args)]
pub struct GroupCreate {
    /// Its name
    pub name: String,
    /// A service account in it; repeatable
    #[arg(long = "member", value_name = "SERVICE-ACCOUNT")]
    pub members: Vec<String>,
}

/// What can change about a group.
#[derive(Debug, Args)]
pub struct GroupUpdate {
    /// New name
    #[arg(long = "name", value_name = "NAME")]
    pub new_name: Option<String>,
    /// Put a principal in; repeatable
    #[arg(long = "add-member", value_name = "SERVICE-ACCOUNT")]
    pub add: Vec<String>,
    /// Take a principal out; repeatable
    #[arg(long = "remove-member", value_name = "SERVICE-ACCOUNT")]
    pub remove: Vec<String>,
}

/// A new service account.
#[derive(Debug, Args)]
pub struct ServiceAccountCreate {
    /// Its name
    pub name: String,
    /// A group it is in; repeatable
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// What policies may select it by, NAME=VALUE; repeatable
    #[arg(long = "label", value_parser = parse_label, value_name = "LABEL")]
    pub labels: Vec<(String, String)>,
    /// Make no token yet
    #[arg(long, conflicts_with_all = ["expires", "out"])]
    pub no_token: bool,
    /// How its token is kept.
    #[command(flatten)]
    pub token: TokenFlags,
}

/// What can change about a service account.
#[derive(Debug, Args)]
pub struct ServiceAccountUpdate {
    /// New name
    #[arg(long = "name", value_name = "NAME")]
    pub new_name: Option<String>,
    /// The groups it is in, instead of those so far; repeatable
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// The labels, instead of those so far; repeatable
    #[arg(long = "label", value_parser = parse_label, value_name = "LABEL")]
    pub labels: Vec<(String, String)>,
    /// Take all labels away
    #[arg(long, conflicts_with = "labels")]
    pub no_labels: bool,
    /// Whether it is shut out
    #[arg(long, value_name = "true|false")]
    pub disabled: Option<bool>,
}

/// Another token of a service account.
#[derive(Debug, Args)]
pub struct ServiceAccountToken {
    /// Name or id of the service account
    #[arg(value_name = "SERVICE-ACCOUNT")]
    pub which: String,
    /// Name of the token; without it, control draws one
    #[arg(long)]
    pub name: Option<String>,
    /// How it is kept.
    #[command(flatten)]
    pub token: TokenFlags,
}

/// One token of a service account.
#[derive(Debug, Args)]
pub struct DeleteToken {
    /// Name or id of the service account
    #[arg(value_name = "SERVICE-ACCOUNT")]
    pub which: String,
    /// Name or id of the token
    pub token: String,
}

/// What a rule does with what it fits.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Effect {
    /// Lets it through
    Allow,
    /// Refuses it, whatever other rules allow
    Deny,
}

impl Effect {
    /// As the API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A new rule.
#[derive(Debug, Args)]
pub struct PolicyCreate {
    /// Its name; a denied person sees it
    pub name: String,
    /// Who; repeatable
    #[arg(long = "group", value_name = "GROUP", required_unless_present = "principal_labels")]
    pub groups: Vec<String>,
    /// Also who has these labels, such as team=infra or team=infra,level=senior; repeatable
    #[arg(long = "principal-label", value_name = "LABELS")]
    pub principal_labels: Vec<String>,
    /// What; repeatable
    #[arg(long = "resource", value_name = "RESOURCE", required_unless_present = "resource_labels")]
    pub resources: Vec<String>,
    /// Also what has these labels; repeatable
    #[arg(long = "resource-label", value_name = "LABELS")]
    pub resource_labels: Vec<String>,
    /// Refuse instead of allow
    #[arg(long)]
    pub deny: bool,
    /// The longest that one grant lasts, such as 8h
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub max_session: Option<Duration>,
    /// Write it down without putting it in force
    #[arg(long)]
    pub disabled: bool,
    /// Under which conditions.
    #[command(flatten)]
    pub conditions: ConditionFlags,
}

/// What can change about a rule.
#[derive(Debug, Args)]
pub struct PolicyUpdate {
    /// New name
    #[arg(long = "name", value_name = "NAME")]
    pub new_name: Option<String>,
    /// Who, instead of those so far; repeatable
    #[arg(long = "group", value_name = "GROUP")]
    pub groups: Vec<String>,
    /// Principals with these labels, instead of those so far; repeatable
    #[arg(long = "principal-label", value_name = "LABELS")]
    pub principal_labels: Vec<String>,
    /// What, instead of those so far; repeatable
    #[arg(long = "resource", value_name = "RESOURCE")]
    pub resources: Vec<String>,
    /// Resources with these labels, instead of those so far; repeatable
    #[arg(long = "resource-label", value_name = "LABELS")]
    pub resource_labels: Vec<String>,
    /// Allow or deny
    #[arg(long)]
    pub effect: Option<Effect>,
    /// Whether it is in force
    #[arg(long, value_name = "true|false")]
    pub enabled: Option<bool>,
    /// The longest that one grant lasts
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub max_session: Option<Duration>,
    /// Grants last as long as the rest allows
    #[arg(long, conflicts_with = "max_session")]
    pub no_max_session: bool,
    /// Drop every condition (those named beside it are set)
    #[arg(long)]
    pub no_conditions: bool,
    /// Conditions to set; the others stay.
    #[command(flatten)]
    pub conditions: ConditionFlags,
}

/// Which grants.
#[derive(Debug, Args)]
pub struct GrantFilter {
    /// Only of this device
    #[arg(long)]
    pub device: Option<String>,
    /// Only for this resource
    #[arg(long)]
    pub resource: Option<String>,
    /// Only at this gateway
    #[arg(long)]
    pub gateway: Option<String>,
}

/// A question to the policy engine.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("who").required(true)))]
pub struct Decide {
    /// The resource
    pub resource: String,
    /// For this device
    #[arg(long, group = "who")]
    pub device: Option<String>,
    /// For this principal
    #[arg(long, group = "who")]
    pub principal: Option<String>,
    /// At this time (RFC 3339); without it, now
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// From this address
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<IpAddr>,
}

/// A question to the policy engine, answered with the reasons.
#[derive(Debug, Args)]
pub struct Explain {
    /// Who asks: name or id; the device's own principal if left out
    #[arg(long, value_name = "PRINCIPAL", required_unless_present = "device")]
    pub principal: Option<String>,
    /// Where to: wiki:443, wiki.corp.example:443, 10.20.0.7:53/udp, or a resource
    #[arg(long, value_name = "DESTINATION")]
    pub to: String,
    /// At this time (RFC 3339); without it, now
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// From this address; without it, from where the device is connected
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// From this device: what is known of it counts
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
}

/// Reads NAME=VALUE.
fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.into(), value.into())),
        Some(_) | None => Err(format!("`{text}`: write NAME=VALUE, such as team=infra")),
    }
}

/// Verbs of the flows.
#[derive(Debug, Subcommand)]
pub enum FlowVerbs {
    /// Show flows, in the order in which control heard of them
    List(flows::List),
    /// Write flows as JSON lines
    Export(flows::Export),
}

/// Verbs of the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditVerbs {
    /// Show records, oldest first
    List(AuditPart),
    /// Write records as JSON lines
    Export(audit::Export),
    /// Check that no record was changed, taken out or put in
    Verify(audit::Verify),
}

/// Which part of the audit log.
#[derive(Debug, Args)]
pub struct AuditPart {
    /// Only what came after this sequence number
    #[arg(long, value_name = "SEQUENCE")]
    pub after: Option<u64>,
    /// At most this many
    #[arg(long, default_value_t = 200)]
    pub limit: u16,
}
