//! Blocking rtnetlink, nf_tables and xfrm behind our own plain types.
//!
//! Why it exists: what greway changes on a host is links, addresses, routes and two small firewall
//! tables, and it must say exactly why the kernel refused one. So this crate asks one thing at a time on a
//! blocking socket, waits for the acknowledgement, and keeps the kernel's words.
//!
//! What it refuses to do: it knows nothing of tunnels, starts no thread, caches nothing, never runs a
//! program, and lets no type of a netlink library out.
//!
//! A [`Netlink`], [`Monitor`] or [`nftables::Nftables`] belongs to the network namespace that the calling
//! thread was in when it was opened, and stays there whatever the thread does later.

#![forbid(unsafe_code)]

mod address;
mod conntrack;
mod error;
mod kernel_gre;
mod link;
mod link_change;
mod monitor;
mod neighbour;
mod netconf;
mod nla;
mod prefix;
mod route;
mod route_lookup;
mod rtnetlink;
mod rule;
mod socket;
mod veth;

pub mod nftables;
pub mod xfrm;
pub mod xtables;

pub use address::{Address, AddressEntry};
pub use conntrack::{Connection, connections};
pub use error::NetlinkError;
pub use kernel_gre::KernelTunnel;
pub use link::{Link, LinkStatistics, MacAddress};
pub use link_change::{LinkChange, NetnsRef};
pub use monitor::{Event, Monitor, Sources};
pub use neighbour::{Neighbour, NeighbourState};
pub use netconf::ReversePathFilters;
pub use prefix::IpPrefix;
pub use route::{Family, NextHop, Route, RouteFilter, RouteKind, protocol, table};
pub use route_lookup::{ResolvedRoute, RouteOptions};
pub use rtnetlink::Netlink;
pub use rule::{Rule, RuleAction};
pub use veth::{VethEnd, VethPair, VethSpec};
pub use xtables::xtables_legacy_tables;
