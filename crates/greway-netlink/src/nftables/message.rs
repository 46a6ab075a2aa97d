//! Numbers and fixed headers of nfnetlink and nf_tables.
//!
//! ```text
//! +---------------+---------------+-------------------------------+
//! |    family     |  version (0)  |  resource id, big-endian      |   struct nfgenmsg
//! +---------------+---------------+-------------------------------+
//! ```

use crate::nftables::Family;

/// Length of `struct nfgenmsg`.
pub(super) const NFGENMSG: usize = 4;
/// NFNL_SUBSYS_NFTABLES.
const SUBSYSTEM: u16 = 10;

/// Message types: the subsystem above, NFT_MSG_ below.
pub(super) mod kind {
    const SUBSYSTEM: u16 = super::SUBSYSTEM << 8;
    pub(in crate::nftables) const BATCH_BEGIN: u16 = 16;
    pub(in crate::nftables) const BATCH_END: u16 = 17;
    pub(in crate::nftables) const NEW_TABLE: u16 = SUBSYSTEM;
    pub(in crate::nftables) const GET_TABLE: u16 = SUBSYSTEM | 1;
    pub(in crate::nftables) const DELETE_TABLE: u16 = SUBSYSTEM | 2;
    pub(in crate::nftables) const NEW_CHAIN: u16 = SUBSYSTEM | 3;
    pub(in crate::nftables) const GET_CHAIN: u16 = SUBSYSTEM | 4;
    pub(in crate::nftables) const NEW_RULE: u16 = SUBSYSTEM | 6;
    pub(in crate::nftables) const GET_RULE: u16 = SUBSYSTEM | 7;
    pub(in crate::nftables) const NEW_SET: u16 = SUBSYSTEM | 9;
    pub(in crate::nftables) const GET_SET: u16 = SUBSYSTEM | 10;
    pub(in crate::nftables) const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
    pub(in crate::nftables) const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
    pub(in crate::nftables) const DELETE_ELEMENTS: u16 = SUBSYSTEM | 14;
    pub(in crate::nftables) const GET_GENERATION: u16 = SUBSYSTEM | 16;
}

/// NFTA_GEN_ID
pub(super) const GENERATION_ID: u16 = 1;
pub(super) const TABLE_NAME: u16 = 1;
pub(super) const TABLE_FLAGS: u16 = 2;
pub(super) const TABLE_USERDATA: u16 = 6;

pub(super) const CHAIN_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_USE: u16 = 6;
pub(super) const CHAIN_TYPE: u16 = 7;

pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
pub(super) const HOOK_DEVICE: u16 = 3;
pub(super) const HOOK_DEVICES: u16 = 4;

pub(super) const RULE_TABLE: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
pub(super) const RULE_USERDATA: u16 = 7;

pub(super) const SET_TABLE: u16 = 1;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LENGTH: u16 = 5;
pub(super) const SET_ID: u16 = 10;

pub(super) const ELEMENTS_TABLE: u16 = 1;
pub(super) const ELEMENTS_SET: u16 = 2;
pub(super) const ELEMENTS: u16 = 3;
pub(super) const ELEMENT_KEY: u16 = 1;

/// NFT_TABLE_F_OWNER: nobody but the socket that made the table changes it, and it goes with the socket.
pub(super) const OWNED: u32 = 2;

/// NF_DROP and NF_ACCEPT.
pub(super) const DROP: u32 = 0;
pub(super) const ACCEPT: u32 = 1;

/// `struct nfgenmsg` of a request about this family; `Other(0)` asks for all.
pub(super) fn header(family: Family) -> [u8; NFGENMSG] {
    [family.wire(), 0, 0, 0]
}

/// `struct nfgenmsg` of a transaction's begin and end: the subsystem is in the resource id.
pub(super) fn batch_header() -> [u8; NFGENMSG] {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    [0, 0, high, low]
}

/// A comment the way libnftnl keeps it in user data: type 0, length with the NUL, text. At most 253
/// bytes of text are kept.
pub(super) fn comment_data(text: &str) -> Vec<u8> {
    let mut end = text.len().min(253);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut data = vec![0, u8::try_from(end + 1).unwrap_or(u8::MAX)];
    data.extend_from_slice(&text.as_bytes()[..end]);
    data.push(0);
    data
}

/// The comment in user data, if there is one.
pub(super) fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        data = &rest[usize::from(*length)..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_read_back() {
        assert_eq!(comment_data("greway"), b"\x00\x07greway\x00");
        let long = "ü".repeat(200);
        for text in ["", "greway", &long] {
            let read = comment(&comment_data(text)).unwrap();
            assert!(text.starts_with(&read) && read.len() >= text.len().min(252), "{text}");
        }
        let second = [&[3, 1, 9][..], &comment_data("x")].concat();
        assert_eq!(comment(&second), Some("x".to_owned()));
        assert_eq!(comment(&[0, 9, 1]), None);
        assert_eq!(comment(&[]), None);
    }
}
