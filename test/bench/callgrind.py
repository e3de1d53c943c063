"""What iamcat spends its instructions on, per request: `make bench PROFILE=1`. The difference of the two
profiles that bench.py leaves in build/bench has neither the start nor the handshake in it."""

import os
import pathlib
import re
import subprocess

from parts import OUT, ROOT

WANTED = os.environ.get("PROFILE", "") not in ("", "0")
BINARY = [ROOT / "iamcat"]  # has its symbols


def functions(path: pathlib.Path) -> dict[str, int]:
    """The instructions of each function itself."""
    done = subprocess.run(["callgrind_annotate", "--auto=no", "--threshold=100", path], capture_output=True,
                          text=True, check=True)
    found: dict[str, int] = {}
    for count, where in re.findall(r"^ *([\d,]+) \([ \d.]+%\)  (\S+)(?: \[|$)", done.stdout, re.M):
        name = re.sub(r".*/", "", where)
        found[name] = found.get(name, 0) + int(count.replace(",", ""))
    return found


def report() -> str:
    profiles = sorted((int(path.suffix[1:]), path) for path in OUT.glob("callgrind.iamcat.*"))
    (few, first), (many, second) = profiles[0], profiles[-1]
    before, after = functions(first), functions(second)
    per = {name: (n - before.get(name, 0)) / (many - few) for name, n in after.items()}
    total = sum(per.values())
    lines = [f"{total:12,.0f}  instructions in user space per request, of these"]
    for name, n in sorted(per.items(), key=lambda item: -item[1])[:40]:
        lines.append(f"{n:12,.0f}  {100 * n / total:5.1f} %  {name}")
    return "\n".join(lines)
