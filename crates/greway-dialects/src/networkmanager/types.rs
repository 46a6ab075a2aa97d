//! The connection types that `nmcli connection add type` knows (1.42.4), to tell ip-tunnel from the rest.

use super::property::choose;

/// Types and their other names, as its error text lists them.
const LISTED: [(&str, Option<&str>); 36] = [
    ("6lowpan", None),
    ("802-11-olpc-mesh", Some("olpc-mesh")),
    ("802-11-wireless", Some("wifi")),
    ("802-3-ethernet", Some("ethernet")),
    ("adsl", None),
    ("bluetooth", None),
    ("bond", None),
    ("bridge", None),
    ("cdma", None),
    ("dummy", None),
    ("generic", None),
    ("gsm", None),
    ("infiniband", None),
    ("ip-tunnel", None),
    ("loopback", None),
    ("macsec", None),
    ("macvlan", None),
    ("ovs-bridge", None),
    ("ovs-dpdk", None),
    ("ovs-interface", None),
    ("ovs-patch", None),
    ("ovs-port", None),
    ("pppoe", None),
    ("team", None),
    ("tun", None),
    ("veth", None),
    ("vlan", None),
    ("vpn", None),
    ("vrf", None),
    ("vxlan", None),
    ("wifi-p2p", None),
    ("wimax", None),
    ("wireguard", None),
    ("wpan", None),
    ("bond-slave", None),
    ("bridge-slave", None),
];

/// The last of them; it makes the list of 37.
const LAST: (&str, Option<&str>) = ("team-slave", None);

/// Settings that are no types and count all the same when a beginning is looked up.
const SETTINGS: [&str; 2] = ["ipv4", "ipv6"];

/// The type that is meant. The error is nmcli's text after `Error: `.
pub(super) fn find(word: &str) -> Result<&'static str, String> {
    let mut types = LISTED.to_vec();
    types.push(LAST);
    let shown = if word.is_empty() { "(null)" } else { word };
    let known = choose(word, &types);
    let lower = word.to_ascii_lowercase();
    let settings = SETTINGS.iter().filter(|name| !word.is_empty() && name.starts_with(&lower));
    let settings = settings.copied().collect::<Vec<_>>();
    match known {
        // "ip" begins ip-tunnel, ipv4 and ipv6.
        Ok(found) if settings.is_empty() || found.eq_ignore_ascii_case(word) => Ok(found),
        Ok(found) => {
            let all = std::iter::once(found).chain(settings).collect::<Vec<_>>();
            Err(format!("bad connection type: '{word}' is ambiguous: {}", all.join(", ")))
        }
        Err(error) => {
            let error = error.replacen(&format!("'{word}'"), &format!("'{shown}'"), 1);
            Err(format!("bad connection type: {error}"))
        }
    }
}
