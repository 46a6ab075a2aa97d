//! The network-scripts' files: `ifcfg-NAME` with `TYPE=GRE`, and `route-NAME` beside it.
//!
//! The scripts let bash read these files; here only the part of the shell that assigns plain text is
//! read, and a file that needs more is refused with its line rather than guessed at. What a variable
//! means is what Red Hat's `ifup-tunnel` makes of it, with two differences: a failure is a failure,
//! and a textual `KEY` stands for a number (see [`crate::derive_key`]).

mod lexer;
mod map;
mod routes;
mod value;

pub use map::parse;
pub use routes::{Routes, parse_routes};
