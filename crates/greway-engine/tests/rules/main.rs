//! The rules of a Linux-compatible tunnel, one test or more for each: the number of a rule is the
//! beginning of the name of its tests. One binary, so that the helpers are compiled once.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

mod accept_oracle;
mod answers;
mod encap_oracle;
mod errors;
mod flag_words;
mod gretap;
mod guards;
mod merged;
mod reorder;
mod split;
mod support;
mod too_big;
