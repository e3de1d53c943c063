"""iamcat check: each step failing in turn, its exit status, and that nobody notices it."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
import time
from typing import Any, Callable

import pytest

import pki
from apart import apart
from fake import (CONNECT, DISCONNECT, PUBACK, PUBLISH, READ, SUBACK, SUBSCRIBE, Connection, FakeApi, FakeBroker, FakeDns,
                  Packet, black_hole, connack, hang, http_reply, mqtt_id, mqtt_packet, token_claims, unsigned_token)
from lab import DEVICE, IAMCAT, SERIAL, TIMEOUT, Certificate, Lab, certify, free_port

STEPS = ["configuration", "gateway API", "token", "name look-up", "TCP", "TLS", "CONNECT", "SUBSCRIBE", "state"]
# "ok     0 ms TCP: text", and what stands below such a line.
STEP = re.compile(r"(ok  |FAIL|note) +(?:(\d+) ms ([A-Za-z -]+): )?(\S.*)")


class Checked:
    """A run of iamcat check to its end: status, text, and the steps with their marks."""

    def __init__(self, lab: Lab, env: dict[str, str], *args: str, **options: Any) -> None:
        self.cat = lab.iamcat(env, *args, "check", **options)

    def end(self) -> "Checked":
        self.status = self.cat.wait()
        self.lines = self.cat.out.lines
        self.text = "\n".join(self.lines)
        found = [m for m in map(STEP.fullmatch, self.lines) if m and m[3]]
        self.steps = [(m[1].strip(), m[3]) for m in found]
        assert self.cat.log.lines == [], "standard error is for nothing here"
        return self

    def failed(self, step: int, found: str) -> None:
        """At that step and not before, for the reason that is a part of found; and what to try is said."""
        assert self.status == 2 + step, self.text
        assert self.steps[-1] == ("FAIL", STEPS[step]) and [s for s in self.steps if s[0] == "ok"][:step] == good(step)
        at = next(i for i, line in enumerate(self.lines) if line.startswith("FAIL"))
        heads = [line[:13].split() for line in self.lines[at + 1:]]
        assert ["found"] in heads and heads[-1] == ["try"], "what was found, and what to try"
        assert ": expected " in self.lines[at]
        assert found in "\n".join(self.lines[at:]), self.text
        assert "trying again in" not in self.text


def good(until: int) -> list[tuple[str, str]]:
    return [("ok", name) for name in STEPS[:until]]


def peers(lab: Lab, *scripts: Callable[[Connection], Any], routes: dict[str, Any] | None = None, **env: str):
    broker, api = lab.add(FakeBroker(lab.certificate, *scripts)), lab.add(FakeApi(routes))
    return broker, api, lab.env(broker, api, **env)


def secrets(broker: FakeBroker) -> list[str]:
    return [p.password.decode() for p in broker.history if p.kind == CONNECT]


def test_all_is_well(lab: Lab):
    broker, api, env = peers(lab)
    run = Checked(lab, env).end()
    assert (run.status, run.steps, run.lines[-1]) == (0, good(9), "all is well"), run.text
    connect = broker.take(CONNECT)
    assert (connect.client_id, connect.clean, connect.will, connect.user) == (SERIAL + "-check", True, None, SERIAL)
    assert [p.kind for p in broker.history] == [CONNECT, SUBSCRIBE, DISCONNECT]
    assert [r.path for r in api.history] == ["/api/crypto", "/api/jwt/create", "/api/state"]
    claims = token_claims(connect.password)
    for date in claims["iat"], claims["exp"]:
        assert time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(date)) in run.text
    for part in ("localhost is 127.0.0.1, ::1", f"connected to 127.0.0.1 port {broker.port}", "version 1.2, ECDHE-ECDSA-",
                 "for 'localhost'", "issued by 'iamcat lab CA'", "root 'iamcat lab CA' of MQTT_ROOT_CA_FILE",
                 "days left for all of them: ", f"client id {SERIAL}-check", "iamcat/modbus/request", SERIAL):
        assert part in run.text, part
    assert connect.password.decode() not in run.text
    # Its two days have just begun, or some of them have passed.
    assert re.search("all of them: [12]$", run.text, re.MULTILINE)


def test_with_a_password_and_a_client_id(lab: Lab):
    broker, api, env = peers(lab, MQTT_USERNAME="someone", MQTT_PASSWORD="open sesame", MQTT_CLIENT_ID="me")
    run = Checked(lab, env).end()
    assert (run.status, run.steps) == (0, good(9)), run.text
    connect = broker.take(CONNECT)
    assert (connect.client_id, connect.user, connect.password) == ("me-check", "someone", b"open sesame")
    assert "sesame" not in run.text and "/api/jwt/create" not in [r.path for r in api.history]


def test_the_chain_is_shown_as_it_was_verified(lab: Lab):
    """The broker sends its certificates out of order, and one that does not belong there; roots as text."""
    between = pki.ca(lab.ca, "between CA")
    own = pki.leaf(between, name="a broker")
    stray = pki.ca(None, "stray CA")
    broker = lab.add(FakeBroker(Certificate(cert=own.cert + stray.cert + between.cert, key=own.key)))
    env = lab.env(broker, lab.add(FakeApi()), MQTT_ROOT_CA=stray.cert + lab.ca.cert, MQTT_ROOT_CA_FILE="")
    run = Checked(lab, env).end()
    assert run.status == 0, run.text
    at = next(i for i, line in enumerate(run.lines) if " ms TLS: " in line)
    issued = [re.search(r"issued by '(.*?)'", line) for line in run.lines[at + 1:at + 4]]
    assert [m and m[1] for m in issued] == ["between CA", "iamcat lab CA", None], run.text
    assert "for 'between CA'" in run.lines[at + 2]
    assert "root 'iamcat lab CA' of MQTT_ROOT_CA, valid to" in run.lines[at + 3]
    assert "stray" not in run.text


def test_the_days_are_those_of_the_first_to_expire(lab: Lab):
    root = certify("a CA", ["basicConstraints = critical,CA:true", "keyUsage = critical,keyCertSign"], days=40)
    broker = lab.add(FakeBroker(pki.leaf(root)))
    env = lab.env(broker, lab.add(FakeApi()), MQTT_ROOT_CA=root.cert, MQTT_ROOT_CA_FILE="")
    run = Checked(lab, env).end()
    until = re.search("root 'a CA' of MQTT_ROOT_CA, valid to (.*?); days left for all of them: (.*)", run.text)
    assert until[1] >= time.strftime("%Y-%m-%d", time.gmtime(time.time() + 39 * 86400)) and int(until[2]) < 39, run.text


def test_a_certificate_that_is_trusted_itself(lab: Lab):
    own = pki.leaf(None)
    broker = lab.add(FakeBroker(own))
    env = lab.env(broker, lab.add(FakeApi()), MQTT_ROOT_CA=own.cert, MQTT_ROOT_CA_FILE="")
    run = Checked(lab, env).end()
    assert run.status == 0 and "root 'a broker' of MQTT_ROOT_CA, valid to" in run.text, run.text


def expired(request: Any) -> bytes:
    """A gateway that has dates of its own."""
    asked = json.loads(request.body)
    asked["barn"] |= {"iat": 1700000000, "exp": 1700000300}
    request.body = json.dumps(asked).encode()
    return unsigned_token(request)


def refusing(code: int) -> Callable[[Connection], Any]:
    return lambda c: (c.expect(CONNECT), c.send(connack(code)))


def no_subscription(c: Connection) -> None:
    c.reply(c.expect(CONNECT))
    c.send(mqtt_packet(SUBACK, mqtt_id(c.expect(SUBSCRIBE).packet_id) + b"\x80"))


def lost(c: Connection) -> None:
    c.ready()
    c.end()


FAULTS = {
    "a variable": (0, {"MQTT_KEEPALIVE": "x"}, {}, [], "MQTT_KEEPALIVE (environment) is \"x\": expected a whole number"),
    "two variables": (0, {"MQTT_WILL": "x", "MQTT_KEEPALIVE": "x"}, {}, [], "MQTT_WILL (environment) is \"x\""),
    "no API": (1, {"WEB_CONTAINER_PORT": "1"}, {}, [], "the connection was refused"),
    "no such page": (1, {}, {"/api/crypto": http_reply({}, "404 Not Found")}, [], "error status (error 404)"),
    "no serial number": (1, {}, {"/api/crypto": http_reply({})}, [], "the reply lacks the expected text"),
    "a slow API": (1, {"WEB_CONTAINER_TIMEOUT": "1"}, {"/api/crypto": hang}, [], "it did not answer in time"),
    "no token": (2, {}, {"/api/jwt/create": http_reply({"error": "x"}, "500 Oops")}, [], "error status (error 500)"),
    "an expired token": (2, {}, {"/api/jwt/create": expired}, [], "valid from 2023-11-14T22:13:20 to 2023-11-14T22:18:20"),
    "no such host": (3, {"MQTT_BROKER_HOST": "nowhere.invalid"}, {}, [], "broker nowhere.invalid"),
    "no broker": (4, {"MQTT_BROKER_PORT": "1"}, {}, [], "broker localhost:1: the connection was refused"),
    "another name": (5, {"MQTT_TLS_SERVER_NAME": "a.example"}, {}, [], "expected 'a.example'"),
    "the embedded roots": (5, {"MQTT_ROOT_CA_FILE": ""}, {}, [], "from no trusted root"),
    "no TLS": (5, {}, {}, [lambda c: c.peer.sendall(b"SSH-2.0-OpenSSH\r\n")] * 3, "no TLS at all on this port"),
    "not authorised": (6, {}, {}, [refusing(5)] * 3, "does not authorise this client"),
    "a wrong password": (6, {"MQTT_USERNAME": "me", "MQTT_PASSWORD": "hunter2"}, {}, [refusing(5)] * 3, "clock, or MQTT_PASSWORD; "),
    "a bad client id": (6, {}, {}, [refusing(2)], "refuses the client id"),
    "CONNECT lost": (6, {}, {}, [lambda c: (c.expect(CONNECT), c.end())], "the server ended the connection"),
    "no subscription": (7, {}, {}, [no_subscription], "the broker refuses the subscription"),
    "no state": (8, {}, {"/api/state": http_reply({}, "503 Busy")}, [], "error status (status 503)"),
    "no JSON": (8, {}, {"/api/state": http_reply(b"{]")}, [], "gateway API, state: "),
    "a lost connection": (8, {}, {"/api/state": hang}, [lost], "the server ended the connection"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_step_fails(name: str, lab: Lab):
    step, env, routes, scripts, found = FAULTS[name]
    broker, api, settings = peers(lab, *scripts, routes=routes)
    run = Checked(lab, {**settings, **env}, **({"etc": {"hosts": ""}} if step == 3 else {})).end()
    run.failed(step, found)
    assert not [s for s in secrets(broker) if s in run.text]
    assert PUBLISH not in [p.kind for p in broker.history]


@apart
def test_who_says_nothing_is_not_waited_for_without_end(lab: Lab):
    """In each step in turn; all at once, as each takes its time."""

    def stall_at(kind: int) -> Callable[[Connection], Any]:
        return lambda c: (c.expect(kind), c.stall())

    dns = lab.add(FakeDns(lambda query: None))
    silent: list[tuple[int, dict[str, str], dict[str, Any], list[Callable], str]] = [
        (1, {"WEB_CONTAINER_TIMEOUT": "1"}, {"/api/crypto": hang}, [], "it did not answer in time"),
        (2, {"WEB_CONTAINER_TIMEOUT": "1"}, {"/api/jwt/create": hang}, [], "it did not answer in time"),
        (3, {"MQTT_BROKER_HOST": "broker.test"}, {}, [], "no name server answered"),
        (4, {"MQTT_BROKER_HOST": "127.0.0.1", "MQTT_BROKER_PORT": str(black_hole(lab, "127.0.0.1"))}, {}, [],
         "the other side does not answer"),
        (5, {}, {}, [Connection.stall], "the TLS handshake took too long"),
        (6, {}, {}, [stall_at(CONNECT)], "the broker did not answer CONNECT"),
        (7, {}, {}, [stall_at(SUBSCRIBE)], "the broker did not answer SUBSCRIBE"),
        (8, {"WEB_CONTAINER_TIMEOUT": "1"}, {"/api/state": hang}, [], "it did not answer in time"),
    ]
    runs = []
    for step, env, routes, scripts, found in silent:
        broker, api, settings = peers(lab, *scripts, routes=routes)
        etc = {"hosts": "", "resolv.conf": f"nameserver {dns.address}\n"}
        runs.append(Checked(lab, {**settings, **env}, etc=etc))
    for run, (step, env, routes, scripts, found) in zip(runs, silent):
        run.end().failed(step, found)
    assert "name look-up: 127.0.0.1 is an address\n" in runs[3].text


def test_the_other_form_of_dates_is_tried(lab: Lab):
    broker, api, env = peers(lab, refusing(4))
    run = Checked(lab, env).end()
    assert run.status == 0 and "trying again" in run.text, run.text
    assert run.steps == good(6) + good(9)[2:]
    dates = [token_claims(p.password)["exp"] for p in broker.history if p.kind == CONNECT]
    assert [type(date) for date in dates] == [int, str]
    assert dates[1][:19] in run.text, "these are read, too"


def test_both_forms_of_dates_are_refused(lab: Lab):
    broker, api, env = peers(lab, *[refusing(4)] * 3)
    run = Checked(lab, env).end()
    assert run.status == 8 and len(secrets(broker)) == 2, run.text


def test_a_broker_that_hangs_up_on_the_first_suites(lab: Lab):
    """As some do that lack ChaCha20: the others are offered, as a running iamcat would."""
    broker, api, env = peers(lab, lambda c: c.peer.recv(1))
    run = Checked(lab, env).end()
    assert (run.status, run.steps) == (0, good(5) + good(9)[2:]), run.text


def test_requests_are_not_executed(lab: Lab):
    """The topic is that of the running iamcat, whose work the requests are."""
    asked: list[Packet] = []

    def state(_request: Any):
        connection = broker.connection()
        connection.publish("iamcat/modbus/request", READ, packet_id=7)
        asked.append(broker.take(PUBACK, lambda p: p.packet_id == 7))
        return http_reply({"mode": "late"})

    broker, api, env = peers(lab, routes={"/api/state": state})
    run = Checked(lab, env).end()
    assert run.status == 0 and len(asked) == 1, run.text
    assert "/api/inverter/modbus" not in [r.path for r in api.history]
    assert PUBLISH not in [p.kind for p in broker.history]


def test_a_running_iamcat_is_not_disturbed(lab: Lab):
    told = {"STATUS_SOCKET": str(lab.dir / "status"), "METRICS_LISTEN": f"127.0.0.1:{free_port()}"}
    bridge = lab.bridge("--state-delay-ms", "300", **told)
    request = {"function_code": 3, "device_id": DEVICE, "address": 10056}
    bridge.cat.wait_log("in service")
    mark = bridge.cat.log.mark()
    cat = lab.iamcat(lab.env(bridge.broker, bridge.gateway, **told), "check")
    cat.out.wait("SUBSCRIBE: ")
    assert bridge.operator.request(request)["response"]["value"] == 42.0
    assert cat.wait() == 0, "\n".join(cat.out.lines)
    assert bridge.operator.request(request)["response"]["value"] == 42.0
    assert not bridge.cat.log.find(" warn | in service", since=mark)
    assert len(bridge.gateway.calls("modbus")) == 2
    # What it has is not in anybody's way; and it has it still.
    assert not [line for line in cat.out.lines if re.search("STATUS_SOCKET|METRICS_LISTEN", line)]
    health = lab.iamcat(lab.env(bridge.broker, bridge.gateway, **told), "health")
    assert health.wait() == 0 and health.out.lines == ["healthy: in service"]
    with socket.create_connection(("127.0.0.1", int(told["METRICS_LISTEN"].split(":")[1])), TIMEOUT) as asking:
        asking.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert asking.recv(99).startswith(b"HTTP/1.1 200 ")


def test_what_nobody_could_ask(lab: Lab):
    """STATUS_SOCKET and METRICS_LISTEN: the service would go on without, but this is said."""
    there = lab.dir / "precious"
    there.write_text("precious")
    with socket.create_server(("127.0.0.1", 0)) as other:
        broker, api, env = peers(lab, STATUS_SOCKET=str(there), METRICS_LISTEN=f"127.0.0.1:{other.getsockname()[1]}")
        run = Checked(lab, env).end()
    then = "; started here and now, iamcat would go on without it"
    notes = [line for line in run.lines if re.search("STATUS_SOCKET|METRICS_LISTEN", line)]
    assert [line.split(maxsplit=1) for line in notes] == [
        ["note", f"STATUS_SOCKET: what is there is no socket: choose another path, or take it away{then}"],
        ["note", f"METRICS_LISTEN: it is in use already (by another iamcat?){then}"]]
    assert (run.status, run.steps, there.read_text()) == (0, good(9), "precious"), run.text


def test_nothing_is_left_of_what_could_be_asked(lab: Lab):
    """While it checks, another iamcat may begin."""
    asked = threading.Event()

    def state(_request: Any):
        assert asked.wait(TIMEOUT)
        return http_reply({"mode": "late"})

    broker, api, env = peers(lab, routes={"/api/state": state}, STATUS_SOCKET=str(lab.dir / "status"),
                             METRICS_LISTEN=f"127.0.0.1:{free_port()}")
    run = Checked(lab, env)
    run.cat.out.wait("SUBSCRIBE: ")
    assert not (lab.dir / "status").exists()
    other = lab.iamcat({**env, "STATE_INTERVAL": "3600"})
    other.wait_log("connecting to")
    asked.set()
    assert run.end().status == 0, run.text
    assert (lab.dir / "status").is_socket() and not other.log.find("STATUS_SOCKET|METRICS_LISTEN")


def test_stopped_by_ctrl_c(lab: Lab):
    broker, api, env = peers(lab, Connection.stall)
    cat = lab.iamcat(env, "check")
    cat.out.wait("TCP: ")
    assert cat.stop(signal.SIGINT) == 1
    assert cat.out.lines[-1].split() == ["note", "stopped", "by", "a", "signal"]


def terminal(lab: Lab, env: dict[str, str]) -> str:
    """What iamcat check writes to a terminal."""
    main, other = pty.openpty()
    with open(main, "rb", buffering=0) as reader:
        run = subprocess.Popen([IAMCAT, "check"], env={**os.environ, "NO_COLOR": "", **env}, cwd=lab.work_dir("terminal"),
                               stdin=subprocess.DEVNULL, stdout=other, stderr=subprocess.PIPE)
        os.close(other)
        text = b""
        try:
            while data := reader.read(4096):
                text += data
        except OSError:  # EIO: the other end is closed
            pass
        finally:
            run.kill()
            assert run.communicate(timeout=TIMEOUT)[1] == b""
    return text.decode()


def plain_lines(text: str) -> list[str]:
    """As they are seen in the end."""
    shown = [line.split("\r\033[K")[-1].rstrip("\r") for line in text.split("\n")]
    return [re.sub(r"\033\[[0-9;]*m", "", line) for line in shown]


@pytest.mark.parametrize("name", [name for name, (step, *_) in FAULTS.items() if step != 3])
def test_no_failure_is_wider_than_a_terminal(name: str, lab: Lab):
    step, env, routes, scripts, found = FAULTS[name]
    broker, api, settings = peers(lab, *scripts, routes=routes)
    lines = plain_lines(terminal(lab, {**settings, **env}))
    assert [line for line in lines if len(line) > 80 or "\033" in line] == []
    assert [line for line in lines if re.match(rf"✗ +\d+ ms {STEPS[step]}: expected ", line)], lines
    assert found in " ".join(" ".join(lines).split()), lines


@pytest.mark.parametrize("more", [{}, {"MQTT_TLS_SERVER_NAME": "a-long-name.of-a-broker.example.com"}])
def test_terminal(more: dict[str, str], lab: Lab):
    broker, api, env = peers(lab, **more)
    text = terminal(lab, {**env, **more})
    shown = [line.split("\r\033[K")[-1].rstrip("\r") for line in text.split("\n")]
    plain = plain_lines(text)
    assert not [line for line in plain if len(line) > 80 or "\033" in line], text
    ticks = [re.match(r"✓ +\d+ ms ([A-Za-z -]+): ", line) for line in plain]
    assert [m[1] for m in ticks if m] == STEPS[:5 if more else 9], text
    assert [line for line in shown if line.startswith("\033[32m✓\033[0m")], "in green"
    crosses = [line for line in shown if line.startswith("\033[31m✗\033[0m")]
    assert len(crosses) == (1 if more else 0)
    assert "\r\033[K" in text and f"\n{' ' * 13}TLS" in text.replace("\r\n", "\n"), "what is being waited for is shown"
    for line in plain:
        assert re.match(r"[✓✗] {4,}\d+ ms |! {12}SANDBOX=off|     (found|try) +\S| {13}\S|all is well|$", line), line


def test_a_terminal_without_colour(lab: Lab):
    """https://no-color.org: what a file would get."""
    broker, api, env = peers(lab)
    text = terminal(lab, {**env, "NO_COLOR": "1", "MQTT_TLS_SERVER_NAME": "another.example"})
    assert not re.search("[\033✓✗]", text), text
    assert re.findall(r"^(\w+) +\d+ ms ", text, re.M) == ["ok"] * 5 + ["FAIL"], text
