//! `greway export`: a tunnel in another dialect, for this host or the other one. What it prints can be pasted;
//! what its reader should know goes to stderr.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use greway_control::api::{Reply, Request};
use greway_control::location::Location;
use greway_control::start;
use greway_control::store::Store;
use greway_netlink::Netlink;
use greway_spec::TunnelSpec;

use super::up::Source;
use crate::other_end;
use crate::output;
use crate::said::{self, Tongue};
use crate::sources::{self, Definition};
use crate::tunnel_file;

/// `greway export`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExportArgs {
    /// The dialect to say it in
    #[arg(value_enum)]
    pub(crate) dialect: Tongue,
    /// The tunnel: as it runs, else as its file says; or a file
    #[arg(value_name = "NAME|FILE")]
    pub(crate) source: String,
    /// For the other host: local and remote, inner addresses, keys and options swapped
    #[arg(long)]
    pub(crate) peer: bool,
    /// Write this file, or into this directory, instead of stdout; nothing is written over
    #[arg(short, long, value_name = "FILE|DIR")]
    pub(crate) output: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  greway export ip tun0                             the commands that make it here
  greway export nmcli tun0 --peer                   what the other host has to type
  greway export ifcfg tun0 --peer -o peer/          its files, into a directory that is there";

/// Runs the verb.
pub(crate) fn run(args: &ExportArgs, location: &Location) -> anyhow::Result<ExitCode> {
    let here = find(&args.source, location)?;
    let spec = if args.peer { turned_round(&here)? } else { here };
    let said = said::say(&spec, args.dialect)?;
    for note in &said.notes {
        output::note(note);
    }
    match &args.output {
        None => {
            if said.texts.len() > 1 {
                let names = said.texts.iter().filter_map(|(name, _)| name.as_deref()).collect::<Vec<_>>();
                output::note(&format!("{} are written by the commands below", names.join(", ")));
            }
            output::raw(said.paste().as_bytes());
        }
        Some(output) if output.is_dir() => {
            let file = |(name, text): &(Option<String>, String)| {
                let name = name.clone().unwrap_or_else(|| own_name(args.dialect, &spec));
                (output.join(name), text.clone())
            };
            write(&said.texts.iter().map(file).collect::<Vec<_>>(), args.dialect)?;
        }
        Some(output) => {
            if said.texts.len() > 1 {
                let names = said.texts.iter().filter_map(|(name, _)| name.as_deref()).collect::<Vec<_>>();
                bail!(
                    "{} is one file, and these are {}: {}; give a directory that is there",
                    output.display(),
                    names.len(),
                    names.join(", ")
                );
            }
            write(&[(output.clone(), said.paste())], args.dialect)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a text of a dialect is called that has no name by itself.
fn own_name(dialect: Tongue, spec: &TunnelSpec) -> String {
    let ending = match dialect {
        Tongue::Keyfile => "nmconnection",
        Tongue::Toml => "toml",
        Tongue::Ip | Tongue::Nmcli | Tongue::Ifcfg => "sh",
    };
    format!("{}.{ending}", spec.name)
}

/// Writes all of them, or none where one is there already.
fn write(files: &[(PathBuf, String)], dialect: Tongue) -> anyhow::Result<()> {
    if let Some((path, _)) = files.iter().find(|(path, _)| path.symlink_metadata().is_ok()) {
        bail!("{} exists; nothing is written over", path.display());
    }
    for (path, text) in files {
        match dialect {
            Tongue::Keyfile => tunnel_file::write_private(path, text)?,
            _ => tunnel_file::write(path, text, false)?,
        }
        output::line(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// The tunnel as it runs, else as a file says.
pub(crate) fn find(source: &str, location: &Location) -> anyhow::Result<TunnelSpec> {
    let definition = match Source::of(source) {
        Source::File(path) | Source::Directory(path) => Definition::of(path),
        Source::Name(name) => {
            if let Some(spec) = running(name, location)? {
                return Ok(spec);
            }
            sources::find(name).map_err(|why| anyhow::anyhow!("{name} does not run, and {why}"))?
        }
    };
    let file = definition.result?;
    for warning in &file.warnings {
        output::note(warning);
    }
    Ok(file.spec)
}

/// A tunnel that runs here. Starts no daemon: what a killed one left is read from its store.
pub(super) fn running(name: &str, location: &Location) -> anyhow::Result<Option<TunnelSpec>> {
    let Some(mut client) = start::find(location)? else {
        let left = Store::new(&location.state).load().ok();
        let left = left.and_then(|left| left.tunnels.into_iter().find(|(left, _)| left.as_str() == name));
        return Ok(left.map(|(_, stored)| stored.spec));
    };
    match super::ask(&mut client, location, &Request::List)? {
        Reply::Tunnels(tunnels) => Ok(tunnels.into_iter().find(|spec| spec.name.as_str() == name)),
        _ => Err(client.unexpected()).context("a list was asked for"),
    }
}

fn turned_round(here: &TunnelSpec) -> anyhow::Result<TunnelSpec> {
    let netlink = Netlink::open()?;
    let there = other_end::of(here, other_end::source_of(&netlink, here))?;
    for note in &there.notes {
        output::note(note);
    }
    if let (Some(local), Some(remote)) = (there.spec.remote, there.spec.local) {
        if let Some(remark) = other_end::nat_remark(local, remote) {
            output::note(&remark);
        }
        let lans = other_end::lans(&netlink, remote, &[here.name.to_string()]);
        if lans.is_empty() {
            output::note(&format!(
                "which networks the other host should route through the tunnel cannot be told from here: \
                 ip route add NETWORK dev {}",
                there.spec.name
            ));
        }
        for lan in lans {
            output::note(&format!(
                "to reach {} behind this host ({}), the other one also needs: ip route add {} dev {}",
                lan.prefix, lan.dev, lan.prefix, there.spec.name
            ));
        }
    }
    Ok(there.spec)
}
