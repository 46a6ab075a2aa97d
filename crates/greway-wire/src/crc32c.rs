//! The checksum of SCTP, CRC-32C (RFC 9260 §6.8 and appendix A).
//!
//! A sender on this host leaves it to the device like any other checksum where the device can do it, and
//! a veth says that it can. Taken for an internet checksum it would ruin every packet.

/// Protocol number of SCTP.
pub const SCTP: u8 = 132;
/// Offset of the checksum field in the SCTP header.
pub const FIELD_OFFSET: usize = 8;
/// Bytes of the checksum field.
pub const FIELD_LEN: usize = 4;

/// The polynomial 0x1edc6f41, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            remainder = (remainder >> 1) ^ (POLYNOMIAL * (remainder & 1));
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
};

/// CRC-32C of a number of pieces in a row.
pub fn crc32c<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut remainder = u32::MAX;
    for byte in pieces.into_iter().flatten() {
        remainder = (remainder >> 8) ^ TABLE[usize::from(remainder as u8 ^ byte)];
    }
    !remainder
}

/// The checksum field of an SCTP packet, whatever stands in it now. `None`: no SCTP header.
pub fn sctp_checksum(packet: &[u8]) -> Option<[u8; FIELD_LEN]> {
    let before = packet.get(..FIELD_OFFSET)?;
    let after = packet.get(FIELD_OFFSET + FIELD_LEN..)?;
    Some(crc32c([before, &[0; FIELD_LEN], after]).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_crc_catalogue() {
        assert_eq!(crc32c([&b"1234"[..], b"56789"]), 0xe306_9283);
    }

    #[test]
    fn the_example_of_rfc_3720_is_sent_low_byte_first() {
        // 32 bytes of zeros: aa 36 91 8a on the wire (RFC 3720 §B.4).
        assert_eq!(crc32c([&[0; 32][..]]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(sctp_checksum(&[0; 32]), Some([0xaa, 0x36, 0x91, 0x8a]));
        assert_eq!(sctp_checksum(&[0; 11]), None);
    }
}
