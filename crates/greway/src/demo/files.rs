//! The configuration files of the demo: the guide's, letter by letter, and one of our own.

use std::net::Ipv4Addr;

use super::world::{HostName, TunnelFile};

/// The guide's ifcfg file for linux1 or linux2, with its KEY line or without.
pub(super) fn guide(host: HostName, keyed: bool) -> TunnelFile {
    // Mine and the peer's: outer address, inner address.
    let one = ("100.0.1.100", "172.16.0.1");
    let two = ("100.0.2.100", "172.16.0.2");
    let (mine, peer) = if host == HostName::Linux1 { (one, two) } else { (two, one) };
    let key = if keyed { "KEY=lichenhao\n" } else { "" };
    let text = format!(
        "DEVICE=tun0\nONBOOT=yes\nTYPE=GRE\n\
         PEER_OUTER_IPADDR={}\nPEER_INNER_IPADDR={}/30\n\
         MY_OUTER_IPADDR={}\nMY_INNER_IPADDR={}\n\
         {key}BOOTPROTO=none\n",
        peer.0, peer.1, mine.0, mine.1,
    );
    TunnelFile { name: "ifcfg-tun0", text }
}

/// linux2's end in greway's own format, with SNAT for what comes through the tunnel or without.
pub(super) fn native(snat: Option<Ipv4Addr>) -> TunnelFile {
    let snat = snat.map_or_else(String::new, |address| format!("snat = \"{address}\"\n"));
    let text = format!(
        "name = \"tun0\"\nlocal = \"100.0.2.100\"\nremote = \"100.0.1.100\"\n\n\
         [inner]\naddress = \"172.16.0.2\"\npeer = \"172.16.0.1/30\"\nforward = true\n{snat}"
    );
    TunnelFile { name: "tun0.toml", text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_file_is_the_guide_s() {
        let expected = "DEVICE=tun0\nONBOOT=yes\nTYPE=GRE\nPEER_OUTER_IPADDR=100.0.2.100\n\
                        PEER_INNER_IPADDR=172.16.0.2/30\nMY_OUTER_IPADDR=100.0.1.100\n\
                        MY_INNER_IPADDR=172.16.0.1\nKEY=lichenhao\nBOOTPROTO=none\n";
        assert_eq!(guide(HostName::Linux1, true).text, expected);
        let mirrored = guide(HostName::Linux2, false).text;
        assert!(mirrored.contains("MY_OUTER_IPADDR=100.0.2.100") && !mirrored.contains("KEY"), "{mirrored}");
    }
}
