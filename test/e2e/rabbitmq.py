"""iamcat at RabbitMQ with its MQTT plugin, a private instance: `make test-rabbitmq`. Not among the tests that
`make test` runs, as Erlang is large."""

import pathlib
import sys

from lab import DEVICE, Lab, Operator, Process, free_port
from ledger import Ledger

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from soak_relay import UP, Pair, Relay  # noqa: E402

HOME = "/usr/lib/rabbitmq/lib"
START_S = 120  # seconds that it may take to start


class RabbitMq(Process):
    """Over TLS on port; who may log in is guest, whose password is guest. Keeps its data in data."""

    port: int

    def __init__(self, lab: Lab, data: pathlib.Path, epmd_port: int, port: int) -> None:
        server, = pathlib.Path(HOME).glob("rabbitmq_server-*/sbin/rabbitmq-server")
        cert, key = lab.certificate.save(data, "server")
        (data / "plugins").write_text("[rabbitmq_mqtt].\n")
        (data / "rabbitmq.conf").write_text("\n".join([
            "listeners.tcp = none", "mqtt.listeners.tcp = none", "mqtt.allow_anonymous = false",
            f"mqtt.listeners.ssl.default = 127.0.0.1:{port}", f"ssl_options.cacertfile = {lab.ca_file}",
            f"ssl_options.certfile = {cert}", f"ssl_options.keyfile = {key}",
            "ssl_options.verify = verify_none", "log.console = true", "log.console.level = info",
            "log.file = false", ""]))
        self.port = port
        files = {"MNESIA_BASE": "mnesia", "LOG_BASE": "log", "CONFIG_FILE": "rabbitmq", "PID_FILE": "pid",
                 "ENABLED_PLUGINS_FILE": "plugins", "FEATURE_FLAGS_FILE": "flags", "CONF_ENV_FILE": "none",
                 "GENERATED_CONFIG_DIR": "config"}
        super().__init__("rabbitmq", [server], data, {
            **{f"RABBITMQ_{name}": str(data / file) for name, file in files.items()},
            "HOME": str(data), "RABBITMQ_NODENAME": f"iamcat-{port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()), "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1", "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false",
            "detached": "1"})  # the script becomes the Erlang machine, in place of waiting for it


def start(lab: Lab, data: pathlib.Path, epmd_port: int, port: int) -> RabbitMq:
    broker = lab.start(RabbitMq, lab, data, epmd_port, port)
    broker.out.wait("Server startup complete", timeout=START_S)
    return broker


def deafen(pair: Pair) -> None:
    """What the client sends is lost, and the broker is told nothing, not even that the client has gone."""
    pair.lost[UP] = True


def test_rabbitmq(lab: Lab):
    """Requests and states; and again, once a connection was half dead, when it sends what was not acknowledged
    as soon as the next one takes over; and once it was stopped and started anew, with what came meanwhile.
    What came while there was no iamcat is not executed. It is not killed: then it forgets what was acknowledged,
    and even that it was sent."""
    data, epmd_port, port = lab.work_dir("rabbitmq"), free_port(), free_port()
    lab.start(Process, "epmd", ["epmd", "-port", str(epmd_port), "-address", "127.0.0.1"], data)
    broker = start(lab, data, epmd_port, port)
    gateway = lab.gateway("--accept-ms", "0", device=lab.device())
    operator = Operator(lab.ca.cert, "guest", "guest", kept=True)
    lab.callback(operator.close)
    ledger = Ledger(gateway, operator.connect(port))
    relay = lab.add(Relay("relay", port))
    env = lab.env(relay, gateway, MQTT_USERNAME="guest", MQTT_PASSWORD="guest", STATE_INTERVAL="1")
    cat = lab.iamcat(env)
    cat.wait_log("in service")
    write = {"function_code": 16, "device_id": DEVICE, "address": 7, "values": 170}
    assert operator.request(write)["response"] == {"address": 7, "success": True, "values": [170]}
    ledger.send(5)
    ledger.settle()
    relay.strike(deafen)
    relay.heal()  # for the next connection
    ledger.send(3)
    cat.wait_log("did not acknowledge a message.*trying again in", timeout=START_S)
    cat.wait_log("in service", times=2, timeout=START_S)
    ledger.settle(timeout=START_S)
    broker.stop(timeout=START_S)
    cat.wait_log(r" warn  broker \S+: .*trying again in")
    ledger.send(3)
    start(lab, data, epmd_port, port)
    cat.wait_log("in service", times=3, timeout=START_S)
    ledger.settle(timeout=START_S)
    operator.states.clear()
    operator.state()
    assert not cat.log.find("discarded")
    assert cat.stop() == 0
    operator.state(suits=lambda state: state.get("status") == "offline")
    stale = ledger.next
    operator.publish("iamcat/modbus/request", ledger.request())
    cat = lab.iamcat(env)
    cat.wait_log("discarded; requests in it that are not executed: 1$")
    cat.wait_log("in service")
    ledger.settle(without=range(stale, stale + 1))
