"""Scripted peers for what real ones never do: an MQTT broker over TLS, an HTTP API and a DNS server, on free
loopback ports, a thread for each connection. They record all that comes; an error in a script fails the test.

    broker = lab.add(FakeBroker(lab.certificate, lambda c: (c.expect(CONNECT), c.send(CONNACK_REFUSED))))
    api = lab.add(FakeApi({"/api/state": http_reply({"mode": "test"})}))
    cat = lab.iamcat(lab.env(broker, api))
"""

import base64
import contextlib
import json
import pathlib
import random
import re
import socket
import ssl
import struct
import tempfile
import threading
import time
import types
import urllib.parse
from typing import Any, Callable, Iterable, Iterator

from lab import SERIAL, TIMEOUT, Certificate, Inbox, LabError, Log, free_port, strict_json

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = range(8, 15)
KINDS = ("0 CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK "
         "PINGREQ PINGRESP DISCONNECT 15").split()


class Server:
    """A listener with a thread for each connection; talk(socket, number) is what it does there."""

    host = "127.0.0.1"  # where it listens; to be changed in a subclass

    def __init__(self, name: str) -> None:
        self.log, self.errors = Log(name), []
        self.closing = threading.Event()
        self.sockets: list[socket.socket] = []
        self.threads: list[threading.Thread] = []
        self.connections = 0
        self.port, self.listener = 0, None

    def talk(self, peer: socket.socket, number: int) -> None:
        raise NotImplementedError

    def listen(self) -> None:
        """Listens (again) on its port; before, and after deaf(), connections are refused."""
        while not self.listener:
            port, listener = self.port or free_port(), socket.socket(family(self.host))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self.host, port))
                listener.listen(64)
            except OSError:
                listener.close()
                if self.port:
                    raise
                continue
            self.port, self.listener = port, listener
        self.spawn(self.accept, self.listener)

    def deaf(self) -> None:
        """Refuses new connections from now on; those there are go on."""
        listener, self.listener = self.listener, None
        if listener:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            listener.close()

    def spawn(self, function: Callable, *args: Any) -> None:
        thread = threading.Thread(target=function, args=args, daemon=True)
        self.threads.append(thread)
        thread.start()

    def accept(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets.append(peer)
            self.log.add(f"connection {self.connections}")
            self.connections += 1
            self.spawn(self.guard, peer, self.connections - 1)

    def guard(self, peer: socket.socket, number: int) -> None:
        """talk, with what it raises: an ended connection is no error, anything else is."""
        try:
            self.talk(peer, number)
        except OSError as error:
            self.log.add(f"connection {number} ended: {error}")
        except Exception as error:  # whatever a script raises must fail the test
            self.log.add(f"connection {number}: {error}")
            if not self.closing.is_set():
                self.errors.append(error)
        finally:
            peer.close()

    def close(self) -> None:
        self.closing.set()
        self.deaf()
        for peer in self.sockets:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(TIMEOUT)
        if self.errors:
            raise LabError(f"{self.log.name}: {self.errors[0]}") from self.errors[0]


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def reset(peer: socket.socket) -> None:
    """Ends a connection with RST."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def black_hole(lab: Any, address: str, port: int = 0) -> int:
    """Connections to there are neither made nor refused: its queue is full. The port."""
    listener = lab.enter_context(socket.create_server((address, port), backlog=0))
    lab.enter_context(socket.create_connection(listener.getsockname()))
    with contextlib.suppress(TimeoutError):
        socket.create_connection(listener.getsockname(), timeout=0.1).close()
        raise LabError(f"{address} takes more connections than it should")
    return listener.getsockname()[1]


# ------------------------------------------------------------------------------------------------------- MQTT


def mqtt_length(n: int) -> bytes:
    """MQTT 3.1.1 §2.2.3"""
    out = bytearray()
    while True:
        n, low = divmod(n, 128)
        out.append(low | (0x80 if n else 0))
        if not n:
            return bytes(out)


def mqtt_packet(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    return bytes([kind << 4 | flags]) + mqtt_length(len(body)) + body


def mqtt_text(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(">H", len(raw)) + raw


def mqtt_id(packet_id: int) -> bytes:
    return struct.pack(">H", packet_id)


def mqtt_publish(topic: str | bytes, payload: bytes, qos: int = 0, packet_id: int = 1, retain: bool = False,
                 dup: bool = False) -> bytes:
    head = mqtt_text(topic) + (mqtt_id(packet_id) if qos else b"")
    return mqtt_packet(PUBLISH, head + payload, dup << 3 | qos << 1 | retain)


def connack(code: int = 0, session_present: int = 0) -> bytes:
    return mqtt_packet(CONNACK, bytes([session_present, code]))


class Packet(types.SimpleNamespace):
    """A packet by the client: kind, flags, body, connection (its number), at (monotonic seconds), packet_id;
    by kind client_id, clean, keep_alive, user, password, will; topic, payload, qos, dup, retain;
    topics."""

    def __str__(self) -> str:
        extra = [self.topic] if self.kind == PUBLISH else []
        extra += [f"id {self.packet_id}"] if self.packet_id else []
        return " ".join([f"{self.connection}:", KINDS[self.kind], *extra])


class Malformed(LabError):
    """The client sent what MQTT 3.1.1 forbids."""


class Fields:
    """Reads the fields of a packet's body."""

    def __init__(self, body: bytes) -> None:
        self.rest = body

    def take(self, n: int) -> bytes:
        if n > len(self.rest):
            raise Malformed(f"a field of {n} bytes, but {len(self.rest)} are left")
        got, self.rest = self.rest[:n], self.rest[n:]
        return got

    def number(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def binary(self) -> bytes:
        return self.take(self.number())

    def text(self) -> str:
        return self.binary().decode()

    def packet_id(self) -> int:
        number = self.number()
        if number == 0:
            raise Malformed("packet id 0")  # MQTT-2.3.1-1
        return number


def mqtt_decode(kind: int, flags: int, body: bytes) -> Packet:
    """A client's packet, strictly."""
    if kind in (0, CONNACK, SUBACK, UNSUBACK, PINGRESP, 15):
        raise Malformed(f"a client may not send {KINDS[kind]}")
    if kind != PUBLISH and flags != (2 if kind in (PUBREL, SUBSCRIBE, UNSUBSCRIBE) else 0):
        raise Malformed(f"{KINDS[kind]} with flags {flags}")  # MQTT-2.2.2-2
    p, f = Packet(kind=kind, flags=flags, body=body, packet_id=0), Fields(body)
    if kind == CONNECT:
        if f.take(7) != mqtt_text("MQTT") + b"\x04":
            raise Malformed(f"CONNECT of another protocol: {body[:7]!r}")
        bits, p.keep_alive, p.client_id = f.take(1)[0], f.number(), f.text()
        if bits & 1:
            raise Malformed("CONNECT with its reserved flag")  # MQTT-3.1.2-3
        p.clean = bool(bits & 2)
        p.will = (f.text(), f.binary(), bits >> 3 & 3, bool(bits & 0x20)) if bits & 4 else None
        p.user = f.text() if bits & 0x80 else None
        p.password = f.binary() if bits & 0x40 else None
    elif kind == PUBLISH:
        p.dup, p.qos, p.retain = bool(flags & 8), flags >> 1 & 3, bool(flags & 1)
        p.topic = f.text()
        if p.qos == 3 or (p.dup and not p.qos) or not p.topic or set(p.topic) & set("+#\0"):
            raise Malformed(f"PUBLISH to {p.topic!r} with flags {flags}")
        p.packet_id = f.packet_id() if p.qos else 0
        p.payload, f.rest = f.rest, b""
    elif kind not in (PINGREQ, DISCONNECT):
        p.packet_id, p.topics = f.packet_id(), []
        while f.rest and kind in (SUBSCRIBE, UNSUBSCRIBE):
            p.topics.append((f.text(), f.take(1)[0] if kind == SUBSCRIBE else 0))
        if kind in (SUBSCRIBE, UNSUBSCRIBE) and not p.topics:
            raise Malformed(f"{KINDS[kind]} without a topic")  # MQTT-3.8.3-3
    if f.rest:
        raise Malformed(f"{KINDS[kind]} with {len(f.rest)} bytes too many")
    return p


class Connection:
    """The broker's end of one connection. The script's thread alone receives; any thread may send. TLS starts
    with the first byte either way, so a script can do without it, on .peer."""

    def __init__(self, broker: "FakeBroker", peer: socket.socket, number: int) -> None:
        self.broker, self.peer, self.number = broker, peer, number
        self.buffer = bytearray()
        self.packet_id = 0
        # TLS in memory: a Python TLS socket may not be read and written by two threads at a time.
        self.inward, self.outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = broker.context.wrap_bio(self.inward, self.outward, server_side=True)
        self.tls_lock, self.order = threading.Lock(), threading.RLock()
        self.secured = threading.Event()

    def flush(self) -> None:
        with self.order:
            with self.tls_lock:
                data = self.outward.read()
            self.peer.sendall(data)

    def handshake(self) -> None:
        """TLS, unless it is done."""
        while not self.secured.is_set():
            try:
                self.tls.do_handshake()
                self.secured.set()
            except ssl.SSLWantReadError:
                self.flush()
                self.feed()
            finally:
                self.flush()

    def feed(self) -> None:
        data = self.peer.recv(65536)
        with self.tls_lock:
            self.inward.write(data) if data else self.inward.write_eof()

    def read(self) -> bytes:
        """Some bytes; none at the end, which is told apart in .broker.log."""
        self.handshake()
        while True:
            try:
                with self.tls_lock:
                    data = self.tls.read(65536)
                if not data:
                    self.broker.log.add(f"connection {self.number}: close_notify")
                return data
            except ssl.SSLWantReadError:
                self.feed()

    def receive(self) -> Packet | None:
        """The client's next packet, None at the end."""
        while not (packet := self.parse()):
            data = self.read()
            if not data:
                return None
            self.buffer += data
        packet.connection, packet.at = self.number, time.monotonic()
        if (packet.kind == CONNECT) != self.first:
            raise Malformed(f"{packet} is " + ("the first" if self.first else "another") + " packet")
        self.first = False
        self.broker.record(packet)
        return packet

    first = True

    def parse(self) -> Packet | None:
        length = shift = 0
        for i, byte in enumerate(self.buffer[1:5], 2):
            length, shift = length | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                if len(self.buffer) < i + length:
                    return None
                kind, body = self.buffer[0], bytes(self.buffer[i:i + length])
                del self.buffer[:i + length]
                return mqtt_decode(kind >> 4, kind & 15, body)
        if shift == 28:
            raise Malformed("a remaining length of five bytes")  # MQTT 3.1.1 §2.2.3
        return None

    def expect(self, kind: int, suits: Callable[[Packet], bool] = lambda p: True) -> Packet:
        """The next packet of that kind, not answered yet; those before it are, as a good broker would."""
        while packet := self.receive():
            if packet.kind == kind and suits(packet):
                return packet
            self.reply(packet)
        raise LabError(f"{self.broker.log.name}, connection {self.number}: it ended before {KINDS[kind]}")

    def reply(self, p: Packet) -> None:
        """What a good broker replies."""
        if p.kind == CONNECT:
            self.send(connack())
        elif p.kind == SUBSCRIBE:
            self.send(mqtt_packet(SUBACK, mqtt_id(p.packet_id) + bytes(qos for _, qos in p.topics)))
        elif p.kind == PUBLISH and p.qos:
            self.send(mqtt_packet(PUBACK if p.qos == 1 else PUBREC, mqtt_id(p.packet_id)))
        elif p.kind == PUBREC:
            self.send(mqtt_packet(PUBREL, mqtt_id(p.packet_id), 2))
        elif p.kind == PUBREL:
            self.send(mqtt_packet(PUBCOMP, mqtt_id(p.packet_id)))
        elif p.kind == UNSUBSCRIBE:
            self.send(mqtt_packet(UNSUBACK, mqtt_id(p.packet_id)))
        elif p.kind == PINGREQ:
            self.send(mqtt_packet(PINGRESP))

    def serve(self) -> None:
        """A good broker, until the end."""
        while packet := self.receive():
            self.reply(packet)

    def ready(self) -> None:
        """A good broker, until the client has subscribed."""
        self.reply(self.expect(SUBSCRIBE))

    def send(self, data: bytes, step: int = 0, tcp_step: int = 0) -> None:
        """Sends bytes at once; or with step so many in a TLS record each; or with tcp_step so many bytes of
        ciphertext in a TCP segment each."""
        self.handshake()
        with self.order:
            for at in range(0, len(data), step or max(len(data), 1)):
                with self.tls_lock:
                    self.tls.write(data[at:at + step] if step else data)
                    cipher = self.outward.read()
                for i in range(0, len(cipher), tcp_step or len(cipher)):
                    self.peer.sendall(cipher[i:i + (tcp_step or len(cipher))])

    def publish(self, topic: str | bytes, payload: bytes, qos: int = 1, packet_id: int = 0,
                **flags: bool) -> int:
        """Publishes to the client; flags are retain and dup. The packet id (0 takes the next one)."""
        self.packet_id = packet_id or self.packet_id + 1
        self.send(mqtt_publish(topic, payload, qos, self.packet_id, **flags))
        return self.packet_id

    def stream(self, topic: str, size: int, qos: int = 1, packet_id: int = 0, fill: bytes = b"x") -> int:
        """Publishes a payload of size bytes without holding it in memory; the packet id."""
        self.packet_id = packet_id or self.packet_id + 1
        head = mqtt_text(topic) + (mqtt_id(self.packet_id) if qos else b"")
        with self.order:
            self.send(bytes([PUBLISH << 4 | qos << 1]) + mqtt_length(len(head) + size) + head)
            for at in range(0, size, 65536):
                self.send(fill * min(65536, size - at))
        return self.packet_id

    def stall(self) -> None:
        """Neither reads nor answers any more, until the test ends."""
        self.broker.closing.wait()

    def end(self, notify: bool = True) -> None:
        """Closes in order; without notify as a cut cable's proxy does: TCP only."""
        with contextlib.suppress(OSError):  # the client may have been faster
            if notify and self.secured.is_set():
                with self.tls_lock, contextlib.suppress(ssl.SSLError):
                    self.tls.unwrap()
                self.flush()
            self.peer.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Ends with RST."""
        reset(self.peer)


class FakeBroker(Server):
    """An MQTT broker over TLS 1.2. The first script has the first connection, and so on; a good broker serves
    those beyond. `received` holds the packets that no take() has taken, `history` all of them."""

    def __init__(self, certificate: Certificate, *scripts: Callable[[Connection], Any]) -> None:
        super().__init__("scripted broker")
        self.scripts, self.received, self.history = scripts, Inbox("scripted broker"), []
        self.live: list[Connection] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory(prefix="iamcat-fake-") as work:
            self.context.load_cert_chain(*certificate.save(pathlib.Path(work), "server"))
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.listen()

    def talk(self, peer: socket.socket, number: int) -> None:
        connection = Connection(self, peer, number)
        self.live.append(connection)
        (self.scripts[number] if number < len(self.scripts) else Connection.serve)(connection)

    def record(self, packet: Packet) -> None:
        self.history.append(packet)
        self.log.add(str(packet))
        self.received.put(packet)

    def take(self, kind: int, suits: Callable[[Packet], bool] = lambda p: True,
             timeout: float = TIMEOUT) -> Packet:
        """Waits for a packet of that kind that was not taken yet."""
        return self.received.take(lambda p: p.kind == kind and suits(p), timeout, KINDS[kind])

    def connection(self, number: int = 0) -> Connection:
        """Waits until the client has subscribed on that connection (counted from 0), which it returns."""
        self.take(SUBSCRIBE, lambda p: p.connection == number)
        return next(c for c in self.live if c.number == number)


# ------------------------------------------------------------------------------------------------------- HTTP

CLOSE, RESET, HANG = object(), object(), object()  # what a reply function may yield besides bytes


class Request(types.SimpleNamespace):
    """method, target, path, query (a dict), headers (lower case), body, connection (its number), at
    (monotonic seconds)."""

    def __str__(self) -> str:
        return f"{self.connection}: {self.method} {self.target}"


def http_reply(body: Any = b"", status: str = "200 OK", version: str = "1.0",
               headers: Iterable[str] = ()) -> bytes:
    """A reply with Content-Length; body is bytes, or becomes JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/{version} {status}", "Content-Type: application/json", f"Content-Length: {len(raw)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + raw


def unsigned_token(request: Request) -> bytes:
    """Answers /api/jwt/create with the claims in a token with a made-up signature."""
    asked = json.loads(request.body)

    def part(data: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")

    return http_reply({"jwt": f"{part(asked['headers'])}.{part(asked['barn'])}.c2lnbmF0dXJl",
                       "headers": asked["headers"], "data": asked["barn"], "expires_in": 5})


def token_claims(password: bytes | str) -> dict[str, Any]:
    """The claims in a token."""
    middle = password.decode() if isinstance(password, bytes) else password
    return json.loads(base64.urlsafe_b64decode(middle.split(".")[1] + "=="))


GOOD_API = {
    "/api/crypto": http_reply({"deviceName": "fake", "serialNumber": SERIAL, "publicKey": "ab" * 64,
                               "compactKey": "ab" * 33, "chipDeathCount": "0"}),
    "/api/jwt/create": unsigned_token,
    "/api/state": http_reply({"timestamp": 1700000000000, "mode": "fake"}),
    "/api/inverter/modbus": http_reply({"register": 10056, "size": 1, "raw_value": "002a", "value": 42.0}),
}


def hang(_request: Request) -> list[Any]:
    """A route that never answers."""
    return [HANG]


class FakeApi(Server):
    """The gateway's API. A route's answer is bytes, or a function of the request that returns bytes or yields
    pieces (CLOSE and RESET end the connection, HANG never answers); routes may be changed at any time. With
    keep_alive the connection stays after a reply. `received` holds the requests that no take() has taken,
    `history` all."""

    def __init__(self, routes: dict[str, Any] | None = None, keep_alive: bool = False) -> None:
        super().__init__("scripted API")
        self.routes, self.keep_alive = {**GOOD_API, **(routes or {})}, keep_alive
        self.received, self.history = Inbox("scripted API"), []
        self.listen()

    def talk(self, peer: socket.socket, number: int) -> None:
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                data = peer.recv(65536)
                if not data:
                    return
                buffer += data
            head, buffer = buffer.split(b"\r\n\r\n", 1)
            request = self.parse(head.decode(), number)
            length = int(request.headers.get("content-length", 0))
            while len(buffer) < length:
                data = peer.recv(65536)
                if not data:
                    raise LabError(f"{request}: the body was cut short")
                buffer += data
            request.body, buffer = buffer[:length], buffer[length:]
            self.log.add(str(request))
            self.history.append(request)
            self.received.put(request)
            for piece in self.answer(request):
                if piece is CLOSE:
                    return
                if piece is RESET:
                    return reset(peer)
                if piece is HANG:
                    self.closing.wait()
                    return
                peer.sendall(piece)
            if not self.keep_alive:
                return

    @staticmethod
    def parse(head: str, number: int) -> Request:
        line, *fields = head.split("\r\n")
        method, target, version = line.split(" ")
        if version not in ("HTTP/1.0", "HTTP/1.1"):
            raise LabError(f"a request of another protocol: {line}")
        headers = {}
        for field in fields:
            name, value = field.split(":", 1)
            if name.lower() in headers:
                raise LabError(f"two headers {name}")
            headers[name.lower()] = value.strip()
        path, _, query = target.partition("?")
        items = urllib.parse.parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        return Request(method=method, target=target, path=path, query=dict(items), headers=headers,
                       connection=number, at=time.monotonic())

    def answer(self, request: Request) -> Iterator[Any]:
        route = self.routes.get(request.path, http_reply({"error": "not found"}, "404 Not Found"))
        reply = route(request) if callable(route) else route
        yield from [reply] if isinstance(reply, bytes) else reply or []

    def take(self, path: str, suits: Callable[[Request], bool] = lambda r: True,
             timeout: float = TIMEOUT) -> Request:
        """Waits for a request to that path that was not taken yet."""
        return self.received.take(lambda r: r.path == path and suits(r), timeout, path)


# -------------------------------------------------------------------------------------------------------- DNS

A, CNAME, AAAA = 1, 5, 28


def dns_name(name: str) -> bytes:
    labels = [label.encode() for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def dns_data(kind: int, data: str | bytes) -> bytes:
    if isinstance(data, bytes):
        return data
    if kind == CNAME:
        return dns_name(data)
    return socket.inet_pton(socket.AF_INET if kind == A else socket.AF_INET6, data)


class Query(types.SimpleNamespace):
    """id, name, kind (A, AAAA, …), question (its bytes), tcp (bool), port (its source), raw, at."""

    def __str__(self) -> str:
        return f"{'TCP' if self.tcp else 'UDP'} {self.name} {self.kind}"


def dns_query(raw: bytes, tcp: bool, port: int) -> Query:
    number, flags, questions = struct.unpack(">HHH", raw[:6])
    if flags & 0xF800 or questions != 1:
        raise LabError(f"not one question: {raw!r}")
    at, labels = 12, []
    while raw[at]:
        labels.append(raw[at + 1:at + 1 + raw[at]].decode(errors="backslashreplace"))
        at += 1 + raw[at]
    kind, _class = struct.unpack(">HH", raw[at + 1:at + 5])
    return Query(id=number, name=".".join(labels), kind=kind, question=raw[12:at + 5], tcp=tcp, port=port,
                 raw=raw, at=time.monotonic())


def dns_reply(query: Query, *answers: tuple[str, int, str | bytes], rcode: int = 0, truncated: bool = False,
              ttl: int = 60) -> bytes:
    """A reply with (name, kind, data) records: an address as text, a CNAME's name, or bytes."""
    records = b"".join(dns_name(name) + struct.pack(">HHIH", kind, 1, ttl, len(raw)) + raw
                       for name, kind, raw in ((n, k, dns_data(k, d)) for n, k, d in answers))
    flags = 0x8180 | rcode | (0x200 if truncated else 0)
    return struct.pack(">HHHHHH", query.id, flags, 1, len(answers), 0, 0) + query.question + records


class FakeDns(Server):
    """A DNS server over UDP and TCP. answer(query) returns the reply's bytes, a list of several, or None.
    It has a loopback address of its own, as /etc/resolv.conf knows no ports (and 53 needs root):
    lab.iamcat(…, etc={"resolv.conf": f"nameserver {dns.address}"}). `received` holds the queries that no
    take() has taken, `history` all."""

    def __init__(self, answer: Callable[[Query], bytes | list[bytes] | None], port: int = 53,
                 address: str = "") -> None:
        super().__init__("scripted DNS")
        self.reply, self.received, self.history = answer, Inbox("scripted DNS"), []
        for attempt in range(20):
            self.address = address or ".".join(["127", *(str(random.randint(1, 254)) for _ in range(3))])
            self.udp = socket.socket(family(self.address), socket.SOCK_DGRAM)
            listener = socket.socket(family(self.address))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                self.udp.bind((self.address, port))
                self.port = self.udp.getsockname()[1]
                listener.bind((self.address, self.port))
                listener.listen(16)
                break
            except OSError as error:
                self.udp.close()
                listener.close()
                if isinstance(error, PermissionError) or attempt == 19:
                    raise LabError(f"scripted DNS: port {port} of {self.address}: {error}") from None
        self.listener = listener
        self.spawn(self.accept, listener)
        self.spawn(self.datagrams)

    def datagrams(self) -> None:
        while not self.closing.is_set():
            raw, sender = self.udp.recvfrom(65536)
            if raw:
                self.spawn(self.datagram, raw, sender)

    def datagram(self, raw: bytes, sender: tuple[str, int]) -> None:
        try:
            for reply in self.answers(dns_query(raw, False, sender[1])):
                self.udp.sendto(reply, sender)
        except OSError as error:
            self.log.add(f"UDP: {error}")
        except Exception as error:  # whatever the function raises must fail the test
            self.errors.append(error)

    def talk(self, peer: socket.socket, number: int) -> None:
        stream = peer.makefile("rb")
        while len(head := stream.read(2)) == 2:
            query = dns_query(stream.read(int.from_bytes(head, "big")), True, peer.getpeername()[1])
            for reply in self.answers(query):
                peer.sendall(struct.pack(">H", len(reply)) + reply)

    def answers(self, query: Query) -> list[bytes]:
        self.log.add(str(query))
        self.history.append(query)
        self.received.put(query)
        reply = self.reply(query)
        return [reply] if isinstance(reply, bytes) else reply or []

    def take(self, name: str, kind: int = A, timeout: float = TIMEOUT) -> Query:
        """Waits for a query that was not taken yet."""
        return self.received.take(lambda q: (q.name.lower(), q.kind) == (name, kind), timeout, name)

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self.udp.sendto(b"", (self.address, self.port))  # wakes recvfrom()
        super().close()
        self.udp.close()


# --------------------------------------------------------------------------------- iamcat between two of them

READ = b'{"function_code": 3, "device_id": "A2332407312", "address": 10056}'
# A line of its log.
LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})Z (error|warn |info |debug) ([ -~]+)")


class Scripted:
    """iamcat (cat) with a scripted broker, which runs the scripts, and a scripted API with these routes."""

    def __init__(self, lab: Any, *scripts: Callable[[Connection], Any], routes: dict[str, Any] | None = None,
                 deaf: str = "", **env: str) -> None:
        """Started; the peer of the name deaf, broker or api, refuses connections until told to listen."""
        self.broker = lab.add(FakeBroker(lab.certificate, *scripts))
        self.api = lab.add(FakeApi(routes))
        if deaf:
            getattr(self, deaf).deaf()
        self.cat = self.start(lab, lab.env(self.broker, self.api, **env))
        lab.callback(self.check_log)

    def start(self, lab: Any, env: dict[str, str]) -> Any:
        return lab.iamcat(env)

    def check_log(self) -> None:
        """Every line has the one form, all bytes from outside are escaped, and no secret is in any."""
        odd = [line for line in self.cat.log.lines if not LINE.fullmatch(line)]
        told = [token for token in self.tokens() for line in self.cat.log.lines if token in line]
        if odd or told:
            raise LabError(f"iamcat's log: odd lines {odd[:5]}, secrets {told[:5]}")

    def said(self, level: str = "warn") -> list[str]:
        """The log lines of that level so far."""
        return [m[3] for m in map(LINE.fullmatch, self.cat.log.lines)
                if m and m[2].strip() == level and not m[3].startswith("SANDBOX=off")]

    def tokens(self) -> list[str]:
        """The passwords that it has shown to the broker."""
        return [p.password.decode() for p in self.broker.history if p.kind == CONNECT and p.password]

    def published(self, leaf: str, suits: Callable[[Packet], bool] = lambda p: True,
                  timeout: float = TIMEOUT) -> Packet:
        """Waits for a publish to …/leaf that was not taken yet."""
        return self.broker.take(PUBLISH, lambda p: p.topic.endswith(f"/{leaf}") and suits(p), timeout)

    def answer(self, request: bytes = READ) -> Packet:
        return self.published("modbus/response", lambda p: request in p.payload)

    def ask(self, number: int = 0, request: bytes = READ) -> Any:
        """A request on that connection, which has been made; its answer as an object."""
        self.broker.live[number].publish("iamcat/modbus/request", request)
        return strict_json(self.answer(request).payload)
