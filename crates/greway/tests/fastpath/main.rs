//! The fast path in a daemon's hands, looked at from outside: what carries a tunnel may change nothing but its speed.
//!
//! Most other tests run once with the programs in the kernel and once without, and show the same. Here are those that
//! compare the two, and those of what only the programs can: carry on when nobody is left to tell them anything.

#[path = "../support/lan.rs"]
mod lan;
#[path = "../support/pair.rs"]
mod pair;
#[path = "../support/mod.rs"]
mod support;

mod counters;
mod follows;
mod forever;
mod hosts;
mod hub;
mod leftovers;
mod netns_exec;
mod opening;
mod rules;
mod stream;
mod survival;
mod truth;
mod words;
