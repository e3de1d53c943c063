#!/usr/bin/python3
"""N iamcats against one broker and one gateway on this machine: `make fleet N=1000`. All have to connect,
then the broker is killed and started again, all have to come back, and each has to answer a request. Ends
with status 1 when one does not."""

import collections
import contextlib
import os
import resource
import subprocess
import sys
import time
from typing import Any

sys.dont_write_bytecode = True

from parts import IAMCAT, Lab, LabError, Parts, memory_kb  # noqa: E402

FIRST = 10000000  # the number of load.c's first request
LIMIT_S = 120  # for all to be there
REQUEST = '{"function_code": 3, "device_id": "A2332407312", "address": 10056, "n": ########}'


class Fleet(Parts):
    def __init__(self, lab: Lab, n: int) -> None:
        super().__init__(lab)
        self.names = [f"fleet/{FIRST + i}" for i in range(n)]
        self.processes: list[subprocess.Popen] = []
        self.errors = lab.dir / "fleet.log"
        self.web = self.gateway()
        self.start_broker("log_type subscribe", "max_queued_messages 20000")
        lab.callback(self.stop)

    def start(self) -> None:
        """Their log lines go to one file, which each appends to."""
        with self.errors.open("a") as errors:
            for name in self.names:
                env = self.env(self.web, name.replace("/", "-"), MQTT_TOPIC_PREFIX=name, STATE_INTERVAL="600",
                               LOG_LEVEL="warn")
                self.processes.append(subprocess.Popen(
                    ["setpriv", "--pdeathsig", "KILL", IAMCAT], cwd=self.lab.dir, process_group=0,
                    env={**env, "PATH": os.environ["PATH"]}, stdin=subprocess.DEVNULL, stdout=errors,
                    stderr=errors))

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def there(self) -> set[str]:
        """Who has subscribed at the broker that runs now."""
        return {m[1] for m in self.broker.log.find(r"1 (fleet/\d+)/modbus/request$")}

    def wait_all(self, begun: float) -> float:
        """Until all have subscribed; the seconds since begun."""
        deadline = time.monotonic() + LIMIT_S
        while len(there := self.there()) < len(self.names):
            if time.monotonic() > deadline:
                missing = sorted(set(self.names) - there)
                raise LabError(f"{len(missing)} of {len(self.names)} are missing after {LIMIT_S} s: "
                               f"{', '.join(missing[:5])} …\n" + self.errors.read_text()[-2000:])
            time.sleep(0.05)
        return time.monotonic() - begun

    def rate(self) -> int:
        """The most that connected within a second, by the broker's log."""
        connected = self.broker.log.find(r"^(\d+): New client connected.* as fleet-")
        return max(collections.Counter(m[1] for m in connected).values())

    def restart_broker(self) -> float:
        port = self.broker.port
        self.broker.kill()
        begun = time.monotonic()
        self.start_broker("log_type subscribe", "max_queued_messages 20000", port=port)
        return begun

    def ask_all(self) -> list[float]:
        """Each its request; the round trips in ms."""
        load = self.load("ask")
        load.order("sub fleet/+/modbus/response")
        took = load.order(f"ask {len(self.names)} 50 0 fleet/########/modbus/request {REQUEST}")["us"]
        silent = [name for name, us in zip(self.names, took) if us < 0]
        if silent:
            raise LabError(f"{len(silent)} of {len(took)} do not answer: {', '.join(silent[:5])} …")
        return [us / 1000 for us in took]

    def memory(self) -> tuple[float, float]:
        """Private and resident kB of one, on average."""
        each = [memory_kb(process.pid) for process in self.processes]
        return tuple(sum(kb[part] for kb in each) / len(each) for part in ("private", "peak"))


def row(what: str, value: Any) -> None:
    print(f"{what:<58}{value:>12}", flush=True)


def run(lab: Lab, n: int) -> None:
    fleet = Fleet(lab, n)
    begun = time.monotonic()
    fleet.start()
    row(f"{n} gateways, all started after, s", f"{time.monotonic() - begun:.1f}")
    row("all connected and subscribed after, s", f"{fleet.wait_all(begun):.1f}")
    row("most connections within a second", fleet.rate())
    took = fleet.ask_all()
    row("each answered one request; the slowest took, ms", f"{max(took):.1f}")
    private, resident = fleet.memory()
    row("memory of one, private, kB", f"{private:.0f}")
    row("memory of one, resident, its peak, kB", f"{resident:.0f}")
    begun = fleet.restart_broker()
    row("broker killed and started again: all back after, s", f"{fleet.wait_all(begun):.1f}")
    row("most connections within a second", fleet.rate())
    took = fleet.ask_all()
    row("each answered one request; the slowest took, ms", f"{max(took):.1f}")
    ended = [process.pid for process in fleet.processes if process.poll() is not None]
    if ended:
        raise LabError(f"{len(ended)} have ended by themselves:\n" + fleet.errors.read_text()[-2000:])
    row("forgotten", 0)


def main() -> int:
    n = int(sys.argv[1]) if len(sys.argv) == 2 and sys.argv[1].isdigit() else 0
    if not 1 <= n <= 5000:
        print("usage: fleet.py N, 1 to 5000", file=sys.stderr)
        return 2
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.suppress(KeyboardInterrupt):
        try:
            with Lab() as lab:
                run(lab, n)
            return 0
        except LabError as error:
            print(f"fleet: {error}", file=sys.stderr)
            return 1
    return 130


if __name__ == "__main__":
    sys.exit(main())
