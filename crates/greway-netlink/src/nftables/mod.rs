//! The host's packet filter: which base chains there are, and small tables of our own.
//!
//! It refuses to be a firewall tool: it reads hooks, not rules, and writes only whole tables, each in one
//! transaction that the kernel takes or leaves as a whole. nft need not be installed. Needs `CAP_NET_ADMIN`
//! in the user namespace that owns the network namespace, and nothing more: the kernel loads its own
//! modules.
//!
//! Legacy iptables rules are not here, see [`crate::xtables_legacy_tables`].
//!
//! Message numbers and attributes: include/uapi/linux/netfilter/nf_tables.h, Linux 6.18.

mod accept_only;
mod chain;
mod change;
mod early_drop;
mod group_drop;
mod ingress_drop;
mod message;
mod port_unreachable;
mod rule;
mod ruleset;
mod send_on;
mod snat;

use netlink_packet_core::NLM_F_ACK;
use netlink_sys::protocols::NETLINK_NETFILTER;

pub use accept_only::accept_only;
pub use chain::{BaseChain, Hook, Policy};
pub use change::{BaseChainSpec, Change, SetSpec};
pub use early_drop::{Taken, early_drop};
pub use group_drop::group_drop;
pub use ingress_drop::ingress_drop;
pub use port_unreachable::{QuietPeer, port_unreachable};
pub use rule::{Expression, Rule, RuleCounter, Verdict};
pub use ruleset::{Comparison, Decision, Load, NftChain, NftElement, NftRule, NftRuleset, NftSet, Step};
pub use send_on::send_on;
pub use snat::{Snat, snat};

use crate::error::{NetlinkError, Subject};
use crate::nla::{Attributes, NlaWriter};
use crate::socket::{BatchEntry, RequestSocket};
use message::{NFGENMSG, header, kind};

/// What a table's chains see (NFPROTO_).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// ARP.
    Arp,
    /// Frames crossing a bridge.
    Bridge,
    /// Frames of one device, before the stack sees them.
    Netdev,
    /// Anything else, as the kernel's number.
    Other(u8),
}

impl Family {
    pub(crate) fn from_wire(number: u8) -> Self {
        match number {
            1 => Self::Inet,
            2 => Self::Ip,
            3 => Self::Arp,
            5 => Self::Netdev,
            7 => Self::Bridge,
            10 => Self::Ip6,
            other => Self::Other(other),
        }
    }

    pub(crate) fn wire(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Arp => 3,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
            Self::Other(number) => number,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Arp => "arp",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
            Self::Other(number) => return write!(f, "family {number}"),
        })
    }
}

/// A table is known by its family and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableId {
    /// What its chains see.
    pub family: Family,
    /// Its name within the family.
    pub name: String,
}

impl TableId {
    /// The table of this family and name.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }
}

impl std::fmt::Display for TableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// A table that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Table {
    /// Family and name.
    pub id: TableId,
    /// Its comment as nft writes and shows it: how we mark what is ours. Kernels before 5.10 keep none.
    pub comment: Option<String>,
}

/// A connection to nf_tables in one network namespace.
#[derive(Debug)]
pub struct Nftables {
    socket: RequestSocket,
}

impl Nftables {
    /// Connects to the calling thread's network namespace and asks whether nf_tables is there.
    ///
    /// # Errors
    /// `is_unsupported` on a kernel without nf_tables, `is_permission` without `CAP_NET_ADMIN`.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = RequestSocket::open(NETLINK_NETFILTER, "netfilter")?;
        let subject = Subject::new("use", &"nf_tables");
        match socket.request(subject, kind::GET_GENERATION, 0, &header(Family::Other(0))) {
            // nfnetlink's answer for a subsystem that nobody registered (nfnetlink_rcv_msg).
            Err(error) if error.errno() == Some(libc::EINVAL) => Err(subject.refused(libc::EOPNOTSUPP, None)),
            Err(error) => Err(error),
            Ok(_) => Ok(Self { socket }),
        }
    }

    /// The number of the ruleset: another one after each change of anybody's.
    ///
    /// # Errors
    /// Those of a request.
    pub fn generation(&self) -> Result<u32, NetlinkError> {
        let subject = Subject::new("read", &"the generation of nf_tables");
        let replies = self.socket.request(subject, kind::GET_GENERATION, 0, &header(Family::Other(0)))?;
        let read = |payload: &[u8]| {
            let id = Attributes::new(payload.get(NFGENMSG..)?).find(message::GENERATION_ID)?;
            Some(u32::from_be_bytes(*id.value.first_chunk()?))
        };
        let found = replies.iter().find_map(|reply| read(&reply.payload));
        found.ok_or_else(|| subject.malformed("no generation in the answer"))
    }

    /// The chains that see packets by themselves, of all families and owners.
    ///
    /// # Errors
    /// Those of a dump.
    pub fn base_chains(&self) -> Result<Vec<BaseChain>, NetlinkError> {
        let subject = Subject::new("list", &"nf_tables chains");
        let replies = self.socket.dump(subject, kind::GET_CHAIN, &header(Family::Other(0)))?;
        let chains = replies.iter().filter(|reply| reply.kind == kind::NEW_CHAIN);
        Ok(chains.filter_map(|reply| BaseChain::parse(&reply.payload)).collect())
    }

    /// All tables, of all families and owners.
    ///
    /// # Errors
    /// Those of a dump.
    pub fn tables(&self) -> Result<Vec<Table>, NetlinkError> {
        let subject = Subject::new("list", &"nf_tables tables");
        let replies = self.socket.dump(subject, kind::GET_TABLE, &header(Family::Other(0)))?;
        let tables = replies.iter().filter(|reply| reply.kind == kind::NEW_TABLE);
        Ok(tables.filter_map(|reply| parse_table(&reply.payload)).collect())
    }

    /// Whether there is such a table, whoever owns it.
    ///
    /// # Errors
    /// Any refusal but "no such table".
    pub fn table_exists(&self, table: &TableId) -> Result<bool, NetlinkError> {
        let object = format_args!("table {table}");
        let subject = Subject::new("look up", &object);
        let mut request = NlaWriter::after(&header(table.family));
        request.put_string(message::TABLE_NAME, &table.name);
        match self.socket.request(subject, kind::GET_TABLE, 0, &request.into_bytes()) {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            outcome => outcome.map(|_| true),
        }
    }

    /// Carries out all changes in order, in one transaction: all of them or none.
    ///
    /// # Errors
    /// The refusal of the first change that was refused, naming it.
    pub fn apply(&self, changes: &[Change]) -> Result<(), NetlinkError> {
        let mut entries = vec![boundary(kind::BATCH_BEGIN)];
        for change in changes {
            change.emit(&mut entries);
        }
        entries.push(boundary(kind::BATCH_END));
        self.socket.batch(Subject::new("change", &"the nf_tables ruleset"), &entries)
    }

    /// Deletes a table with all that is in it; says whether there was one.
    ///
    /// # Errors
    /// Any refusal but "no such table".
    pub fn delete_table(&self, table: &TableId) -> Result<bool, NetlinkError> {
        match self.apply(&[Change::DeleteTable(table.clone())]) {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// The counters of a chain's rules, in rule order; rules without one are left out.
    ///
    /// # Errors
    /// Those of a dump; a chain that does not exist has no rules.
    pub fn rule_counters(&self, table: &TableId, chain: &str) -> Result<Vec<RuleCounter>, NetlinkError> {
        let object = format_args!("rules of {table} {chain}");
        let subject = Subject::new("list", &object);
        let mut request = NlaWriter::after(&header(table.family));
        request.put_string(message::RULE_TABLE, &table.name).put_string(message::RULE_CHAIN, chain);
        let replies = match self.socket.dump(subject, kind::GET_RULE, &request.into_bytes()) {
            Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(Vec::new()),
            outcome => outcome?,
        };
        let rules = replies.iter().filter(|reply| reply.kind == kind::NEW_RULE);
        Ok(rules.filter_map(|reply| RuleCounter::parse(&reply.payload)).collect())
    }
}

fn boundary(kind: u16) -> BatchEntry {
    BatchEntry {
        kind,
        flags: 0,
        payload: message::batch_header().to_vec(),
        operation: "change",
        object: "the nf_tables ruleset".to_owned(),
    }
}

fn parse_table(payload: &[u8]) -> Option<Table> {
    let family = Family::from_wire(*payload.first()?);
    let attributes = Attributes::new(payload.get(NFGENMSG..)?);
    let name = attributes.find(message::TABLE_NAME)?.string();
    let comment = attributes.find(message::TABLE_USERDATA).and_then(|data| message::comment(data.value));
    Some(Table { id: TableId { family, name }, comment })
}

/// Every change is acknowledged, so that none can be lost without our knowing.
const CHANGE_FLAGS: u16 = NLM_F_ACK;
