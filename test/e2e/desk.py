"""A desk where requests go out and each answer is looked at hard: its bytes, its order, its log lines, and
that there is exactly one. gateway_desk() has mosquitto and the test gateway around the bridge,
scripted_desk() the scripted broker and API."""

import contextlib
import json
import re
import time
from datetime import datetime, timezone
from typing import Any, Callable

from fake import PUBLISH, Connection, FakeApi, FakeBroker, Packet
from lab import DEVICE, SERIAL, TIMEOUT, Gateway, Inbox, Lab, LabError, Process, strict_json

SPACE = b" \t\r\n"  # RFC 8259 §2
READ = {"function_code": 3, "device_id": DEVICE, "address": 10056}
WRITE = {"function_code": 16, "device_id": DEVICE, "address": 33207, "values": 170}


def without(request: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in request.items() if name not in names}


def to_bytes(request: Any) -> bytes:
    """Bytes as they are, text in UTF-8, anything else as JSON."""
    if isinstance(request, str):
        return request.encode()
    return request if isinstance(request, bytes) else json.dumps(request).encode()


def padded(size: int, **members: Any) -> bytes:
    """A read of so many bytes, thanks to a member that nobody knows."""
    raw = to_bytes({**READ, **members, "pad": ""})
    return raw[:-2] + b"x" * (size - len(raw)) + raw[-2:]


class Desk:
    """send(payload) publishes a request; the answers are what suits in the inbox."""

    def __init__(self, cat: Process, send: Callable[[bytes], Any], inbox: Inbox,
                 suits: Callable[[Any], bool] = lambda item: True) -> None:
        self.cat, self.send, self.inbox, self.suits = cat, send, inbox, suits
        self.logged, self.strays = cat.log.mark(), []

    def take(self, timeout: float = TIMEOUT) -> bytes:
        """The next answer."""
        message = self.inbox.take(self.suits, timeout, "answer")
        assert message.qos == 1 and not message.retain, message
        return message.payload

    def sweep(self) -> None:
        """Puts answers aside that nobody waits for: they are a mistake, but not of the test that comes."""
        with contextlib.suppress(LabError):
            while True:
                self.strays.append(self.take(timeout=0))

    def check(self, answer: bytes, request: bytes = b"null") -> Any:
        """An answer to the request must have these bytes (CONTRACT.md); the response, as an object."""
        head, tail = b'{"timestamp": "', b'Z", "type": "modbus_response", "request": '
        at = len(head) + 26
        text = answer[len(head):at].decode()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}", text), answer[:100]
        stamp = datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()
        assert abs(stamp - time.time()) < TIMEOUT, text
        begin = head + text.encode() + tail + request.strip(SPACE) + b', "response": '
        assert answer.startswith(begin) and answer.endswith(b"}"), answer[:9000]
        strict_json(answer.decode())
        self.response = answer[len(begin):-1]  # its bytes
        return strict_json(self.response.decode())

    def ask(self, request: Any, null: bool = False) -> Any:
        """The response to a request, which is echoed (or with null must not be)."""
        raw = to_bytes(request)
        self.sweep()
        self.send(raw)
        return self.check(self.take(), b"null" if null else raw)

    def check_error(self, response: Any, code: str, status: int | None = None) -> str:
        """An error must have these members; its sentence."""
        expected = {"success": False, "error": response.get("error"), "code": code,
                    **({"status": status} if status else {}), "gateway": SERIAL}
        assert response == expected and list(response) == list(expected), response
        sentence = response["error"]
        assert isinstance(sentence, str) and 10 < len(sentence) < 1200, sentence
        return sentence

    def refused(self, request: Any, code: str, status: int | None = None, null: bool = False) -> str:
        """The sentence with which a request is refused, and which is logged."""
        mark = self.cat.log.mark()
        sentence = self.check_error(self.ask(request, null), code, status)
        self.cat.wait_log(rf"request \d+: {code}: ", since=mark)
        return sentence

    def end(self) -> None:
        """Every request had exactly one answer, and at most one line about what was wrong; the states that
        came meanwhile are JSON, too."""
        self.refused(b"the end", "invalid_json", null=True)  # whose answer comes behind all others
        self.sweep()
        assert not self.strays, self.strays
        for state in self.states():
            strict_json(state.decode())
        told = [m[1] for m in self.cat.log.find(r" (?:warn|info) +request (\d+)\b", self.logged)]
        assert len(told) == len(set(told)), self.cat.log.tail()


def gateway_desk(lab: Lab, gateway: Gateway | None = None, **env: str) -> Desk:
    """Over mosquitto, at a gateway with its device and a prefix of its own. query(request) asks and returns
    the query of the call that it became."""
    gateway = gateway or lab.gateway("--accept-ms", "0", device=lab.device())
    broker = lab.broker(gateway)
    operator = lab.operator(broker, gateway, prefix=f"iamcat/{SERIAL}")
    mark = broker.log.mark()
    cat = lab.iamcat(lab.env(broker, gateway, MQTT_TOPIC_PREFIX="iamcat/{serial}", **env))
    broker.wait_subscribed(cat, since=mark)
    desk = Desk(cat, operator.send, operator.answers)
    desk.states = lambda: [state.payload for state in operator.states.clear()]
    desk.gateway = gateway

    def query(request: Any) -> str:
        gateway.control("reset")
        desk.ask(request)
        texts = [call["text"] for call in gateway.calls("modbus")]
        if len(texts) != 1:
            raise LabError(f"not one call: {texts}")
        return texts[0]

    desk.query = query
    return desk


def is_answer(packet: Packet) -> bool:
    return packet.kind == PUBLISH and packet.topic == "iamcat/modbus/response"


def scripted_desk(lab: Lab, script: Callable[[Connection], Any] = Connection.serve, modbus: Any = None,
                  **env: str) -> Desk:
    """Over the scripted broker and API; modbus answers /api/inverter/modbus there."""
    broker, api = lab.add(FakeBroker(lab.certificate, script)), lab.add(FakeApi())
    if modbus:
        api.routes["/api/inverter/modbus"] = modbus
    cat = lab.iamcat(lab.env(broker, api, **env))
    connection = broker.connection()
    cat.wait_log("in service")

    desk = Desk(cat, lambda payload: connection.publish("iamcat/modbus/request", payload), broker.received,
                is_answer)
    desk.states = lambda: [p.payload for p in broker.history if p.kind == PUBLISH and not is_answer(p)]
    desk.broker, desk.api, desk.connection = broker, api, connection
    return desk
