"""Fixtures of the end-to-end tests: `lab` is a laboratory of its own for each test, `shared_lab` one for all of a file."""

import signal
import sys

sys.dont_write_bytecode = True

import pytest  # noqa: E402

from lab import BUILD, IAMCAT, Lab  # noqa: E402


def pytest_configure() -> None:
    # SIGTERM cleans up like Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def binaries() -> None:
    """What the tests run has been built."""
    missing = [str(p) for p in (IAMCAT, *(BUILD / n for n in ("device", "gateway", "broker_auth.so", "asleep.so")))
               if not p.exists()]
    if missing:
        pytest.fail(f"not built: {', '.join(missing)}; `make test` builds and tests", pytrace=False)


@pytest.fixture
def lab(binaries: None):
    with Lab() as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def shared_lab(binaries: None):
    with Lab() as laboratory:
        yield laboratory


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """A failure shows the logs of iamcat, the broker and all others."""
    report = (yield).get_result()
    if report.failed:
        report.sections += [(f"{name}'s log", text) for value in getattr(item, "funcargs", {}).values()
                            if isinstance(value, Lab) for name, text in value.logs()]
