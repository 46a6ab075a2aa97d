//! iproute2: `greway tunnel`'s own words, and `ip` to the letter.
//!
//! Two dialects live here. [`parse_tunnel_words`] reads what `greway tunnel` takes: numbers, addresses,
//! keys and TOS values exactly as iproute2 reads them, but an unknown word is an error with a suggestion,
//! where `ip` would take it for the tunnel's name, the words that take something back (`nokey`, `nocsum`)
//! exist, and errors are our sentences. [`tunnel`] and [`link`](mod@link) are the strict ones, for the
//! `ip` personality: every abbreviation, check, text and exit code of the real tool, and nothing of ours.
//! [`output`] prints as the real tool prints, and [`commands`] writes the `ip` commands that would build a
//! tunnel.

pub mod abort;
pub mod args;
mod commands;
pub mod front;
mod json;
pub mod link;
pub mod neigh;
pub mod output;
mod script;
mod show;
pub mod tunnel;
mod usage;
mod words;

pub use abort::{Abort, Errno, Wording};
pub use args::{Concern, Family, Lookup};
pub use commands::{Unsayable, commands};
pub use script::parse_commands;
pub use show::{show, show_json};
pub use words::{Verb, WordError, WordProblem, parse_tunnel_words};
