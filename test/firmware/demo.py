#!/usr/bin/python3
"""A whole gateway on an emulated microcontroller: runs the image, plays the operator, and prints what it takes.

Run by `make firmware-demo`. Ends with status 0 if all was right.
"""

import ctypes
import os
import pathlib
import re
import signal
import subprocess
import sys

sys.dont_write_bytecode = True  # leaves no file behind
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test" / "e2e"))

from fake import A, FakeDns, dns_reply  # noqa: E402
from lab import DEVICE, SERIAL, Lab, LabError, server_certificate  # noqa: E402

IMAGE = ROOT / "build" / "firmware" / "demo.elf"
SERVICE_S, LIMIT_S = 14, 60
FLASH_BUDGET, RAM_BUDGET = 200_000, 96_000
HOST = "10.0.2.2"  # this machine's loopback, as QEMU's network shows it to the board
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def enter_namespace() -> None:
    """A network namespace for us alone, where port 53 is free; without root, as root of a user namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWNET) != 0:
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            raise LabError("needs a network namespace: run it as root, or allow user namespaces")
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            pathlib.Path(f"/proc/self/{name}").write_text(text)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def check(what: str, good: bool, came: object) -> None:
    print(f"  {'ok' if good else 'no'}  {what}", flush=True)
    if not good:
        raise LabError(f"{what}: {came}")


def number(text: str, name: str) -> int:
    return int(re.search(rf"^{name}: (\d+)$", text, re.M)[1])


def sizes() -> tuple[int, int]:
    """Bytes of flash, and of RAM that is taken for good."""
    line = subprocess.run(["arm-none-eabi-size", IMAGE], capture_output=True, text=True, check=True).stdout
    text, data, bss = (int(n) for n in line.splitlines()[1].split()[:3])
    return text + data, data + bss


def run(lab: Lab) -> str:
    """Plays the operator while the board runs; its output."""
    lab.certificate = server_certificate("DNS:localhost", "DNS:broker.test")
    names = lab.add(FakeDns(lambda query: dns_reply(query, (query.name, A, HOST))))
    gateway = lab.gateway(device=lab.device())
    broker = lab.broker(gateway)
    operator = lab.operator(broker, gateway)
    mark = broker.log.mark()
    board = lab.iamcat(
        {}, "-M", "mps2-an385", "-nographic", "-monitor", "none", "-serial", "none", "-kernel", str(IMAGE),
        "-nic", "user,model=lan9118", "-semihosting-config", "enable=on,target=native",
        "-append", f"broker.test {broker.port} api.test {gateway.port} {lab.ca_file} {SERVICE_S}",
        etc={"resolv.conf": f"nameserver {names.address}\n"}, binary=pathlib.Path("/usr/bin/qemu-system-arm"))
    broker.wait_subscribed(board, since=mark)
    asked = {query.name for query in names.history}
    check("it has an address by DHCP, and looks both names up", {"broker.test", "api.test"} <= asked, asked)
    answer = operator.request({"function_code": 3, "device_id": DEVICE, "address": 10056})
    check("a read is answered: 42", answer["response"].get("value") == 42, answer)
    answer = operator.request({"function_code": 16, "device_id": DEVICE, "address": 33207, "values": 170})
    check("a write is answered", answer["response"].get("success") is True, answer)
    answer = operator.request({"function_code": 3, "device_id": DEVICE, "address": 33207})
    check("and can be read back: 170", answer["response"].get("value") == 170, answer)
    answer = operator.request({"function_code": 3, "device_id": DEVICE, "address": 1, "pad": "x" * 12000})
    check("a request of 12 kB, in records of the size that was asked for, is refused in words", answer["response"].get("code") == "too_large", answer)
    for n in (1, 2):
        state = operator.state(suits=lambda s: "wifi" in s)
        check(f"state {n} has arrived at the broker", state["type"] == "gateway_state", state)
    status = board.wait(LIMIT_S)
    output = "\n".join([*board.out.lines, *board.log.lines])
    check("it stops in an orderly way", status == 0, output)
    gone = operator.state(suits=lambda s: s.get("status") == "offline")
    check("and says that it is gone", gone.get("type") == "gateway_state", gone)
    check(f"it was {SERIAL}", f"gateway {SERIAL}" in output, output)
    return output


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and so through all that cleans up
    enter_namespace()
    with Lab() as lab:
        try:
            output = run(lab)
            flash, ram = sizes()
            stack, heap = number(output, "stack used"), number(output, "lwIP heap used")
            print(f"flash             {flash:>7} bytes (budget {FLASH_BUDGET})")
            print(f"RAM in all        {ram + stack:>7} bytes (budget {RAM_BUDGET}): static memory and the deepest stack")
            print(f"  bridge and TLS  {number(output, 'bridge, tls and anchors'):>7}")
            print(f"  stack           {stack:>7} of {number(output, 'stack')}")
            print(f"  lwIP's heap     {heap:>7} of {number(output, 'lwIP heap')} (in static memory), the only one")
            check("within its budgets", flash <= FLASH_BUDGET and ram + stack <= RAM_BUDGET, (flash, ram, stack))
        except Exception as error:
            print(f"FAILED: {error}")
            for name, text in lab.logs(30):
                print(f"--- {name}\n{text}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
