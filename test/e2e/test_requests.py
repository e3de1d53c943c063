"""Requests: what becomes of what is published on the request topic."""

import json
import urllib.parse
from typing import Any

import pytest

import fake
from desk import READ, WRITE, Desk, gateway_desk, padded, scripted_desk, to_bytes, without
from lab import DEVICE, Lab, strict_json

READ_CALL = f"device_id={DEVICE}&function_code=3&address=10056&size=1&type=U16&endianess=big&scale_factor=1"
WRITE_CALL = f"device_id={DEVICE}&address=33207&function_code=16&values=170&type=U16"


@pytest.fixture(scope="module")
def desk(shared_lab: Lab):
    """One bridge for all that leaves no trace."""
    one = gateway_desk(shared_lab)
    yield one
    one.end()


def named(*cases: Any) -> dict[str, Any]:
    """Parameters with the request itself as the name of the case."""
    return {"argvalues": cases, "ids": lambda value: value[:50].decode("ascii", "backslashreplace")
            if isinstance(value, bytes) else json.dumps(value)[:50]}


# ------------------------------------------------------------------------------------- members and the call


@pytest.mark.parametrize("request_, call", **named(
    (READ, READ_CALL),
    ({**READ, "function_code": 4}, READ_CALL.replace("code=3", "code=4")),
    ({**READ, "size": 2, "type": "U32", "endianess": "little", "scale_factor": 10},
     READ_CALL.replace("size=1&type=U16&endianess=big&scale_factor=1",
                       "size=2&type=U32&endianess=little&scale_factor=10")),
    (dict(reversed(READ.items())), READ_CALL),
    (WRITE, WRITE_CALL),
    ({**WRITE, "type": "S16"}, WRITE_CALL.replace("U16", "S16")),
    ({**WRITE, "size": 1, "endianess": "little", "scale_factor": 2}, WRITE_CALL),
    ({**READ, "x": {"address": 7}, "sizes": 5, "": 0, "Address": 9, "values": [1]}, READ_CALL),
    # of several with one name the last counts, and escapes are no other name
    (b'{"function_code": 16, "address": 1, "device_id": "%s", "function_code": 3, "address": 10056}'
     % DEVICE.encode(), READ_CALL),
    (b'{"f\\u0075nction_code": 3, "\\u0061ddress": 10056, "device_id": "%s"}' % DEVICE.encode(), READ_CALL),
    (b'\r\n\t {"function_code"\t:\n3 ,"device_id":"\\u0041%s",\r"address":10056} \n' % DEVICE[1:].encode(),
     READ_CALL),
))
def test_members_become_the_query(request_: Any, call: str, desk: Desk):
    assert desk.query(request_) == call


# as written: not as a float would print it
NUMBERS = ["0", "-0", "7", "0.10", "-1.50", "1e+5", "1E-05", "1e400", "12345678901234567890",
           "123456789012345678901234567890.123456789012345678901234567890"]


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers_pass_on_as_written(number: str, desk: Desk):
    query = desk.query(json.dumps({**READ, "scale_factor": 0}).replace('r": 0', f'r": {number}'))
    assert query == READ_CALL.replace("factor=1", "factor=" + number.replace("+", "%2B"))
    for text in (number, f"[1,{number}]", f'"1,{number}"'):
        query = desk.query(json.dumps({**WRITE, "values": 0}).replace('s": 0', f's": {text}'))
        values = number if text == number else f"1,{number}"
        assert query == WRITE_CALL.replace("170", values.replace("+", "%2B"))


@pytest.mark.parametrize("text, encoded", **named(
    (b"AZaz09_.-~", "AZaz09_.-~"),
    (b"two  words", "two%20%20words"),
    (b"&=+?#/%20;,:@!$", "%26%3D%2B%3F%23%2F%2520%3B%2C%3A%40%21%24"),
    (b"'()*[]{}|^`<>", "%27%28%29%2A%5B%5D%7B%7D%7C%5E%60%3C%3E"),
    ("äöüß".encode(), "%C3%A4%C3%B6%C3%BC%C3%9F"),
    (b"\\u00e4\\u00F6\\u20ac", "%C3%A4%C3%B6%E2%82%AC"),
    ("\U0001f408".encode(), "%F0%9F%90%88"),
    (b"\\ud83d\\udc08", "%F0%9F%90%88"),
    (b"\\ud83d\\ud83d\\uDC08\\udc08", "%EF%BF%BD%F0%9F%90%88%EF%BF%BD"),  # half a pair is U+FFFD
    (b'\\"\\\\\\/\\b\\f\\n\\r\\t', "%22%5C%2F%08%0C%0A%0D%09"),
    (b"\\u0000\\u001f\x7f", "%00%1F%7F"),
    (b"\\\\u0041", "%5Cu0041"),
))
def test_strings_are_unescaped_then_percent_encoded(text: bytes, encoded: str, desk: Desk):
    for name, value in (("device_id", DEVICE), ("type", "U16"), ("endianess", "big")):
        query = desk.query(to_bytes({**READ, name: "@"}).replace(b"@", text))
        assert query == READ_CALL.replace(f"{name}={value}", f"{name}={encoded}")


@pytest.mark.parametrize("values, sent", **named(
    (170, "170"), ([170], "170"), ("170", "170"), ([1, 2, 3], "1,2,3"), ("1,2,3", "1,2,3"), (-1, "-1"),
    ("1, -2", "1,-2"), (list(range(123)), ",".join(map(str, range(123)))),
    (",".join(["9"] * 123), ",".join(["9"] * 123)),
    (b"[ 1 ,\n2 ]", "1,2"), (b'"1\\u002c2"', "1,2"), ("1,\n2\t", "1,2"),
))
def test_values_are_sent_comma_separated(values: Any, sent: str, desk: Desk):
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    query = desk.query(to_bytes({**WRITE, "values": 0}).replace(b's": 0', b's": ' + text))
    assert query.replace("%2C", ",") == WRITE_CALL.replace("170", sent)


@pytest.mark.parametrize("member, value", [("address", 0), ("address", 65535), ("size", 1), ("size", 125)])
def test_limits_are_within(member: str, value: int, desk: Desk):
    query = urllib.parse.parse_qs(desk.query({**READ, "address": 10056, member: value}), strict_parsing=True)
    assert query[member] == [str(value)]


def test_a_write_can_be_read_back(desk: Desk):
    where = {"device_id": DEVICE, "address": 33300, "type": "U32"}
    assert desk.ask({**where, "function_code": 16, "values": [4294967295, 1]}) == {
        "address": 33300, "success": True, "values": [4294967295, 1]}
    read = {**where, "function_code": 3, "size": 2}
    assert desk.ask(read)["value"] == 4294967295
    assert desk.ask({**read, "address": 33302, "scale_factor": 0.5})["value"] == 0.5
    assert desk.ask({**read, "function_code": 4})["value"] != 4294967295  # other registers


def test_a_reply_is_passed_on_as_it_came(desk: Desk):
    desk.query({**READ, "type": "S16"})
    assert desk.response == (b'{"register": 10056, "size": 1, "raw_value": "002a", "swapped_value": "002a", '
                             b'"value": 42.0}')


# ------------------------------------------------------------------------------------ what is not executed


def refused_here(desk: Desk, request: Any, code: str, null: bool = False) -> str:
    """Refused without a call."""
    desk.gateway.control("reset")
    sentence = desk.refused(request, code, null=null)
    assert not desk.gateway.calls("modbus")
    return sentence


NOT_JSON = [
    b"", b" ", b"x", b"{", b"}", b'{"a":1,}', b'{"a" 1}', b"{'a':1}", b"{a:1}", b'{"a":1 "b":2}', b"[1 2]",
    b"[1,]", b"[,1]", b"tru", b"True", b"nul", b"nullx", b"01", b"-01", b"+1", b".5", b"1.", b"1e", b"-",
    b"0x10", b"{}{}", b"{} x", b"1 2", b"NaN", b"[Infinity]", b"-Infinity", b'{"function_code": NaN}',
    b'"\t"', b'"\n"', b'"\x1f"', b'"\x00"', b'"a', b'"\\x"', b'"\\u12g4"', b'"\\u123"', b'"\\', b'"\x80"',
    b'"\xc3"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b'"\xf8\x88\x80\x80\x80"', b"\xff",
    b"{}\x00", b"{}\x00{}", b"\x00", b'{"a\x00":1}', b"\xef\xbb\xbf{}", b"\xfe\xff\x00{\x00}", b"{}//",
    b"/**/{}", b"{}\x0b", b"\xa0{}", b"\xc2\xa0{}", b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65,
    b"[" * 8192,
]


@pytest.mark.parametrize("request_", **named(*NOT_JSON))
def test_what_is_not_json_is_refused(request_: bytes, desk: Desk):
    assert "JSON" in refused_here(desk, request_, "invalid_json", null=True)


@pytest.mark.parametrize("end", [b",}", b"}}", b"}{}", b"} x", b"}\x00", b',"y":01}', b',"y":"\xff"}',
                                 b',"y":\v1}'])
def test_a_request_with_something_wrong_at_its_end_is_not_executed(end: bytes, desk: Desk):
    refused_here(desk, to_bytes(READ)[:-1] + end, "invalid_json", null=True)


def test_64_levels_are_accepted_and_65_are_not(desk: Desk):
    deep = [to_bytes({**READ, "x": 0}).replace(b": 0}", b": %s%s}" % (b"[" * n, b"]" * n)) for n in (63, 64)]
    assert desk.query(deep[0]) == READ_CALL
    assert "64" in refused_here(desk, deep[1], "invalid_json", null=True)


@pytest.mark.parametrize("request_", **named(b"[]", b'[{"function_code": 3}]', b"1", b'"\\ud83d"', b"true",
                                             b"null", b" [ 1 ,2 ] ", b"[" * 64 + b"]" * 64))
def test_what_is_not_an_object_is_refused(request_: bytes, desk: Desk):
    refused_here(desk, request_, "not_an_object")


@pytest.mark.parametrize("request_, name", **named(
    *((without(whole, name), name) for whole in (READ, WRITE) for name in whole),
    ({}, "function_code"), ({"x": READ}, "function_code"), ({"Function_code": 3}, "function_code"),
))
def test_a_missing_field_is_named(request_: Any, name: str, desk: Desk):
    assert f"'{name}'" in refused_here(desk, request_, "missing_field")


@pytest.mark.parametrize("code", **named(0, 1, 2, 5, 6, 15, 17, 23, 43, 255, 259, 65539, 2**32 + 3, 2**64 + 3,
                                         -3, 3.5, "3", "", True, None, [3], {}))
def test_other_function_codes_are_refused(code: Any, desk: Desk):
    request = {**WRITE, "function_code": code}
    assert "'function_code'" in refused_here(desk, request, "unsupported_function_code")


BAD_VALUES = {
    "address": [-1, 65536, 1.5, "5", None, True, [], {}, 2**32, 2**64, 10**30],
    "size": [0, -1, 126, 1.5, "1", None, True, [1], 2**32 + 1, 2**64 + 1],
    "device_id": ["", 5, None, True, [DEVICE], {}],
    "type": ["", 16, None, ["U16"]],
    "endianess": ["", 0, None, False],
    "scale_factor": ["1", "", None, True, [1], {}],
}
NO_VALUES = [[], "", " ", ",", "1,", ",1", "1,,2", "1 2", "1;2", "0x10", "01", "+1", "1.", "NaN", "true",
             "a", "[1]", [[1]], [1, [2]], ["1"], [1, "2"], [None], [True], [{}], {}, {"0": 1}, None, True,
             [1] * 124, ",".join(["1"] * 124), [1] * 1000, [0] * 123 + ["1"]]


@pytest.mark.parametrize("member, value", **named(
    *((name, value) for name, values in BAD_VALUES.items() for value in values),
    *(("values", value) for value in NO_VALUES)))
def test_a_bad_value_is_named(member: str, value: Any, desk: Desk):
    request = {**(WRITE if member == "values" else READ), member: value}
    assert f"'{member}'" in refused_here(desk, request, "bad_value")


@pytest.mark.parametrize("size", [8193, 8194, 60 * 1024, 1_000_000])
def test_a_request_over_8_kib_is_refused(size: int, desk: Desk):
    assert "8192" in refused_here(desk, padded(size), "too_large", null=True)


def test_a_request_of_8_kib_is_executed(desk: Desk):
    assert desk.query(padded(8192)) == READ_CALL
    umlauts = to_bytes({**READ, "type": "@"}).replace(b"@", "ü".encode() * 4000)
    blank = b" " * (8192 - len(umlauts))
    assert desk.query(blank + umlauts) == READ_CALL.replace("U16", "%C3%BC" * 4000)
    tabs = umlauts.replace("ü".encode(), b"\\t")
    assert desk.query(tabs + blank) == READ_CALL.replace("U16", "%09" * 4000)


@pytest.mark.parametrize("request_", **named(
    b' {"address":10056,"device_id":"A\\u0032\\t" ,\n\t"function_code" : 3, "x": [ 1.0,1e2 ,"\\/\\u00e4" ] }',
    b'{"a":1,"a":2}', b"{ }", b'{"function_code":3,"address":1.50}', b'[ "\\ud800" ]'))
def test_the_echo_is_byte_for_byte(request_: bytes, desk: Desk):
    desk.ask(request_)  # which compares


# ----------------------------------------------------------------------------------------- MODBUS_WRITE_ALLOW


@pytest.fixture(scope="module")
def limited(shared_lab: Lab):
    one = scripted_desk(shared_lab, MODBUS_WRITE_ALLOW="100,200-203, 300-300,65534-65535")
    yield one
    one.end()


@pytest.mark.parametrize("address, values, kind, register", [
    (99, 1, "U16", 99), (100, 1, "U16", None), (101, 1, "U16", 101), (100, [1, 2], "U16", 101),
    (199, [1, 2], "U16", 199), (200, [1, 2, 3, 4], "U16", None), (200, "1,2,3,4,5", "U16", 204),
    (203, 1, "S16", None), (204, 1, "S16", 204), (202, 1, "U32", None), (203, 1, "U32", 204),
    (202, 1, "F32", None), (203, 1, "S32", 204), (202, [1, 2], "S32", 204), (200, 1, "U64", None),
    (201, 1, "U64", 204),
    (200, [1, 2], "S64", 204), (201, 1, "F64", 204), (300, 1, "U32", 301), (200, "1,2", "U32", None),
    (65534, 1, "U32", None), (65535, 1, "U16", None), (65535, 1, "U32", 65536), (65535, [1, 2], "U16", 65536),
    (65534, [1] * 123, "U64", 65536), (0, 1, "U16", 0), (200, 1, None, None), (204, 1, None, 204),
    # what does not tell its width might write anywhere
    (200, 1, "STR", "type"), (200, 1, "FLOAT", "type"), (200, 1, "U128", "type"), (200, 1, "16", "type"),
    (200, 1, "U64\0U16", "type"), (200, 1, "U64 16", "type"),
])
def test_only_allowed_registers_are_written(address: int, values: Any, kind: str | None, register: Any,
                                             limited: Desk):
    request = {**WRITE, "address": address, "values": values, "type": kind}
    if kind is None:
        del request["type"]
    if register is None:
        assert limited.ask(request)["value"] == 42
        return
    calls = len(limited.api.history)
    sentence = limited.refused(request, "write_refused")
    assert "MODBUS_WRITE_ALLOW" in sentence
    assert ("'type'" if register == "type" else f" {register} ") in sentence
    assert not [r for r in limited.api.history[calls:] if r.path == "/api/inverter/modbus"]


def test_reads_are_not_limited_by_what_may_be_written(limited: Desk):
    assert limited.ask({**READ, "address": 99})["value"] == 42


@pytest.mark.parametrize("allow, address, allowed", [
    ("none", 0, False), ("none", 33207, False), ("all", 33207, True), ("0", 0, True), ("0", 1, False),
    ("0-65535", 65535, True)])
def test_write_allow(allow: str, address: int, allowed: bool, lab: Lab):
    desk = scripted_desk(lab, MODBUS_WRITE_ALLOW=allow)
    if allowed:
        assert desk.ask({**WRITE, "address": address})["value"] == 42
    else:
        desk.refused({**WRITE, "address": address}, "write_refused")
    assert desk.ask(READ)["value"] == 42
    desk.end()


# ---------------------------------------------------------------------------------------- whose request it is

NOT_OURS = ["device NOPE not found", "No devices open"]


@pytest.mark.parametrize("why", NOT_OURS)
def test_a_request_for_another_gateways_device_is_left_to_it(why: str, lab: Lab):
    """With a prefix that several share."""
    bridge = lab.bridge("--accept-ms", "0")
    bridge.gateway.set(no_devices=int("open" in why))
    mark = bridge.cat.log.mark()
    line = r"info +request 1 is left to other gateways, .* \(.*MQTT_TOPIC_PREFIX.*\{serial\}.*\)"
    bridge.operator.unanswered({**READ, "device_id": "NOPE"}, lambda: bridge.cat.wait_log(line, since=mark))
    assert len(bridge.cat.log.find(r"(info|warn) +request 1\b", mark)) == 1
    bridge.gateway.set(no_devices=0)
    assert bridge.operator.request(READ)["response"]["value"] == 42


@pytest.mark.parametrize("why", NOT_OURS)
def test_with_a_prefix_of_its_own_every_request_is_answered(why: str, desk: Desk):
    desk.gateway.set(no_devices=int("open" in why))
    try:
        assert why in desk.refused({**READ, "device_id": "NOPE"}, "api_error", 400)
    finally:
        desk.gateway.set(no_devices=0)


@pytest.mark.parametrize("status, text", [
    (404, "device NOPE not found"), (500, "No devices open"), (400, "Device NOPE not found"),
    (400, "device NOPE not found."), (400, "device not found"), (400, "no devices open"),
    (400, "No devices open."), (400, "missing address"), (400, "")])
def test_any_other_error_is_answered_on_a_shared_prefix(status: int, text: str, plain: Desk):
    plain.api.routes["/api/inverter/modbus"] = fake.http_reply({"error": text}, f"{status} Error")
    assert text in plain.refused(READ, "api_error", status)


# --------------------------------------------------------------------------------- how it comes, over MQTT


@pytest.fixture(scope="module")
def shared_plain(shared_lab: Lab):
    one = scripted_desk(shared_lab)
    yield one
    one.end()


@pytest.fixture
def plain(shared_plain: Desk):
    """Over scripted peers that are good again, with the default prefix; since is where their history ends."""
    shared_plain.api.routes = dict(fake.GOOD_API)
    shared_plain.since = len(shared_plain.api.history)
    return shared_plain


def modbus_calls(desk: Desk, since: int = 0) -> list[str]:
    """The addresses that the scripted API was asked for."""
    return [r.query["address"] for r in desk.api.history[since:] if r.path == "/api/inverter/modbus"]


def test_a_retained_request_is_never_executed(lab: Lab):
    gateway = lab.gateway("--accept-ms", "0", device=lab.device())
    broker = lab.broker(gateway)
    operator = lab.operator(broker, gateway)
    for payload in (to_bytes(READ), b"x" * 10000):
        operator.send(payload, retain=True)
        cat = lab.iamcat(lab.env(broker, gateway))
        cat.wait_log("warn +a retained request is not executed")
        assert operator.request({**READ, "address": 1234})["response"]["value"] == 1234
        assert [c["text"].count("address=1234&") for c in gateway.calls("modbus")] == [1]
        assert not operator.answers.clear()
        cat.stop()
        gateway.control("reset")


def test_a_retained_request_amidst_others_is_acknowledged_and_not_executed(plain: Desk):
    for qos, last in enumerate((None, fake.PUBACK, fake.PUBCOMP)):
        number = plain.connection.publish("iamcat/modbus/request", to_bytes({**READ, "address": 1}), qos,
                                          retain=True)
        if last:
            plain.broker.take(last, lambda p: p.packet_id == number)
    plain.ask({**READ, "address": 2})
    assert modbus_calls(plain, plain.since) == ["2"]


def test_other_topics_are_ignored(plain: Desk):
    payload = to_bytes({**READ, "address": 3})
    for topic in ("iamcat/modbus/requests", "iamcat/modbus/reques", "iamcat/modbus/request/",
                  "/iamcat/modbus/request", "Iamcat/modbus/request", "iamcat/modbus/response",
                  "iamcat/state", "iamcat", "$SYS/x", "ü", " "):
        number = plain.connection.publish(topic, payload)
        plain.broker.take(fake.PUBACK, lambda p: p.packet_id == number)
    number = plain.connection.stream("iamcat/modbus/requests", 100_000)
    plain.broker.take(fake.PUBACK, lambda p: p.packet_id == number)
    plain.ask({**READ, "address": 4})
    assert modbus_calls(plain, plain.since) == ["4"]


@pytest.mark.parametrize("qos, last", [(0, None), (1, fake.PUBACK), (2, fake.PUBCOMP)])
def test_a_request_of_any_qos_has_one_answer(qos: int, last: int | None, plain: Desk):
    payload = to_bytes({**READ, "address": 10 + qos})
    number = plain.connection.publish("iamcat/modbus/request", payload, qos)
    plain.check(plain.take(), payload)
    if last:
        plain.broker.take(last, lambda p: p.packet_id == number)
    plain.ask({**READ, "address": 20})
    assert modbus_calls(plain, plain.since) == [str(10 + qos), "20"]


def test_a_qos_2_request_that_comes_twice_is_executed_once(lab: Lab):
    def script(c: fake.Connection) -> None:
        """Repeats PUBLISH and PUBREL, as a broker may that has not seen what came back."""
        c.ready()
        for address in (1, 2):  # the packet id is free again for the second one
            payload = to_bytes({**READ, "address": address})
            again = fake.mqtt_publish("iamcat/modbus/request", payload, 2, 7, dup=True)
            c.send(fake.mqtt_publish("iamcat/modbus/request", payload, 2, 7) + again)
            c.expect(fake.PUBREC)
            c.expect(fake.PUBREC)
            c.send(again)
            c.expect(fake.PUBREC)
            for _ in range(2):
                c.send(fake.mqtt_packet(fake.PUBREL, fake.mqtt_id(7), 2))
                assert c.expect(fake.PUBCOMP).packet_id == 7
        c.serve()

    desk = scripted_desk(lab, script)
    for address in (1, 2):
        desk.check(desk.take(), to_bytes({**READ, "address": address}))
        for _ in range(2):
            desk.broker.take(fake.PUBCOMP)
    desk.end()
    assert modbus_calls(desk) == ["1", "2"]


def test_every_one_of_a_burst_has_exactly_one_answer(lab: Lab):
    """Good and bad, small and large, in one write."""
    desk = scripted_desk(lab)
    kinds = [READ, WRITE, {**READ, "function_code": 9}, {**READ, "size": 0}, without(READ, "address")]
    requests = [to_bytes({**kinds[n % len(kinds)], "n": n}) for n in range(100)]
    requests += [padded(8192, n=n) for n in range(100, 103)]
    others = [b"[1 2]", b"{", b"", padded(8193), padded(70000)]
    sent = requests + others
    desk.connection.send(b"".join(fake.mqtt_publish("iamcat/modbus/request", payload, 1, i + 1)
                                  for i, payload in enumerate(sent)))
    answers = [desk.take() for _ in sent]
    echoed = [strict_json(answer)["request"] for answer in answers]
    assert sorted(echo["n"] for echo in echoed if echo) == list(range(len(requests)))
    assert echoed.count(None) == len(others)
    desk.end()
