"""What a running iamcat says of itself: status, health, metrics, SIGUSR1; and that nobody who asks disturbs it."""

import contextlib
import json
import os
import pathlib
import pty
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

import fake
from fake import (CONNECT, PUBACK, PUBLISH, READ, SUBACK, SUBSCRIBE, Connection, Scripted, connack, hang, http_reply,
                  mqtt_id, mqtt_packet, mqtt_publish)
from lab import IAMCAT, ROOT, SANITIZER, SERIAL, TIMEOUT, Lab, LabError, Process, Sleeper, free_port, mounted

PASSED = {name: os.environ[name] for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "SANDBOX") if name in os.environ}
SIGINT = ["env", "--default-signal=INT"]  # a shell's background jobs, which the tests may be, ignore it
NOBODY = ["setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"]
SANDBOX_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]  # nobody, too, for others

SANDBOXED = os.environ.get("SANDBOX") != "off"


@pytest.fixture
def no_sandbox(monkeypatch: pytest.MonkeyPatch):
    """For what it takes away: to try again, to have its limits changed."""
    monkeypatch.setitem(PASSED, "SANDBOX", "off")


class Told(Scripted):
    """iamcat with scripted peers, that is asked how it is doing."""

    within: list[str] = []  # as another user

    def start(self, lab: Lab, env: dict[str, str]) -> Process:
        self.env = {**PASSED, **env}
        self.dir = lab.work_dir("iamcat")
        for path in lab.dir, self.dir:
            path.chmod(0o755)
        # Where other users find it, too: this project may lie in a place that they can't enter.
        self.binary = shutil.copy(IAMCAT, lab.work_dir("binary") / "iamcat")
        return lab.start(Process, "iamcat", [self.binary], self.dir, self.env, self.within)

    def run(self, *args: str, within: tuple[str, ...] | list[str] = (), **env: str) -> subprocess.CompletedProcess:
        """Runs iamcat with its configuration, to ask it."""
        done = subprocess.run([*within, self.binary, *args], env={**self.env, **env}, cwd=self.dir, timeout=TIMEOUT,
                              capture_output=True, text=True)
        assert not re.search(SANITIZER, done.stderr), done.stderr
        return done

    def figures(self) -> Any:
        done = self.run("status", "--json")
        assert (done.returncode, done.stderr) == (0, ""), done
        return json.loads(done.stdout)

    def wait(self, suits: Callable[[Any], bool] = lambda figures: True) -> Any:
        """The figures as soon as they suit, and it has begun to answer."""
        deadline = time.monotonic() + TIMEOUT
        while self.run("status").returncode or not suits(figures := self.figures()):
            if time.monotonic() > deadline:
                raise LabError(f"the figures are {self.run('status').stdout}")
        return figures

    def health(self) -> tuple[int, str]:
        done = self.run("health")
        assert done.stderr == "" and done.stdout.count("\n") == 1, done
        return done.returncode, done.stdout.strip()

    def fine(self, number: int = 0) -> None:
        """It serves as if nothing were."""
        assert self.ask(number)["response"]["value"] == 42
        assert self.health() == (0, "healthy: in service")


def served(lab: Lab, *scripts: Callable[[Connection], Any], **env: Any) -> Told:
    it = Told(lab, *scripts, **{"STATE_INTERVAL": "3600", **env})
    it.broker.connection(len(scripts))
    it.wait(lambda f: f["phase"] == "serve")
    return it


def counts(figures: Any, name: str) -> dict[str, int]:
    """What is not 0."""
    return {word: n for word, n in figures[name].items() if n}


# ----------------------------------------------------------------------------------------------------- status


def stall_at(kind: int) -> Callable[[Connection], None]:
    def script(c: Connection) -> None:
        c.expect(kind)
        c.stall()

    return script


def refuse_subscription(c: Connection) -> None:
    c.reply(c.expect(CONNECT))
    c.send(mqtt_packet(SUBACK, mqtt_id(c.expect(SUBSCRIBE).packet_id) + b"\x80"))
    c.serve()


def old_session(c: Connection) -> None:
    """From before iamcat was started, of a broker that does not say whether that was all of it."""
    c.expect(CONNECT)
    c.send(connack(0, 1))
    c.stall()


# Those of one connection's orderly end (renew, discard, leave) last no longer than it takes to send a packet.
STATES: dict[str, tuple[Any, dict[str, Any], Callable[[Told], Any]]] = {
    "serial": (None, {"/api/crypto": hang}, lambda it: it.api.take("/api/crypto")),
    "token": (None, {"/api/jwt/create": hang}, lambda it: it.api.take("/api/jwt/create")),
    "dial": (Connection.stall, {}, lambda it: it.broker.log.wait("connection 0")),
    "hello": (stall_at(CONNECT), {}, lambda it: it.broker.take(CONNECT)),
    "subscribe": (stall_at(SUBSCRIBE), {}, lambda it: it.broker.take(SUBSCRIBE)),
    "stale": (old_session, {}, lambda it: it.broker.take(CONNECT)),
    "serve": (None, {}, lambda it: it.cat.wait_log("in service")),
    "pause": (refuse_subscription, {}, lambda it: it.cat.wait_log(r"trying again in [1-9]")),
}


@pytest.mark.parametrize("phase", STATES)
def test_every_phase_is_told(phase: str, lab: Lab):
    script, routes, event = STATES[phase]
    # Most of half a minute's pause; a short one is followed by another.
    scripts = [script] * (9 if phase == "pause" else 1) if script else []
    it = Told(lab, *scripts, routes=routes, STATE_INTERVAL="3600", METRICS_LISTEN=f"127.0.0.1:{free_port()}")
    event(it)
    figures = it.wait(lambda f: f["phase"] == phase)
    serves = phase == "serve"
    assert figures["healthy"] is True and (figures["health"] == "in service") == serves
    assert (figures["gap_seconds"] == 0) == serves
    assert 0 <= figures["phase_seconds"] <= figures["uptime_seconds"]
    assert figures["gateway"] == ("" if phase == "serial" else SERIAL)
    assert figures["broker"] == f"localhost:{it.broker.port}"
    assert (figures["broker_address"] == "127.0.0.1") == (phase in ("hello", "subscribe", "stale", "serve"))
    assert bool(figures["connected_since"]) == (figures["broker_address"] != "")
    assert (figures["token_age_seconds"] is None) == (phase in ("serial", "token"))
    text = it.run("status")
    assert (text.returncode, text.stderr) == (0, "")
    assert re.search(rf"^phase +{phase} ", text.stdout, re.M)
    assert max(map(len, text.stdout.splitlines())) <= 80
    status, words = it.health()
    assert status == 0 and words.startswith("healthy: " + ("in service" if serves else "out of service for "))
    samples = metrics(it)
    assert samples[f'iamcat_phase{{phase="{phase}"}}'] == samples["iamcat_healthy"] == 1
    assert (samples["iamcat_gap_seconds"] == 0) == serves


def test_stopping_is_told(lab: Lab):
    it = Told(lab, routes={"/api/inverter/modbus": hang}, STATE_INTERVAL="3600")
    it.broker.connection().publish("iamcat/modbus/request", READ)
    it.api.take("/api/inverter/modbus")
    it.cat.send_signal(signal.SIGTERM)
    it.cat.wait_log(" stopping")
    figures = it.figures()
    assert figures["phase"] == "drain" and figures["healthy"] and figures["requests_running"] == 1
    assert it.cat.wait() == 0
    assert it.health()[0] == 1


def test_what_is_counted(lab: Lab):
    it = served(lab, STATE_INTERVAL="1")
    live = it.broker.live[0]
    for _ in range(3):
        it.ask()
    for bad in b"no JSON", b"[]", b'{"function_code": 1}':
        live.publish("iamcat/modbus/request", bad)
    it.published("modbus/response", lambda p: b"unsupported" in p.payload)
    live.publish("iamcat/modbus/request", READ, retain=True)
    # Together: once a broker is known to have the PUBACK, the id may be that of a new one.
    live.send(b"".join(mqtt_publish("iamcat/modbus/request", READ, 1, 100, dup=dup) for dup in (False, True)))
    live.publish("iamcat/modbus/request", READ, qos=2, packet_id=200)
    live.publish("iamcat/modbus/request", READ, qos=2, packet_id=200, dup=True)
    it.wait(lambda f: f["answers_total"]["ok"] == 5)
    it.api.routes["/api/inverter/modbus"] = http_reply({"error": "device X not found"}, "400 Bad Request")
    live.publish("iamcat/modbus/request", READ)
    it.api.routes["/api/state"] = http_reply({}, "500 Oops")
    figures = it.wait(lambda f: f["states_failed_total"] > 0 and f["skipped_total"]["others"] > 0
                      and f["messages_waiting"] == 0)
    assert counts(figures, "answers_total") == {"ok": 5, "invalid_json": 1, "not_an_object": 1,
                                                "unsupported_function_code": 1}
    assert counts(figures, "skipped_total") == {"retained": 1, "duplicate": 2, "others": 1}
    assert counts(figures, "reconnects_total") == {}
    assert figures["requests_total"] == 9
    assert figures["requests_waiting"] == figures["requests_running"] == figures["messages_waiting"] == 0
    assert figures["states_total"] >= 1 and figures["state_age_seconds"] <= figures["uptime_seconds"]
    assert figures["spare_connections"] <= 2
    assert 0 <= figures["token_age_seconds"] <= figures["uptime_seconds"]
    assert abs(figures["memory_bytes"] / 1024 - it.cat.memory_kb()) < 0.2 * it.cat.memory_kb()
    times = figures["round_trip_seconds"]
    assert 0 <= times["p50"] <= times["p99"] <= times["max"] < TIMEOUT


def test_times_are_those_of_the_api(lab: Lab):
    """Ten quick calls, and one of a second: the median stays, the longest does not hide."""

    def slow(_request: fake.Request) -> Iterator[Any]:
        time.sleep(1)
        yield http_reply({"value": 1})

    it = served(lab)
    for _ in range(10):
        it.ask()
    it.api.routes["/api/inverter/modbus"] = slow
    it.ask()
    figures = it.figures()
    for name in "round_trip_seconds", "api_seconds":
        assert figures[name]["p50"] < 0.6 and 0.99 < figures[name]["max"] == figures[name]["p99"], figures


def stale_session(c: Connection) -> None:
    c.expect(CONNECT)
    c.send(connack(0, 1))
    c.publish("iamcat/modbus/request", READ, packet_id=7)
    c.serve()


def refuse_login(c: Connection) -> None:
    c.expect(CONNECT)
    c.send(connack(5))
    c.serve()


def lose(c: Connection) -> None:
    c.ready()
    c.reset()


def babble(c: Connection) -> None:
    c.ready()
    c.send(mqtt_packet(CONNECT, b""))
    c.serve()


def no_tls(c: Connection) -> None:
    c.peer.recv(1)
    c.peer.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
    c.peer.recv(9999)


@pytest.mark.parametrize("reason, scripts, ends", [
    ("lost", [lose], {"lost": 1}), ("login", [refuse_login], {"login": 1}),
    ("subscribe", [refuse_subscription], {"subscribe": 1}), ("protocol", [babble], {"protocol": 1}),
    ("tls", [no_tls], {"tls": 1}), ("stale", [stale_session], {"stale": 2}),
    ("timeout", [stall_at(CONNECT)], {"timeout": 1}), ("takeover", [lose] * 4, {"lost": 2, "takeover": 2}),
])
def test_reconnects_by_reason(reason: str, scripts: list[Any], ends: dict[str, int], lab: Lab):
    it = Told(lab, *scripts, STATE_INTERVAL="3600")
    figures = it.wait(lambda f: f["reconnects_total"][reason] >= ends[reason])
    assert counts(figures, "reconnects_total") == ends
    assert figures["skipped_total"]["stale"] == (reason == "stale")


def test_requests_that_had_no_room(lab: Lab):
    """More of them than iamcat can know again, from a broker that acknowledges no answer before it has sent them all:
    the rest is passed over, sent again on a connection made anew, and answered there. Each gets one answer."""
    every = range(1, 601)
    taken, answered, over = set(), set(), threading.Event()

    def listen(c: Connection, acknowledges: bool) -> None:
        while packet := c.receive():
            if packet.kind == PUBACK:
                taken.add(packet.packet_id)
            elif packet.kind == PUBLISH and packet.topic.endswith("/response"):
                answered.add(packet.packet_id)
            if acknowledges or packet.kind != PUBLISH:
                c.reply(packet)

    def flood(c: Connection) -> None:
        c.ready()
        c.send(b"".join(mqtt_publish("iamcat/modbus/request", b"[%d]" % n, 1, n) for n in every))
        listen(c, False)
        over.set()

    def again(c: Connection) -> None:
        c.expect(CONNECT)
        over.wait(TIMEOUT)
        c.send(connack(0, 1))
        for n in sorted({*every} - taken):
            c.publish("iamcat/modbus/request", b"[%d]" % n, packet_id=n, dup=True)
        listen(c, True)

    it = Told(lab, flood, again, STATE_INTERVAL="3600", LOG_LEVEL="info")
    figures = it.wait(lambda f: f["answers_total"]["not_an_object"] == 600 and f["messages_waiting"] == 0)
    full = figures["skipped_total"]["full"]
    assert 0 < full < 600 and counts(figures, "skipped_total") == {"full": full}
    assert counts(figures, "reconnects_total") == {"full": 1}
    assert taken == {*every} and len(answered) == 600
    assert len(it.cat.log.find("too many requests at once: the broker is asked to send the rest of them again")) == 1


def test_reconnects_when_nobody_is_there(lab: Lab):
    it = Told(lab, deaf="broker")
    figures = it.wait(lambda f: f["reconnects_total"]["refused"] > 1)
    assert set(counts(figures, "reconnects_total")) == {"refused"}
    it.api.routes["/api/jwt/create"] = http_reply({}, "500 Oops")
    it.wait(lambda f: f["reconnects_total"]["api"] > 0)


@pytest.mark.usefixtures("no_sandbox")
def test_a_renewed_token_is_told(lab: Lab):
    """It takes 18 s: tokens live for 20 s at least. Meanwhile a listener that can't be had is tried twice, and told
    of once."""
    it = served(lab, MQTT_JWT_LIFETIME="20", METRICS_LISTEN="192.0.2.1:9464")
    before = it.figures()
    it.broker.connection(1)
    figures = it.wait(lambda f: f["phase"] == "serve")
    assert counts(figures, "reconnects_total") == {"token": 1}
    assert figures["token_age_seconds"] < before["token_age_seconds"] + 17
    assert len(it.cat.log.find("METRICS_LISTEN")) == 1


# ----------------------------------------------------------------------------------------------------- health


def test_unhealthy_after_the_grace(lab: Lab):
    it = Told(lab, lose, HEALTH_GRACE="0", METRICS_LISTEN=f"127.0.0.1:{free_port()}")
    it.broker.connection(1)
    it.wait(lambda f: f["phase"] == "serve")
    assert it.health() == (0, "healthy: in service")
    it.broker.deaf()
    it.broker.live[1].end()
    it.cat.wait_log("refused.*trying again")
    status, words = it.health()
    assert status == 1 and re.fullmatch(
        r"unhealthy: out of service for \d+ s \(healthy up to 0\): the connection was refused .*", words), words
    assert it.figures()["healthy"] is False
    reply = ask_web(it, "GET /healthz HTTP/1.1")
    assert reply.startswith(b"HTTP/1.1 503 ") and b"out of service" in reply
    assert b"\niamcat_healthy 0\n" in ask_web(it)
    it.broker.listen()
    it.broker.connection(2)
    it.wait(lambda f: f["healthy"])


def test_a_stuck_loop_is_unhealthy(lab: Lab):
    it = served(lab)
    it.cat.send_signal(signal.SIGSTOP)
    status, words = it.health()
    assert (status, words) == (1, "unhealthy: iamcat does not answer: its loop is stuck, or it was stopped")
    # and with so many in front that there is no place in the queue
    with contextlib.ExitStack() as crowd:
        for _ in range(40):
            other = crowd.enter_context(socket.socket(socket.AF_UNIX))
            other.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                other.connect(abstract_name(it))
        assert it.health() == (status, words)
    it.cat.send_signal(signal.SIGCONT)
    it.fine()


def test_nobody_there(lab: Lab):
    it = served(lab)
    assert it.run("health", MQTT_CLIENT_ID="other").stdout == (
        "unhealthy: no iamcat runs with this configuration\n")
    it.cat.kill()
    assert it.health() == (1, "unhealthy: no iamcat runs with this configuration")
    done = it.run("status")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "no iamcat runs with this configuration\n"


def test_health_costs_little(lab: Lab):
    """Under 5 ms of CPU, with the roots of a whole system to read: the best of ten runs of the normal build."""
    it = served(lab)
    roots = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
    (it.dir / "many.pem").write_text(roots.read_text())
    used = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([ROOT / "iamcat", "health"], env={**it.env, "MQTT_ROOT_CA_FILE": "many.pem"}, cwd=it.dir, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(used) < 0.005, used


# ------------------------------------------------------------------------------------------ the status socket


def abstract_name(it: Told) -> bytes:
    """The name of its socket, by the kernel's list of what the process has."""
    inodes = [os.readlink(fd) for fd in pathlib.Path(f"/proc/{it.cat.pid}/fd").iterdir()]
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[6]}]" in inodes and len(fields) == 8 and fields[7].startswith("@iamcat/"):
            return b"\0" + fields[7][1:].encode()
    raise LabError("it has no abstract socket")


def raw(name: str | bytes, within: list[str]) -> bytes:
    """What the socket says to whom."""
    code = ("import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(eval(sys.argv[1]))\n"
            "sys.stdout.buffer.write(s.makefile('rb').read())")
    return subprocess.run([*within, sys.executable, "-c", code, repr(name)], capture_output=True, check=True,
                          timeout=TIMEOUT).stdout


def test_only_the_same_user_and_root_are_answered(lab: Lab):
    it = served(lab)
    name = abstract_name(it)
    assert re.fullmatch(rb"\0iamcat/[0-9]+/0", name)
    assert json.loads(raw(name, []))["healthy"]
    assert raw(name, NOBODY) == raw(name, SANDBOX_USER) == b""
    done = it.run("status", within=NOBODY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "iamcat runs as user 0: ask as that user, or as root\n"
    it.fine()


def test_root_finds_the_iamcat_of_another_user(lab: Lab):
    class AsNobody(Told):
        within = NOBODY

    it = AsNobody(lab, STATE_INTERVAL="3600")
    it.broker.connection()
    assert abstract_name(it).endswith(b"/65533")
    assert it.wait(lambda f: f["phase"] == "serve")["memory_bytes"] > 0
    assert json.loads(it.run("status", "--json", within=NOBODY).stdout)["healthy"]
    assert json.loads(raw(abstract_name(it), NOBODY))["healthy"]
    done = it.run("health", within=["setpriv", "--reuid=65532", "--clear-groups"])
    assert (done.returncode, done.stdout) == (
        1, "unhealthy: iamcat runs as user 65533: ask as that user, or as root\n")


@pytest.mark.usefixtures("no_sandbox")
def test_a_name_that_somebody_else_has_taken(lab: Lab):
    it = served(lab)
    name = abstract_name(it)
    it.cat.stop()
    code = (f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({name!r}); s.listen(); print('{{}}', flush=True)\n"
            "while True:\n c, _ = s.accept()\n"
            " try: c.sendall(b'{\"healthy\": true, \"health\": \"fine\"}'); c.close()\n except OSError: pass")
    other = lab.start(Process, "squatter", [sys.executable, "-c", code], lab.dir, None, NOBODY)
    other.start_line()
    assert it.health() == (1, "unhealthy: what answers there belongs to user 65533")
    it.cat = it.start(lab, it.env)
    it.cat.wait_log(r" warn  STATUS_SOCKET: it is in use already \(by another iamcat\?\); trying again every 10 s")
    it.broker.connection(1)
    assert it.ask(1)["response"]["value"] == 42
    other.kill()
    it.cat.wait_log("in service")
    deadline = time.monotonic() + TIMEOUT
    while it.health() != (0, "healthy: in service"):  # it tries again
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(it.cat.log.find("STATUS_SOCKET")) == 1


def test_a_second_one_with_the_same_configuration(lab: Lab):
    it = served(lab)
    second = lab.iamcat(it.env)
    second.wait_log(" warn  STATUS_SOCKET: it is in use already")
    second.stop()
    assert it.figures()["uptime_seconds"] > 0


def test_a_socket_that_is_a_file(lab: Lab):
    it = served(lab, STATUS_SOCKET="status.sock")
    path = it.dir / "status.sock"
    assert path.is_socket()
    it.fine()
    done = it.run("status", STATUS_SOCKET=str(path), within=NOBODY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "STATUS_SOCKET is not open to this user: ask as the user of iamcat, or as root\n"
    path.chmod(0o777)  # who can connect is not answered either
    assert raw(str(path), NOBODY) == b""
    assert "belongs to user 0" in it.run("status", STATUS_SOCKET=str(path), within=NOBODY).stderr
    it.cat.kill()
    assert it.health() == (1, "unhealthy: no iamcat runs with this configuration")
    assert path.is_socket()  # it is stale, and replaced
    it.cat = it.start(lab, {**it.env, "STATUS_SOCKET": str(path)})
    it.broker.connection(1)
    assert not it.cat.log.find("STATUS_SOCKET")
    it.fine(1)
    second = lab.iamcat(it.env)  # nobody takes it away from one that lives
    second.wait_log(" warn  STATUS_SOCKET: it is in use already")
    second.stop()
    it.fine(1)
    it.cat.stop()
    assert path.exists() == SANDBOXED  # which leaves no right to remove it


@pytest.mark.parametrize("kind", ["file", "directory", "link", "pipe"])
def test_what_is_no_socket_is_left_alone(kind: str, lab: Lab):
    path = lab.dir / "precious"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/nowhere")
    before = path.lstat()
    it = Told(lab, STATUS_SOCKET=str(path), STATE_INTERVAL="3600")
    it.cat.wait_log(" warn  STATUS_SOCKET: what is there is no socket: choose another path, or take it away; ")
    it.broker.connection()
    assert it.ask()["response"]["value"] == 42
    it.cat.stop()
    after = path.lstat()
    assert (before.st_ino, before.st_size, before.st_mode) == (after.st_ino, after.st_size, after.st_mode)


@pytest.mark.parametrize("path, words", [
    ("/nowhere/status", "its directory is not there"), ("/etc/hosts/status", "a part of its path is no directory"),
    ("/status", r"permission denied \(to this user\)"), ("/mnt/status", "read-only file system")])
def test_where_no_socket_can_be(path: str, words: str, lab: Lab):
    class Elsewhere(Told):
        within = mounted("/mnt", "-t tmpfs -o ro none") + NOBODY

    it = Elsewhere(lab, STATUS_SOCKET=path, STATE_INTERVAL="3600")
    it.cat.wait_log(f" warn  STATUS_SOCKET: {words}; ")
    it.broker.connection()
    assert it.ask()["response"]["value"] == 42


@pytest.mark.usefixtures("no_sandbox")
def test_a_directory_that_comes_later(lab: Lab):
    it = Told(lab, STATUS_SOCKET="run/status", STATE_INTERVAL="3600")
    it.cat.wait_log(r" warn  STATUS_SOCKET: its directory is not there; trying again every 10 s")
    it.broker.connection()
    (it.dir / "run").mkdir()
    deadline = time.monotonic() + TIMEOUT
    while it.health() != (0, "healthy: in service"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(it.cat.log.find("STATUS_SOCKET")) == 1


def test_switched_off(lab: Lab):
    it = Told(lab, STATUS_SOCKET="off", STATE_INTERVAL="3600")
    it.broker.connection()
    assert it.ask()["response"]["value"] == 42
    with pytest.raises(LabError):
        abstract_name(it)
    assert [*it.dir.iterdir()] == []
    assert it.health() == (1, "unhealthy: STATUS_SOCKET is off: there is nobody to ask")
    it.env["STATUS_SOCKET"] = ""
    assert it.health() == (1, "unhealthy: no iamcat runs with this configuration")


def test_those_who_never_read_disturb_nothing(lab: Lab):
    it = served(lab)
    name, fds = abstract_name(it), pathlib.Path(f"/proc/{it.cat.pid}/fd")
    with contextlib.ExitStack() as crowd:
        for turn in range(300):
            one = socket.socket(socket.AF_UNIX)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, b"\x14" + bytes(15))
            one.connect(name)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # rubbish for the half of them
                one.sendall(b"GET / HTTP/1.0\r\n\r\n" * (turn % 2))
            crowd.enter_context(one) if turn % 3 else one.close()
        it.fine()
    it.fine()
    api = 5  # connections to the API come and go
    assert len([*fds.iterdir()]) <= 3 + 1 + 2 + 1 + api


# ---------------------------------------------------------------------------- what answers may not be iamcat


@contextlib.contextmanager
def impostor(path: pathlib.Path, talk: Callable[[socket.socket], None]) -> Iterator[None]:
    """Somebody else listens where iamcat should."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        child = os.fork()
        if child == 0:
            while True:
                with contextlib.suppress(OSError):
                    talk(listener.accept()[0])
        try:
            yield
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def drip(peer: socket.socket) -> None:
    """A byte now and then, without end."""
    while True:
        peer.sendall(b" ")
        time.sleep(0.3)


NO_IAMCAT = "what answers is no iamcat"
STUCK = "iamcat does not answer: its loop is stuck, or it was stopped"
IMPOSTORS = {
    "garbage": (lambda p: p.sendall(b"\x1b[2Jhello\n"), NO_IAMCAT, NO_IAMCAT),
    "other JSON": (lambda p: p.sendall(b'{"a": 1}'), NO_IAMCAT, NO_IAMCAT),
    "cut short": (lambda p: p.sendall(b'{"healthy": true, "health": "in serv'), NO_IAMCAT, NO_IAMCAT),
    "nothing": (lambda p: None, "what answers there says nothing", "what answers there says nothing"),
    "silence": (lambda p: time.sleep(60), STUCK, STUCK),
    "slow": (drip, STUCK, STUCK),
    "without end": (lambda p: [p.sendall(b"x" * 65536) for _ in range(99)],
                    "what answers there says too much", "what answers there says too much"),
}


@pytest.mark.parametrize("how", IMPOSTORS)
def test_somebody_else_answers(how: str, lab: Lab):
    talk, status_words, health_words = IMPOSTORS[how]
    env = {**PASSED, **lab.env(type("Broker", (), {"port": 1}), type("Api", (), {"port": 2})), "STATUS_SOCKET": "s"}
    with impostor(lab.dir / "s", talk):
        for args, words in (["status"], status_words), (["status", "--json"], status_words), (["health"], health_words):
            done = subprocess.run([IAMCAT, *args], env=env, cwd=lab.dir, capture_output=True, text=True,
                                  timeout=TIMEOUT)
            assert done.returncode == 1
            assert done.stdout + done.stderr == ("unhealthy: " * (args == ["health"])) + words + "\n"


# ---------------------------------------------------------------------------------------------------- metrics


def ask_web(it: Told, line: str = "GET /metrics HTTP/1.1", host: str = "127.0.0.1") -> bytes:
    """The whole reply to a request."""
    with socket.create_connection((host, web_port(it)), timeout=TIMEOUT) as web:
        web.sendall(f"{line}\r\nHost: x\r\n\r\n".encode())
        return read_all(web)


def read_all(web: socket.socket) -> bytes:
    reply = b""
    while data := web.recv(65536):
        reply += data
    return reply


def web_port(it: Told) -> int:
    return int(it.env["METRICS_LISTEN"].rpartition(":")[2])


def web(lab: Lab, *scripts: Any, host: str = "127.0.0.1", **env: str) -> Told:
    return served(lab, *scripts, METRICS_LISTEN=f"{host}:{free_port()}", **env)


def check_format(text: str) -> dict[str, float]:
    """As strict as `promtool check metrics`: the text format 0.0.4, and its rules for names. The samples."""
    assert text.endswith("\n") and "\n\n" not in text
    samples: dict[str, float] = {}
    kind, name, ended = "", "", []
    for line in text.splitlines():
        if match := re.fullmatch(r"# HELP ([a-z][a-z_]*[a-z]) ([^\\\n]+)", line):
            ended.append(name)
            name = match[1]
            assert name not in ended, f"{name} is there twice"
        elif match := re.fullmatch(r"# TYPE ([a-z_]+) (counter|gauge|histogram)", line):
            assert match[1] == name
            kind = match[2]
            assert (kind == "counter") == name.endswith("_total"), name
            assert not re.search(r"(milli|micro|kilo|minutes|hours|_ms|_kb)", name), name
        else:
            match = re.fullmatch(r'([a-z_]+)(\{[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*\})?'
                                 r" (\d+(?:\.\d+)?)", line)
            assert match, line
            suffix = match[1].removeprefix(name)
            assert suffix in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",)), line
            assert match[1] + (match[2] or "") not in samples, line
            samples[match[1] + (match[2] or "")] = float(match[3])
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert sum(len(family.samples) for family in families.values()) == len(samples)
    for family in families.values():
        if family.type != "histogram":
            continue
        buckets = [(s.labels["le"], s.value) for s in family.samples if s.name.endswith("_bucket")]
        edges = [float(le) for le, _ in buckets]
        assert edges == sorted(set(edges)) and buckets[-1][0] == "+Inf"
        values = [value for _, value in buckets]
        assert values == sorted(values) and values[-1] == samples[f"{family.name}_count"]
        assert f"{family.name}_sum" in samples
    return samples


def metrics(it: Told) -> dict[str, float]:
    reply = ask_web(it)
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in lines and "Connection: close" in lines
    assert f"Content-Length: {len(body)}" in lines
    return check_format(body.decode())


def test_metrics_are_the_figures(lab: Lab):
    it = web(lab, lose, MQTT_CLIENT_ID='my "own" \\ client')
    for request in READ, READ, b"{}":
        it.ask(1, request) if request is READ else it.broker.live[1].publish("iamcat/modbus/request", request)
    it.published("modbus/response", lambda p: b"missing_field" in p.payload)
    figures, samples = it.wait(lambda f: f["messages_waiting"] == 0), metrics(it)
    info = next(s for f in text_string_to_metric_families(ask_web(it).decode().partition("\r\n\r\n")[2])
                for s in f.samples if s.name == "iamcat_info")
    assert info.labels == {name: figures[name]
                           for name in ("version", "gateway", "client_id", "broker", "broker_address")}
    labels = {"answers_total": "code", "skipped_total": "reason", "reconnects_total": "reason"}
    checked = set()
    for name, value in figures.items():
        if name in labels:
            for word, n in value.items():
                checked.add(f'iamcat_{name}{{{labels[name]}="{word}"}}')
                assert samples[f'iamcat_{name}{{{labels[name]}="{word}"}}'] == n
        elif name in ("uptime_seconds", "phase_seconds", "token_age_seconds", "state_age_seconds"):
            assert 0 <= samples[f"iamcat_{name}"] - value < TIMEOUT
            checked.add(f"iamcat_{name}")
        elif name == "memory_bytes":
            assert samples[f"iamcat_{name}"] >= value
            checked.add(f"iamcat_{name}")
        elif isinstance(value, (int, float)) and name != "spare_connections":
            assert samples[f"iamcat_{name}"] == value, name
            checked.add(f"iamcat_{name}")
    assert samples['iamcat_phase{phase="serve"}'] == 1
    assert sum(value for name, value in samples.items() if name.startswith("iamcat_phase{")) == 1
    assert samples["iamcat_round_trip_seconds_count"] == 3 and samples["iamcat_api_seconds_count"] >= 4
    rest = {name for name in samples if not re.match(r"iamcat_(info|phase|round_trip_|api_)", name)}
    assert rest - checked == {"iamcat_spare_connections"}


def test_metrics_before_there_is_anything(lab: Lab):
    port = free_port()
    it = Told(lab, routes={"/api/crypto": hang}, METRICS_LISTEN=f"127.0.0.1:{port}")
    it.api.take("/api/crypto")
    it.wait()
    samples = metrics(it)
    assert samples['iamcat_phase{phase="serial"}'] == 1 and "iamcat_token_age_seconds" not in samples
    assert samples["iamcat_gap_seconds"] > 0


# What the dashboard uses of PromQL: rates of counters, everything else as it is.
OF_JOB = r'\{job=~"\$job"\}'
SUM = rf"sum(?: by \((?P<by>\w+)\) )?\((?:rate|increase)\(iamcat_\w+_(?:total|bucket){OF_JOB}\[\d+[mh]\]\)\)"
PROMQL = "|".join([rf"iamcat_\w+(?<!_total)(?<!_bucket){OF_JOB}(?: > 0)?", rf"(?:60 \* )?{SUM}",
                   rf"histogram_quantile\(0\.\d+, {SUM.replace('by>', 'le>')}\)"])


def test_the_dashboard_names_metrics_that_exist(lab: Lab):
    it = web(lab)
    it.published("state")
    samples = metrics(it)
    names = {re.sub(r"\{.*", "", name) for name in samples}
    board = json.loads((ROOT / "dashboard.json").read_text())
    for target in (target for panel in board["panels"] for target in panel["targets"]):
        query = re.fullmatch(PROMQL, target["expr"])
        assert query, target["expr"]
        name = re.search(r"iamcat_\w+", query[0])[0]
        labels = {label for sample in samples if sample.startswith(name + "{") for label in re.findall(r'(\w+)="', sample)}
        group = {*query.groups()} - {None}
        left = group if "sum" in query[0] else labels | {"instance"}  # those that are there in the end
        assert group <= labels and {*re.findall(r"{{(\w+)}}", target["legendFormat"])} <= left, target
    assert 8 <= len(board["uid"]) <= 40 and board["templating"]["list"][1]["refresh"] == 1  # or it would never be asked for
    texts = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    texts += [variable["query"] for variable in board["templating"]["list"]]
    named = {name for text in texts for name in re.findall(r"iamcat_\w+", text)}
    assert named - names == set(), "there are no such metrics"
    histogram = "_bucket|_sum|_count"
    assert {re.sub(f"({histogram})$", "", name) for name in names - named} <= {
        name.removesuffix("_bucket") for name in named}, "nobody looks at these"
    assert all(panel["title"] and panel["targets"] for panel in board["panels"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) >= 8
    places = [panel["gridPos"] for panel in board["panels"]]
    cells = [(at["x"] + x, at["y"] + y) for at in places for x in range(at["w"]) for y in range(at["h"])]
    assert len(cells) == len({*cells}) and {x for x, _ in cells} == {*range(24)}, "side by side, none above another"


@pytest.mark.parametrize("line, status, words", [
    ("GET /metrics HTTP/1.1", "200 OK", b"iamcat_info"), ("GET /metrics HTTP/1.0", "200 OK", b"iamcat_info"),
    ("GET /metrics?name[]=x HTTP/1.1", "200 OK", b"iamcat_info"), ("GET /healthz HTTP/1.1", "200 OK", b"in service\n"),
    ("GET / HTTP/1.1", "404 Not Found", b""), ("GET /metrics/ HTTP/1.1", "404 Not Found", b""),
    ("GET /metricsx HTTP/1.1", "404 Not Found", b""), ("GET /metric HTTP/1.1", "404 Not Found", b""),
    ("GET", "404 Not Found", b""), ("", "404 Not Found", b""), ("\x16\x03\x01 \x00", "404 Not Found", b""),
    ("POST /metrics HTTP/1.1", "405 Method Not Allowed", b""), ("HEAD /healthz HTTP/1.1", "405 Method Not Allowed", b""),
    ("get /metrics HTTP/1.1", "405 Method Not Allowed", b""), ("DELETE /x HTTP/1.1", "404 Not Found", b""),
])
def test_every_request_gets_its_status(line: str, status: str, words: bytes, lab: Lab):
    it = web(lab)
    head, _, body = ask_web(it, line).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status}\r\n".encode()) and f"Content-Length: {len(body)}".encode() in head
    assert words in body and (body != b"") == (words != b"")
    assert (b"\r\nAllow: GET\r\n" in head) == ("405" in status)


def test_metrics_over_ipv6(lab: Lab):
    it = web(lab, host="[::1]")
    assert b"iamcat_info" in ask_web(it, host="::1")


def test_metrics_whatever_the_pieces(lab: Lab):
    it = web(lab)
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    for pieces in [request[i:i + 1] for i in range(len(request))], [request * 2], [request + b"x" * 4200]:
        with socket.create_connection(("127.0.0.1", web_port(it)), timeout=TIMEOUT) as one:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                one.sendall(piece)
            reply = read_all(one)  # to its end in order: what came behind the request does not reset it
            assert reply.startswith(b"HTTP/1.1 200 OK") and reply.endswith(b"\r\n\r\nin service\n")
            assert reply.count(b"HTTP/1.1") == 1
    with socket.create_connection(("127.0.0.1", web_port(it)), timeout=TIMEOUT) as one:  # half closed
        one.sendall(request)
        one.shutdown(socket.SHUT_WR)
        assert read_all(one).endswith(b"in service\n")
    with socket.create_connection(("127.0.0.1", web_port(it)), timeout=TIMEOUT) as one:  # a head without end
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            one.sendall(b"GET /x HTTP/1.1\r\nA: " + b"x" * 100000)
            assert read_all(one).startswith(b"HTTP/1.1 404 ")
    it.fine()


def test_the_end_comes_with_the_reply(lab: Lab):
    """And not only when a client's time is over: then the silent one, which was there before, would be first."""
    it = web(lab)
    with socket.create_connection(("127.0.0.1", web_port(it)), timeout=TIMEOUT) as silent:
        assert ask_web(it).startswith(b"HTTP/1.1 200 ")
        assert select.select([silent], [], [], 0)[0] == []
        assert silent.recv(1) == b""


def test_slow_broken_and_many_clients_disturb_nothing(lab: Lab):
    it = web(lab)
    port, fds = web_port(it), pathlib.Path(f"/proc/{it.cat.pid}/fd")
    with contextlib.ExitStack() as crowd:
        slow = []
        for turn in range(12):  # those beyond the first four wait in the kernel
            one = crowd.enter_context(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT))
            one.sendall(b"GET /metr"[:turn])
            slow.append(one)
        for _ in range(5):
            it.fine()
        assert [*filter(None, (read_all(one) for one in slow))] == []  # closed in turn, without a word
    for turn in range(200):  # gone as soon as they are there, in order or with a reset
        one = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        one.sendall(b"GET /metrics HTTP/1.1\r\n\r\n"[:turn % 26])
        fake.reset(one) if turn % 2 else one.close()
    with contextlib.ExitStack() as crowd:
        for _ in range(4):  # ask, and do not read
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            one.connect(("127.0.0.1", port))
            crowd.enter_context(one).sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        it.fine()
        assert len(metrics(it)) > 80
    it.fine()
    assert len([*fds.iterdir()]) <= 3 + 1 + 1 + 2 + 5 + 4


@pytest.mark.usefixtures("no_sandbox")
def test_metrics_port_in_use(lab: Lab):
    """It is tried again every 10 s, which pass when the test says so, and told once."""
    clock = Sleeper(lab)
    held = lab.enter_context(socket.socket())  # bound, it keeps everybody off but those that reuse addresses
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    with socket.create_server(held.getsockname()):
        it = Told(lab, METRICS_LISTEN=f"127.0.0.1:{held.getsockname()[1]}", STATE_INTERVAL="3600", **clock.env)
        it.cat.wait_log(" warn  METRICS_LISTEN: it is in use already .*; trying again every 10 s")
        it.broker.connection()
        it.wait(lambda f: f["phase"] == "serve")
        clock.sleep(10)
        it.fine()  # by its answer it has tried again
    it.fine()
    with pytest.raises(ConnectionRefusedError):
        metrics(it)
    clock.sleep(10)
    it.fine()
    assert len(metrics(it)) > 80
    it.cat.stop()
    assert len(it.cat.log.find("METRICS_LISTEN")) == 1


def test_metrics_on_a_foreign_address(lab: Lab):
    it = Told(lab, METRICS_LISTEN="192.0.2.1:9464", STATE_INTERVAL="3600")
    then = "the sandbox leaves no right to try again: restart iamcat then" if SANDBOXED else "trying again every 10 s"
    it.cat.wait_log(rf" warn  METRICS_LISTEN: this machine does not have that address; {then}")
    it.broker.connection()
    it.wait(lambda f: f["phase"] == "serve")
    it.fine()


@pytest.mark.usefixtures("no_sandbox")
def test_no_more_descriptors(lab: Lab):
    """Then nobody is accepted for a while, and the loop does not spin."""
    it = web(lab)
    it.wait(lambda f: f["spare_connections"] == 2)  # no other one is to be opened
    used = {int(fd.name) for fd in pathlib.Path(f"/proc/{it.cat.pid}/fd").iterdir()}
    free = min(set(range(len(used) + 1)) - used)
    _, most = resource.prlimit(it.cat.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(it.cat.pid, resource.RLIMIT_NOFILE, (free, most))
    with socket.create_connection(("127.0.0.1", web_port(it)), timeout=TIMEOUT) as one:
        one.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")

        def ticks() -> int:
            fields = pathlib.Path(f"/proc/{it.cat.pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        before = ticks()
        time.sleep(3)
        assert ticks() - before < 100
        resource.prlimit(it.cat.pid, resource.RLIMIT_NOFILE, (1024, most))
        assert read_all(one).endswith(b"in service\n")
    it.fine()


# ------------------------------------------------------------------------------------------------- in a terminal


def test_watch(lab: Lab):
    it = served(lab)
    watcher = lab.start(Process, "watcher", [IAMCAT, "status", "--watch"], it.dir, it.env, SIGINT)
    watcher.out.wait("^phase +serve", times=3)
    it.cat.stop()
    watcher.out.wait("^no iamcat runs with this configuration$", times=2)
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait() == -signal.SIGINT
    assert "\033" not in "\n".join(watcher.out.lines)


def test_watch_json_is_a_line_each(lab: Lab):
    it = served(lab)
    watcher = lab.start(Process, "watcher", [IAMCAT, "status", "--json", "--watch"], it.dir, it.env, SIGINT)
    watcher.out.wait("^{", times=3)
    up = [json.loads(line)["uptime_seconds"] for line in watcher.out.lines[:3]]
    assert up == sorted(set(up))
    watcher.stop(signal.SIGINT)


def test_colour_on_a_terminal_only(lab: Lab):
    """And there not for who wants none (https://no-color.org)."""
    it = served(lab)
    for args, no_colour in ([], ""), (["--watch"], ""), (["--watch"], "1"):
        ours, theirs = pty.openpty()
        with open(ours, "rb", buffering=0) as terminal:
            there = f'exec "$@" >{os.ttyname(theirs)}'
            running = lab.start(Process, "status", ["sh", "-c", there, "sh", IAMCAT, "status", *args], it.dir,
                                {**it.env, "NO_COLOR": no_colour}, SIGINT)
            shown = b""
            while b"API call" not in shown:
                assert select.select([terminal], [], [], TIMEOUT)[0], shown
                shown += terminal.read(4096)
            if args:
                running.send_signal(signal.SIGINT)
            assert running.wait() == (-signal.SIGINT if args else 0)
            os.close(theirs)
        health = b"in service" if no_colour else b"\033[32min service\033[0m"
        assert b"health              " + health + b"\r\n" in shown
        assert shown.startswith((b"\033[H\033[J" if args else b"") + b"iamcat              0.")
    assert "\033" not in it.run("status").stdout


# ------------------------------------------------------------------------------------------------------- the rest


def test_sigusr1_switches_debug(lab: Lab):
    it = served(lab, LOG_LEVEL="warn")
    for turn in range(2):
        mark = it.cat.log.mark()
        it.cat.send_signal(signal.SIGUSR1)
        it.cat.wait_log(" info  SIGUSR1: the debug log is on", since=mark)
        it.ask()
        it.cat.wait_log(r" debug request \d+: answered", since=mark)
        it.cat.send_signal(signal.SIGUSR1)
        it.figures()  # it has come by then
        quiet = it.cat.log.mark()
        it.ask()
        it.figures()
        assert it.cat.log.lines[quiet:] == []
    assert it.broker.connections == 1


def test_sigusr1_where_debug_is_usual(lab: Lab):
    it = served(lab)
    it.cat.send_signal(signal.SIGUSR1)
    it.cat.wait_log(" info  SIGUSR1: the debug log is off")
    mark = it.cat.log.mark()
    it.ask()
    it.figures()
    assert it.cat.log.lines[mark:] == []
    it.cat.send_signal(signal.SIGUSR1)
    it.cat.wait_log(" info  SIGUSR1: the debug log is on")
    it.ask()
    it.cat.wait_log(" debug request 2: answered")


@pytest.mark.parametrize("args, words", [
    (["status", "--yes"], "unknown argument: --yes"), (["health", "--json"], "unknown argument: --json"),
    (["--json"], "unknown argument: --json"), (["--watch", "status"], "unknown argument: --watch"),
    (["status", "health"], "unknown argument: health"), (["status", "status"], "unknown argument: status"),
    (["health", "-c"], "-c needs a file name"),
])
def test_wrong_arguments(args: list[str], words: str, binaries: None, tmp_path: pathlib.Path):
    done = subprocess.run([IAMCAT, *args], env=PASSED, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (2, "") and words in done.stderr and "usage: " in done.stderr


@pytest.mark.parametrize("command", ["status", "health"])
def test_a_wrong_configuration(command: str, binaries: None, tmp_path: pathlib.Path):
    (tmp_path / "mqtt.env").write_text("MQTT_BROKER_HOST=a:1\nLOG_LEVLE=x\nHEALTH_GRACE=x\n")
    done = subprocess.run([IAMCAT, command], env=PASSED, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stdout) == (2, "")
    *mistakes, hint = done.stderr.splitlines()
    assert [line.split(" (")[0] for line in mistakes] == ["MQTT_BROKER_HOST", "HEALTH_GRACE"]
    assert hint == "The iamcat to ask is found by its configuration: give the same with -c FILE."


def test_the_file_is_where_it_says(lab: Lab):
    """-c FILE stands before or behind the command."""
    it = served(lab)
    text = "".join(f"{name}={value}\n" for name, value in it.env.items() if name not in PASSED)
    (it.dir / "other").write_text(text)
    for args in ["-c", "other", "health"], ["health", "-c", "other"]:
        done = subprocess.run([IAMCAT, *args], env=PASSED, cwd=it.dir, capture_output=True, text=True, timeout=TIMEOUT)
        assert (done.returncode, done.stdout) == (0, "healthy: in service\n"), done
