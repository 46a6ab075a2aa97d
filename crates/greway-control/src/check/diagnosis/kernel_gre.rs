//! The kernel's own GRE beside greway: a tunnel with the same ends takes the same packets, and the module
//! answers for tunnels that it does not have.

use crate::check::shell::word;
use crate::check::{Facts, Finding, Outcome};

pub(super) fn find(facts: &Facts) -> Outcome {
    let kernel = &facts.host.kernel_gre;
    let spec = &facts.spec;
    let same = kernel.tunnels.iter().filter(|tunnel| {
        let local = tunnel.local.is_none() || spec.local.is_none() || tunnel.local == spec.local;
        tunnel.remote.is_some() && tunnel.remote == spec.remote && local && tunnel.ikey == spec.ikey
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
    let others = kernel.tunnels.iter().filter(|tunnel| tunnel.remote.is_some()).count();
    if kernel.module && findings.is_empty() && others == 0 {
        findings.push(
            Finding::note(
                "module-ip-gre",
                "the kernel's GRE module is loaded and serves no tunnel: it tells peers of greway's tunnels that \
                 there is none",
            )
            .seen("/sys/module/ip_gre is there")
            .cure("modprobe -r ip_gre"),
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
        Arc::make_mut(&mut facts.host.kernel_gre).tunnels.push(tunnel("10.0.0.2", None));
        assert_eq!(ids(find(&facts)), ["kernel-tunnel"]);
    }
}
