//! Tunnels of the kernel's own GRE on the same host. One with the same ends, key and kind as ours would take each
//! packet as well, and everything would arrive twice; so ours is refused, as the kernel refuses a second one of its own
//! (EEXIST). Its tunnels are read only, never changed: what is not ours is untouched.

use std::path::Path;
use std::sync::Arc;

use greway_netlink::KernelTunnel;
use greway_spec::TunnelSpec;

/// Whether this kernel has a GRE of its own. Where that cannot be seen it may have.
pub(super) fn module_loaded() -> bool {
    let modules = Path::new("/sys/module");
    !modules.is_dir() || ["ip_gre", "ip6_gre"].iter().any(|name| modules.join(name).is_dir())
}

/// Whether the kernel's own GRE answers what comes over IPv4.
pub(super) fn answers_ipv4() -> bool {
    Path::new("/sys/module/ip_gre").is_dir()
}

/// Refuses a tunnel whose packets a tunnel of the kernel's takes. `current` is what the tunnel is now: one that is
/// there already may be changed in what does not matter here.
///
/// # Errors
/// A sentence that names the kernel's tunnel.
pub(super) fn refuse(
    tunnels: impl FnOnce() -> Arc<[KernelTunnel]>,
    spec: &TunnelSpec,
    current: Option<&TunnelSpec>,
) -> Result<(), String> {
    if current.is_some_and(|current| identity(current) == identity(spec)) || !module_loaded() {
        return Ok(());
    }
    match tunnels().iter().find(|tunnel| same(tunnel, spec)) {
        Some(tunnel) => Err(sentence(tunnel, spec)),
        None => Ok(()),
    }
}

/// What the kernel knows a tunnel by (CF-01); `dev` is only a preference when packets come in.
fn identity(spec: &TunnelSpec) -> impl PartialEq {
    (spec.mode, spec.local, spec.remote, spec.ikey)
}

fn same(tunnel: &KernelTunnel, spec: &TunnelSpec) -> bool {
    // Over IPv6 keys are compared by value alone (RX-13).
    let key = |key: Option<u32>| if spec.mode.over_ipv6() { Some(key.unwrap_or(0)) } else { key };
    tunnel.kind == spec.mode.to_string()
        && tunnel.local == spec.local
        && tunnel.remote == spec.remote
        && key(tunnel.ikey) == key(spec.ikey)
}

fn sentence(tunnel: &KernelTunnel, spec: &TunnelSpec) -> String {
    let any = |address: Option<std::net::IpAddr>| {
        address.map_or_else(|| "any".to_owned(), |address| address.to_string())
    };
    let key = spec.ikey.map_or_else(|| "no key".to_owned(), |key| format!("key {key}"));
    format!(
        "{0}: the kernel's own tunnel {1} has the same kind and ends ({2}, local {3}, remote {4}, {key}), and both \
         would take every packet: remove it first (`ip link del {1}`), or give {0} another key",
        spec.name,
        tunnel.name,
        tunnel.kind,
        any(spec.local),
        any(spec.remote),
    )
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use greway_spec::Draft;

    use super::*;

    #[test]
    fn cf01_the_same_ends_key_and_kind_is_the_same_tunnel() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (here, there) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let draft = Draft::new("tun0".parse().unwrap(), here.into(), there.into());
        let spec = draft.into_spec().unwrap();
        let tunnel = KernelTunnel {
            name: "gre1".to_owned(),
            kind: "gre".to_owned(),
            local: Some(address("10.0.0.1")),
            remote: Some(address("10.0.0.2")),
            ikey: None,
        };
        assert!(same(&tunnel, &spec));
        let others = [
            KernelTunnel { kind: "gretap".to_owned(), ..tunnel.clone() },
            KernelTunnel { local: None, ..tunnel.clone() },
            KernelTunnel { remote: Some(address("10.0.0.3")), ..tunnel.clone() },
            // Key 0 and no key are two tunnels over IPv4.
            KernelTunnel { ikey: Some(0), ..tunnel.clone() },
        ];
        assert!(others.iter().all(|other| !same(other, &spec)));
        let text = sentence(&tunnel, &spec);
        assert!(
            text.contains("tunnel gre1") && text.contains("local 10.0.0.1, remote 10.0.0.2, no key"),
            "{text}"
        );
    }
}
