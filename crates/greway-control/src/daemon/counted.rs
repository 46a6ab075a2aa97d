//! How far tunnels that were taken down had counted, by their ends.
//!
//! A peer that checks sequence numbers (RFC 2890 §2.2) drops everything of a tunnel that begins at 0 again
//! until the numbers have passed the old ones. The kernel's tunnels have that flaw at every `ip tunnel del` and
//! `add`. Here a tunnel between the same ends goes on where the last one stopped, as long as the daemon lives:
//! nothing of it is written down, so that nothing is left of a tunnel that is gone.

use std::collections::VecDeque;
use std::net::IpAddr;

use greway_spec::TunnelSpec;

/// How many are known at most; the oldest goes first.
const MOST: usize = 256;

/// What the peer tells tunnels apart by.
type Ends = (Option<IpAddr>, Option<IpAddr>, Option<u32>);

/// The next numbers of tunnels that are gone.
#[derive(Debug, Default)]
pub(super) struct Counted(VecDeque<(Ends, u32)>);

impl Counted {
    /// A tunnel goes that may have sent every number below `next`.
    pub(super) fn remember(&mut self, spec: &TunnelSpec, next: u32) {
        // 0: it never sent one, and what an earlier tunnel sent still counts.
        if next == 0 {
            return;
        }
        let ends = ends(spec);
        self.0.retain(|(other, _)| *other != ends);
        self.0.truncate(MOST - 1);
        self.0.push_front((ends, next));
    }

    /// The first number that no tunnel between these ends has sent; 0 where none did.
    pub(super) fn next(&self, spec: &TunnelSpec) -> u32 {
        let ends = ends(spec);
        self.0.iter().find(|(other, _)| *other == ends).map_or(0, |(_, next)| *next)
    }
}

fn ends(spec: &TunnelSpec) -> Ends {
    (spec.local, spec.remote, spec.okey)
}

#[cfg(test)]
mod tests {
    use greway_spec::Draft;

    use super::*;

    fn spec(name: &str, remote: u32, okey: Option<u32>) -> TunnelSpec {
        let draft = Draft {
            name: Some(name.parse::<greway_spec::DeviceName>().unwrap().into()),
            local: Some(IpAddr::from([100, 0, 1, 100]).into()),
            remote: Some(IpAddr::from(remote.to_be_bytes()).into()),
            okey: Some(okey.into()),
            ..Draft::default()
        };
        draft.into_spec().unwrap()
    }

    #[test]
    fn the_ends_count_and_the_name_does_not() {
        let mut counted = Counted::default();
        counted.remember(&spec("tun0", 0x6400_0264, Some(5)), 65_536);
        assert_eq!(counted.next(&spec("office", 0x6400_0264, Some(5))), 65_536);
        assert_eq!(counted.next(&spec("tun0", 0x6400_0264, Some(6))), 0);
        assert_eq!(counted.next(&spec("tun0", 0x6400_0264, None)), 0);
        assert_eq!(counted.next(&spec("tun0", 0x6400_0265, Some(5))), 0);
        // One that came and went without a packet takes nothing away; numbers that went round count.
        counted.remember(&spec("tun0", 0x6400_0264, Some(5)), 0);
        assert_eq!(counted.next(&spec("tun0", 0x6400_0264, Some(5))), 65_536);
        counted.remember(&spec("tun0", 0x6400_0264, Some(5)), 7);
        assert_eq!(counted.next(&spec("tun0", 0x6400_0264, Some(5))), 7);
    }

    #[test]
    fn only_so_many_are_known() {
        let mut counted = Counted::default();
        for remote in 0..=MOST as u32 {
            counted.remember(&spec("tun0", 0x6400_0300 + remote, None), 1);
        }
        assert_eq!(counted.0.len(), MOST);
        assert_eq!(
            (counted.next(&spec("tun0", 0x6400_0300, None)), counted.next(&spec("tun0", 0x6400_0301, None))),
            (0, 1)
        );
    }
}
