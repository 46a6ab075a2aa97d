//! Drops packets of GRE that a packet socket has taken, before the IP stack does more with them: what a socket on the device
//! was given goes up to the raw sockets, too, and for each segment of a train that is a walk for nothing.

use std::net::IpAddr;

use super::{BaseChainSpec, Change, Expression, Family, Rule, SetSpec, TableId, Verdict};

const WITHOUT_KEY: &str = "without-key";
const WITH_KEY: &str = "with-key";

/// Packets that go no further: of these ends, this protocol inside and this key, and nothing else. They are no fragments, and
/// have no options of IP but a tunnel encapsulation limit, and no field of GRE but those of RFC 2784 and RFC 2890.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Taken {
    /// Their source, of the same family as the destination.
    pub source: IpAddr,
    /// Their destination.
    pub destination: IpAddr,
    /// The protocol type in their GRE header (RFC 2784 §2.4).
    pub protocol: u16,
    /// Their key (RFC 2890 §2.1); `None`: they have none.
    pub key: Option<u32>,
}

impl Taken {
    /// The table that it goes into: [`Family::Ip`] or [`Family::Ip6`].
    pub fn family(&self) -> Family {
        if self.source.is_ipv6() { Family::Ip6 } else { Family::Ip }
    }

    /// What brings it into its table, which [`early_drop`] has made; refused if it is there.
    pub fn add(table: &str, taken: &[Self]) -> Vec<Change> {
        changes(table, taken, |table, set, elements| Change::AddElements { table, set, elements })
    }

    /// What takes it out again; refused if it is not there.
    pub fn remove(table: &str, taken: &[Self]) -> Vec<Change> {
        changes(table, taken, |table, set, elements| Change::DeleteElements { table, set, elements })
    }

    fn set(&self) -> &'static str {
        if self.key.is_some() { WITH_KEY } else { WITHOUT_KEY }
    }

    /// As the rules put it into the registers, each field in whole registers.
    fn element(&self) -> Vec<u8> {
        let mut element = self.protocol.to_be_bytes().to_vec();
        element.extend([0; 2]);
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(address) => element.extend(address.octets()),
                IpAddr::V6(address) => element.extend(address.octets()),
            }
        }
        element.extend(self.key.iter().flat_map(|key| key.to_be_bytes()));
        element
    }
}

fn changes(
    name: &str,
    taken: &[Taken],
    change: impl Fn(TableId, String, Vec<Vec<u8>>) -> Change,
) -> Vec<Change> {
    /// An attribute holds 64 KiB, and an element takes 60 bytes at most.
    const AT_ONCE: usize = 500;
    let mut changes = Vec::new();
    for family in [Family::Ip, Family::Ip6] {
        for set in [WITHOUT_KEY, WITH_KEY] {
            let of_it = taken.iter().filter(|taken| taken.family() == family && taken.set() == set);
            let elements = of_it.map(Taken::element).collect::<Vec<_>>();
            for some in elements.chunks(AT_ONCE) {
                changes.push(change(TableId::new(family, name), set.to_owned(), some.to_vec()));
            }
        }
    }
    changes
}

/// Offsets from the header of IP.
struct Layout {
    /// Where the protocol of what is behind the header is, the bits of it that count, and what they are of GRE and few others.
    protocol: (u32, u8, u8),
    /// Version, and length where there is one, of a header without options: the bits of its first byte that count, and
    /// what they are.
    plain: (u8, u8),
    /// Where fragments show, if in the header itself.
    fragment: Option<u32>,
    addresses: u32,
    /// Bytes of one.
    address: u32,
    places: &'static [Place],
    address_type: u32,
}

/// Where GRE is.
struct Place {
    /// It is there if at these offsets are these bytes.
    if_there: &'static [(u32, &'static [u8])],
    gre: u32,
}

/// RFC 791 §3.1.
const IPV4: Layout = Layout {
    protocol: (9, 0xff, GRE),
    plain: (0xff, 0x45),
    fragment: Some(6),
    addresses: 12,
    address: 4,
    places: &[Place { if_there: &[], gre: 20 }],
    address_type: 7,
};

/// RFC 8200 §3. GRE is behind the header, or behind destination options of eight bytes: a tunnel encapsulation limit
/// (RFC 2473 §4.1.1), which packets have by default.
const IPV6: Layout = Layout {
    // What 47 and 60 have in common.
    protocol: (6, 0xec, 0x2c),
    plain: (0xf0, 0x60),
    fragment: None,
    addresses: 8,
    address: 16,
    places: &[
        Place { if_there: &[(6, &[DESTINATION_OPTIONS]), (40, &[GRE, 0])], gre: 48 },
        Place { if_there: &[(6, &[GRE])], gre: 40 },
    ],
    address_type: 8,
};

const DESTINATION_OPTIONS: u8 = 60;
/// Protocol number of GRE.
const GRE: u8 = 47;
/// `TYPE_ETHERTYPE` and the width of a type in the number of several (nft src/datatype.h): for nft to show what is in the sets.
const ETHERTYPE_TYPE: u32 = 10;
const TYPE_BITS: u32 = 6;
/// A key is shown as an address, the way `ip tunnel` takes it, too.
const KEY_TYPE: u32 = 7;

/// The table as nft writes it, of IPv4 here, with nothing in its sets:
///
/// ```text
/// table ip TABLE {
///     flags owner
///     set without-key { type ether_type . ipv4_addr . ipv4_addr }
///     set with-key { type ether_type . ipv4_addr . ipv4_addr . ipv4_addr }
///     chain prerouting {
///         type filter hook prerouting priority -450; policy accept;
///         ip protocol != gre accept
///         ip version != 4 ip hdrlength != 5 accept
///         ip frag-off & 16383 != 0 accept
///         @nh,160,16 & 0x6fff == 0x0 @nh,176,16 . @nh,96,64 @without-key drop
///         @nh,160,16 & 0xefff == 0x2000 @nh,176,16 . @nh,96,64 . @nh,192,32 @with-key drop
///         @nh,160,16 & 0xefff == 0xa000 @nh,176,16 . @nh,96,64 . @nh,224,32 @with-key drop
///     }
/// }
/// ```
///
/// The table goes with the socket that applies this (`flags owner`, Linux 5.12): who takes packets and ends without a word
/// leaves no hole behind. Others of the host's packets pass one comparison.
pub fn early_drop(table: &str, family: Family, comment: Option<&str>) -> Vec<Change> {
    let layout = if family == Family::Ip6 { IPV6 } else { IPV4 };
    let table = TableId::new(family, table);
    let chain = BaseChainSpec::first_in_prerouting();
    let name = chain.name.clone();
    let length = 4 + 2 * layout.address;
    let both = |id: u32| (id << TYPE_BITS) | layout.address_type;
    let key_type = both(both(ETHERTYPE_TYPE));
    let set = |name: &str, key_type: u32, key_length: u32| Change::AddSet {
        table: table.clone(),
        set: SetSpec { name: name.to_owned(), key_type, key_length },
    };
    let rule = |expressions| Change::AddRule {
        table: table.clone(),
        chain: name.clone(),
        rule: Rule { expressions, comment: None },
    };
    let mut changes = vec![
        Change::AddOwnedTable { table: table.clone(), comment: comment.map(str::to_owned) },
        set(WITHOUT_KEY, key_type, length),
        set(WITH_KEY, (key_type << TYPE_BITS) | KEY_TYPE, length + 4),
        Change::AddBaseChain { table: table.clone(), chain },
    ];
    changes.extend(others(&layout).into_iter().map(rule));
    // Of the flags that of the sequence number says nothing; those of RFC 1701 and versions other than 0 are no packet of
    // ours. The key is behind the checksum, if there is one.
    let forms = [(0x6fff_u16, 0_u16, None), (0xefff, 0x2000, Some(4)), (0xefff, 0xa000, Some(8))];
    for place in layout.places {
        changes.extend(forms.map(|(mask, flags, key)| rule(of_set(&layout, place, mask, flags, key))));
    }
    changes
}

/// What lets everything else pass. One comparison could do for several of these, and nft would show but one of them.
fn others(layout: &Layout) -> Vec<Vec<Expression>> {
    let unless = |offset, mask: &[u8], value: &[u8]| {
        vec![
            Expression::Network { offset, length: value.len() as u32 },
            Expression::Mask(mask.to_vec()),
            Expression::NotEqual(value.to_vec()),
            Expression::Verdict(Verdict::Accept),
        ]
    };
    let ((offset, mask, protocol), (plain_mask, plain)) = (layout.protocol, layout.plain);
    let mut rules = vec![unless(offset, &[mask], &[protocol]), unless(0, &[plain_mask], &[plain])];
    rules.extend(layout.fragment.map(|offset| unless(offset, &[0x3f, 0xff], &[0, 0])));
    rules
}

fn of_set(layout: &Layout, place: &Place, mask: u16, flags: u16, key: Option<u32>) -> Vec<Expression> {
    let (addresses, gre) = (2 * layout.address, place.gre);
    let mut rule = Vec::new();
    for (offset, bytes) in place.if_there {
        rule.push(Expression::Network { offset: *offset, length: bytes.len() as u32 });
        rule.push(Expression::Equal(bytes.to_vec()));
    }
    rule.extend([
        Expression::Network { offset: gre, length: 2 },
        Expression::Mask(mask.to_be_bytes().into()),
        Expression::Equal(flags.to_be_bytes().into()),
        Expression::Part { offset: gre + 2, length: 2, at: 0 },
        Expression::Part { offset: layout.addresses, length: addresses, at: 4 },
    ]);
    if let Some(offset) = key {
        rule.push(Expression::Part { offset: gre + offset, length: 4, at: 4 + addresses });
    }
    let set = if key.is_some() { WITH_KEY } else { WITHOUT_KEY };
    rule.extend([Expression::InSet(set.to_owned()), Expression::Verdict(Verdict::Drop)]);
    rule
}
