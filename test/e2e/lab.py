"""The laboratory: a throw-away CA, mosquitto, the Modbus device, the test gateway, iamcat and an operator,
started on free loopback ports and surely stopped. Waits for events (log lines, messages), never for luck.

    with Lab() as lab:
        bridge = lab.bridge()
        assert bridge.operator.request({"function_code": 3, ...})["response"]["value"] == 42
"""

import contextlib
import functools
import http.client
import json
import os
import pathlib
import queue
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import types
import urllib.parse
from typing import Any, Callable, Iterable, Iterator

import paho.mqtt.client as paho

ROOT = pathlib.Path(__file__).resolve().parents[2]
IAMCAT = pathlib.Path(os.environ.get("IAMCAT", ROOT / "iamcat")).absolute()
BUILD = pathlib.Path(os.environ.get("IAMCAT_TEST_BUILD", ROOT / "build" / "test")).absolute()
DEVICE, SERIAL = "A2332407312", "0123ab5c7f9e4d01ee"  # what the gateway knows, and is, by default
# What sanitizers, coverage and the sandbox are told, for every iamcat.
PASSED = {name: os.environ[name] for name in (
    "ASAN_OPTIONS", "UBSAN_OPTIONS", "GCOV_PREFIX", "GCOV_PREFIX_STRIP", "SANDBOX") if name in os.environ}
TIMEOUT = 20.0  # seconds that an event may take: generous, for slow machines and sanitizers
SANITIZER = r"^==\d+== (Invalid|Conditional|Use of|Syscall|Source|Process(?!.*of signal 15 )|Mismatched)|(Address|Leak|Memory|Undefined)\w*Sanitizer|runtime error:|Assertion .* failed"


# We may have died before the death signal was set: then the parent is another one already.
WITH_PARENT = ["sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"']


class LabError(AssertionError):
    """What was expected did not happen; the text says what, and what came instead."""


def free_port() -> int:
    """A port that is free now, outside the range from which the kernel takes its own for connections."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", random.randint(10000, 32000)))
            return probe.getsockname()[1]


def mounted(where: str, options: str) -> list[str]:
    """A command line prefix that mounts something there, as the rest of the command alone sees it (needs root)."""
    # In a chroot, whose / is no mount point, unshare can't make the new namespace private as a whole.
    whole = subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode == 0
    script = f'mount --bind {where} {where} && mount --make-private {where} && mount {options} {where} && exec "$@"'
    return ["unshare", "--mount", *([] if whole else ["--propagation", "unchanged"]), "sh", "-c", script, "sh"]


def strict_json(text: str | bytes) -> Any:
    """json.loads without Python's extensions (NaN, Infinity)."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Signals wait until the end of the block, so that none comes between making something and noting that it
    must go."""
    came: list[int] = []
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM
    handlers = {number: signal.signal(number, lambda n, _: came.append(n)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


# ---------------------------------------------------------------------------------------------- certificates


class Certificate(types.SimpleNamespace):
    """cert and key as PEM text."""

    def save(self, directory: pathlib.Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
        paths = directory / f"{name}.pem", directory / f"{name}.key"
        for path, text in zip(paths, (self.cert, self.key)):
            path.write_text(text)
        paths[1].chmod(0o600)
        return paths


def certify(name: str, extensions: Iterable[str], issuer: Certificate | None = None, key: str = "ec",
            days: int = 2) -> Certificate:
    """A certificate for the common name; extensions are lines of openssl's configuration. Without an issuer
    it signs itself. key: ec (P-256), ec384 or rsa."""
    kind = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "rsa": ["rsa:2048"],
            "ec384": ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"]}[key]
    with calm(), tempfile.TemporaryDirectory(prefix="iamcat-ca-") as work:
        at = pathlib.Path(work)
        (at / "config").write_text("\n".join([
            "[req]", "distinguished_name = dn", "prompt = no", "x509_extensions = ext",
            "[dn]", f"CN = {name}", "[ext]", *extensions, ""]))
        command = ["openssl", "req", "-x509", "-config", "config", "-newkey", *kind, "-nodes", "-sha256",
                   "-days", str(days), "-keyout", "key", "-out", "cert"]
        if issuer:
            issuer.save(at, "ca")
            command += ["-CA", "ca.pem", "-CAkey", "ca.key"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, process_group=0)
        if done.returncode != 0:
            raise LabError(f"openssl failed: {done.stderr}")
        return Certificate(cert=(at / "cert").read_text(), key=(at / "key").read_text())


@functools.cache
def authority(key: str = "ec") -> Certificate:
    """The throw-away CA, one per process."""
    return certify("iamcat lab CA", ["basicConstraints = critical,CA:true", "subjectKeyIdentifier = hash",
                                     "keyUsage = critical,keyCertSign,cRLSign"], key=key)


@functools.cache
def server_certificate(*names: str, key: str = "ec") -> Certificate:
    """A server's certificate by that CA, for the names like DNS:localhost (default: all of this machine)."""
    names = names or ("DNS:localhost", "IP:127.0.0.1", "IP:::1")
    return certify("localhost", ["basicConstraints = critical,CA:false", "extendedKeyUsage = serverAuth",
                                 "keyUsage = critical,digitalSignature,keyEncipherment",
                                 "subjectKeyIdentifier = hash", "authorityKeyIdentifier = keyid",
                                 f"subjectAltName = {','.join(names)}"], issuer=authority(), key=key)


# ------------------------------------------------------------------------------------------ logs and messages


class Log:
    """Lines as they come; waits for one that matches. Safe for threads."""

    def __init__(self, name: str) -> None:
        self.name, self.lines, self.ended = name, [], False
        self.news = threading.Condition()

    def add(self, line: str) -> None:
        with self.news:
            self.lines.append(line)
            self.news.notify_all()

    def end(self) -> None:
        with self.news:
            self.ended = True
            self.news.notify_all()

    def mark(self) -> int:
        """Where the log is now, for the parameter since of the others."""
        return len(self.lines)

    def find(self, regex: str, since: int = 0) -> list[re.Match]:
        """What matches so far."""
        return [m for m in (re.search(regex, line) for line in self.lines[since:]) if m]

    def wait(self, regex: str, timeout: float = TIMEOUT, since: int = 0, times: int = 1) -> re.Match:
        """The match in the first line that matches (with times: in the n-th)."""
        with self.news:
            self.news.wait_for(lambda: self.ended or len(self.find(regex, since)) >= times, timeout)
            found = self.find(regex, since)
        if len(found) >= times:
            return found[times - 1]
        how = "before its end" if self.ended else f"within {timeout:g} s"
        raise LabError(f"{self.name}: no line like /{regex}/ {how}; the last ones:\n{self.tail()}")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.lines[-lines:]) or "(nothing)"


class Message(types.SimpleNamespace):
    """An MQTT message: topic, payload (bytes), qos, retain, dup, at (monotonic seconds)."""

    @property
    def json(self) -> Any:
        return strict_json(self.payload)


class Inbox:
    """What has come and was not taken yet; take waits for one that suits and removes it. Safe for threads."""

    def __init__(self, name: str) -> None:
        self.name, self.items, self.news = name, [], threading.Condition()

    def put(self, item: Any) -> None:
        with self.news:
            self.items.append(item)
            self.news.notify_all()

    def take(self, suits: Callable[[Any], bool] = lambda item: True, timeout: float = TIMEOUT,
             what: str = "message") -> Any:
        with self.news:
            found = self.news.wait_for(lambda: [i for i in self.items if suits(i)], timeout)
            if not found:
                rest = "\n".join(str(item)[:300] for item in self.items[-10:]) or "(nothing)"
                raise LabError(f"{self.name}: no {what} within {timeout:g} s; there is:\n{rest}")
            self.items = [item for item in self.items if item is not found[0]]
            return found[0]

    def clear(self) -> list[Any]:
        """Takes all that is there."""
        with self.news:
            items, self.items = self.items, []
            return items


# -------------------------------------------------------------------------------------------------- processes


class Process:
    """A program with its output captured. The kernel kills it should this process die."""

    def __init__(self, name: str, argv: list[str | pathlib.Path], cwd: pathlib.Path,
                 env: dict[str, str] | None = None, within: list[str] | None = None,
                 stdin: int = subprocess.DEVNULL) -> None:
        """Started; within is a command line prefix that ends by executing the rest."""
        self.name, self.expected = name, False
        self.intruder = False  # does what the sandbox refuses
        self.log, self.out = Log(name), Log(f"{name}'s stdout")
        # A process group of its own: Ctrl-C reaches us alone, and we stop all others in order.
        self.popen = subprocess.Popen(
            [*(within or []), "setpriv", "--pdeathsig", "KILL", *WITH_PARENT, str(os.getpid()), *argv],
            cwd=cwd, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", **(env or {})}, process_group=0)
        self.pid = self.popen.pid
        self.threads = [threading.Thread(target=self.read, args=pair, daemon=True)
                        for pair in ((self.popen.stderr, self.log), (self.popen.stdout, self.out))]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def read(stream: Any, log: Log) -> None:
        with stream:
            for line in stream:
                log.add(line.decode(errors="backslashreplace").rstrip("\n"))
        log.end()

    def wait_log(self, regex: str, timeout: float = TIMEOUT, since: int = 0, times: int = 1) -> re.Match:
        return self.log.wait(regex, timeout, since, times)

    def start_line(self) -> Any:
        """The line of JSON that the test programs print when they are ready."""
        try:
            return strict_json(self.out.wait(r"^{").string)
        except LabError as error:
            raise LabError(f"{error}\n{self.log.tail()}") from None

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def send_signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Its exit status (negative: the signal), with its output complete."""
        self.expected = True
        try:
            status = self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            late = f"{self.name} did not end within {timeout:g} s; its log:\n{self.log.tail()}"
            raise LabError(late) from None
        for thread in self.threads:
            thread.join(TIMEOUT)
        return status

    def stop(self, number: int = signal.SIGTERM, timeout: float = TIMEOUT) -> int:
        """Asks it to end; its exit status."""
        self.send_signal(number)
        return self.wait(timeout)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def memory_kb(self) -> int:
        """Its resident memory."""
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def close(self) -> None:
        """Ends it in any case; an end that no test asked for, a sanitizer's report, or one of the sandbox, is an
        error."""
        ended = None if self.expected else self.popen.poll()
        if self.running:
            self.send_signal(signal.SIGCONT)  # a stopped process ends only by SIGKILL
            self.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(1)
            if self.running:
                self.send_signal(signal.SIGKILL)
        self.wait()
        if ended is not None:
            raise LabError(f"{self.name} ended by itself, status {ended}; its log:\n{self.log.tail()}")
        if self.log.find(SANITIZER):
            raise LabError(f"{self.name}: a sanitizer or an assertion spoke:\n{self.log.tail(200)}")
        if self.log.find("sandbox: a system call was refused") and not self.intruder:
            raise LabError(f"{self.name}: the sandbox has refused what it needs:\n{self.log.tail(200)}")


class Broker(Process):
    """mosquitto over TLS; passwords are tokens that the plugin verifies."""

    port: int
    data: pathlib.Path | None

    def wait_subscribed(self, cat: Process, since: int = 0) -> str:
        """Waits until iamcat has subscribed, and not ended instead; its client id."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return self.log.wait(r"Sending SUBACK to (\S+)", 0.1, since)[1]
            except LabError:
                if not cat.running:
                    raise LabError(f"iamcat ended, status {cat.wait()}:\n{cat.log.tail()}") from None
                if time.monotonic() > deadline:
                    raise LabError(f"iamcat has not subscribed; its log:\n{cat.log.tail()}") from None


class Gateway(Process):
    """The test gateway (see the top of test/gateway.c)."""

    port: int
    control_port: int
    public_key: str

    def call(self, method: str, path: str, body: Any = None, port: int = 0) -> tuple[int, Any]:
        """One request to its API: status and reply."""
        api = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=TIMEOUT)
        with contextlib.closing(api):
            headers = {"Content-Type": "application/json"} if body is not None else {}
            api.request(method, path, json.dumps(body) if body is not None else None, headers)
            reply = api.getresponse()
            text = reply.read()
            return reply.status, strict_json(text) if text else None

    def control(self, path: str) -> Any:
        """One request to its control port; the reply."""
        status, reply = self.call("GET", f"/test/{path}", port=self.control_port)
        if status != 200:
            raise LabError(f"the gateway refused /test/{path}: {reply}")
        return reply

    def set(self, **options: Any) -> None:
        """Changes options while it runs: state_delay_ms=2000 is state-delay-ms."""
        query = {name.replace("_", "-"): value for name, value in options.items()}
        self.control("set?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote))

    def calls(self, family: str = "") -> list[dict[str, Any]]:
        """What it was asked so far: all, or crypto, jwt, state or modbus."""
        return [c for c in self.control("log")["calls"] if family in ("", c["family"])]

    def token(self, subject: str, iat: Any = None, exp: Any = None) -> str:
        """A token signed by the gateway, valid for an hour unless told otherwise."""
        now = int(time.time())
        claims = {"sub": subject, "iat": iat or now, "exp": exp or now + 3600}
        status, reply = self.call("POST", "/api/jwt/create", {
            "barn": claims, "headers": {"alg": "ES256", "typ": "JWT"}, "expires_in": 5})
        if status != 200:
            raise LabError(f"the gateway refused a token: {status} {reply}")
        return reply["jwt"]


# --------------------------------------------------------------------------------------------------- operator


class Operator:
    """Someone at the other end of the broker: sends requests, gets answers and states."""

    def __init__(self, ca: str, user: str, password: str, prefix: str = "iamcat", kept: bool = False) -> None:
        """Not connected yet. ca is PEM text; prefix may hold + to listen to a fleet. kept: the broker keeps
        the session, with answers in it, while the connection is down."""
        self.prefix = prefix
        self.answers, self.states = Inbox("answers"), Inbox("states")
        self.result: queue.Queue[str] = queue.Queue()
        self.client_id = f"{user}-{random.getrandbits(64):x}"
        self.client = paho.Client(self.client_id, clean_session=not kept)
        self.client.username_pw_set(user, password)
        self.client.tls_set_context(ssl.create_default_context(cadata=ca))
        self.client.reconnect_delay_set(0.1, 1)
        self.client.on_connect = self.on_connect
        self.client.on_subscribe = lambda *_: self.result.put("")
        self.client.on_message = self.on_message

    def connect(self, port: int) -> "Operator":
        """Connected and subscribed; keeps itself so until close()."""
        self.client.connect("localhost", port)
        self.client.loop_start()
        try:
            refused = self.result.get(timeout=TIMEOUT)
        except queue.Empty:
            refused = "no answer to CONNECT or SUBSCRIBE"
        if refused:
            self.close()
            raise LabError(f"operator: {refused}")
        return self

    def on_connect(self, client: paho.Client, _data: Any, _flags: Any, code: int) -> None:
        if code != 0:
            self.result.put(f"the broker refused, CONNACK {code}")
            return
        client.socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.subscribe([(f"{self.prefix}/modbus/response", 1), (f"{self.prefix}/state", 1)])

    def on_message(self, _client: paho.Client, _data: Any, m: paho.MQTTMessage) -> None:
        message = Message(topic=m.topic, payload=m.payload, qos=m.qos, retain=m.retain, dup=m.dup,
                          at=time.monotonic())
        (self.states if m.topic.endswith("/state") else self.answers).put(message)

    def publish(self, topic: str, payload: bytes | str, qos: int = 1, retain: bool = False) -> None:
        """Published, and acknowledged by the broker."""
        info = self.client.publish(topic, payload, qos, retain)
        info.wait_for_publish(TIMEOUT)
        if not info.is_published():
            raise LabError(f"operator: the broker did not acknowledge a message to {topic}")

    def send(self, request: Any, qos: int = 1, retain: bool = False) -> bytes:
        """Sends a request without waiting for its answer: bytes as they are, anything else as JSON."""
        payload = request if isinstance(request, bytes) else json.dumps(request).encode()
        self.publish(f"{self.prefix}/modbus/request", payload, qos, retain)
        return payload

    def answer(self, request: bytes | None = None, timeout: float = TIMEOUT) -> Message:
        """The next answer, or the next one that echoes the request (None as "request" echoes what is not
        JSON)."""

        def suits(m: Message) -> bool:
            return request is None or request.strip() in m.payload or m.json["request"] is None

        return self.answers.take(suits, timeout, f"answer to {request[:300]!r}" if request else "answer")

    def request(self, request: Any, timeout: float = TIMEOUT) -> Any:
        """Sends a request; its answer as an object."""
        return self.answer(self.send(request), timeout).json

    def unanswered(self, request: Any, until: Callable[[], Any]) -> None:
        """Sends a request that must get no answer. until waits for the event after which none can come; then
        a request that is no JSON must be answered, and by then nothing else may have been."""
        payload = self.send(request)
        until()
        self.send(b"the end")
        self.answers.take(lambda m: m.json["request"] is None, what="answer to what is no JSON")
        came = [m for m in self.answers.items if payload.strip() in m.payload]
        if came:
            raise LabError(f"operator: an answer to {payload!r} came: {came[0].payload!r}")

    def state(self, timeout: float = TIMEOUT, suits: Callable[[Any], bool] = lambda state: True) -> Any:
        """The next state (that suits), as an object."""
        return self.states.take(lambda m: suits(m.json), timeout, "state").json

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


# ------------------------------------------------------------------------------------------------- laboratory


class Sleeper:
    """A machine that was asleep for some time: so iamcat with this env sees its clocks."""

    def __init__(self, lab: "Lab") -> None:
        self.file, self.seconds = lab.work_dir("sleeper") / "asleep", 0
        self.file.write_bytes(bytes(8))
        asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        self.env = {"LD_PRELOAD": str(BUILD / "asleep.so"), "ASLEEP": str(self.file), "ASAN_OPTIONS": asan}

    def sleep(self, seconds: int) -> None:
        self.seconds += seconds
        with self.file.open("r+b") as file:
            file.write(struct.pack("q", self.seconds))


class Lab(contextlib.ExitStack):
    """Starts the parts; stops them all, the last one first, and removes the files at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Any] = []  # everything with a log, for reports
        self.ca, self.certificate = authority(), server_certificate()
        with calm():
            self.dir = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory(prefix="iamcat-lab-")))
            self.dir.chmod(0o755)  # in its sandbox iamcat is no longer root
            self.ca_file, _ = self.ca.save(self.dir, "ca")

    def __exit__(self, *error: Any) -> bool | None:
        with calm():
            return super().__exit__(*error)

    def start(self, kind: type[Process], *args: Any) -> Any:
        """A process that is surely stopped at the end."""
        with calm():
            return self.add(kind(*args))

    def add(self, part: Any) -> Any:
        """Takes over something with log and close()."""
        self.parts.append(part)
        self.callback(part.close)
        return part

    def logs(self, lines: int = 200) -> list[tuple[str, str]]:
        """Name and last lines of every part."""
        return [(part.log.name, part.log.tail(lines)) for part in self.parts]

    def work_dir(self, name: str) -> pathlib.Path:
        work = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.dir))
        work.chmod(0o755)
        return work

    def test_program(self, kind: type[Process], name: str, *args: str) -> Any:
        """Started, with the members of its start line as attributes."""
        program = self.start(kind, name, [BUILD / name, *args], self.work_dir(name))
        program.__dict__.update(program.start_line())
        return program

    def device(self, *args: str) -> Any:
        """The Modbus TCP device; has port."""
        return self.test_program(Process, "device", *args)

    def gateway(self, *args: str, device: Any = None, name: str = DEVICE) -> Gateway:
        """The test gateway, which knows the device by that name."""
        if device:
            args = ("--device", f"{name}=127.0.0.1:{device.port}", *args)
        return self.test_program(Gateway, "gateway", *args)

    def broker(self, gateway: Gateway | list[str], *extra: str, port: int = 0,
               data: pathlib.Path | None = None) -> Broker:
        """mosquitto. It accepts tokens by the gateway for anyone, or by "<sub or *> <key>" of a list; extra
        are lines of its configuration. With data it keeps its sessions there, over restarts; port 0 is any
        free one."""
        work = data or self.work_dir("broker")
        cert, private = self.certificate.save(work, "server")
        keys = gateway if isinstance(gateway, list) else [f"* {gateway.public_key}"]
        (work / "keys").write_text("".join(f"{line}\n" for line in keys))
        for _ in range(20):
            at = port or free_port()
            (work / "mosquitto.conf").write_text("\n".join([
                f"listener {at} 127.0.0.1", f"certfile {cert}", f"keyfile {private}", "allow_anonymous false",
                f"plugin {BUILD / 'broker_auth.so'}", f"plugin_opt_public_key_file {work / 'keys'}",
                f"persistence {'true' if data else 'false'}", f"persistence_location {work}/",
                "autosave_interval 1", "autosave_on_changes true", "set_tcp_nodelay true", "log_dest stderr",
                "log_type all", "connection_messages true",
                # As root it would become another user, and lose the death signal and its files.
                *(["user root"] if os.geteuid() == 0 else []), *extra, ""]))
            broker = self.start(Broker, "broker", ["mosquitto", "-c", work / "mosquitto.conf"], work)
            broker.port, broker.data = at, data
            try:
                broker.wait_log(r"mosquitto version \S+ running")
                return broker
            except LabError:
                if not broker.log.find("Address already in use"):
                    raise
                broker.wait()  # it has ended, which is no error here
        raise LabError("broker: found no free port")

    def operator(self, broker: Any, gateway: Gateway, prefix: str = "iamcat",
                 user: str = "operator", kept: bool = False) -> Operator:
        """Someone who is connected and subscribed, with a token by the gateway."""
        operator = Operator(self.ca.cert, user, gateway.token(user), prefix, kept)
        self.callback(operator.close)
        operator.connect(broker.port)
        # The log may come later than the packet: then wait_subscribed would see this one as iamcat's.
        broker.log.wait(f"Sending SUBACK to {operator.client_id}")
        return operator

    def env(self, broker: Any, api: Any, **more: str) -> dict[str, str]:
        """iamcat's environment for a broker and an API: anything with a port."""
        return {"MQTT_BROKER_HOST": "localhost", "MQTT_BROKER_PORT": str(broker.port),
                "WEB_CONTAINER_HOST": "localhost", "WEB_CONTAINER_PORT": str(api.port),
                "MQTT_ROOT_CA_FILE": str(self.ca_file), "LOG_LEVEL": "debug", **more}

    def iamcat(self, env: dict[str, str], *args: str, files: dict[str, str] | None = None,
               etc: dict[str, str] | None = None, binary: pathlib.Path = IAMCAT,
               within: Iterable[str] = ()) -> Process:
        """iamcat in a working directory of its own, with files there. etc are all files of /etc, as this
        process alone sees it (needs root); they lie in the directory cat.etc, to be changed. within is a
        command line prefix that ends by executing the rest."""
        work = self.work_dir("iamcat")
        for name, text in (files or {}).items():
            (work / name).write_text(text)
        within = [*within]
        if etc is not None:
            view = self.work_dir("etc")
            for name, text in etc.items():
                (view / name).write_text(text)
            within += mounted("/etc", f'--bind "{view}"')
        env = {**PASSED, **env}
        cat = self.start(Process, "iamcat", [binary, *args], work, env, within)
        cat.work, cat.etc = work, None if etc is None else view
        return cat

    def bridge(self, *gateway_args: str, **env: str) -> types.SimpleNamespace:
        """Everything, connected and serving: device, gateway, broker, operator, cat."""
        device = self.device()
        gateway = self.gateway(*gateway_args, device=device)
        broker = self.broker(gateway)
        operator = self.operator(broker, gateway)
        parts = types.SimpleNamespace(device=device, gateway=gateway, broker=broker, operator=operator)
        mark = broker.log.mark()
        parts.cat = self.iamcat(self.env(broker, gateway, **env))
        broker.wait_subscribed(parts.cat, since=mark)
        return parts
