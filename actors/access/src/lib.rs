//! Access: the session with control, and what it grants.

pub mod admissions;
mod admitted;
pub mod connection;
pub mod control_session;
mod flow_log;
pub mod grants;
mod pins;
pub mod relay_streams;
pub mod trust;

pub use admissions::{Admissions, AdmissionsCommand, AdmissionsSettings, AdmissionsView, Lookup};
pub use connection::{ConnectError, ControlUrl, Endpoint, NotAControlUrl};
pub use control_session::{
    ControlSession, SessionEvent, SessionSettings, SessionState, SessionStatus, Target,
};
pub use flow_log::{FlowLog, FlowLogCommand, FlowMeter, KeptFlows};
pub use grants::{Decided, Grants, GrantsCommand, GrantsSettings, GrantsView, ResourceState, ResourceStatus};
pub use pins::{Pinned, Pins};
pub use relay_streams::{KeptStreams, RelayStreams};
pub use trust::{Trust, TrustError};
