//! `/sys/class/net`: which network devices belong to which function, and what the host does with
//! them. Reads only.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::files::Files;
use super::pci::{function_in, last_of_link};
use crate::domain::check::Representor;
use crate::domain::pci::needs::Net;

const NETS: &str = "/sys/class/net";
/// How deep network devices are stacked at most.
const MAX_DEPTH: usize = 4;
/// Master of every port of Open vSwitch (`ovs_netdev_link()`: that of its datapath).
const OVS: &str = "ovs-system";
const DEFAULT: &str = "default route";

/// Returns the network devices that belong to a PCI function, with their uses.
pub fn nets(files: &dyn Files) -> Vec<Net> {
    let routes = routes(files);
    let names = files.list(NETS).unwrap_or_default();
    let nets = names.into_iter().filter_map(|name| {
        let link = files.link(&format!("{NETS}/{name}")).ok()?;
        Some(Net {
            function: Some(function_in(&link)?),
            represents: represents(files, &name),
            bond: master(files, &name).filter(|master| is_bond(files, master)),
            bridge: bridge(files, &name),
            uses: uses(files, &name, &routes),
            name,
        })
    });
    nets.collect()
}

/// Returns the index of the virtual function that a network device stands for, in switchdev mode:
/// the name of its port ends in `vf3` (`devlink_port_phys_port_name_get()`).
fn represents(files: &dyn Files, name: &str) -> Option<u32> {
    let port = files.read(&format!("{NETS}/{name}/phys_port_name")).ok()?;
    let (_, number) = port.trim().rsplit_once("vf")?;
    number.parse().ok()
}

/// Returns what stands in the host for a virtual function of `physical`, in switchdev mode; `nets` are the network
/// devices of functions. A representor may be below of no function (Documentation/networking/representors.rst); its
/// port is named after the numbers of both functions then.
pub fn representor(
    files: &dyn Files,
    nets: &[Net],
    physical: &str,
    index: u32,
) -> Option<Representor> {
    let is_its =
        |net: &&Net| net.function.as_deref() == Some(physical) && net.represents == Some(index);
    let name = match nets.iter().find(is_its) {
        Some(net) => net.name.clone(),
        None => apart(files, nets, physical, index)?,
    };
    let used = nets.iter().find(|net| net.name == name);
    let uses = used.map_or_else(
        || uses(files, &name, &routes(files)),
        |net| net.uses.clone(),
    );
    let above = files.list(&format!("{NETS}/{name}")).unwrap_or_default();
    let has_upper = above.iter().any(|name| name.starts_with("upper_"));
    Some(Representor {
        is_used: !uses.is_empty() || has_upper,
        bridge: bridge(files, &name),
        is_down: is_up(files, &name) == Some(false),
        name,
    })
}

/// Returns the representor that is below of no function, where the name of its port leaves no choice.
fn apart(files: &dyn Files, nets: &[Net], physical: &str, index: u32) -> Option<String> {
    let (_, function) = physical.rsplit_once('.')?;
    let port = format!("pf{function}vf{index}");
    let names = files.list(NETS).ok()?.into_iter();
    let is_named = |name: &String| {
        let text = files.read(&format!("{NETS}/{name}/phys_port_name"));
        text.is_ok_and(|text| text.trim() == port)
    };
    let is_apart = |name: &String| nets.iter().all(|net| net.name != *name);
    let mut named = names.filter(|name| is_apart(name) && is_named(name));
    let first = named.next();
    first.filter(|_| named.next().is_none())
}

/// Tells whether a network device is switched on (`IFF_UP`), whether or not anything is plugged in.
fn is_up(files: &dyn Files, name: &str) -> Option<bool> {
    let text = files.read(&format!("{NETS}/{name}/flags")).ok()?;
    let flags = u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()?;
    Some(flags & 1 != 0)
}

/// Tells whether a network device is a port of Open vSwitch, or its bond is.
pub fn is_switched(files: &dyn Files, name: &str) -> bool {
    let first = master(files, name);
    let above = first.as_ref().and_then(|first| master(files, first));
    [first, above].into_iter().flatten().any(|name| name == OVS)
}

type Routes = BTreeMap<String, Vec<String>>;

fn uses(files: &dyn Files, name: &str, routes: &Routes) -> Vec<String> {
    let mut uses = routes.get(name).cloned().unwrap_or_default();
    if let Some(master) = master(files, name) {
        uses.push(match () {
            () if is_bridge(files, &master) => format!("port of bridge {master}"),
            () if is_bond(files, &master) => format!("member of bond {master}"),
            // One device stands for all bridges of Open vSwitch, without saying which.
            () if master == OVS => "port of an open vswitch bridge".to_owned(),
            () => format!("port of {master}"),
        });
    }
    let above = routes_above(files, name, routes, MAX_DEPTH);
    let default = above.iter().find(|route| route.starts_with(DEFAULT));
    uses.extend(default.or(above.first()).cloned());
    uses
}

fn master(files: &dyn Files, name: &str) -> Option<String> {
    last_of_link(files, &format!("{NETS}/{name}/master"))
}

fn bridge(files: &dyn Files, name: &str) -> Option<String> {
    let first = master(files, name)?;
    let above = match is_bond(files, &first) {
        true => master(files, &first)?,
        false => first,
    };
    Some(above).filter(|above| is_bridge(files, above))
}

fn is_bridge(files: &dyn Files, name: &str) -> bool {
    files.exists(&format!("{NETS}/{name}/bridge"))
}

fn is_bond(files: &dyn Files, name: &str) -> bool {
    files.exists(&format!("{NETS}/{name}/bonding"))
}

/// Returns the routes of what is made of a network device: bonds, bridges, VLANs.
fn routes_above(files: &dyn Files, name: &str, routes: &Routes, depth: usize) -> Vec<String> {
    let names = files.list(&format!("{NETS}/{name}")).unwrap_or_default();
    let uppers = names.iter().filter_map(|name| name.strip_prefix("upper_"));
    let mut above = Vec::new();
    for upper in uppers.filter(|_| depth > 0) {
        let own = routes.get(upper).into_iter().flatten();
        above.extend(own.map(|route| format!("{route} by {upper}")));
        above.extend(routes_above(files, upper, routes, depth - 1));
    }
    above
}

/// Returns the routes of each network device in words: all of IPv4, the default one of IPv6.
fn routes(files: &dyn Files) -> Routes {
    let mut routes = Routes::new();
    let text = files.read("/proc/net/route").unwrap_or_default();
    for line in text.lines() {
        if let Some((name, route)) = route(line) {
            routes.entry(name).or_default().push(route);
        }
    }
    let text = files.read("/proc/net/ipv6_route").unwrap_or_default();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [destination, "00", .., name] = words[..] else {
            continue;
        };
        let is_default = destination.bytes().all(|b| b == b'0');
        if is_default && name != "lo" {
            let all = routes.entry(name.to_owned()).or_default();
            all.push("default route of ipv6".to_owned());
        }
    }
    routes
}

/// A line is `IFACE DESTINATION GATEWAY FLAGS REFCNT USE METRIC MASK ...`; addresses are the bytes
/// in the order of the network, read as a number of this machine (`fib_route_seq_show()`).
fn route(line: &str) -> Option<(String, String)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (name, destination, mask) = (words.first()?, words.get(1)?, words.get(7)?);
    let number = |text: &str| u32::from_str_radix(text, 16).ok();
    let (destination, mask) = (number(destination)?, number(mask)?);
    let route = match mask {
        0 => DEFAULT.to_owned(),
        _ => {
            let network = Ipv4Addr::from(destination.to_le_bytes());
            format!("route to {network}/{}", mask.count_ones())
        }
    };
    Some(((*name).to_owned(), route))
}
