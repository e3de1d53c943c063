"""Tests in a process and a network namespace of their own, where all addresses and ports are free."""

import ctypes
import functools
import inspect
import os
import signal
import traceback
from typing import Any, Callable

import pytest

from lab import Lab, LabError, server_certificate

CLONE_NEWUSER, CLONE_NEWNET, PR_SET_PDEATHSIG = 0x10000000, 0x40000000, 1
libc = ctypes.CDLL(None, use_errno=True)
# The broker's; addresses also as names, which iamcat takes as long as it does not look for addresses.
NAMES = [f"{kind}:{name}" for kind, name in (
    ("DNS", "localhost"), ("DNS", "broker.test"), ("DNS", "::1"), ("IP", "::1"))]


def enter_namespace() -> None:
    """A network namespace for this process, which must have but one thread; without root, as root of a user
    namespace."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWNET) != 0:
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            raise LabError("this test needs a network namespace, which this system does not allow "
                           f"({os.strerror(ctypes.get_errno())}): run the tests as root, or allow user "
                           "namespaces; a container needs --privileged")
        for name, text in ("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1"):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if os.system("PATH=$PATH:/usr/sbin:/sbin ip link set lo up") != 0:
        raise LabError("this test needs a network namespace, where `ip link set lo up` has failed")


def child(test: Callable, values: dict[str, Any], report: int) -> None:
    """The whole life of a test's process."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    lab = None
    try:
        enter_namespace()
        with Lab() as lab:
            lab.certificate = server_certificate(*NAMES)
            test(lab, **values)
    except BaseException:  # of any kind: it fails the test, there
        logs = [f"--- {name}'s log ---\n{text}\n" for name, text in lab.logs()] if lab else []
        os.write(report, "\n".join([traceback.format_exc(), *logs]).encode(errors="backslashreplace"))
    finally:
        os._exit(0)


def apart(test: Callable) -> Callable:
    """Runs a test in a process and a network namespace of its own; its first argument is a laboratory."""

    def run(binaries: None, **values: Any) -> None:
        server_certificate(*NAMES)  # once for all, the processes below inherit it
        report, end = os.pipe()
        pid = os.fork()
        if pid == 0:
            child(test, values, end)
        os.close(end)
        try:
            with open(report, errors="replace") as file:
                text = file.read()
        except BaseException:
            os.kill(pid, signal.SIGTERM)
            raise
        finally:
            _, status = os.waitpid(pid, 0)
        if text or status:
            pytest.fail(text or f"the test's process died, status {status}", pytrace=False)

    functools.update_wrapper(run, test)
    _, *parameters = inspect.signature(test).parameters.values()
    first = inspect.Parameter("binaries", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([first, *parameters])
    return run
