"""What bench.py and fleet.py start: mosquitto, the gateway, the loads, and the bridges; and what the kernel
says of a process."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))

from lab import Lab, LabError, Process, free_port  # noqa: E402

ROOT = HERE.parents[1]
OUT = ROOT / "build" / "bench"
IAMCAT = pathlib.Path(os.environ.get("IAMCAT") or ROOT / "iamcat").absolute()
KINDS = {"iamcat": [IAMCAT], "python": ["/usr/bin/python3", HERE / "peer.py"]}

with open(IAMCAT, "rb") as binary:
    os.fsync(binary)  # or else the pages of one just linked count as written to, and as its own


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------ what a process has used


def cpu_s(pid: int) -> float:
    """User and system time of all its threads, ended ones too, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)  # the clock that clock_getcpuclockid(3) names


def wakes(pid: int) -> int:
    """How often it began to wait: voluntary context switches."""
    return sum(int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", path.read_text(), re.M)[1])
               for path in pathlib.Path(f"/proc/{pid}/task").glob("*/status"))


def memory_kb(pid: int) -> dict[str, int]:
    """Resident at its peak, and private now: what another process of the same program would take, too."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {"peak": int(re.search(r"VmHWM:\s+(\d+)", status)[1]),
            "private": int(re.search(r"Private_Dirty:\s+(\d+)", rollup)[1])}


class Watch(threading.Thread):
    """Looks at a process's resident memory every half a millisecond while in a with block; most is in kB. The
    kernel's own VmHWM misses what was given back in between."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most, self.over = pid, 0, False

    def run(self) -> None:
        with open(f"/proc/{self.pid}/statm") as statm:
            while not self.over:
                statm.seek(0)
                self.most = max(self.most, int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024)
                time.sleep(0.0005)

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.over = True
        self.join()


def broker_bytes(pid: int, port: int) -> dict[str, int]:
    """The counters of its connection to the broker."""
    done = subprocess.run(["ss", "-tinpH", f"dport = :{port}"], capture_output=True, text=True, check=True)
    for block in re.split(r"\n(?=\S)", done.stdout):
        if f"pid={pid}," in block:
            return {name: int(m[1]) if (m := re.search(rf"\b{name}:(\d+)", block)) else 0
                    for name in ("bytes_sent", "bytes_received", "segs_out", "segs_in")}
    raise LabError(f"no connection of {pid} to the broker in:\n{done.stdout}")


# -------------------------------------------------------------------------------------------------- the parts


class Load(Process):
    """build/bench/load: the operator, and the HTTP calls."""

    def order(self, line: str) -> dict[str, Any]:
        self.out.lines[:] = [""] * len(self.out.lines)  # long ones, already taken
        mark = self.out.mark()
        self.popen.stdin.write(line.encode() + b"\n")
        self.popen.stdin.flush()
        try:
            return json.loads(self.out.wait(r"^\{", timeout=600, since=mark).string)
        except LabError:
            raise LabError(f"load: {line[:100]}: {self.log.tail()}") from None


class Parts:
    """Everything is surely stopped with the laboratory. Start from the main thread."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.number = lab, 0

    def name(self, kind: str) -> str:
        self.number += 1
        return f"{kind}-{self.number}"

    def gateway(self, *args: str) -> Any:
        """build/bench/gateway; has port."""
        program = self.lab.start(Process, "gateway", [OUT / "gateway", *args], self.lab.work_dir("gateway"))
        program.__dict__.update(program.start_line())
        return program

    def start_broker(self, *extra: str, port: int = 0) -> Any:
        """mosquitto over TLS; unlike lab.py's anyone may come in, and it does not log messages."""
        work = self.lab.work_dir("broker")
        cert, key = self.lab.certificate.save(work, "server")
        port = port or free_port()
        (work / "conf").write_text("\n".join([
            f"listener {port} 127.0.0.1", f"certfile {cert}", f"keyfile {key}", "allow_anonymous true",
            "persistence false", "set_tcp_nodelay true", "log_dest stderr", "log_type notice",
            "log_type error", *(["user root"] if os.geteuid() == 0 else []), *extra, ""]))
        self.broker = self.lab.start(Process, "broker", ["mosquitto", "-c", work / "conf"], work)
        self.broker.port = port
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.broker.running:  # these logs do not say when it is ready
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                return self.broker
            time.sleep(0.01)
        raise LabError(f"mosquitto does not start: {self.broker.log.tail()}")

    def load(self, *args: str) -> Any:
        argv = [OUT / "load", str(self.broker.port), self.lab.ca_file, self.name("load"), *args]
        return self.lab.start(Load, "load", argv, self.lab.work_dir("load"), None, None, subprocess.PIPE)

    def echo(self, prefix: str) -> Any:
        """Sends back what comes; to be asked like a bridge."""
        echo = self.load("echo", f"{prefix}/modbus/request", f"{prefix}/modbus/response")
        echo.out.wait(r"^\{")
        echo.prefix = prefix
        return echo

    def operator(self, *prefixes: str) -> Any:
        """A load that hears the answers of these."""
        load = self.load("ask")
        for prefix in prefixes:
            load.order(f"sub {prefix}/modbus/response")
        return load

    def env(self, gateway: Any, name: str, **more: str) -> dict[str, str]:
        return {"MQTT_BROKER_HOST": "localhost", "MQTT_BROKER_PORT": str(self.broker.port),
                "WEB_CONTAINER_HOST": "localhost", "WEB_CONTAINER_PORT": str(gateway.port),
                "MQTT_ROOT_CA_FILE": str(self.lab.ca_file), "MQTT_CLIENT_ID": name, "MQTT_TOPIC_PREFIX": name,
                **more}

    def bridge(self, kind: str, gateway: Any, within: list[str | pathlib.Path] | None = None,
               argv: list[str | pathlib.Path] | None = None, **env: str) -> Any:
        """One of either kind, started; has prefix. See connected."""
        name = self.name(kind)
        mark, begun = self.broker.log.mark(), time.monotonic()
        whole = [*(within or []), *(argv or KINDS[kind])]
        cat = self.lab.start(Process, name, whole, self.lab.work_dir(name), self.env(gateway, name, **env))
        cat.prefix, cat.mark, cat.begun, cat.kind = name, mark, begun, kind
        return cat

    def connected(self, cat: Any) -> float:
        """Waits until the broker has taken its CONNECT; the seconds since it was started."""
        self.broker.log.wait(rf"New client connected from .* as {cat.prefix} ", 120, cat.mark)
        return time.monotonic() - cat.begun

    def serving(self, cat: Any) -> Any:
        """Waits until it has subscribed, too."""
        self.connected(cat)
        self.broker.log.wait(rf"{cat.prefix} 1 {cat.prefix}/modbus/request", 120, cat.mark)
        return cat
