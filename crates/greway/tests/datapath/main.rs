//! The data plane end to end: the real binary on hosts of the lab, looked at from outside. What is asserted is what
//! a captured wire, a counter of the kernel or a receiving program shows, never what greway says of itself
//! alone.

#[path = "../support/bursts.rs"]
mod bursts;
#[path = "../support/pair.rs"]
mod pair;
#[path = "../support/mod.rs"]
mod support;

mod bulk;
mod counts;
mod early_drop;
mod guards;
mod in_order;
mod ip_stack;
mod live_change;
mod outer;
mod overlay;
mod several;
mod short_way;
mod super_packets;
mod tcpdump;
mod trains;
