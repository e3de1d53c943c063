"""The service: `make test-systemd`, as root. It is installed into a small Debian, whose systemd is booted in a container."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from lab import IAMCAT, ROOT, TIMEOUT, Lab, LabError, Process, calm, free_port
from test_status import NOBODY, raw

READ = {"function_code": 3, "device_id": "A2332407312", "address": 10056}
UNIT = "usr/lib/systemd/system/iamcat.service"


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                          env={**{k: v for k, v in os.environ.items() if not k.startswith("MAKE")}})
    if done.returncode != 0:
        raise LabError(f"{command} failed: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def install(to: pathlib.Path) -> None:
    run("make", "-s", "-C", ROOT, "install", f"DESTDIR={to}", "PREFIX=/usr", f"BINARY={IAMCAT.relative_to(ROOT)}")


def test_exposure(tmp_path: pathlib.Path):
    install(tmp_path)
    said = run("systemd-analyze", "security", "--offline=true", f"--root={tmp_path}", "--threshold=15", "iamcat.service")
    assert float(re.search(r"exposure level for iamcat.service: ([0-9.]+)", said)[1]) <= 1.5


def test_install_and_uninstall(tmp_path: pathlib.Path):
    install(tmp_path)
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert {"usr/bin/iamcat", UNIT, "usr/share/doc/iamcat/mqtt.env.example"} < {*files}
    assert "ExecStart=/usr/bin/iamcat -c" in (tmp_path / UNIT).read_text()
    assert run(tmp_path / "usr/bin/iamcat", "--version").startswith("iamcat ")
    run("make", "-s", "-C", ROOT, "uninstall", f"DESTDIR={tmp_path}", "PREFIX=/usr")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


class Machine:
    """A Debian whose systemd runs in a container, with our network."""

    def __init__(self, lab: Lab, files: dict[str, str]) -> None:
        self.lab, base = lab, ROOT / "build" / "debian"
        if not (base / "etc" / "debian_version").exists() or not (base / "usr/bin/systemctl").exists():
            run("rm", "-rf", base)
            run("debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv", "bookworm", base)
        root = lab.work_dir("machine") / "root"
        run("cp", "-a", "--reflink=auto", base, root)
        install(root)
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (root / "etc/iamcat/mqtt.env").chmod(0o600)
        run("systemctl", f"--root={root}", "enable", "iamcat.service")
        self.nspawn = lab.start(Process, "machine", [
            "systemd-nspawn", "-q", "--register=no", "--keep-unit", "--console=pipe", "-D", root, "-b",
            "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
            "systemd.journald.forward_to_console=1"], root.parent)
        lab.callback(self.end)
        self.leader = 0
        self.until(self.booted, "the machine has booted")

    def end(self) -> None:
        """Its first process is not one of ours: it does not end with nspawn being killed."""
        if self.leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.leader, signal.SIGKILL)
        self.nspawn.expected = True

    def until(self, true, what: str, timeout: float = 2 * TIMEOUT) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            if time.monotonic() > deadline or not self.nspawn.running:
                raise LabError(f"not within {timeout:g} s: {what}\n{self.nspawn.out.tail(60)}\n{self.nspawn.log.tail()}")
            time.sleep(0.1)

    def booted(self) -> bool:
        children = pathlib.Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
        self.leader = int(children[0]) if children else 0
        return bool(self.leader) and subprocess.run(
            ["nsenter", "-a", "-t", str(self.leader), "systemctl", "show", "-p", "Version"],
            capture_output=True).returncode == 0

    def run(self, *command: str) -> str:
        return run("nsenter", "-a", "-t", self.leader, *command)

    def show(self, name: str) -> str:
        return self.run("systemctl", "show", "--value", "-p", name, "iamcat")


def test_the_service(lab: Lab):
    gateway = lab.gateway(device=lab.device())
    port = free_port()
    env = {**lab.env(gateway, gateway), "MQTT_BROKER_PORT": str(port), "MQTT_ROOT_CA_FILE": "/etc/iamcat/ca.pem"}
    machine = Machine(lab, {
        "etc/iamcat/mqtt.env": "".join(f"{name}={value}\n" for name, value in env.items()),
        "etc/iamcat/ca.pem": lab.ca.cert,
        # The watchdog and the restart sooner than in practice.
        "etc/systemd/system/iamcat.service.d/test.conf": "[Service]\nWatchdogSec=2\nRestartSec=1\n"})
    machine.until(lambda: machine.show("StatusText") == "waits before it tries again", "it has no broker")
    assert machine.show("ActiveState") == "activating"  # not ready before the broker has taken the subscription
    broker = lab.broker(gateway, port=port)
    broker.log.wait("Sending SUBACK to 0123")
    machine.until(lambda: machine.show("ActiveState") == "active", "it is active")
    operator = lab.operator(broker, gateway)
    assert operator.request(READ)["response"]["value"] == 42
    assert machine.show("StatusText") == "in service"
    asked = machine.run("iamcat", "-c", "/etc/iamcat/mqtt.env", "status")
    assert re.search(r"^health +in service$", asked, re.M), asked
    assert machine.run("iamcat", "-c", "/etc/iamcat/mqtt.env", "health") == "healthy: in service"
    status = machine.run("cat", f"/proc/{machine.show('MainPID')}/status")
    uid = int(re.search(r"^Uid:\s+(\d+)", status, re.M)[1])
    assert 61184 <= uid <= 65519, "a dynamic user"
    assert re.search(r"^CapBnd:\s+0+$", status, re.M)
    told = machine.run("journalctl", "-u", "iamcat", "-o", "cat")
    assert f"sandbox: user {uid}; files and ports; system calls" in told, told

    # Root is told how it is doing, and other users are not, who are all 65534 for the service (PrivateUsers=).
    assert machine.run("iamcat", "-c", "/etc/iamcat/mqtt.env", "health") == "healthy: in service"
    name, = re.findall(rf"@(iamcat/\d+/{uid})$", pathlib.Path("/proc/net/unix").read_text(), re.M)
    assert raw(f"\0{name}", []) != b"" == raw(f"\0{name}", NOBODY)

    # It stands still: the watchdog ends it, and it begins anew.
    mark = broker.log.mark()
    machine.run("sh", "-c", f"kill -STOP {machine.show('MainPID')}")
    broker.log.wait("Sending SUBACK to 0123", since=mark, timeout=2 * TIMEOUT)
    machine.until(lambda: machine.show("NRestarts") == "1", "it was started again")
    assert "Watchdog timeout" in machine.run("journalctl", "-u", "iamcat", "-o", "cat")
    # It works on: nothing but the standstill was the watchdog's.
    since = time.monotonic()
    operator.states.clear()
    while time.monotonic() < since + 5:
        operator.state()
    assert machine.show("NRestarts") == "1"

    # A socket in the directory that the unit makes for it, which goes with the service.
    machine.run("sh", "-c", "echo STATUS_SOCKET=/run/iamcat/status >>/etc/iamcat/mqtt.env")
    machine.run("systemctl", "restart", "iamcat")
    assert machine.run("iamcat", "-c", "/etc/iamcat/mqtt.env", "health") == "healthy: in service"
    assert machine.run("find", "/run/iamcat", "-type", "s") == "/run/iamcat/status"

    machine.run("systemctl", "stop", "iamcat")
    assert machine.run("find", "/run", "-name", "iamcat") == ""
    assert (machine.show("ExecMainStatus"), machine.show("Result")) == ("0", "success")
    assert "refused, which" not in machine.run("journalctl", "-u", "iamcat", "-o", "cat")
