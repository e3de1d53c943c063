#!/usr/bin/python3
"""Shows iamcat at work, and checks it: starts a laboratory on loopback, then acts as an operator would.

Run by `make demo`. Ends with status 0 if all was right; with KEEP=1 in the environment it goes on until
Ctrl-C.
"""

import json
import os
import re
import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = True  # leaves no file behind
sys.path.insert(0, str(Path(__file__).parent / "e2e"))

from lab import BUILD, DEVICE, IAMCAT, Lab, LabError, Operator, Process  # noqa: E402

LIMIT = 38  # seconds for everything
WIDTH = 80
KEEP = os.environ.get("KEEP", "") not in ("", "0")
COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal came; its number."""


def stop(number: int, _frame: Any) -> None:
    quiet()
    raise Stopped(number)


def quiet() -> None:
    """From here on nothing interrupts, so that the cleaning up is done whole."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)


def too_late(_number: int, _frame: Any) -> None:
    raise LabError(f"expected to be done within {LIMIT} s")


def say(text: str = "", colour: str = "") -> None:
    print(f"\x1b[{colour}m{text}\x1b[0m" if COLOUR and colour else text, flush=True)


def title(text: str) -> None:
    say()
    say(text, "1")


def step(name: str, text: str, took: str = "") -> None:
    """Something was done, and right."""
    line = f"{name:<14}{text:<46}{took:>13}".rstrip()
    say(("\x1b[32m  ok  \x1b[0m" if COLOUR else "  ok  ") + line)


def detail(name: str, value: Any) -> None:
    """Grey below a step."""
    text = f"{name:<14}{json.dumps(value)}"
    for line in textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 20):
        say(line, "2")


def check(answer: Any, **wanted: Any) -> None:
    """The response has these members."""
    response = answer.get("response")
    if not isinstance(response, dict) or any(response.get(name) != value for name, value in wanted.items()):
        raise LabError(f"expected  a response with {json.dumps(wanted)}\ncame      {json.dumps(answer)}")
    if answer.get("type") != "modbus_response":
        raise LabError(f'expected  "type": "modbus_response"\ncame      {json.dumps(answer)}')


def ask(operator: Operator, name: str, text: str, request: dict[str, Any], **wanted: Any) -> None:
    request = {"function_code": 3, "device_id": DEVICE, **request}
    start = time.monotonic()
    answer = operator.request(request, timeout=10)
    took = time.monotonic() - start
    check(answer, **wanted)
    step(name, text, f"{1000 * took:.0f} ms")
    detail("request", request)
    detail("response", answer["response"])


def states(operator: Operator) -> None:
    operator.states.clear()
    last = 0.0
    for n in range(1, 4):
        message = operator.states.take(timeout=12, what="state")
        state, gap = message.json, message.at - last
        stamped = re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(state.get("timestamp")))
        if not stamped or state.get("type") != "gateway_state" or state.get("status") == "api_unavailable":
            raise LabError(f"expected  the gateway's state with a timestamp\ncame      {json.dumps(state)}")
        if last and not 3 < gap < 7:
            raise LabError(f"expected  a state every 5 s\ncame      one after {gap:.1f} s")
        last = message.at
        after = f"after {gap:.1f} s" if n > 1 else ""
        step(f"state {n}", f"{state['timestamp']}, {len(message.payload)} bytes", after)


def set_up(lab: Lab) -> tuple[Any, Operator, Process]:
    title("The laboratory, all of it on this machine's loopback")
    step("certificate", "a throw-away CA, and a certificate for localhost by it")
    device = lab.device()
    step("device", f"a Modbus TCP server on port {device.port}")
    gateway = lab.gateway(device=device)
    step("gateway", f"its web API on port {gateway.port}; it signs ES256 tokens")
    broker = lab.broker(gateway)
    step("broker", f"mosquitto, TLS on port {broker.port}; it verifies those tokens")
    operator = lab.operator(broker, gateway)
    step("operator", "connected to the broker, waits for answers and states")
    mark = broker.log.mark()
    cat = lab.iamcat(lab.env(broker, gateway, LOG_LEVEL="info"))
    try:
        client = broker.wait_subscribed(cat, since=mark)
    except LabError as error:
        raise LabError(f"expected  iamcat to connect and subscribe\ncame      {error}") from None
    step("iamcat", f"connected as {client}, its serial number")
    broker.gateway = gateway
    return broker, operator, cat


def play(lab: Lab, broker: Any) -> None:
    """The commands to play with it."""
    token = lab.dir / "token"
    token.touch(0o600)
    token.write_text(broker.gateway.token("operator", exp=int(time.time()) + 30 * 24 * 3600))
    login = (f"-h localhost -p {broker.port} -u operator \\\n  --cafile {lab.ca_file} \\\n"
             f'  -P "$(cat {token})"')
    read = {"function_code": 3, "device_id": DEVICE, "address": 10056}
    write = {"function_code": 16, "device_id": DEVICE, "address": 33207, "values": 7}
    settings = lab.dir / "mqtt.env"
    settings.write_text("".join(f"{name}={value}\n" for name, value in lab.env(broker, broker.gateway).items()))
    title("To play with it, paste these in another terminal; Ctrl-C here ends it")
    for command in ("check", "status --watch"):
        say(f"\n{IAMCAT} -c {settings} {command}")
    say(f"\nmosquitto_sub {login} \\\n  -v -t 'iamcat/#'")
    for request in (read, write):
        text = json.dumps(request, separators=(",", ":"))
        say(f"\nmosquitto_pub {login} \\\n  -q 1 -t iamcat/modbus/request \\\n  -m '{text}'")


def follow(cat: Process) -> None:
    """iamcat's log, as it comes, for ever."""
    title("iamcat's log")
    shown = 0
    while True:
        with cat.log.news:
            cat.log.news.wait_for(lambda: cat.log.ended or len(cat.log.lines) > shown)
            lines = cat.log.lines[shown:]
        for line in lines:
            say(line)
        shown += len(lines)
        if cat.log.ended:
            raise LabError(f"expected  iamcat to go on\ncame      its end, status {cat.wait()}")


def show(lab: Lab, start: float) -> None:
    broker, operator, cat = set_up(lab)
    title("An operator's requests, over the broker")
    ask(operator, "read", "register 10056 is 42", {"address": 10056}, value=42)
    ask(operator, "write", "170 to register 33207", {"function_code": 16, "address": 33207, "values": 170},
        success=True)
    ask(operator, "read back", "register 33207 is 170 now", {"address": 33207}, value=170)
    ask(operator, "unknown type", "an error in words", {"address": 10056, "type": "U99"},
        success=False, code="api_error", status=400)
    title("The gateway's state, every 5 seconds")
    states(operator)
    signal.setitimer(signal.ITIMER_REAL, 0)
    title(f"All was right, in {time.monotonic() - start:.0f} s.")
    if KEEP:
        play(lab, broker)
        follow(cat)
    status = cat.stop()
    if status != 0:
        raise LabError(f"expected  iamcat to stop with status 0\ncame      {status}")


def report(lab: Lab | None, error: Exception) -> None:
    title("FAILED")
    say(str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}", "31")
    for name, text in lab.logs(12) if lab else []:
        title(f"The last lines of the log: {name}")
        say(text)


def main() -> int:
    start = time.monotonic()
    missing = [str(p) for p in (IAMCAT, BUILD / "device", BUILD / "gateway", BUILD / "broker_auth.so")
               if not p.exists()]
    if missing:
        say(f"not built: {', '.join(missing)}; `make demo` builds and runs all")
        return 1
    reported = None
    try:
        for number in SIGNALS:
            signal.signal(number, stop)
        signal.signal(signal.SIGALRM, too_late)
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        say("iamcat bridges a gateway's web API and an MQTT broker over TLS.", "1")
        with Lab() as lab:
            try:
                show(lab, start)
            except Exception as error:
                reported = error
                report(lab, error)
            finally:
                quiet()
    except Stopped as stopped:
        number = stopped.args[0]
        say("\nStopped; nothing is left behind.")
        return 0 if KEEP and number == signal.SIGINT else 128 + number
    except LabError as error:
        if not reported:
            report(None, error)
        return 1
    return 1 if reported else 0


if __name__ == "__main__":
    sys.exit(main())
