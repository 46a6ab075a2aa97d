//! Explicit congestion notification across a tunnel, as Linux combines the two headers.
//!
//! Encapsulation is RFC 3168's full functionality without CE: a payload packet marked CE travels as
//! ECT(0) (linux include/net/inet_ecn.h, v6.18, `INET_ECN_encapsulate`). Decapsulation is RFC 6040
//! §4.2 (`INET_ECN_decapsulate`):
//!
//! ```text
//!              outer  not-ECT   ECT(0)     ECT(1)     CE
//! inner not-ECT       keep      suspicious suspicious drop
//! inner ECT(0)        keep      keep       ECT(1)     CE
//! inner ECT(1)        keep      keep       keep       CE
//! inner CE            keep      keep       keep       keep
//! ```

/// The two bits of ECN in a TOS or traffic class byte.
pub const MASK: u8 = 0b11;
/// Not ECN-capable.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// ECN-capable, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// What becomes of the payload packet's ECN field when the delivery header is taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decapsulation {
    /// It stays.
    Keep,
    /// It stays, though the delivery header claims a capability that the payload packet has not.
    Suspicious,
    /// Congestion was met by a packet that cannot say so: drop.
    Corrupted,
    /// The TOS or traffic class byte becomes this.
    Rewrite(u8),
}

/// The delivery header's TOS for a tunnel's `tos` and the payload packet's TOS or traffic class.
pub fn encapsulate(tos: u8, inner: u8) -> u8 {
    let ecn = if inner & MASK == CE { ECT_0 } else { inner & MASK };
    (tos & !MASK) | ecn
}

/// What to do with a payload packet whose TOS or traffic class is `inner`, arrived under `outer`.
pub fn decapsulate(outer: u8, inner: u8) -> Decapsulation {
    match (inner & MASK, outer & MASK) {
        (NOT_ECT, ECT_0 | ECT_1) => Decapsulation::Suspicious,
        (NOT_ECT, CE) => Decapsulation::Corrupted,
        (ECT_0 | ECT_1, CE) => Decapsulation::Rewrite(inner | CE),
        (ECT_0, ECT_1) => Decapsulation::Rewrite((inner & !MASK) | ECT_1),
        _ => Decapsulation::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tx03_ce_travels_as_ect_0_and_dscp_is_the_tunnels() {
        assert_eq!(encapsulate(0xb8, 0x20), 0xb8);
        assert_eq!(encapsulate(0xb8, 0x21), 0xb9);
        assert_eq!(encapsulate(0xb8, 0x22), 0xba);
        assert_eq!(encapsulate(0xb8, 0x23), 0xba);
        assert_eq!(encapsulate(0xbb, 0x00), 0xb8);
    }

    #[test]
    fn rx24_all_sixteen_combinations_of_rfc_6040() {
        use Decapsulation::{Corrupted, Keep, Suspicious};
        let ect1 = Decapsulation::Rewrite(0xa0 | ECT_1);
        let ce = Decapsulation::Rewrite(0xa0 | CE);
        // Rows: inner 00, 01, 10, 11; columns: outer 00, 01, 10, 11.
        let table = [
            [Keep, Suspicious, Suspicious, Corrupted],
            [Keep, Keep, Keep, ce],
            [Keep, ect1, Keep, ce],
            [Keep, Keep, Keep, Keep],
        ];
        for (inner, row) in (0_u8..).zip(table) {
            for (outer, expected) in (0_u8..).zip(row) {
                assert_eq!(decapsulate(0x50 | outer, 0xa0 | inner), expected, "{outer} over {inner}");
            }
        }
    }
}
