//! A host of the lab: a network namespace that exists because we hold a file descriptor of it.
//!
//! It has no name under /run/netns and needs no process to stay alive, so that nothing is left behind
//! however the program ends: with the last descriptor, socket and process gone the kernel takes it down, and
//! every device in it. The caller's own namespace is never changed.
//!
//! Threads of the calling process enter a host only for the length of one call. What they open there (sockets,
//! netlink connections) belongs to the host for good.

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::thread;
use std::time::Duration;

use greway_linux::netns::{NetNamespace, unshare_net};
use greway_netlink::{Address, IpPrefix, LinkChange, Netlink, Route};

use crate::{Error, poll_until};

/// How long an IPv6 address may take until it can be used.
const READY_TIME: Duration = Duration::from_secs(5);

/// A network namespace of our own, with its loopback device up.
pub struct Host {
    name: String,
    namespace: NetNamespace,
}

impl Host {
    /// Makes an empty host. `name` is for error messages only.
    ///
    /// IPv6 addresses are usable at once there (no duplicate address detection) and nothing asks for routers, so that
    /// captures hold what the test sends and little else.
    ///
    /// # Errors
    /// [`Error::System`] without the privilege to make a network namespace: see [`crate::privilege::check`].
    pub fn new(name: &str) -> Result<Self, Error> {
        let namespace = thread::scope(|scope| {
            let maker = scope.spawn(|| {
                unshare_net()?;
                NetNamespace::current()
            });
            maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .map_err(Error::system(name, "make a network namespace"))?;
        let host = Self { name: name.to_owned(), namespace };
        host.set_up("lo")?;
        for (key, value) in [("accept_dad", "0"), ("router_solicitations", "0")] {
            // Absent on a kernel without IPv6.
            match host.sysctl(&format!("ipv6/conf/default/{key}"), value) {
                Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome?,
            }
        }
        Ok(host)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the host. A panic there goes on here.
    ///
    /// The thread ends with the call: whatever `work` leaves behind must be an object (a socket, a child), not a
    /// property of the thread.
    ///
    /// # Errors
    /// [`Error::System`] when the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        self.namespace.run_in(work).map_err(Error::system(&self.name, "enter its namespace"))
    }

    /// The namespace.
    pub fn namespace(&self) -> &NetNamespace {
        &self.namespace
    }

    /// Starts a process inside the host.
    ///
    /// The thread that forks it ends at once, so the command must not ask for a signal on its parent's death
    /// (`PR_SET_PDEATHSIG` counts the thread as the parent).
    ///
    /// # Errors
    /// [`Error::System`] when it cannot be started.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.spawn())?.map_err(Error::system(&self.name, format!("start {program}")))
    }

    /// Runs a program inside the host to its end and gives its status and output.
    ///
    /// # Errors
    /// [`Error::System`] when it cannot be started; a failing program is an answer.
    pub fn output(&self, command: &mut Command) -> Result<Output, Error> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.output())?.map_err(Error::system(&self.name, format!("run {program}")))
    }

    /// A path by which `nsenter --net=PATH` enters the host for as long as this process holds it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_fd().as_raw_fd()))
    }

    /// A netlink connection to the host.
    ///
    /// # Errors
    /// [`Error::Netlink`].
    pub fn netlink(&self) -> Result<Netlink, Error> {
        self.run(Netlink::open)?.map_err(Error::netlink(&self.name, "open netlink"))
    }

    /// The index of a device.
    ///
    /// # Errors
    /// [`Error::System`] when there is none of that name.
    pub fn index(&self, dev: &str) -> Result<u32, Error> {
        let object = || format!("{}: {dev}", self.name);
        let found = self.netlink()?.link_by_name(dev).map_err(Error::netlink(object(), "find it"))?;
        let missing = || Error::system(object(), "find it")(io::Error::from(io::ErrorKind::NotFound));
        Ok(found.ok_or_else(missing)?.index)
    }

    /// Sets a device up.
    ///
    /// # Errors
    /// As [`Host::change`].
    pub fn set_up(&self, dev: &str) -> Result<(), Error> {
        self.change(dev, &LinkChange { up: Some(true), ..LinkChange::default() })
    }

    /// Sets a device down.
    ///
    /// # Errors
    /// As [`Host::change`].
    pub fn set_down(&self, dev: &str) -> Result<(), Error> {
        self.change(dev, &LinkChange { up: Some(false), ..LinkChange::default() })
    }

    /// Changes a device's properties.
    ///
    /// # Errors
    /// [`Error::System`] when there is no such device, [`Error::Netlink`] when the kernel refuses.
    pub fn change(&self, dev: &str, change: &LinkChange<'_>) -> Result<(), Error> {
        let index = self.index(dev)?;
        self.netlink()?
            .change_link(index, change)
            .map_err(Error::netlink(format!("{}: {dev}", self.name), "change it"))
    }

    /// Adds an address to a device: `10.0.0.1/24`, or `172.16.0.1 peer 172.16.0.2/30`. On a device that is up it
    /// can be used when this returns.
    ///
    /// # Errors
    /// [`Error::Value`] for what is no address, [`Error::Netlink`] when the kernel refuses.
    pub fn address(&self, dev: &str, address: &str) -> Result<(), Error> {
        let parsed = self.value(address, parse_address, "an address with a prefix length")?;
        let index = self.index(dev)?;
        let refused =
            || Error::netlink(format!("{}: {dev}", self.name), format!("add the address {address}"));
        let netlink = self.netlink()?;
        netlink.add_address(index, parsed).map_err(refused())?;
        if parsed.local.is_ipv4() || !netlink.link_by_index(index).map_err(refused())?.is_some_and(|l| l.up) {
            return Ok(());
        }
        // Even without duplicate detection the kernel finishes an IPv6 address in the background
        // (linux 6.18 net/ipv6/addrconf.c addrconf_dad_work).
        let what = format!("{}: {dev}: readiness of {address}", self.name);
        poll_until(READY_TIME, &what, || {
            let entries = netlink.addresses(Some(index)).ok()?;
            entries.iter().any(|e| e.address.local == parsed.local && !e.tentative()).then_some(())
        })
    }

    /// Adds a route: `destination` is a prefix or `default`, `next` is `via 10.0.0.1`, `dev tun0` or
    /// `via 10.0.0.1 dev eth0`.
    ///
    /// # Errors
    /// [`Error::Value`] for other words, [`Error::Netlink`] when the kernel refuses.
    pub fn route(&self, destination: &str, next: &str) -> Result<(), Error> {
        let route = self.parse_route(destination, next)?;
        self.netlink()?
            .add_route(&route)
            .map_err(Error::netlink(&self.name, format!("add the route {destination} {next}")))
    }

    /// Deletes a route given as to [`Host::route`].
    ///
    /// # Errors
    /// As [`Host::route`].
    pub fn delete_route(&self, destination: &str, next: &str) -> Result<(), Error> {
        let route = self.parse_route(destination, next)?;
        self.netlink()?
            .delete_route(&route)
            .map_err(Error::netlink(&self.name, format!("delete the route {destination} {next}")))
    }

    /// Turns IPv4 and IPv6 forwarding on or off.
    ///
    /// # Errors
    /// [`Error::System`] when /proc/sys cannot be written.
    pub fn forwarding(&self, on: bool) -> Result<(), Error> {
        let value = if on { "1" } else { "0" };
        self.sysctl("ipv4/ip_forward", value)?;
        match self.sysctl("ipv6/conf/all/forwarding", value) {
            Err(Error::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Writes a file below /proc/sys/net, which shows the namespace of the thread that opens it.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn sysctl(&self, key: &str, value: &str) -> Result<(), Error> {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| fs::write(&path, value))?
            .map_err(Error::system(&self.name, format!("write {value} to {path}")))
    }

    /// Reads a file below /proc/sys/net, without the line end.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn read_sysctl(&self, key: &str) -> Result<String, Error> {
        let path = format!("/proc/sys/net/{key}");
        let text = self.run(|| fs::read_to_string(&path))?;
        Ok(text.map_err(Error::system(&self.name, format!("read {path}")))?.trim_end().to_owned())
    }

    fn parse_route(&self, destination: &str, next: &str) -> Result<Route, Error> {
        let hop = self.value(next, parse_hop, "`via ADDRESS`, `dev NAME` or `via ADDRESS dev NAME`")?;
        let all = match hop.via {
            Some(IpAddr::V6(_)) => IpPrefix::IPV6_DEFAULT,
            _ => IpPrefix::IPV4_DEFAULT,
        };
        let parse = |text: &str| if text == "default" { Some(all) } else { parse_prefix(text) };
        let destination = self.value(destination, parse, "a prefix or `default`")?;
        let ifindex = hop.dev.map(|dev| self.index(dev)).transpose()?;
        Ok(Route { via: hop.via, ifindex, ..Route::to(destination) })
    }

    fn value<'t, T>(
        &self,
        text: &'t str,
        parse: impl FnOnce(&'t str) -> Option<T>,
        expected: &'static str,
    ) -> Result<T, Error> {
        let wrong = || Error::Value { object: self.name.clone(), value: text.to_owned(), expected };
        parse(text).ok_or_else(wrong)
    }
}

impl AsFd for Host {
    /// The namespace, as setns(2) and `IFLA_NET_NS_FD` take it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Host").field(&self.name).finish()
    }
}

fn parse_address(text: &str) -> Option<Address> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (local, prefix) = match words[..] {
        [prefix] => (None, prefix),
        [local, "peer", prefix] => (Some(local.parse().ok()?), prefix),
        _ => return None,
    };
    let IpPrefix { address, length } = parse_prefix(prefix)?;
    Some(match local {
        Some(local) => Address::with_peer(local, address, length),
        None => Address::new(address, length),
    })
}

/// Where a route leads.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hop<'a> {
    via: Option<IpAddr>,
    dev: Option<&'a str>,
}

fn parse_hop(text: &str) -> Option<Hop<'_>> {
    let words: Vec<&str> = text.split_whitespace().collect();
    Some(match words[..] {
        ["via", via] => Hop { via: Some(via.parse().ok()?), dev: None },
        ["dev", dev] => Hop { via: None, dev: Some(dev) },
        ["via", via, "dev", dev] => Hop { via: Some(via.parse().ok()?), dev: Some(dev) },
        _ => return None,
    })
}

/// `ADDRESS/LENGTH`, or an address alone for itself.
fn parse_prefix(text: &str) -> Option<IpPrefix> {
    match text.split_once('/') {
        Some((address, length)) => IpPrefix::new(address.parse().ok()?, length.parse().ok()?),
        None => Some(IpPrefix::host(text.parse::<IpAddr>().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_for_ip() {
        let address = parse_address("172.16.0.1 peer 172.16.0.2/30").unwrap();
        assert_eq!(address.to_string(), "172.16.0.1 peer 172.16.0.2/30");
        assert_eq!(parse_address("fd00::1/64").unwrap().to_string(), "fd00::1/64");
        for wrong in ["", "10.0.0.1/33", "10.0.0.1 to 10.0.0.2/30", "ten/8", "10.0.0.1/24 x"] {
            assert_eq!(parse_address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn next_hops_are_written_as_for_ip() {
        let via = "10.0.0.1".parse().ok();
        assert_eq!(parse_hop("via 10.0.0.1"), Some(Hop { via, dev: None }));
        assert_eq!(parse_hop("dev tun0"), Some(Hop { via: None, dev: Some("tun0") }));
        assert_eq!(parse_hop("via 10.0.0.1 dev eth0"), Some(Hop { via, dev: Some("eth0") }));
        for wrong in ["", "10.0.0.1", "via", "via router", "dev", "dev a b"] {
            assert_eq!(parse_hop(wrong), None, "{wrong}");
        }
    }
}
