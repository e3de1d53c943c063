"""The requester of the soak: its requests can be told apart, in calls and answers."""

import collections
import json
import random
import threading
import time
from types import SimpleNamespace
from typing import Any

from lab import Inbox, Operator, strict_json

DEVICES = ("roof", "cellar", "barn")
PADDING = 7000  # bytes that make a request large


class Requester(Operator):
    """Sends requests with the numbers 1, 2, … and notes what comes back. It publishes with QoS 2, so that
    no copy is of its own making (iamcat subscribes with QoS 1), and the broker keeps a session for it."""

    def __init__(self, ca: str, token: str, seed: int) -> None:
        super().__init__(ca, "soak", token, kept=True)
        self.dice = random.Random(f"{seed} requests")
        self.sent: dict[int, SimpleNamespace] = {}
        self.open: set[int] = set()  # not answered yet
        self.excused: set[int] = set()  # of these: they may stay so
        self.order: list[int] = []  # in which the answers came
        self.states, self.odd = collections.Counter(), Inbox("what is no answer")
        self.repeats = 0
        self.ready, self.ended, self.may_send = threading.Event(), threading.Event(), threading.Event()
        # Not before the SUBACK: until then paho is sending again what came earlier.
        self.client.on_subscribe = lambda *_: (self.ready.set(), self.result.put(""))
        self.client.on_disconnect = lambda *_: self.ready.clear()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def on_message(self, _client: Any, _data: Any, m: Any) -> None:
        try:
            body = strict_json(m.payload)
            if m.topic.endswith("/state"):
                self.states[body["status"] if isinstance(body["status"], str) else "online"] += 1
                return
            request, reply = self.sent[body["request"]["n"]], body["response"]
            if body["timestamp"] in [a.stamp for a in request.answers]:
                self.repeats += 1  # the same answer again: at least once is what QoS 1 gives
                return
            request.answers.append(SimpleNamespace(
                stamp=body["timestamp"], at=time.time(), body=reply, code=reply.get("code", "")))
            self.open.discard(request.n)
            self.order.append(request.n)
        except (ValueError, LookupError, TypeError) as error:
            self.odd.put(f"{error!r}: {m.payload[:500]!r}")

    def send_one(self, padding: int = 0) -> None:
        n, dice = len(self.sent) + 1, self.dice
        kind = dice.choices(["read", "write", "wrong"], [50, 45, 5])[0]
        device = dice.choices([*DEVICES, "SLOW", "DEAD"], [30, 30, 30, 9, 1])[0]
        what = {"read": {"function_code": 3, "address": 10056, "scale_factor": n},
                "write": {"function_code": 16, "address": 40000 + 2 * dice.randrange(99), "values": n,
                          "type": "U32"},
                "wrong": {"function_code": 3, "address": 65536 + n}}[kind]
        pad = padding or dice.choices([dice.randrange(100), dice.randrange(PADDING)], [98, 2])[0]
        payload = json.dumps({"n": n, "device_id": device, **what, "pad": "x" * pad})
        self.sent[n] = SimpleNamespace(n=n, kind=kind, device=device, at=time.time(), answers=[], calls=[])
        self.open.add(n)
        self.sent[n].info = self.client.publish("iamcat/modbus/request", payload, 2)

    def work(self) -> None:
        while not self.ended.wait(self.dice.expovariate(1 / 0.7)):
            numbers = [1, self.dice.randint(2, 20), self.dice.randint(20, 300)]
            many = self.dice.choices(numbers, [86, 11, 3])[0]
            for _ in range(many if len(self.open - self.excused) < 500 else 0):
                while not self.ended.is_set() and not (self.ready.wait(0.1) and self.may_send.wait(0.1)):
                    pass
                self.ended.is_set() or self.send_one()

    @property
    def settled(self) -> bool:
        """Everything is answered, and the broker has nothing of ours on its way."""
        accepted = all(self.sent[n].info.is_published() for n in list(self.sent)[-500:])
        return accepted and not self.open - self.excused
