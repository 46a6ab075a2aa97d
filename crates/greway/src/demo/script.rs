//! What the demo shows, in which order, and which outcome is the right one.
//!
//! The two scenarios are the guide's. They know nothing of how their [`World`] is made: the same steps and
//! the same checks run over network namespaces and over simulated links.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use super::anatomy;
use super::files;
use super::render::{self, Page};
use super::world::{HostName, Next, Ping, Said, Sighting, Tap, TunnelFile, Way, World};

use HostName::{Lan1, Lan2, Linux1, Linux2};

const LAN1: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 100);
const LAN2: Ipv4Addr = Ipv4Addr::new(10, 10, 2, 100);
const LINUX1_LAN: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 1);
const LINUX2_LAN: Ipv4Addr = Ipv4Addr::new(10, 10, 2, 1);
const LINUX2_OUTER: Ipv4Addr = Ipv4Addr::new(100, 0, 2, 100);
const LINUX1_INNER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const LINUX2_INNER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);

/// The key that the guide's KEY=lichenhao stands for: the first four bytes of its SHA-256.
const GUIDE_KEY: u32 = 63_077_743;

const TO_LAN1: Way = Way { network: Ipv4Addr::new(10, 10, 1, 0), length: 24, next: Next::Tunnel };
const TO_LAN2: Way = Way { network: Ipv4Addr::new(10, 10, 2, 0), length: 24, next: Next::Tunnel };
const LAN1_TO_LAN2: Way = Way { next: Next::Via(LINUX1_LAN), ..TO_LAN2 };
const LAN2_TO_LAN1: Way = Way { next: Next::Via(LINUX2_LAN), ..TO_LAN1 };
const LAN2_TO_TUNNEL: Way =
    Way { network: Ipv4Addr::new(172, 16, 0, 0), length: 30, next: Next::Via(LINUX2_LAN) };

/// What can be left out of a showing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Programme {
    /// One of the guide's scenarios alone, or both.
    pub(super) scenario: Option<u8>,
    /// Bytes of the bulk transfer.
    pub(super) transfer: u64,
    /// The last scenario's tunnel stays up.
    pub(super) keep: bool,
}

impl Programme {
    fn includes(self, number: u8) -> bool {
        self.scenario.is_none_or(|only| only == number)
    }
}

/// Plays the programme. What does not hold is on the page; an error is a step that could not be taken at all.
pub(super) fn play(world: &mut dyn World, page: &mut Page<'_>, programme: Programme) -> Result<()> {
    before(world, page)?;
    if programme.includes(1) {
        scenario_1(world, page)?;
        if !programme.includes(2) {
            return the_rest(world, page, programme, Linux1, LINUX1_INNER);
        }
        world.route_del(Linux1, TO_LAN2)?;
        world.route_del(Lan2, LAN2_TO_TUNNEL)?;
        for host in [Linux1, Linux2] {
            page.command(host, "greway down tun0");
            world.down(host)?;
        }
    }
    scenario_2(world, page, if programme.includes(1) { Show::Name } else { Show::Actions })?;
    the_rest(world, page, programme, Lan1, LAN1)
}

fn before(world: &mut dyn World, page: &mut Page<'_>) -> Result<()> {
    page.heading("Before the tunnel");
    page.text(
        "The router stands for the Internet: it forwards between 100.0.1.0/24 and 100.0.2.0/24 and has never heard of \
         10.10.x.x. So linux1 and linux2 reach each other, and the LANs behind them are out of reach.",
    );
    let outer = world.ping(Linux1, LINUX2_OUTER, &[])?;
    reply(page, "linux1 → 100.0.2.100", &outer, "the outer addresses reach each other");
    let lan = world.ping(Linux1, LAN2, &[])?;
    silence(page, "linux1 → 10.10.2.100", &lan, "no way to that network");
    Ok(())
}

fn scenario_1(world: &mut dyn World, page: &mut Page<'_>) -> Result<()> {
    page.heading("Scenario 1: linux1 reaches a machine on the LAN behind linux2");
    page.text(
        "Each host gets one end of the tunnel, a device called tun0. linux1 reads an ifcfg file, the format of Red \
         Hat's network scripts (the guide's own file, here without its KEY line). linux2 reads greway's own format.",
    );
    let file = files::guide(Linux1, false);
    up(world, page, Linux1, &file, Show::Actions)?;
    let plain = files::native(None);
    up(world, page, Linux2, &plain, Show::Text)?;
    let inner = world.ping(Linux1, LINUX2_INNER, &[Tap::Tunnel])?;
    reply(page, "linux1 → 172.16.0.2", &inner, "through the tunnel, to its other end");
    page.text(
        "The guide notes that a capture on linux2 shows 172.16.0.1 as the source of that ping. It does:",
    );
    source(page, &inner, Tap::Tunnel, LINUX1_INNER, "the headers of the tunnel are gone");

    page.gap();
    page.text("Now the LAN behind linux2. One route on linux1 sends its packets into the tunnel:");
    route(world, page, Linux1, TO_LAN2)?;
    let lost = world.ping(Linux1, LAN2, &[Tap::Lan])?;
    silence(page, "linux1 → 10.10.2.100", &lost, "the request arrives, the answer does not:");
    source(page, &lost, Tap::Lan, LINUX1_INNER, "and lan2 has no route to 172.16.0.1");

    page.gap();
    page.text(
        "Cure 1: SNAT, source address translation. linux2 puts its own LAN address, 10.10.2.1, in place of the \
         source when it forwards the packet, and puts the old address back into the answer. One more line in its file:",
    );
    page.quote(["snat = \"10.10.2.1\""]);
    up(world, page, Linux2, &files::native(Some(LINUX2_LAN)), Show::Name)?;
    let translated = world.ping(Linux1, LAN2, &[Tap::Lan])?;
    reply(page, "linux1 → 10.10.2.100", &translated, "with SNAT");
    source(page, &translated, Tap::Lan, LINUX2_LAN, "on lan2's own LAN, so it can answer");

    page.gap();
    page.text(
        "Cure 2: no SNAT (the line is taken out again), but a route on lan2, so that it knows the way back:",
    );
    up(world, page, Linux2, &plain, Show::Name)?;
    route(world, page, Lan2, LAN2_TO_TUNNEL)?;
    let routed = world.ping(Linux1, LAN2, &[Tap::Lan])?;
    reply(page, "linux1 → 10.10.2.100", &routed, "with a route on lan2");
    source(page, &routed, Tap::Lan, LINUX1_INNER, "the packet arrives as linux1 sent it");
    Ok(())
}

fn scenario_2(world: &mut dyn World, page: &mut Page<'_>, show: Show) -> Result<()> {
    page.heading("Scenario 2: the two LANs reach each other");
    page.text(
        "linux1 and linux2 are the gateways of their LANs now. They forward packets (ip_forward), each has a route \
         into the tunnel, and each LAN host has a route to its gateway. Both ends use the \
         guide's ifcfg file, still without its KEY line.",
    );
    for host in [Linux1, Linux2] {
        page.command(host, "sysctl net.ipv4.ip_forward=1");
        world.forward(host)?;
    }
    let first = files::guide(Linux1, false);
    up(world, page, Linux1, &first, show)?;
    up(world, page, Linux2, &files::guide(Linux2, false), Show::Name)?;
    for (host, way) in [(Linux1, TO_LAN2), (Linux2, TO_LAN1), (Lan1, LAN1_TO_LAN2), (Lan2, LAN2_TO_LAN1)] {
        route(world, page, host, way)?;
    }
    let plain = world.ping(Lan1, LAN2, &[Tap::Underlay, Tap::Lan])?;
    reply(page, "lan1 → 10.10.2.100", &plain, "without a key");
    source(page, &plain, Tap::Lan, LAN1, "no translation: lan2 sees lan1 itself");
    on_the_wire(page, &plain, None);
    let back = world.ping(Lan2, LAN1, &[])?;
    reply(page, "lan2 → 10.10.1.100", &back, "and the other way round");

    page.gap();
    page.text(
        "With a key. GRE can carry a 32-bit number in each packet, to tell several tunnels between the same two \
         hosts apart; an end takes only packets with its own number. The guide's file says KEY=lichenhao, which is no \
         number, so greway makes one of it and says which:",
    );
    let keyed = files::guide(Linux1, true);
    let said = up(world, page, Linux1, &keyed, Show::Name)?;
    let named = said.notes.iter().any(|line| line.contains(&GUIDE_KEY.to_string()));
    page.check(named, "KEY=lichenhao", "key 63077743", "the number to give to any other peer");
    let half = world.ping(Lan1, LAN2, &[Tap::Underlay])?;
    silence(page, "lan1 → 10.10.2.100", &half, "linux2 takes no packet with a key yet");
    page.command(Linux2, "greway status tun0");
    let status = world.status(Linux2)?;
    let stranger = status.lines.iter().find(|line| line.contains(&format!("key {GUIDE_KEY}")));
    page.quote(stranger);
    page.check(stranger.is_some(), "status on linux2", "names the foreign key", "so nobody has to guess");
    let same = up_quietly(world, page, Linux2, &files::guide(Linux2, true), Show::Name)?;
    let named = same.notes.iter().any(|line| line.contains(&GUIDE_KEY.to_string()));
    page.check(named, "the same on linux2", "key 63077743", "one text, one number on every host");
    restore_routes(world)?;
    let both = world.ping(Lan1, LAN2, &[Tap::Underlay])?;
    reply(page, "lan1 → 10.10.2.100", &both, "both ends have the key");
    on_the_wire(page, &both, Some(GUIDE_KEY));
    Ok(())
}

/// A changed key may have made the device anew; a route that is still there is not added twice.
fn restore_routes(world: &mut dyn World) -> Result<()> {
    for (host, way) in [(Linux1, TO_LAN2), (Linux2, TO_LAN1)] {
        world.route_del(host, way)?;
        world.route_add(host, way)?;
    }
    Ok(())
}

/// A packet in detail, a transfer, and what `greway status` says, over the tunnel as it stands.
fn the_rest(
    world: &mut dyn World,
    page: &mut Page<'_>,
    programme: Programme,
    from: HostName,
    source: Ipv4Addr,
) -> Result<()> {
    page.heading("One packet, byte by byte");
    let ping = world.ping(from, LAN2, &[Tap::Underlay])?;
    page.text(&format!(
        "The echo request of {from} ({source}) to lan2, as it went through the network between the hosts:"
    ));
    let sent = ping.seen.iter().find(|seen| anatomy::is_gre_from_to(&seen.packet, source, LAN2));
    match sent {
        Some(Sighting { packet, .. }) => {
            page.gap();
            for line in anatomy::table(packet) {
                page.line(&line);
            }
            let whole = anatomy::adds_up(packet);
            page.check(whole, "lengths and checksums", if whole { "correct" } else { "wrong" }, "");
        }
        None => page.check(false, "capture on the underlay", "no such packet", ""),
    }

    page.heading("A bulk transfer");
    let size = programme.transfer >> 20;
    page.text(&format!("{size} MiB over one TCP connection from {from} to lan2, through the tunnel:"));
    let transfer = world.transfer(from, Lan2, programme.transfer)?;
    let arrived = format!("{} MiB in {}", transfer.bytes >> 20, render::time(transfer.elapsed));
    let whole = transfer.intact && transfer.bytes == programme.transfer;
    let rate = render::rate(transfer.bytes, transfer.elapsed);
    let why = if whole {
        format!("{rate}, every byte as it was sent")
    } else {
        "what came is not what was sent".into()
    };
    page.check(whole, &format!("{from} → lan2, TCP"), &arrived, &why);
    if cfg!(debug_assertions) {
        page.text("  (A debug build of greway: a release build is many times faster.)");
    }

    page.heading("What greway says about it");
    for host in [Linux1, Linux2] {
        page.command(host, "greway status tun0");
        let status = world.status(host)?;
        // In full once: the other end's facts are the same in a mirror.
        let shown = if host == Linux1 { status.lines.len() } else { 1 };
        page.quote(status.lines.iter().take(shown));
        let verdict = if status.up { "up" } else { "not up" };
        page.check(status.up, &format!("tun0 on {host}"), verdict, "");
    }
    if !programme.keep {
        for host in [Linux1, Linux2] {
            world.down(host)?;
        }
    }
    Ok(())
}

/// How much of a file is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    /// The file's name.
    Name,
    /// Its text too.
    Text,
    /// And what greway did with it.
    Actions,
}

fn up(
    world: &mut dyn World,
    page: &mut Page<'_>,
    host: HostName,
    file: &TunnelFile,
    show: Show,
) -> Result<Said> {
    let said = up_quietly(world, page, host, file, show)?;
    said.notes.iter().for_each(|note| page.packet(note));
    Ok(said)
}

fn up_quietly(
    world: &mut dyn World,
    page: &mut Page<'_>,
    host: HostName,
    file: &TunnelFile,
    show: Show,
) -> Result<Said> {
    page.command(host, &format!("greway up {}", file.name));
    if show != Show::Name {
        page.quote(file.text.lines());
    }
    let said = world.up(host, file).with_context(|| format!("greway up {} on {host}", file.name))?;
    if show == Show::Actions && !said.actions.is_empty() {
        page.text("  What greway did:");
        page.quote(&said.actions);
    }
    Ok(said)
}

fn route(world: &mut dyn World, page: &mut Page<'_>, host: HostName, way: Way) -> Result<()> {
    page.command(host, &format!("ip route add {way}"));
    world.route_add(host, way).with_context(|| format!("route {way} on {host}"))
}

fn reply(page: &mut Page<'_>, what: &str, ping: &Ping, why: &str) {
    let result = ping
        .reply
        .map_or_else(|| "no reply".to_owned(), |time| format!("reply after {}", render::time(time)));
    page.check(ping.reply.is_some(), what, &result, why);
}

fn silence(page: &mut Page<'_>, what: &str, ping: &Ping, why: &str) {
    let result = ping.reply.map_or("no reply, as expected", |_| "a reply, unexpected");
    page.check(ping.reply.is_none(), what, result, why);
}

/// The echo request that a tap saw, and whether its source is the expected one.
fn source(page: &mut Page<'_>, ping: &Ping, tap: Tap, expected: Ipv4Addr, why: &str) {
    let what = format!("seen on {}", tap.place());
    let request =
        ping.seen.iter().filter(|seen| seen.tap == tap).find(|seen| anatomy::is_echo_request(&seen.packet));
    let Some(Sighting { packet, .. }) = request else {
        page.check(false, &what, "no request", why);
        return;
    };
    let found = anatomy::source(packet);
    let result = found.map_or_else(|| "no IPv4 packet".to_owned(), |address| format!("source {address}"));
    page.check(found == Some(expected), &what, &result, why);
    page.packet(&anatomy::line(packet));
}

/// The GRE packet on the underlay, and whether its key is the expected one.
fn on_the_wire(page: &mut Page<'_>, ping: &Ping, key: Option<u32>) {
    let what = format!("seen on {}", Tap::Underlay.place());
    let seen =
        ping.seen.iter().find(|seen| seen.tap == Tap::Underlay && anatomy::gre_key(&seen.packet).is_some());
    let Some(Sighting { packet, .. }) = seen else {
        page.check(false, &what, "no GRE packet", "");
        return;
    };
    let found = anatomy::gre_key(packet).flatten();
    let result = found.map_or_else(|| "GRE without a key".to_owned(), |key| format!("GRE with key {key}"));
    page.check(found == key, &what, &result, "the whole packet travels inside");
    page.packet(&anatomy::line(packet));
}
