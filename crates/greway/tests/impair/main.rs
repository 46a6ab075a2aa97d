//! Tunnels over a bad path (`greway_testbed::impair`) and under more than they carry: no wrong byte comes out, and every
//! packet that does not come out has a reason.

#[path = "../support/pair.rs"]
mod pair;
#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod bytes;
mod turns;
