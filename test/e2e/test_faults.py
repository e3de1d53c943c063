"""What breaks: the broker, the API, the way to either, the clock, the machine. A request is executed at most
once and answered exactly once, and the service goes on. The peers are real ones, but for what only a script
does on purpose."""

import glob
import os
import pathlib
import signal
import subprocess
import threading
import time
import types
from datetime import datetime, timezone
from typing import Any, Callable, Iterator

import pytest

import fake
from apart import apart
from desk import is_answer, scripted_desk, to_bytes
from fake import (CONNECT, PUBACK, PUBLISH, Connection, FakeApi, FakeBroker, Scripted, connack, http_reply,
                  token_claims)
from lab import DEVICE, PASSED, SERIAL, TIMEOUT, Lab, Process, Sleeper, free_port, strict_json
from ledger import Ledger, story, warnings
from pki import ca, dated, leaf
from wire import BOTH, FROM_SERVICE, HERE, TO_SERVICE, Wire

DEAD = r"the broker did not (acknowledge a message|answer a ping)"


def peers(lab: Lab, *gateway_args: str, broker_lines: tuple[str, ...] = (), prefix: str = "iamcat",
          data: pathlib.Path | None = None) -> types.SimpleNamespace:
    """All but iamcat: device, gateway, broker, operator, ledger."""
    device = lab.device()
    gateway = lab.gateway("--accept-ms", "0", *gateway_args, device=device)
    broker = lab.broker(gateway, *broker_lines, data=data)
    operator = lab.operator(broker, gateway, prefix, kept=True)
    return types.SimpleNamespace(device=device, gateway=gateway, broker=broker, operator=operator,
                                 ledger=Ledger(gateway, operator))


def scene(lab: Lab, *gateway_args: str, data: pathlib.Path | None = None, broker_lines: tuple[str, ...] = (),
          **env: str) -> types.SimpleNamespace:
    """All, and cat in service with a state every second."""
    it = peers(lab, *gateway_args, broker_lines=broker_lines, data=data)
    it.cat = lab.iamcat(lab.env(it.broker, it.gateway, **{"STATE_INTERVAL": "1", **env}))
    it.cat.wait_log("in service")
    return it


# ------------------------------------------------------------------------------ the broker, killed and frozen


def freeze(process: Any) -> None:
    """Stops it, and waits until each of its threads stands still."""
    process.send_signal(signal.SIGSTOP)
    tasks = pathlib.Path(f"/proc/{process.pid}/task")
    while any(task.joinpath("stat").read_text().rsplit(")", 1)[1].split()[0] != "T" for task in tasks.iterdir()):
        time.sleep(0.001)


def test_the_broker_is_killed(lab: Lab):
    """One request runs and two wait; others come while there is no broker."""
    data = lab.work_dir("kept")
    it = scene(lab, "--modbus-delay-ms", "500", data=data)
    it.ledger.send(3)
    it.broker.wait_log(rf"Received PUBACK from {SERIAL} \(Mid: 3,")
    it.broker.wait_log("Saving in-memory database", since=it.broker.log.mark())  # it will know that
    it.broker.kill()
    it.ledger.send(3)
    it.cat.wait_log(r" warn  broker \S+: .*trying again in")
    lab.broker(it.gateway, port=it.broker.port, data=data)
    it.cat.wait_log("in service", times=2)
    it.ledger.settle()
    assert story(it.cat, "in service", "trying again in", "discarded") == [
        "in service", "trying again in", "in service"]


def test_the_broker_is_frozen(lab: Lab):
    """Its kernel goes on taking bytes and connections. What was sent to it meanwhile is done later."""
    it = scene(lab, MQTT_KEEPALIVE="5")
    it.ledger.send()
    it.ledger.settle()
    freeze(it.broker)
    it.ledger.send(3)
    it.cat.wait_log(rf" warn  broker \S+: {DEAD}.*trying again in", timeout=2 * TIMEOUT)
    it.broker.send_signal(signal.SIGCONT)
    it.cat.wait_log("in service", times=2, timeout=2 * TIMEOUT)
    it.ledger.settle()
    assert story(it.cat, "in service", "did not", "discarded") == ["in service", "did not", "in service"]


def test_it_is_frozen_itself(lab: Lab):
    """For longer than the keep-alive, while a request is executed. What lies in its socket then is not read, and what
    the broker keeps is from before too long a gap."""
    it = scene(lab, "--modbus-delay-ms", "300", MQTT_KEEPALIVE="5", MQTT_SESSION_WINDOW="1", WEB_CONTAINER_TIMEOUT="60")
    it.ledger.send()
    it.broker.wait_log(rf"Received PUBACK from {SERIAL} ")
    freeze(it.cat)
    thaw = time.monotonic() + 8
    it.ledger.send(3)
    it.broker.wait_log(f"Sending PUBLISH to {SERIAL} ", times=4)
    time.sleep(max(0, thaw - time.monotonic()))
    it.cat.send_signal(signal.SIGCONT)
    it.cat.wait_log(r" warn  broker \S+: held up for longer than the keep-alive; trying again in")
    it.cat.wait_log("in service", times=2)
    it.ledger.settle(without=range(it.ledger.first + 1, it.ledger.next))
    assert it.cat.log.find("discarded; requests in it that are not executed: 3$")
    assert story(it.cat, "in service", "held up", "discarded") == ["in service", "held up", "discarded", "in service"]


# --------------------------------------------------------------------------------- the API, killed and frozen


def fallbacks(it: types.SimpleNamespace, count: int) -> None:
    """So many fallback states come, on successive beats by iamcat's own clock."""
    it.operator.states.clear()
    states = [it.operator.state(suits=lambda s: s["status"] == "api_unavailable") for _ in range(count)]
    gaps = [after["uptime"] - before["uptime"] for before, after in zip(states, states[1:])]
    assert all(0.4 < gap < 1.6 for gap in gaps), gaps


def ask(it: types.SimpleNamespace, address: int) -> Any:
    """The answer's code, or value."""
    response = it.operator.request({"function_code": 3, "device_id": DEVICE, "address": address})["response"]
    return response.get("code", response.get("value"))


def recovers(it: types.SimpleNamespace) -> None:
    it.operator.state(suits=lambda s: s["status"] != "api_unavailable")
    it.cat.wait_log("state: available again")
    assert ask(it, 10056) == 42
    assert len(it.broker.log.find(f"New client connected .* as {SERIAL} ")) == 1


def test_the_api_is_killed(lab: Lab):
    """In the middle of a call, which is not tried again."""
    it = scene(lab, "--modbus-delay-ms", "60000")
    call = it.operator.send({"function_code": 16, "device_id": DEVICE, "address": 1, "values": 7})
    it.cat.wait_log("request 1: GET")
    it.operator.state(suits=lambda s: s.get("status") != "api_unavailable")
    it.gateway.kill()
    assert it.operator.answer(call).json["response"]["code"] == "api_invalid_reply"
    assert ask(it, 2) == "api_unreachable"
    fallbacks(it, 3)
    it.gateway = lab.gateway("--accept-ms", "0", "--port", str(it.gateway.port), device=it.device)
    recovers(it)
    assert [c["text"] for c in it.gateway.calls("modbus") if "address=1&" in c["text"]] == []


def test_the_api_is_frozen(lab: Lab):
    """Its kernel goes on taking connections, until there are too many. What it does when it thaws nobody
    waits for any more; it was told to do it once."""
    it = scene(lab, WEB_CONTAINER_TIMEOUT="1")
    it.operator.state()
    freeze(it.gateway)
    codes = [ask(it, address) for address in range(3000, 3003)]
    assert codes[0] == "api_timeout" and set(codes) <= {"api_timeout", "api_unreachable"}
    fallbacks(it, 3)
    it.gateway.send_signal(signal.SIGCONT)
    recovers(it)
    it.ledger.send()
    it.ledger.settle()
    counts = it.ledger.executed()
    assert all(counts[address] <= 1 for address in range(3000, 3003)), counts


# ---------------------------------------------------------------------------------------------- a bad network


def wired(lab: Lab, *windows: int, delay: float = 0, **env: str) -> list[types.SimpleNamespace]:
    """A scene for each MQTT_SESSION_WINDOW, with iamcat at the other end of a wire. port: the broker's."""
    wire, port = lab.add(Wire()), free_port()
    cert, key = lab.certificate.save(lab.work_dir("wired"), "server")
    it = peers(lab, "--bind", "0.0.0.0", broker_lines=(
        f"listener {port} {HERE}", f"certfile {cert}", f"keyfile {key}"), prefix="window60")
    wire.spoil(port, delay=delay)
    scenes = []
    for window in windows:
        name = f"window{window}"
        one = types.SimpleNamespace(**{**it.__dict__, "wire": wire, "port": port, "name": name})
        if window != 60:
            one.operator = lab.operator(it.broker, it.gateway, name, kept=True)
        one.ledger = Ledger(it.gateway, one.operator, 1000 * (window + 1))
        one.cat = lab.iamcat(lab.env(it.broker, it.gateway, **{
            "MQTT_BROKER_HOST": HERE, "MQTT_BROKER_PORT": str(port), "MQTT_TLS_SERVER_NAME": "localhost",
            "WEB_CONTAINER_HOST": HERE, "MQTT_TOPIC_PREFIX": name, "MQTT_CLIENT_ID": name,
            "MQTT_SESSION_WINDOW": str(window), "STATE_INTERVAL": "1", "MQTT_KEEPALIVE": "5", **env}),
            within=wire.there)
        scenes.append(one)
    for one in scenes:
        one.cat.wait_log("in service", timeout=2 * TIMEOUT)
    return scenes


def connected_once(it: types.SimpleNamespace) -> None:
    assert len(it.broker.log.find(f"New client connected .* as {it.name} ")) == 1
    assert warnings(it.cat) == []


@apart
def test_one_packet_of_a_hundred_is_lost(lab: Lab):
    it, = wired(lab, 60)
    it.wire.spoil(it.port, loss=0.01)
    before = it.wire.lost
    for _ in range(100):
        it.ledger.send(30)
        it.ledger.settle()
        if it.wire.lost - before >= 20:
            break
    assert it.wire.lost - before >= 20
    connected_once(it)


@apart
def test_a_round_trip_takes_1200_ms(lab: Lab):
    it, = wired(lab, 60, delay=0.6)
    it.ledger.send(5)
    it.ledger.settle()
    it.operator.states.clear()
    for _ in range(4):
        assert it.operator.state()["status"] != "api_unavailable"
    connected_once(it)


@pytest.mark.parametrize("way", [FROM_SERVICE, TO_SERVICE], ids=["a request", "an answer"])
@apart
def test_a_reset_in_the_middle_of_a_record(lab: Lab, way: str):
    """The large record that is cut in two is that of a request or of its answer: no other has 500 bytes."""
    it, = wired(lab, 60, STATE_INTERVAL="3600")
    it.operator.state()
    it.wire.spoil(it.port, cut=way, min_bytes=500)
    it.ledger.send(pad="x" * 500)
    it.wire.wait_cut()
    it.cat.wait_log(r" warn  broker \S+: the other side reset the connection.*trying again in")
    it.cat.wait_log("in service", times=2)
    it.ledger.settle()
    assert len(warnings(it.cat)) == 1, warnings(it.cat)


@pytest.mark.parametrize("hole", [BOTH, TO_SERVICE], ids=["nothing passes", "nothing gets out"])
@apart
def test_half_open(lab: Lab, hole: str):
    """Packets vanish, and nobody says so. Requests that come meanwhile are executed later, within the window;
    or at once, when they still get in; and never beyond the window."""
    scenes = wired(lab, 60, 1)
    short, long = scenes
    for it in scenes:
        it.ledger.send()
        it.ledger.settle()
    short.wire.spoil(short.port, hole=hole)
    for it in scenes:
        it.ledger.send(3)
    for it in scenes:
        it.cat.wait_log(rf" warn  broker \S+: {DEAD}", timeout=2 * TIMEOUT)
    for it in scenes:  # when it connects
        it.cat.wait_log(r"the other side does not answer .*trying again in", timeout=2 * TIMEOUT)
    short.wire.spoil(short.port)
    for it in scenes:
        it.cat.wait_log("in service", times=2, timeout=2 * TIMEOUT)
    short.ledger.settle()
    long.ledger.settle(without=range(long.ledger.first, long.ledger.next) if hole == BOTH else range(0))
    for it, discarded in (short, []), (long, ["discarded"]):
        assert story(it.cat, "in service", DEAD, "does not answer", "discarded")[2:] == [
            "does not answer", *discarded, "in service"]
    assert hole != BOTH or long.cat.log.find("discarded; requests in it that are not executed: 3$")


# --------------------------------------------------------------------------------------------------- full


def test_a_full_outbox(lab: Lab):
    """No answer is acknowledged: the next calls are held back, what the queue can't hold is busy at once,
    states go on; and then all that waited is answered, once and in order."""
    held: list[Any] | None = []
    lock = threading.Lock()

    def script(c: Connection) -> None:
        c.ready()
        while packet := c.receive():
            with lock:
                if held is not None and is_answer(packet):
                    held.append(packet)
                else:
                    c.reply(packet)

    def modbus(request: Any) -> bytes:
        address = int(request.query["address"])
        return http_reply({"value": address, "text": "x" * (60000 if address < 3 else 10)})

    desk = scripted_desk(lab, script, modbus=modbus, STATE_INTERVAL="1")
    read = {"function_code": 3, "device_id": "a", "pad": "x" * 150}
    requests = [to_bytes({**read, "address": n}) for n in range(380)]
    for request in requests:
        desk.send(request)
    waiting, busy = [], []
    while not busy or busy[-1] < len(requests) - 1 or len(waiting) < 2:
        answer = desk.take()
        number = strict_json(answer)["request"]["address"]
        response = desk.check(answer, requests[number])
        if "value" in response:
            waiting.append(answer)
        else:
            desk.check_error(response, "busy")
            busy.append(number)
    # An answer that finds room makes room for a later request.
    accepted = sorted(set(range(len(requests))) - set(busy))
    assert busy == sorted(set(busy)) and busy[0] >= 256 and len(accepted) <= busy[0] + len(waiting)
    since = time.monotonic()
    for _ in range(2):
        desk.inbox.take(lambda p: p.kind == PUBLISH and not is_answer(p) and p.at > since, what="state")
    asked = [r.query["address"] for r in desk.api.history if r.path == "/api/inverter/modbus"]
    # The third finds room, or has to wait for it with its reply or before its call, as busy answers take theirs.
    assert len(waiting) <= len(asked) <= 3, "the others wait for room for their answers"
    with lock:
        held, late = None, held
    for packet in late:
        desk.connection.reply(packet)
    waiting += [desk.take() for _ in accepted[len(waiting):]]
    for n, answer in zip(accepted, waiting):
        assert desk.check(answer, requests[n])["value"] == n
    desk.end()
    assert desk.broker.connections == 1


# ----------------------------------------------------------------------------------------------------- clocks


def test_the_clock_jumps(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """To 1970 and 2040 and back, at the start and while it serves: the timestamps follow, and the next
    token's dates; no state comes sooner or later, no connection ends. Certificates last from 1950 to 2049."""
    root = ca(None)
    top, own = (dated(one, root, "500101", "491231") for one in (root, leaf(root)))
    broker, api = lab.add(FakeBroker(own)), lab.add(FakeApi())
    monkeypatch.setitem(PASSED, "ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
    library, = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    file = lab.dir / "clock"

    def jump(year: int) -> Callable[[], float]:
        """Sets the clock; what it says now."""
        to = datetime(year, 6, 1, tzinfo=timezone.utc).timestamp() if year else time.time()
        offset = int(to - time.time())
        (lab.dir / "next").write_text(f"{offset:+d}\n")
        (lab.dir / "next").rename(file)
        return lambda: time.time() + offset

    def near(text: str, clock: Callable[[], float]) -> bool:
        return abs(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() - clock()) < TIMEOUT

    clock = jump(1970)
    cat = lab.iamcat(lab.env(broker, api, MQTT_ROOT_CA_FILE="", MQTT_ROOT_CA=top.cert, STATE_INTERVAL="1",
                             LD_PRELOAD=library, FAKETIME_TIMESTAMP_FILE=str(file), FAKETIME_NO_CACHE="1",
                             FAKETIME_DONT_FAKE_MONOTONIC="1", SANDBOX="off"))
    for number, years in enumerate([(1970, 2040, 1970), (2040, 0, 1970)]):
        connection = broker.connection(number)
        assert abs(token_claims(broker.take(CONNECT).password)["iat"] - clock()) < TIMEOUT
        begun = time.monotonic()
        for year in years:
            clock = jump(year)
            connection.publish("iamcat/modbus/request", fake.READ)
            answer = strict_json(broker.take(PUBLISH, is_answer).payload)
            assert answer["response"]["value"] == 42 and near(answer["timestamp"], clock), (year, answer)
            since = time.monotonic()
            state = broker.take(PUBLISH, lambda p: p.topic == "iamcat/state" and p.at > since + 0.1)
            assert near(strict_json(state.payload)["timestamp"], clock), (year, state.payload)
        states = [p for p in broker.history if p.kind == PUBLISH and not is_answer(p) and p.at > begun]
        assert len(states) <= time.monotonic() - begun + 2
        clock = jump(years[1])
        connection.reset()
    broker.connection(2)
    told = [text for text in warnings(cat) if "clock" not in text]
    assert len(told) == 1 and "reset the connection" in told[0], told  # once a minute
    assert len(cat.log.find("reset the connection")) == 2


def test_the_machine_sleeps(lab: Lab):
    """For an hour, which CLOCK_MONOTONIC does not count. A request runs, one waits for it, one lies in the socket, and
    the broker keeps one: none of the last three is executed."""
    machine, woken = Sleeper(lab), threading.Event()
    requests = [to_bytes({"function_code": 3, "device_id": DEVICE, "address": n}) for n in range(4)]

    def modbus(request: Any) -> bytes:
        woken.wait(TIMEOUT)
        return fake.GOOD_API[request.path]

    def kept(c: Connection) -> None:
        c.expect(CONNECT)
        c.send(connack(0, 1))
        c.publish("iamcat/modbus/request", requests[2], dup=True)
        c.serve()

    it = Scripted(lab, Connection.serve, kept, routes={"/api/inverter/modbus": modbus}, STATE_INTERVAL="3600",
                  **machine.env)
    connection = it.broker.connection()
    for request in requests[:2]:
        connection.publish("iamcat/modbus/request", request)
        it.broker.take(PUBACK)
    it.api.take("/api/inverter/modbus")
    freeze(it.cat)
    connection.publish("iamcat/modbus/request", requests[2])
    machine.sleep(3600)
    it.cat.send_signal(signal.SIGCONT)
    it.cat.wait_log(" warn  broker .*: held up for longer than the keep-alive; trying again in")
    woken.set()
    it.broker.connection(3)
    answers = [strict_json(it.answer(request).payload)["response"] for request in requests[:2]]
    assert [answer["code"] for answer in answers] == ["api_timeout", "stale"]
    assert it.cat.log.find("MQTT_SESSION_WINDOW.* not executed: 1$")
    it.ask(3, requests[3])
    assert [r.query["address"] for r in it.api.history if "modbus" in r.path] == ["0", "3"]


# ------------------------------------------------------------------------------------------------ descriptors


class Limited(Scripted):
    """iamcat may have so many descriptors, 0, 1 and 2 among them, until more are granted."""

    def __init__(self, lab: Lab, limit: int, **env: str) -> None:
        self.limit = limit
        # Off: what belongs to another user does not get other limits.
        super().__init__(lab, STATE_INTERVAL="1", SANDBOX="off", WEB_CONTAINER_SPARES="0", **env)

    def start(self, lab: Lab, env: dict[str, str]) -> Process:
        return lab.iamcat(env, within=["prlimit", f"--nofile={self.limit}:64"])

    def grant(self, limit: int) -> None:
        subprocess.run(["prlimit", f"--nofile={limit}:", f"--pid={self.cat.pid}"], check=True)

    def both(self) -> list[str]:
        """Two calls at a time: their codes, or values."""
        for device in b"A", b"B":
            self.broker.live[-1].publish("iamcat/modbus/request", fake.READ.replace(b"A2332407312", device))
        answers = [strict_json(self.published("modbus/response").payload)["response"] for _ in range(2)]
        return sorted(str(answer.get("code", answer.get("value"))) for answer in answers)


def cpu_s(process: Process) -> float:
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


TOO_MANY = "there are too many open files"


def test_descriptors_are_exhausted(lab: Lab):
    """0, 1, 2, two of the status, the broker's, the state's and two for calls are needed. With none at all for calls the
    service goes on and says what is wrong; and it begins anew when there are some again."""

    def modbus(request: Any) -> Iterator[bytes]:
        time.sleep(0.3)  # the other one runs meanwhile
        yield fake.GOOD_API["/api/inverter/modbus"]

    them = [Limited(lab, limit, routes={"/api/inverter/modbus": modbus}) for limit in (9, 7, 6)]
    enough, one_call, nothing = them
    for it in them:
        it.cat.wait_log("in service", timeout=2 * TIMEOUT)
    assert enough.both() == ["42.0", "42.0"] and not enough.said()
    assert "api_unreachable" in one_call.both()
    for it in them:
        it.grant(3)  # what is open stays open
        assert it.both() == ["api_unreachable"] * 2
        it.cat.wait_log(rf"request \d+: api_unreachable: .*{TOO_MANY} \(error 24\)")
        it.cat.wait_log(rf" warn  gateway API, state: {TOO_MANY}")
    marks = [(it, it.cat.log.mark(), cpu_s(it.cat)) for it in them]
    for it in enough, one_call:
        it.broker.received.clear()
        for _ in range(4):
            assert b"api_unavailable" in it.published("state").payload
    nothing.broker.live[-1].end()  # the last: each further failure may double the time until it is tried again
    nothing.cat.wait_log(rf"token: {TOO_MANY} \(error 24\); trying again in", times=2)
    for it, mark, used in marks:
        assert len(it.cat.log.lines) - mark < 20 and cpu_s(it.cat) - used < 0.5, it.cat.log.tail()
    for it in them:
        it.grant(64)
        it.cat.wait_log("state: available again")
    nothing.broker.connection(1)
    for it in them:
        assert it.both() == ["42.0", "42.0"]


# ----------------------------------------------------------------------------------------------------- tokens


def test_tokens_that_expire(lab: Lab):
    """At three brokers that end a connection when its token expires, 20 s after it was asked for: iamcat
    renews it in time, twice; the next token comes too late; the broker's clock is 11 s ahead."""
    env = {"MQTT_JWT_LIFETIME": "20"}
    good, late = scene(lab, **env), scene(lab, **env)
    ahead = scene(lab, broker_lines=("plugin_opt_early 11",), **env)
    late.gateway.set(jwt_delay_ms=4000)
    went_on = (good, rf"broker_auth: {SERIAL} accepted", 3), (late, "cut off", 1), (ahead, "cut off", 1)
    since = time.monotonic()
    for it, event, times in went_on:
        while len(it.broker.log.find(event)) < times:
            assert time.monotonic() - since < 100, it.broker.log.tail()
            for one in good, late, ahead:
                one.ledger.send()
            time.sleep(0.2)  # any pace does
    for it in late, ahead:
        ended = it.broker.log.lines.index(it.broker.log.find("cut off")[0].string)
        it.broker.wait_log(f"{SERIAL} accepted", since=ended)
    for it, _, _ in went_on:
        it.ledger.settle()
    assert not good.broker.log.find("cut off") and warnings(good.cat) == []
    states = good.operator.states.clear()
    assert [state.json for state in states if state.json.get("status") == "offline"] == []
    gaps = [after.at - before.at for before, after in zip(states, states[1:])]
    assert max(gaps) < 3, gaps  # a second, a second more, and one for slow machines
