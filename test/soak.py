#!/usr/bin/python3
"""iamcat among random faults for MINUTES: nothing lost, nothing doubled, memory flat, counted at both ends.

Run by `make soak`. A requester with a direct connection to mosquitto sends numbered requests and collects
the answers; the test gateway tells of each call as it comes. Between iamcat and either of them a relay
breaks, delays, cuts and silences connections; mosquitto and the gateway are stopped, killed and started
again, and all three programs frozen. Each request must get one answer; none may be called twice, but for a
read whose connection had died. Only what the broker kept for longer than MQTT_SESSION_WINDOW may stay without
an answer, not called, and no more than iamcat's log tells.

Ends with status 0, or with 1 and the history of what went wrong. SEED=n repeats the choices of a run.
"""

import collections
import datetime
import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

sys.dont_write_bytecode = True  # leaves no file behind
sys.path.insert(0, str(Path(__file__).parent / "e2e"))

from lab import BUILD, IAMCAT, TIMEOUT, Lab, LabError  # noqa: E402
from soak_relay import DOWN, UP, Relay  # noqa: E402
from soak_requester import DEVICES, PADDING, Requester  # noqa: E402

SECONDS = 60 * float(os.environ.get("MINUTES") or 2)
SEED = int(os.environ.get("SEED") or random.randrange(1000000))
LOGS = BUILD.parent / "soak" / f"{SEED}"
SANITIZED = IAMCAT.parent.name == "san"
TERMINAL = sys.stdout.isatty()
ACCEPT_MS = 10  # between two connections that the gateway accepts, while it is well
STRAIN, CALM_S = 5, 62  # after so many failures in a row there is calm, until the back-off begins anew
QUIET_S = 180  # to settle at the end: a back-off, a window, and a full queue
OVER = "… over"
NOT_CALLED = {"busy", "bad_value", "stale", "api_unreachable"}
MAY_BE_CALLED = {"", "api_timeout", "api_error", "api_invalid_reply"}


class Soak:
    """The laboratory, the faults and the counts."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.dice, self.start = lab, random.Random(f"{SEED} faults"), time.time()
        self.device = lab.device()
        self.gateway = self.start_gateway(0)
        self.data = lab.work_dir("broker")
        self.broker = self.start_broker(0)
        self.to_broker = lab.add(Relay("relay to the broker", self.broker.port))
        self.to_api = lab.add(Relay("relay to the API", self.gateway.port))
        token = self.gateway.token("soak", exp=int(time.time() + SECONDS) + 86400)
        self.requester = Requester(lab.ca.cert, token, SEED)
        lab.callback(self.requester.close)
        self.requester.connect(self.broker.port)
        self.cat = lab.iamcat(lab.env(self.to_broker, self.to_api, MQTT_JWT_LIFETIME="25",
                                      WEB_CONTAINER_TIMEOUT="5"))
        self.cat.wait_log("in service")
        self.faults: list[tuple[float, str]] = []
        self.gaps: list[SimpleNamespace] = []  # after which iamcat found its session stale
        self.services: list[float] = []
        self.reasons = collections.Counter()
        self.strain, self.served_since = 0, 0.0  # 0: it is not in service
        self.log_at = self.trace_at = 0
        self.memory: list[SimpleNamespace] = []

    def start_gateway(self, port: int, control_port: int = 0) -> Any:
        devices = [text for d in DEVICES for text in ("--device", f"{d}=127.0.0.1:{self.device.port}")]
        return self.lab.gateway("--port", f"{port}", "--control-port", f"{control_port}", "--trace", "1",
                                "--accept-ms", f"{ACCEPT_MS}", "--slow-ms", "200", "--dead-ms", "1000",
                                *devices)

    def start_broker(self, port: int) -> Any:
        """It drops nothing, and keeps everything."""
        return self.lab.broker(self.gateway, "max_queued_messages 0", "max_inflight_messages 0", port=port,
                               data=self.data)

    # --- faults: each generator begins one, yields how long it lasts, and ends it ---

    def lasting(self) -> float:
        """Seconds: mostly short, sometimes longer than every deadline, at times than the window."""
        spans, long = [(0.05, 2), (2, 9), (11, 20)], SECONDS >= 300
        return self.dice.uniform(*self.dice.choices([*spans, (65, 75)], [60, 25, 12, 3 if long else 0])[0])

    def link(self, relay: Relay) -> Iterator[Any]:
        """Something happens to the connections of a relay."""
        dice, way = self.dice, self.dice.randrange(2)
        left = dice.choice([0, 1, dice.randrange(100), dice.randrange(4000)])

        def cut(pair: Any) -> None:
            pair.left[way] = left

        def lose(*ways: int) -> Any:
            return lambda pair: [pair.lost.__setitem__(w, True) for w in ways]

        kinds = {"reset": lambda: relay.strike(lambda pair: pair.reset(), 0.3),
                 "close": lambda: relay.strike(lambda pair: pair.end(UP, DOWN), 0.3),
                 "half-open": lambda: relay.strike(lambda pair: pair.end(way), 0.3),
                 "cut": lambda: relay.strike(cut, 0.5),
                 "black hole": lambda: relay.strike(lose(UP, DOWN), 0.5),
                 "one-way black hole": lambda: relay.strike(lose(way), 0.5),
                 "silence": lambda: relay.hold(UP, DOWN),
                 "one-way silence": lambda: relay.hold(way),
                 "delays": lambda: setattr(relay, "delay_s", dice.uniform(0.02, 0.6)),
                 "splits": lambda: setattr(relay, "step", dice.randint(1, 9)),
                 "refused": relay.deaf}
        kind = dice.choice([*kinds])
        kinds[kind]()
        yield relay.log.name.replace("relay to ", "") + f": {kind}"
        yield self.lasting() if kind != "delays" else dice.uniform(2, 9)
        relay.heal()

    def broker_life(self) -> Iterator[Any]:
        kind = self.dice.choice(["frozen", "stopped", "killed"])
        if kind == "killed":  # nothing may be on its way: the last moments that it remembers die with it
            if not (yield from self.settle()):
                self.requester.may_send.set()
                return
        yield f"broker: {kind}"
        if kind == "frozen":
            self.broker.send_signal(signal.SIGSTOP)
            yield self.lasting()
            self.broker.send_signal(signal.SIGCONT)
            return
        self.broker.stop() if kind == "stopped" else self.broker.kill()
        yield self.dice.uniform(0, 5)
        self.broker = self.start_broker(self.broker.port)
        self.requester.may_send.set()

    def settle(self) -> Iterator[float]:
        """Until all is answered, and the broker has saved that; false when that does not come."""
        self.requester.may_send.clear()
        deadline, mark = time.time() + QUIET_S, None
        while not self.requester.ended.is_set() and time.time() < deadline:
            if mark is None and self.requester.settled:
                mark = self.broker.log.mark()
            if mark is not None and self.broker.log.find("Saving in-memory database", mark):
                return True
            yield 0.2
        return False

    def gateway_life(self) -> Iterator[Any]:
        dice, g = self.dice, self.gateway
        kind = dice.choice(["frozen", "killed", "stopped", "slow to accept", "wrong", "wrong", "wrong"])
        yield f"gateway: {kind}"
        if kind == "frozen":
            g.send_signal(signal.SIGSTOP)
            yield self.lasting()
            g.send_signal(signal.SIGCONT)
        elif kind in ("killed", "stopped"):
            g.kill() if kind == "killed" else g.stop()
            yield dice.uniform(0, 5)
            g = self.start_gateway(g.port, g.control_port)
            g.earlier, self.gateway = self.gateway, g
        elif kind == "slow to accept":
            g.set(accept_ms=dice.choice([250, 250, -1]))
            yield self.lasting()
            g.set(accept_ms=ACCEPT_MS)
        else:
            modes = "500 503 hang zero cut notjson empty continue chunked bighead close drip".split()
            family = dice.choices(["modbus", "state", "jwt"], [4, 2, 1])[0]
            g.set(**{family: f"{dice.choice(modes)}:{dice.randint(1, 5)}"})
            yield self.lasting()
            g.set(**{family: "normal"})

    def cat_frozen(self) -> Iterator[Any]:
        yield "iamcat: frozen"
        self.cat.send_signal(signal.SIGSTOP)
        yield self.lasting()
        self.cat.send_signal(signal.SIGCONT)

    # --- the course of it ---

    def run(self) -> None:
        # What may have a fault, one at a time; the seconds between them; 1: may have it while calm, 2: as
        # long as it is in service, which needs a token now and then.
        subjects = [SimpleNamespace(begin=begin, mean=mean, calm=calm, fault=None, due=0.0)
                    for begin, mean, calm in ((lambda: self.link(self.to_broker), 5, 0),
                                              (self.broker_life, 40, 0),
                                              (lambda: self.link(self.to_api), 6, 2),
                                              (self.gateway_life, 10, 2), (self.cat_frozen, 45, 1))]
        self.wait(5, lambda: False)  # calm, to compare with
        self.warm_up()
        self.requester.thread.start()
        while (now := time.time()) < self.start + SECONDS:
            if self.served_since and now - self.served_since > CALM_S:
                self.strain = 0
            for s in subjects:
                may = self.strain < STRAIN or s.calm == 1 or s.calm == 2 and self.served_since
                if s.fault and now >= s.due:
                    self.go_on(s, now)
                elif not s.fault and may and self.dice.random() < 0.05 / s.mean:
                    s.fault = s.begin()
                    self.go_on(s, now)
            self.look()
            time.sleep(0.05)
        self.requester.ended.set()
        self.requester.thread.join()
        self.requester.may_send.set()
        while any(s.fault for s in subjects):  # all of them end now
            for s in subjects:
                s.fault and self.go_on(s, time.time())
            self.look()
        self.wait_quiet()

    def warm_up(self) -> None:
        """Fills every queue and buffer once, and connects anew: all memory that will be used is in use."""
        self.gateway.set(modbus="bighead:9", state="bighead:2")
        # The outbox gets full; then many requests are in flight at once, whose acknowledgements are lost.
        for many, padding, end in (60, PADDING, lambda pair: None), (300, 1, lambda pair: pair.reset()):
            self.to_broker.hold(UP)
            for _ in range(many):
                self.requester.send_one(padding)
            self.wait(5, lambda: False)  # all has come, and no acknowledgement is missed yet
            self.to_broker.strike(end)
            self.to_broker.heal()
            if not self.wait(2 * TIMEOUT, lambda: self.requester.settled):
                raise LabError(f"requests stay without an answer: {self.requester.open}")
        self.requester.may_send.set()

    def go_on(self, s: SimpleNamespace, now: float) -> None:
        """The next part of a fault: its name, a time to wait, or its end."""
        part = next(s.fault, None)
        if isinstance(part, str):
            self.faults.append((now, part))
            part = next(s.fault, None)
        s.due = now + (part or 0)
        if part is None:
            s.fault = None
            self.faults.append((time.time(), OVER))

    def wait_quiet(self) -> None:
        """Until everything is answered or excused; then nothing more may come but states."""
        say("quiet: all faults have ended")
        self.wait(QUIET_S, lambda: self.requester.settled)
        seen = sum(self.requester.states.values())
        if not self.wait(30, lambda: sum(self.requester.states.values()) >= seen + 3):
            raise LabError("the states do not go on")
        self.idle_descriptors = min(m.descriptors for m in self.memory[-10:])

    def wait(self, seconds: float, done: Any) -> bool:
        deadline = time.time() + seconds
        while not done() and time.time() < deadline:
            self.look()
            time.sleep(0.05)
        return done()

    def look(self) -> None:
        """Takes in what has happened."""
        for part in (self.cat, self.broker, self.gateway, self.device):
            if not part.expected and not part.running:
                raise LabError(f"{part.name} has ended, status {part.wait()}:\n{part.log.tail()}")
        for line in self.cat.log.lines[self.log_at:]:
            self.log_at += 1
            self.take_line(line)
        self.take_trace()
        if not self.memory or time.time() - self.memory[-1].at >= 1:
            self.memory.append(self.measure())
            if len(self.memory) % 10 == 1:
                self.progress()

    def take_line(self, line: str) -> None:
        at = datetime.datetime.fromisoformat(line[:26] + "+00:00").timestamp()
        if "in service: " in line:
            for gap in self.gaps:
                gap.until = gap.until or at
            self.requester.excused.update(n for n in list(self.requester.open) if self.gap_of(n))
            self.services.append(at)
            self.served_since = self.served_since or at
        elif m := re.search(r"not executed: (\d+)$", line):
            self.gaps.append(SimpleNamespace(since=self.services[-1], at=at, until=None, held=int(m[1])))
        elif m := re.search(r"(broker|gateway API) localhost:\d+(?:, token)?: (.*); trying again", line):
            self.strain, self.served_since = self.strain + 1, 0.0
            self.reasons[f"{m[1]}: " + re.sub(r" \(.*|, for the.*", "", m[2])] += 1
        elif "about to expire: connecting anew" in line:
            self.reasons["(renewal of the token)"] += 1

    def take_trace(self) -> None:
        gateway = self.gateway
        if (earlier := gateway.__dict__.pop("earlier", None)) is not None:
            self.read_calls(earlier.out.lines[self.trace_at:])
            self.trace_at = 0
        lines = gateway.out.lines[self.trace_at:]
        self.trace_at += len(lines)
        self.read_calls(lines)

    def read_calls(self, lines: list[str]) -> None:
        for call in map(json.loads, (line for line in lines if '"call": "modbus"' in line)):
            n = int(re.search(r"(?:values|scale_factor)=(\d+)", call["text"])[1])
            self.requester.sent[n].calls.append(time.time() - time.monotonic() + call["at_ms"] / 1000)

    def measure(self) -> SimpleNamespace:
        proc = Path(f"/proc/{self.cat.pid}")
        fields = dict(re.findall(r"(\w+): +(\d+) kB", (proc / "smaps_rollup").read_text()))
        return SimpleNamespace(at=time.time(), rss=int(fields["Rss"]), dirty=int(fields["Private_Dirty"]),
                               descriptors=len(os.listdir(proc / "fd")))

    def progress(self) -> None:
        r, m = self.requester, self.memory[-1]
        say(f"{m.at - self.start:5.0f} s: {len(r.sent)} requests, {len(r.open - r.excused)} open, "
            f"{sum(text != OVER for _, text in self.faults)} faults, {len(self.services)} services, "
            f"{m.rss} kB resident, {m.dirty} kB of its own", passing=True)

    # --- the judgement ---

    def gap_of(self, n: int) -> SimpleNamespace | None:
        """The gap in which the broker may have held this request for too long."""
        at = self.requester.sent[n].at
        return next((g for g in self.gaps if g.until and g.since <= at <= g.until), None)

    def wrong_with(self, r: SimpleNamespace) -> str:
        """What is wrong with a request; empty: nothing."""
        if not r.info.is_published():
            return "the broker has not accepted it"
        if len(r.calls) > (2 if r.kind == "read" else 1):
            return "called more than once"
        if not r.answers:
            return "" if self.gap_of(r.n) and not r.calls else "not answered"
        code, body = r.answers[0].code, r.answers[0].body
        if len(r.answers) > 1:
            return "answered more than once"
        if code not in NOT_CALLED | MAY_BE_CALLED or \
                (r.kind == "wrong") != (code == "bad_value") and code != "busy":
            return f"an unexpected code: {code}"
        if r.calls if code in NOT_CALLED else not r.calls and not code:
            return f"code {code!r}, but called {len(r.calls)} times"
        value = body.get("values") if r.kind == "write" and r.device != "DEAD" else body.get("value")
        right = None if r.device == "DEAD" else [r.n] if r.kind == "write" else 42 * r.n
        return "" if code or value == right else "the answer to something else"

    def disorder(self) -> list[str]:
        """Answers that came before one to an earlier request of the device; "busy" may."""
        last, wrong = {}, []
        for r in map(self.requester.sent.get, self.requester.order):
            if r.answers[0].code != "busy" and last.get(r.device, 0) > r.n:
                wrong.append(f"request {r.n} was answered after {last[r.device]}, both for {r.device}")
            last[r.device] = max(last.get(r.device, 0), r.n if r.answers[0].code != "busy" else 0)
        return wrong

    def unaccounted(self) -> list[str]:
        """More requests lost in a gap than iamcat tells of: those that were there when it looked."""
        lost = collections.Counter(id(self.gap_of(n)) for n in list(self.requester.open)
                                   if (g := self.gap_of(n)) and self.requester.sent[n].at < g.at)
        return [f"{lost[id(g)]} requests were lost in a gap, but iamcat tells of {g.held}"
                for g in self.gaps if lost[id(g)] > g.held]

    def unsteady(self) -> list[str]:
        """Memory and descriptors: what is left when nothing goes on must not grow."""
        warm, last = self.floor(1), self.floor(2)
        wrong = [f"{name} grew from {getattr(warm, field)} to {getattr(last, field)} kB"
                 for field, name in (("rss", "resident memory"), ("dirty", "its own memory"))
                 if not SANITIZED and getattr(last, field) > getattr(warm, field)]
        first = min(m.descriptors for m in self.memory[:4])
        if self.idle_descriptors > first:
            wrong.append(f"{self.idle_descriptors} descriptors at the end, {first} at the start")
        return wrong

    def floor(self, third: int) -> SimpleNamespace:
        """The least memory in a third of the time, 0 to 2: iamcat gives back what it does not need."""
        n = len(self.memory) // 3
        part = self.memory[third * n:(third + 1) * n if third < 2 else None]
        return SimpleNamespace(rss=min(m.rss for m in part), dirty=min(m.dirty for m in part))

    def history(self, r: SimpleNamespace) -> str:
        """What both ends, the faults and iamcat's log tell of a request."""
        events = [(r.at, f"sent: {r.kind} for {r.device}")]
        events += [(at, "called at the gateway") for at in r.calls]
        events += [(a.at, f"answered ({a.stamp}): {json.dumps(a.body)[:200]}") for a in r.answers]
        last = max(at for at, _ in events) + 20
        events += [(at, f"    fault: {text}") for at, text in self.faults if r.at - 20 <= at <= last]
        for line in self.cat.log.lines:
            at = datetime.datetime.fromisoformat(line[:26] + "+00:00").timestamp()
            ours = re.search(rf"(values|scale_factor)={r.n}\b", line)
            if ours or r.at - 20 <= at <= last and not re.search(r"request \d+( answered|: GET)", line):
                events.append((at, f"    iamcat: {line[28:300]}"))
        return "\n".join(f"  {at - self.start:8.3f}  {text}" for at, text in sorted(events))

    def judge(self) -> bool:
        requests = self.requester.sent.values()
        wrong = [(r, why) for r in requests if (why := self.wrong_with(r))]
        for r, why in wrong[:5]:
            say(f"\nrequest {r.n}: {why}\n{self.history(r)}")
        others = [*self.disorder(), *self.unaccounted(), *self.unsteady(),
                  *(f"no answer to a request: {text}" for text in self.requester.odd.clear())]
        if wrong or others:
            counts = collections.Counter(why for _, why in wrong)
            say("\nWRONG:\n" + "\n".join([*(f"  {n} x {why}" for why, n in counts.items()), *others[:20]]))
        return not wrong and not others

    def summary(self) -> None:
        r, top = self.requester, max(m.descriptors for m in self.memory)
        sent = collections.Counter(q.kind for q in r.sent.values())
        codes = collections.Counter(a.code or "done" for q in r.sent.values() for a in q.answers[:1])
        stale = len(r.open & r.excused)
        faults = collections.Counter(text for _, text in self.faults if text != OVER)
        warm, last = self.floor(1), self.floor(2)
        rows = [("requests", sent),
                ("calls at the gateway", {"": sum(len(q.calls) for q in r.sent.values())}),
                ("reads called again", {"": sum(len(q.calls) > 1 for q in r.sent.values())}),
                ("answers", {**codes, "stale, not executed": stale}),
                ("answers that came again", {"": r.repeats}),
                ("states", r.states), ("faults", faults),
                ("services", {"": len(self.services)}), ("ended by", self.reasons),
                ("resident kB, idle", {"in the second third": warm.rss, "in the last": last.rss}),
                ("of its own kB, idle", {"in the second third": warm.dirty, "in the last": last.dirty}),
                ("descriptors", {"at the end": self.idle_descriptors, "at most": top})]
        say("")
        for name, counts in rows:
            for i, (what, n) in enumerate(sorted(counts.items(), key=lambda item: str(item[0]))):
                say(f"{name if i == 0 else '':<26}{n:>7}  {what}")


def say(text: str, passing: bool = False) -> None:
    """A line; a passing one is overwritten by the next, on a terminal."""
    print(f"\r{text}\x1b[K" if TERMINAL else text, end="" if TERMINAL and passing else "\n", flush=True)


def keep_logs(lab: Lab) -> None:
    """What all parts have said, for who looks into a failure."""
    LOGS.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(lab.parts):
        (LOGS / f"{i:02} {part.log.name}.log").write_text("".join(f"{line}\n" for line in part.log.lines))
    say(f"the logs are in {LOGS}")


def main() -> int:
    if len(sys.argv) > 1:
        print(__doc__)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with IAMCAT.open() as binary:
        os.fsync(binary)  # or else the pages of one just linked count as written to
    say(f"{IAMCAT} among random faults for {SECONDS / 60:g} minutes, SEED={SEED}")
    try:
        with Lab() as lab:
            soak = Soak(lab)
            soak.run()
            status = soak.cat.stop()
            soak.summary()
            good = soak.judge()
            if status != 0 or soak.cat.log.find("has not acknowledged everything"):
                say(f"iamcat stopped with status {status}:\n{soak.cat.log.tail(5)}")
                good = False
            good or keep_logs(lab)
    except LabError as error:
        keep_logs(lab)
        say(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        say("\nStopped; nothing is left behind.")
        return 130
    say(f"{'All was right' if good else 'FAILED'}, SEED={SEED}.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
