//! Words one after another, values as `ip` reads them, and the few questions it asks the system.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use greway_spec::number::{parse_hex_u8, parse_ipv4, parse_u8, parse_u32};
use greway_spec::{DeviceName, Given, Span, TunnelSpec};

use super::abort::{Abort, Errno};

/// What the tool asks the system while it reads a command.
pub trait Lookup {
    /// Whether a network device of that name exists.
    fn device(&self, name: &str) -> bool;

    /// The parameters of our tunnel of that name.
    ///
    /// # Errors
    /// [`Errno::NoSuchDevice`] where there is no such device, [`Errno::NotSupported`] where it is no
    /// tunnel of ours.
    fn tunnel(&self, name: &str) -> Result<TunnelSpec, Errno>;

    /// All our tunnels: a command without a name means the one with the ends it names.
    fn tunnels(&self) -> Vec<TunnelSpec>;
}

/// The address family that the global options asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// None.
    #[default]
    Unspecified,
    /// `-4`.
    Inet,
    /// `-6`.
    Inet6,
    /// Another (`-0`, `-B`, `-M`), by its number.
    Other(i32),
}

/// Whether a command is about GRE, as far as its words tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Not at all: the real tool's.
    None,
    /// By its words alone.
    Gre,
    /// If this name is that of a tunnel of ours.
    Named(String),
    /// A list, in which ours belong too.
    List,
}

/// Whether `word` is a beginning of `whole`: how `ip` takes abbreviations.
pub fn begins(word: &str, whole: &str) -> bool {
    !word.is_empty() && whole.starts_with(word)
}

/// A cursor over the words of a command.
pub(crate) struct Args<'w> {
    words: &'w [&'w str],
    /// Of the next word.
    next: usize,
}

impl<'w> Args<'w> {
    pub(crate) fn new(words: &'w [&'w str]) -> Self {
        Self { words, next: 0 }
    }

    pub(crate) fn next(&mut self) -> Option<&'w str> {
        let word = self.words.get(self.next).copied()?;
        self.next += 1;
        Some(word)
    }

    /// The word after the one just read.
    pub(crate) fn value(&mut self) -> Result<&'w str, Abort> {
        self.next().ok_or_else(Abort::incomplete)
    }

    /// What is left.
    pub(crate) fn rest(&self) -> &'w [&'w str] {
        self.words.get(self.next..).unwrap_or_default()
    }

    /// `value` with the place of the word just read.
    pub(crate) fn given<T>(&self, value: T) -> Option<Given<T>> {
        Some(Given::at(value, Span::Argument { position: self.next.saturating_sub(1) }))
    }
}

/// Gives a field that no word named the value it has then.
pub(crate) fn default_to<T>(field: &mut Option<Given<T>>, value: T) {
    if field.is_none() {
        *field = Some(value.into());
    }
}

/// A name as `ip` accepts it: 1 to 15 bytes, no `/`, no white space as C has it.
pub(crate) fn is_ifname(text: &str) -> bool {
    let space = |byte: u8| matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r');
    (1..=DeviceName::MAX).contains(&text.len()) && !text.bytes().any(|byte| byte == b'/' || space(byte))
}

/// A key: with a dot in it an address (so `any` of `get_addr32` cannot be one), else a number.
pub(crate) fn key(word: &str, text: &str) -> Result<u32, Abort> {
    if text.contains('.') {
        return ipv4_of_tunnel(text).map(u32::from);
    }
    parse_u32(text).ok_or_else(|| Abort::bad_key(word, text))
}

/// An IPv4 address as `ip tunnel` takes it (`get_addr32`).
pub(crate) fn ipv4_of_tunnel(text: &str) -> Result<Ipv4Addr, Abort> {
    parse_ipv4(text).ok_or_else(|| Abort::no_ip_address(text))
}

/// An IPv4 address as `ip link` takes it (`get_addr` with AF_INET).
pub(crate) fn ipv4(text: &str) -> Result<IpAddr, Abort> {
    parse_ipv4(text).map(IpAddr::V4).ok_or_else(|| Abort::no_address("inet", text))
}

/// An IPv6 address (`get_addr` with AF_INET6): `any`, `all`, `default`, or what `inet_pton` reads.
pub(crate) fn ipv6(text: &str) -> Result<IpAddr, Abort> {
    if matches!(text, "any" | "all" | "default") {
        return Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    }
    text.parse().ok().map(IpAddr::V6).ok_or_else(|| Abort::no_address("inet6", text))
}

/// A number of 0 to 255, in C notation.
pub(crate) fn byte(message: &str, text: &str) -> Result<u8, Abort> {
    parse_u8(text).ok_or_else(|| Abort::wrong(message, text))
}

/// A number of 0 to 65535, in C notation.
pub(crate) fn short(message: &str, text: &str) -> Result<u16, Abort> {
    parse_u32(text).and_then(|value| u16::try_from(value).ok()).ok_or_else(|| Abort::wrong(message, text))
}

/// A number of 0 to 4294967295, in C notation.
pub(crate) fn word32(message: &str, text: &str) -> Result<u32, Abort> {
    parse_u32(text).ok_or_else(|| Abort::wrong(message, text))
}

/// A traffic class as the IPv6 parsers take it: hexadecimal, no names.
pub(crate) fn traffic_class(text: &str) -> Result<u8, Abort> {
    parse_hex_u8(text).ok_or_else(|| Abort::wrong("invalid TClass", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_ip_takes_them() {
        for (text, taken) in
            [("tun0", true), ("a:b", true), ("123456789012345", true), ("1234567890123456", false)]
        {
            assert_eq!(is_ifname(text), taken, "{text}");
        }
        assert!(!is_ifname("") && !is_ifname("a/b") && !is_ifname("a b") && !is_ifname("a\tb"));
    }

    #[test]
    fn abbreviations() {
        assert!(begins("a", "add") && begins("add", "add"));
        assert!(!begins("", "add") && !begins("added", "add"));
    }

    #[test]
    fn addresses_of_either_family() {
        assert_eq!(ipv6("any"), Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
        assert_eq!(
            ipv6("1.2.3.4").unwrap_err().stderr,
            "Error: inet6 address is expected rather than \"1.2.3.4\".\n"
        );
        assert_eq!(ipv4("fd00::1").unwrap_err().code, 1);
    }
}
