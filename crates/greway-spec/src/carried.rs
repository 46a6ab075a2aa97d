//! What this version's data planes do not carry yet.
//!
//! The model and the dialects know more than the data planes: a file or a command is understood in full
//! first, and then refused for what it is, with the field that is in the way.

use std::net::IpAddr;

use crate::error::{Problem, SpecError};
use crate::policy::OverlayChoice;
use crate::spec::{Mode, TunnelSpec};

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
        if !matches!(self.mode, Mode::Gre | Mode::Gretap) {
            return refuse("mode", self.mode.to_string(), Problem::ModeNotCarried);
        }
        if self.mode.is_ethernet() && self.overlay == OverlayChoice::Tun {
            let wanted = "a TUN device has no Ethernet header; overlay auto or veth is right";
            let problem = Problem::NotOfMode { mode: self.mode, wanted };
            return refuse("overlay", self.overlay.to_string(), problem);
        }
        match self.remote {
            None => return refuse("remote", "any".to_owned(), Problem::AnyRemote),
            Some(IpAddr::V4(group)) if group.is_multicast() => {
                return refuse("remote", group.to_string(), Problem::MulticastRemote);
            }
            Some(_) => {}
        }
        if self.fwmark != 0 {
            return refuse("fwmark", format!("{:#x}", self.fwmark), Problem::NotCarried);
        }
        Ok(())
    }
}
