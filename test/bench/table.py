"""What bench.py has measured, as a table in text and Markdown, and as a chart. A target is the most, or
(least=True) the least, that is allowed."""

import dataclasses
import subprocess
from typing import Any


@dataclasses.dataclass
class Row:
    what: str
    python: float | None
    floor: float | None
    iamcat: float | None
    unit: str = ""
    target: float | None = None
    least: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better than the Python client; over the floor, noise may hide a part altogether."""
        if not self.python or not self.iamcat or min(self.python, self.iamcat) < 0:
            return None
        return self.iamcat / self.python if self.least else self.python / self.iamcat

    @property
    def reached(self) -> bool | None:
        if self.target is None or self.iamcat is None:
            return None
        return self.iamcat >= self.target if self.least else self.iamcat <= self.target

    def cells(self) -> list[str]:
        limit = "" if self.target is None else ("≥ " if self.least else "≤ ") + number(self.target)
        return [self.what + (f", {self.unit}" if self.unit else ""), number(self.python), number(self.floor),
                number(self.iamcat), "" if self.ratio is None else number(self.ratio) + "×", limit,
                {None: "", True: "yes", False: "NO"}[self.reached]]


HEAD = ["", "Python client", "floor", "iamcat", "ratio", "target", "reached"]


def number(v: float | None) -> str:
    """Three digits that mean something."""
    if v is None:
        return ""
    if abs(v) >= 100 or v == int(v):
        return f"{round(v):,}"
    return f"{v:.3g}" if abs(v) >= 0.001 else f"{v:.1g}"


def as_text(rows: list[Row]) -> str:
    cells = [HEAD] + [row.cells() for row in rows]
    width = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(w) if i == 0 else cell.rjust(w)
                               for i, (cell, w) in enumerate(zip(line, width))).rstrip() for line in cells)


def as_markdown(rows: list[Row]) -> str:
    lines = [HEAD, ["---"] + ["--:"] * (len(HEAD) - 1)] + [row.cells() for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def chart(rows: list[Row], path: Any, caption: str) -> None:
    """Each row's ratio to the Python client as a bar, on a logarithmic scale; drawn by gnuplot."""
    bars = [(row.what, row.ratio) for row in rows if row.ratio]
    data = "\n".join(f'{len(bars) - i} {ratio:.4g} "{what}  "' for i, (what, ratio) in enumerate(bars))
    script = f'''
set terminal svg size 900,{80 + 22 * len(bars)} font "sans-serif,12" background "white"
set output "{path}"
set label 1 "How many times better than the Python client" at screen 0.02, graph 1 offset 0, 2.2 font ",14"
set label 2 "{caption}" at screen 0.02, graph 1 offset 0, 0.9 font ",10" noenhanced
set tmargin 4
set logscale x
set xrange [0.5:{max(ratio for _, ratio in bars) * 3:.4g}]
set yrange [0.4:{len(bars)}.6]
set lmargin 50
set grid x
unset key
set style fill solid 0.8 noborder
$data << EOD
{data}
EOD
plot $data using (1):1:(1):2:($1-0.35):($1+0.35):ytic(3) with boxxyerror lc rgb "#3465a4", \\
     $data using 2:1:(sprintf(" %.3g", $2)) with labels left
'''
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def rows(r: dict[str, Any]) -> list[Row]:
    """The table of a result of bench.py; what a QUICK run leaves out is empty."""
    def pair(name: str, *path: Any, scale: float = 1) -> float | None:
        value: Any = r.get(name)
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        return None if value is None else value * scale

    def both(what: str, name: str, *path: Any, scale: float = 1, floor: float | None = None,
             **more: Any) -> Row:
        python, iamcat = (pair(name, kind, *path, scale=scale) for kind in ("python", "iamcat"))
        return Row(what, python, floor, iamcat, **more)

    def total(name: str) -> float | None:
        return sum(r[name].values()) if name in r else None

    floor_ms = pair("trip_us", "floor", "p50", scale=1e-3)
    table = [
        both("round trip, fast gateway, p50", "trip_us", "p50", scale=1e-3, floor=floor_ms, unit="ms"),
        both("round trip, fast gateway, p99", "trip_us", "p99", scale=1e-3, unit="ms"),
        both("its part over the floor", "over_us", scale=1e-3, unit="ms", target=0.15),
        both("round trip, 250 ms gateway, p50", "slow_ms", "p50", unit="ms", target=5),
        both("round trip, 250 ms gateway, p99", "slow_ms", "p99", unit="ms", target=20),
        both("200 at once, one device, a second", "burst_per_s", least=True,
             floor=pair("burst_per_s", "http, 1 lane")),
        Row("of what the same HTTP calls reach", None, None, pair("burst_part", "one device"), "%", 90, True),
        Row("200 at once, 200 devices, a second", None, pair("burst_per_s", "http, 2 lanes"),
            pair("burst_per_s", "iamcat, any order"), least=True),
        Row("of what the same HTTP calls reach", None, None, pair("burst_part", "any order"), "%", 90, True),
        both("sustained, a second", "sustained_per_s", least=True),
    ]
    for size in r.get("sizes_us", {}):
        ms = (pair("sizes_us", size, who, scale=1e-3) for who in ("python", "floor", "iamcat"))
        table.append(Row(f"replies of {int(size):,} B, round trip", *ms, "ms"))
    table += [
        both("CPU per 1,000 requests, 20 at a time", "cpu_s", unit="s", target=0.10),
        both("CPU per 1,000 requests, one at a time", "cpu_single_s", unit="s"),
        both("instructions in user space per request", "instructions", target=60000),
        *(Row(f"instructions per publish of 200 B, {case}, {flag}", None, None, pair(program, case.lower()),
              target=most)
          for program, flag in (("publish", "-O2"), ("publish-small", "-Oz"))
          for case, most in (("plain", 600), ("TLS", 5000))),
        Row("instructions per TLS handshake, full", None, None, pair("handshake", "full")),
        Row("instructions per TLS handshake, resumed", None, None, pair("handshake", "resumed")),
        both("system calls per request", "system_calls", "per_request"),
        Row("system calls per publish and its PUBACK", None, None, pair("system_calls_per_publish"),
            target=5),
        both("idle CPU a minute", "idle", "cpu_ms", unit="ms", target=3),
        both("idle wake-ups a minute", "idle", "wakes", target=90),
        both("bytes on the wire per state, both ways", "idle", "state_bytes"),
        both("memory resident, peak", "memory_kb", "peak", unit="kB", target=200),
        both("memory private, after load", "memory_kb", "private", unit="kB", target=96),
        both("memory private, after replies of 60 kB", "memory_after_sizes_kb", "private", unit="kB"),
        both("start to CONNECT", "start_ms", unit="ms", target=20),
        both("heap allocations after main starts", "allocations", target=0),
    ]
    return table
