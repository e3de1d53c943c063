"""The configuration through the real binary: what counts, in which form, and what is said of mistakes."""

import contextlib
import os
import pathlib
import re
import socket
import subprocess

import pytest

import fake
from fake import FakeApi, FakeBroker
from lab import IAMCAT, ROOT, SANITIZER, SERIAL, TIMEOUT, Lab, Process, authority

# Every variable and its default.
VARIABLES = {
    "MQTT_BROKER_HOST": None, "MQTT_BROKER_PORT": "8883", "WEB_CONTAINER_HOST": "localhost",
    "WEB_CONTAINER_PORT": "5000", "MQTT_ROOT_CA": None, "MQTT_ROOT_CA_FILE": None, "MQTT_TLS_SERVER_NAME": None, "MQTT_SESSION_WINDOW": "60", "MQTT_WILL": "on",
    "MQTT_USERNAME": None,
    "MQTT_PASSWORD": None, "MQTT_PASSWORD_FILE": None, "MQTT_CLIENT_ID": None, "MQTT_TOPIC_PREFIX": "iamcat",
    "MQTT_KEEPALIVE": "60", "MQTT_JWT_LIFETIME": "300", "MQTT_JWT_DATES": "auto", "STATE_INTERVAL": "5",
    "WEB_CONTAINER_TIMEOUT": "10", "WEB_CONTAINER_SPARES": "2", "MODBUS_WRITE_ALLOW": "all", "LOG_LEVEL": "info",
    "LOG_FORMAT": "auto", "SANDBOX": "on", "IAMCAT_USER": "65534",
    "STATUS_SOCKET": None, "METRICS_LISTEN": None, "HEALTH_GRACE": "120"}
PASSED = {name: os.environ[name] for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "SANDBOX") if name in os.environ}


def table(*rows: tuple):
    """pytest's parameters from rows that begin with the case's name."""
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


# ------------------------------------------------------------------------------------ what iamcat makes of it


@pytest.fixture(scope="module")
def shared(shared_lab: Lab):
    """One broker and one API for all tests here: they see what is configured."""
    shared_lab.api = shared_lab.add(FakeApi())
    shared_lab.peer = shared_lab.add(FakeBroker(shared_lab.certificate))
    shared_lab.where = {"MQTT_BROKER_HOST": "localhost", "MQTT_BROKER_PORT": str(shared_lab.peer.port),
                        "WEB_CONTAINER_PORT": str(shared_lab.api.port)}
    return shared_lab


@pytest.fixture
def lab(shared: Lab):
    """The same, without what earlier tests have left."""
    del shared.parts[2:]
    shared.peer.received.clear()
    yield shared
    assert not shared.api.errors and not shared.peer.errors


@contextlib.contextmanager
def running(lab: Lab, env: dict[str, str], *args: str, files: dict[str, str] | None = None):
    """iamcat, connected; its CONNECT packet is cat.hello. It is told where the broker and the API are."""
    if not {"MQTT_ROOT_CA", "MQTT_ROOT_CA_FILE"} & {*env}:
        env = {"MQTT_ROOT_CA_FILE": str(lab.ca_file), **env}
    cat = lab.iamcat({**lab.where, **env}, *args, files=files)
    with contextlib.closing(cat):
        cat.hello = lab.peer.take(fake.CONNECT)
        yield cat


@pytest.mark.parametrize("text, password", table(
    ("plain, without a line end", "MQTT_PASSWORD=pass", b"pass"),
    ("export", "export MQTT_PASSWORD=pass\n", b"pass"),
    ("export and a tab", "\texport\tMQTT_PASSWORD=pass\n", b"pass"),
    ("blanks around", "  MQTT_PASSWORD =  pa ss \t\n", b"pa ss"),
    ("Windows line ends", "# first\r\nMQTT_PASSWORD=pass\r\nLOG_LEVEL=debug\r\n", b"pass"),
    ("Windows line ends, quotes", "\r\nMQTT_PASSWORD=\"pass\"\r\nLOG_LEVEL='debug'\r\n", b"pass"),
    ("byte order mark", "\ufeffMQTT_PASSWORD=pass\n", b"pass"),
    ("comments", "# MQTT_PASSWORD=no\n  # it's\n\nMQTT_PASSWORD=pass # not this\n#", b"pass"),
    ("no comment", "MQTT_PASSWORD=pa#ss\n", b"pa#ss"),
    ("# in quotes", 'MQTT_PASSWORD="pa # ss" # not this\n', b"pa # ss"),
    ("= in it", "MQTT_PASSWORD==a=b==\n", b"=a=b=="),
    ("double quotes", r'MQTT_PASSWORD="\n\"b\" \\n \t"', b'\n"b" \\n \\t'),
    ("single quotes", r"""MQTT_PASSWORD='a\n"b"\'""", rb'a\n"b"' + b"\\"),
    ("no quotes, nothing expanded", r"MQTT_PASSWORD=a\n$HOME`id`", rb"a\n$HOME`id`"),
    ("a quote in the middle", "MQTT_PASSWORD=it's\n", b"it's"),
    ("blanks in quotes", "MQTT_PASSWORD=' pass '\n", b" pass "),
    ("several lines", 'MQTT_PASSWORD="a\nMQTT_PASSWORD=no\n# b"\nLOG_LEVEL=debug',
     b"a\nMQTT_PASSWORD=no\n# b"),
    ("set twice", "MQTT_PASSWORD=no\nMQTT_PASSWORD=pass\n", b"pass"),
))
def test_file_line(text: str, password: bytes, lab: Lab):
    with running(lab, {"MQTT_USERNAME": "someone"}, files={"mqtt.env": text}) as cat:
        assert (cat.hello.user, cat.hello.password) == ("someone", password)


@pytest.mark.parametrize("env, file, other, client_id", table(
    ("nothing set: the serial number", None, None, None, SERIAL),
    ("mqtt.env in the working directory", None, "file", None, "file"),
    ("environment over mqtt.env", "env", "file", None, "env"),
    ("empty in the environment is not set", "", "file", None, "file"),
    ("empty in mqtt.env is not set", None, "", None, SERIAL),
    ("-c FILE instead of mqtt.env", None, "file", "other", "other"),
    ("-c FILE alone", None, "file", "", SERIAL),
    ("environment over -c FILE", "env", None, "other", "env"),
))
def test_precedence(env, file, other, client_id: str, lab: Lab):
    files = {name: f"MQTT_CLIENT_ID={value}\n" for name, value in (("mqtt.env", file), ("other", other))
             if value is not None}
    args = ["-c", "other"] if other is not None else []
    with running(lab, {} if env is None else {"MQTT_CLIENT_ID": env}, *args, files=files) as cat:
        assert cat.hello.client_id == client_id


def test_defaults(lab: Lab):
    with running(lab, {}) as cat:
        claims = fake.token_claims(cat.hello.password)
        assert (cat.hello.client_id, cat.hello.user, cat.hello.keep_alive) == (SERIAL, SERIAL, 60)
        assert claims["sub"] == SERIAL and claims["exp"] - claims["iat"] == 300
        assert lab.peer.take(fake.SUBSCRIBE).topics == [("iamcat/modbus/request", 1)]
        assert lab.peer.take(fake.PUBLISH).topic == "iamcat/state"
        cat.wait_log("in service")
        assert not cat.log.find(" (debug|warn|error) (?! *SANDBOX=off)")


def test_every_value_counts(lab: Lab):
    text = ("MQTT_KEEPALIVE=7\nMQTT_CLIENT_ID=me\nMQTT_TOPIC_PREFIX=fleet/{serial}/x\nMQTT_JWT_LIFETIME=77\n"
            "MQTT_JWT_DATES=iso8601\nSTATE_INTERVAL=1\nLOG_LEVEL=debug\nWEB_CONTAINER_HOST=127.0.0.1\n")
    with running(lab, {}, files={"mqtt.env": text}) as cat:
        claims = fake.token_claims(cat.hello.password)
        assert (cat.hello.client_id, cat.hello.user, cat.hello.keep_alive) == ("me", SERIAL, 7)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", claims["exp"])
        assert lab.peer.take(fake.SUBSCRIBE).topics == [(f"fleet/{SERIAL}/x/modbus/request", 1)]
        states = [lab.peer.take(fake.PUBLISH) for _ in range(5)]
        assert {state.topic for state in states} == {f"fleet/{SERIAL}/x/state"}
        assert 2 < states[4].at - states[0].at < 10, "4 s, and not 20"
        assert lab.api.take("/api/state", lambda r: r.headers["host"] == f"127.0.0.1:{lab.api.port}")


def test_port_8883_is_the_default(lab: Lab):
    env = {name: value for name, value in lab.where.items() if name != "MQTT_BROKER_PORT"}
    with contextlib.closing(lab.iamcat(env)) as cat:
        cat.wait_log("connecting to localhost:8883")


def test_the_example_is_accepted_as_it_is(lab: Lab):
    example = ROOT / "mqtt.env.example"
    assert not [name for name in VARIABLES if not re.search(rf"^#?{name}=", example.read_text(), re.M)]
    with running(lab, {}, "-c", str(example)) as cat:
        assert cat.hello.keep_alive == 60 and not cat.log.find(" warn (?! *SANDBOX=off)")


def test_an_unknown_variable_gets_a_warning_with_the_nearest_name(lab: Lab):
    wrong = {"MQTT_PASWORD": "MQTT_PASSWORD", "BROKER_HOST": "MQTT_BROKER_HOST", "LOGLEVEL": "LOG_LEVEL",
             "mqtt_keepalive": "MQTT_KEEPALIVE", "WEB_CONTAINER_PROT": "WEB_CONTAINER_PORT",
             "MQTT_ROOT_CAFILE": "MQTT_ROOT_CA_FILE", "STATE_INTERVALL": "STATE_INTERVAL", "X" * 100: ""}
    text = "\n" + "".join(f"{name}=hunter2\n" for name in wrong)
    with running(lab, {"HOME": "/", "MQTT_VERSION": "5"}, files={"mqtt.env": text}) as cat:
        warnings = [m.string for m in cat.log.find(" warn (?! *SANDBOX=off)")]
        for (name, nearest), line in zip(wrong.items(), warnings, strict=True):
            assert f" warn  {name[:64]}" in line and f" is {nearest}" in line
            assert f"(mqtt.env line {2 + [*wrong].index(name)}) is no variable of iamcat" in line
        assert not cat.log.find("hunter2")


def test_a_misspelled_variable_of_the_environment(lab: Lab):
    """As docker's env_file sets them; what others have in there is left alone."""
    wrong = {"MQTT_KEEPALIV": "MQTT_KEEPALIVE", "WEB_CONTANER_PROT": None, "LOG_LEVLE": "LOG_LEVEL",
             "mqtt_client_id": "MQTT_CLIENT_ID", "WEB_CONTAINERPORT": "WEB_CONTAINER_PORT", "STATE_INTERVALL": "STATE_INTERVAL"}
    others = {"MQTT_VERSION": "5", "MQTT_PORT": "1883", "LOG": "x", "WEB_PORT": "80", "X" * 5000: "y"}
    with running(lab, {**others, **{name: "hunter2" for name in wrong}}) as cat:
        warnings = [m.string.split(" warn  ")[1] for m in cat.log.find(" warn (?! *SANDBOX=off)")]
    assert sorted(warnings) == sorted(
        f"{name} (environment) is no variable of iamcat and has no effect; the nearest one is {nearest}"
        for name, nearest in wrong.items() if nearest)


# ----------------------------------------------------------------------------------------------- certificates


def literal(pem: str) -> str:
    return pem.replace("\n", "\\n")


def crlf(pem: str) -> str:
    return pem.replace("\n", "\r\n")


def several(pem: str) -> str:
    return authority("ec384").cert + pem + authority("rsa").cert


def quoted(pem: str, quote: str = '"') -> str:
    return f"{quote}{pem}{quote}"


@pytest.mark.parametrize("form", table(
    ("real line breaks", str),
    ("without the last line break", str.strip),
    ("literal line breaks", literal),
    ("literal CRLF", lambda pem: pem.replace("\n", "\\r\\n")),
    ("CRLF", crlf),
    ("CR", lambda pem: pem.replace("\n", "\r")),
    ("quotes left by docker", quoted),
    ("single quotes left by docker", lambda pem: quoted(pem, "'")),
    ("literal line breaks in quotes", lambda pem: quoted(literal(pem))),
    ("indented", lambda pem: pem.replace("\n", "\n    ")),
    ("several, the right one among them", several),
    ("several with CRLF", lambda pem: crlf(several(pem))),
    ("several on one line", lambda pem: literal(several(pem))),
    ("text around", lambda pem: f"subject=CN\n{pem}\nissuer=CN\n"),
))
def test_certificate_in_the_environment(form, lab: Lab):
    with running(lab, {"MQTT_ROOT_CA": form(lab.ca.cert)}) as cat:
        cat.wait_log("in service")


@pytest.mark.parametrize("form", table(
    ("several lines in double quotes", quoted),
    ("several lines in single quotes", lambda pem: quoted(pem, "'")),
    ("literal line breaks", literal),
    ("literal line breaks in double quotes", lambda pem: quoted(literal(pem))),
    ("literal line breaks in single quotes", lambda pem: quoted(literal(pem), "'")),
    ("Windows line ends", lambda pem: crlf(quoted(pem) + "\nLOG_LEVEL=debug\n")),
    ("several", lambda pem: quoted(several(pem)) + " # and a comment"),
))
def test_certificate_in_mqtt_env(form, lab: Lab):
    text = f"MQTT_KEEPALIVE=8\nexport MQTT_ROOT_CA={form(lab.ca.cert)}\nMQTT_CLIENT_ID=behind\n"
    # An empty variable is not set: the file's counts.
    with running(lab, {"MQTT_ROOT_CA": ""}, files={"mqtt.env": text}) as cat:
        assert (cat.hello.client_id, cat.hello.keep_alive) == ("behind", 8)
        cat.wait_log("in service")


@pytest.mark.parametrize("form", table(
    ("as it is", str), ("CRLF", crlf), ("byte order mark", lambda pem: "\ufeff" + pem), ("literal", literal),
    ("several", several), ("text around", lambda pem: f"Certificate:\n    Data: 1\n{pem}\n# the end\n"),
))
def test_certificate_file(form, lab: Lab):
    with running(lab, {"MQTT_ROOT_CA_FILE": "my ca.pem"}, files={"my ca.pem": form(lab.ca.cert)}) as cat:
        cat.wait_log("in service")


@pytest.mark.parametrize("roots", table(
    ("other ones", {"MQTT_ROOT_CA": "given"}), ("the embedded ones", {}), ("none set", {"MQTT_ROOT_CA": ""})))
def test_other_certificates_do_not_connect(roots: dict[str, str], lab: Lab):
    roots = {name: value and several("") for name, value in roots.items()}
    with contextlib.closing(lab.iamcat({**lab.where, **roots})) as cat:
        cat.wait_log(r"localhost:\d+: .*(no trusted root|a signature is wrong).*trying again in")
        assert not lab.peer.received.items


@pytest.mark.parametrize("text, password", table(
    ("line break", "hunter2\n", b"hunter2"), ("no line break", "hunter2", b"hunter2"),
    ("Windows line break", "hunter2\r\n", b"hunter2"), (
        "one line break only", "hunter2\nb\n\n", b"hunter2\nb\n"),
    ("everything else is the password", " \"a\" # ' \n", b" \"a\" # ' "), (
        "largest", "x" * 4095, b"x" * 4095),
))
def test_password_file(text: str, password: bytes, lab: Lab):
    with running(lab, {"MQTT_USERNAME": "me", "LOG_LEVEL": "debug"}, files={
            "secret": text, "mqtt.env": "MQTT_PASSWORD_FILE=secret\n"}) as cat:
        assert (cat.hello.user, cat.hello.password) == ("me", password)
        cat.wait_log("in service")
        assert not cat.log.find(re.escape(password.decode().split("\n")[0]))


def test_no_log_level_shows_a_token(lab: Lab):
    with running(lab, {"LOG_LEVEL": "debug", "STATE_INTERVAL": "1"}) as cat:
        lab.peer.take(fake.PUBLISH)
        assert cat.stop() == 0
        for part in cat.hello.password.decode().split("."):
            assert part not in "\n".join(cat.log.lines)


# ----------------------------------------------------------------------------------------------- the mistakes


def call(*args: str, within=(), **options) -> subprocess.CompletedProcess:
    """Runs iamcat, which is to end by itself."""
    options = {"capture_output": True, "text": True, "timeout": TIMEOUT, **options}
    done = subprocess.run([*within, IAMCAT, *args], **options)
    assert not re.search(SANITIZER, done.stderr), done.stderr
    return done


@pytest.fixture
def listener():
    """What every mistake below names as broker and API: nobody may come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.fixture
def refused(binaries: None, tmp_path: pathlib.Path, listener: socket.socket):
    """A function: runs iamcat with a wrong configuration, and returns the mistakes that it names."""

    def run(text: str | bytes = "", env: dict[str, str] | None = None, *args: str, within=()) -> list[str]:
        port = str(listener.getsockname()[1])
        (tmp_path / "mqtt.env").write_bytes(text if isinstance(text, bytes) else text.encode())
        where = {"MQTT_BROKER_HOST": "127.0.0.1", "MQTT_BROKER_PORT": port, "WEB_CONTAINER_PORT": port}
        missing = [name for name in where if name not in str(text) and name not in (env or {})]
        done = call(*args, cwd=tmp_path, within=within, env={
            **PASSED, **{name: where[name] for name in missing}, **(env or {})})
        lines = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z (error|warn ) ", l) for l in lines), lines
        found = [line[34:] for line in lines if line[28:33] == "error"]
        run.warnings = [line[34:] for line in lines if line[28:33] == "warn "]
        assert found.pop() == "nothing was started; iamcat --help lists what can be set"
        return found

    run.dir = tmp_path
    return run


HOST = "MQTT_BROKER_HOST (mqtt.env line 1)"


# What a tired person writes, and what the one line about it has in it: what, where, what is accepted.
@pytest.mark.parametrize("text, parts", table(
    ("a URL", "MQTT_BROKER_HOST=mqtts://b.test:8883", (
        HOST, 'is "mqtts://b.test:8883"', "without mqtts://", "the port goes into MQTT_BROKER_PORT")),
    ("a port in the host", "MQTT_BROKER_HOST=b.test:8883", (
        HOST, 'is "b.test:8883"', "only the host name or IP address", "the port goes into MQTT_BROKER_PORT")),
    ("a port behind IPv6", "MQTT_BROKER_HOST=[::1]:8883", (HOST, '"[::1]:8883"', "MQTT_BROKER_PORT")),
    ("a URL for the API", "WEB_CONTAINER_HOST=http://localhost:5000/api", (
        'WEB_CONTAINER_HOST (mqtt.env line 1) is "http://localhost:5000/api"', "mqtts:// and path",
        "the port goes into WEB_CONTAINER_PORT")),
    ("no host", "MQTT_BROKER_HOST=", (
        "MQTT_BROKER_HOST is not set in the environment or mqtt.env", "the broker's name or IP address")),
    ("no such address", "MQTT_BROKER_HOST=192.168.1.256", (HOST, '"192.168.1.256"', "name or an IP address")),
    ("a blank in the host", "MQTT_BROKER_HOST=b test", (HOST, 'is "b test"', "a host name or an IP address")),
    ("a shell's variable", "MQTT_BROKER_HOST=${HOST}", (
        HOST, 'is "${HOST}"', "a host name or an IP address")),
    ("two hosts", "MQTT_BROKER_HOST=a.test,b.test", (HOST, 'is "a.test,b.test"')),
    ("old Mac line ends", "MQTT_BROKER_HOST=b.test\rLOG_LEVEL=info\r", (
        HOST, r'is "b.test\x0dLOG_LEVEL=info"')),
    ("a word for the port", "MQTT_BROKER_PORT=tls", (
        'MQTT_BROKER_PORT (mqtt.env line 1) is "tls"', "a whole number, 1 to 65535")),
    ("port 0", "MQTT_BROKER_PORT=0", ('is "0"', "1 to 65535")),
    ("a large port", "WEB_CONTAINER_PORT=65536", ("WEB_CONTAINER_PORT", 'is "65536"', "1 to 65535")),
    ("a huge port", f"MQTT_BROKER_PORT={2**64 + 8883}", (f'is "{2**64 + 8883}"', "1 to 65535")),
    ("a negative port", "MQTT_BROKER_PORT=-1", ('is "-1"', "1 to 65535")),
    ("a unit", "STATE_INTERVAL=5s", (
        'STATE_INTERVAL (mqtt.env line 1) is "5s"', "a whole number, 1 to 3600")),
    ("a fraction", "WEB_CONTAINER_TIMEOUT=0.5", ('is "0.5"', "a whole number, 1 to 300")),
    ("too often", "STATE_INTERVAL=0", ('is "0"', "1 to 3600")),
    ("keep-alive off", "MQTT_KEEPALIVE=0", ('is "0"', "5 to 65535")),
    ("a long keep-alive", "MQTT_KEEPALIVE=65536", ('is "65536"', "5 to 65535")),
    ("a short token", "MQTT_JWT_LIFETIME=5", ('MQTT_JWT_LIFETIME', 'is "5"', "20 to 86400")),
    ("a reversed range", "MODBUS_WRITE_ALLOW=1,299-200", (
        'MODBUS_WRITE_ALLOW (mqtt.env line 1) is "1,299-200"', "the lower register first, as in 200-299")),
    ("a comma at the end", "MODBUS_WRITE_ALLOW=100,", ('is "100,"', "all, none, or a list", "100,200-299")),
    ("no commas", "MODBUS_WRITE_ALLOW=100 200", ('is "100 200"', "all, none, or a list", "0 to 65535")),
    ("a large register", "MODBUS_WRITE_ALLOW=65536", ('is "65536"', "0 to 65535")),
    ("a capital", "MODBUS_WRITE_ALLOW=None", ('is "None"', "all, none, or a list")),
    ("capitals", "LOG_LEVEL=INFO", ('LOG_LEVEL (mqtt.env line 1) is "INFO"', "error, warn, info or debug")),
    ("another word", "LOG_LEVEL=warning", ('is "warning"', "error, warn, info or debug")),
    ("a port alone", "METRICS_LISTEN=9464", (
        'METRICS_LISTEN (mqtt.env line 1) is "9464"', "an address of this machine and a port", "127.0.0.1:9464")),
    ("a long socket", f"STATUS_SOCKET=/{'x' * 107}", ("STATUS_SOCKET", "is too long", "1 to 107")),
    ("a huge grace", "HEALTH_GRACE=86401", ('HEALTH_GRACE', "0 to 86400")),
    ("other dates", "MQTT_JWT_DATES=iso", ('MQTT_JWT_DATES', 'is "iso"', "auto, numeric or iso8601")),
    ("a slash at the end", "MQTT_TOPIC_PREFIX=iamcat/", ('is "iamcat/"', "no / at the beginning or end")),
    ("a wildcard", "MQTT_TOPIC_PREFIX=iamcat/#", ('is "iamcat/#"', "no + or #")),
    ("other braces", "MQTT_TOPIC_PREFIX=iamcat/{id}", ('is "iamcat/{id}"', "{serial}")),
    ("a long text", f"MQTT_CLIENT_ID={'x' * 129}", ('MQTT_CLIENT_ID', f'is "{"x" * 64}...', "1 to 128")),
    ("a user name alone", "MQTT_USERNAME=me", (
        'MQTT_USERNAME', 'is "me"', "MQTT_PASSWORD", "expected both, or neither")),
    ("a password alone", "MQTT_PASSWORD=me", ("MQTT_PASSWORD (mqtt.env line 1)", "MQTT_USERNAME is not set")),
    ("two passwords", "MQTT_USERNAME=me\nMQTT_PASSWORD=x\nMQTT_PASSWORD_FILE=mqtt.env", (
        "MQTT_PASSWORD (mqtt.env line 2)", "MQTT_PASSWORD_FILE (mqtt.env line 3) is set, too", "only one")),
    ("no password file", "MQTT_USERNAME=me\nMQTT_PASSWORD_FILE=gone", (
        'MQTT_PASSWORD_FILE (mqtt.env line 2) is "gone"', "no such file")),
    ("a directory for a password", "MQTT_USERNAME=me\nMQTT_PASSWORD_FILE=.", ('is "."', "it is a directory")),
    ("an empty password file", "MQTT_USERNAME=me\nMQTT_PASSWORD_FILE=/dev/null", (
        '"/dev/null"', "1 to 4095 bytes")),
    ("a path for a certificate", "MQTT_ROOT_CA=/etc/ca.pem", (
        "MQTT_ROOT_CA (mqtt.env line 1)", "no certificate", "a path goes into MQTT_ROOT_CA_FILE")),
    ("a directory for a certificate", "MQTT_ROOT_CA_FILE=.", (
        'MQTT_ROOT_CA_FILE', 'is "."', "it is a directory")),
    ("no certificate file", "MQTT_ROOT_CA_FILE=~/ca.pem", ('is "~/ca.pem"', "no such file", "PEM text")),
    ("a part that is no directory", "MQTT_ROOT_CA_FILE=mqtt.env/ca", (
        '"mqtt.env/ca"', "no directory", "PEM text")),
    ("another file", "MQTT_ROOT_CA_FILE=mqtt.env", (
        'is "mqtt.env"', "no certificate in it", "BEGIN CERTIFICATE")),
    ("a file without an end", "MQTT_ROOT_CA_FILE=/dev/zero", ('is "/dev/zero"', "too large")),
    ("both certificates", "MQTT_ROOT_CA_FILE=x\nMQTT_ROOT_CA=y", (
        "MQTT_ROOT_CA (mqtt.env line 2)", "MQTT_ROOT_CA_FILE (mqtt.env line 1) is set, too")),
    ("certificate without quotes", "MQTT_ROOT_CA=-----BEGIN CERTIFICATE-----\nMII=\n-----END", (
        "MQTT_ROOT_CA (mqtt.env line 1)", "expected quotes around a text of several lines")),
    ("certificate cut off", 'MQTT_ROOT_CA="-----BEGIN CERTIFICATE-----\nMIIB\n"', (
        "MQTT_ROOT_CA (mqtt.env line 1)", "certificate 1", "END CERTIFICATE")),
    ("a quote is not closed", "MQTT_BROKER_HOST='b.test\n", (
        HOST, "the quote that begins here is not closed")),
    ("a quote too many", 'MQTT_BROKER_HOST="b.test""\n', (HOST, "nothing behind the closing quote")),
    ("typographic quotes", "MQTT_BROKER_HOST=\u201cb.test\u201d", (
        HOST, "b.test", "a host name or an IP address")),
    ("YAML", "MQTT_BROKER_HOST: b.test", (HOST, "expected NAME=value")),
    ("a section", "[broker]\nMQTT_BROKER_HOST=b.test", ("mqtt.env line 1", "expected NAME=value")),
    ("Windows's UTF-16", "MQTT_BROKER_HOST=b.test\r\n".encode("utf-16"), (
        "mqtt.env has a NUL byte", "UTF-8")),
))
def test_mistake(text: str | bytes, parts: tuple[str, ...], refused):
    found = refused(text)
    assert len(found) == 1, found
    assert not [part for part in parts if part not in found[0]], found[0]


@pytest.mark.parametrize("env, parts", table(
    ("value", {"MQTT_BROKER_PORT": "eight"}, ('MQTT_BROKER_PORT (environment) is "eight"', "1 to 65535")),
    ("over the file", {"LOG_LEVEL": "loud"}, (
        'LOG_LEVEL (environment) is "loud"', "error, warn, info or debug")),
    ("bytes that are no text", {"MQTT_CLIENT_ID": "a\x1b[1m\udcff"}, (
        r'MQTT_CLIENT_ID (environment) is "a\x1b[1m\xff"', "UTF-8 text without control characters")),
))
def test_mistake_in_the_environment(env: dict[str, str], parts: tuple[str, ...], refused):
    found = refused("LOG_LEVEL=silent\n" if "LOG_LEVEL" in env else "", env)
    assert len(found) == 1, found
    assert not [part for part in parts if part not in found[0]], found[0]


def test_quotes_that_docker_leaves(refused):
    """A mistake in what can't have them, and a warning in any case: a login with quotes would be refused by the
    broker, which does not say why."""
    quoted = {"MQTT_BROKER_HOST": '"b.test"', "MQTT_KEEPALIVE": "'60'", "MQTT_USERNAME": "'me'", "MQTT_PASSWORD": '"hunter2"'}
    host, number = refused("", quoted)
    assert "MQTT_BROKER_HOST (environment)" in host and "b.test" in host and "a host name" in host
    assert "MQTT_KEEPALIVE (environment) is \"'60'\"" in number and "5 to 65535" in number
    assert sorted(refused.warnings) == sorted(
        f"{name} (environment): leave out the quotes around it, here they are part of it" for name in quoted)


def test_all_mistakes_at_once(refused):
    wrong = {"MQTT_BROKER_HOST": "a:1", "MQTT_BROKER_PORT": "x", "WEB_CONTAINER_HOST": "/",
             "WEB_CONTAINER_PORT": "0", "MQTT_ROOT_CA": "no", "MQTT_PASSWORD_FILE": "gone",
             "MQTT_CLIENT_ID": "\x7f", "MQTT_TOPIC_PREFIX": "+", "MQTT_KEEPALIVE": "1",
             "MQTT_JWT_LIFETIME": "1", "MQTT_JWT_DATES": "1", "STATE_INTERVAL": "0",
             "WEB_CONTAINER_TIMEOUT": "0", "MODBUS_WRITE_ALLOW": "x", "LOG_LEVEL": "x"}
    half = [*wrong][::2]
    text = "".join(f"{name}={wrong[name]}\n" for name in half) + "no line\nMQTT_USERNAME=me\n"
    found = refused(text, {name: value for name, value in wrong.items() if name not in half})
    assert sorted(line.split(" (")[0] for line in found) == sorted(["A line", *wrong])
    assert sum("(environment)" in line for line in found) == len(wrong) - len(half)


def test_mistakes_and_warnings_together(refused):
    assert len(refused("MQTT_BROKER_PROT=1\nLOG_LEVEL=error\nSTATE_INTERVAL=x\n")) == 1
    assert [line for line in refused.warnings if "MQTT_BROKER_PROT" in line]


@pytest.mark.parametrize("text, env", table(
    ("password alone", "MQTT_PASSWORD=hunter2", {}),
    ("password too long", "MQTT_USERNAME=me\nMQTT_PASSWORD=" + "hunter2" * 700, {}),
    ("password twice", "MQTT_PASSWORD=hunter2\nMQTT_PASSWORD_FILE=x", {}),
    ("quote not closed", 'MQTT_PASSWORD="hunter2\n', {}),
    ("text behind the quote", 'MQTT_PASSWORD="hunter2"hunter2\n', {}),
    ("a line of its own", "MQTT_PASSWORD=\nhunter2\nLOG_LEVEL=x", {}),
    ("a colon", "MQTT_PASSWORD: hunter2", {}),
    ("misspelled", "MQTT_PASWORD=hunter2\nLOG_LEVEL=x", {}),
    ("login in the host", "MQTT_BROKER_HOST=mqtts://me:hunter2@b.test", {}),
    ("login in the API's host", "WEB_CONTAINER_HOST=me:hunter2@localhost", {}),
    ("a key for a certificate", 'MQTT_ROOT_CA="-----BEGIN KEY-----\nhunter2\n-----END KEY-----"', {}),
    ("a key without quotes", "MQTT_ROOT_CA=-----BEGIN KEY-----\nhunter2\n-----END KEY-----",
     {}),
    ("a key for a path", 'MQTT_ROOT_CA_FILE="-----BEGIN KEY-----\nhunter2\n-----END KEY-----"', {}),
    ("a password file of no use", "MQTT_PASSWORD_FILE=mqtt.env\n#hunter2", {}),
    ("a password file as certificate", "MQTT_ROOT_CA_FILE=mqtt.env\n#hunter2", {}),
    ("environment", "LOG_LEVEL=x", {"MQTT_PASSWORD": "hunter2"}),
    ("no certificate", "MQTT_ROOT_CA=hunter2", {}),
    ("environment, a key", "", {"MQTT_ROOT_CA": "-----BEGIN EC PRIVATE KEY-----hunter2"}),
))
def test_a_mistake_shows_no_secret(text: str, env: dict[str, str], refused):
    assert not [line for line in refused(text, env) if "hunter2" in line]


def test_a_file_that_may_not_be_read(refused):
    for name in ("ca.pem", "secret", "other.env"):
        (refused.dir / name).touch(0)
    # root reads everything, unless it may not override permissions
    root = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    text = "MQTT_ROOT_CA_FILE=ca.pem\nMQTT_USERNAME=me\nMQTT_PASSWORD_FILE=secret\n"
    found = refused(text, {}, within=root)
    for name, line in zip(("ca.pem", "secret"), found, strict=True):
        assert f'is "{name}": cannot be read: permission denied' in line
    assert refused("", {}, "-c", "other.env", within=root) == [
        "other.env cannot be read: permission denied (to this user); expected NAME=value lines in UTF-8"]


@pytest.mark.parametrize("name, parts", table(
    ("missing", "gone.env", ("gone.env cannot be read: no such file", "NAME=value lines")),
    ("a directory", "/", ("/ cannot be read: it is a directory", "NAME=value lines")),
    ("bytes", "a\x1b[1m", (r"a\x1b[1m cannot be read",)),
))
def test_wrong_configuration_file(name: str, parts: tuple[str, ...], refused):
    found = refused("", {}, "-c", name)
    assert len(found) == 1 and not [part for part in parts if part not in found[0]], found


# ------------------------------------------------------------------------------------------- the command line


def test_help(binaries: None, tmp_path: pathlib.Path):
    (tmp_path / "mqtt.env").write_text("nonsense\n")
    done = call("--help", env=PASSED, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    for name, default in VARIABLES.items():
        row = re.search(rf"^  {name} +\S.*$", done.stdout, re.M)
        assert row, f"--help lacks {name}"
        assert default is None or f"(default {default})" in row[0]
    assert sorted(re.findall(r"^  ([A-Z_]{6,}) ", done.stdout, re.M)) == sorted(VARIABLES)
    for option in ("-c FILE", "--help", "--version"):
        assert option in done.stdout


def test_version_names_the_roots_and_their_expiry(binaries: None, tmp_path: pathlib.Path):
    done = call("--version", env=PASSED, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"iamcat \d+\.\d+\.\d+\n", done.stdout) and max(map(len, done.stdout.splitlines())) <= 80
    rows = re.findall(r"^  until (\S+): (DigiCert .*)$", done.stdout, re.M)
    assert [name for _, name in rows] == [
        "DigiCert Global Root CA", "DigiCert Global Root G2", "DigiCert Global Root G3",
        "DigiCert TLS RSA4096 Root G5", "DigiCert TLS ECC P384 Root G5"]
    for expiry, name in rows:
        file = f"/usr/share/ca-certificates/mozilla/{name.replace(' ', '_')}.crt"
        end = subprocess.run(["openssl", "x509", "-in", file, "-noout", "-enddate", "-dateopt", "iso_8601"],
                             capture_output=True, text=True, check=True)
        assert end.stdout.startswith(f"notAfter={expiry} "), name


@pytest.mark.parametrize("args, parts", table(
    ("unknown option", ["--verbose"], ("--verbose",)), ("unknown letter", ["-v"], ("-v",)),
    ("operand", ["broker.test"], ("broker.test",)), ("-c without a file", ["-c"], ("-c needs a file",)),
    ("-c with an empty name", ["-c", ""], ("-c needs a file",)),
    ("bytes", ["--\x1b[1m"], (r"--\x1b[1m",)), ("behind -c FILE", ["-c", "mqtt.env", "--x"], ("--x",)),
))
def test_wrong_arguments(args: list[str], parts: tuple[str, ...], binaries: None, tmp_path: pathlib.Path):
    done = call(*args, env=PASSED, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert not [part for part in (*parts, "usage: iamcat", "--help") if part not in done.stderr], done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_started_with_closed_descriptors(closed: str, lab: Lab):
    """A socket that got descriptor 2 would carry the log to its peer."""
    shut = " ".join(f"{fd}>&-" for fd in closed)
    env = {**PASSED, **lab.where, "MQTT_ROOT_CA_FILE": str(lab.ca_file), "LOG_LEVEL": "debug"}
    cat = lab.add(Process("iamcat", [IAMCAT], lab.work_dir("iamcat"), {**env, "STATE_INTERVAL": "1"},
                          within=["sh", "-c", f'exec "$@" {shut}', "sh"]))
    with contextlib.closing(cat):
        lab.peer.take(fake.PUBLISH)
        assert {os.readlink(f"/proc/{cat.pid}/fd/{fd}") for fd in closed} == {"/dev/null"}
        assert cat.stop() == 0
