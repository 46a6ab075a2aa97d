//! Text to spec and back, for every surface that describes a tunnel, one folder a dialect.
//!
//! Nothing here opens a file, asks the kernel or looks at the environment: text in, a
//! [`greway_spec::Draft`] out, or a [`Diagnostic`] that says where and what would be right. What a
//! dialect cannot say is refused, never dropped in silence.

#![forbid(unsafe_code)]

pub mod detect;
pub mod diagnostic;
pub mod ifcfg;
pub mod iproute2;
pub mod key;
pub mod native;
mod nearest;
pub mod networkmanager;
pub mod parsed;
pub mod shell;

pub use detect::{Dialect, detect, parse, to_import};
pub use diagnostic::{Diagnostic, Warning};
pub use key::{derive_key, parse_file_key};
pub use parsed::Parsed;
