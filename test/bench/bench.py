#!/usr/bin/python3
"""Measures iamcat beside the floor and beside a plain Python client, in one run: `make bench`.

The floor is what no bridge can go below: the same HTTP call on a connection that was opened ahead, and an
echo through the broker with QoS 1 over TLS (load.c does both). Times are taken in blocks of a few requests
that take turns, so that what disturbs the machine disturbs all alike; figures are medians, ratios are those
of one round. What is counted is exact.

Environment: IAMCAT (the binary; ./iamcat), QUICK=1 (a minute), PROFILE=1 (only the profiles).
Writes build/bench/result.json, .txt, .md and .svg.
"""

import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from typing import Any, Callable

sys.dont_write_bytecode = True

import callgrind  # noqa: E402
import perf  # noqa: E402
import table  # noqa: E402
from parts import (IAMCAT, KINDS, OUT, ROOT, Lab, LabError, Parts, Watch, broker_bytes, cpu_s,  # noqa: E402
                   memory_kb, say, wakes)

QUICK = os.environ.get("QUICK", "") not in ("", "0")
REQUEST = ('{"function_code": 3, "device_id": "%s", "address": 10056, "size": 1, "type": "U16", '
           '"endianess": "big", "scale_factor": 1, "n": ########}')
TARGET = ("/api/inverter/modbus?device_id=%s&function_code=3&address=10056&size=1&type=U16&endianess=big"
          "&scale_factor=1")
DEVICE = "A2332407312"
SIZES = (100, 1000, 10000, 30000, 60000)
STATE_S = 5  # the default of STATE_INTERVAL

median = statistics.median


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def turns(rounds: int, jobs: dict[str, Callable[[], Any]]) -> dict[str, list[Any]]:
    """Every job once per round, so that they take turns; the first round warms up."""
    got: dict[str, list[Any]] = {name: [] for name in jobs}
    for i in range(rounds + 1):
        for name, job in jobs.items():
            value = job()
            if i > 0:
                got[name].append(value)
    return got


class Bench(Parts):
    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.result: dict[str, Any] = {}
        self.fast = self.gateway()
        self.start_broker("log_type subscribe")

    def ask(self, load: Any, cat: Any, count: int, window: int, gap_us: int = 0, device: str = DEVICE) -> Any:
        topic = f"{cat.prefix}/modbus/request"
        got = load.order(f"ask {count} {window} {gap_us} {topic} {REQUEST % device}")
        if -1 in got["us"]:
            raise LabError(f"{cat.prefix} left {got['us'].count(-1)} of {count} requests unanswered")
        return got

    def http(self, load: Any, count: int, lanes: int, gap_us: int = 0, device: str = DEVICE) -> Any:
        return load.order(f"http {count} {lanes} {gap_us} {self.fast.port} {TARGET % device}")

    # --------------------------------------------------------------------------------- the fast gateway

    def start(self) -> None:
        """From exec to the broker's sight of CONNECT."""
        def run(kind: str) -> float:
            cat = self.bridge(kind, self.fast)
            took = self.connected(cat)
            cat.kill()
            return 1000 * took

        got = turns(3 if QUICK else 10, {kind: lambda kind=kind: run(kind) for kind in KINDS})
        self.result["start_ms"] = {kind: median(took) for kind, took in got.items()}

    def set_up(self) -> None:
        """The bridges that the next parts measure, with their defaults."""
        self.cats = {kind: self.bridge(kind, self.fast) for kind in KINDS}
        for cat in self.cats.values():
            self.serving(cat)
        self.floor = self.echo("floor")
        self.operator_fast = self.operator("floor", *(cat.prefix for cat in self.cats.values()))

    def trips(self, rounds: int, count: int, device: str = DEVICE) -> dict[str, list[list[float]]]:
        """Single round trips in µs, in their rounds."""
        load = self.operator_fast
        return turns(rounds, {
            "http": lambda: self.http(load, count, 1, 1000, device)["us"],
            "echo": lambda: self.ask(load, self.floor, count, 1, 1000, device)["us"],
            **{kind: lambda cat=cat: self.ask(load, cat, count, 1, 1000, device)["us"]
               for kind, cat in self.cats.items()}})

    def round_trip(self) -> None:
        trips = self.trips(6 if QUICK else 25, 40)
        every = {name: [us for block in blocks for us in block] for name, blocks in trips.items()}
        at = {name: {"p50": median(us), "p99": quantile(us, 0.99)} for name, us in every.items()}
        at["floor"] = {"p50": at["http"]["p50"] + at["echo"]["p50"]}
        self.result["trip_us"] = at
        middle = {name: [median(block) for block in blocks] for name, blocks in trips.items()}
        self.result["over_us"] = {
            kind: median([mine - http - echo
                          for mine, http, echo in zip(middle[kind], middle["http"], middle["echo"])])
            for kind in KINDS}

    def sizes(self) -> None:
        """Round trips by the size of the API's reply."""
        self.result["sizes_us"] = {}
        for size in SIZES:
            trips = self.trips(2 if QUICK else 5, 15, f"pad{size}")
            at = {name: median([median(block) for block in blocks]) for name, blocks in trips.items()}
            self.result["sizes_us"][str(size)] = {**at, "floor": at["http"] + at["echo"]}
        self.result["memory_after_sizes_kb"] = self.idle_memory()

    def burst(self) -> None:
        """200 at once: for one device, whose calls keep their order, and for 200."""
        load, cat = self.operator_fast, self.cats["iamcat"]
        got = turns(3 if QUICK else 9, {
            "http, 1 lane": lambda: self.http(load, 200, 1)["elapsed_us"],
            "iamcat": lambda: self.ask(load, cat, 200, 200)["elapsed_us"],
            "http, 2 lanes": lambda: self.http(load, 200, 2)["elapsed_us"],
            "iamcat, any order": lambda: self.ask(load, cat, 200, 200, 0, "dev-########")["elapsed_us"],
            "echo": lambda: self.ask(load, self.floor, 200, 200)["elapsed_us"],
            "python": lambda: self.ask(load, self.cats["python"], 200, 200)["elapsed_us"]})
        parties = {"iamcat": cat, "broker": self.broker, "gateway": self.fast, "operator": load}
        before = {name: cpu_s(party.pid) for name, party in parties.items()}
        self.ask(load, cat, 200, 200)
        self.result["burst_cpu_us"] = {name: 1e6 * (cpu_s(party.pid) - before[name]) / 200
                                       for name, party in parties.items()}  # of each request, what bounds it
        before = {name: cpu_s(party.pid) for name, party in parties.items()}
        self.http(load, 200, 1)
        self.result["http_cpu_us"] = {name: 1e6 * (cpu_s(parties[name].pid) - before[name]) / 200
                                      for name in ("operator", "gateway")}
        self.peak_kb = {}
        for kind, cat in self.cats.items():
            with Watch(cat.pid) as watch:
                self.ask(load, cat, 200, 200, 0, "dev-########")
            self.peak_kb[kind] = watch.most
        self.result["burst_per_s"] = {name: 200e6 / median(us) for name, us in got.items()}
        self.result["burst_part"] = {
            name: 100 * median([alone / mine for alone, mine in zip(got[http], got[ours])])
            for name, http, ours in (("one device", "http, 1 lane", "iamcat"),
                                     ("any order", "http, 2 lanes", "iamcat, any order"))}

    def sustained(self) -> None:
        """Requests a second with 20 unanswered at any time, and what they cost; then one at a time."""
        def run(kind: str, count: int, window: int, gap_us: int) -> tuple[float, float]:
            cat = self.cats[kind]
            before = cpu_s(cat.pid)
            elapsed = self.ask(self.operator_fast, cat, count, window, gap_us)["elapsed_us"]
            return 1e6 * count / elapsed, (cpu_s(cat.pid) - before) * 1000 / count

        count = {"iamcat": 1000 if QUICK else 2000, "python": 200 if QUICK else 400}
        got = turns(2 if QUICK else 5,
                    {kind: lambda kind=kind: run(kind, count[kind], 20, 0) for kind in KINDS})
        self.result["sustained_per_s"] = {kind: median([rate for rate, _ in runs])
                                          for kind, runs in got.items()}
        self.result["cpu_s"] = {kind: median([cpu for _, cpu in runs]) for kind, runs in got.items()}
        got = turns(1 if QUICK else 3, {kind: lambda kind=kind: run(kind, 200, 1, 500) for kind in KINDS})
        self.result["cpu_single_s"] = {kind: median([cpu for _, cpu in runs]) for kind, runs in got.items()}

    def idle_memory(self) -> dict[str, dict[str, int]]:
        """After the load so far and the next state."""
        time.sleep(STATE_S + 1)
        return {kind: memory_kb(cat.pid) for kind, cat in self.cats.items()}

    def memory(self) -> None:
        """The peak, also as it was seen in between."""
        self.result["memory_kb"] = self.idle_memory()
        for kind, memory in self.result["memory_kb"].items():
            memory["peak"] = max(memory["peak"], self.peak_kb[kind])

    # ----------------------------------------------------------------------- the 250 ms gateway, and idleness

    def slow_and_idle(self) -> None:
        """Bridges with a 250 ms gateway each are asked while those from before idle."""
        idle_s, count = (10, 16) if QUICK else (45, 80)
        trips: dict[str, list[float]] = {}

        def run(cat: Any, load: Any) -> None:
            trips[cat.kind] = self.ask(load, cat, count, 1, 500000)["us"]

        slow = [self.bridge(kind, self.gateway("--accept-ms", "250")) for kind in KINDS]
        threads = [threading.Thread(target=run, args=(self.serving(cat), self.operator(cat.prefix)))
                   for cat in slow]
        time.sleep(3)  # their first calls and states are over
        before = {kind: self.use(cat) for kind, cat in self.cats.items()}
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        time.sleep(idle_s)
        took = time.monotonic() - begun
        for kind, cat in self.cats.items():
            used = {name: now - before[kind][name] for name, now in self.use(cat).items()}
            states = round(took / STATE_S)
            self.result.setdefault("idle", {})[kind] = {
                "cpu_ms": used["cpu_s"] * 1000 * 60 / took, "wakes": used["wakes"] * 60 / took,
                "state_bytes": (used["bytes_sent"] + used["bytes_received"]) / states,
                "state_segments": (used["segs_out"] + used["segs_in"]) / states}
        for thread in threads:
            thread.join()
        self.result["slow_ms"] = {kind: {"p50": median(us) / 1000, "p99": quantile(us, 0.99) / 1000}
                                  for kind, us in trips.items()}

    def use(self, cat: Any) -> dict[str, float]:
        return {"cpu_s": cpu_s(cat.pid), "wakes": wakes(cat.pid), **broker_bytes(cat.pid, self.broker.port)}

    # ------------------------------------------------------------------------------------------------ counts

    def system_calls(self) -> None:
        """All of them for requests that come one at a time, when the first ones are done."""
        count = 50 if QUICK else 200
        self.result["system_calls"] = {}
        for kind in KINDS:
            trace = OUT / f"strace.{kind}"
            cat = self.bridge(kind, self.fast, ["strace", "-D", "-f", "-o", trace], STATE_INTERVAL="3600")
            load = self.operator(self.serving(cat).prefix)
            self.ask(load, cat, 10, 1, 2000)
            time.sleep(0.5)
            before = len(trace.read_text().splitlines())
            self.ask(load, cat, count, 1, 5000)
            time.sleep(0.5)
            lines = trace.read_text().splitlines()[before:]
            cat.kill()
            calls = [m[1] for m in map(re.compile(r"\d+ +(\w+)\(").match, lines) if m]
            self.result["system_calls"][kind] = {
                "per_request": len(calls) / count,
                "each": {name: calls.count(name) / count
                         for name in sorted(set(calls), key=calls.count)[::-1]}}
            if kind == "iamcat":
                self.result["system_calls_per_publish"] = calls_per_publish(lines)
                self.result["allocations"] = {kind: allocations(trace.read_text().splitlines())}

    def begin_instructions(self, python: bool = not QUICK) -> None:
        """Under callgrind everything takes its time to start."""
        self.profiled = {}
        for kind in ("python", "iamcat") if python else ("iamcat",):
            for count in {"iamcat": (50, 250 if QUICK else 550), "python": (5, 15)}[kind]:
                out = OUT / f"callgrind.{kind}.{count}"
                argv = callgrind.BINARY if kind == "iamcat" and callgrind.WANTED else None
                within = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]
                cat = self.bridge(kind, self.fast, within, argv, STATE_INTERVAL="3600", SANDBOX="off")
                self.profiled.setdefault(kind, {})[count] = cat

    def instructions(self) -> None:
        """In user space, per request: the difference of a run with few requests and one with many."""
        self.result["instructions"] = {}
        for kind, cats in self.profiled.items():
            totals = {}
            for count, cat in cats.items():
                load = self.operator(self.serving(cat).prefix)
                self.ask(load, cat, count, 1, 3000)
                cat.stop(timeout=120)
                totals[count] = int(cat.log.wait(r"Collected : (\d+)")[1])
            few, many = totals
            self.result["instructions"][kind] = (totals[many] - totals[few]) / (many - few)

    def count(self) -> None:
        """What `make count` counts, and a publish."""
        done = subprocess.run([ROOT / "test/count/run"], capture_output=True, text=True, cwd=ROOT)
        found = re.findall(r"handshake, (\w+): (\d+) instructions", done.stdout)
        if len(found) != 2:
            raise LabError(f"test/count/run: {done.stdout}{done.stderr}")
        self.result["handshake"] = {case: int(n) for case, n in found}
        for program in ("publish", "publish-small"):
            for case in ("plain", "tls"):
                done = subprocess.run(["valgrind", "--tool=callgrind", "--toggle-collect=publish_counted",
                                       f"--callgrind-out-file={OUT / f'{program}.{case}'}", OUT / program,
                                       ROOT / "build/count", case], capture_output=True, text=True)
                times, total = re.search(r"\d+", done.stdout), re.search(r"Collected : (\d+)", done.stderr)
                if done.returncode != 0:
                    raise LabError(f"build/bench/{program}: {done.stderr}")
                self.result.setdefault(program, {})[case] = int(total[1]) / int(times[0])


def calls_per_publish(lines: list[str]) -> float:
    """Of a trace of single requests: the calls from the one that sends an answer to the one that takes its
    PUBACK, those for the API's connection aside."""
    calls = [m.groups() for m in map(re.compile(r"\d+ +(\w+)\((\d+).* = (-?\d+)").match, lines) if m]
    broker = next(fd for name, fd, _ in calls if name == "recvfrom")
    largest = max(int(n) for name, fd, n in calls if (name, fd) == ("sendto", broker))
    runs: list[int] = []
    run = -1
    for name, fd, n in calls:
        if (name, fd) == ("sendto", broker) and int(n) == largest:
            run = 0
        if run >= 0 and (fd == broker or name in ("pselect6", "select", "ppoll")):
            run += 1
        # TLS: a record of 33 bytes, read at once or behind its header of 5; plain: 4 bytes.
        if run >= 0 and (name, fd) == ("recvfrom", broker) and int(n) in (4, 28, 33):
            runs.append(run)
            run = -1
    return median(runs)


def allocations(lines: list[str]) -> int:
    """Of a whole trace: the calls that get memory after main has begun, which sets its signals first. What is made
    read-only in the next call is none: the sandbox keeps the names of files there."""
    begun = next(i for i, line in enumerate(lines) if re.search(r"rt_sigprocmask\(SIG_SETMASK, \[.*TERM", line))
    return len([i for i in range(begun, len(lines) - 1) if re.match(r"\d+ +(brk|mmap|mremap)\(", lines[i])
                and not re.search(r" mprotect\(.*, PROT_READ\) ", lines[i + 1])])


def about() -> dict[str, str]:
    """What was measured, where, when, and how to do it again."""
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True,
                          cwd=ROOT)
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    given = [f"{name}={os.environ[name]}" for name in ("QUICK", "IAMCAT") if os.environ.get(name)]
    return {"command": " ".join(["make bench", *given]),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": done.stdout.strip(), "binary_bytes": IAMCAT.stat().st_size,
            "machine": f"{os.cpu_count()} x {model[1] if model else platform.machine()}, "
                       f"Linux {platform.release()}, load {os.getloadavg()[0]:.1f}"}


def main() -> int:
    begun, failed = time.monotonic(), False
    with Lab() as lab:
        bench = Bench(lab)
        if callgrind.WANTED:
            bench.begin_instructions(False)
            bench.instructions()
            print(callgrind.report())
            print(perf.profile(bench))
            return 0
        bench.result["about"] = facts = about()
        for part in (bench.start, bench.set_up, bench.round_trip, bench.burst, bench.sustained, bench.memory,
                     bench.sizes, bench.slow_and_idle, bench.begin_instructions, bench.system_calls,
                     bench.count, bench.instructions):
            at = time.monotonic()
            try:
                part()
            except LabError as error:
                say(f"bench: {part.__name__}: {error}")
                failed = True
            say(f"  {part.__name__:<19}{time.monotonic() - at:6.1f} s")
    say(f"  {time.monotonic() - begun:.0f} s in all")
    caption = f"{facts['command']}, {facts['date']}, {facts['commit']}, {facts['machine']}"
    rows = table.rows(bench.result)
    text = f"{caption}\n\n{table.as_text(rows)}\n"
    (OUT / "result.json").write_text(json.dumps(bench.result, indent=1) + "\n")
    (OUT / "result.txt").write_text(text)
    (OUT / "result.md").write_text(table.as_markdown(rows) + "\n")
    table.chart(rows, OUT / "result.svg", caption)
    print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except LabError as error:
        sys.exit(f"bench: {error}")
