"""The log: its forms, what is told of one request, and that nothing floods it."""

import re

import pytest

from fake import LINE, PUBACK, PUBLISH, READ, FakeApi, FakeBroker, Scripted
from lab import Lab, strict_json

TOPIC = "iamcat/modbus/request"
# Standard error as the journal's stream, or another one.
JOURNAL = ["sh", "-c", 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"', "sh"]
OTHER = ["sh", "-c", 'JOURNAL_STREAM=1:1 exec "$@"', "sh"]


def served(lab: Lab, within: list[str] = [], **env: str) -> list[str]:
    """The log of one that served, and was stopped; with a variable that is none and has a quote in it."""
    broker, api = lab.add(FakeBroker(lab.certificate)), lab.add(FakeApi())
    cat = lab.iamcat({**lab.env(broker, api, LOG_LEVEL="info"), **env}, files={"mqtt.env": 'LOG_LEVLE="\\\\"\n'},
                     within=within)
    cat.wait_log("in service")
    assert cat.stop() == 0
    return cat.log.lines


def test_json(lab: Lab):
    lines = [strict_json(line) for line in served(lab, LOG_FORMAT="json")]
    assert {tuple(line) for line in lines} == {("time", "level", "message")}
    assert {line["level"] for line in lines} == {"warn", "info"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["time"]) for line in lines)
    assert [line["message"] for line in lines][-1] == "stopped"


def test_mistakes_as_json(lab: Lab):
    """Their quotes and backslashes are escaped."""
    cat = lab.iamcat({"MQTT_BROKER_HOST": 'a"\\\x01é', "LOG_FORMAT": "json"})
    assert cat.wait() == 2
    assert r'is "a\x22\x5c\x01\xc3\xa9": expected' in strict_json(cat.log.lines[0])["message"]
    assert {strict_json(line)["level"] for line in cat.log.lines} == {"error"}


@pytest.mark.parametrize("within, env, journal", [
    ([], {"LOG_FORMAT": "journal"}, True), (JOURNAL, {}, True), (JOURNAL, {"LOG_FORMAT": "text"}, False),
    (OTHER, {}, False), ([], {}, False)])
def test_journal(within: list[str], env: dict[str, str], journal: bool, lab: Lab):
    lines = served(lab, within, **env)
    if not journal:
        assert all(map(LINE.fullmatch, lines))
        return
    assert all(re.fullmatch(r"<[46]>[ -~]+", line) for line in lines)
    assert lines[-1] == "<6>stopped" and [line for line in lines if line.startswith("<4>LOG_LEVLE")]


class Formed(Scripted):
    """With a log of any form."""

    def check_log(self) -> None:
        """Its lines are looked at below."""


FORMS = {"text": lambda line: LINE.fullmatch(line)[3], "json": lambda line: strict_json(line)["message"],
         "journal": lambda line: re.fullmatch("<[3467]>(.*)", line)[1]}


@pytest.mark.parametrize("form", FORMS)
def test_a_request_from_arrival_to_acknowledgement(form: str, lab: Lab):
    """Also one that went wrong."""
    it = Formed(lab, STATE_INTERVAL="3600", LOG_FORMAT=form)
    it.broker.connection()
    assert it.ask()["response"]["value"] == 42
    assert it.ask(request=b"{}")["response"]["code"] == "missing_field"
    it.cat.wait_log("request 2: acknowledged")
    packets = [p.packet_id for p in it.broker.history if p.kind == PUBLISH and p.topic.endswith("/response")]
    said = [FORMS[form](line) for line in it.cat.log.lines]
    for number, (packet, between) in enumerate(zip(packets, ("GET /api/inverter/modbus", "missing_field: ")), 1):
        told = [text.removeprefix(f"request {number}: ") for text in said if text.startswith(f"request {number}: ")]
        assert told[0] == f"arrived, bytes: {(len(READ), 2)[number - 1]}" and told[1].startswith(between), told
        assert told[2:] == [f"answered, packet {packet}", f"acknowledged, packet {packet}"]


def test_the_same_cause_is_logged_once_with_a_count(lab: Lab):
    it = Scripted(lab, LOG_LEVEL="info")
    connection = it.broker.connection()
    for _ in range(5):
        it.ask(request=b"{}")
    it.ask(request=b"[]")
    for number in range(3):
        connection.publish(TOPIC, READ, packet_id=100 + number, retain=True)
        it.broker.take(PUBACK, lambda p: p.packet_id == 100 + number)
    assert it.cat.stop() == 0
    told = [re.sub(r"^request \d+: ", "", line) for line in it.said()]
    assert told[:3] == ["missing_field: 'function_code' is missing", "not_an_object: the request must be a JSON object",
                        "a retained request is not executed: it may be old (publish requests without retain)"]
    more = "; more of this kind since it was last logged: "
    assert told[3:] == [f"not logged one by one: missing_field{more}4",
                        f"not logged one by one: retained requests{more}2"]
