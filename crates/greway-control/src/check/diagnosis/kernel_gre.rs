//! The kernel's own GRE beside greway: a tunnel with the same ends takes the same packets, and the module
//! answers for tunnels that it does not have.

use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let kernel = &facts.host.kernel_gre;
    let spec = &facts.spec;
    let same = kernel.tunnels.iter().filter(|tunnel| {
        let local = tunnel.local.is_none() || spec.local.is_none() || tunnel.local == spec.local;
        // Ethernet tunnels and others have tables of their own (linux net/ipv4/ip_gre.c `ipgre_rcv`), and the device
        // that comes with the module has neither ends nor key.
        let made = tunnel.remote.is_some() || tunnel.local.is_some() || tunnel.ikey.is_some();
        let kind = tunnel.kind == spec.mode.word();
        kind && made && tunnel.remote == spec.remote && local && tunnel.ikey == spec.ikey
    });
    let mut findings = same
        .map(|tunnel| {
            Finding::hinders(
                "kernel-tunnel",
                format!(
                    "the kernel has a tunnel with the same ends and key, {}: both take every packet",
                    tunnel.name
                ),
            )
            .seen(format!("ip -d link show {}: {} remote {}", tunnel.name, tunnel.kind, spec.far_end()))
            .cure(format!("ip link del {}", word(&tunnel.name)))
        })
        .collect::<Vec<_>>();
    let (module, is_there) = match spec.mode.over_ipv6() {
        true => ("ip6_gre", kernel.module_v6),
        false => ("ip_gre", kernel.module),
    };
    let others = kernel.tunnels.iter().filter(|tunnel| tunnel.remote.is_some()).count();
    if is_there && findings.is_empty() && others == 0 {
        findings.push(
            Finding::note(
                "module-ip-gre",
                "the kernel's GRE module is loaded and serves no tunnel: it tells peers of greway's tunnels that \
                 there is none",
            )
            .seen(format!("/sys/module/{module} is there"))
            .cure(format!("modprobe -r {module}")),
        );
    }
    Outcome::of(findings)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use greway_netlink::KernelTunnel;

    use super::*;
    use crate::check::diagnosis::tests::{facts, ids};

    #[test]
    fn a_tunnel_with_the_same_ends_and_a_module_without_any() {
        let mut facts = facts();
        assert_eq!(ids(find(&facts)), [""; 0]);
        Arc::make_mut(&mut facts.host.kernel_gre).module = true;
        assert_eq!(ids(find(&facts)), ["module-ip-gre"]);
        let tunnel = |remote: &str, ikey| KernelTunnel {
            name: "gre1".to_owned(),
            kind: "gre".to_owned(),
            local: None,
            remote: Some(remote.parse().unwrap()),
            ikey,
        };
        // Others' tunnels, and ours with another key, are theirs.
        Arc::make_mut(&mut facts.host.kernel_gre).tunnels =
            vec![tunnel("10.0.0.3", None), tunnel("10.0.0.2", Some(7))];
        assert_eq!(ids(find(&facts)), [""; 0]);
        // An Ethernet tunnel takes other packets.
        let gretap = KernelTunnel { kind: "gretap".to_owned(), ..tunnel("10.0.0.2", None) };
        Arc::make_mut(&mut facts.host.kernel_gre).tunnels.push(gretap);
        assert_eq!(ids(find(&facts)), [""; 0]);
        Arc::make_mut(&mut facts.host.kernel_gre).tunnels.push(tunnel("10.0.0.2", None));
        assert_eq!(ids(find(&facts)), ["kernel-tunnel"]);
        // Without a remote it is one with a local address or a key: the module's own device has neither.
        facts.spec.remote = None;
        let any = |ikey| KernelTunnel { remote: None, ..tunnel("10.0.0.2", ikey) };
        Arc::make_mut(&mut facts.host.kernel_gre).tunnels = vec![any(None)];
        assert_eq!(ids(find(&facts)), ["module-ip-gre"]);
        facts.spec.ikey = Some(7);
        Arc::make_mut(&mut facts.host.kernel_gre).tunnels.push(any(Some(7)));
        assert_eq!(ids(find(&facts)), ["kernel-tunnel"]);
    }
}
