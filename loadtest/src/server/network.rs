//! A network of our own on this machine: a namespace for each server, joined by a bridge.
//!
//! Traffic between two of them is lost without a word when it is cut: each is told a hardware address for
//! the other that nobody has, so frames go out and reach no one, as through a dead switch.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

use anyhow::{Result, anyhow};

use super::disk::{call, is_installed};
use crate::Failure;

/// A hardware address that nobody has.
const NOWHERE: &str = "02:00:00:00:00:01";
/// The name of the only interface in a namespace, beside its loopback.
const INTERFACE: &str = "eth0";
/// The last part of the first namespace's address. The bridge, which is our end, has 1.
const FIRST: u8 = 10;
/// What has room behind it.
pub(crate) const PLACES_MAX: usize = 200;

/// Namespaces and their bridge. Dropping it removes exactly them.
#[derive(Debug)]
pub(crate) struct Network {
    names: Names,
    /// Namespaces that were made, and whether the bridge was.
    made: usize,
    has_bridge: bool,
}

/// What everything is called, and its addresses. By our process, and by the how-manieth network of it this
/// is, so that two do not meet.
#[derive(Clone, Copy, Debug)]
struct Names {
    process: u32,
    number: u8,
}

/// Networks that this process has made.
static NETWORKS: AtomicU8 = AtomicU8::new(0);

impl Names {
    /// At most 15 bytes, as the kernel wants it; a process number has 7 digits.
    fn bridge(self) -> String {
        format!("hb{}-{}", self.process, self.number)
    }

    /// Our end of the pair whose other end is in the namespace.
    fn link(self, place: usize) -> String {
        format!("hb{}-{}-{place}", self.process, self.number)
    }

    fn namespace(self, place: usize) -> String {
        format!("hubbub-{}-{}-{place}", self.process, self.number)
    }

    /// One of 64 times 256 networks in 10.64.0.0/10.
    fn address(self, last: u8) -> Ipv4Addr {
        let [_, _, high, low] = self.process.to_be_bytes();
        Ipv4Addr::new(10, 64 + high.wrapping_add(self.number) % 64, low, last)
    }

    fn place(self, place: usize) -> Ipv4Addr {
        let place = u8::try_from(place % PLACES_MAX).unwrap_or_default();
        self.address(FIRST + place)
    }
}

impl Network {
    /// Makes so many namespaces, with an address each.
    pub(crate) fn make(places: usize) -> Result<Self, Failure> {
        let must = |holds: bool, what: &str| {
            let error = || Failure::Configuration(anyhow!("a cut needs {what}, which is not here"));
            holds.then_some(()).ok_or_else(error)
        };
        must(rustix::process::geteuid().is_root(), "root")?;
        must(is_installed("ip"), "`ip` of iproute2")?;
        must(is_installed("nsenter"), "`nsenter` of util-linux")?;
        must(places <= PLACES_MAX, "fewer servers")?;
        let names =
            Names { process: std::process::id(), number: NETWORKS.fetch_add(1, Relaxed) % 10 };
        let mut network = Self { names, made: 0, has_bridge: false };
        network.build(places).map_err(Failure::Configuration)?;
        Ok(network)
    }

    fn build(&mut self, places: usize) -> Result<()> {
        let names = self.names;
        let bridge = names.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        self.has_bridge = true;
        ip(&["addr", "add", &format!("{}/24", names.address(1)), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for place in 0..places {
            let (namespace, link) = (names.namespace(place), names.link(place));
            ip(&["netns", "add", &namespace])?;
            self.made = place + 1;
            let peer = ["type", "veth", "peer", "name", INTERFACE, "netns", &namespace];
            ip(&[&["link", "add", &link][..], &peer].concat())?;
            ip(&["link", "set", &link, "master", &bridge, "up"])?;
            let inside = |what: &[&str]| ip(&[&["-n", &namespace][..], what].concat());
            inside(&["link", "set", "lo", "up"])?;
            let address = format!("{}/24", names.place(place));
            inside(&["addr", "add", &address, "dev", INTERFACE])?;
            inside(&["link", "set", INTERFACE, "up"])?;
        }
        Ok(())
    }

    /// Where one of them is reached, also from here.
    pub(crate) fn address(&self, place: usize) -> Ipv4Addr {
        self.names.place(place)
    }

    pub(crate) fn namespace(&self, place: usize) -> String {
        self.names.namespace(place)
    }

    /// From now on nothing passes between this one and those, in either direction.
    pub(crate) fn cut(&self, one: usize, others: &[usize]) -> Result<()> {
        self.for_each_way(one, others, |from, to| {
            let to = to.to_string();
            let nowhere = ["lladdr", NOWHERE, "dev", INTERFACE, "nud", "permanent"];
            ip(&[&["-n", &from, "neigh", "replace", &to][..], &nowhere].concat())
        })
    }

    /// Everything passes again.
    pub(crate) fn heal(&self, one: usize, others: &[usize]) -> Result<()> {
        self.for_each_way(one, others, |from, to| {
            ip(&["-n", &from, "neigh", "del", &to.to_string(), "dev", INTERFACE])
        })
    }

    fn for_each_way(
        &self,
        one: usize,
        others: &[usize],
        change: impl Fn(String, Ipv4Addr) -> Result<()>,
    ) -> Result<()> {
        others.iter().filter(|other| **other != one).try_for_each(|&other| {
            change(self.namespace(one), self.address(other))?;
            change(self.namespace(other), self.address(one))
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in 0..self.made {
            // By name, and not with the namespace: that lives as long as a process in it. Whoever was
            // interrupted may not have made it yet.
            let _ = ip(&["link", "del", &self.names.link(place)]);
            if let Err(error) = ip(&["netns", "del", &self.names.namespace(place)]) {
                eprintln!("a namespace is left behind: {error:#}");
            }
        }
        if self.has_bridge
            && let Err(error) = ip(&["link", "del", &self.names.bridge()])
        {
            eprintln!("a bridge is left behind: {error:#}");
        }
    }
}

/// A command that runs a program in a namespace. Its process is the program's.
pub(crate) fn inside(namespace: &str, program: &Path) -> tokio::process::Command {
    testnats::inside(namespace, program).into()
}

fn ip(arguments: &[&str]) -> Result<()> {
    call(Command::new("ip").args(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_the_kernel_and_addresses_stay_in_their_own_network() {
        // The largest process number of Linux.
        let names = Names { process: 4_194_304, number: 9 };
        assert!(names.link(PLACES_MAX - 1).len() <= 15, "{}", names.link(PLACES_MAX - 1));
        let all = (0..PLACES_MAX).map(|place| names.place(place));
        let all: std::collections::BTreeSet<_> = all.collect();
        assert_eq!(all.len(), PLACES_MAX, "two places share an address");
        let bridge = names.address(1);
        assert!(!all.contains(&bridge));
        assert!(all.iter().all(|it| it.octets()[..3] == bridge.octets()[..3]));
        assert!(bridge.octets()[0] == 10 && (64..128).contains(&bridge.octets()[1]));
    }

    #[test]
    fn what_is_cut_is_silent_until_it_is_healed_and_nothing_is_left_behind() {
        if !rustix::process::geteuid().is_root() || !is_installed("ip") {
            println!("NOT RUN: network namespaces need root and `ip`");
            return;
        }
        let network = Network::make(2).unwrap();
        let names = network.names;
        let passes = |from: usize, to: usize| {
            let to = network.address(to).to_string();
            let mut ping = testnats::inside(&network.namespace(from), Path::new("python3"));
            ping.args(["-c", REACHES, &to]);
            ping.status().unwrap().success()
        };
        assert!(passes(0, 1) && passes(1, 0));
        network.cut(0, &[0, 1]).unwrap();
        assert!(!passes(0, 1) && !passes(1, 0));
        network.heal(0, &[1]).unwrap();
        assert!(passes(0, 1) && passes(1, 0));
        drop(network);
        assert!(ip(&["link", "show", &names.bridge()]).is_err());
        assert!(ip(&["netns", "pids", &names.namespace(0)]).is_err());
    }

    /// A connection that is refused has reached its end as well.
    const REACHES: &str = "
import socket, sys
try: socket.create_connection((sys.argv[1], 9), 0.5)
except ConnectionRefusedError: sys.exit(0)
except OSError: sys.exit(1)
";
}
