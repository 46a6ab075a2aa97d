//! What reading a file gives.

use greway_spec::{Draft, TunnelSpec};

use crate::diagnostic::{Diagnostic, Warning};

/// A file that describes one tunnel, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The tunnel.
    pub draft: Draft,
    /// What the user should know, in the order of the file.
    pub warnings: Vec<Warning>,
    /// Whether it comes up with the system.
    pub onboot: bool,
    /// The file's name, for errors that have no better place.
    pub file: String,
}

impl Parsed {
    /// The tunnel with the defaults filled in.
    ///
    /// # Errors
    /// What cannot be as the file says, with the place in the file.
    pub fn into_spec(self) -> Result<TunnelSpec, Diagnostic> {
        self.draft.into_spec().map_err(|error| Diagnostic::from_spec_error(&error, &self.file))
    }

    /// The tunnel with the defaults filled in, if this version carries such a one.
    ///
    /// # Errors
    /// As [`Parsed::into_spec`], and what this version cannot honour yet.
    pub fn into_carried_spec(self) -> Result<TunnelSpec, Diagnostic> {
        self.draft.into_carried_spec().map_err(|error| Diagnostic::from_spec_error(&error, &self.file))
    }
}
