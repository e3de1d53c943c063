"""Calls of the gateway's API: what it may answer, what it must not, and how calls run side by side."""

import signal
import socket
import threading
import time
from typing import Any, Callable, Iterator

import pytest

import fake
from desk import READ, WRITE, Desk, gateway_desk, padded, scripted_desk, to_bytes
from fake import CLOSE, PUBLISH, RESET, http_reply
from lab import DEVICE, TIMEOUT, Lab, strict_json

MODBUS = "/api/inverter/modbus"
BODY = b'{"value": 42.0, "text": "the whole reply"}'
MARK = b"the whole"  # must never show in an answer to a reply that is wrong


@pytest.fixture(scope="module")
def desk(shared_lab: Lab):
    """One bridge over scripted peers for all that leaves no trace."""
    one = scripted_desk(shared_lab)
    yield one
    one.api.routes[MODBUS] = http_reply({})
    one.end()


def raw(*lines: str, body: bytes = BODY) -> bytes:
    """A reply of these header lines."""
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunks(*parts: bytes, extension: str = "", trailer: bytes = b"") -> bytes:
    return b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension.encode(), part) for part in parts) + \
        b"0\r\n" + trailer + b"\r\n"


def answers_with(desk: Desk, reply: bytes, step: int = 0, end: Any = CLOSE) -> None:
    """The API answers Modbus calls with these bytes, step of them at a time, and then ends the connection."""

    def pieces(_request: Any) -> Iterator[Any]:
        for at in range(0, len(reply), step or max(len(reply), 1)):
            yield reply[at:at + step] if step else reply
        yield end

    desk.api.routes[MODBUS] = pieces


def cases(table: dict[str, Any], names: str = "case, value") -> dict[str, Any]:
    """Parameters with the table's keys as names of the cases."""
    return {"argnames": names.split(", ", 1)[1], "argvalues": list(table.values()), "ids": list(table)}


# ------------------------------------------------------------------------------------------ good replies

OK0, OK1, CHUNKED = "HTTP/1.0 200 OK", "HTTP/1.1 200 OK", "Transfer-Encoding: chunked"
LENGTH = f"Content-Length: {len(BODY)}"
HEAD_8K = raw(OK1, LENGTH, "X: " + "y" * (8192 - len(raw(OK1, LENGTH, "X: ", body=b""))))
GOOD = {
    "as the gateway": raw(OK0, "Server: x", "Date: y", "Content-type: application/json", "Connection: close",
                          LENGTH),
    "1.1": raw(OK1, LENGTH),
    "odd header": raw("HTTP/1.1 200 ", "content-LENGTH:\t%d  " % len(BODY), "X-Empty:", "X: a:b, c"),
    "201": raw("HTTP/1.0 201 Created", LENGTH),
    "299": raw("HTTP/1.1 299 Odd but fine", LENGTH),
    "to the end": raw(OK0),
    "to the end, 1.1": raw(OK1, "Connection: close"),
    "one chunk": raw(OK1, CHUNKED, body=chunks(BODY)),
    "many chunks": raw(OK1, CHUNKED, body=chunks(*(BODY[i:i + 1] for i in range(len(BODY))))),
    "extension and trailer": raw(OK1, "transfer-encoding: Chunked",
                                 body=chunks(BODY[:9], BODY[9:], extension=";a=b",
                                 trailer=b"X: y\r\nZ: 1\r\n")),
    "chunk size written oddly": raw(OK1, CHUNKED, body=b"0000%X\r\n%s\r\n000\r\n\r\n" % (len(BODY), BODY)),
    "100 first": raw("HTTP/1.1 100 Continue", body=b"") + raw(OK1, LENGTH),
    "several 1xx first": raw("HTTP/1.1 100 Continue", body=b"") * 20 +
                         raw("HTTP/1.1 103 Early Hints", "Content-Length: 3", body=b"") + raw(OK1, LENGTH),
    "header of 8 KiB": HEAD_8K,
}


@pytest.mark.parametrize("step", [0, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(**cases(GOOD, "case, reply"))
def test_a_good_reply_is_passed_on(reply: bytes, step: int, desk: Desk):
    answers_with(desk, reply, step if len(reply) < 2000 else 0)
    desk.ask(READ)
    assert desk.response == BODY


@pytest.mark.parametrize("body", [
    b"{}", b"[]", b"null", b"0", b"-0.10", b"true", b'""', b'"\\ud800"', b'{"a":1,"a":2}', b'"\xc3\xbc"',
    b'{"success" :\ttrue,\n"x":[1e5]}', b"[" * 64 + b"]" * 64, b'{"error": "a word, but status 200"}',
    b'{"value": 1.8446744073709552e+19}',
], ids=lambda body: body[:30].decode())
def test_any_json_is_passed_on_byte_for_byte(body: bytes, desk: Desk):
    answers_with(desk, http_reply(b"\r\n " + body + b"\t\n"))
    desk.ask(READ)
    assert desk.response == body


@pytest.mark.parametrize("body, passed_on", [
    (b"NaN", b"null"), (b"-Infinity", b"null"), (b"[NaN,Infinity,-Infinity]", b"[null,null,null]"),
    (b'{"value": NaN, "a":[ -Infinity ,1,Infinity ]}', b'{"value": null, "a":[ null ,1,null ]}'),
    (b'{"NaN": "NaN, \\"-Infinity\\"", "Infinity":"[Infinity]\\\\", "x": NaN}',
     b'{"NaN": "NaN, \\"-Infinity\\"", "Infinity":"[Infinity]\\\\", "x": null}'),
], ids=lambda body: body.decode())
def test_nan_and_infinity_become_null(body: bytes, passed_on: bytes, desk: Desk):
    answers_with(desk, http_reply(body))
    desk.ask(READ)
    assert desk.response == passed_on


K64 = b'["' + b"x" * (65536 - 4) + b'"]'
NANS = b"[" + b"NaN," * 16383 + b"0]"  # nearly as long, and longer as null


@pytest.mark.parametrize(**cases({
    "length": http_reply(K64), "to the end": raw(OK0, body=K64),
    "chunks": raw(OK1, CHUNKED, body=chunks(*(K64[i:i + 4096] for i in range(0, 65536, 4096)))),
    "NaN": http_reply(NANS)}, "case, reply"))
def test_a_reply_of_64_kib_is_passed_on(reply: bytes, desk: Desk):
    answers_with(desk, reply)
    desk.ask(padded(8192))
    assert desk.response == (K64 if K64[:99] in reply else NANS.replace(b"NaN", b"null"))


# ----------------------------------------------------------------------------------------- wrong replies


def lengths(*values: str) -> bytes:
    return raw(OK1, *(f"Content-Length: {value}" for value in values))


N = len(BODY)
WRONG = {
    "nothing": b"",
    "length and chunked": raw(OK1, LENGTH, CHUNKED, body=chunks(BODY)),
    "chunked and length": raw(OK1, CHUNKED, LENGTH, body=chunks(BODY)),
    "length and chunked, of which only the length is true": raw(OK1, LENGTH, CHUNKED),
    "two lengths": lengths(str(N), str(N + 1)),
    "two lengths, the second right": lengths(str(N - 1), str(N)),
    "two lengths in one line": lengths(f"{N}, {N + 1}"),
    "signed": lengths(f"+{N}"),
    "negative": lengths(f"-{N}"),
    "empty length": lengths(""),
    "length with a space": lengths(f"{N} {N}"),
    "hexadecimal length": lengths(hex(N)),
    "length that wraps 32 bits": lengths(str(2**32 + N)),
    "length that wraps 64 bits": lengths(str(2**64 + N)),
    "length that wraps 63 bits": lengths(str(2**63 + N)),
    "length of 100 digits": lengths("9" * 100),
    "cut before the body": raw(OK1, LENGTH, body=b""),
    "cut in the body": raw(OK1, LENGTH, body=BODY[:-1]),
    "whole, but a length of more": lengths(str(N + 1)),
    "cut in the status line": b"HTTP/1.1 20",
    "cut in the header": f"{OK1}\r\n{LENGTH}\r\n".encode(),
    "only 100": raw("HTTP/1.1 100 Continue", body=b""),
    "header over 8 KiB": HEAD_8K.replace(b"X: ", b"X: z", 1),
    "header of 10 KB": raw(OK1, LENGTH, *(f"X-{i}: {'y' * 90}" for i in range(100))),
    "endless header line": raw(OK1, "X: " + "y" * 60000),
    "1xx with a header over 8 KiB": raw("HTTP/1.1 100 Continue", "X: " + "y" * 8192, body=b"") +
                                    raw(OK1, LENGTH),
    "folded header": raw(OK1, "X: a", " folded", LENGTH),
    "header without a colon": raw(OK1, "hello", LENGTH),
    "space before the colon": raw(OK1, f"Content-Length : {N}"),
    "control character in the header": raw(OK1, "X: \0", LENGTH),
    "CR in the header": raw(OK1, "X: a\rContent-Length: 1", LENGTH),
    "HTTP/2": raw("HTTP/2 200 OK", LENGTH),
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no status": raw("HTTP/1.1 OK", LENGTH),
    "status of two digits": raw("HTTP/1.1 20 OK", LENGTH),
    "status of four digits": raw("HTTP/1.1 2000 OK", LENGTH),
    "other coding": raw(OK1, "Transfer-Encoding: gzip, chunked", body=chunks(BODY)),
    "chunked twice": raw(OK1, CHUNKED, CHUNKED, body=chunks(BODY)),
    "chunks without a last one": raw(OK1, CHUNKED, body=chunks(BODY)[:-5]),
    "chunks cut in the last line": raw(OK1, CHUNKED, body=chunks(BODY)[:-1]),
    "chunk cut": raw(OK1, CHUNKED, body=chunks(BODY)[:-8]),
    "chunk longer than its size": raw(OK1, CHUNKED, body=b"%x\r\n%s\r\n0\r\n\r\n" % (N - 1, BODY)),
    "chunk without its end": raw(OK1, CHUNKED, body=b"%x\r\n%sxx0\r\n\r\n" % (N, BODY)),
    "signed chunk": raw(OK1, CHUNKED, body=b"+%x\r\n%s\r\n0\r\n\r\n" % (N, BODY)),
    "negative chunk": raw(OK1, CHUNKED, body=b"-%x\r\n%s\r\n0\r\n\r\n" % (N, BODY)),
    "0x chunk": raw(OK1, CHUNKED, body=b"0x%x\r\n%s\r\n0\r\n\r\n" % (N, BODY)),
    "chunk that wraps 32 bits": raw(OK1, CHUNKED, body=b"1%08x\r\n%s\r\n0\r\n\r\n" % (N, BODY)),
    "chunk that wraps 64 bits": raw(OK1, CHUNKED, body=b"1%016x\r\n%s\r\n0\r\n\r\n" % (N, BODY)),
    "empty chunk size": raw(OK1, CHUNKED, body=b"\r\n%s\r\n0\r\n\r\n" % BODY),
    "over 64 KiB": http_reply(K64 + b" "),
    "over 64 KiB to the end": raw(OK0, body=K64 + b" "),
    "over 64 KiB in chunks": raw(OK1, CHUNKED, body=chunks(K64, b" ")),
    "70 KB to the end": raw(OK0, body=b'{"text": "the whole' + b"x" * 70000 + b'"}'),
    "1 MB": http_reply(b'"%s"' % (MARK * 100_000)),
}


@pytest.mark.parametrize("step", [0, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(**cases(WRONG, "case, reply"))
def test_a_broken_reply_is_an_error(reply: bytes, step: int, desk: Desk):
    """Never a part of it, and the next call is not harmed."""
    answers_with(desk, reply, step if len(reply) < 2000 else 1000 * step)
    response = desk.ask(READ)
    # a status there may have been, or not
    sentence = desk.check_error(response, "api_invalid_reply", response.get("status"))
    assert response.get("status") in (None, 200) and "API" in sentence
    assert MARK not in desk.response
    answers_with(desk, http_reply(b"[1]"))
    assert desk.ask(READ) == [1]


@pytest.mark.parametrize(**cases({
    "nothing": b"", "length": raw(OK1, LENGTH, body=BODY[:9]), "to the end": raw(OK0),
    "chunks": raw(OK1, CHUNKED, body=chunks(BODY)[:-5])}, "case, reply"))
def test_a_reset_is_an_error_and_ends_no_body(reply: bytes, desk: Desk):
    answers_with(desk, reply, end=RESET)
    desk.refused(READ, "api_invalid_reply")
    assert MARK not in desk.response


NOT_JSON = [
    b"", b"  ", b"<html>oops</html>", b"{", BODY + b",", BODY + BODY, BODY[:-1] + b",}", b"{} x", b"[1 2]",
    b"tru", b"01", b"nan", b"-NaN", b"+Infinity", b"Infinit", b"NaNa", b"{NaN: 1}", b'"\n"', b'"\xff"',
    b"{}\0", b"\0", b"\xef\xbb\xbf{}", b"[" * 65 + b"]" * 65, b"[" * 65536, b"'a'"]


@pytest.mark.parametrize("body", NOT_JSON, ids=lambda body: body[:30].decode("ascii", "backslashreplace"))
def test_a_reply_that_is_not_json_is_an_error(body: bytes, desk: Desk):
    for reply in (http_reply(body), raw(OK0, body=body)):
        answers_with(desk, reply)
        assert "JSON" in desk.refused(READ, "api_invalid_reply", 200)
        assert MARK not in desk.response


def test_a_reply_without_content_is_an_error(desk: Desk):
    answers_with(desk, raw("HTTP/1.1 204 No Content", body=b""))
    desk.refused(READ, "api_invalid_reply", 204)


# ------------------------------------------------------------------------------------------ error statuses


@pytest.mark.parametrize("status, body, words", [
    ("400 Bad Request", b'{"error": "missing address"}', "missing address"),
    ("400 Bad Request", b'{"x": {"error": "inner"}, "error": "g\\u00fcltig: \\"1\\"\\n"}', 'gültig: "1"\n'),
    ("401 No", b'{"error": ""}', ""), ("404 Not Found", b"", ""), ("422 Odd", b"[]", ""),
    ("422 Odd", b'{"error": {"error": "deeper"}}', ""), ("422 Odd", b'{"error": null, "x": NaN}', ""),
    ("500 Oops", b'{"error": "Modbus error: NaN", "value": NaN}', "Modbus error: NaN"),
    ("500 Oops", b'{"error": "cut', ""), ("502 Bad Gateway", b'{"error": "not \xff UTF-8"}', ""),
    ("503 Unavailable", b"<html><h1>503</h1></html>", ""), ("599 Odd", b'{"error": "x"}', "x"),
    ("301 Moved", b'{"error": "elsewhere"}', "elsewhere"), ("302 Found", b"", ""), ("304 Not Modified",
    None, ""),
], ids=lambda value: value[:30].decode("ascii", "replace") if isinstance(value, bytes) else "")
def test_an_error_status_is_told_with_the_apis_words(status: str, body: bytes | None, words: str, desk: Desk):
    answers_with(desk, raw("HTTP/1.1 " + status, body=b"") if body is None else http_reply(body, status))
    sentence = desk.refused(READ, "api_error", int(status[:3]))
    head = f"the gateway's API answered with status {status[:3]}"
    assert sentence == (f"{head}: {words}" if words else head)


@pytest.mark.parametrize("words", ["x" * 1000, "ü" * 5000, "\U0001f408" * 5000, "\0\1\x1b[31m\r\n" * 50,
                                   "\\\"" * 600],
                         ids=["long", "umlauts", "cats", "controls", "quotes"])
def test_long_and_strange_words_make_neither_answers_nor_log_lines_ugly(words: str, desk: Desk):
    mark = desk.cat.log.mark()
    answers_with(desk, http_reply({"error": words}, "500 Oops"))
    sentence = desk.refused(READ, "api_error", 500)
    assert len(sentence) < 1100
    said = sentence.split("500")[1].removeprefix(": ")
    assert words.startswith(said.rstrip("\ufffd")) and (said or len(words) > 2000)
    for line in desk.cat.log.lines[mark:]:
        assert line.isascii() and line.isprintable() and len(line) < 1500


def test_the_gateways_errors(lab: Lab):
    """A 404 without length and body, and the others, as the real server sends them."""
    gateway = lab.gateway("--accept-ms", "0", device=lab.device())
    desk = gateway_desk(lab, gateway)
    for mode, words in (("404:1", ""), ("500:1", ": forced"), ("503:1", ": forced")):
        gateway.set(modbus=mode)
        sentence = desk.refused(READ, "api_error", int(mode[:3]))
        assert sentence == f"the gateway's API answered with status {mode[:3]}{words}"
    assert "unknown type X9" in desk.refused({**READ, "type": "X9"}, "api_error", 400)
    for mode in ("notjson:1", "empty:1", "zero:2", "cut:1", "both:1", "lengths:1", "bighead:1", "huge:1"):
        gateway.set(modbus=mode)
        desk.check_error(response := desk.ask(READ), "api_invalid_reply", response.get("status"))
    for mode in ("close", "continue", "chunked", "zero"):  # a connection that had waited may be dead: once more
        gateway.set(modbus=f"{mode}:1")
        assert desk.ask(READ)["value"] == 42
    gateway.control("reset")
    gateway.set(modbus="zero:1")  # but never for a write
    desk.refused(WRITE, "api_invalid_reply")
    assert len(gateway.calls("modbus")) == 1
    for address in (100, 102, 104):  # where the device has F32 NaN, Infinity, -Infinity
        gateway.set(proxy=(address - 100) // 2)
        assert desk.ask({**READ, "address": address, "size": 2, "type": "F32"})["value"] is None
    assert desk.ask({**READ, "address": 200, "size": 4, "type": "U64"})["value"] == 1.8446744073709552e+19
    desk.end()


# --------------------------------------------------------------------------------- unreachable and too slow


def test_an_api_that_does_not_listen_is_unreachable(lab: Lab):
    desk = scripted_desk(lab, WEB_CONTAINER_SPARES="0")
    assert desk.ask(READ)["value"] == 42
    desk.api.deaf()
    for _ in range(3):
        desk.refused(READ, "api_unreachable")
    desk.api.listen()
    assert desk.ask(READ)["value"] == 42
    desk.end()


def test_an_api_that_does_not_take_connections_is_unreachable_in_time(lab: Lab):
    """The kernel drops SYNs of connections that nobody accepts."""
    desk = scripted_desk(lab, WEB_CONTAINER_TIMEOUT="1", WEB_CONTAINER_SPARES="0")
    desk.api.deaf()
    with socket.socket() as full, socket.socket() as first:
        full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        full.bind(("127.0.0.1", desk.api.port))
        full.listen(0)
        first.connect(full.getsockname())
        begun = time.monotonic()
        desk.refused(READ, "api_unreachable")
        assert 0.9 < time.monotonic() - begun < 5
    desk.api.listen()
    assert desk.ask(READ)["value"] == 42
    desk.end()


def drip(request: Any) -> Iterator[bytes]:
    """Always something new, never the end."""
    yield b"HTTP/1.1 200 OK\r\nX: "
    for _ in range(200):
        time.sleep(0.05)
        yield b"y"


def stop_after(reply: bytes, held: threading.Event) -> Callable:
    def pieces(_request: Any) -> Iterator[bytes]:
        yield reply
        held.wait(TIMEOUT)
    return pieces


def test_an_api_that_does_not_end_its_answer_in_time_is_a_timeout(lab: Lab):
    """WEB_CONTAINER_TIMEOUT holds for the whole of a call."""
    desk, held = scripted_desk(lab, WEB_CONTAINER_TIMEOUT="1"), threading.Event()
    slow = [drip, *(stop_after(reply, held) for reply in (
        b"", raw(OK1, LENGTH, body=BODY[:-1]), raw(OK0, body=BODY), raw(OK1, CHUNKED, body=chunks(BODY)[:-2]),
        raw("HTTP/1.1 100 Continue", body=b"")))]
    desk.api.routes[MODBUS] = lambda request: slow[int(request.query["address"])](request)
    begun = time.monotonic()
    for address in range(len(slow)):
        desk.send(to_bytes({**READ, "device_id": str(address), "address": address}))
    for n in range(1, len(slow) + 1):
        answer = desk.take()
        sent = to_bytes(strict_json(answer)["request"])
        desk.check_error(desk.check(answer, sent), "api_timeout")
        assert time.monotonic() - begun > (n + 1) // 2 - 0.1  # two at a time
    assert time.monotonic() - begun < 7
    held.set()
    desk.api.routes[MODBUS] = http_reply([1])
    assert desk.ask(READ) == [1]
    desk.end()


# -------------------------------------------------------------------------------------------- side by side


class Gates:
    """A Modbus API: the calls for a device wait until open(device). It notes how many there are at a time."""

    def __init__(self, *open_devices: str) -> None:
        self.gates: dict[str, threading.Event] = {}
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        for device in open_devices:
            self.open(device)

    def gate(self, device: str) -> threading.Event:
        with self.lock:
            return self.gates.setdefault(device, threading.Event())

    def open(self, device: str) -> None:
        self.gate(device).set()

    def __call__(self, request: Any) -> bytes:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.gate(request.query["device_id"]).wait(TIMEOUT)
        with self.lock:
            self.now -= 1
        return http_reply({"value": int(request.query["address"])})


def of(device: str, address: int) -> bytes:
    return to_bytes({**READ, "device_id": device, "address": address})


def take_in_order(desk: Desk, *requests: bytes) -> None:
    for request in requests:
        assert desk.check(desk.take(), request) == {"value": strict_json(request)["address"]}


def started(desk: Desk) -> list[tuple[str, int]]:
    return [(r.query["device_id"], int(r.query["address"])) for r in desk.api.history if r.path == MODBUS]


def test_a_device_gets_its_calls_one_by_one_in_order_and_delays_no_other(lab: Lab):
    gates = Gates("quick")
    desk = scripted_desk(lab, modbus=gates)
    slow, quick = [of("slow", n) for n in range(4)], [of("quick", n) for n in range(10, 15)]
    desk.send(slow[0])
    desk.api.take(MODBUS)
    for request in (slow[1], quick[0], slow[2], *quick[1:], slow[3]):
        desk.send(request)
    take_in_order(desk, *quick)
    assert started(desk)[0] == ("slow", 0) and len(started(desk)) == 6
    gates.open("slow")
    take_in_order(desk, *slow)
    assert gates.most == 2 and started(desk)[6:] == [("slow", 1), ("slow", 2), ("slow", 3)]
    desk.end()


def test_two_calls_at_a_time_and_the_state_besides(lab: Lab):
    gates = Gates("c")
    desk = scripted_desk(lab, modbus=gates, STATE_INTERVAL="1")
    requests = [of(device, n) for n, device in enumerate("abcccdd")]
    for request in requests:
        desk.send(request)
    desk.api.take(MODBUS)
    desk.api.take(MODBUS)
    desk.broker.received.clear()
    for _ in range(2):
        state = desk.broker.take(PUBLISH).payload  # and no answer
        assert strict_json(state.decode())["mode"] == "fake"
    assert sorted(started(desk)) == [("a", 0), ("b", 1)]  # in either order: the API has threads
    gates.open("b")
    take_in_order(desk, *requests[1:5])
    desk.api.take(MODBUS, lambda r: r.query["device_id"] == "d")
    gates.open("a")
    take_in_order(desk, requests[0])
    gates.open("d")
    take_in_order(desk, *requests[5:])
    assert gates.most == 2
    desk.end()


def test_requests_without_a_device_are_answered_while_others_wait(lab: Lab):
    """There is nothing to call for them."""
    gates = Gates()
    desk = scripted_desk(lab, modbus=gates)
    desk.send(of("a", 0))
    desk.api.take(MODBUS)
    assert desk.ask({"function_code": 3})["code"] == "missing_field"
    assert desk.ask(b"[1 2]", null=True)["code"] == "invalid_json"
    gates.open("a")
    take_in_order(desk, of("a", 0))
    desk.end()


def test_slow_and_dead_devices_delay_no_other(lab: Lab):
    """The gateway's own, through mosquitto: in order per device, never two at once for one, two in all."""
    gateway = lab.gateway("--accept-ms", "0", "--dead-ms", "1000", "--slow-ms", "100", device=lab.device())
    desk = gateway_desk(lab, gateway)
    requests = [of(device, n) for n in range(1, 7) for device in (DEVICE, "SLOW")]
    requests.insert(5, of("DEAD", 0))
    for request in requests:
        desk.send(request)
    answers = [desk.take() for _ in requests]
    asked = [strict_json(answer)["request"] for answer in answers]
    assert asked[-1]["device_id"] == "DEAD" and desk.check(answers[-1], requests[5])["value"] is None
    for device in (DEVICE, "SLOW"):
        assert [a["address"] for a in asked if a["device_id"] == device] == [1, 2, 3, 4, 5, 6]
    calls = gateway.calls("modbus")
    for call in calls:
        others = [c for c in calls if c is not call and c["start_ms"] <= call["start_ms"] < c["end_ms"]]
        assert len(others) <= 1
        assert call["text"].split("&")[0] not in [c["text"].split("&")[0] for c in others]
    desk.end()


# ----------------------------------------------------------------------------------------- full, and stopping


def test_busy_at_once_when_256_wait(lab: Lab):
    gates = Gates("other")
    desk = scripted_desk(lab, modbus=gates, WEB_CONTAINER_TIMEOUT="60")
    requests = [to_bytes({**READ, "device_id": "a", "address": n, "pad": "x" * 150}) for n in range(450)]
    assert len(requests[0]) > 200
    for request in requests:
        desk.send(request)
    busy = []
    while not busy or busy[-1] < len(requests) - 1:
        answer = desk.take()
        busy.append(strict_json(answer)["request"]["address"])
        assert "later" in desk.check_error(desk.check(answer, requests[busy[-1]]), "busy")
    assert busy == list(range(busy[0], len(requests))) and busy[0] >= 256
    assert started(desk) == [("a", 0)]
    # what can't be kept is busy, too: exactly one answer each
    assert desk.check_error(desk.ask(padded(8192)), "busy")
    assert desk.check_error(desk.ask(b"[1 2]" + b" " * 4000, null=True), "busy")
    gates.open("a")
    take_in_order(desk, *requests[:busy[0]])
    assert started(desk) == [("a", n) for n in range(busy[0])]
    assert desk.ask(of("a", 7)) == {"value": 7}
    desk.end()


def test_answers_wait_for_a_broker_that_acknowledges_late(lab: Lab):
    """None is lost, and none comes twice, when there is no room for more."""
    late, held = threading.Event(), []

    def script(c: fake.Connection) -> None:
        c.ready()
        while packet := c.receive():
            if packet.kind == PUBLISH and not late.is_set():
                held.append(packet)
            else:
                c.reply(packet)

    desk = scripted_desk(lab, script, modbus=lambda request: http_reply(
        {"value": int(request.query["address"]), "text": "x" * 60000}))
    requests = [of("a", n) for n in range(8)]
    for request in requests:
        desk.send(request)
    desk.api.take(MODBUS, lambda r: r.query["address"] == "2")
    answers = [desk.take(), desk.take()]
    for _ in range(20):  # meanwhile the third reply has come, for which there is no room
        assert desk.ask({"function_code": 3})["code"] == "missing_field"
    late.set()
    for packet in held:
        desk.connection.reply(packet)
    for request, answer in zip(requests, answers + [desk.take() for _ in requests[2:]]):
        assert desk.check(answer, request)["value"] == strict_json(request)["address"]
    desk.end()


def test_stopping_answers_what_runs_and_refuses_what_waits(lab: Lab):
    gates = Gates("b")
    desk = scripted_desk(lab, modbus=gates)
    running, *waiting = [of("a", n) for n in range(3)]
    desk.send(running)
    desk.api.take(MODBUS)
    desk.send(waiting[0])
    desk.send(of("b", 0))
    take_in_order(desk, of("b", 0))  # so the ones before have come, too
    desk.cat.send_signal(signal.SIGTERM)
    desk.cat.wait_log("stopping")
    desk.send(waiting[1])
    desk.refused(of("b", 1), "shutting_down")  # too late, though its device is idle
    gates.open("a")
    take_in_order(desk, running)
    for request in waiting:
        sentence = desk.check_error(desk.check(desk.take(), request), "shutting_down")
        assert "not executed" in sentence
    assert desk.cat.wait() == 0
    assert started(desk) == [("a", 0), ("b", 0)]
    desk.sweep()
    assert not desk.strays


def test_stopping_does_not_wait_for_ever(lab: Lab):
    """A call that hangs has 5 s, which this test takes; two of them, so that no connection is free."""
    gates = Gates()
    desk = scripted_desk(lab, modbus=gates)
    requests = [of(device, 0) for device in "abc"]
    for request in (*requests, b"[1 2]"):
        desk.send(request)
    desk.api.take(MODBUS, lambda r: r.query["device_id"] == "b")
    assert desk.cat.stop(signal.SIGINT) == 0
    for request in requests:
        desk.check_error(desk.check(desk.take(timeout=0), request), "shutting_down")
    desk.check_error(desk.check(desk.take(timeout=0)), "shutting_down")
    assert len(started(desk)) == 2
    gates.open("a")
    gates.open("b")
