"""A wire between two network namespaces, which a test spoils while it runs: delay, loss, silence, resets in
the middle of what is said. Two TUN devices, and a thread that carries the packets. For tests that are apart.

    wire = lab.add(Wire())              # services listen on HERE
    cat = lab.iamcat(env, within=wire.there)
    wire.spoil(broker.port, delay=0.6)  # all that goes to and from that port; nothing else
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time

from apart import CLONE_NEWNET, libc
from lab import TIMEOUT, LabError, Log

HERE, THERE = "10.99.0.1", "10.99.0.2"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
BOTH, TO_SERVICE, FROM_SERVICE = "both", "to", "from"
RST, ACK = 4, 16


def device(address: str, peer: str) -> int:
    """A TUN device in this thread's network namespace; its descriptor."""
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"wire", IFF_TUN | IFF_NO_PI))
    except OSError as error:
        raise LabError("this test needs a TUN device, which this system does not allow (/dev/net/tun: "
                       f"{error}): run the tests as root, or give the container that device and NET_ADMIN"
                       ) from None
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for command in ("link set lo up", f"addr add {address} peer {peer} dev wire", "link set wire up"):
        subprocess.run(["ip", *command.split()], check=True, env={"PATH": path})
    return tun


def checksum(data: bytes) -> int:
    """RFC 1071"""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


class Segment:
    """A TCP segment in an IPv4 packet (RFC 791 §3.1, RFC 9293 §3.1)."""

    def __init__(self, packet: bytes) -> None:
        self.packet, self.at = packet, (packet[0] & 15) * 4
        self.source, self.target, self.number = struct.unpack_from(">HHI", packet, self.at)
        self.begin = self.at + (packet[self.at + 12] >> 4) * 4  # of its payload

    @property
    def payload(self) -> bytes:
        return self.packet[self.begin:]

    def changed(self, payload: bytes, number: int, flags: int) -> bytes:
        """The same with other contents."""
        tcp = bytearray(self.packet[self.at:self.begin] + payload)
        struct.pack_into(">I", tcp, 4, number & 0xFFFFFFFF)
        tcp[13] = flags
        tcp[16:18] = b"\0\0"
        pseudo = self.packet[12:20] + struct.pack(">BBH", 0, 6, len(tcp))
        struct.pack_into(">H", tcp, 16, checksum(pseudo + tcp))
        ip = bytearray(self.packet[:self.at])
        struct.pack_into(">H", ip, 2, len(ip) + len(tcp))
        ip[10:12] = b"\0\0"
        struct.pack_into(">H", ip, 10, checksum(bytes(ip)))
        return bytes(ip + tcp)


class Fault:
    """What happens to a service's packets: each comes after delay seconds, of them all (loss of 1) some are
    lost; none comes in the direction of hole; in the direction of cut, the next segment with min_bytes of
    payload arrives by half, and then its connection is reset."""

    def __init__(self, delay: float = 0, loss: float = 0, hole: str = "", cut: str = "",
                 min_bytes: int = 0) -> None:
        self.delay, self.loss, self.hole, self.cut, self.min_bytes = delay, loss, hole, cut, min_bytes


class Wire:
    """there is a command line prefix that runs a program at the other end, whose address is THERE."""

    def __init__(self) -> None:
        self.log, self.faults, self.random = Log("wire"), {}, random.Random(1)
        self.carried, self.lost, self.was_cut = 0, 0, threading.Event()
        self.waiting: list[tuple[float, int, int, bytes]] = []  # due, a count, where to, what
        self.stop, self.end = os.pipe()
        self.near, self.far, self.namespace, error = device(HERE, THERE), -1, -1, []

        def settle_there() -> None:
            try:
                if libc.unshare(CLONE_NEWNET) != 0:  # of this thread alone
                    raise LabError(f"no other network namespace: {os.strerror(ctypes.get_errno())}")
                self.namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
                self.far = device(THERE, HERE)
            except Exception as reason:
                error.append(reason)

        settler = threading.Thread(target=settle_there)
        settler.start()
        settler.join()
        if error:
            raise error[0]
        self.there = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self.namespace}"]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def spoil(self, port: int, **fault: float | str) -> None:
        """From now on, in place of what was; none mends the wire."""
        self.log.add(f"port {port}: {fault or 'mended'}")
        self.was_cut.clear()
        self.faults[port] = Fault(**fault)

    def wait_cut(self) -> None:
        if not self.was_cut.wait(TIMEOUT):
            raise LabError("wire: nothing came that could be cut")

    def run(self) -> None:
        while True:
            until = max(0, self.waiting[0][0] - time.monotonic()) if self.waiting else None
            ready, _, _ = select.select([self.near, self.far, self.stop], [], [], until)
            if self.stop in ready:
                return
            for tun in ready:
                try:
                    while True:
                        self.take(os.read(tun, 65536), tun)
                except BlockingIOError:
                    pass
            while self.waiting and self.waiting[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(self.waiting)
                os.write(to, packet)

    def take(self, packet: bytes, tun: int) -> None:
        """A packet from either end, on its way to the other one."""
        if packet[0] >> 4 != 4 or packet[9] != 6:
            return  # of a kind that nobody here needs
        segment, to = Segment(packet), self.far if tun == self.near else self.near
        away = segment.target in self.faults
        fault = self.faults.get(segment.target if away else segment.source) or Fault()
        way = TO_SERVICE if away else FROM_SERVICE
        if fault.hole in (BOTH, way) or self.random.random() < fault.loss:
            self.lost += 1
            return
        packets = [packet]
        if fault.cut == way and len(segment.payload) > max(1, fault.min_bytes):
            fault.cut, half = "", segment.payload[:len(segment.payload) // 2]
            packets = [segment.changed(half, segment.number, ACK),
                       segment.changed(b"", segment.number + len(half), RST | ACK)]
            self.log.add(f"cut: {len(half)} of {len(segment.payload)} bytes {way} the service")
            self.was_cut.set()
        for one in packets:
            self.carried += 1
            heapq.heappush(self.waiting, (time.monotonic() + fault.delay, self.carried, to, one))

    def close(self) -> None:
        os.close(self.end)
        self.thread.join(TIMEOUT)
        for descriptor in (self.near, self.far, self.namespace, self.stop):
            os.close(descriptor)
