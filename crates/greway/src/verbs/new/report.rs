//! What `greway new` prints: what was done, and how to make the other end.

use std::net::IpAddr;
use std::path::Path;

use greway_dialects::shell;
use greway_netlink::Netlink;
use greway_spec::draft::DEFAULT_ENCAPLIMIT;
use greway_spec::{FlowLabel, InnerAddress, InnerRoute, Mode, Ttl, TunnelSpec};
use serde_json::json;

use crate::other_end;
use crate::output;
use crate::said::{self, Tongue};

/// What was found out and done.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) actions: Vec<String>,
    pub(super) remarks: Vec<String>,
    pub(super) up: bool,
    other: Option<Other>,
}

/// The other end in each dialect, or why it cannot be said in one.
#[derive(Debug)]
struct Other {
    remote: IpAddr,
    greway: String,
    said: Vec<(&'static str, &'static str, Result<String, String>)>,
    notes: Vec<String>,
}

impl Report {
    /// Works out what the other host has to do. Networks behind this host are routed there where this side asks for
    /// routes too.
    pub(super) fn other_end(&mut self, spec: &TunnelSpec, netlink: &Netlink) -> anyhow::Result<()> {
        // Routes of this side are behind the other one; that they are not turned round is no news here.
        let without = TunnelSpec {
            inner: greway_spec::Inner { routes: Vec::new(), ..spec.inner.clone() },
            ..spec.clone()
        };
        let turned = other_end::of(&without, None)?;
        let (mut there, mut notes) = (turned.spec, turned.notes);
        let Some(remote) = spec.remote else { return Ok(()) };
        let lans = other_end::lans(netlink, remote, &[spec.name.to_string()]);
        let wanted = !spec.inner.routes.is_empty();
        for lan in lans.iter().filter(|_| wanted) {
            there.inner.routes.push(InnerRoute::to(lan.prefix));
            notes.push(format!(
                "route {} is the network on {} of this host; leave it out if it is not meant",
                lan.prefix, lan.dev
            ));
        }
        if wanted && lans.is_empty() {
            notes.push(
                "no network is connected behind this host; the other one may need: route NETWORK".to_owned(),
            );
        }
        let say = |tongue| {
            let said = said::say(&there, tongue).map_err(|error| error.to_string())?;
            let notes = said.notes.iter().map(|note| format!("# {note}\n")).collect::<String>();
            let then = match tongue {
                Tongue::Ifcfg => {
                    format!("# then: ifup {0} (or: greway up {0})\n", shell::word(there.name.as_str()))
                }
                _ => String::new(),
            };
            Ok(said.commands() + &notes + &then)
        };
        let said = vec![
            ("ip", "as ip commands", say(Tongue::Ip)),
            ("ifcfg", "as an ifcfg file", say(Tongue::Ifcfg)),
            ("nmcli", "with NetworkManager", say(Tongue::Nmcli)),
        ];
        self.other = Some(Other { remote, greway: line(&there), said, notes });
        Ok(())
    }

    /// Prints it. `text` is the file, where it was not written.
    pub(super) fn print(
        &self,
        spec: &TunnelSpec,
        path: &Path,
        text: Option<&str>,
        as_json: bool,
    ) -> anyhow::Result<()> {
        let Some(other) = &self.other else { return Ok(()) };
        if as_json {
            let said =
                other.said.iter().map(|(name, _, said)| ((*name).to_owned(), json!(said.as_ref().ok())));
            let mut peer = said.collect::<serde_json::Map<_, _>>();
            peer.insert("greway".to_owned(), json!(other.greway));
            let unsaid = other
                .said
                .iter()
                .filter_map(|(name, _, said)| Some(format!("{name}: {}", said.as_ref().err()?)));
            peer.insert(
                "notes".to_owned(),
                json!(other.notes.iter().cloned().chain(unsaid).collect::<Vec<_>>()),
            );
            let answer = json!({
                "name": spec.name, "file": path, "up": self.up, "local": spec.local, "remote": spec.remote,
                "actions": self.actions, "remarks": self.remarks, "peer": peer,
            });
            output::line(&serde_json::to_string_pretty(&answer)?);
            return Ok(());
        }
        for action in &self.actions {
            output::line(action);
        }
        if let Some(text) = text {
            super::heading(&format!("{}:", path.display()));
            indented(text);
        }
        for remark in &self.remarks {
            output::note(remark);
        }
        super::heading(&format!("On the other host, {}, type:", other.remote));
        indented(&other.greway);
        for note in &other.notes {
            output::line(&format!("  # {note}"));
        }
        for (_, how, said) in &other.said {
            match said {
                Ok(said) => {
                    super::heading(&format!("or {how}:"));
                    indented(said);
                }
                Err(why) => super::heading(&format!("not {how}: {why}")),
            }
        }
        Ok(())
    }
}

/// Blanks before each line do no harm when it is pasted, but for a here-document, which ends at the margin.
fn indented(text: &str) {
    let margin = if text.contains("<<'END'") { "" } else { "  " };
    for line in text.lines() {
        output::line(&format!("{margin}{line}"));
    }
}

/// The words after `greway new` that make a tunnel.
fn line(spec: &TunnelSpec) -> String {
    let over_ipv6 = spec.mode.over_ipv6();
    let mut words = vec![format!("greway new {}", shell::word(spec.name.as_str()))];
    let mut word = |text: String| words.push(text);
    if spec.mode != Mode::default() {
        word(format!("mode {}", spec.mode));
    }
    word(format!("remote {}", spec.far_end()));
    if let Some(local) = spec.local {
        word(format!("local {local}"));
    }
    for InnerAddress { local, peer, prefix_length } in &spec.inner.addresses {
        word(format!("inner {local}/{prefix_length}"));
        if let Some(peer) = peer {
            word(format!("peer {peer}"));
        }
    }
    for route in &spec.inner.routes {
        word(format!("route {}", route.destination));
    }
    match (spec.ikey, spec.okey) {
        (Some(ikey), Some(okey)) if ikey == okey => word(format!("key {ikey}")),
        (ikey, okey) => {
            for (name, key) in [("ikey", ikey), ("okey", okey)] {
                if let Some(key) = key {
                    word(format!("{name} {key}"));
                }
            }
        }
    }
    for (both, input, output, on) in [
        ("csum", "icsum", "ocsum", [spec.icsum, spec.ocsum]),
        ("seq", "iseq", "oseq", [spec.iseq, spec.oseq]),
    ] {
        match on {
            [true, true] => word(both.to_owned()),
            [true, false] => word(input.to_owned()),
            [false, true] => word(output.to_owned()),
            [false, false] => {}
        }
    }
    if spec.ignore_df {
        word("ignore-df".to_owned());
    }
    match spec.ttl {
        // As the command has it by itself, which is another value over IPv6.
        Ttl::Fixed(64) if over_ipv6 => {}
        Ttl::Inherit if !over_ipv6 => {}
        ttl => word(format!("ttl {ttl}")),
    }
    if spec.tos.bits() != 0 {
        word(format!("tos {}", spec.tos));
    }
    if !spec.pmtudisc {
        word("nopmtudisc".to_owned());
    }
    if let Some(mtu) = spec.mtu {
        word(format!("mtu {mtu}"));
    }
    match spec.encaplimit {
        _ if !over_ipv6 => {}
        Some(DEFAULT_ENCAPLIMIT) => {}
        Some(limit) => word(format!("encaplimit {limit}")),
        None => word("encaplimit none".to_owned()),
    }
    match spec.flowlabel {
        FlowLabel::Fixed(0) => {}
        FlowLabel::Fixed(label) => word(format!("flowlabel {label:#07x}")),
        FlowLabel::Inherit => word("flowlabel inherit".to_owned()),
    }
    if spec.dscp_inherit {
        word("dscp inherit".to_owned());
    }
    words.join(" ")
}
