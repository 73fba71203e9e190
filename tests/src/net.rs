//! Network namespaces for tests and the demo, over netlink alone.
//!
//! ```text
//!  client -- eth0 ===veth=== veth1 --+
//!                                    node (routes, forwards; segd runs inside)
//!  server -- eth0 ===veth=== veth2 --+
//! ```
//!
//! Names are `seg-<pid>-<n>-<label>`, so parallel tests never meet. Dropping a [`Net`] removes its namespaces, and with them every interface.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use seg_runtime::kernel::netlink::Route;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where named namespaces stand, for `ip netns` and `segd` alike.
pub const NAMESPACES: &str = "/run/netns";
/// Name of an endpoint's interface inside its namespace.
pub const INTERFACE: &str = "eth0";

/// What an endpoint sends to leave its namespace: the node's end of every veth pair answers to it (RFC 3927).
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The same for IPv6: a link-local address of the node.
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// How long an interface may take to carry packets.
const READY_MAX: Duration = Duration::from_secs(10);

/// `RTF_LOCAL` of include/uapi/linux/ipv6_route.h.
const RTF_LOCAL: u32 = 0x8000_0000;

static NETS: AtomicU32 = AtomicU32::new(0);

/// A namespace of a [`Net`]; removed with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name below [`NAMESPACES`].
    pub name: String,
    /// The node's end of its veth pair; empty for the node itself.
    pub node_interface: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A node namespace that routes between the namespaces attached to it.
#[derive(Debug)]
pub struct Net {
    prefix: String,
    node: Namespace,
    attached: Vec<Namespace>,
}

impl Net {
    /// Makes the node: forwarding on, no attachment yet.
    ///
    /// # Errors
    /// What the kernel says, mostly for want of privilege.
    pub fn new() -> io::Result<Self> {
        sweep();
        let n = NETS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("seg-{}-{n}", std::process::id());
        let name = format!("{prefix}-node");
        let node = Namespace { name, node_interface: String::new(), addresses: Vec::new() };
        // Built before the namespace is, so that Drop removes what a failure leaves.
        let net = Self { prefix, node, attached: Vec::new() };
        create(&net.node.name)?;
        in_ns(&net.node.name, || {
            set_up("lo")?;
            sysctl("ipv4/ip_forward", "1")?;
            sysctl("ipv6/conf/all/forwarding", "1")
        })??;
        Ok(net)
    }

    /// The node's namespace.
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// A namespace by the label it was attached under; `node` is the node.
    pub fn get(&self, label: &str) -> Option<&Namespace> {
        let name = format!("{}-{label}", self.prefix);
        std::iter::once(&self.node).chain(&self.attached).find(|ns| ns.name == name)
    }

    /// Gives the node itself addresses, on its loopback interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn address_node(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        in_ns(&self.node.name, || {
            addresses.iter().try_for_each(|a| add_address("lo", *a))?;
            wait_ready("lo", addresses)
        })??;
        self.node.addresses.extend(addresses);
        Ok(())
    }

    /// Adds a namespace with [`INTERFACE`] towards the node, its addresses (any number of both families) and default routes.
    ///
    /// # Errors
    /// What the kernel says; what was made is removed with the [`Net`].
    pub fn attach(&mut self, label: &str, addresses: &[IpAddr]) -> io::Result<&Namespace> {
        let namespace = Namespace {
            name: format!("{}-{label}", self.prefix),
            node_interface: format!("veth{}", self.attached.len() + 1),
            addresses: addresses.to_vec(),
        };
        self.attached.push(namespace.clone());
        create(&namespace.name)?;
        let inside = File::open(path(&namespace.name))?;
        let outer = namespace.node_interface.as_str();
        in_ns(&self.node.name, || {
            add_veth(outer, INTERFACE, &inside)?;
            add_address(outer, GATEWAY_V4)?;
            add_address(outer, GATEWAY_V6)?;
            set_up(outer)?;
            addresses.iter().try_for_each(|a| add_route(Some(*a), outer, None))
        })??;
        in_ns(&namespace.name, || {
            set_up("lo")?;
            set_up(INTERFACE)?;
            addresses.iter().try_for_each(|a| add_address(INTERFACE, *a))?;
            wait_ready(INTERFACE, addresses)?;
            for (gateway, v4) in [(GATEWAY_V4, true), (GATEWAY_V6, false)] {
                if addresses.iter().any(|a| a.is_ipv4() == v4) {
                    add_route(None, INTERFACE, Some(gateway))?;
                }
            }
            Ok::<_, io::Error>(())
        })??;
        in_ns(&self.node.name, || wait_ready(outer, &[GATEWAY_V6]))??;
        self.attached.last().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in self.attached.iter().chain([&self.node]) {
            remove(&namespace.name);
        }
    }
}

/// Runs a closure on a thread inside a named namespace; sockets it opens stay there.
///
/// # Errors
/// If there is no such namespace, or no right to enter it.
pub fn in_ns<T: Send>(name: &str, run: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = File::open(path(name))?;
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| enter(&namespace).map(|()| run())).join();
        entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Moves the calling thread into a namespace. Async-signal-safe, so usable between fork and exec.
///
/// # Errors
/// What the kernel says.
pub fn enter(namespace: &File) -> io::Result<()> {
    // SAFETY: setns takes an open descriptor and a flag; it touches no memory of ours.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// The path of a named namespace.
pub fn path(name: &str) -> PathBuf {
    Path::new(NAMESPACES).join(name)
}

/// Removes namespaces of processes that ended without doing so.
pub fn sweep() {
    for entry in std::fs::read_dir(NAMESPACES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix("seg-").and_then(|rest| rest.split('-').next());
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&name);
        }
    }
}

/// Makes a namespace and names it.
fn create(name: &str) -> io::Result<()> {
    std::fs::create_dir_all(NAMESPACES)?;
    let target = path(name);
    File::create_new(&target)?;
    let target = c_path(&target)?;
    // The thread leaves with its namespace: nothing else of the process moves.
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            // SAFETY: unshare takes flags; only this thread changes its namespace.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            let source = c"/proc/thread-self/ns/net";
            // SAFETY: both paths are NUL-terminated and outlive the call; a bind mount reads neither type nor data.
            check(unsafe {
                libc::mount(
                    source.as_ptr(),
                    target.as_ptr(),
                    std::ptr::null(),
                    libc::MS_BIND,
                    std::ptr::null(),
                )
            })?;
            // Addresses must be usable at once: no duplicate detection, no router solicitation.
            for conf in ["all", "default"] {
                sysctl(&format!("ipv6/conf/{conf}/disable_ipv6"), "0")?;
                sysctl(&format!("ipv6/conf/{conf}/accept_dad"), "0")?;
                sysctl(&format!("ipv6/conf/{conf}/router_solicitations"), "0")?;
            }
            Ok(())
        });
        made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Removes a namespace if it is there: called for what was only half made, too.
fn remove(name: &str) {
    let target = path(name);
    if let Ok(c) = c_path(&target) {
        // SAFETY: the path is NUL-terminated and outlives the call.
        unsafe { libc::umount2(c.as_ptr(), libc::MNT_DETACH) };
    }
    // A failure means it is gone already; there is nobody to tell from Drop.
    let _ = std::fs::remove_file(&target);
}

/// Adds a veth pair: `outer` here, `inner` in another namespace.
pub fn add_veth(outer: &str, inner: &str, namespace: &File) -> io::Result<()> {
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(inner.to_owned()));
    peer.attributes.push(LinkAttribute::NetNsFd(namespace.as_raw_fd()));
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(outer.to_owned()));
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    send(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
}

/// Removes an interface, and its other end if it is a veth pair.
pub fn remove_link(interface: &str) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index(interface)?;
    send(RouteNetlinkMessage::DelLink(link), 0)
}

/// Sets an interface up.
pub fn set_up(interface: &str) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index(interface)?;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    send(RouteNetlinkMessage::SetLink(link), 0)
}

/// Waits until an interface carries packets and answers for its addresses.
///
/// The kernel finishes both in the background, and what it drops meanwhile would look like a policy: an interface that is up has
/// no queue until the link watch has run (net/core/link_watch.c); an IPv6 address has no solicited-node group and no local route
/// until its own work has run (net/ipv6/addrconf.c, `addrconf_dad_work`), and the route comes last.
fn wait_ready(interface: &str, addresses: &[IpAddr]) -> io::Result<()> {
    let (mut route, deadline) = (Route::open()?, Instant::now() + READY_MAX);
    let mut link = LinkMessage::default();
    link.header.index = index(interface)?;
    while Instant::now() < deadline {
        let answers = route.request(RouteNetlinkMessage::GetLink(link.clone()), 0)?;
        let up = answers.iter().any(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => {
                link.header.flags.contains(LinkFlags::LowerUp)
                    && !link.attributes.contains(&LinkAttribute::Qdisc("noop".to_owned()))
            }
            _ => false,
        });
        if up && has_local_routes(interface, addresses)? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Whether every IPv6 address has its local route; IPv4 has it as soon as the address.
fn has_local_routes(interface: &str, addresses: &[IpAddr]) -> io::Result<bool> {
    let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
    let local: BTreeSet<&str> = routes
        .lines()
        .filter_map(|line| {
            // Destination, its length, source, its length, gateway, metric, users, uses, flags, interface.
            let words: Vec<&str> = line.split_whitespace().collect();
            let [destination, "80", _, _, _, _, _, _, flags, device] = words.as_slice() else {
                return None;
            };
            let flags = u32::from_str_radix(flags, 16).ok()?;
            (flags & RTF_LOCAL != 0 && *device == interface).then_some(*destination)
        })
        .collect();
    Ok(addresses.iter().all(|address| match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => local.contains(format!("{:032x}", u128::from(*v6)).as_str()),
    }))
}

/// Adds an address of full prefix length.
pub fn add_address(interface: &str, address: IpAddr) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = full_length(address);
    message.header.flags = AddressHeaderFlags::Nodad;
    message.header.index = index(interface)?;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    send(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Adds the route to one address, or a default route.
fn add_route(to: Option<IpAddr>, interface: &str, gateway: Option<IpAddr>) -> io::Result<()> {
    let Some(any) = to.or(gateway) else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut message = RouteMessage::default();
    message.header.address_family = family(any);
    message.header.destination_prefix_length = to.map_or(0, full_length);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(index(interface)?));
    message.attributes.extend(to.map(|to| RouteAttribute::Destination(to.into())));
    if let Some(gateway) = gateway {
        // The gateway is in no subnet of ours.
        message.header.flags = RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
    }
    send(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Drops in silence what the calling thread's namespace sends to an address.
pub fn add_blackhole(to: IpAddr) -> io::Result<()> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to);
    message.header.destination_prefix_length = full_length(to);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::BlackHole;
    message.attributes.push(RouteAttribute::Destination(to.into()));
    send(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// The index of an interface in the calling thread's namespace.
pub fn index(interface: &str) -> io::Result<u32> {
    let name = CString::new(interface)?;
    // SAFETY: the name is NUL-terminated and outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Sets a parameter below `/proc/sys/net`, which shows the calling thread's namespace.
fn sysctl(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(Path::new("/proc/sys/net").join(name), value)
}

fn send(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    Route::open()?.request(message, flags).map(drop)
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_encoded_bytes())?)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
