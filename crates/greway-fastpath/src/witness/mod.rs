//! Witness packets: speed and the host's firewall agree, and no rule is read.
//!
//! The programs carry packets past INPUT and OUTPUT. Where rules may be there, a tunnel is `witnessed`
//! ([`crate::Place::witnessed`]): a few of its packets a second go the kernel's whole way, and the programs carry the
//! rest only while these come through. [`Watch`] decides that, from what the programs saw ([`Gate`]) and what arrived;
//! it opens nothing, sends nothing and reads no clock. [`Maps`] is the way to the programs, apart from
//! [`Fastpath`](crate::Fastpath), so that another thread may hold it. A process that dies leaves its last verdict.
//!
//! It refuses to guess: what has not been shown lately is closed, and closed packets are userspace's, whose sockets the
//! rules hold for.

mod maps;
mod watch;

pub use greway_ebpf_abi::witness::{Gate, IN_KEPT, Leave, OUT_FRONT, Passage, TRAILER, Verdict, differs};
pub use maps::Maps;
pub use watch::{Direction, Facts, Outcome, Standing, Watch, Wishes};

/// What a witness says about itself: the peer end of its tunnel and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Testimony {
    /// Index of the peer end.
    pub peer: u32,
    /// Which witness.
    pub number: u32,
}

impl Testimony {
    /// Reads a witness that came in, from its GRE header on; `None` where it is none of ours.
    pub fn parse(gre: &[u8], secret: &[u8; 16]) -> Option<Self> {
        let keyed = gre.first()? & 0x20 != 0;
        let ethernet = gre.get(2..4)? == [0x65, 0x58];
        let inner = gre.get(if keyed { 8 } else { 4 } + if ethernet { ETHERNET } else { 0 }..)?;
        let at = inner.len().checked_sub(TRAILER)?.min(IN_KEPT);
        let rest = inner.get(at..at + TRAILER)?.strip_prefix(secret)?;
        let word = |bytes: &[u8]| bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        Some(Self { peer: word(rest)?, number: word(&rest[4..])? })
    }

    /// What goes behind the GRE header of a witness on its way out. `from`: the MAC address of an Ethernet tunnel's
    /// device; its frame is then one to the nearest bridge (IEEE 802.1Q §8.6.3) of an EtherType for experiments.
    pub fn payload(self, secret: &[u8; 16], from: Option<[u8; 6]>) -> [u8; OUT_FRONT + TRAILER] {
        let mut payload = [0; OUT_FRONT + TRAILER];
        if let Some(from) = from {
            payload[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, 0x0e]);
            payload[6..12].copy_from_slice(&from);
            payload[12..14].copy_from_slice(&[0x88, 0xb5]);
        }
        let trailer = &mut payload[OUT_FRONT..];
        trailer[..16].copy_from_slice(secret);
        trailer[16..20].copy_from_slice(&self.peer.to_be_bytes());
        trailer[20..].copy_from_slice(&self.number.to_be_bytes());
        payload
    }
}

/// Bytes of the link header of a frame.
const ETHERNET: usize = 14;

/// The words for what differs, joined.
pub(crate) fn words_of(differs: u32) -> String {
    let words = differs::ALL.iter().filter(|(bit, _)| differs & bit != 0).map(|(_, word)| *word);
    words.collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_says_whose_it_is_to_those_who_know_the_secret() {
        let (secret, testimony) = ([7; 16], Testimony { peer: 12, number: 0x0102_0304 });
        let trailer = &testimony.payload(&secret, None)[OUT_FRONT..];
        let gre = |front: &[u8], kept: usize, behind: usize| {
            [front, &vec![1; kept], trailer, &vec![2; behind]].concat()
        };
        let [plain, keyed, frame] = [
            &[0, 0, 8, 0][..],
            &[0x20, 0, 8, 0, 0, 0, 0, 7],
            &[[0, 0, 0x65, 0x58, 9, 9], [9; 6], [9; 6]].concat(),
        ];
        for witness in [gre(plain, 0, 0), gre(plain, 128, 0), gre(keyed, 128, 999), gre(frame, 20, 0)] {
            assert_eq!(Testimony::parse(&witness, &secret), Some(testimony));
            assert_eq!(Testimony::parse(&witness, &[8; 16]), None);
        }
        for other in [gre(plain, 0, 1), gre(plain, 129, 0), gre(&[], 0, 0), vec![], vec![0; 23]] {
            assert_eq!(Testimony::parse(&other, &secret), None);
        }
        // No IP packet of any version.
        assert_eq!(testimony.payload(&secret, None)[0] >> 4, 0);
    }
}
