"""Connections to the API that are opened ahead of need: the gateway takes one per 250 ms, and answers at once
on those that it has taken."""

import socket

import pytest

from desk import READ, WRITE, Desk, scripted_desk
from lab import Lab

MODBUS = "/api/inverter/modbus"


def used(desk: Desk) -> set[int]:
    """The numbers of the connections that carried a request."""
    return {request.connection for request in desk.api.history}


def wait_waiting(desk: Desk, n: int, besides: int = 0) -> set[int]:
    """Waits until n connections wait; besides so many that were of no use."""
    seen = len(used(desk)) + besides + n
    desk.api.log.wait(rf"^connection {seen - 1}$")
    return set(sorted(set(range(seen)) - used(desk))[besides:])


@pytest.mark.parametrize("spares", [2, 3])
def test_a_request_goes_over_a_connection_that_waits(spares: int, lab: Lab):
    desk = scripted_desk(lab, WEB_CONTAINER_SPARES=str(spares), STATE_INTERVAL="3600")
    for request in [READ, WRITE] * 3:
        ready = wait_waiting(desk, spares)
        desk.ask(request)
        call = desk.api.take(MODBUS)
        assert call.connection in ready
    wait_waiting(desk, spares)
    assert len(used(desk)) == len(desk.api.history)  # one request each: the server closes them
    desk.end()


def test_none_is_opened_ahead_when_none_is_wanted(lab: Lab):
    desk = scripted_desk(lab, WEB_CONTAINER_SPARES="0", STATE_INTERVAL="3600")
    for _ in range(3):
        desk.ask(READ)
    assert desk.api.connections == len(desk.api.history)
    desk.end()


def test_a_server_that_keeps_connections_is_met_on_them(lab: Lab):
    desk = scripted_desk(lab, STATE_INTERVAL="3600")
    desk.api.keep_alive = True
    desk.api.routes[MODBUS] = desk.api.routes[MODBUS].replace(b"HTTP/1.0", b"HTTP/1.1")
    for _ in range(5):
        desk.ask(READ)
    before = desk.api.connections
    for _ in range(20):
        desk.ask(READ)
    assert desk.api.connections == before
    assert len(used(desk)) < len(desk.api.history) - 20
    desk.end()


def test_a_connection_that_the_server_closes_is_replaced_quietly(lab: Lab):
    desk = scripted_desk(lab, STATE_INTERVAL="3600")
    for turn in range(2):
        gone, mark = wait_waiting(desk, 2, 2 * turn), desk.cat.log.mark()
        for number in gone:
            desk.api.sockets[number].shutdown(socket.SHUT_RDWR)
        wait_waiting(desk, 2, 2 * turn + 2)
        assert not desk.cat.log.find(" (error|warn|info) ", mark)
    assert desk.ask(READ)["value"] == 42
    assert desk.api.history[-1].connection > max(gone)
    desk.end()


def test_unasked_words_of_a_server_are_nobodys_reply(lab: Lab):
    """As a proxy sends them when it tires of waiting: 408, and the end."""
    desk = scripted_desk(lab, STATE_INTERVAL="3600")
    gone = wait_waiting(desk, 2)
    before = desk.api.connections
    for number in gone:
        desk.api.sockets[number].sendall(b"HTTP/1.0 408 Request Timeout\r\nContent-Length: 2\r\n\r\n{}")
    assert desk.ask(READ)["value"] == 42
    assert desk.api.history[-1].connection >= before
    desk.end()
