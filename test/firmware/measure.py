"""measure.py CPU FOLDER FILE...: what the library in FOLDER takes on a Cortex-M, and that it needs nothing more.

Fails when the files include what a compiler alone does not have, but for string.h; when they need a symbol beyond each
other's, BearSSL's, mem*, strlen and the compiler's own; when one has static bytes that can be written (two instances
could not run side by side); and when functions call each other in a circle or take memory by a size known at run time
only, so that the depth of the stack has no bound.
The depth is that of the call graph, without what BearSSL takes in what they call."""

import re
import subprocess
import sys

ALLOWED = re.compile(r"br_\w+|mem(cpy|move|set|cmp|chr)|strlen|__aeabi_\w+|__gnu_thumb1_case_\w+")
HEADERS = {"assert.h", "bearssl.h", "jsmn.h", "limits.h", "stdalign.h", "stdarg.h", "stdbool.h", "stddef.h", "stdint.h",
           "string.h"}  # assert.h for static_assert: what assert itself needs is not there
MQTT_BUDGET_BYTES = 3500
TOOL = "arm-none-eabi-"


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def undefined_symbols(folder, objects):
    whole = f"{folder}/whole.elf.o"
    run(TOOL + "ld", "-r", "-o", whole, *objects)
    return [line.split()[-1] for line in run(TOOL + "nm", "-u", whole).splitlines()]


def foreign_headers(file):
    """What a file and the headers that it includes itself take from elsewhere."""
    found, todo, seen = [], [f"{file}.c"], set()
    while todo:
        path = todo.pop()
        seen.add(path)
        for quote, name in re.findall(r'^#include ([<"])([^>"]+)', open(path).read(), re.M):
            if quote == "<" and name not in HEADERS:
                found.append(f"{path} includes {name}")
            elif quote == '"' and name not in seen:
                todo.append(name)
    return found


def read_graph(path, frames, calls, dynamic):
    """Adds the functions of a compiler's call graph (-fcallgraph-info=su)."""
    for line in open(path):
        if node := re.match(r'node: \{ title: "([^"]*)" label: "[^"]*?(\d+) bytes \((\w[\w,]*)\)', line):
            frames[node[1]] = int(node[2])
            if node[3] == "dynamic":
                dynamic.append(node[1])
        elif edge := re.match(r'edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"', line):
            calls.setdefault(edge[1], set()).add(edge[2])


def deepest(function, frames, calls, known, path=()):
    """(bytes, way) of the deepest stack below a function, itself included."""
    if function in path:
        sys.exit(f"recursion: {' -> '.join([*path, function])}")
    if function not in known:
        below = [deepest(f, frames, calls, known, (*path, function)) for f in sorted(calls.get(function, ()))]
        top = max(below, key=lambda way: way[0], default=(0, ()))
        known[function] = (frames.get(function, 0) + top[0], (function, *top[1]))
    return known[function]


def mqtt_linked(cpu, folder):
    """Bytes of all that mqtt.h declares with what it needs of iamcat; every firmware has mem* and strlen of its own."""
    functions = [line.split()[-1] for line in run(TOOL + "nm", "--defined-only", "-g", f"{folder}/mqtt.o").splitlines()]
    elf = f"{folder}/mqtt.elf"
    run(TOOL + "gcc", "-mthumb", f"-mcpu={cpu}", "-nostdlib", "-Wl,--gc-sections,-e,mqtt_read",
        *[f"-Wl,--defsym={f}=0" for f in ("memcpy", "memmove", "memset", "strlen")],
        *[f"-Wl,-u,{f}" for f in functions], "-o", elf, *[f"{folder}/{f}.o" for f in ("mqtt", "queue", "buf")])
    return sum(int(n) for n in run(TOOL + "size", elf).splitlines()[1].split()[:2])


def main():
    cpu, folder, *files = sys.argv[1:]
    objects = [f"{folder}/{f}.o" for f in files]
    wrong = [f"needs {s}" for s in undefined_symbols(folder, objects) if not ALLOWED.fullmatch(s)]
    wrong += sorted({w for f in files for w in foreign_headers(f)})
    frames, calls, dynamic, known = {}, {}, [], {}
    for f in files:
        read_graph(f"{folder}/{f}.ci", frames, calls, dynamic)
    wrong += [f"{f} has no bound to its stack" for f in dynamic]
    print(f"{cpu:<16}{'text':>8}{'data':>8}{'bss':>8}{'stack':>8}  deepest")
    total = [0, 0, 0, 0]
    for f, line in zip(files, run(TOOL + "size", *objects).splitlines()[1:]):
        sizes = [int(n) for n in line.split()[:3]]
        own = [name for name in frames if name in file_functions(f"{folder}/{f}.ci")]
        depth, way = max((deepest(name, frames, calls, known) for name in own), key=lambda d: d[0])
        names = " ".join(name.split(":")[-1] for name in way if name in frames)
        print(f"{f:<16}{sizes[0]:>8}{sizes[1]:>8}{sizes[2]:>8}{depth:>8}  {names}")
        total = [t + s for t, s in zip(total, sizes)] + [max(total[3], depth)]
        if sizes[1] or sizes[2]:
            wrong.append(f"{f} has {sizes[1] + sizes[2]} static bytes that can be written")
    print(f"{'all':<16}{total[0]:>8}{total[1]:>8}{total[2]:>8}{total[3]:>8}")
    flash = mqtt_linked(cpu, folder)
    print(f"MQTT with resend and QoS 0, 1, 2, linked: {flash} bytes (at most {MQTT_BUDGET_BYTES})\n")
    if flash > MQTT_BUDGET_BYTES:
        wrong.append("MQTT alone is over its budget")
    for w in wrong:
        print(f"{cpu}: {w}", file=sys.stderr)
    return 1 if wrong else 0


def file_functions(path):
    """The functions that a call graph defines."""
    frames = {}
    read_graph(path, frames, {}, [])
    return frames


if __name__ == "__main__":
    sys.exit(main())
