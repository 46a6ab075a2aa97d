//! The words of `ip tunnel`, as `greway tunnel` takes and prints them.
//!
//! Numbers, addresses, keys and TOS values are read exactly as iproute2 reads them. This is our own
//! command all the same: an unknown word is an error with a suggestion, where `ip` would take it for
//! the tunnel's name, the words that take something back (`nokey`, `nocsum`) exist, and errors are our
//! sentences, not `ip`'s.

mod show;
mod words;

pub use show::{show, show_json};
pub use words::{Verb, WordError, WordProblem, parse_tunnel_words};
