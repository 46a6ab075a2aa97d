//! The words of `greway new`: those of `greway tunnel add`, and of `ip addr` and `ip route` what makes the inside.

use std::net::IpAddr;

use anyhow::{anyhow, bail};
use greway_dialects::iproute2::{self, Verb};
use greway_dialects::parse_file_key;
use greway_spec::{Draft, DraftAddress, DraftRoute, Prefix};

/// A draft without `local` where none was given, and what its author should know.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) draft: Draft,
    pub(super) warnings: Vec<String>,
}

/// Reads the words after `greway new`.
///
/// # Errors
/// The first word that is wrong, or what is missing.
pub(super) fn read(words: &[String]) -> anyhow::Result<Read> {
    let (mut inners, mut peers, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    let (mut routes, mut outer) = (Vec::new(), Vec::<String>::new());
    let mut rest = words.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        let mut value = |right: &str| rest.next().ok_or_else(|| anyhow!("{word} needs a value: {right}"));
        match word {
            "inner" => inners.push(prefix("inner", value("ADDRESS/LENGTH")?)?),
            "peer" => peers.push(prefix("peer", value("the other host's inner address")?)?),
            "route" => routes.push(route(value("NETWORK/LENGTH")?)?),
            "key" | "ikey" | "okey" => {
                let text = value("a number, a quad or a text")?;
                let (number, warning) = parse_file_key(word, text).map_err(|error| anyhow!(error))?;
                warnings.extend(warning);
                outer.extend([word.to_owned(), number.to_string()]);
            }
            // To `ip` the last one counts; here nobody means two.
            "remote" | "local" if outer.iter().any(|earlier| earlier == word) => {
                bail!("{word} is said twice; a tunnel has one")
            }
            other => outer.push(other.to_owned()),
        }
    }
    let mut draft = iproute2::parse_tunnel_words(&outer, Verb::Add)?;
    if draft.name.is_none() {
        bail!("the tunnel's name is missing: greway new tun0 remote …");
    }
    if draft.remote.is_none() {
        bail!("remote is missing: give the other host's address");
    }
    draft.addresses = Some(addresses(&inners, &peers)?.into_iter().map(Into::into).collect());
    draft.routes = Some(routes.into_iter().map(Into::into).collect());
    Ok(Read { draft, warnings })
}

type Parsed = (IpAddr, Option<u8>);

fn prefix(word: &str, text: &str) -> anyhow::Result<Parsed> {
    let wrong = || anyhow!("{word} \"{text}\" is wrong: an address such as 172.16.0.1/30 is right");
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_invalid| wrong())?)),
        None => (text, None),
    };
    let address = address.parse::<IpAddr>().map_err(|_invalid| wrong())?;
    match length {
        Some(length) if length > full(address) => Err(wrong()),
        length => Ok((address, length)),
    }
}

fn full(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Each inner address with its peer, which is said in the same order.
fn addresses(inners: &[Parsed], peers: &[Parsed]) -> anyhow::Result<Vec<DraftAddress>> {
    let pairs = (0..inners.len().max(peers.len()).max(1))
        .map(|index| address(inners.get(index).copied(), peers.get(index).copied()));
    pairs.collect()
}

/// `ip addr add INNER peer PEER/LENGTH`: both in one network, neither its first nor its last address.
fn address(inner: Option<Parsed>, peer: Option<Parsed>) -> anyhow::Result<DraftAddress> {
    let (local, length) = inner.ok_or_else(|| {
        anyhow!("inner is missing: give this host's address in the tunnel, such as 172.16.0.1/30")
    })?;
    let (peer, peer_length) =
        peer.ok_or_else(|| anyhow!("peer is missing: give the other host's address in the tunnel"))?;
    let length = match (length, peer_length) {
        (Some(one), Some(other)) if one != other => {
            bail!(
                "inner {local}/{one} and peer {peer}/{other} have different prefix lengths: one is right for both"
            )
        }
        (Some(length), _) | (None, Some(length)) => length,
        (None, None) => bail!(
            "inner {local} has no prefix length: {local}/{} is right, say",
            if local.is_ipv4() { 30 } else { 64 }
        ),
    };
    let network = Prefix::containing(local, length);
    if !network.contains(peer) {
        bail!(
            "peer {peer} is not in {network}, the network of inner {local}/{length}: both ends belong into one network"
        );
    }
    if let (IpAddr::V4(first), true) = (network.address, length < 31) {
        let last =
            IpAddr::from((first.to_bits() | u32::MAX.checked_shr(length.into()).unwrap_or(0)).to_be_bytes());
        for (word, end) in [("inner", local), ("peer", peer)] {
            if end == network.address || end == last {
                bail!(
                    "{word} {end} is no address of a host: {network} has {first} for itself and {last} for broadcast"
                );
            }
        }
    }
    Ok(DraftAddress { local, peer: Some(peer), prefix_length: length })
}

fn route(text: &str) -> anyhow::Result<DraftRoute> {
    let into_itself = || {
        anyhow!(
            "route {text} would lead the tunnel's own packets into the tunnel: name the networks behind the other host"
        )
    };
    if text == "default" {
        return Err(into_itself());
    }
    let (address, length) = prefix("route", text)?;
    if length == Some(0) {
        return Err(into_itself());
    }
    Ok(DraftRoute::to(address, length.unwrap_or_else(|| full(address))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_guides_tunnel() {
        let line = "tun0 remote 100.0.2.100 local 100.0.1.100 inner 172.16.0.1/30 peer 172.16.0.2 \
                    route 10.10.2.0/24 route 10.10.3.0/24 key lichenhao ttl 9";
        let Read { draft, warnings } = read(&words(line)).unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("63077743"), "{warnings:?}");
        let spec = draft.into_spec().unwrap();
        assert_eq!(spec.inner.addresses[0].to_string(), "172.16.0.1 peer 172.16.0.2/30");
        assert_eq!((spec.inner.routes.len(), spec.ikey, spec.okey), (2, Some(63_077_743), Some(63_077_743)));
        assert_eq!(spec.ttl.to_string(), "9");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let ends = "tun0 remote 100.0.2.100 local 100.0.1.100";
        for (line, parts) in [
            ("remote 1.2.3.4 inner 1.1.1.1/30 peer 1.1.1.2".to_owned(), &["name is missing"][..]),
            ("tun0 inner 1.1.1.1/30 peer 1.1.1.2".to_owned(), &["remote is missing"]),
            (format!("{ends} peer 172.16.0.2"), &["inner is missing", "172.16.0.1/30"]),
            (format!("{ends} inner 172.16.0.1/30"), &["peer is missing"]),
            (
                format!("{ends} inner 172.16.0.1 peer 172.16.0.2"),
                &["no prefix length", "172.16.0.1/30 is right"],
            ),
            (format!("{ends} inner 172.16.0.1/30 peer 172.16.0.6"), &["172.16.0.6 is not in 172.16.0.0/30"]),
            (format!("{ends} inner 172.16.0.1/30 peer fd00::2"), &["fd00::2 is not in"]),
            (format!("{ends} inner 172.16.0.1/30 peer 172.16.0.3"), &["172.16.0.3 is no address of a host"]),
            (format!("{ends} inner 172.16.0.0/30 peer 172.16.0.1"), &["inner 172.16.0.0 is no address"]),
            (format!("{ends} inner 172.16.0.1/30 peer 172.16.0.2/29"), &["different prefix lengths"]),
            (format!("{ends} inner 172.16.0.1/33 peer 172.16.0.2"), &["inner \"172.16.0.1/33\" is wrong"]),
            (format!("{ends} inner x peer 172.16.0.2"), &["inner \"x\" is wrong"]),
            (format!("{ends} inner 172.16.0.1/30 peer"), &["peer needs a value"]),
            (format!("{ends} inner 172.16.0.1/30 peer 172.16.0.2 route default"), &["into the tunnel"]),
            (format!("{ends} inner 172.16.0.1/30 peer 172.16.0.2 route 0.0.0.0/0"), &["into the tunnel"]),
            (format!("{ends} inner 172.16.0.1/30 peer 172.16.0.2 route ::/0"), &["into the tunnel"]),
            (format!("{ends} remote 1.2.3.4 inner 172.16.0.1/30 peer 172.16.0.2"), &["remote is said twice"]),
            (format!("{ends} inner 172.16.0.1/30 peer 172.16.0.2 inner fd00::1/64"), &["peer is missing"]),
            (format!("{ends} inner 172.16.0.1/30 peer 172.16.0.2 peer fd00::2"), &["inner is missing"]),
            (
                format!("{ends} inner 172.16.0.1/30 peer 172.16.0.2 key 4294967296"),
                &["key \"4294967296\" is no key"],
            ),
            (format!("{ends} inner 172.16.0.1/30 peer 172.16.0.2 tll 9"), &["tll", "ttl"]),
        ] {
            let error = format!("{:#}", read(&words(&line)).unwrap_err());
            for part in parts {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
        // Each inner address has its peer.
        let both = read(&words(&format!(
            "{ends} inner 172.16.0.1/30 inner fd00::1/64 peer 172.16.0.2 peer fd00::2"
        )));
        let spec = both.unwrap().draft.into_spec().unwrap();
        let inner = spec.inner.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(inner, ["172.16.0.1 peer 172.16.0.2/30", "fd00::1 peer fd00::2/64"]);
        // A network of two has no address of its own.
        assert!(read(&words(&format!("{ends} inner 172.16.0.0/31 peer 172.16.0.1"))).is_ok());
    }
}
