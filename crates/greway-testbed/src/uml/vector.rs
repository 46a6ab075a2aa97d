//! User Mode Linux's own GRE, the `gre` transport of its vector devices: the guest's process itself opens a raw socket
//! of protocol 47 in its namespace and carries a device's Ethernet frames (protocol type 0x6558).
//!
//! It does not parse what it receives: it compares the first words with the header that it was configured for, and
//! drops what differs by a bit of the flags or the key (linux 6.1 arch/um/drivers/vector_transports.c,
//! gre_verify_header). So it proves that a peer sends exactly the flags that were agreed on. It neither checks nor
//! sends checksums, and ignores the number in a sequence field.

use std::net::IpAddr;

/// An Ethernet device of a guest that is the inner end of a GRE tunnel.
///
/// The namespace of the guest's wire must have the address `local`. Each device needs one of its own: the sockets do not
/// compare the sender, and every one bound to an address gets all GRE sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GreVector {
    /// The outer address of this end.
    pub local: IpAddr,
    /// The outer address of the other end, of the same family.
    pub remote: IpAddr,
    /// The key expected and the key sent; none: no key field either way.
    pub keys: Option<(u32, u32)>,
    /// Sequence numbers, both ways.
    pub sequence: bool,
    /// The device's MTU in bytes.
    pub mtu: u32,
}

impl GreVector {
    /// A plain tunnel with the MTU that Ethernet in GRE leaves of 1500 bytes.
    pub fn new(local: IpAddr, remote: IpAddr) -> Self {
        Self { local, remote, keys: None, sequence: false, mtu: if local.is_ipv6() { 1_434 } else { 1_454 } }
    }

    /// The word of the guest's command line for `vecNUMBER`.
    pub(super) fn argument(&self, number: u32) -> String {
        let Self { local, remote, keys, sequence, mtu } = self;
        let mut word = format!("vec{number}:transport=gre,src={local},dst={remote},mtu={mtu},depth=128");
        if local.is_ipv6() {
            word += ",v6=1";
        }
        if let Some((receive, send)) = keys {
            word += &format!(",rx_key={receive},tx_key={send}");
        }
        if *sequence {
            word += ",sequence=1";
        }
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_one_word_of_the_command_line() {
        let plain = GreVector::new("10.9.0.2".parse().unwrap(), "10.9.0.11".parse().unwrap());
        assert_eq!(plain.argument(1), "vec1:transport=gre,src=10.9.0.2,dst=10.9.0.11,mtu=1454,depth=128");
        let all = GreVector {
            keys: Some((1, 2)),
            sequence: true,
            ..GreVector::new("fd09::2".parse().unwrap(), "fd09::11".parse().unwrap())
        };
        assert_eq!(
            all.argument(2),
            "vec2:transport=gre,src=fd09::2,dst=fd09::11,mtu=1434,depth=128,v6=1,rx_key=1,tx_key=2,sequence=1"
        );
    }
}
