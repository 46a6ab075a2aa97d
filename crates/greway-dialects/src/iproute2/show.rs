//! What `greway tunnel show` prints: the words of `ip tunnel show`, for all our kinds of tunnel alike.

use greway_spec::TunnelSpec;

use super::output::{Options, json_list, text_of};

/// The lines of `ip tunnel show` for one tunnel: the description and a line for each checksum and
/// sequence flag. Ends with a newline.
pub fn show(spec: &TunnelSpec) -> String {
    text_of(spec, &Options::default()) + "\n"
}

/// The JSON of `ip -j tunnel show`: one list, and a newline after each tunnel, as there.
pub fn show_json<'s>(specs: impl IntoIterator<Item = &'s TunnelSpec>) -> String {
    json_list(specs)
}
