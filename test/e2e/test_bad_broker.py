"""What no good broker sends, from a scripted one: malformed packets end the connection with one log line, and
the next one works; pieces of any size, and packets of any size, do no harm."""

import ctypes
import os
import socket
import threading
import time
from typing import Any, Callable

import pytest

import lab as laboratory
from fake import (CONNACK, CONNECT, DISCONNECT, PINGREQ, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL,
                  READ, SUBACK, SUBSCRIBE, UNSUBACK, UNSUBSCRIBE, Connection, Scripted, connack, hang,
                  mqtt_id, mqtt_length, mqtt_packet, mqtt_publish, mqtt_text)
from lab import ROOT, Lab, Process

TOPIC = "iamcat/modbus/request"


def then_serve(*stages: bytes | Callable[[Connection], Any]) -> Callable[[Connection], None]:
    """A script: does these after the first packet of a good service, and goes on well."""

    def script(c: Connection) -> None:
        c.ready()
        for stage in stages:
            c.send(stage) if isinstance(stage, bytes) else stage(c)
        c.serve()

    return script


def swallow(c: Connection) -> None:
    """Answers nothing."""
    while c.receive():
        pass


def in_place_of(kind: int, raw: bytes) -> Callable[[Connection], None]:
    """A script: sends this instead of the answer to such a packet."""

    def script(c: Connection) -> None:
        c.expect(kind)
        c.send(raw)
        c.serve()

    return script


def ends_once(lab: Lab, script: Callable[[Connection], Any], words: str, requests: int = 0) -> Scripted:
    """The script's connection ends with one log line, the next one works; nothing was done but so many
    requests."""
    it = Scripted(lab, script, routes={"/api/state": hang})  # there is nothing to publish
    it.broker.connection(1)
    it.ask(1)
    told = [text for text in it.said() if text.startswith("broker ")]
    assert len(told) == 1 and words in told[0] and "trying again in" in told[0], told
    assert len([r for r in it.api.history if r.path == "/api/inverter/modbus"]) == requests + 1
    return it


def publish(topic: bytes, payload: bytes = READ) -> bytes:
    return mqtt_publish(topic, payload)


IN_SERVICE = {
    "a remaining length of five bytes": (b"\x30\x80\x80\x80\x80\x01", "five bytes"),
    "the same in a small packet": (b"\x40\x82\x80\x80\x80\x00", "five bytes"),
    "flags of PUBACK": (b"\x41\2\0\1", "reserved flags"),
    "flags of PINGRESP": (b"\xd8\0", "reserved flags"),
    "flags of PUBREL": (b"\x60\2\0\1", "reserved flags"),
    "QoS 3": (mqtt_publish(TOPIC, READ, qos=3), "QoS 3"),
    "DUP at QoS 0": (mqtt_publish(TOPIC, READ, dup=True), "DUP and QoS 0"),
    "packet id 0 of PUBLISH": (mqtt_publish(TOPIC, READ, qos=1, packet_id=0), "packet id 0"),
    "packet id 0 of PUBACK": (mqtt_packet(PUBACK, mqtt_id(0)), "packet id 0"),
    "packet id 0 of PUBREL": (mqtt_packet(PUBREL, mqtt_id(0), 2), "packet id 0"),
    "a topic beyond its packet": (mqtt_packet(PUBLISH, b"\0\x16" + TOPIC.encode()), "beyond its packet"),
    "no room for the packet id": (mqtt_packet(PUBLISH, mqtt_text(TOPIC) + b"\0", 2), "beyond its packet"),
    "an empty PUBLISH": (mqtt_packet(PUBLISH), "beyond its packet"),
    "an empty topic": (publish(b""), "empty topic"),
    "a topic that is cut UTF-8": (publish(b"iamcat/\xc3"), "not UTF-8"),
    "a topic that is no UTF-8": (publish(b"iamcat/\xff/modbus"), "not UTF-8"),
    "a topic in overlong UTF-8": (publish(b"iamcat\xc0\xaf"), "not UTF-8"),
    "a topic with a surrogate": (publish(b"\xed\xa0\x80"), "not UTF-8"),
    "a topic beyond U+10FFFF": (publish(b"\xf4\x90\x80\x80"), "not UTF-8"),
    "a topic with U+0000": (publish(b"iamcat\0"), "U+0000"),
    "a topic with a wildcard": (publish(b"iamcat/#"), "wildcard"),
    "a topic that can't be held": (publish(b"t" * 65535), "larger than can be held"),
    "a PUBACK that is too long": (mqtt_packet(PUBACK, b"\0\1\0"), "wrong length"),
    "a PINGRESP that is too long": (mqtt_packet(PINGRESP, b"\0"), "wrong length"),
    "a second CONNACK": (connack(), "does not belong here (error 2)"),
    "a second SUBACK": (mqtt_packet(SUBACK, b"\0\1\1"), "does not belong here (error 9)"),
    "a PUBACK for nothing": (mqtt_packet(PUBACK, mqtt_id(4711)), "does not belong here (error 4)"),
    "PUBREC": (mqtt_packet(PUBREC, mqtt_id(1)), "does not belong here (error 5)"),
    "PUBCOMP": (mqtt_packet(PUBCOMP, mqtt_id(1)), "does not belong here (error 7)"),
    "UNSUBACK": (mqtt_packet(UNSUBACK, mqtt_id(1)), "does not belong here (error 11)"),
    "type 0": (b"\0\0", "no server sends"),
    "type 15": (b"\xf0\0", "no server sends"),
    "CONNECT": (mqtt_packet(CONNECT, b"\0\4MQTT\4\2\0\0\0\0"), "no server sends"),
    "SUBSCRIBE": (mqtt_packet(SUBSCRIBE, b"\0\1\0\1t\0", 2), "no server sends"),
    "UNSUBSCRIBE": (mqtt_packet(UNSUBSCRIBE, b"\0\1\0\1t", 2), "no server sends"),
    "PINGREQ": (mqtt_packet(PINGREQ), "no server sends"),
    "DISCONNECT": (mqtt_packet(DISCONNECT), "no server sends"),
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "reserved flags"),
}


@pytest.mark.parametrize("what", IN_SERVICE)
def test_malformed_in_service(what: str, lab: Lab):
    raw, words = IN_SERVICE[what]
    ends_once(lab, then_serve(raw), words)


BEFORE_SERVICE = {
    "flags of CONNACK": (CONNECT, b"\x21\2\0\0", "reserved flags"),
    "flags in CONNACK": (CONNECT, b"\x20\2\2\0", "reserved flags"),
    "CONNACK 6": (CONNECT, connack(6), "reserved code"),
    "CONNACK 255": (CONNECT, connack(255), "reserved code"),
    "a session though refused": (CONNECT, connack(5, session_present=1), "refuses, with a session"),
    "a CONNACK that is too long": (CONNECT, mqtt_packet(CONNACK, b"\0\0\0"), "wrong length"),
    "PUBLISH for CONNACK": (CONNECT, mqtt_publish(TOPIC, READ, qos=1), "does not belong here (error 3)"),
    "SUBACK for CONNACK": (CONNECT, mqtt_packet(SUBACK, b"\0\1\1"), "does not belong here (error 9)"),
    "PINGRESP for CONNACK": (CONNECT, mqtt_packet(PINGRESP), "does not belong here (error 13)"),
    "PUBACK for CONNACK": (CONNECT, mqtt_packet(PUBACK, b"\0\1"), "does not belong here (error 4)"),
    "PUBREL for CONNACK": (CONNECT, mqtt_packet(PUBREL, b"\0\1", 2), "does not belong here (error 6)"),
    "a SUBACK for nothing": (SUBSCRIBE, mqtt_packet(SUBACK, b"\x12\x34\1"), "does not belong here (error 9)"),
    "SUBACK 3": (SUBSCRIBE, mqtt_packet(SUBACK, b"\0\1\3"), "reserved code"),
    "two codes in SUBACK": (SUBSCRIBE, mqtt_packet(SUBACK, b"\0\1\1\1"), "wrong length"),
    "packet id 0 of SUBACK": (SUBSCRIBE, mqtt_packet(SUBACK, b"\0\0\1"), "packet id 0"),
    "CONNACK for SUBACK": (SUBSCRIBE, connack(), "does not belong here (error 2)"),
    "UNSUBACK for SUBACK": (SUBSCRIBE, mqtt_packet(UNSUBACK, b"\0\1"), "does not belong here (error 11)"),
}


@pytest.mark.parametrize("what", BEFORE_SERVICE)
def test_malformed_before_service(what: str, lab: Lab):
    stage, raw, words = BEFORE_SERVICE[what]
    ends_once(lab, in_place_of(stage, raw), words)


def test_what_came_before_is_still_done(lab: Lab):
    """A request in front of the fault, in one TLS record with it; what follows is never looked at."""
    after = mqtt_publish(TOPIC, READ.replace(b"10056", b"2"), qos=1, packet_id=2)
    raw = mqtt_publish(TOPIC, READ.replace(b"10056", b"1"), qos=1) + b"\xf0\0" + after
    it = ends_once(lab, then_serve(raw), "no server sends", requests=1)
    assert "address=2&" not in "\n".join(it.api.log.lines)


def test_too_many_messages_at_qos_2(lab: Lab):
    """Nobody asked for QoS 2, and no broker has more than 32 of them in flight."""
    raw = b"".join(mqtt_publish(TOPIC, b"no JSON", qos=2, packet_id=i) for i in range(1, 40))

    ends_once(lab, then_serve(raw, swallow), "too many QoS 2 messages")


# ----------------------------------------------------------------------------------------------------- pieces


class Crumbs:
    """A socket that sends each byte in a TCP segment of its own."""

    def __init__(self, peer: socket.socket) -> None:
        self.peer = peer

    def sendall(self, data: bytes) -> None:
        for at in range(len(data)):
            self.peer.sendall(data[at:at + 1])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.peer, name)


def in_records_of_one_byte(c: Connection) -> None:
    send = c.send
    c.send = lambda data: send(data, step=1)
    c.serve()


def in_segments_of_one_byte(c: Connection) -> None:
    """The handshake, too."""
    c.peer = Crumbs(c.peer)
    c.serve()


@pytest.mark.parametrize("script", [in_records_of_one_byte, in_segments_of_one_byte])
def test_in_pieces(script: Callable[[Connection], None], lab: Lab):
    it = Scripted(lab, script, STATE_INTERVAL="1")
    it.broker.connection()
    assert it.ask()["response"]["value"] == 42
    it.broker.live[0].publish(TOPIC, b"x" * 10000)
    assert b'"too_large"' in it.answer(b"too_large").payload
    it.published("state")
    assert it.ask()["response"]["value"] == 42
    assert it.broker.connections == 1 and [text for text in it.said() if "too_large" not in text] == []


def test_many_packets_in_one_record(lab: Lab):
    requests = [READ.replace(b"10056", b"%d" % i) for i in range(50)]
    raw = b"".join(mqtt_publish(TOPIC, request, qos=1, packet_id=i) for i, request in enumerate(requests, 1))
    it = Scripted(lab, then_serve(raw))
    for request in requests:
        it.answer(request)
    assert [p.packet_id for p in it.broker.history if p.kind == PUBACK] == [*range(1, 51)]


# -------------------------------------------------------------------------------------------------- too large


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_publish_over_the_limits_is_skipped(qos: int, lab: Lab):
    """Around the limits of a request (8 KiB) and of a packet that is read whole, and far beyond."""
    it = Scripted(lab, STATE_INTERVAL="3600")
    connection = it.broker.connection()
    sizes = [8193, *range(8192 + 512 - 32, 8192 + 512 + 8, 4), 16384, 300_000]
    for size in sizes:
        number = connection.stream(TOPIC, size, qos)
        answer = it.answer(b"has %d bytes" % size).payload
        assert b'"request": null' in answer and b'"code": "too_large"' in answer
        if qos:
            it.broker.take(PUBACK if qos == 1 else PUBREC, lambda p: p.packet_id == number)
    assert it.ask()["response"]["value"] == 42
    # Logged as a warning once a minute.
    told = ["too_large: " in line for line in it.said() + it.said("debug")]
    assert (it.broker.connections, len(it.said()), told.count(True)) == (1, 1, len(sizes))


def test_too_large_and_not_for_us(lab: Lab):
    """Another topic, and a retained request: skipped, acknowledged, not answered."""
    it = Scripted(lab)
    connection = it.broker.connection()
    number = connection.stream("iamcat/other", 100_000)
    it.broker.take(PUBACK, lambda p: p.packet_id == number)
    connection.send(mqtt_publish(TOPIC, b"x" * 100_000, qos=1, packet_id=99, retain=True))
    it.broker.take(PUBACK, lambda p: p.packet_id == 99)
    it.ask()
    answers = [p for p in it.broker.history if p.kind == PUBLISH and p.topic.endswith("/response")]
    assert len(answers) == 1 and it.broker.connections == 1


@pytest.mark.parametrize("qos", [0, 1])
def test_64_mb_stream_by(qos: int, lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """Memory does not grow: of the binary without sanitizers, whose own memory would."""
    monkeypatch.setattr(laboratory, "IAMCAT", ROOT / "iamcat")
    it = Scripted(lab, STATE_INTERVAL="3600")
    connection = it.broker.connection()
    for size in 100_000, 64 << 20:  # the first one is for what any request takes
        before = it.cat.memory_kb()
        number = connection.stream(TOPIC, size, qos)
        it.answer(b"has %d bytes" % size)
        if qos:
            it.broker.take(PUBACK, lambda p: p.packet_id == number)
    assert it.ask()["response"]["value"] == 42
    assert it.cat.memory_kb() - before <= 64
    told = ["too_large: " in line for line in it.said() + it.said("debug")]
    assert (it.broker.connections, len(it.said()), told.count(True)) == (1, 1, 2)


def test_a_slow_stream_is_no_dead_broker(lab: Lab):
    """A broker can neither answer a ping nor acknowledge a message in the middle of a PUBLISH, but wants a
    packet at least once a keep-alive (MQTT-3.1.2-23). It takes 13 s, more than the ping and the 10 s that its
    answer may take."""
    sent = threading.Event()

    def busy(c: Connection) -> None:
        c.ready()
        wait = []
        while not sent.is_set() and (packet := c.receive()):
            wait.append(packet)
        for packet in wait:
            c.reply(packet)
        c.serve()

    it = Scripted(lab, busy, MQTT_KEEPALIVE="5", routes={"/api/state": hang})
    connection = it.broker.connection()
    size, began = 65 * 16000, time.monotonic()
    head = mqtt_text(TOPIC) + mqtt_id(1)
    connection.send(b"\x32" + mqtt_length(len(head) + size) + head)
    for _ in range(65):
        connection.send(b"x" * 16000)
        assert it.cat.log.find("broker .*trying again") == []
        time.sleep(0.2)
    assert time.monotonic() - began > 12.5
    sent.set()
    came = [p.at for p in it.broker.history] + [time.monotonic()]
    assert max(later - sooner for sooner, later in zip(came, came[1:])) < 5, came
    it.answer(b"has %d bytes" % size)
    assert it.ask()["response"]["value"] == 42
    assert it.broker.connections == 1


# ------------------------------------------------------------------------------------------------ TLS and TCP


def cipher(c: Connection, data: bytes) -> bytes:
    """A TLS record with the data, not sent."""
    with c.tls_lock:
        c.tls.write(data)
        return c.outward.read()


def cut_record(c: Connection) -> None:
    record = cipher(c, mqtt_publish(TOPIC, READ, qos=1))
    c.peer.sendall(record[:-1])
    c.end(notify=False)


def cut_packet(c: Connection) -> None:
    c.send(mqtt_publish(TOPIC, READ, qos=1)[:-1])
    c.end()


def cut_stream(c: Connection) -> None:
    c.send(mqtt_publish("iamcat/other", b"x" * 100_000)[:50_000])
    c.end()


def changed_record(c: Connection) -> None:
    record = bytearray(cipher(c, mqtt_publish(TOPIC, READ, qos=1)))
    record[len(record) // 2] ^= 1
    c.peer.sendall(bytes(record))


def bare(raw: bytes) -> Callable[[Connection], None]:
    return lambda c: c.peer.sendall(raw)


def without_tls(raw: bytes) -> Callable[[Connection], None]:
    def script(c: Connection) -> None:
        c.peer.recv(1000)
        c.peer.sendall(raw)
        c.stall()

    return script


TRANSPORT = {
    "a cut record": (then_serve(cut_record), "the server closed the connection"),
    "a cut packet": (then_serve(cut_packet), "the server ended the connection"),
    "a cut stream": (then_serve(cut_stream), "the server ended the connection"),
    "a changed record": (then_serve(changed_record), "changed on its way"),
    "an alert in the clear": (then_serve(bare(b"\x15\3\3\0\2\2\x28")), "breaks the rules of TLS"),
    "a record too long": (then_serve(bare(b"\x17\3\3\xff\xff")), "breaks the rules of TLS"),
    "a record too short": (then_serve(bare(b"\x17\3\3\0\1")), "breaks the rules of TLS"),
    "a record of zeros": (then_serve(bare(b"\0" * 5)), "speaks no TLS 1.2"),
    "an end before TLS": (lambda c: c.peer.shutdown(socket.SHUT_RDWR), "the server closed the connection"),
    "MQTT without TLS": (without_tls(connack() + b"\0"), "speaks no TLS 1.2"),
    "HTTP without TLS": (without_tls(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "speaks no TLS 1.2"),
}


@pytest.mark.parametrize("what", TRANSPORT)
def test_broken_transport(what: str, lab: Lab):
    script, words = TRANSPORT[what]
    ends_once(lab, script, words)


def sockets(cat: Process) -> list[socket.socket]:
    """Its sockets, duplicated into this process."""
    libc, links = ctypes.CDLL(None, use_errno=True), [*os.scandir(f"/proc/{cat.pid}/fd")]
    numbers = [int(link.name) for link in links if os.readlink(link).startswith("socket:")]  # the status socket, too
    pid = os.pidfd_open(cat.pid)
    copies = [libc.syscall(438, pid, number, 0) for number in numbers]  # pidfd_getfd, on all architectures
    os.close(pid)
    assert min(copies) >= 0, os.strerror(ctypes.get_errno())
    return [socket.socket(fileno=copy) for copy in copies]


def test_the_brokers_connection_does_not_wait_for_nagle(lab: Lab):
    """TCP_NODELAY; a call of the API is sent at once and as a whole."""
    it = Scripted(lab)
    it.broker.connection()
    it.cat.wait_log("in service")
    found = [one for one in sockets(it.cat)
             if one.family != socket.AF_UNIX and one.getpeername()[1] == it.broker.port]
    options = [one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in found]
    for one in found:
        one.close()
    assert options == [1]
