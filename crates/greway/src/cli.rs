//! The command line: which verbs there are and what they take.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use greway_spec::DeviceName;

use crate::demo::DemoArgs;
use crate::verbs::boot::BootArgs;
use crate::verbs::check::CheckArgs;
use crate::verbs::down::DownArgs;
use crate::verbs::export::ExportArgs;
use crate::verbs::generate::GenerateArgs;
use crate::verbs::import::ImportArgs;
use crate::verbs::inspect::InspectArgs;
use crate::verbs::new::NewArgs;
use crate::verbs::nm::NmArgs;
use crate::verbs::purge::PurgeArgs;
use crate::verbs::restart::RestartArgs;
use crate::verbs::shim::ShimArgs;
use crate::verbs::up::UpArgs;

/// GRE tunnels (RFC 2784, 2890, 7676) for Linux, without the kernel's GRE module.
///
/// Without a verb: the state of all tunnels.
#[derive(Debug, Parser)]
#[command(name = "greway", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Talk to the daemon at this socket instead of the one of this network namespace
    #[arg(long, value_name = "PATH", env = greway_control::location::SOCKET_VARIABLE, global = true)]
    pub(crate) socket: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make, change, remove and list tunnels with the words of `ip tunnel`
    Tunnel(TunnelArgs),
    /// Bring a tunnel up as a file says: greway's TOML or an ifcfg file with TYPE=GRE
    Up(UpArgs),
    /// Take a tunnel down and remove all that belongs to it
    Down(DownArgs),
    /// Take a tunnel down and bring it up again as its file says now
    Restart(RestartArgs),
    /// Make a tunnel from its two ends: writes the file, brings it up, prints what the other host types
    New(NewArgs),
    /// Say what works, what does not, and why
    Status(StatusArgs),
    /// Look for what stops traffic, and say the command that cures it; changes nothing
    Check(CheckArgs),
    /// Take the GRE packets of a capture apart, and say what a tunnel would do with them
    Inspect(InspectArgs),
    /// Read a tunnel in another dialect and write it as greway's TOML
    Import(ImportArgs),
    /// Write a tunnel in another dialect, for this host or the other one
    Export(ExportArgs),
    /// Start tunnels at boot, or no longer
    Boot(BootArgs),
    /// Let the names ip, ifup, ifdown and nmcli reach greway for GRE tunnels; remove them again
    Shim(ShimArgs),
    /// NetworkManager: adopt its ip-tunnel profiles, or give them back
    Nm(NmArgs),
    /// Remove all that greway ever put on this host: tunnels, shims, adoptions, state
    Purge(PurgeArgs),
    /// Run the daemon in the foreground, or stop the one that runs
    Daemon(DaemonArgs),
    /// Show two hosts, two LANs and a tunnel at work, in namespaces that are gone afterwards
    Demo(DemoArgs),
    /// Write manual pages or completions, for packages
    #[command(hide = true)]
    Generate(GenerateArgs),
}

/// `greway tunnel`
#[derive(Debug, Args)]
pub(crate) struct TunnelArgs {
    #[command(subcommand)]
    pub(crate) action: TunnelAction,
}

/// What can be done with tunnels.
#[derive(Debug, Subcommand)]
pub(crate) enum TunnelAction {
    /// Make a tunnel: greway tunnel add tun0 mode gre remote 100.0.2.100 local 100.0.1.100 [key 42]
    #[command(after_help = WORDS)]
    Add(Words),
    /// Change a tunnel; what is not named stays as it is
    #[command(after_help = WORDS)]
    Change(Words),
    /// Remove a tunnel
    #[command(visible_alias = "delete")]
    Del {
        /// The tunnel, also as `name NAME`
        #[arg(required = true, num_args = 1..=2, value_name = "NAME")]
        words: Vec<String>,
    },
    /// Show tunnels as `ip tunnel show` does
    #[command(visible_alias = "list")]
    Show {
        /// One tunnel only
        name: Option<DeviceName>,
        /// For programs, in the shape of `ip -j tunnel show`
        #[arg(long)]
        json: bool,
    },
}

/// A name and the words of `ip tunnel`.
#[derive(Debug, Args)]
pub(crate) struct Words {
    /// NAME and the words of `ip tunnel`, then greway's own
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) words: Vec<String>,
}

const WORDS: &str = "\
Words of `ip tunnel` and `ip link`:
  mode gre|gretap|ip6gre|ip6gretap       remote ADDR|any   local ADDR|any   dev DEVICE
  key|ikey|okey K                        csum icsum ocsum  seq iseq oseq
  ttl N|inherit     tos N|inherit        [no]pmtudisc      [no]ignore-df    fwmark N
  mtu BYTES|auto
  over IPv6 also:   encaplimit N|none    flowlabel N|inherit    dscp inherit    [no]allow-localremote
Words of greway:
  datapath auto|ebpf|userspace   who carries packets: eBPF programs where they can, they alone, never they
  underlay auto|packet|raw       the socket that userspace receives by
  overlay auto|veth|tun          the kind of device
  firewall honour|bypass         whether the host's INPUT rules hold for GRE
  seq-mode linux|rfc2890         what is late is dropped, or waited for
  mss auto|off|BYTES             the largest segment that TCP connections through it announce
  [no]direct                     eBPF takes packets before tcpdump on the device sees them; about 4 % faster
With `change` also:
  nokey noikey nookey   nocsum noicsum noocsum   noseq noiseq nooseq   nodev   nodscp";

/// `greway status`
#[derive(Debug, Default, Args)]
pub(crate) struct StatusArgs {
    /// One tunnel only
    pub(crate) name: Option<DeviceName>,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
    /// Do not send an echo to the inner peers
    #[arg(long)]
    pub(crate) no_echo: bool,
}

/// `greway daemon`
#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Remove all tunnels of the running daemon and end it
    #[arg(long)]
    pub(crate) stop: bool,
    /// Go to the background and restart the daemon when it dies (what verbs do by themselves)
    #[arg(long, hide = true, conflicts_with = "stop")]
    pub(crate) supervise: bool,
}
