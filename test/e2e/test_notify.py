"""What iamcat tells a service manager, over sd_notify(3)'s socket."""

import os
import random
import signal
import socket
import threading

import pytest

from lab import TIMEOUT, Lab, LabError, Log, free_port


class Manager:
    """Listens on NOTIFY_SOCKET; log has the lines that came."""

    def __init__(self, name: str) -> None:
        self.name, self.log = name, Log("notifications")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name.replace("@", "\0", 1))
        if name[0] == "/":
            os.chmod(name, 0o666)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self) -> None:
        while data := self.socket.recv(4096):
            for line in data.decode().splitlines():
                self.log.add(line)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.connect(self.name.replace("@", "\0", 1))
            end.send(b"")
        self.thread.join(TIMEOUT)
        self.socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, lab: Lab) -> Manager:
    name = lab.work_dir("manager") / "notify" if request.param == "path" else f"@iamcat-test-{random.getrandbits(64):x}"
    return lab.add(Manager(str(name)))


def test_ready_when_subscribed_and_stopping(lab: Lab, manager: Manager):
    gateway = lab.gateway()
    port = free_port()
    env = {**lab.env(gateway, gateway), "MQTT_BROKER_PORT": str(port), "NOTIFY_SOCKET": manager.name}
    cat = lab.iamcat(env)
    manager.log.wait("^STATUS=waits before it tries again$")  # there is no broker yet
    assert not manager.log.find("READY")
    broker = lab.broker(gateway, port=port)
    manager.log.wait("^READY=1$")
    broker.wait_subscribed(cat)
    manager.log.wait("^STATUS=in service$")
    mark = manager.log.mark()
    broker.stop()
    manager.log.wait("^STATUS=waits", since=mark)
    assert cat.stop() == 0
    manager.log.wait("^STOPPING=1$", since=mark)
    for once in ("READY=1", "STOPPING=1"):
        assert manager.log.lines.count(once) == 1
    status = [line for line in manager.log.lines if line.startswith("STATUS=")]
    assert all(a != b for a, b in zip(status, status[1:]))  # on a change, and then alone
    assert not manager.log.find("WATCHDOG")  # nobody asked for it


def test_watchdog(lab: Lab, manager: Manager):
    """Each half of the period, also while nothing else happens; and not when the loop stands still."""
    gateway = lab.gateway()
    broker = lab.broker(gateway)
    env = {**lab.env(broker, gateway), "NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "100000",
           "STATE_INTERVAL": "3600", "WEB_CONTAINER_SPARES": "0"}
    cat = lab.iamcat(env)
    manager.log.wait("^READY=1$")
    manager.log.wait("^WATCHDOG=1$", since=manager.log.mark(), times=20)
    cat.send_signal(signal.SIGSTOP)
    with pytest.raises(LabError):
        manager.log.wait("^WATCHDOG=1$", timeout=0.5, since=manager.log.mark(), times=3)
    cat.send_signal(signal.SIGCONT)
    manager.log.wait("^WATCHDOG=1$", since=manager.log.mark(), times=3)
    assert cat.stop() == 0


@pytest.mark.parametrize("name", ["/nowhere/at/all", "@", "relative", "@nobody-listens-here", "/" + "long" * 40])
def test_a_manager_that_is_not_there(lab: Lab, name: str):
    gateway = lab.gateway()
    broker = lab.broker(gateway)
    cat = lab.iamcat({**lab.env(broker, gateway), "NOTIFY_SOCKET": name, "WATCHDOG_USEC": "x"})
    broker.wait_subscribed(cat)
    assert cat.stop() == 0


def test_a_manager_that_does_not_read(lab: Lab):
    """Its socket fills up; the service does not care."""
    gateway = lab.gateway()
    broker = lab.broker(gateway)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        name = f"iamcat-test-{random.getrandbits(64):x}"
        deaf.bind("\0" + name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.connect("\0" + name)
            filler.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    filler.send(b"X=1")
            cat = lab.iamcat({**lab.env(broker, gateway), "NOTIFY_SOCKET": "@" + name, "WATCHDOG_USEC": "50000"})
            broker.wait_subscribed(cat)
            cat.wait_log("in service")
            seen = [deaf.recv(4096)]
            while b"READY=1" not in seen[-1]:  # said as soon as there is room
                seen.append(deaf.recv(4096))
            assert cat.stop() == 0
