//! Puts greway's BPF programs to work and takes them away again: probe, load, attach, pin, adopt, remove.
//!
//! It exists so that the rest of greway can ask for the fast path in plain words and be told in plain words
//! why there is none. aya stays inside: none of its types is in a signature, and every refusal keeps the
//! kernel's own words. It refuses to decide by a kernel's version number (it tries, and listens), to attach
//! in front of anybody, and to leave anything behind that [`remove_all`] would not find.
//!
//! ```text
//!                      a bpffs that lasts                 no such bpffs
//!  tcx works           link pinned: outlives the          clsact, if it works, so that it lasts;
//!                      process, adopted by the next       else a link that dies with the process
//!  only clsact works   filter of priority 60000: outlives the process, adopted by its name
//! ```
//!
//! Pins are at `/sys/fs/bpf/greway/v<layout>/net-<cookie of the network namespace>/`: the maps, and one link a
//! device and point. They are used only in a bpffs that lasts, which is the one that PID 1 sees at that place too: a
//! pin in one that is mounted anew in the private mount namespace of `ip netns exec` would die with it.
//!
//! What the programs carry is told to them as a whole ([`Table`]), from each tunnel's definition and its [`Place`].
//! A daemon that starts loads, applies its table and addresses, then adopts, so that no adopted program sees empty
//! maps; then it attaches what is missing, removes what other layouts have left, and gives a sign of life
//! ([`Fastpath::beat`]) every second or two.

mod bpffs;
mod coming;
mod entry;
mod error;
mod fastpath;
mod filter;
mod link;
mod maps;
mod netns;
mod object;
mod pins;
mod probe;
mod remove;
mod table;
pub mod witness;

pub use coming::{Coming, Said};
pub use entry::{Entry, NextHop, Place, WhyNot};
pub use error::FastpathError;
pub use fastpath::{Adopted, Attachment, Fastpath, Hook, HookChoice, Options, PinPolicy, Pinning};
pub use greway_ebpf_abi::{
    Counters, Decline, Dropped, EgressEntry, IngressEntry, IngressKey, LAYOUT, Point, SEALED_TCI, Slot,
    State, TunnelCounters,
};
pub use probe::{Ability, Probe, counts_what_is_handed_over, probe};
pub use remove::{remove_all, remove_deserted};
pub use table::{Member, Table};
