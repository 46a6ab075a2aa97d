//! The model: what a tunnel should be.
//!
//! A surface (command line, file) is read into a [`Draft`], where every field is optional; a
//! [`TunnelSpec`] comes out of it with the defaults filled in and is valid by construction. This
//! crate reads no text and touches no system: the surfaces are `greway-dialects`, the system is
//! `greway-control`.

#![forbid(unsafe_code)]

mod carried;
pub mod change;
mod describe;
pub mod draft;
pub mod dsfield;
pub mod error;
pub mod given;
mod inner;
pub mod key;
pub mod name;
pub mod number;
pub mod policy;
pub mod rule;
pub mod spec;

pub use change::{Change, Conflict, RecreateReason};
pub use draft::{Draft, DraftAddress, DraftRoute};
pub use error::{Problem, SpecError};
pub use given::{Given, Span};
pub use key::{KeyError, parse_key};
pub use name::DeviceName;
pub use policy::{DatapathChoice, FirewallPolicy, MssClamp, OverlayChoice, SeqMode, UnderlayChoice};
pub use rule::{InnerRule, RuleAction};
pub use spec::{
    FlowLabel, Inner, InnerAddress, InnerNeighbour, InnerRoute, Mode, Origin, Prefix, Tos, Ttl, TunnelSpec,
};
