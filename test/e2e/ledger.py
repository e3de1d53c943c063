"""Keeps account of requests over broken connections: what was executed and answered, what the log says."""

import re
import urllib.parse
from collections import Counter
from typing import Any

from desk import to_bytes
from lab import DEVICE, TIMEOUT, Gateway, Inbox, Operator, Process


class Ledger:
    """The requests of an operator, told apart by their addresses, and what became of each."""

    def __init__(self, gateway: Gateway, operator: Operator, first: int = 1000) -> None:
        self.gateway, self.operator, self.first, self.next = gateway, operator, first, first
        self.sent: list[int] = []  # packet ids
        self.settled: set[bytes] = set()  # answers
        self.acknowledged = Inbox("the broker's acknowledgements")
        operator.client.on_publish = lambda _client, _data, packet_id: self.acknowledged.put(packet_id)

    def request(self, pad: str = "") -> bytes:
        """The next one."""
        self.next += 1
        return to_bytes({"function_code": 3, "device_id": DEVICE, "address": self.next - 1, "pad": pad})

    def send(self, count: int = 1, pad: str = "") -> None:
        """Leaves them to the MQTT client, which sees that the broker gets each once, now or later."""
        for _ in range(count):
            topic = f"{self.operator.prefix}/modbus/request"
            self.sent.append(self.operator.client.publish(topic, self.request(pad), 1).mid)

    def executed(self) -> Counter:
        """How often each address was read."""
        calls = [call["text"] for call in self.gateway.calls("modbus") if call["executed"]]
        return Counter(int(urllib.parse.parse_qs(text)["address"][0]) for text in calls)

    def settle(self, without: range = range(0), timeout: float = 2 * TIMEOUT) -> None:
        """One more request, which takes its turn behind all others; each of them was executed once and
        answered once by then, but for those without, which never were. A broker that loses its connection may
        pass an answer on twice (MQTT 3.1.1 §4.3.2), even one from before: those have the same bytes."""
        for packet_id in self.sent:
            self.acknowledged.take(lambda one: one == packet_id, timeout, f"acknowledgement of {packet_id}")
        last, self.sent = self.next, []
        self.send()
        messages: list[Any] = []
        while not messages or messages[-1].json["request"]["address"] != last:
            messages.append(self.operator.answers.take(timeout=timeout, what=f"answer about {last}"))
        messages = [m for m in messages if m.payload not in self.settled]
        self.settled.update(m.payload for m in messages)
        answers = {(m.json["request"]["address"], m.payload) for m in messages}
        wrong = [m.json for m in messages if m.json["response"].get("value") != m.json["request"]["address"]]
        expected = [n for n in range(self.first, self.next) if n not in without]
        assert not wrong, wrong[:3]
        got = sorted(address for address, _ in answers)
        assert got == expected, f"answers about {got} in place of {expected}"
        counts = self.executed()
        wrong = {n: counts[n] for n in range(self.first, self.next) if counts[n] != (n not in without)}
        assert not wrong, f"executed so often: {wrong}"
        self.first = self.next


def story(cat: Process, *events: str) -> list[str]:
    """Which of the events its log tells of, in their order; the same one in a row counts once."""
    regex = "|".join(f"({event})" for event in events)
    found = [m.group(0) for line in cat.log.lines if (m := re.search(regex, line))]
    return [one for i, one in enumerate(found) if i == 0 or one != found[i - 1]]


def warnings(cat: Process) -> list[str]:
    return [m[1] for m in cat.log.find(r" (?:warn|error) +(?! |SANDBOX=off)(.*)")]
