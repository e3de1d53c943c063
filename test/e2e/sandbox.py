"""The sandbox: `make test-sandbox`. A build of iamcat with a hook (test/hook.c) tries, once it is inside, what the
program never does; it all fails, is told, and the service goes on."""

import os
import pathlib
import re
import socket
import subprocess

import pytest

from lab import ROOT, Lab, Process, free_port

HOOK = ROOT / "build" / "hook" / "iamcat"
READ = {"function_code": 3, "device_id": "A2332407312", "address": 10056}
# What is refused by the filter of system calls, and by Landlock alone (without that filter).
FILES = ("open-write", "create", "mkdir", "unlink", "rename", "link", "symlink", "truncate", "write-own-name")
CALLS = ("open-copied-name", "open-passwd", "open-environ", "open-directory", "open-path", "chmod", "mount",
         "chroot", "execve", "clone", "ptrace", "read-process", "kill", "setuid", "prctl", "unshare", "mmap-code",
         "mprotect", "sigaction", "keyctl", "bpf", "io_uring", "socket-local", "socket-netlink", "socket-packet")
TOLD = len([*FILES, *CALLS, "listen"]) - 7 - 2  # calls, each once: of openat there are eight attempts, of socket three


def serve(lab: Lab, **env: str) -> Process:
    """The hook's build, once it has tried everything and then answered a request; cat.tried is what came of it."""
    device = lab.device()
    gateway = lab.gateway(device=device)
    broker = lab.broker(gateway)
    operator = lab.operator(broker, gateway)
    mark = broker.log.mark()
    target = lab.work_dir("target") / "file"
    target.write_text("as it was")
    target.chmod(0o666)
    target.parent.chmod(0o777)
    listener = lab.enter_context(socket.create_server(("127.0.0.1", 0)))
    cat = lab.iamcat({**lab.env(broker, gateway), "HOOK_FILE": str(target), "HOOK_PID": str(os.getpid()),
                      "HOOK_PORT": str(listener.getsockname()[1]), "HOOK_FREE_PORT": str(free_port()), **env},
                     binary=HOOK)
    cat.intruder = True
    cat.wait_log("^hook end: done")
    broker.wait_subscribed(cat, since=mark)
    assert operator.request(READ)["response"]["value"] == 42
    cat.tried = {m[1]: m[2] for m in cat.log.find(r"^hook (\S+): (\S+)")}
    del cat.tried["end"]
    assert target.read_text() == "as it was" and target.stat().st_mode & 0o777 == 0o666
    assert os.listdir(target.parent) == ["file"] and not (cat.work / "made").exists()
    return cat


def test_everything_that_is_forbidden_is_refused(lab: Lab):
    cat = serve(lab)
    said = cat.wait_log(r"info +sandbox: user (\d+); files and ports; system calls$")
    assert said[1] == ("65534" if os.geteuid() == 0 else str(os.geteuid()))
    assert cat.tried.keys() == {*FILES, *CALLS, "connect", "listen"}
    # bind is a system call that the program does not make; connect it does, and Landlock knows the ports.
    assert {name for name, how in cat.tried.items() if how == "EACCES"} == {"connect"}
    assert {name: how for name, how in cat.tried.items() if how not in ("EPERM", "EACCES")} == {}
    assert cat.stop() == 0
    told = [m[1] for m in cat.log.find(r"error sandbox: a system call was refused, .* number: (\d+)$")]
    assert len(told) == len({*told}) == TOLD


def test_files_and_ports_without_the_filter(lab: Lab):
    """Landlock by itself."""
    cat = serve(lab, HOOK_FILES_ALONE="yes")
    cat.wait_log(r"sandbox: user \d+; files and ports$")
    for name in (*FILES, "connect", "listen", "open-environ"):
        assert cat.tried[name] in ("EACCES", "EPERM"), (name, cat.tried[name])
    # What lies beside the files that are read again can be read, so that these may be replaced.
    assert cat.tried["open-passwd"] == "done"
    assert cat.stop() == 0


def test_files_may_be_replaced(lab: Lab):
    """/etc/hosts and MQTT_ROOT_CA_FILE are read again when another file has got their names."""
    gateway = lab.gateway(device=lab.device())
    broker = lab.broker(gateway)
    ca = lab.work_dir("trust") / "ca.pem"
    ca.write_text(lab.ca.cert)
    env = {**lab.env(broker, gateway), "MQTT_BROKER_HOST": "broker.test", "MQTT_TLS_SERVER_NAME": "localhost",
           "MQTT_ROOT_CA_FILE": str(ca)}
    cat = lab.iamcat(env, etc={"hosts": "127.0.0.2 broker.test\n", "resolv.conf": "", "passwd": ""})
    cat.wait_log(r"broker broker\.test:\d+.* trying again")
    for path, text in ((cat.etc / "hosts", "127.0.0.1 broker.test\n"), (ca, ca.read_text() * 2)):
        fresh = path.with_name("fresh")
        fresh.write_text(text)
        fresh.rename(path)
    broker.wait_subscribed(cat)
    assert not cat.log.find("can.t be read|cannot be read|refused, which")
    assert cat.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes someone else")
@pytest.mark.parametrize("user, uid, gid", [("1234", 1234, 1234), ("cat", 7, 9), ("", 65534, 65534)])
def test_root_becomes_another_user(lab: Lab, user: str, uid: int, gid: int):
    gateway = lab.gateway()
    cat = lab.iamcat({**lab.env(gateway, gateway), "IAMCAT_USER": user},
                     within=["setpriv", "--groups", "4,20"],
                     etc={"hosts": "127.0.0.1 localhost\n", "passwd": "root:x:0:0::/:\ncat:x:7:9::/:\n"})
    cat.wait_log(rf"sandbox: user {uid}; files and ports; system calls$")
    status = pathlib.Path(f"/proc/{cat.pid}/status").read_text()
    for row, value in (("Uid", [uid] * 4), ("Gid", [gid] * 4), ("Groups", [])):
        assert [int(n) for n in re.search(rf"^{row}:(.*)$", status, re.M)[1].split()] == value
    for row, value in (("CapPrm", "0" * 16), ("CapEff", "0" * 16), ("NoNewPrivs", "1"), ("Seccomp", "2")):
        assert re.search(rf"^{row}:\s+(\S+)$", status, re.M)[1] == value
    assert cat.stop() == 0


@pytest.mark.parametrize("user", ["0", "root", "nobody-knows", "-1", "4294967295", "evil"])
def test_no_such_user(lab: Lab, user: str):
    cat = lab.iamcat({"MQTT_BROKER_HOST": "localhost", "IAMCAT_USER": user},
                     etc={"passwd": "root:x:0:0::/:\nevil:x:7:0::/:\nbroken\n:::\n"} if os.geteuid() == 0 else None)
    assert cat.wait() == 2
    cat.wait_log(rf'error IAMCAT_USER \(environment\) is "{user}": expected a number, or a user of /etc/passwd, and '
                 "not root")


def test_off_is_told(lab: Lab):
    cat = lab.iamcat({"MQTT_BROKER_HOST": "localhost", "MQTT_BROKER_PORT": "1", "SANDBOX": "off"})
    cat.wait_log("warn  SANDBOX=off: ")
    status = pathlib.Path(f"/proc/{cat.pid}/status").read_text()
    assert re.search(r"^Seccomp:\s+0$", status, re.M)
    assert int(re.search(r"^Uid:\s+(\d+)", status, re.M)[1]) == os.geteuid()
    assert cat.stop() == 0
