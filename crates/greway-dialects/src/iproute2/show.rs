//! What `greway tunnel show` prints: the words of `ip tunnel show`, for all our kinds of tunnel alike.

use greway_spec::{SeqMode, TunnelSpec};

use super::output::{Options, json_list, text_of};

/// The lines of `ip tunnel show` for one tunnel: the description and a line for each checksum and
/// sequence flag, where `seq-mode rfc2890` holds one of ours. Ends with a newline.
pub fn show(spec: &TunnelSpec) -> String {
    let mut text = text_of(spec, &Options::default());
    if spec.seq_mode != SeqMode::Linux {
        text += &format!("\n  Sequence numbers in mode {}.", spec.seq_mode);
    }
    text + "\n"
}

/// The JSON of `ip -j tunnel show`: one list, and a newline after each tunnel, as there. A tunnel whose
/// `seq-mode` is not Linux's says so in `seq_mode`.
pub fn show_json<'s>(specs: impl IntoIterator<Item = &'s TunnelSpec>) -> String {
    json_list(specs)
}
