"""Name look-up through the real binary: scripted DNS servers, /etc/hosts and /etc/resolv.conf of our own, and
what goes on meanwhile. Every test has a process and a network namespace of its own."""

import json
import random
import socket
import struct
import threading
import time
from typing import Any, Callable

import pytest

import fake
from apart import NAMES, apart
from fake import A, AAAA, CNAME, FakeApi, FakeBroker, FakeDns, Query, black_hole, dns_name, dns_reply
from lab import Lab, Process, server_certificate, strict_json

READ = {"function_code": 3, "device_id": "A2332407312", "address": 10056}


def table(*rows: tuple):
    """pytest's parameters from rows that begin with the case's name."""
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


# ------------------------------------------------------------------------------------------------ the scenery


class Zone(dict):
    """name → addresses: what a good server answers. May be changed at any time."""

    def __init__(self, *addresses: str) -> None:
        """With these for broker.test and api.test."""
        super().__init__({name: list(addresses or ["127.0.0.1"]) for name in ("broker.test", "api.test")})

    def __call__(self, query: Query) -> bytes:
        name = query.name.lower()
        if name not in self:
            return dns_reply(query, rcode=3)
        return dns_reply(query, *((name, kind, address) for address in self[name]
                                  if (kind := AAAA if ":" in address else A) == query.kind))


def silent(query: Query) -> None:
    """A server that never answers."""


def serve(lab: Lab, *answers: Callable[[Query], Any], host: str = "127.0.0.1") -> str:
    """Starts broker (lab.peer) and API (lab.api) on the address, and a DNS server for each function (the last
    one is lab.dns); returns the text for resolv.conf."""
    lab.peer, lab.api = lab.add(FakeBroker(lab.certificate)), lab.add(FakeApi())
    for server in (lab.peer, lab.api):
        move(server, host)
    servers = [lab.add(FakeDns(answer)) for answer in answers]
    lab.dns = servers[-1] if servers else None
    return "".join(f"nameserver {server.address}\n" for server in servers)


def move(server: fake.Server, host: str) -> None:
    """Another address, the same port."""
    server.deaf()
    server.host = host
    server.listen()


def start(lab: Lab, resolv: str | None, hosts: str | None = None, **env: str) -> Process:
    """iamcat between broker.test and api.test, with these files in /etc."""
    etc = {"resolv.conf": resolv, "hosts": hosts}
    names = {"MQTT_BROKER_HOST": "broker.test", "WEB_CONTAINER_HOST": "api.test"}
    return lab.iamcat(lab.env(lab.peer, lab.api, **{**names, **env}),
                      etc={name: text for name, text in etc.items() if text is not None})


def rewrite(cat: Process, name: str, text: str) -> None:
    """Replaces a file of /etc."""
    (cat.etc / "new").write_text(text)
    (cat.etc / "new").rename(cat.etc / name)


def ask(lab: Lab, address: int = 10056) -> Any:
    """A Modbus read through the scripted broker; the answer's response."""
    return answered(lab, send(lab, address))[0]


def send(lab: Lab, address: int) -> bytes:
    request = json.dumps({**READ, "address": address}).encode()
    lab.peer.live[-1].publish("iamcat/modbus/request", request)
    return request


def answered(lab: Lab, request: bytes) -> tuple[Any, float]:
    """The answer's response, and when it came."""
    answer = lab.peer.take(fake.PUBLISH, lambda p: p.topic.endswith("/response") and request in p.payload)
    return strict_json(answer.payload)["response"], answer.at


def asked(dns: FakeDns, name: str, kind: int = A) -> list[Query]:
    """The questions for a name so far."""
    return [q for q in dns.history if (q.name.lower(), q.kind) == (name, kind)]


# --------------------------------------------------------------------------------------------- where it looks


@apart
def test_localhost_needs_neither_hosts_nor_dns(lab: Lab):
    resolv = serve(lab, Zone("127.0.0.9"))
    start(lab, resolv, MQTT_BROKER_HOST="LocalHost", WEB_CONTAINER_HOST="api.localhost")
    lab.peer.connection()
    assert not lab.dns.history


@pytest.mark.parametrize("hosts", table(
    ("plain", "127.0.0.1 broker.test api.test\n"),
    ("without a line end", "127.0.0.1 api.test\n127.0.0.1 broker.test"),
    ("blanks, capitals, comments, odd lines", "# x\n\n127.0.0.9 # broker.test api.test\n127.0.0.9\n"
     "nonsense broker.test\n127.0.0.300 x\n\t127.0.0.1\t other  BROKER.test\r\n127.0.0.1 Api.TEST#"),
    ("both families", "::1 broker.test api.test\n127.0.0.1 broker.test api.test\n"),
    ("behind 200 kB", "127.0.0.9 other.test other\n" * 7500 + "127.0.0.1 broker.test api.test\n"),
    ("behind a line of 10 kB", "127.0.0.9" + " other" * 1700 + "\n127.0.0.1 broker.test api.test\n"),
))
@apart
def test_hosts_file_is_asked_before_dns(lab: Lab, hosts: str):
    resolv = serve(lab, Zone("127.0.0.9"))
    start(lab, resolv, hosts)
    lab.peer.connection()
    assert not lab.dns.history


@apart
def test_without_resolv_conf_the_server_is_127_0_0_1(lab: Lab):
    serve(lab)
    dns = lab.add(FakeDns(Zone(), address="127.0.0.1"))
    start(lab, None)
    lab.peer.connection()
    assert asked(dns, "broker.test") and asked(dns, "api.test", AAAA)


@apart
def test_a_name_server_with_an_ipv6_address(lab: Lab):
    serve(lab)
    lab.add(FakeDns(Zone(), address="::1"))
    start(lab, "nameserver ::1\n")
    lab.peer.connection()


def unanswered(kind: int) -> Callable:
    return lambda zone: lambda query: None if query.kind == kind else zone(query)


def failed(kind: int) -> Callable:
    return lambda zone: lambda query: dns_reply(query, rcode=2) if query.kind == kind else zone(query)


@pytest.mark.parametrize("addresses, listens, spoil", table(
    ("A only", ["127.0.0.1"], "127.0.0.1", None),
    ("AAAA only", ["::1"], "::1", None),
    ("both, IPv4 serves", ["::1", "127.0.0.1"], "127.0.0.1", None),
    ("both, IPv6 serves", ["::1", "127.0.0.1"], "::1", None),
    ("AAAA is never answered", ["127.0.0.1"], "127.0.0.1", unanswered(AAAA)),
    ("A is never answered", ["::1"], "::1", unanswered(A)),
    ("AAAA fails", ["127.0.0.1"], "127.0.0.1", failed(AAAA)),
    ("A fails", ["::1"], "::1", failed(A)),
    ("the first of several refuses", ["127.0.0.8", "127.0.0.9", "127.0.0.1"], "127.0.0.1", None),
    ("no route to the first one", ["2001:db8::1", "192.0.2.1", "127.0.0.1"], "127.0.0.1", None),
))
@apart
def test_addresses(lab: Lab, addresses: list[str], listens: str, spoil: Callable | None):
    resolv = serve(lab, (spoil or (lambda zone: zone))(Zone(*addresses)), host=listens)
    begin = time.monotonic()
    start(lab, resolv)
    lab.peer.connection()
    assert time.monotonic() - begin < 4, "a family that is not answered must not cost its whole time"
    assert lab.api.take("/api/crypto").headers["host"] == f"api.test:{lab.api.port}"
    assert ask(lab)["value"] == 42


@pytest.mark.parametrize("literal", ["::1", "[::1]", "0:0::0:1"])
@apart
def test_ipv6_literal(lab: Lab, literal: str):
    lab.certificate = server_certificate(*NAMES, f"DNS:{literal.strip('[]')}")
    resolv = serve(lab, Zone(), host="::1")
    start(lab, resolv, MQTT_BROKER_HOST=literal, WEB_CONTAINER_HOST=literal)
    lab.peer.connection()
    assert lab.api.take("/api/crypto").headers["host"] == f"[{literal.strip('[]')}]:{lab.api.port}"
    assert not lab.dns.history


@pytest.mark.parametrize("option, name, exists, questions", table(
    ("search", "search a.test b.test", "api", "api.b.test", ["api.a.test", "api.b.test"]),
    ("domain", "domain a.test", "api", "api.a.test", ["api.a.test"]),
    ("the last one of both counts", "domain a.test\nsearch b.test", "api", "api.b.test", ["api.b.test"]),
    ("the name itself last", "search a.test", "api", "api", ["api.a.test", "api"]),
    ("enough dots: itself first", "search a.test", "api.x", "api.x.a.test", ["api.x", "api.x.a.test"]),
    ("ndots", "search a.test\noptions ndots:2", "api.x", "api.x.a.test", ["api.x.a.test"]),
    ("ndots reached", "search a.test\noptions ndots:2", "api.x.y", "api.x.y", ["api.x.y"]),
    ("ndots 0", "search a.test\noptions ndots:0", "api", "api", ["api"]),
    ("a final dot", "search a.test\noptions ndots:9", "api.x.", "api.x", ["api.x"]),
))
@apart
def test_search_domains(lab: Lab, option: str, name: str, exists: str, questions: list[str]):
    zone = Zone()
    zone[exists] = ["127.0.0.1"]
    resolv = serve(lab, zone)
    start(lab, f"# comment\n{option}\n{resolv}", MQTT_BROKER_HOST="localhost", WEB_CONTAINER_HOST=name)
    lab.peer.connection()
    assert [q.name for q in lab.dns.history if q.kind == A] == questions


# ---------------------------------------------------------------------------------------- what servers answer


def chain(query: Query, length: int, address: str = "127.0.0.1") -> list[tuple[str, int, str]]:
    """Records: the name is an alias of c1.test, that of c2.test, … , and the last one has the address."""
    names = [query.name, *(f"c{i}.test" for i in range(1, length + 1))]
    links = [(names[i], CNAME, names[i + 1]) for i in range(length)]
    return [*links, (names[-1], A, address)] if query.kind == A else links


def step(query: Query, length: int) -> bytes:
    """One link of that chain at a time."""
    at = int(query.name[1:-5]) if query.name[0] == "c" else 0
    if at < length:
        return dns_reply(query, (query.name, CNAME, f"c{at + 1}.test"))
    return dns_reply(query, *[(query.name, A, "127.0.0.1")] * (query.kind == A))


def many(query: Query) -> bytes:
    """More than fits into 512 bytes."""
    addresses = ["127.0.0.1", *(f"127.1.1.{i}" for i in range(60))]
    return dns_reply(query, *((query.name, A, address) for address in addresses if query.kind == A))


def truncated(query: Query, answer: Callable = Zone()) -> bytes:
    return answer(query) if query.tcp else dns_reply(query, (query.name, A, "127.0.0.9"), truncated=True)


@pytest.mark.parametrize("answer, tcp", table(
    ("a chain of aliases", lambda q: dns_reply(q, *chain(q, 3)), False),
    ("in another order", lambda q: dns_reply(q, *chain(q, 3)[::-1]), False),
    ("the longest one", lambda q: dns_reply(q, *chain(q, 8)), False),
    ("aliases without an address", lambda q: step(q, 8), False),
    ("capitals", lambda q: dns_reply(q, *[(q.name.upper(), A, "127.0.0.1")] * (q.kind == A)), False),
    ("truncated", truncated, True),
    ("truncated, and large", lambda q: truncated(q, many), True),
    ("only A truncated", lambda q: truncated(q) if q.kind == A else Zone()(q), True),
    ("answered twice", lambda q: [Zone()(q)] * 2, False),
    ("other records around", lambda q: dns_reply(q, (q.name, 16, b"\4text"), *[
        (q.name, A, "127.0.0.1")] * (q.kind == A), (q.name, 46, bytes(40))), False),
))
@apart
def test_good_answers(lab: Lab, answer: Callable, tcp: bool):
    resolv = serve(lab, answer)
    begin = time.monotonic()
    start(lab, resolv)
    lab.peer.connection()
    assert time.monotonic() - begin < 4
    assert any(q.tcp for q in lab.dns.history) == tcp


def forged(query: Query, *records: tuple, **change: Any) -> bytes:
    """A right answer, but for something, that leads astray."""
    other = Query(**{**vars(query), **change})
    astray = (other.name, A, "127.0.0.66"), (other.name, AAAA, "::ffff:127.0.0.66")
    return dns_reply(other, *astray, *records)


def asking(name: str, kind: int, number: int = 1) -> bytes:
    return dns_name(name) + struct.pack(">HH", kind, number)


def elsewhere(query: Query, address: tuple[str, int]) -> None:
    """A right answer, from a wrong address or port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(address)
        udp.sendto(forged(query), ("127.0.0.1", query.port))


@pytest.mark.parametrize("forge", table(
    ("id", lambda q: forged(q, id=q.id ^ 0x100)),
    ("question's name", lambda q: forged(q, question=asking("other.test", q.kind))),
    ("question's type", lambda q: forged(q, question=asking(q.name, 16))),
    ("question's class", lambda q: forged(q, question=asking(q.name, q.kind, 3))),
    ("owner", lambda q: forged(q, *[(q.name, A, "127.0.0.1")] * (q.kind == A), name="other.test")),
    ("number of questions", lambda q: forged(q)[:4] + b"\0\2" + forged(q)[6:]),
    ("a question, no answer", lambda q: forged(q)[:2] + b"\1\0" + forged(q)[4:]),
    ("another operation", lambda q: forged(q)[:2] + b"\x91\x80" + forged(q)[4:]),
    ("address", lambda q: elsewhere(q, ("127.0.0.77", 53))),
    ("port", None),
))
@apart
def test_a_forged_answer_is_ignored(lab: Lab, forge: Callable | None):
    """It comes first, and leads to a trap."""
    zone = Zone()

    def answer(query: Query) -> list[bytes]:
        false = forge(query) if forge else elsewhere(query, (lab.dns.address, 54))
        return [false, zone(query)] if false else [zone(query)]

    resolv = serve(lab, answer)
    traps = [lab.add(FakeApi()) for _ in range(2)]
    for trap, server in zip(traps, (lab.api, lab.peer)):
        trap.port = server.port
        move(trap, "127.0.0.66")
    start(lab, resolv)
    lab.peer.connection()
    assert [trap.connections for trap in traps] == [0, 0]


def lame(query: Query) -> bytes:
    """Neither an answer nor recursion."""
    return dns_reply(query)[:2] + b"\x81\0" + dns_reply(query)[4:]


@pytest.mark.parametrize("first", table(
    ("refuses the datagram", None), ("never answers", silent), ("fails", lambda q: dns_reply(q, rcode=2)),
    ("refuses", lambda q: dns_reply(q, rcode=5)), ("knows no format", lambda q: dns_reply(q, rcode=1)),
    ("does not recurse", lame), ("talks nonsense", lambda q: [b"", b"?", b"HTTP/1.0 200 OK\r\n\r\n" * 20]),
    ("no TCP though truncated", lambda q: dns_reply(q, truncated=True)), ("no route", "192.0.2.1"),
))
@apart
def test_the_next_server_is_asked(lab: Lab, first: Callable | str | None):
    if callable(first):
        resolv = serve(lab, first, Zone())
    else:
        resolv = f"nameserver {first or '127.0.0.9'}\n" + serve(lab, Zone())
    begin = time.monotonic()
    start(lab, resolv)
    lab.peer.connection()
    assert time.monotonic() - begin < 4, "a dead server may cost a third of a second for each look-up"


@apart
def test_the_third_server_is_asked(lab: Lab):
    resolv = serve(lab, silent, Zone())
    start(lab, "nameserver 127.0.0.9\n" + resolv)
    lab.peer.connection()


@pytest.mark.parametrize("answer, words", table(
    ("NXDOMAIN", lambda q: dns_reply(q, rcode=3), "no such name"),
    ("no address", dns_reply, "the name has no address"),
    ("SERVFAIL", lambda q: dns_reply(q, rcode=2), "the name server failed or refused to answer"),
    ("REFUSED", lambda q: dns_reply(q, rcode=5), "the name server failed or refused to answer"),
    ("does not recurse", lame, "the name server failed or refused to answer"),
    ("nine aliases", lambda q: dns_reply(q, *chain(q, 9)), r"too many aliases \(CNAME\)"),
    ("nine aliases one by one", lambda q: step(q, 9), r"too many aliases \(CNAME\)"),
    ("an alias of itself", lambda q: dns_reply(q, (q.name, CNAME, q.name)), r"too many aliases \(CNAME\)"),
    ("truncated over TCP", lambda q: dns_reply(q, truncated=True), "the name server's answer is too large"),
))
@apart
def test_a_failure_is_told_in_words_and_tried_again(lab: Lab, answer: Callable, words: str):
    zone, good = Zone(), threading.Event()
    resolv = serve(lab, lambda q: zone(q) if q.name == "api.test" or good.is_set() else answer(q))
    cat = start(lab, resolv)
    cat.wait_log(rf" warn  broker broker\.test:{lab.peer.port}: {words}; trying again in \d+\.\d s$", 5)
    good.set()
    lab.peer.connection()


@pytest.mark.parametrize("addresses, words", table(
    ("NXDOMAIN", None, "no such name"), ("refused", ["127.0.0.9"], "the connection was refused"),
    ("no route", ["192.0.2.1", "2001:db8::1"], "there is no route to that network"),
))
@apart
def test_the_apis_name_fails_in_words_and_is_tried_again(lab: Lab, addresses: list[str] | None, words: str):
    """Both calls that want it are told at once: the one for the state, and the one for the serial number."""
    zone = Zone()
    zone["api.test"] = addresses
    resolv = serve(lab, lambda q: dns_reply(q, rcode=3) if zone.get(q.name) is None else zone(q))
    cat = start(lab, resolv, STATE_INTERVAL="3600")
    cat.wait_log(rf" warn  gateway API, state: {words}.*; publishing status api_unavailable", 5)
    cat.wait_log(rf" warn  gateway API api\.test:{lab.api.port}.*: {words}.*; trying again in \d", 5)
    zone["api.test"] = ["127.0.0.1"]
    lab.peer.connection()


@pytest.mark.parametrize("file", ["resolv.conf", "hosts"])
@apart
def test_files_are_read_again_at_each_look_up(lab: Lab, file: str):
    resolv = serve(lab, Zone())
    cat = start(lab, "nameserver 127.0.0.9\n", "")
    cat.wait_log("api.test:.*no name server could be reached; trying again", 5)
    rewrite(cat, file, resolv if file == "resolv.conf" else "127.0.0.1 broker.test api.test\n")
    lab.peer.connection()


# ------------------------------------------------------------------------------------------------- any bytes


def nonsense(query: Query, chance: random.Random) -> bytes:
    """Begins as the answer, with the right id and question, and goes on with what is none."""
    answers, others = chance.choice([2, 3, 65535]), chance.choice([0, 1, 65535])
    head = struct.pack(">HHHHHH", query.id, 0x8180, 1, answers, others, 0)
    owner, at = b"\xc0\x0c", 12 + len(query.question)
    fixed = struct.pack(">HHIH", query.kind, 1, 60, 4 if query.kind == A else 16)
    return head + query.question + chance.choice([
        b"\xc0" + bytes([at]) + fixed + b"\x7f\0\0\x42" * 4,  # a pointer to itself
        b"\xc0" + bytes([at + 2]) + b"\xc0" + bytes([at]) + fixed,  # to one another
        b"\xff\xff" + fixed + b"\x7f\0\0\x42" * 4,  # beyond the end
        b"\xc0\0" + fixed + b"\x7f\0\0\x42" * 4,  # into the header
        bytes([chance.randrange(64, 192)]) + chance.randbytes(99),  # an unknown kind of label
        b"\x3f" + chance.randbytes(chance.randrange(63)),  # a label that is cut short
        owner + struct.pack(">HHIH", 16, 1, 60, 490 - at) + bytes(490 - at) + b"\x3f" + bytes(9),  # at 512
        (b"\x3f" + b"x" * 63) * 6 + b"\0" + fixed,  # a name that is too long
        owner + fixed[:chance.randrange(10)],  # a record that is cut short
        owner + fixed[:8] + b"\xff\xff" + b"\x7f\0\0\x42" * 4,  # data beyond the end
        (owner + fixed[:8] + b"\0\5" + b"\x7f\0\0\x42\0") * 2,  # an address of another size
        owner + struct.pack(">HHIH", CNAME, 1, 60, 2) + b"\xc0" + bytes([at + 12]),  # an alias of a loop
        chance.randbytes(chance.randrange(1, 400)),
    ])


def cut(query: Query, chance: random.Random) -> bytes:
    """A right answer that lacks its end, or any bytes."""
    whole = dns_reply(query, *chain(query, 2))
    return chance.choice([whole[:chance.randrange(len(whole))], chance.randbytes(chance.randrange(600))])


@pytest.mark.parametrize("make", [nonsense, cut])
@pytest.mark.parametrize("tcp", [False, True], ids=["UDP", "TCP"])
@apart
def test_nonsense_is_ignored(lab: Lab, make: Callable, tcp: bool):
    """A hundred messages of it, and then the answer."""
    chance, zone = random.Random(7), Zone()

    def answer(query: Query) -> Any:
        if tcp and not query.tcp:
            return dns_reply(query, truncated=True)
        return [*(make(query, chance) for _ in range(100)), zone(query)]

    resolv = serve(lab, answer)
    begin = time.monotonic()
    start(lab, resolv)
    lab.peer.connection()
    assert time.monotonic() - begin < 4
    assert [len(asked(lab.dns, name)) for name in ("api.test", "broker.test")] == [1 + tcp] * 2


@apart
def test_changed_answers_do_no_harm(lab: Lab):
    """Some bits are wrong: they may lead anywhere, to aliases with odd names as well, but not for long."""
    chance, zone, good = random.Random(8), Zone(), threading.Event()

    def answer(query: Query) -> Any:
        if good.is_set() or query.name not in zone:
            return zone(query)
        if not query.tcp and chance.random() < 0.2:
            return dns_reply(query, truncated=True)
        replies = []
        for _ in range(100):
            reply = bytearray(dns_reply(query, *chain(query, 2, "127.0.0.9")))
            for _ in range(chance.randrange(1, 9)):
                reply[chance.randrange(2, len(reply))] ^= 1 << chance.randrange(8)
            replies.append(bytes(reply))
        return replies

    resolv = serve(lab, answer)
    start(lab, f"{resolv}options timeout:1 attempts:1\n", MQTT_BROKER_HOST="localhost", STATE_INTERVAL="1")
    deadline = time.monotonic() + 40  # a wrong address may cost 5 s
    while len(asked(lab.dns, "api.test")) < 4 and not lab.api.history:
        assert time.monotonic() < deadline, lab.dns.history
        time.sleep(0.05)
    good.set()
    lab.peer.connection()


# --------------------------------------------------------------------------------------------- what goes on


@apart
def test_states_go_on_while_the_brokers_name_hangs(lab: Lab):
    resolv = serve(lab, silent)
    cat = start(lab, resolv, WEB_CONTAINER_HOST="127.0.0.1", STATE_INTERVAL="1", MQTT_USERNAME="me",
                MQTT_PASSWORD="me")
    first = lab.dns.take("broker.test")
    cat.wait_log("broker.test:.*no name server answered; trying again")
    assert 4.5 < time.monotonic() - first.at < 9
    # The first one may have come before the serial number was known, and is fetched again at once.
    assert len([r for r in lab.api.history if r.path == "/api/state"]) >= 4
    # Twice, the default, within the 5 s of a look-up; each family by itself.
    assert [len(asked(lab.dns, "broker.test", kind)) for kind in (A, AAAA)] == [2, 2]


@pytest.mark.parametrize("attempts", [1, 3])
@apart
def test_timeout_and_attempts(lab: Lab, attempts: int):
    resolv = serve(lab, silent)
    cat = start(lab, f"{resolv}options timeout:1 attempts:{attempts}\n", WEB_CONTAINER_HOST="127.0.0.1")
    cat.wait_log("broker.test:.*no name server answered; trying again")
    questions = asked(lab.dns, "broker.test")
    assert len(questions) == attempts
    assert attempts != 1 or time.monotonic() - questions[0].at < 4, "1 s, and not 5"


@apart
def test_the_broker_does_not_notice_that_the_apis_name_hangs(lab: Lab):
    zone, hang = Zone(), threading.Event()
    resolv = serve(lab, lambda q: None if hang.is_set() else zone(q))
    start(lab, resolv, STATE_INTERVAL="3600", MQTT_KEEPALIVE="5", WEB_CONTAINER_SPARES="0")
    lab.peer.connection()
    lab.api.take("/api/state")
    assert ask(lab)["value"] == 42
    hang.set()
    lab.api.deaf()
    assert ask(lab)["code"] == "api_unreachable"  # and its address is forgotten
    lab.dns.received.clear()
    request = send(lab, 7)
    asked_at = lab.dns.take("api.test").at
    ping = lab.peer.take(fake.PINGREQ)
    assert ping.at - asked_at < 4, "keep-alive goes on during the look-up"
    response, at = answered(lab, request)
    assert 4 < at - asked_at < 9
    assert response["code"] == "api_unreachable" and "no name server answered" in response["error"]
    hang.clear()
    lab.api.listen()
    assert ask(lab)["value"] == 42
    assert lab.peer.connections == 1


@apart
def test_states_are_published_while_the_apis_name_hangs(lab: Lab):
    zone, hang = Zone(), threading.Event()
    resolv = serve(lab, lambda q: None if hang.is_set() else zone(q))
    start(lab, resolv, STATE_INTERVAL="1", WEB_CONTAINER_TIMEOUT="1")
    lab.peer.connection()
    hang.set()
    lab.api.deaf()
    states = [lab.peer.take(fake.PUBLISH, lambda p: b'"api_unavailable"' in p.payload) for _ in range(3)]
    assert all(b.at - a.at < 4 for a, b in zip(states, states[1:])), "and not after 5 s"
    assert lab.peer.connections == 1


@apart
def test_the_apis_address_is_kept_until_a_connection_fails(lab: Lab):
    zone = Zone()
    resolv = serve(lab, zone)
    with_length, without = fake.GOOD_API["/api/inverter/modbus"], b'HTTP/1.0 200 OK\r\n\r\n{"value": 42}'
    lab.api.routes["/api/inverter/modbus"] = lambda r: without if int(r.query["address"]) % 2 else with_length
    start(lab, resolv, STATE_INTERVAL="3600", WEB_CONTAINER_SPARES="0")
    lab.peer.connection()
    lab.api.take("/api/state")
    for address in range(8):  # every other reply ends with its connection, which is no failure
        assert ask(lab, address)["value"] == 42
    assert [len(asked(lab.dns, "api.test", kind)) for kind in (A, AAAA)] == [1, 1]
    lab.api.deaf()
    for address in range(8):
        assert ask(lab, address)["code"] == "api_unreachable"
    # The first one used the address that was known, and the last one's failure has made it unknown.
    questions = asked(lab.dns, "api.test")
    assert len(questions) == 8
    zone["api.test"] = ["127.0.0.2"]
    move(lab.api, "127.0.0.2")
    assert ask(lab)["value"] == 42
    # A forger has to guess both (RFC 5452); of eight, two may be equal by chance.
    assert len({q.port for q in questions}) >= 7 and len({q.id for q in questions}) >= 7
    assert {q.port for q in questions} == {q.port for q in asked(lab.dns, "api.test", AAAA)[:8]}
    assert [q.id for q in questions] != [q.id for q in asked(lab.dns, "api.test", AAAA)[:8]]


@apart
def test_a_black_hole_costs_the_broker_5_seconds(lab: Lab):
    zone = Zone()
    zone["broker.test"] = ["127.0.0.66", "127.0.0.1"]
    resolv = serve(lab, zone)
    black_hole(lab, "127.0.0.66", lab.peer.port)
    cat = start(lab, resolv, STATE_INTERVAL="1")
    cat.wait_log("connecting to broker.test")
    begin = time.monotonic()
    for _ in range(4):
        lab.api.take("/api/state", timeout=2.5)  # goes on meanwhile
    lab.peer.take(fake.CONNECT)
    assert 4 < time.monotonic() - begin < 10


@apart
def test_a_black_hole_costs_the_api_5_seconds_once(lab: Lab):
    zone = Zone()
    zone["api.test"] = ["127.0.0.66", "127.0.0.1"]
    resolv = serve(lab, zone)
    black_hole(lab, "127.0.0.66", lab.api.port)
    begin = time.monotonic()
    start(lab, resolv, STATE_INTERVAL="3600", MQTT_USERNAME="me", MQTT_PASSWORD="me")
    lab.peer.connection()
    assert 4.5 < time.monotonic() - begin < 10
    begin = time.monotonic()
    assert ask(lab)["value"] == 42
    assert time.monotonic() - begin < 4, "the address that works is known by now"
