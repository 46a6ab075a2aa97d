//! `greway tunnel add|change|del|show`: the words of `ip tunnel`.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use greway_control::api::client::Client;
use greway_control::api::{Reply, Request};
use greway_control::location::Location;
use greway_control::start;
use greway_dialects::iproute2::{self, Verb};
use greway_spec::{DeviceName, TunnelSpec};

use crate::cli::{TunnelAction, TunnelArgs};
use crate::output;

/// Runs the verb.
pub(crate) fn run(args: &TunnelArgs, location: &Location) -> anyhow::Result<ExitCode> {
    match &args.action {
        TunnelAction::Add(words) => add(&words.words, location)?,
        TunnelAction::Change(words) => change(&words.words, location)?,
        TunnelAction::Del { words } => delete(words, location)?,
        TunnelAction::Show { name, json } => show(name.as_ref(), *json, location)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn add(words: &[String], location: &Location) -> anyhow::Result<()> {
    // All that can be said without the daemon is said before one is started.
    let spec = iproute2::parse_tunnel_words(words, Verb::Add)?.into_carried_spec()?;
    let mut client = super::connect(location)?;
    super::change(&mut client, location, &Request::Add { spec: Box::new(spec) })?;
    Ok(())
}

fn change(words: &[String], location: &Location) -> anyhow::Result<()> {
    let draft = iproute2::parse_tunnel_words(words, Verb::Change)?;
    let name = draft.name.as_ref().map(|name| name.value.clone()).context("change what? name a tunnel")?;
    let mut client = running(location, &name)?;
    let present = list(&mut client, location)?.into_iter().find(|spec| spec.name == name);
    let present = present.ok_or_else(|| no_such(&name))?;
    let spec = draft.overlay_on(&present)?;
    spec.carried()?;
    super::change(&mut client, location, &Request::Change { spec: Box::new(spec) })?;
    Ok(())
}

fn delete(words: &[String], location: &Location) -> anyhow::Result<()> {
    let name = match words {
        [name] => name,
        [word, name] if word == "name" => name,
        _ => return Err(anyhow!("\"{}\" is too much: name one tunnel", words.join(" "))),
    };
    let name = name.parse::<DeviceName>()?;
    let mut client = running(location, &name)?;
    super::change(&mut client, location, &Request::Delete { name, dry_run: false })?;
    Ok(())
}

fn show(name: Option<&DeviceName>, json: bool, location: &Location) -> anyhow::Result<()> {
    let mut specs = match start::find(location)? {
        Some(mut client) => list(&mut client, location)?,
        None => Vec::new(),
    };
    if let Some(name) = name {
        specs.retain(|spec| spec.name == *name);
        if specs.is_empty() {
            return Err(no_such(name));
        }
    }
    if json {
        output::line(iproute2::show_json(&specs).trim_end());
    } else {
        for spec in &specs {
            output::line(iproute2::show(spec).trim_end());
        }
    }
    Ok(())
}

/// A daemon that runs, or one started for what a killed one left behind; no daemon, no tunnel.
fn running(location: &Location, name: &DeviceName) -> anyhow::Result<Client> {
    match start::find(location)? {
        Some(client) => Ok(client),
        None if location.state.join(format!("{name}.json")).exists() => super::connect(location),
        None => Err(no_such(name)),
    }
}

fn list(client: &mut Client, location: &Location) -> anyhow::Result<Vec<TunnelSpec>> {
    match super::ask(client, location, &Request::List)? {
        Reply::Tunnels(tunnels) => Ok(tunnels),
        _ => Err(client.unexpected()).context("a list was asked for"),
    }
}

pub(super) fn no_such(name: &DeviceName) -> anyhow::Error {
    anyhow!("there is no tunnel {name} here; `greway tunnel show` lists those there are")
}
