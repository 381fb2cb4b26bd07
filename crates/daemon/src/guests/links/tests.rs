use std::os::unix::fs::symlink;

use super::*;

/// Interface, destination, mask, flags and metric.
type Line<'a> = (&'a str, [u8; 4], [u8; 4], u32, u32);

/// A directory that looks like the root of a host.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(host.path("proc/net")).unwrap();
        fs::write(host.path("proc/net/ipv6_route"), "").unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn links(&self) -> Links {
        Links::under(self.0.path())
    }

    /// An interface, physical if it has a speed.
    fn interface(&self, name: &str, speed: Option<&str>, received: u64) {
        let directory = self.path("sys/class/net").join(name);
        fs::create_dir_all(directory.join("statistics")).unwrap();
        fs::write(
            directory.join("statistics/rx_bytes"),
            format!("{received}\n"),
        )
        .unwrap();
        if let Some(speed) = speed {
            fs::create_dir(directory.join("device")).unwrap();
            fs::write(directory.join("speed"), format!("{speed}\n")).unwrap();
        }
    }

    fn stack(&self, upper: &str, lower: &str) {
        let class = self.path("sys/class/net");
        symlink(
            class.join(lower),
            class.join(upper).join(format!("lower_{lower}")),
        )
        .unwrap();
    }

    /// The table of routes.
    fn routes(&self, routes: &[Line<'_>]) {
        let hex = |bytes: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(bytes));
        let mut text =
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n".to_owned();
        for (interface, target, mask, flags, metric) in routes {
            let (target, mask) = (hex(*target), hex(*mask));
            text += &format!(
                "{interface}\t{target}\t00000000\t{flags:04X}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"
            );
        }
        fs::write(self.path("proc/net/route"), text).unwrap();
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const ALL: [u8; 4] = [0; 4];

#[test]
fn the_most_specific_and_then_the_preferred_route_leads_to_the_physical_interfaces() {
    let host = Host::new();
    host.interface("eth0", Some("1000"), 5);
    host.interface("eth1", Some("10000"), 7);
    host.interface("eth2", Some("25000"), 0);
    host.interface("br0", None, 0);
    host.interface("vlan7", None, 0);
    host.interface("vnet3", None, 0);
    host.stack("br0", "eth1");
    host.stack("br0", "vnet3");
    host.stack("vlan7", "br0");
    host.routes(&[
        ("eth2", ALL, ALL, 3, 200),
        ("eth0", ALL, ALL, 3, 100),
        ("vlan7", [10, 7, 0, 0], [255, 255, 0, 0], 1, 0),
        ("eth2", [10, 7, 1, 0], [255, 255, 255, 0], 1 | REJECT, 0),
    ]);
    let links = host.links();
    assert_eq!(links.towards(address("192.0.2.1")).unwrap(), ["eth0"]);
    assert_eq!(links.towards(address("10.7.1.9")).unwrap(), ["eth1"]);
    let both = ["eth0".to_owned(), "eth1".to_owned()];
    assert_eq!(links.speed(&both).unwrap(), 11_000 * MEGABIT_BYTES);
    assert_eq!(links.received(&both).unwrap(), 12);
    fs::remove_dir_all(host.path("sys/class/net/eth1")).unwrap();
    assert_eq!(
        links.received(&both).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
}

#[test]
fn a_bond_is_one_link_with_the_speed_that_it_tells() {
    let host = Host::new();
    host.interface("eth0", Some("1000"), 5);
    host.interface("bond0", None, 9);
    host.stack("bond0", "eth0");
    fs::create_dir(host.path("sys/class/net/bond0/bonding")).unwrap();
    fs::write(host.path("sys/class/net/bond0/speed"), "2000\n").unwrap();
    host.routes(&[("bond0", ALL, ALL, 3, 0)]);
    let found = host.links().towards(address("192.0.2.1")).unwrap();
    assert_eq!(found, ["bond0"]);
    assert_eq!(host.links().speed(&found).unwrap(), 2_000 * MEGABIT_BYTES);
}

#[test]
fn the_way_of_ipv6_is_found_in_its_own_table() {
    let host = Host::new();
    host.interface("eth0", Some("1000"), 0);
    host.interface("eth1", Some("1000"), 0);
    let line = |target: &str, prefix: &str, flags: &str, interface: &str| {
        let none = "0".repeat(32);
        format!(
            "{target} {prefix} {none} 00 {none} 00000400 00000001 00000000 {flags} {interface}\n"
        )
    };
    let net = format!("fd00{}", "0".repeat(28));
    let text = line(&net, "40", "00000001", "eth1")
        + &line(&"0".repeat(32), "00", "00000003", "eth0")
        + &line(&"0".repeat(32), "00", "00200200", "lo");
    fs::write(host.path("proc/net/ipv6_route"), text).unwrap();
    let links = host.links();
    assert_eq!(links.towards(address("fd00::7")).unwrap(), ["eth1"]);
    assert_eq!(links.towards(address("2001:db8::1")).unwrap(), ["eth0"]);
}

#[test]
fn what_cannot_be_measured_is_said_with_the_reason() {
    let host = Host::new();
    host.interface("eth0", Some("-1"), 0);
    host.interface("veth1", None, 0);
    host.interface("team0", None, 0);
    host.routes(&[
        ("eth0", ALL, ALL, 3, 0),
        ("veth1", [10, 0, 0, 0], [255, 0, 0, 0], 1, 0),
        ("team0", [10, 1, 0, 0], [255, 255, 0, 0], 1, 0),
    ]);
    let links = host.links();
    let why = |text: &str| links.towards(address(text)).unwrap_err().to_string();
    assert!(why("127.0.0.1").contains("on this host"));
    assert!(why("::1").contains("on this host"));
    assert!(why("10.0.0.1").contains("veth1 is a virtual interface"));
    // A team, or a bridge of two.
    for name in ["eth1", "eth2"] {
        host.interface(name, Some("1000"), 0);
        host.stack("team0", name);
    }
    assert!(
        why("10.1.0.1").contains("team0 has several physical interfaces under it (eth1, eth2)")
    );
    assert!(why("2001:db8::1").contains("no route to 2001:db8::1"));
    let found = links.towards(address("192.0.2.1")).unwrap();
    let error = links.speed(&found).unwrap_err().to_string();
    assert!(
        error.contains("eth0 does not say how fast it is"),
        "{error}"
    );
}
