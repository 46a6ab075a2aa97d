//! The virtio-net header and the engine's [`Offload`] say the same; this is the only place that
//! turns one into the other. The header counts from the frame, the engine from the packet.

use greway_engine::{Gso, GsoKind, Offload, Partial};
use greway_linux::vnet::{GsoType, VnetHeader};

/// A header as facts about what lies `skip` bytes into the frame; `None` when it describes what
/// the engine has no word for (the old UFO) or what lies before the packet.
pub(crate) fn parse(header: &VnetHeader, skip: usize) -> Option<Offload> {
    let skip = u16::try_from(skip).ok()?;
    let partial = match header.needs_csum {
        true => Some(Partial { start: header.csum_start.checked_sub(skip)?, offset: header.csum_offset }),
        false => None,
    };
    let kind = match header.gso_type {
        GsoType::None => return Some(Offload { partial, gso: None }),
        GsoType::Tcp4 => GsoKind::Tcp4,
        GsoType::Tcp6 => GsoKind::Tcp6,
        GsoType::UdpL4 => GsoKind::Udp,
        GsoType::Udp => return None,
    };
    let header_len = header.hdr_len.saturating_sub(skip);
    let gso = Some(Gso { kind, size: header.gso_size, header_len, ecn: header.ecn });
    Some(Offload { partial, gso })
}

/// Facts about a packet as the header of a frame in which it begins at `skip`.
pub(crate) fn emit(offload: &Offload, skip: usize) -> VnetHeader {
    // A link header has 14 bytes.
    let skip = skip as u16;
    let mut header = VnetHeader::NONE;
    if let Some(Partial { start, offset }) = offload.partial {
        header.needs_csum = true;
        header.csum_start = start.saturating_add(skip);
        header.csum_offset = offset;
    }
    if let Some(Gso { kind, size, header_len, ecn }) = offload.gso {
        header.gso_type = match kind {
            GsoKind::Tcp4 => GsoType::Tcp4,
            GsoKind::Tcp6 => GsoType::Tcp6,
            GsoKind::Udp => GsoType::UdpL4,
        };
        header.gso_size = size;
        header.hdr_len = header_len.saturating_add(skip);
        header.ecn = ecn;
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_survive_the_way_through_a_header() {
        let partial = Some(Partial { start: 20, offset: 16 });
        let gso = Some(Gso { kind: GsoKind::Tcp6, size: 1400, header_len: 60, ecn: true });
        for offload in [Offload { partial, gso }, Offload { partial, gso: None }, Offload::NONE] {
            assert_eq!(parse(&emit(&offload, 14), 14), Some(offload));
        }
    }

    #[test]
    fn what_the_engine_has_no_word_for_is_refused() {
        assert_eq!(parse(&VnetHeader { gso_type: GsoType::Udp, ..VnetHeader::NONE }, 14), None);
        let in_the_link_header = VnetHeader { needs_csum: true, csum_start: 10, ..VnetHeader::NONE };
        assert_eq!(parse(&in_the_link_header, 14), None);
    }
}
