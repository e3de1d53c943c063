"""Places where little is there: iamcat serves all the same."""

import os

import pytest

from lab import DEVICE, Lab, Process

READ = {"function_code": 3, "device_id": DEVICE, "address": 10056}
PLACES = {
    "no working directory": 'mkdir gone && cd gone && rmdir ../gone && exec "$@"',
    "one that can't be written": 'mkdir fixed && chmod 555 fixed && cd fixed && exec "$@"',
    "stderr is closed": 'exec "$@" 2>&-',
    "nothing is open": 'exec "$@" 0<&- 1>&- 2>&-',
    "a full disk": 'exec "$@" 2>/dev/full',
    "20 descriptors": 'ulimit -n 20 && exec "$@"',
}


def serve(lab: Lab, *args: str, **options: object) -> Process:
    """iamcat, once it has answered a request and given a state."""
    gateway = lab.gateway(device=lab.device())
    broker = lab.broker(gateway)
    operator = lab.operator(broker, gateway)
    mark = broker.log.mark()
    cat = lab.iamcat({**lab.env(broker, gateway), "MQTT_ROOT_CA_FILE": "",
                      "MQTT_ROOT_CA": lab.ca.cert.replace("\n", "\\n")}, *args, **options)
    broker.wait_subscribed(cat, since=mark)
    assert operator.request(READ)["response"]["value"] == 42
    assert operator.state()["type"] == "gateway_state"
    return cat


@pytest.mark.parametrize("script", PLACES.values(), ids=PLACES)
def test_it_serves(script: str, lab: Lab):
    cat = serve(lab, within=["sh", "-c", script, "sh"])
    # A log line must not end up in a connection.
    assert not [fd for fd in "012" if "socket" in os.readlink(f"/proc/{cat.pid}/fd/{fd}")]
    assert cat.stop() == 0
