//! Writing captures as pcap files, so that a failed test leaves something that tcpdump and Wireshark read.
//!
//! The classic format with nanosecond time stamps (draft-ietf-opsawg-pcap §4, magic 0xa1b23c4d), link type
//! Ethernet. No reading: that is tcpdump's.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;
const LONGEST: u32 = 262_144;

/// Writes Ethernet frames with their times as one pcap file.
///
/// # Errors
/// Those of the writer.
pub fn emit<'a>(
    mut out: impl Write,
    frames: impl IntoIterator<Item = (SystemTime, &'a [u8])>,
) -> io::Result<()> {
    out.write_all(&MAGIC_NANOSECONDS.to_le_bytes())?;
    out.write_all(&2u16.to_le_bytes())?;
    out.write_all(&4u16.to_le_bytes())?;
    out.write_all(&[0; 8])?;
    out.write_all(&LONGEST.to_le_bytes())?;
    out.write_all(&LINKTYPE_ETHERNET.to_le_bytes())?;
    for (time, frame) in frames {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        for word in [since.as_secs() as u32, since.subsec_nanos(), frame.len() as u32, frame.len() as u32] {
            out.write_all(&word.to_le_bytes())?;
        }
        out.write_all(frame)?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_file_is_a_header_and_records() {
        let mut file = Vec::new();
        let time = UNIX_EPOCH + Duration::new(7, 9);
        emit(&mut file, [(time, &[0xaa; 14][..]), (time, &[0xbb; 60][..])]).unwrap();
        assert_eq!(file.len(), 24 + 16 + 14 + 16 + 60);
        assert_eq!(file[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
        assert_eq!(file[24..40], [7, 0, 0, 0, 9, 0, 0, 0, 14, 0, 0, 0, 14, 0, 0, 0]);
        assert_eq!(file[40], 0xaa);
    }
}
