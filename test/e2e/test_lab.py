"""The laboratory itself: what its parts promise to the other tests."""

import contextlib
import os
import pathlib
import select
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.request

import paho.mqtt.client as paho
import pytest

import fake
from fake import FakeApi, FakeBroker, FakeDns
from lab import DEVICE, IAMCAT, ROOT, Lab, LabError, Operator, Process


@pytest.fixture
def session(lab: Lab):
    """A broker with an operator, and the gateway that signs."""
    gateway = lab.gateway()
    broker = lab.broker(gateway)
    return gateway, broker, lab.operator(broker, gateway)


def login(lab: Lab, broker: Process, user: str, token: str) -> None:
    operator = Operator(lab.ca.cert, user, token)
    try:
        operator.connect(broker.port)
    finally:
        operator.close()


def test_broker_verifies_tokens(lab: Lab):
    gateway = lab.gateway()
    stranger = lab.gateway("--key-seed", "7")
    broker = lab.broker(gateway)
    good, now = gateway.token("operator"), int(time.time())
    login(lab, broker, "operator", good)
    for case, token in {
            "expired": gateway.token("operator", exp=now - 60),
            "of someone else": gateway.token("other"),
            "by another gateway": stranger.token("operator"),
            "changed": good[:-6] + ("AAAAAA" if good[-6:] != "AAAAAA" else "BBBBBB"),
            "no token": "secret"}.items():
        with pytest.raises(LabError, match="CONNACK"):
            login(lab, broker, "operator", token)
            pytest.fail(f"accepted a token that is {case}")


def test_gateway_reads_back_what_was_written(lab: Lab):
    gateway = lab.gateway("--accept-ms", "0", device=lab.device())
    call = f"/api/inverter/modbus?device_id={DEVICE}&address=33207&function_code="
    assert gateway.call("GET", call + "16&values=170&type=U16") == (
        200, {"address": 33207, "success": True, "values": [170]})
    assert gateway.call("GET", call + "3&size=1&type=U16")[1]["value"] == 170
    assert [c["status"] for c in gateway.calls("modbus")] == [200, 200]


def test_operator_tells_answers_apart(lab: Lab, session):
    gateway, broker, operator = session
    first, second = operator.send({"address": 1}), operator.send({"address": 2})
    for request in (second, first):
        operator.publish("iamcat/modbus/response", b'{"request": %s, "response": {}}' % request)
    assert operator.answer(first).json["request"] == {"address": 1}
    assert operator.answer(second).json["request"] == {"address": 2}
    with pytest.raises(LabError, match="no answer to"):
        operator.answer(first, timeout=0.05)


def test_operator_notices_an_unwanted_answer(session):
    _, _, operator = session

    def bridge(spoken: list[bytes]) -> None:
        for answer in spoken:
            operator.publish("iamcat/modbus/response", answer)

    end = b'{"request": null, "response": {"code": "invalid_json"}}'
    operator.unanswered({"address": 1}, until=lambda: bridge([end]))
    with pytest.raises(LabError, match="an answer to"):
        operator.unanswered({"address": 1}, until=lambda: bridge([b'{"request": {"address": 1}}', end]))


def test_broker_keeps_its_port_and_session_over_a_restart(lab: Lab):
    gateway = lab.gateway()
    broker = lab.broker(gateway, data=(data := lab.work_dir("data")))
    operator = lab.operator(broker, gateway)
    operator.publish("iamcat/state", b"{}", retain=True)
    assert operator.state() == {}
    broker.stop()
    lab.broker(gateway, port=broker.port, data=data)
    assert operator.states.take().retain  # kept, and the operator has come back


def test_nothing_survives_its_starter(lab: Lab):
    """Killed without a chance to clean up."""
    starter = lab.start(Process, "starter", ["/usr/bin/python3", "-Bc", (
        "import sys; sys.path.insert(0, sys.argv[1]); from lab import *\n"
        "lab = Lab(); gateway = lab.gateway()\n"
        "print(json.dumps({'pids': [gateway.pid, lab.broker(gateway).pid]}), flush=True); signal.pause()"),
        str(pathlib.Path(__file__).parent)], lab.dir, dict(os.environ, TMPDIR=str(lab.dir)))
    pids = [os.pidfd_open(pid) for pid in starter.start_line()["pids"]]
    starter.kill()
    for pid in pids:
        assert select.select([pid], [], [], 20)[0], "a process survived"
        os.close(pid)


def test_an_unasked_end_is_an_error():
    with pytest.raises(LabError, match="ended by itself, status 3"), Lab() as lab:
        lab.start(Process, "brief", ["sh", "-c", "echo gone >&2; exit 3"], lab.dir).log.wait("gone")
        while lab.parts[0].running:
            time.sleep(0.01)


# ------------------------------------------------------------------------------------------- scripted peers


def connect(lab: Lab, broker: FakeBroker, **options) -> tuple[paho.Client, fake.Inbox]:
    """A client that is right, to test the scripted broker with."""
    client, inbox = paho.Client("client", **options), fake.Inbox("client")
    client.tls_set_context(ssl.create_default_context(cadata=lab.ca.cert))
    client.on_connect = lambda c, _data, _flags, code: inbox.put(("connack", code)) or c.subscribe("t/#", 2)
    client.on_message = lambda _client, _data, m: inbox.put(("message", m))
    client.on_disconnect = lambda _client, _data, code: inbox.put(("end", code))
    client.connect("localhost", broker.port)
    client.loop_start()
    lab.callback(lambda: (client.disconnect(), client.loop_stop()))
    return client, inbox


def messages(inbox: fake.Inbox, n: int) -> list[tuple[str, bytes]]:
    got = [inbox.take(lambda i: i[0] == "message")[1] for _ in range(n)]
    return [(m.topic, m.payload) for m in got]


def test_scripted_broker_serves_well_by_itself(lab: Lab):
    broker = lab.add(FakeBroker(lab.certificate))
    client, inbox = connect(lab, broker)
    connection = broker.connection()
    assert broker.history[0].client_id == "client"
    client.publish("up", b"1", qos=1).wait_for_publish(20)
    client.publish("up", b"2", qos=2).wait_for_publish(20)
    assert [broker.take(fake.PUBLISH).payload for _ in range(2)] == [b"1", b"2"]
    number = connection.publish("t/a", b"one", qos=1)
    connection.publish("t/b", b"two", qos=2)
    connection.publish("t/c", b"three", qos=0, retain=True)
    # paho shows the QoS 2 message after PUBREL, which may come before the third or behind it.
    assert sorted(messages(inbox, 3)) == [("t/a", b"one"), ("t/b", b"two"), ("t/c", b"three")]
    assert broker.take(fake.PUBACK).packet_id == number
    assert broker.take(fake.PUBCOMP).packet_id == number + 1


def test_scripted_broker_misbehaves_as_told(lab: Lab):
    def refuse(c):
        c.expect(fake.CONNECT)
        c.send(fake.connack(5))

    def early(c):
        c.reply(c.expect(fake.CONNECT))
        subscribe = c.expect(fake.SUBSCRIBE)
        c.send(fake.mqtt_publish("t/early", b"before SUBACK", qos=1, packet_id=9), step=1)
        c.send(fake.mqtt_publish("t/slow", b"in small segments"), tcp_step=1)
        c.reply(subscribe)
        c.end()

    def big(c):
        c.ready()
        c.stream("t/big", 3_000_000)
        c.expect(fake.PUBACK)
        c.reset()

    broker = lab.add(FakeBroker(lab.certificate, refuse, early, big))
    client, inbox = connect(lab, broker)
    client.reconnect_delay_set(0.01, 0.01)
    assert inbox.take() == ("connack", 5)
    assert inbox.take(lambda i: i[0] == "connack") == ("connack", 0)
    assert messages(inbox, 3) == [("t/early", b"before SUBACK"), ("t/slow", b"in small segments"),
                                  ("t/big", b"x" * 3_000_000)]
    broker.connection(3)  # and a good one again


HELLO = fake.mqtt_packet(fake.CONNECT, b"\0\4MQTT\4\2\0\0\0\0")


@pytest.mark.parametrize("raw, why", [
    (fake.mqtt_packet(fake.PINGREQ), "the first packet"),
    (b"\x10\xff\xff\xff\xff", "five bytes"),
    (fake.mqtt_packet(fake.CONNECT, b"\0\4MQTT\5\2\0\0\0\0"), "another protocol"),
    (fake.mqtt_packet(fake.CONNECT, b"\0\4MQTT\4\2\0\0\0\0!"), "1 bytes too many"),
    (fake.mqtt_packet(fake.CONNECT, b"\0\4MQTT\4\3\0\0\0\0"), "reserved flag"),
    (fake.mqtt_packet(fake.CONNECT, b"\0\4MQTT\4\2\0\0\0\1"), "a field of 1 bytes"),
    (b"\x11\0", "CONNECT with flags 1"),
    (HELLO + fake.mqtt_publish("t", b"", 1, 0), "packet id 0"),
    (HELLO + fake.mqtt_publish("t", b"", 3, 1), "PUBLISH to"),
    (HELLO * 2, "another packet"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_scripted_broker_is_strict(raw: bytes, why: str, lab: Lab):
    broker = FakeBroker(lab.certificate)
    context = ssl.create_default_context(cadata=lab.ca.cert)
    with socket.create_connection(("127.0.0.1", broker.port), 20) as peer, \
            context.wrap_socket(peer, server_hostname="localhost") as tls:
        tls.sendall(raw)
        while tls.recv(100):
            pass
    with pytest.raises(LabError, match=why):
        broker.close()


def test_scripted_api(lab: Lab):
    release = threading.Event()

    def pieces(request):
        yield b"HTTP/1.0 200 OK\r\n\r\nfirst "
        release.wait(20)
        yield request.query["a"].encode()

    api = lab.add(FakeApi({"/pieces": pieces, "/reset": lambda r: [fake.RESET]}))
    with urllib.request.urlopen(f"http://localhost:{api.port}/pieces?a=%20last", timeout=20) as reply:
        assert reply.read(6) == b"first "
        release.set()
        assert reply.read() == b" last"
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://localhost:{api.port}/reset")
    assert api.take("/reset").connection == 1
    asked = b'{"barn": {"sub": "x", "exp": 5}, "headers": {"alg": "ES256"}}'
    with urllib.request.urlopen(f"http://localhost:{api.port}/api/jwt/create", asked, 20) as reply:
        assert fake.token_claims(fake.json.load(reply)["jwt"]) == {"sub": "x", "exp": 5}
    api.deaf()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://localhost:{api.port}/api/state")
    api.listen()
    api.keep_alive = True
    with socket.create_connection(("127.0.0.1", api.port), 20) as peer:
        for _ in range(2):
            peer.sendall(b"GET /api/state HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.recv(10000).startswith(b"HTTP/1.0 200 OK\r\n")


def test_scripted_dns(lab: Lab):
    def answer(query):
        if not query.tcp:
            return fake.dns_reply(query, truncated=True)
        return fake.dns_reply(query, ("www.test", fake.CNAME, "a.test"), ("a.test", fake.A, "127.0.0.9"))

    dns = lab.add(FakeDns(answer, port=0))
    question = bytes.fromhex("1234 0100 0001 0000 0000 0000") + fake.dns_name("www.test") + b"\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(20)
        udp.sendto(question, (dns.address, dns.port))
        assert udp.recv(512)[:4] == b"\x12\x34\x83\x80"
    with socket.create_connection((dns.address, dns.port), 20) as tcp:
        tcp.sendall(struct.pack(">H", len(question)) + question)
        assert socket.inet_aton("127.0.0.9") in tcp.recv(1000)
    assert [(q.name, q.kind, q.tcp) for q in dns.history] == [("www.test", 1, False), ("www.test", 1, True)]


# --------------------------------------------------------------------------------------------------- the demo


def left_behind(directory: pathlib.Path) -> list[str]:
    """Files in there, and processes that work there."""
    left = [str(path) for path in directory.iterdir()]
    for process in pathlib.Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if os.readlink(process).startswith(str(directory)):
                left.append(str(process))
    return left


def demo(lab: Lab, iamcat: str | pathlib.Path, **env: str) -> Process:
    """The demo, with its files in the directory demo.tmp."""
    tmp = lab.work_dir("tmp")
    process = lab.start(Process, "demo", ["/usr/bin/python3", ROOT / "test" / "demo.py"], lab.dir, {
        **os.environ, "TMPDIR": str(tmp), "IAMCAT": str(iamcat), "KEEP": "", **env})
    process.tmp = tmp
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["iamcat bridges", "ok  certificate", "ok  broker", "ok  operator"])
def test_demo_leaves_nothing_when_stopped(number: int, moment: str, lab: Lab):
    idle = lab.dir / "idle"
    idle.write_text("#!/bin/sh\nexec sleep 1000\n")
    idle.chmod(0o755)
    process = demo(lab, idle)
    process.out.wait(moment)
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)  # impatient
    assert process.wait() in ([-9] if number == signal.SIGKILL else [128 + number, 128 + signal.SIGTERM])
    if number != signal.SIGKILL:  # which leaves files, but no process
        assert not left_behind(process.tmp)
    deadline = time.monotonic() + 20
    while [left for left in left_behind(process.tmp) if "/proc/" in left]:
        assert time.monotonic() < deadline, left_behind(process.tmp)
        time.sleep(0.01)


def test_demo_says_what_went_wrong(lab: Lab):
    process = demo(lab, "/bin/false")
    assert process.wait(60) == 1
    text = "\n".join(process.out.lines)
    assert "FAILED" in text and "iamcat ended" in text and not left_behind(process.tmp), text


def test_demo_goes_on_until_ctrl_c(lab: Lab):
    process = demo(lab, IAMCAT, KEEP="1")
    process.out.wait("All was right", 60)
    process.out.wait("iamcat's log")
    commands = "\n".join(process.out.lines).split("\n\n")
    commands = [c.removesuffix(" --watch") for c in commands if c.startswith(("mosquitto_", str(IAMCAT)))]
    assert len(commands) == 5
    for command in commands:
        one = " -C 1 -W 20" if "_sub" in command else ""
        subprocess.run(command + one, shell=True, check=True, timeout=30)
    assert process.stop(signal.SIGINT) == 0
    assert not process.log.lines and not left_behind(process.tmp)
    shown = process.out.lines[:process.out.lines.index("iamcat's log")]
    assert not [line for line in shown if len(line) > 80 and str(process.tmp) not in line]
