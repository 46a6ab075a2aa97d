//! The network-scripts' files: `ifcfg-NAME` with `TYPE=GRE` or `GRE6`, and what lies beside it.
//!
//! The scripts let bash read these files; here only the part of the shell that assigns plain text is
//! read, and a file that needs more is refused with its line rather than guessed at. What a variable
//! means is what Red Hat's `ifup-tunnel`, `ifup-ipv6` and `ifup-routes` make of it, with two differences:
//! a failure is a failure, and a textual `KEY` stands for a number (see [`crate::derive_key`]).
//!
//! ```text
//! ../network      defaults for everything          route-NAME, route6-NAME, NAME.route   routes
//! ifcfg-NAME      the tunnel                       rule-NAME, rule6-NAME                 rules
//! keys-NAME       read after it, its KEY say
//! ```

mod files;
mod known;
mod lexer;
mod map;
mod render;
mod routes;
pub(crate) mod rule_words;
mod rules;
mod survey;
mod tables;
mod value;
mod words;

pub use files::{Files, Text, companions, parse, parse_files, parse_values};
pub use render::{Rendered, Unsayable, render};
pub use routes::{Routes, parse_routes};
pub use rules::{Rules, parse_rules};
pub use survey::{Kind, Survey, survey};
pub use tables::Tables;
