//! NetworkManager over D-Bus: its profiles of type ip-tunnel, and what becomes of them.
//!
//! Why it exists: on a kernel without GRE NetworkManager stores a profile `type ip-tunnel mode gre`, and cannot
//! bring it up. Such a profile can be made one that it can bring up, in place, over D-Bus: same uuid, same name,
//! same addresses. [`Profile`] says what a profile is, [`Properties`] what its tunnel is, [`Way`] into what it is
//! made; [`Bus`] reads and writes profiles and follows them.
//!
//! What it refuses to do: it makes no device, asks no daemon, decides on no policy, and lets no type of the
//! D-Bus library out. All calls block.

#![forbid(unsafe_code)]

mod block;
mod bus;
mod follow;
mod profile;
mod tunnel;
mod user;

pub use bus::{Active, Bus, NmError, Version};
pub use follow::Event;
pub use profile::{ADOPTED_FROM, Held, POLICY, Profile, Way};
pub use tunnel::{Properties, PropertyError, draft, emit};
pub use user::decode_environment;
