"""Tries to speak with anything outside. Runs inside the box: standard library only."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from functools import partial
from typing import Final

from sandboxes.escape.check import ABSENT, TMP, Check, Result, Target, Tries, collector, quietly
from sandboxes.escape.syscalls import call

CHECKS: Final[list[Check]] = []
check = collector(CHECKS)

_NO_ANSWER: Final = (
    errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ETIMEDOUT, errno.ECONNRESET,
    errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAGAIN, errno.ENETDOWN, errno.EINVAL,
)  # fmt: skip
_UNSUPPORTED: Final = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EINVAL)
_METADATA: Final = ("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "fd00:ec2::254")
_ALIASES: Final = ("127.0.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1", "10.0.2.2", "192.168.127.1", "172.17.0.1")  # noqa: S104
_INTERNET: Final = (("1.1.1.1", 443), ("8.8.8.8", 53), ("2606:4700:4700::1111", 443))
_DAEMONS: Final = (
    "/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
    "/run/crio/crio.sock", "/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/journal/stdout",
    "/run/systemd/notify", "/run/user/0/bus", "/run/user/1000/bus", "/run/snapd.socket", "/run/libvirt/libvirt-sock",
    "/run/user/1000/wayland-0", "/run/udev/control", "/dev/log", "/run/nscd/socket",
    f"{TMP}/.X11-unix/X0",
)  # fmt: skip
_ABSTRACT_DAEMONS: Final = (f"{TMP}/.X11-unix/X0", "/org/kernel/linux/storage/multipathd", "/containerd-shim")


@check("network.raw", "send packets of our own making")
def raw(tries: Tries) -> None:
    """raw IPv4 and IPv6 sockets, packet sockets"""
    for name, family, kind, protocol in (
        ("raw", socket.AF_INET, socket.SOCK_RAW, 1),
        ("raw6", socket.AF_INET6, socket.SOCK_RAW, 58),
        ("packet", socket.AF_PACKET, socket.SOCK_RAW, 0x300),
        ("packet datagram", socket.AF_PACKET, socket.SOCK_DGRAM, 0x300),
    ):
        tries.make(name, partial(_made, family, kind, protocol), *_UNSUPPORTED)


@check("network.families", "open sockets of any other kind")
def families(tries: Tries) -> None:
    """a stream, datagram, raw and sequenced socket of each of the 64 families but unix, inet, inet6 and netlink"""
    for family in range(3, 64):
        if family not in {socket.AF_INET6, socket.AF_NETLINK}:
            for kind in (1, 2, 3, 5):
                tries.make(f"family {family}", partial(_made, family, kind, 0), *_UNSUPPORTED)


@check("network.netlink", "speak with parts of the kernel")
def netlink(tries: Tries) -> None:
    """netlink sockets of every protocol but routing: audit, netfilter, xfrm, uevents, connector, crypto, rdma..."""
    for protocol in range(1, 23):
        kind = partial(_made, socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        tries.make(f"netlink {protocol}", kind, *_UNSUPPORTED)


@check("network.vsock", "reach the host of a virtual machine", reach="host")
def vsock(tries: Tries) -> None:
    """connect to the host's and the hypervisor's vsock ports"""
    for number in (0, 1, 2):
        tries.make(f"cid {number}", partial(_vsock, number, tries.target.port or 22), *_NO_ANSWER, *ABSENT)


@check("network.algorithms", "use the kernel's cryptography")
def algorithms(tries: Tries) -> None:
    """an AF_ALG socket, bound to a hash and a cipher"""
    tries.make("alg", partial(_made, 38, socket.SOCK_SEQPACKET, 0), *_UNSUPPORTED)


@check("network.administer", "change the network")
def administer(tries: Tries) -> None:
    """set the MTU of lo to what it is, ask for the rules of iptables, mark packets, bind to a device"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        request = quietly(lambda: fcntl.ioctl(plain, 0x8921, struct.pack("16si12x", b"lo", 0)))
        if request is not None:
            tries.make("mtu", lambda: fcntl.ioctl(plain, 0x8922, request))
        tries.make("mark", lambda: plain.setsockopt(socket.SOL_SOCKET, 36, 1))
        tries.make("iptables", lambda: plain.getsockopt(socket.IPPROTO_IP, 64, 84), errno.ENOPROTOOPT)
        tries.make("transparent", lambda: plain.setsockopt(socket.IPPROTO_IP, 19, 1), errno.ENOPROTOOPT)


@check("network.metadata", "reach the cloud's metadata service", reach="host")
def metadata(tries: Tries) -> None:
    """connect to port 80 of 169.254.169.254 and of its likes, directly"""
    for address in _METADATA:
        tries.make(address, partial(_connected, address, 80, tries.target), *_NO_ANSWER)


@check("network.gateway", "reach ports of the gateway's machine", reach="host")
def gateway(tries: Tries) -> None:
    """connect to a port that the host listens on: its loopback, its addresses, and what stands for it in guests"""
    for address in dict.fromkeys((*_ALIASES, *tries.target.addresses)):
        tries.make(address, partial(_greeted, address, tries.target), *_NO_ANSWER)


@check("network.internet", "reach the internet", reach="host")
def internet(tries: Tries) -> None:
    """TCP to public addresses, a DNS question by UDP that is answered"""
    for address, port in _INTERNET:
        tries.make(f"{address} {port}", partial(_connected, address, port, tries.target), *_NO_ANSWER)
    tries.make("udp", partial(_asked, "8.8.8.8", tries.target), *_NO_ANSWER)


@check("network.names", "look up names", reach="host")
def names(tries: Tries) -> None:
    """nameservers in /etc/resolv.conf that answer a question"""
    lines = (quietly(partial(_text, "/etc/resolv.conf")) or "").splitlines()
    servers = [line.split()[1] for line in lines if line.startswith("nameserver ")]
    for server in ("127.0.0.1", "127.0.0.53", "10.0.2.3", *servers):
        tries.make(server, partial(_asked, server, tries.target), *_NO_ANSWER)


@check("network.interfaces", "find a way out that was not meant")
def interfaces(tries: Tries) -> None:
    """interfaces beside lo, routes"""
    for _, name in quietly(socket.if_nameindex) or ():
        tries.see(name, name != "lo" and not name.startswith(("tunl", "sit", "gre", "ip6", "ip_vti", "erspan", "teql")))
    for line in (quietly(partial(_text, "/proc/net/route")) or "").splitlines()[1:]:
        tries.see(f"route {line.split()[:3]}", True)


@check("network.visible", "see the host's sockets", reach="host")
def visible(tries: Tries) -> None:
    """look for the host's port in /proc/net/tcp and its abstract socket in /proc/net/unix"""
    for path, word in (
        ("/proc/net/tcp", f":{tries.target.port:04X} "),
        ("/proc/net/tcp6", f":{tries.target.port:04X} "),
        ("/proc/net/unix", tries.target.abstract),
        ("/proc/1/net/unix", tries.target.abstract),
    ):
        tries.see(path, word in (quietly(partial(_text, path)) or ""))


@check("network.abstract", "connect to an abstract socket of the host", reach="host")
def abstract(tries: Tries) -> None:
    """connect to an abstract unix socket that the host listens on, and to those of X11 and containerd"""
    for name in (tries.target.abstract, *_ABSTRACT_DAEMONS):
        tries.make(f"@{name}", partial(_unix, f"\0{name}"), *_NO_ANSWER)


@check("network.daemons", "connect to a daemon of the host", reach="host")
def daemons(tries: Tries) -> None:
    """connect to docker, containerd, podman, dbus, systemd, X11, Wayland, snapd, libvirt and udev"""
    for path in _DAEMONS:
        tries.make(path, partial(_unix, path), *_NO_ANSWER, *ABSENT)
    for name in ("SSH_AUTH_SOCK", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "DOCKER_HOST", "XDG_RUNTIME_DIR"):
        tries.see(name, name in os.environ)


@check("network.other-boxes", "connect to the egress socket of another box", reach="host")
def other_boxes(tries: Tries) -> None:
    """connect to each unix socket that the host made for others"""
    for path in tries.target.sockets:
        tries.make(path, partial(_unix, path), *_NO_ANSWER, *ABSENT)


@check("ipc.shared-memory", "attach to the host's System V memory", reach="host")
def shared_memory(tries: Tries) -> None:
    """shmget and shmat of a segment that everybody on the host may attach to"""
    found = tries.make("shmget", lambda: call("shmget", tries.target.ipc_key, 0, 0), errno.ENOENT)
    if found is not None:
        tries.make("shmat", lambda: call("shmat", found, None, 0o10000))


@check("ipc.queues", "use the host's queues and semaphores", reach="host")
def queues(tries: Tries) -> None:
    """msgget and semget of the host's keys, mq_open of its POSIX queue"""
    tries.make("msgget", lambda: call("msgget", tries.target.ipc_key, 0), errno.ENOENT)
    tries.make("semget", lambda: call("semget", tries.target.ipc_key, 0, 0), errno.ENOENT)
    tries.make("mq_open", lambda: call("mq_open", tries.target.mq_name.encode(), os.O_RDONLY, 0, None), errno.ENOENT)


@check("ipc.passing", "be handed an open file", reach="host")
def passing(tries: Tries) -> None:
    """recvmsg on the streams that are sockets and on what answers at the egress socket: any descriptor in it"""
    for fd in (0, 1, 2, quietly(_egress)):
        if fd is not None:
            tries.see(f"{fd}: {_passed(fd)} files", _passed(fd) > 0)


def _made(family: int, kind: int, protocol: int) -> None:
    socket.socket(family, kind, protocol).close()


def _vsock(number: int, port: int) -> None:
    with socket.socket(40, socket.SOCK_STREAM) as stream:
        stream.settimeout(0.5)
        stream.connect((number, port))


def _connected(address: str, port: int, target: Target) -> None:
    with socket.socket(_family(address), socket.SOCK_STREAM) as stream:
        stream.settimeout(target.patience_s)
        _timely(partial(stream.connect, (address, port)))


def _greeted(address: str, target: Target) -> None:
    """Only who says the canary is the host: in a guest the address may be the guest's own."""
    with socket.socket(_family(address), socket.SOCK_STREAM) as stream:
        stream.settimeout(target.patience_s)
        _timely(partial(stream.connect, (address, target.port)))
        greeting = _timely(partial(stream.recv, 200))
    if target.canary.encode() not in greeting:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "somebody else")


def _asked(address: str, target: Target) -> None:
    question = b"\x12\x34\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1"
    with socket.socket(_family(address), socket.SOCK_DGRAM) as plain:
        plain.settimeout(target.patience_s)
        plain.connect((address, 53))
        _timely(partial(plain.send, question))
        _timely(partial(plain.recv, 512))


def _timely(do: Callable[[], Result]) -> Result:
    try:
        return do()
    except TimeoutError as exc:
        raise TimeoutError(errno.ETIMEDOUT, "no answer") from exc


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _unix(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(0.5)
        stream.connect(path)


def _egress() -> int:
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stream.connect("/run/egress.sock")
    return stream.detach()


def _passed(fd: int) -> int:
    size = array.array("i").itemsize
    told = quietly(partial(_peeked, fd, socket.CMSG_LEN(16 * size)))
    return sum(len(data) // size for _, kind, data in told or () if kind == socket.SCM_RIGHTS)


def _peeked(fd: int, room: int) -> list[tuple[int, int, bytes]]:
    with socket.socket(fileno=os.dup(fd)) as stream:
        return stream.recvmsg(1, room, socket.MSG_PEEK | socket.MSG_DONTWAIT)[1]


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(1 << 20)
