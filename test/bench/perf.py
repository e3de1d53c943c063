"""Where the time goes that instructions do not show, by the system calls: `make bench PROFILE=1`. Linux's perf looks
at the CPU's clock many times a second; it wants root, or kernel.perf_event_paranoid and kernel.kptr_restrict of 0."""

import re
import signal
import subprocess
import time
from typing import Any, Callable

from parts import OUT, LabError, cpu_s

IDLE, IDLE_S = 20, 30  # so many bridges idle for so long, since each does next to nothing
BURSTS = 60
CALL = r"__(?:x64|arm64|ia32)_sys_(\w+)|(?:asm_)?(exc_page_fault)|(do_page_fault)"


def record(name: str, pids: list[int], job: Callable[[], Any]) -> str:
    """Runs the job while perf looks at the processes."""
    out = OUT / f"perf.{name}"
    perf = subprocess.Popen(["perf", "record", "-q", "-e", "cpu-clock", "-F", "20000", "-g", "-o", out, "-p",
                             ",".join(map(str, pids))], stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(1)
        job()
    finally:
        perf.send_signal(signal.SIGINT)
        said = perf.communicate()[1]
    if not out.exists():
        raise LabError(f"perf record: {said}")
    return str(out)


def parts(path: str, children: str, sort: str) -> dict[str, float]:
    """Per cent of the samples; with children, also of what it calls."""
    done = subprocess.run(["perf", "report", "-i", path, children, "-g", "none", "--stdio", "--sort", sort],
                          capture_output=True, text=True)
    found = re.findall(r"^ +([\d.]+)%(?: +[\d.]+%)? +(?:\[.\] )?(\S+)", done.stdout, re.M)
    return {name: float(per_cent) for per_cent, name in found}


def report(what: str, path: str) -> str:
    where = parts(path, "--no-children", "dso")
    kernel = sum(n for name, n in where.items() if name.startswith("[k"))
    calls: dict[str, float] = {}
    for name, n in parts(path, "--children", "sym").items():
        if m := re.fullmatch(CALL, name):
            call = m[1] or "page faults"
            calls[call] = max(n, calls.get(call, 0))
    if not calls:
        raise LabError("perf shows no names of the kernel (see kernel.kptr_restrict)")
    listed = ", ".join(f"{name} {n:.0f}" for name, n in sorted(calls.items(), key=lambda c: -c[1]) if n >= 1)
    return f"{what}: {kernel:.0f} % of it in the kernel: {listed}"


def profile(bench: Any) -> str:
    def bursts() -> None:
        for _ in range(BURSTS):
            bench.ask(load, cat, 200, 200)

    cat = bench.bridge("iamcat", bench.fast, STATE_INTERVAL="3600")
    load = bench.operator(bench.serving(cat).prefix)
    bench.ask(load, cat, 200, 200)
    before = cpu_s(cat.pid)
    bursts()
    us = 1e6 * (cpu_s(cat.pid) - before) / 200 / BURSTS
    burst = report(f"{us:.0f} µs of CPU a request, 200 at once", record("burst", [cat.pid], bursts))
    cat.stop()
    idle = [bench.bridge("iamcat", bench.fast) for _ in range(IDLE)]
    pids = [bench.serving(one).pid for one in idle]
    time.sleep(3)
    before, begun = sum(map(cpu_s, pids)), time.monotonic()
    time.sleep(IDLE_S)
    ms = 1000 * (sum(map(cpu_s, pids)) - before) * 60 / (time.monotonic() - begun) / IDLE
    path = record("idle", pids, lambda: time.sleep(IDLE_S))
    return burst + "\n" + report(f"{ms:.1f} ms of CPU a minute, idle", path)
