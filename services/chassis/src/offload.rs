//! The switches for what the kernel can do to many packets at once: for hosts where that does not work.

use clap::{Args, ValueEnum};
use serde::Deserialize;

/// A switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// Off
    Off,
    /// On
    On,
}

/// Offload flags of the programs that carry packets; with `_` for `-` also keys of the TOML file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Offload")]
pub struct OffloadFlags {
    /// Whether the TUN device may carry packets larger than its MTU; default on, where the kernel can
    #[arg(long, env = "POSTERN_TUN_OFFLOAD", value_name = "on|off")]
    pub tun_offload: Option<Switch>,
    /// Whether one call may send several datagrams (UDP GSO); default on, where the kernel can
    #[arg(long, env = "POSTERN_UDP_GSO", value_name = "on|off")]
    pub udp_gso: Option<Switch>,
    /// Whether one call may receive several datagrams as one (UDP GRO); default on, where the kernel can
    #[arg(long, env = "POSTERN_UDP_GRO", value_name = "on|off")]
    pub udp_gro: Option<Switch>,
}

impl OffloadFlags {
    /// These flags, and where one is not given, the file's.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        Self {
            tun_offload: self.tun_offload.or(file.tun_offload),
            udp_gso: self.udp_gso.or(file.udp_gso),
            udp_gro: self.udp_gro.or(file.udp_gro),
        }
    }
}

/// Whether a switch is on, which it is unless somebody turned it off.
pub fn is_on(switch: Option<Switch>) -> bool {
    switch != Some(Switch::Off)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_everything_is_on_by_default() {
        let file = OffloadFlags { tun_offload: Some(Switch::Off), udp_gro: Some(Switch::Off), udp_gso: None };
        let flags = OffloadFlags { tun_offload: Some(Switch::On), ..OffloadFlags::default() };

        let both = flags.or(file);

        assert_eq!((is_on(both.tun_offload), is_on(both.udp_gso), is_on(both.udp_gro)), (true, true, false));
    }
}
