"""The session with the broker: who iamcat says it is, tokens, what it does when either side fails, the
state's grid, keep-alive, and how it ends. The peers are scripted, unless a real one shows more."""

import contextlib
import datetime
import json
import os
import re
import signal
import threading
import time
import types
from typing import Any, Callable, Iterator

import pytest

import fake
from fake import (CLOSE, CONNECT, DISCONNECT, PINGREQ, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, READ, RESET,
                  SUBACK, SUBSCRIBE, Connection, Packet, Request, Scripted, connack, hang, http_reply,
                  mqtt_id, mqtt_packet, token_claims, unsigned_token)
from lab import DEVICE, IAMCAT, PASSED, SERIAL, Lab, LabError, Process, free_port, strict_json

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}"
SEVERAL = [READ.replace(b"10056", b"%d" % address) for address in range(8)]  # requests that can be told apart


def claims(packet: Packet) -> dict[str, Any]:
    return token_claims(packet.password)


def form(packet: Packet) -> str:
    """How the dates in the token of this CONNECT are written."""
    return "iso8601" if isinstance(claims(packet)["exp"], str) else "numeric"


def refuse(code: int) -> Callable[[Connection], None]:
    def script(c: Connection) -> None:
        c.expect(CONNECT)
        c.send(connack(code))
        c.serve()

    return script


def served_then(end: Callable[[Connection], None]) -> Callable[[Connection], None]:
    def script(c: Connection) -> None:
        c.ready()
        end(c)

    return script


def good_but_for(kind: int) -> Callable[[Connection], None]:
    """A broker that never answers one kind of packet."""

    def script(c: Connection) -> None:
        while packet := c.receive():
            if packet.kind != kind:
                c.reply(packet)

    return script


def held(event: threading.Event, then: Any) -> Callable[[Request], Any]:
    """A route that answers when the event has come."""
    return lambda request: event.wait(20) and then


def first(reply: Any, then: Any = None) -> Callable[[Request], Any]:
    """A route that answers so once, and then as a good one."""
    replies = iter([reply])

    def route(request: Request) -> Any:
        answer = next(replies, then or fake.GOOD_API[request.path])
        return answer(request) if callable(answer) else answer

    return route


# ------------------------------------------------------------------------------------------------- connecting


@pytest.mark.parametrize("env, client_id, user, password, keep_alive", [
    ({}, SERIAL, SERIAL, None, 60),
    ({"MQTT_CLIENT_ID": "roof 7", "MQTT_KEEPALIVE": "65535"}, "roof 7", SERIAL, None, 65535),
    ({"MQTT_USERNAME": "me", "MQTT_PASSWORD": "päß wört", "MQTT_KEEPALIVE": "5"},
     SERIAL, "me", "päß wört", 5),
    ({"MQTT_USERNAME": "me", "MQTT_PASSWORD": "~", "MQTT_CLIENT_ID": "x"}, "x", "me", "~", 60),
], ids=["the gateway", "client id", "login", "login and client id"])
def test_connect_says_who_it_is(env, client_id, user, password, keep_alive, lab: Lab):
    it = Scripted(lab, **env)
    it.broker.connection()
    hello = it.broker.take(CONNECT)
    assert (hello.client_id, hello.user, hello.keep_alive) == (client_id, user, keep_alive)
    topic, message, qos, retain = hello.will
    assert not hello.clean and (topic, qos, retain) == ("iamcat/state", 1, False)
    will = json.loads(message)
    assert will.pop("timestamp") and will.pop("version")
    assert will == {"type": "gateway_state", "status": "offline", "gateway": SERIAL}
    asked = [r.path for r in it.api.history if r.path != "/api/state"]
    if password:
        assert hello.password.decode() == password and asked == ["/api/crypto"]
    else:
        assert claims(hello)["sub"] == SERIAL and asked == ["/api/crypto", "/api/jwt/create"]


def test_subscribes_and_publishes_at_qos_1(lab: Lab):
    it = Scripted(lab, STATE_INTERVAL="1")
    it.broker.connection()
    subscribed = [p.topics for p in it.broker.history if p.kind == SUBSCRIBE]
    assert subscribed == [[("iamcat/modbus/request", 1)]]
    it.ask()
    it.published("state")
    sent = [p for p in it.broker.history if p.kind == PUBLISH]
    assert {p.topic for p in sent} == {"iamcat/modbus/response", "iamcat/state"}
    assert {(p.qos, p.retain, p.dup) for p in sent} == {(1, False, False)}
    assert len({p.packet_id for p in sent}) == len(sent)


@pytest.mark.parametrize("dates, lifetime", [("numeric", 300), ("iso8601", 300), ("auto", 86400)])
def test_the_token_that_is_asked_for(dates: str, lifetime: int, lab: Lab):
    env = {"MQTT_JWT_LIFETIME": str(lifetime)} if lifetime != 300 else {}
    it = Scripted(lab, MQTT_JWT_DATES=dates, **env)
    asked, hello = it.api.take("/api/jwt/create"), it.broker.take(CONNECT)
    body = json.loads(asked.body)
    assert asked.method == "POST" and asked.headers["content-type"] == "application/json"
    assert body == {"barn": claims(hello), "headers": {"alg": "ES256", "typ": "JWT"}, "expires_in": 5}
    assert set(body["barn"]) == {"sub", "iat", "exp"} and body["barn"]["sub"] == SERIAL
    iat, exp = body["barn"]["iat"], body["barn"]["exp"]
    if dates == "iso8601":
        assert all(re.fullmatch(TIME + r"\+00:00", date) for date in (iat, exp))
        iat, exp = (datetime.datetime.fromisoformat(date).timestamp() for date in (iat, exp))
    assert exp - iat == lifetime and abs(iat - time.time()) < 20


def test_every_connection_gets_a_fresh_token(lab: Lab):
    number = iter(range(100))

    def numbered(_request: Request) -> bytes:
        return http_reply({"jwt": f"{unsigned_token(_request)[-20:-4].hex()}.{next(number)}.x"})

    it = Scripted(lab, served_then(Connection.end), served_then(Connection.end),
                  routes={"/api/jwt/create": numbered})
    it.broker.connection(2)
    assert [token.split(".")[1] for token in it.tokens()] == ["0", "1", "2"]
    assert [r.path for r in it.api.history].count("/api/crypto") == 1


REFUSED = {1: "the protocol version", 2: "the client id", 3: "is not available",
           4: "user name or password", 5: "does not authorise"}


@pytest.mark.parametrize("code, dates, now", [
    (1, "auto", "numeric"), (2, "auto", "numeric"), (3, "auto", "numeric"), (4, "auto", "iso8601"),
    (5, "auto", "iso8601"), (4, "numeric", "numeric"), (5, "iso8601", "iso8601")])
def test_a_refusal_is_explained_and_tried_again(code: int, dates: str, now: str, lab: Lab):
    it = Scripted(lab, refuse(code), MQTT_JWT_DATES=dates)
    it.broker.connection(1)
    it.cat.wait_log("in service")
    warned = it.said()
    assert len(warned) == 1 and REFUSED[code] in warned[0] and f"(error {code})" in warned[0], warned
    assert f"broker localhost:{it.broker.port}: " in warned[0] and "trying again in" in warned[0]
    assert form(it.broker.history[-2 if it.broker.history[-1].kind == SUBSCRIBE else 1]) == now
    assert any("ISO 8601" in text for text in it.said("info")) == (dates == "auto" and code >= 4)


@pytest.mark.parametrize("scripts, forms", [
    ([refuse(4), served_then(Connection.end)], ["numeric", "iso8601", "iso8601"]),
    ([refuse(5), refuse(4)], ["numeric", "iso8601", "numeric"]),
], ids=["keeps what was accepted", "flips back"])
def test_auto_dates(scripts, forms: list[str], lab: Lab):
    it = Scripted(lab, *scripts)
    it.broker.connection(2)
    assert [form(p) for p in it.broker.history if p.kind == CONNECT] == forms


@pytest.mark.parametrize("accepted, dates, refusals", [
    ("numeric", "auto", 0), ("iso8601", "auto", 1), ("iso8601", "iso8601", 0), ("iso8601", "numeric", None)])
def test_dates_with_a_real_broker(accepted: str, dates: str, refusals: int | None, lab: Lab):
    gateway = lab.gateway("--accept-ms", "0")
    broker = lab.broker(gateway, f"plugin_opt_dates {accepted}")
    cat = lab.iamcat(lab.env(broker, gateway, MQTT_JWT_DATES=dates))
    if refusals is None:
        broker.wait_log(f"broker_auth: {SERIAL} refused", times=2)
    else:
        assert broker.wait_subscribed(cat) == SERIAL
    assert not cat.log.find("in service") or refusals is not None
    assert len(broker.log.find(f"broker_auth: {SERIAL} refused")) == (2 if refusals is None else refusals)


def test_prefix_with_the_serial_number(lab: Lab):
    prefix = "fleet/{serial}/x"
    device = lab.device()
    gateway = lab.gateway("--accept-ms", "0", device=device)
    broker = lab.broker(gateway)
    operator = lab.operator(broker, gateway, prefix=prefix.replace("{serial}", SERIAL))
    mark = broker.log.mark()
    cat = lab.iamcat(lab.env(broker, gateway, MQTT_TOPIC_PREFIX=prefix, STATE_INTERVAL="1"))
    broker.wait_subscribed(cat, since=mark)
    assert operator.request(json.loads(READ))["response"]["value"] == 42
    assert operator.state()["type"] == "gateway_state"


OUTSIDE = "s3cr3t\x1b[31m\né"  # must be in no log line


@pytest.mark.parametrize("path, reply, words", [
    ("/api/crypto", http_reply({"error": OUTSIDE}, "500 Oops"), "error status (error 500)"),
    ("/api/crypto", http_reply([OUTSIDE]), "not a JSON object"),
    ("/api/crypto", http_reply(OUTSIDE.encode()), "not a JSON object"),
    ("/api/crypto", http_reply({"serial": OUTSIDE}), "lacks the expected text"),
    ("/api/crypto", http_reply({"serialNumber": 17}), "lacks the expected text"),
    ("/api/crypto", http_reply({"serialNumber": ""}), "empty or has characters"),
    ("/api/crypto", http_reply({"serialNumber": OUTSIDE}), "empty or has characters"),
    ("/api/crypto", http_reply({"serialNumber": "a/b"}), "empty or has characters"),
    ("/api/crypto", http_reply({"serialNumber": "#"}), "empty or has characters"),
    ("/api/crypto", http_reply({"serialNumber": "a\0b"}), "empty or has characters"),
    ("/api/crypto", http_reply({"serialNumber": "s" * 65}), "too long"),
    ("/api/crypto", lambda r: [CLOSE], "closed the connection"),
    ("/api/crypto", lambda r: [RESET], "reset the connection"),
    ("/api/jwt/create", http_reply({"error": OUTSIDE}, "400 Bad"), "error status (error 400)"),
    ("/api/jwt/create", http_reply({"jwt": None}), "lacks the expected text"),
    ("/api/jwt/create", http_reply({"jwt": ""}), "empty or has characters"),
    ("/api/jwt/create", http_reply({"jwt": OUTSIDE}), "empty or has characters"),
    ("/api/jwt/create", http_reply({"jwt": "s3cr3t" * 700}), "too long"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_useless_serial_number_or_token(path: str, reply: Any, words: str, lab: Lab):
    it = Scripted(lab, routes={path: first(reply)})
    it.broker.connection()
    what = "serial number" if path == "/api/crypto" else "token"
    told = [text for text in it.said() if "state" not in text]
    assert len(told) == 1 and f"localhost:{it.api.port}, {what}: " in told[0] and words in told[0], told
    assert not [line for line in it.cat.log.lines if "s3cr3t" in line]
    assert len(it.tokens()) == 1


# -------------------------------------------------------------------------------------------------- receiving


def test_a_request_may_come_before_suback(lab: Lab):
    def early(c: Connection) -> None:
        c.reply(c.expect(CONNECT))
        subscribe = c.expect(SUBSCRIBE)
        c.publish("iamcat/modbus/request", READ, packet_id=9)
        assert c.expect(PUBACK).packet_id == 9
        c.reply(subscribe)
        c.serve()

    it = Scripted(lab, early)
    it.answer()
    assert not it.said()


def test_duplicates(lab: Lab):
    """A copy of a QoS 1 request, with DUP and the same packet id, is acknowledged and not executed again. QoS 2,
    which nobody asked for, is exactly once; its packet id is free again after PUBCOMP."""

    def twice(c: Connection) -> None:
        c.ready()
        for dup in False, True:
            c.publish("iamcat/modbus/request", SEVERAL[1], packet_id=7, dup=dup)
        for dup in False, True:
            c.publish("iamcat/modbus/request", SEVERAL[2], qos=2, packet_id=8, dup=dup)
        assert [c.expect(PUBREC).packet_id for _ in range(2)] == [8, 8]
        for _ in range(2):
            c.send(mqtt_packet(PUBREL, mqtt_id(8), 2))
            assert c.expect(PUBCOMP).packet_id == 8
        c.publish("iamcat/modbus/request", SEVERAL[3], qos=2, packet_id=8)
        c.serve()

    it = Scripted(lab, twice)
    it.answer(SEVERAL[3])
    assert [p.packet_id for p in it.broker.history if p.kind == PUBACK] == [7, 7]
    answers = [p.payload for p in it.broker.history if p.kind == PUBLISH and p.topic.endswith("/response")]
    assert [sum(request in a for a in answers) for request in SEVERAL[1:4]] == [1, 1, 1]


def test_subscription_refused(lab: Lab):
    def refused(c: Connection) -> None:
        c.reply(c.expect(CONNECT))
        c.send(mqtt_packet(SUBACK, mqtt_id(c.expect(SUBSCRIBE).packet_id) + b"\x80"))
        c.serve()

    it = Scripted(lab, refused)  # the next try is up to half a minute later
    it.cat.wait_log("refuses the subscription.*; trying again in")
    assert len(it.said()) == 1


# ----------------------------------------------------------------------------------------------- the session


def test_no_will(lab: Lab):
    it = Scripted(lab, MQTT_WILL="off")
    it.broker.connection()
    assert it.broker.take(CONNECT).will is None
    it.cat.stop()
    assert b"offline" not in b"".join(p.payload for p in it.broker.history if p.kind == PUBLISH)


def test_a_clean_stop_says_offline(lab: Lab):
    it = Scripted(lab)
    it.broker.connection()
    it.ask()
    it.cat.stop()
    *_, last, bye = it.broker.history
    assert json.loads(last.payload)["status"] == "offline" and bye.kind == DISCONNECT


def kept_session(c: Connection) -> None:
    """The broker has kept the session, and a request in it."""
    c.expect(CONNECT)
    c.send(connack(0, 1))
    c.publish("iamcat/modbus/request", SEVERAL[1], packet_id=7)
    c.serve()


def test_a_stale_session_is_discarded(lab: Lab):
    """From before the start of the program: acknowledged, but not executed, and one connection discards it."""
    it = Scripted(lab, kept_session)
    it.broker.connection(2)
    it.ask(2)
    assert [p.clean for p in it.broker.history if p.kind == CONNECT] == [False, True, False]
    assert [p.packet_id for p in it.broker.history if p.kind == PUBACK and p.connection == 0] == [7]
    it.cat.wait_log(r"MQTT_SESSION_WINDOW.*not executed: 1")
    assert [r.path for r in it.api.history].count("/api/inverter/modbus") == 1  # what was asked later


def test_a_short_gap_loses_nothing(lab: Lab):
    it = Scripted(lab, served_then(Connection.end), kept_session)
    it.broker.connection(1)
    it.answer(SEVERAL[1])
    assert [p.clean for p in it.broker.history if p.kind == CONNECT] == [False, False]


def test_what_waits_over_a_long_gap_is_stale(lab: Lab):
    """One request is being executed when the broker goes, and one waits for that in the queue."""
    release, back = threading.Event(), threading.Event()
    it = Scripted(lab, Connection.serve, lambda c: (back.wait(20), c.serve()), MQTT_SESSION_WINDOW="1",
                  STATE_INTERVAL="1", routes={"/api/inverter/modbus": held(release, http_reply({"value": 7}))})
    connection = it.broker.connection()
    for request in SEVERAL[:2]:
        connection.publish("iamcat/modbus/request", request)
        it.broker.take(PUBACK)
    it.api.take("/api/inverter/modbus")
    connection.end()
    it.cat.wait_log("trying again in")
    it.api.received.clear()
    for _ in range(3):
        it.api.take("/api/state")  # more than a second goes by
    release.set()
    it.cat.wait_log("request 2: stale")
    back.set()
    answers = [strict_json(it.answer(request).payload)["response"] for request in SEVERAL[:2]]
    assert answers[0] == {"value": 7} and answers[1]["code"] == "stale" and not answers[1]["success"]
    it.ask(1, SEVERAL[2])
    assert [r.query["address"] for r in it.api.history if "modbus" in r.path] == ["0", "2"]


@pytest.mark.parametrize("addresses, ids", [
    ((3, 4, 5), (1, 2, 3)), ((4, 4), (4, 5)), ((1, 2, 3, 4, 1), (1, 2, 3, 4, 5)),
], ids=["RabbitMQ", "ids are kept", "nothing was acknowledged"])
def test_copies_over_another_connection(addresses: tuple[int, ...], ids: tuple[int, ...], lab: Lab):
    """Of requests 1 to 4, with these packet ids; the last one did not come before, though it looks so.
    RabbitMQ counts its packet ids from 1 on each connection."""

    def once(c: Connection) -> None:
        c.ready()
        for n in range(1, 5):
            c.publish("iamcat/modbus/request", SEVERAL[n])
            while c.receive().kind != PUBACK:
                pass  # a broker that acknowledges an answer has had what came before it
        c.end()

    def again(c: Connection) -> None:
        c.expect(CONNECT)
        c.send(connack(0, 1))
        for address, packet_id in zip(addresses, ids):
            c.publish("iamcat/modbus/request", SEVERAL[address], packet_id=packet_id, dup=True)
        c.serve()

    it = Scripted(lab, once, again)
    it.broker.connection(1)
    it.ask(1, SEVERAL[7])
    calls = [int(r.query["address"]) for r in it.api.history if r.path == "/api/inverter/modbus"]
    assert calls == [1, 2, 3, 4, addresses[-1], 7]


def test_the_token_is_renewed_before_it_expires(lab: Lab):
    """It takes 18 s: tokens live for 20 s at least. The next one is fetched first, then DISCONNECT."""
    it = Scripted(lab, MQTT_JWT_LIFETIME="20", STATE_INTERVAL="1")
    it.broker.connection()
    hello = it.broker.take(CONNECT)
    after = it.broker.take(CONNECT, timeout=30)
    first, second = claims(hello), claims(after)
    assert 17 <= second["iat"] - first["iat"] < 20
    assert [p for p in it.broker.history if p.kind == DISCONNECT] and not it.said()
    states = [p.at for p in it.broker.history if p.kind == PUBLISH] + [it.broker.take(PUBLISH).at]
    assert max(later - sooner for sooner, later in zip(states, states[1:])) < 3, "one may be late, none is missing"


# ---------------------------------------------------------------------------------------------- when it fails


LOST = {
    "close_notify": (Connection.end, "the server ended the connection"),
    "no close_notify": (lambda c: c.end(notify=False), "the server closed the connection"),
    "reset": (Connection.reset, "the other side reset the connection"),
}


@pytest.mark.parametrize("how", LOST)
def test_broker_lost_later(how: str, lab: Lab):
    end, words = LOST[how]
    it = Scripted(lab, served_then(end), routes={"/api/state": hang})  # there is nothing to publish
    it.broker.connection(1)
    it.ask(1)
    it.cat.wait_log("in service", times=2)
    assert len(it.said()) == 1 and words in it.said()[0] and "trying again in" in it.said()[0], it.said()
    assert [m[1] for m in it.cat.log.find("(in service|trying again)")] == [
        "in service", "trying again", "in service"]


@pytest.mark.parametrize("which", ["broker", "api"])
def test_peer_down_at_start(which: str, lab: Lab):
    it = Scripted(lab, deaf=which)
    it.cat.wait_log(r" warn  .*nothing listens there.*trying again in")
    getattr(it, which).listen()
    it.broker.connection()
    it.ask()
    assert len([text for text in it.said() if "state: " not in text]) == 1, it.said()


@pytest.mark.parametrize("which, words", [("broker", r"broker \S+: the connection was refused"),
                                          ("api", r"gateway API \S+, token: the connection was refused")])
def test_peer_down_later(which: str, words: str, lab: Lab):
    it = Scripted(lab, STATE_INTERVAL="3600", WEB_CONTAINER_SPARES="0")  # deaf() leaves those there alone
    first_one = it.broker.connection()
    it.cat.wait_log("in service")
    peer = getattr(it, which)
    peer.deaf()
    first_one.end()
    it.cat.wait_log(f" warn  {words}")
    peer.listen()
    it.broker.connection(1)
    it.ask(1)
    assert len(it.said()) == 2, it.said()  # lost, and refused


def test_api_down_later_leaves_the_session_alone(lab: Lab):
    it = Scripted(lab, STATE_INTERVAL="1", WEB_CONTAINER_SPARES="0")
    it.broker.connection()
    it.published("state", lambda p: b"fake" in p.payload)
    it.api.deaf()
    assert it.ask()["response"]["code"] == "api_unreachable"
    for _ in range(2):
        it.published("state", lambda p: b"api_unavailable" in p.payload)
    it.api.listen()
    it.published("state", lambda p: b"api_unavailable" not in p.payload and p.at > time.monotonic() - 1)
    it.cat.wait_log("state: available again")
    assert it.ask()["response"]["value"] == 42
    told = [text for text in it.said() if "state: " in text]
    assert len(told) == 1 and "nothing listens there" in told[0] and "until it is back" in told[0], told
    assert it.broker.connections == 1


def test_real_broker_restarts(lab: Lab):
    bridge = lab.bridge("--accept-ms", "0")
    bridge.broker.kill()
    broker = lab.broker(bridge.gateway, port=bridge.broker.port)
    broker.wait_log(f"Sending SUBACK to {SERIAL}")
    assert bridge.operator.result.get(timeout=20) == ""  # is back, too
    assert bridge.operator.request(json.loads(READ))["response"]["value"] == 42


def test_a_failure_is_told_once_and_backed_off(lab: Lab):
    """The bounds of the waits double, and the waits vary (full jitter). Eight programs, as a third wait of up
    to 4 s may be under 1 s by chance: for all of them, once in 65536 runs."""
    nobody = types.SimpleNamespace(port=free_port())
    cats = [lab.iamcat(lab.env(nobody, nobody, STATE_INTERVAL="3600")) for _ in range(8)]
    waits = []
    for cat in cats:
        cat.wait_log("serial number: .*trying again", times=3)
        tries = cat.log.find(rf"^({TIME})Z (warn |debug) gateway API \S+, serial number: the connection was "
                             r"refused \(nothing listens there\) \(error 111\); trying again in (\d+\.\d) s$")
        assert [m[2] for m in tries[:3]] == ["warn ", "debug", "debug"]
        waits.append([float(m[3]) for m in tries[:3]])
        at = [datetime.datetime.fromisoformat(m[1]).timestamp() for m in tries[:3]]
        assert all(later - sooner >= wait for sooner, later, wait in zip(at, at[1:], waits[-1])), (at, waits)
    assert all(wait <= 2 ** k for row in waits for k, wait in enumerate(row)), waits
    assert max(row[2] for row in waits) > 1 and len({row[0] for row in waits}) > 1, waits


@pytest.mark.parametrize("present", [0, 1], ids=["no session kept", "session kept"])
def test_answers_are_kept_until_acknowledged(present: int, lab: Lab):
    def swallow(c: Connection) -> None:
        c.ready()
        for request in SEVERAL[:2]:
            c.publish("iamcat/modbus/request", request)
        answers = 0
        while answers < 2:
            packet = c.receive()
            answers += packet.kind == PUBLISH and packet.topic.endswith("/response")
        c.end()

    def acknowledge(c: Connection) -> None:
        c.expect(CONNECT)
        c.send(connack(0, session_present=present))
        for _ in range(2):
            c.reply(c.expect(PUBLISH, lambda p: p.topic.endswith("/response")))
        c.end()

    it = Scripted(lab, swallow, acknowledge)
    it.broker.connection(2)
    it.ask(2, SEVERAL[2])
    answers = [p for p in it.broker.history if p.kind == PUBLISH and p.topic.endswith("/response")]
    assert [p.connection for p in answers] == [0, 0, 1, 1, 2]
    assert [p.payload for p in answers[:2]] == [p.payload for p in answers[2:4]]
    assert [p.dup for p in answers] == [False, False, bool(present), bool(present), False]
    assert not present or [p.packet_id for p in answers[:2]] == [p.packet_id for p in answers[2:4]]
    assert [r.path for r in it.api.history].count("/api/inverter/modbus") == 3


# -------------------------------------------------------------------------------------------------- the state


def keep_time(starts: Iterator[float], beat: float) -> None:
    """Soon two gaps in a row are as long as the beat. (On a machine under load any may be longer or shorter.)"""
    came = [next(starts), next(starts)]
    while len(came) < 20:
        came.append(next(starts))
        if all(abs(later - sooner - beat) < 0.2 for sooner, later in zip(came[-3:], came[-2:])):
            return
    raise LabError(f"no beat of {beat} s: {came}")


@pytest.mark.parametrize("delay_ms, beat", [(300, 1), (1300, 2)],
                         ids=["on every beat", "unless one is running"])
def test_the_grid(delay_ms: int, beat: int, lab: Lab):
    gateway = lab.gateway("--accept-ms", "0", "--state-delay-ms", str(delay_ms))
    broker = lab.add(fake.FakeBroker(lab.certificate))
    lab.iamcat(lab.env(broker, gateway, STATE_INTERVAL="1"))

    def starts() -> Iterator[float]:
        while True:
            assert b"api_unavailable" not in broker.take(PUBLISH).payload
            yield [c["start_ms"] / 1000 for c in gateway.calls("state") if c["end_ms"]][-1]

    keep_time(starts(), beat)
    calls = [c for c in gateway.calls("state") if c["end_ms"]]
    assert all(later["start_ms"] >= sooner["end_ms"] for sooner, later in zip(calls, calls[1:]))


def test_a_fetch_that_ends_with_the_beat_does_not_cost_it(lab: Lab):
    """The time for a call is a multiple of the interval, as by default. No state ever comes."""
    it = Scripted(lab, STATE_INTERVAL="1", WEB_CONTAINER_TIMEOUT="2", routes={"/api/state": hang})
    starts = [it.api.take("/api/state").at for _ in range(4)]
    gaps = sorted(later - sooner for sooner, later in zip(starts, starts[1:]))
    assert gaps[1] < 2.6, starts  # most are 2 s, and not 3


def test_a_slow_api_delays_no_state(lab: Lab):
    release = threading.Event()
    it = Scripted(lab, STATE_INTERVAL="1", WEB_CONTAINER_TIMEOUT="300",
                  routes={"/api/inverter/modbus": held(release, http_reply({}))})
    connection = it.broker.connection()
    for device in b"A", b"B", b"B", b"C":
        connection.publish("iamcat/modbus/request", READ.replace(b"A2332407312", device))
    for _ in range(2):
        it.api.take("/api/inverter/modbus")  # two hang, two wait
    since = time.monotonic()
    for _ in range(4):
        assert b"fake" in it.published("state", lambda p: p.at > since).payload
    assert [r.path for r in it.api.history].count("/api/inverter/modbus") == 2
    release.set()
    for _ in range(4):
        it.published("modbus/response")


def test_only_the_newest_state_goes_out_after_connecting(lab: Lab):
    """Numbered states; those that came while the broker was away are forgotten, and so is one that it never
    acknowledged."""
    number = iter(range(1000))
    it = Scripted(lab, served_then(lambda c: (c.expect(PUBLISH), c.end())), STATE_INTERVAL="1",
                  routes={"/api/state": lambda r: http_reply({"n": next(number)})})

    def n(packet: Packet) -> int:
        return json.loads(packet.payload)["n"]

    swallowed = n(it.published("state"))
    it.broker.deaf()
    asked = len([r for r in it.api.history if r.path == "/api/state"])
    while len([r for r in it.api.history if r.path == "/api/state"]) < asked + 3:
        it.api.take("/api/state")
    it.broker.listen()
    hello = it.broker.take(SUBSCRIBE, lambda p: p.connection > 0)
    asked = [r for r in it.api.history if r.path == "/api/state" and r.at < hello.at]
    came = [it.published("state") for _ in range(2)]
    assert n(came[0]) >= len(asked) - 2 > swallowed  # the last one may be under way
    assert n(came[1]) == n(came[0]) + 1


def test_the_newest_state_goes_out_right_after_connecting(lab: Lab):
    """The next beat would come in an hour."""
    known, fetched = threading.Event(), threading.Event()

    def serial(_request: Request) -> Any:
        yield fake.GOOD_API["/api/crypto"]

    def token(request: Request) -> bytes:
        known.set()  # the serial number is, by now
        return unsigned_token(request)

    def state(_request: Request) -> Any:
        known.wait(20)
        yield http_reply({"mode": "offline"})
        fetched.set()

    def late(c: Connection) -> None:
        c.expect(CONNECT)
        fetched.wait(20)
        time.sleep(0.2)  # iamcat reads the state's end before CONNACK
        c.send(connack())
        c.serve()

    it = Scripted(lab, late, STATE_INTERVAL="3600", routes={
        "/api/crypto": serial, "/api/jwt/create": token, "/api/state": state})
    assert b'"mode": "offline"' in it.published("state", timeout=5).payload


STATE_START = rb'\{"timestamp": "' + TIME.encode() + rb'Z", "type": "gateway_state"'


@pytest.mark.parametrize("state, rest", [
    (b"{}", b"}"),
    (b'{"timestamp": 1700000000000, "type": 1, "a": 1}', b', "a": 1}'),
    (b'{"type": "x", "a": 1, "type": [], "timestamp": {}, "timestamp": null}', b', "a": 1}'),
    (rb'{"t\u0079pe": 1, "\u0074\u0069\u006d\u0065\u0073\u0074\u0061\u006D\u0070": 2, "\u0074ype": 3}',
     b"}"),
    (b'{"Type": 1, "typ": 2, "types": 3, "": 4, "time stamp": 5}',
     b', "Type": 1, "typ": 2, "types": 3, "": 4, "time stamp": 5}'),
    (b'{"in": {"type": 1, "timestamp": [{"type": 2}]}}', b', "in": {"type": 1, "timestamp": [{"type": 2}]}}'),
    (rb'{"a": 0.10, "b": 12345678901234567890, "c": "\u00e9\"", "d": -1E+2}',
     rb', "a": 0.10, "b": 12345678901234567890, "c": "\u00e9\"", "d": -1E+2}'),
    (b'{"a": NaN, "b": [-Infinity, Infinity], "status": "online"}',
     b', "a": null, "b": [null, null], "status": "online"}'),
], ids=["empty", "own members", "twice", "escaped", "others alike", "nested", "as written", "NaN"])
def test_the_state_as_it_is_published(state: bytes, rest: bytes, lab: Lab):
    it = Scripted(lab, STATE_INTERVAL="1", routes={"/api/state": http_reply(state)})
    payload = it.published("state").payload
    assert re.fullmatch(STATE_START + re.escape(rest), payload), payload


HANGS = "it did not answer in time"


@pytest.mark.parametrize("reply, words", [
    (http_reply({"status": "online"}, "500 Oops"), "error status (status 500)"),
    (http_reply({"status": "online"}, "302 Found"), "error status (status 302)"),
    (http_reply([1]), "not a JSON object"),
    (http_reply(b"null"), "not a JSON object"),
    (http_reply(b'"online"'), "not a JSON object"),
    (http_reply(b"<html>\x1b[31m\n"), "(status 200)"),
    (http_reply(b'{"status": "online",}'), "(status 200)"),
    (http_reply(b""), "(status 200)"),
    (http_reply({"long": "x" * 70000}), "state: "),
    (http_reply({"status": "online"})[:-1], "state: "),
    (lambda r: [CLOSE], "state: "),
    (lambda r: [RESET], "the other side reset the connection"),
    (hang, HANGS),
], ids=["500", "302", "array", "null", "string", "HTML", "comma", "empty", "huge", "cut", "closed", "reset",
        "hangs"])
def test_fallback_state(reply: Any, words: str, lab: Lab):
    began = time.monotonic()
    it = Scripted(lab, STATE_INTERVAL="1", WEB_CONTAINER_TIMEOUT="1", routes={"/api/state": reply})
    packet = it.published("state")
    uptime = re.fullmatch(STATE_START + (
        rb', "status": "api_unavailable", "uptime": (\d+\.\d{3}), "version": "([^"]+)", '
        rb'"error": "Failed to fetch state from web container"\}'), packet.payload)
    assert uptime and 0 <= float(uptime[1]) < packet.at - began, packet.payload
    version = lab.add(Process("version", [IAMCAT, "--version"], lab.dir))
    assert version.wait() == 0 and version.out.lines[0] == f"iamcat {uptime[2].decode()}"
    it.cat.wait_log("gateway API, state: ")
    told = [text for text in it.said() if "gateway API, state: " in text]
    assert len(told) == 1 and words in told[0], told
    assert words != HANGS or float(uptime[1]) >= 1


# ------------------------------------------------------------------------------------------------- keep-alive


def test_pings_when_silent_whatever_the_api_does(lab: Lab):
    """Every call hangs. No 5 s pass between two packets (MQTT-3.1.2-23)."""
    it = Scripted(lab, MQTT_KEEPALIVE="5", STATE_INTERVAL="3600", WEB_CONTAINER_TIMEOUT="300",
                  routes={"/api/state": hang, "/api/inverter/modbus": hang})
    connection = it.broker.connection()
    for device in b"A", b"B", b"C":
        connection.publish("iamcat/modbus/request", READ.replace(b"A2332407312", device))
    pings = [it.broker.take(PINGREQ) for _ in range(2)]
    sent = [p.at for p in it.broker.history]
    assert all(later - sooner < 5 for sooner, later in zip(sent, sent[1:])), sent
    assert pings[1].at - pings[0].at > 2 and it.broker.connections == 1


SILENT = {
    "did not answer CONNECT": lambda c: (c.expect(CONNECT), c.stall()),
    "did not answer SUBSCRIBE": lambda c: (c.expect(SUBSCRIBE), c.stall()),
    "did not acknowledge a message": good_but_for(PUBLISH),
    "did not answer a ping": good_but_for(PINGREQ),
    "the TLS handshake took too long": Connection.stall,
}


def test_a_dead_broker_is_noticed(lab: Lab):
    """All at a time, since each needs the 10 s that a broker has for an answer, and the ping the 2.5 s before
    it is due."""
    them = {words: Scripted(lab, script, MQTT_KEEPALIVE="5", STATE_INTERVAL="3600")
            for words, script in SILENT.items()}
    for words, it in them.items():
        if words == "did not acknowledge a message":
            it.broker.connection()
            it.broker.live[0].publish("iamcat/modbus/request", READ)
    for words, it in them.items():
        it.cat.wait_log(f" warn  broker localhost:{it.broker.port}: (the broker )?{words}")
        it.broker.connection(1)
        it.cat.wait_log("in service", since=it.cat.log.lines.index(it.cat.log.find(words)[0].string))
        assert len(it.said()) == 1, it.said()


# ---------------------------------------------------------------------------------------------------- the end


def stopped(it: Scripted, timeout: float = 20) -> None:
    """It ends in order."""
    assert it.cat.wait(timeout) == 0
    assert it.said("info")[-1] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_answers_everything(number: int, lab: Lab):
    release = threading.Event()
    it = Scripted(lab, routes={"/api/inverter/modbus": held(release, http_reply({"value": 7}))})
    connection = it.broker.connection()
    running, waiting, other = SEVERAL[0], SEVERAL[1], SEVERAL[2].replace(DEVICE.encode(), b"other")
    for request in running, waiting, other:
        connection.publish("iamcat/modbus/request", request)
    for _ in range(2):
        it.api.take("/api/inverter/modbus")
    it.cat.send_signal(number)
    it.cat.wait_log("stopping")
    it.cat.send_signal(number)  # impatience changes nothing
    connection.publish("iamcat/modbus/request", b"too late")
    it.broker.take(PUBACK, lambda p: p.packet_id == connection.packet_id)
    release.set()
    stopped(it)
    last = it.broker.take(DISCONNECT)
    answers = [json.loads(p.payload) for p in it.broker.history
               if p.kind == PUBLISH and p.topic.endswith("/response")]
    said = {a["request"] and a["request"]["address"]: a["response"].get("code", a["response"].get("value"))
            for a in answers}
    assert said == {0: 7, 1: "shutting_down", 2: 7, None: "shutting_down"} and len(answers) == 4
    assert it.broker.history[-1] is last
    it.broker.log.wait("connection 0: close_notify")
    assert len([r for r in it.api.history if r.path == "/api/inverter/modbus"]) == 2


def test_stop_gives_a_running_call_5_seconds(lab: Lab):
    """Two calls that never end, and two that wait for them."""
    it = Scripted(lab, routes={"/api/inverter/modbus": hang},
                  STATE_INTERVAL="3600", WEB_CONTAINER_TIMEOUT="60")
    connection = it.broker.connection()
    for request in SEVERAL[0], SEVERAL[1], SEVERAL[2].replace(DEVICE.encode(), b"other"), b"[]":
        connection.publish("iamcat/modbus/request", request)
    for _ in range(2):
        it.api.take("/api/inverter/modbus")
    began = time.monotonic()
    it.cat.send_signal(signal.SIGTERM)
    stopped(it)
    assert time.monotonic() - began > 4.5
    last = it.broker.take(DISCONNECT)
    answers = [json.loads(p.payload) for p in it.broker.history
               if p.kind == PUBLISH and p.topic.endswith("/response")]
    assert [a["response"]["code"] for a in answers] == ["shutting_down"] * 4
    assert it.broker.history[-1] is last


def test_stop_waits_for_what_is_unacknowledged(lab: Lab):
    def late(c: Connection) -> None:
        c.ready()
        c.publish("iamcat/modbus/request", READ)
        answer = c.expect(PUBLISH, lambda p: p.topic.endswith("/response"))
        it.cat.send_signal(signal.SIGTERM)
        it.cat.wait_log("stopping")
        it.broker.log.add("acknowledged")
        c.reply(answer)
        c.serve()

    waiting = threading.Event()
    it = Scripted(lab, lambda c: waiting.wait(20) and late(c))
    waiting.set()  # late() knows it now
    stopped(it, 5)
    assert it.broker.take(DISCONNECT) is it.broker.history[-1] and not it.said()


def test_stop_with_a_broker_that_is_dead(lab: Lab):
    """5 s for calls, 2 s for acknowledgements, 2 s for DISCONNECT at most."""
    it = Scripted(lab, good_but_for(PUBLISH), STATE_INTERVAL="1")
    it.published("state")
    it.cat.send_signal(signal.SIGTERM)
    stopped(it)
    assert any("has not acknowledged everything" in text for text in it.said())
    assert not any("did not acknowledge a message" in text for text in it.said()), "after 10 s"


@pytest.mark.parametrize("moment", [
    "serial number", "token", "API refused", "pause", "TLS", "CONNECT", "SUBSCRIBE"])
def test_stop_at_any_moment(moment: str, lab: Lab):
    scripts = {"pause": refuse(2), "TLS": Connection.stall,
               "CONNECT": lambda c: (c.expect(CONNECT), c.stall()),
               "SUBSCRIBE": lambda c: (c.expect(SUBSCRIBE), c.stall())}
    routes = {"serial number": {"/api/crypto": hang}, "token": {"/api/jwt/create": hang}}
    it = Scripted(lab, *([scripts[moment]] if moment in scripts else []), routes=routes.get(moment),
                  deaf="api" if moment == "API refused" else "")
    if moment == "API refused":
        it.cat.wait_log("trying again")
    elif moment == "TLS":
        it.broker.log.wait("connection 0")
    elif moment == "pause":
        it.cat.wait_log("trying again")
    elif moment in scripts:
        it.broker.take(CONNECT if moment == "CONNECT" else SUBSCRIBE)
    else:
        it.api.take("/api/crypto" if moment == "serial number" else "/api/jwt/create")
    began = time.monotonic()
    it.cat.send_signal(signal.SIGTERM)
    stopped(it, 5)
    assert time.monotonic() - began < 3


def test_signals_that_do_no_harm(lab: Lab):
    it = Scripted(lab)
    it.broker.connection()
    for number in signal.SIGPIPE, signal.SIGHUP:
        it.cat.send_signal(number)
        assert it.ask()["response"]["value"] == 42
    assert it.broker.connections == 1


class Unread(Scripted):
    """stderr is a pipe whose reader is gone, or has fallen asleep and left the pipe full."""

    def __init__(self, lab: Lab, asleep: bool):
        self.asleep = asleep
        super().__init__(lab)

    def start(self, lab: Lab, env: dict[str, str]) -> Process:
        fifo = lab.work_dir("pipe") / "fifo"
        os.mkfifo(fifo)
        reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        lab.callback(os.close, reader)
        with contextlib.suppress(BlockingIOError):
            while self.asleep:
                os.write(reader, bytes(4096))
        there = 'exec 2>"$1" "$0"' if self.asleep else 'exec "$0" 2> >(:)'
        return lab.add(Process("iamcat", ["bash", "-c", there, IAMCAT, fifo], lab.work_dir("iamcat"), {**PASSED, **env}))


@pytest.mark.parametrize("asleep", [False, True], ids=["gone", "asleep"])
def test_a_log_that_nobody_reads_does_no_harm(asleep: bool, lab: Lab):
    it = Unread(lab, asleep)
    it.broker.connection()
    for _ in range(2):
        assert it.ask()["response"]["value"] == 42
    it.cat.send_signal(signal.SIGTERM)
    assert it.cat.wait() == 0


# ---------------------------------------------------------------------------------------------------- the log


@pytest.mark.parametrize("env", [{}, {"MQTT_USERNAME": "me", "MQTT_PASSWORD": "s3cr3t-p4ssw0rd"}],
                         ids=["token", "password"])
def test_no_secret_in_the_log(env: dict[str, str], lab: Lab):
    """Through refusals, a lost connection and service, at level debug."""
    it = Scripted(lab, refuse(4), served_then(Connection.reset), STATE_INTERVAL="1", **env)
    it.broker.connection(2)
    it.ask(2)
    it.cat.stop()
    log = "\n".join(it.cat.log.lines)
    assert " debug " in log and len(it.tokens()) == 3
    for token in it.tokens():
        assert not [piece for piece in re.split(r"\.", token) if piece in log]
        assert token[:12] not in log and token[-12:] not in log


def test_outside_bytes_are_escaped_in_the_log(lab: Lab):
    """The form of every line is checked at the end of each test here (Scripted.check_log)."""
    evil = "device \x1b[31m\n2026 fake line\r\0\x7f\u2028é not ready"
    it = Scripted(lab, routes={"/api/inverter/modbus": http_reply({"error": evil}, "500 Oops")})
    it.broker.connection()
    assert evil in it.ask()["response"]["error"]
    told = it.cat.wait_log(r"request 1: api_error: ").string
    assert "[31m" in told and "2026 fake line" in told and "not ready" in told
