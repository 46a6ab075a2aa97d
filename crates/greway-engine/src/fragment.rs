//! An IPv4 packet cut into fragments (RFC 791 §3.2), before it is encapsulated.

use std::ops::Range;

use greway_wire::checksum::Checksum;
use greway_wire::ipv4::{self, Ipv4Header};

use crate::offload::Partial;
use crate::segment::never_zero;

/// Option bit: copied into every fragment (RFC 791 §3.1).
const COPIED: u8 = 0x80;

/// The fragments of one packet, in an arena that is filled again and again.
#[derive(Clone, Debug, Default)]
pub struct Fragments {
    whole: Vec<u8>,
    bytes: Vec<u8>,
    pieces: Vec<Range<usize>>,
}

impl Fragments {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts `packet` into fragments of at most `mtu` bytes, its transport checksum completed first where it is
    /// not filled in. False where it is no IPv4 packet, or the MTU leaves no room behind its header.
    pub fn cut(&mut self, packet: &[u8], partial: Option<Partial>, mtu: u16) -> bool {
        self.cut_behind(&[], packet, partial, mtu)
    }

    /// The same with a link header before each fragment, which counts for nothing in `mtu`.
    pub fn cut_behind(&mut self, link: &[u8], packet: &[u8], partial: Option<Partial>, mtu: u16) -> bool {
        self.bytes.clear();
        self.pieces.clear();
        self.whole.clear();
        self.whole.extend_from_slice(packet);
        if partial.is_some_and(|partial| !complete(&mut self.whole, partial)) {
            return false;
        }
        let Ok(header) = Ipv4Header::parse(&self.whole) else { return false };
        let header_len = header.header_len();
        let total = usize::from(header.total_length).min(self.whole.len());
        let room = usize::from(mtu).saturating_sub(header_len) / 8 * 8;
        if room == 0 || total < header_len {
            return false;
        }
        let copied = copied_options(header.options);
        let mut at = header_len;
        while at < total {
            let end = total.min(at + room);
            let fragment = Ipv4Header {
                total_length: 0,
                more_fragments: end < total || header.more_fragments,
                fragment_offset: header.fragment_offset + ((at - header_len) / 8) as u16,
                options: if at == header_len { header.options } else { &copied },
                ..header
            };
            let begin = self.bytes.len();
            let mut room_for_header = [0; ipv4::MAX_LEN];
            let length = fragment.header_len() + end - at;
            let fragment = Ipv4Header { total_length: length as u16, ..fragment };
            let Ok(written) = fragment.emit(&mut room_for_header) else { return false };
            self.bytes.extend_from_slice(link);
            self.bytes.extend_from_slice(&room_for_header[..written]);
            self.bytes.extend_from_slice(&self.whole[at..end]);
            self.pieces.push(begin..self.bytes.len());
            at = end;
        }
        true
    }

    /// The fragments, in order, each from its link header on, where they have one, else from its IPv4 header.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.iter().map(|piece| &self.bytes[piece.clone()])
    }
}

/// Fills in a checksum that holds the sum over the pseudo header.
fn complete(packet: &mut [u8], partial: Partial) -> bool {
    let start = usize::from(partial.start);
    let field = start + usize::from(partial.offset);
    let Some(covered) = packet.get(start..).filter(|_| field + 2 <= packet.len()) else { return false };
    let mut sum = Checksum::new();
    sum.add(covered);
    let value = never_zero(sum);
    packet[field..field + 2].copy_from_slice(&value.to_be_bytes());
    true
}

/// The options that later fragments have too, padded.
fn copied_options(options: &[u8]) -> Vec<u8> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    let mut copied = Vec::new();
    let mut rest = options;
    while let Some(kind) = rest.first().copied() {
        let length = match kind {
            END => break,
            NO_OPERATION => 1,
            _ => rest.get(1).map_or(0, |length| usize::from(*length)),
        };
        // A length that cannot be: the rest is no option.
        let Some(option) = rest.get(..length).filter(|_| length > 0) else { break };
        if kind & COPIED != 0 {
            copied.extend_from_slice(option);
        }
        rest = &rest[length..];
    }
    copied.resize(copied.len().next_multiple_of(4), END);
    copied
}

#[cfg(test)]
mod tests {
    use super::*;
    use greway_wire::checksum;
    use proptest::prelude::*;

    fn packet(options: &[u8], payload: &[u8], offset: u16, more: bool) -> Vec<u8> {
        let header = Ipv4Header {
            tos: 4,
            total_length: (20 + options.len() + payload.len()) as u16,
            identification: 77,
            dont_fragment: false,
            more_fragments: more,
            fragment_offset: offset,
            ttl: 9,
            protocol: 17,
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            options,
        };
        let mut bytes = vec![0; header.header_len()];
        header.emit(&mut bytes).unwrap();
        bytes.extend(payload);
        bytes
    }

    proptest! {
        #[test]
        fn tx06_fragments_are_the_packet_again(
            options in 0_usize..=10,
            payload in proptest::collection::vec(any::<u8>(), 1..4000),
            offset in 0_u16..100,
            more: bool,
            mtu in 68_u16..1600,
        ) {
            let options = vec![1_u8; options * 4];
            let whole = packet(&options, &payload, offset, more);
            let mut fragments = Fragments::new();
            prop_assume!(usize::from(mtu) >= 20 + options.len() + 8);
            prop_assert!(fragments.cut(&whole, None, mtu));
            let mut joined: Vec<u8> = Vec::new();
            let count = fragments.iter().count();
            for (index, fragment) in fragments.iter().enumerate() {
                let header = Ipv4Header::parse(fragment).unwrap();
                prop_assert!(fragment.len() <= usize::from(mtu));
                prop_assert_eq!(usize::from(header.total_length), fragment.len());
                prop_assert!(checksum::verifies(&fragment[..header.header_len()]));
                prop_assert_eq!(usize::from(header.fragment_offset), usize::from(offset) + joined.len() / 8);
                prop_assert_eq!(header.more_fragments, more || index + 1 < count);
                prop_assert_eq!((header.identification, header.ttl, header.tos), (77, 9, 4));
                joined.extend(&fragment[header.header_len()..]);
            }
            prop_assert_eq!(joined, payload);
        }

        #[test]
        fn noise_is_cut_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..90), mtu: u16, start: u16, offset: u16) {
            let mut fragments = Fragments::new();
            fragments.cut(&bytes, None, mtu);
            fragments.cut(&bytes, Some(Partial { start, offset }), mtu);
        }
    }

    #[test]
    fn options_are_copied_where_they_say_so() {
        // Record route (not copied), then router alert (copied).
        let options = [7, 3, 4, 0x94, 4, 0, 0, 1];
        let whole = packet(&options, &[5; 100], 0, false);
        let mut fragments = Fragments::new();
        assert!(fragments.cut(&whole, None, 76));
        let headers: Vec<_> =
            fragments.iter().map(|f| Ipv4Header::parse(f).unwrap().options.to_vec()).collect();
        assert_eq!(headers[0], options);
        assert!(headers[1..].iter().all(|options| options == &[0x94, 4, 0, 0]));
    }

    #[test]
    fn an_unfilled_checksum_is_filled_in_before() {
        let mut payload = vec![0; 8 + 2000];
        payload[..8].copy_from_slice(&[0, 7, 0, 9, 7, 0xd8, 0, 0]);
        let pseudo = {
            let mut sum = Checksum::new();
            sum.add(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 17]);
            sum.add(&(payload.len() as u16).to_be_bytes());
            sum
        };
        payload[6..8].copy_from_slice(&pseudo.folded().to_be_bytes());
        let whole = packet(&[], &payload, 0, false);
        let mut fragments = Fragments::new();
        assert!(fragments.cut(&whole, Some(Partial { start: 20, offset: 6 }), 1476));
        let joined: Vec<u8> = fragments.iter().flat_map(|fragment| fragment[20..].to_vec()).collect();
        let mut sum = pseudo;
        sum.add(&joined);
        assert!(sum.verifies());
    }
}
