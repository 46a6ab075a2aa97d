//! What this version's data planes do not carry yet.
//!
//! The model and the dialects know more than the data planes: a file or a command is understood in full
//! first, and then refused for what it is, with the field that is in the way.

use crate::error::{Problem, SpecError};
use crate::policy::{FirewallPolicy, OverlayChoice, UnderlayChoice};
use crate::spec::TunnelSpec;

impl TunnelSpec {
    /// Whether this version carries such a tunnel.
    ///
    /// # Errors
    /// The first field that it cannot honour yet.
    pub fn carried(&self) -> Result<(), SpecError> {
        let refuse = |field, value: String, problem| {
            let (tunnel, value) = (Some(self.name.clone()), Some(value.into()));
            Err(SpecError { tunnel, field, value, span: None, problem })
        };
        if self.mode.is_ethernet() && self.overlay == OverlayChoice::Tun {
            let wanted = "a TUN device has no Ethernet header; overlay auto or veth is right";
            let problem = Problem::NotOfMode { mode: self.mode, wanted };
            return refuse("overlay", self.overlay.to_string(), problem);
        }
        self.far_end_carried()
    }

    /// What a tunnel that anybody may send into cannot have.
    fn far_end_carried(&self) -> Result<(), SpecError> {
        let refuse = |field, value: String, problem| {
            let (tunnel, value) = (Some(self.name.clone()), Some(value.into()));
            Err(SpecError { tunnel, field, value, span: None, problem })
        };
        if self.remote.is_some_and(|remote| !remote.is_multicast()) {
            return Ok(());
        }
        let no = |wanted| Problem::NotWithRemote { group: self.remote.is_some(), wanted };
        if self.remote.is_none() && self.mode.is_ethernet() {
            // linux net/ipv4/ip_gre.c `ipgre_tap_validate`, net/ipv6/ip6_gre.c `ip6gre_tap_validate`, v6.18.
            return refuse("remote", "any".to_owned(), Problem::AnyRemote { mode: self.mode });
        }
        if self.remote.is_none() && self.overlay == OverlayChoice::Tun {
            let wanted =
                "a TUN device has no neighbours, and they name the endpoint; overlay auto or veth is right";
            return refuse("overlay", self.overlay.to_string(), no(wanted));
        }
        // A packet socket is before the reverse path filter, which for one far end is asked beforehand.
        if self.underlay == UnderlayChoice::Packet {
            let wanted = "anybody may send into it, so the IP stack has to see the packets first; underlay auto or \
                          raw is right";
            return refuse("underlay", self.underlay.to_string(), no(wanted));
        }
        if self.firewall == FirewallPolicy::Bypass {
            let wanted =
                "anybody may send into it, so the host's rules hold for it; firewall honour is right";
            return refuse("firewall", self.firewall.to_string(), no(wanted));
        }
        Ok(())
    }
}
