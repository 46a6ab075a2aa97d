//! The control plane: observe → plan → apply, the store, the local API and the daemon.
//!
//! [`plan`] is pure and decides; [`observe`] reads the host and [`daemon`] changes it, through
//! [`apply`], which takes back what it did when a step fails. What a client needs is [`api`],
//! [`location`] and [`start`].

#![forbid(unsafe_code)]

pub mod api;
pub mod apply;
pub mod check;
pub mod daemon;
pub mod location;
pub mod observe;
pub mod peer;
pub mod plan;
pub mod purge;
mod routes;
mod rps;
mod rules;
pub mod sd_notify;
pub mod start;
pub mod status;
pub mod store;
pub mod sysctl;
pub mod unit;
