//! Two tunnels side by side: what a change takes, and whether both can exist on one host.

use std::fmt;
use std::net::IpAddr;

use crate::name::DeviceName;
use crate::spec::TunnelSpec;

/// What it takes to get from one spec to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing differs.
    None,
    /// The tunnel stays; these fields get new values.
    InPlace(Vec<&'static str>),
    /// The device has to be made anew.
    Recreate(RecreateReason),
}

/// Which field no existing device can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecreateReason {
    /// Another name.
    Name,
    /// Another mode.
    Mode,
    /// Another kind of device.
    Overlay,
    /// One far end, a group or none in place of another of these.
    Remote,
}

impl fmt::Display for RecreateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "the name differs",
            Self::Mode => "the mode differs",
            Self::Overlay => "the kind of device differs",
            Self::Remote => "one far end, a group and remote any are three kinds of tunnels",
        })
    }
}

impl Change {
    /// Compares what is with what should be. Who defined it is not compared.
    pub fn between(present: &TunnelSpec, wanted: &TunnelSpec) -> Self {
        let recreate = [
            (present.name != wanted.name, RecreateReason::Name),
            (present.mode != wanted.mode, RecreateReason::Mode),
            (present.overlay != wanted.overlay, RecreateReason::Overlay),
            (!wanted.mode.is_ethernet() && nature(present) != nature(wanted), RecreateReason::Remote),
        ];
        if let Some((_, reason)) = recreate.into_iter().find(|(differs, _)| *differs) {
            return Self::Recreate(reason);
        }
        macro_rules! differing {
            ($($($part:ident).+ => $word:literal),+ $(,)?) => {
                [$((present.$($part).+ != wanted.$($part).+, $word)),+]
            };
        }
        let fields: Vec<_> = differing! {
            local => "local",
            remote => "remote",
            ikey => "ikey",
            okey => "okey",
            icsum => "icsum",
            ocsum => "ocsum",
            iseq => "iseq",
            oseq => "oseq",
            seq_mode => "seq-mode",
            ttl => "ttl",
            tos => "tos",
            pmtudisc => "pmtudisc",
            ignore_df => "ignore-df",
            encaplimit => "encaplimit",
            flowlabel => "flowlabel",
            dscp_inherit => "dscp",
            allow_localremote => "allow-localremote",
            fwmark => "fwmark",
            dev => "dev",
            mtu => "mtu",
            datapath => "datapath",
            underlay => "underlay",
            firewall => "firewall",
            direct => "direct",
            mss => "mss",
            inner.addresses => "inner addresses",
            inner.routes => "inner routes",
            inner.rules => "inner rules",
            inner.neighbours => "inner neighbours",
            inner.link_down => "inner link",
            inner.ipv6_mtu => "inner ipv6_mtu",
            inner.forward => "inner forward",
            inner.snat => "inner snat",
        }
        .into_iter()
        .filter_map(|(differs, word)| differs.then_some(word))
        .collect();
        if fields.is_empty() { Self::None } else { Self::InPlace(fields) }
    }
}

/// Whether there is a far end, and whether it is a group: no device of the kernel's changes that (CF-02; linux
/// net/ipv4/ip_tunnel.c `ip_tunnel_ctl`, v6.18).
fn nature(spec: &TunnelSpec) -> Option<bool> {
    spec.remote.map(|remote| remote.is_multicast())
}

/// Why two tunnels cannot be on one host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The name is taken.
    #[error("tunnel {0} exists already; choose another name, or change or delete that one")]
    Name(DeviceName),
    /// A received packet could belong to either.
    #[error("tunnel {name}: tunnel {other} has remote {}, local {}, {}{} already; one of these has to differ",
        or_any(.remote), or_any(.local), ikey_text(.ikey), dev_text(.dev))]
    Identity {
        /// The tunnel that was to be.
        name: DeviceName,
        /// The tunnel that is there.
        other: DeviceName,
        /// The remote of both.
        remote: Option<IpAddr>,
        /// The local of both.
        local: Option<IpAddr>,
        /// The ikey of both.
        ikey: Option<u32>,
        /// The dev of both.
        dev: Option<DeviceName>,
    },
}

fn or_any(end: &Option<IpAddr>) -> String {
    end.map_or_else(|| "any".to_owned(), |end| end.to_string())
}

fn ikey_text(ikey: &Option<u32>) -> String {
    ikey.map_or_else(|| "no ikey".to_owned(), |key| format!("ikey {key}"))
}

fn dev_text(dev: &Option<DeviceName>) -> String {
    dev.as_ref().map_or_else(String::new, |dev| format!(", dev {dev}"))
}

impl TunnelSpec {
    /// Whether this tunnel cannot be beside `other`: same name, or same local, remote, ikey and dev
    /// (linux net/ipv4/ip_tunnel.c `ip_tunnel_find`, v6.18).
    pub fn conflicts(&self, other: &Self) -> Option<Conflict> {
        if self.name == other.name {
            return Some(Conflict::Name(other.name.clone()));
        }
        let identity = |spec: &Self| (spec.remote, spec.local, spec.ikey, spec.dev.clone(), spec.mode);
        if identity(self) != identity(other) {
            return None;
        }
        Some(Conflict::Identity {
            name: self.name.clone(),
            other: other.name.clone(),
            remote: other.remote,
            local: other.local,
            ikey: other.ikey,
            dev: other.dev.clone(),
        })
    }
}
