//! Netlink attributes, read and written. nf_tables, xfrm and notifications go through here: no crate
//! covers the first two well, and a notification must not be lost because one attribute of it is new.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-+-+---------------------------+
//! |  length, header included      |N|B|           type            |   host byte order
//! +-------------------------------+-+-+---------------------------+
//! |  value, padded with zeros to a multiple of four               |   N nested, B big-endian
//! +---------------------------------------------------------------+
//! ```
//!
//! Source: include/uapi/linux/netlink.h, Linux 6.18. Reading stops at the first attribute whose length
//! is wrong, as the kernel's own iterator does; it never panics.

const HEADER: usize = 4;
const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = 0x3fff;

/// One attribute: its type without the two flag bits, and its value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute<'a> {
    pub(crate) kind: u16,
    pub(crate) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(crate) fn u32_be(&self) -> Option<u32> {
        self.value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    pub(crate) fn u64_be(&self) -> Option<u64> {
        self.value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// The value up to its first NUL, as text.
    pub(crate) fn string(&self) -> String {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        String::from_utf8_lossy(&self.value[..end]).into_owned()
    }

    pub(crate) fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }
}

/// The attributes of a message or of a nest, in order.
#[derive(Debug, Clone)]
pub(crate) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The first attribute of this type.
    pub(crate) fn find(&self, kind: u16) -> Option<Attribute<'a>> {
        self.clone().find_kind(kind)
    }

    fn find_kind(mut self, kind: u16) -> Option<Attribute<'a>> {
        Iterator::find(&mut self, |attribute| attribute.kind == kind)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let [a, b, c, d] = *self.rest.first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = self.rest.get(HEADER..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind: u16::from_ne_bytes([c, d]) & TYPE_MASK, value })
    }
}

/// Builds a run of attributes. A value may be at most 65,531 bytes; ours are far below.
#[derive(Debug, Default)]
pub(crate) struct NlaWriter {
    bytes: Vec<u8>,
}

impl NlaWriter {
    /// Starts after a fixed header, such as `nfgenmsg`.
    pub(crate) fn after(header: &[u8]) -> Self {
        Self { bytes: header.to_vec() }
    }

    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start);
        self
    }

    /// A string with the NUL that the kernel expects.
    pub(crate) fn put_string(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start);
        self
    }

    pub(crate) fn put_u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.open(kind | NESTED);
        fill(self);
        self.close(start);
        self
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut writer = NlaWriter::after(&[9, 9, 9, 9]);
        writer.put_string(1, "tun0").put_u32_be(2, 7).nest(3, |inner| {
            inner.put(4, &[1]).put(5, &2_u64.to_be_bytes());
        });
        let bytes = writer.into_bytes();
        assert_eq!(bytes.len() % 4, 0);
        let attributes = Attributes::new(&bytes[4..]);
        assert_eq!(attributes.clone().count(), 3);
        assert_eq!(attributes.find(1).unwrap().string(), "tun0");
        assert_eq!(attributes.find(2).unwrap().u32_be(), Some(7));
        let nest = attributes.find(3).unwrap().nested();
        assert_eq!(nest.find(4).unwrap().value, [1]);
        assert_eq!(nest.find(5).unwrap().u64_be(), Some(2));
        assert!(attributes.find(6).is_none());
    }

    #[test]
    fn wrong_lengths_end_the_run() {
        assert_eq!(Attributes::new(&[]).count(), 0);
        assert_eq!(Attributes::new(&[4, 0, 1]).count(), 0);
        for length in [0_u16, 3, 9, u16::MAX] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0]);
            assert_eq!(Attributes::new(&bytes).count(), 0, "length {length}");
        }
        // The last attribute may lack its padding.
        let bytes = [5_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat();
        assert_eq!(Attributes::new(&[&bytes[..], &[7]].concat()).count(), 1);
    }
}
