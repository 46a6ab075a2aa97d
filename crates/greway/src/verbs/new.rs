//! `greway new`: a tunnel from its two ends. It writes the file, brings the tunnel up, and prints what has to be
//! typed on the other host, which is the same with the ends swapped: there is nothing to copy wrongly.
//!
//! It finds out one thing, the address of this host that packets to the peer leave with, and chooses nothing
//! else. Where bringing up fails, the file is removed again.

mod report;
mod words;

use std::fs;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use greway_control::api::{Reply, Request};
use greway_control::location::Location;
use greway_control::observe::Observed;
use greway_control::plan;
use greway_dialects::shell;
use greway_netlink::{Netlink, RouteKind, RouteOptions};
use greway_spec::TunnelSpec;

use self::report::Report;
use super::export::running;
use crate::other_end;
use crate::output;
use crate::tunnel_file;

/// `greway new`
#[derive(Debug, Args)]
#[command(after_help = WORDS)]
pub(crate) struct NewArgs {
    /// NAME remote ADDR inner ADDR/LENGTH peer ADDR, and what else there is to say
    #[arg(required = true, num_args = 1..)]
    pub(crate) words: Vec<String>,
    /// Print what would be written and done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// For programs
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the file and do not bring the tunnel up
    #[arg(long)]
    pub(crate) no_up: bool,
}

const WORDS: &str = "\
Example:
  greway new tun0 remote 100.0.2.100 inner 172.16.0.1/30 peer 172.16.0.2 route 10.10.2.0/24

Words:
  remote ADDR            the other host's address
  inner ADDR/LENGTH      this host's address in the tunnel
  peer ADDR              the other host's address in the tunnel
  [local ADDR]           this host's address; found by the route to the remote
  [route NETWORK]...     a network behind the other host
  [key KEY]              a number, a quad, or a text that a number is derived from
and the other words of `greway tunnel add`: ttl, tos, csum, seq, mtu, dev, ...";

/// Runs the verb.
pub(crate) fn run(args: &NewArgs, location: &Location) -> anyhow::Result<ExitCode> {
    let words::Read { mut draft, warnings } = words::read(&args.words)?;
    let netlink = Netlink::open()?;
    let mut report = Report::default();
    report.remarks.extend(warnings);
    let remote = draft.remote.as_ref().map(|given| given.value);
    let dev = draft.dev.as_ref().and_then(|given| given.value.as_ref());
    let fwmark = draft.fwmark.as_ref().map_or(0, |given| given.value);
    let way = other_end::way_options(&netlink, dev, fwmark);
    if let (Some(remote), None) = (remote, &draft.local) {
        draft.local = Some(find_local(&netlink, remote, &way)?.into());
    }
    let mut spec = draft.into_carried_spec()?;
    let path = tunnel_file::path_of(spec.name.as_str());
    spec.origin = tunnel_file::origin(&path);
    check_name(&spec, &netlink, location)?;
    let (Some(local), Some(remote)) = (spec.local, spec.remote) else {
        bail!("tunnel {}: two ends are needed: local and remote", spec.name);
    };
    if !netlink.addresses(None)?.iter().any(|own| own.address.local == local) {
        report.remarks.push(format!(
            "local {local} is no address of this host (behind 1:1 NAT use the private one); packets to it are not received"
        ));
    }
    if netlink.route_to(remote, &way)?.kind != RouteKind::Unicast {
        report.remarks.push(format!(
            "there is no route to remote {remote} yet: nothing can be sent until there is one"
        ));
    }
    report.other_end(&spec, &netlink)?;
    report.remarks.extend(other_end::nat_remark(local, remote));
    let said_words = args.words.iter().map(|word| shell::word(word)).collect::<Vec<_>>();
    let text =
        tunnel_file::text_of(&spec, true, &[format!("Made by `greway new {}`.", said_words.join(" "))]);
    if args.dry_run {
        let observed = Observed::read(&netlink, &spec, None)?;
        let actions = plan::up(&spec, None, &observed)?;
        let actions = if args.no_up {
            Vec::new()
        } else {
            actions.iter().map(|action| format!("would {action}")).collect()
        };
        report.actions = std::iter::once(format!("would write {}", path.display())).chain(actions).collect();
        report.print(&spec, &path, Some(&text), args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    tunnel_file::write(&path, &text, false)?;
    report.actions.push(format!("wrote {}", path.display()));
    if !args.no_up {
        match up(&spec, location) {
            Ok((actions, warnings)) => {
                report.actions.extend(actions);
                report.remarks.splice(0..0, warnings);
                report.up = true;
            }
            Err(error) => {
                let removed = fs::remove_file(&path);
                let left = match removed {
                    Ok(()) => "nothing is left".to_owned(),
                    Err(left) => format!("and {} could not be removed: {left}", path.display()),
                };
                return Err(error.context(format!("{} did not come up; {left}", spec.name)));
            }
        }
    }
    report.print(&spec, &path, None, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// The address that packets to the peer leave with.
fn find_local(netlink: &Netlink, remote: IpAddr, way: &RouteOptions) -> anyhow::Result<IpAddr> {
    let route = netlink.route_to(remote, way)?;
    match route.kind {
        RouteKind::Unicast => route.source.ok_or_else(|| {
            anyhow!("remote {remote}: the route to it has no address of this host: give local")
        }),
        RouteKind::Local => {
            bail!("remote {remote} is an address of this host: remote is the other host's, local this one's")
        }
        RouteKind::Broadcast | RouteKind::Multicast => bail!("remote {remote} is no address of one host"),
        _ => bail!(
            "remote {remote} cannot be reached from here, there is no route to it: see `ip route get {remote}`, \
             or give local if the route is still to come"
        ),
    }
}

/// The name must be nobody's.
fn check_name(spec: &TunnelSpec, netlink: &Netlink, location: &Location) -> anyhow::Result<()> {
    let name = &spec.name;
    let path = tunnel_file::path_of(name.as_str());
    tunnel_file::check_free(name.as_str(), &path, false)?;
    if running(name.as_str(), location)?.is_some() {
        bail!(
            "tunnel {name} runs here already; `greway tunnel del {name}` removes it, or choose another name"
        );
    }
    if let Some(link) = netlink.link_by_name(name.as_str())? {
        let kind = link.kind.map_or_else(String::new, |kind| format!(" of kind {kind}"));
        bail!("there is a device {name}{kind} already; choose another name");
    }
    Ok(())
}

/// Actions and warnings.
type Done = (Vec<String>, Vec<String>);

fn up(spec: &TunnelSpec, location: &Location) -> anyhow::Result<Done> {
    let mut client = super::connect(location)?;
    let request = Request::Up { spec: Box::new(spec.clone()), dry_run: false };
    match super::ask(&mut client, location, &request)? {
        Reply::Done { actions, warnings } => Ok((actions, warnings)),
        _ => Err(client.unexpected()).context("a change was asked for"),
    }
}

/// Says what a text is about where there is more than one.
fn heading(text: &str) {
    output::line("");
    output::line(text);
}
