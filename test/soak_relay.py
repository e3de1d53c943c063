"""A relay between two ends of TCP connections that spoils them in every way that a network knows."""

import contextlib
import random
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).parent / "e2e"))

from fake import Server, reset  # noqa: E402

UP, DOWN = 0, 1  # the ways: from the one who connected, and back


class Pair:
    """One connection: the end of the client and the end of the server."""

    def __init__(self, *ends: socket.socket) -> None:
        self.ends, self.gone = ends, False
        self.lost = [False, False]  # what comes this way is thrown away, its end is not told
        self.left: list[int | None] = [None, None]  # so many bytes more get through, then the end

    def reset(self) -> None:
        """Both get RST at once."""
        self.gone = True
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RD)  # wakes its thread, sends nothing; then it is closed

    def end(self, *which: int) -> None:
        """These ends get FIN; what they still send is lost, and nobody is told anything else."""
        self.lost = [True, True]
        for at in which:
            with contextlib.suppress(OSError):
                self.ends[at].shutdown(socket.SHUT_WR)


class Relay(Server):
    """Listens, and passes on to port target of this machine. To be changed at any time: delay_s before each
    piece, step bytes in a piece at most (0: all), and by the methods; heal() ends it all."""

    def __init__(self, name: str, target: int) -> None:
        super().__init__(name)
        self.target, self.delay_s, self.step = target, 0.0, 0
        self.held: set[int] = set()
        self.news = threading.Condition()
        self.pairs: set[Pair] = set()
        self.doom: Callable[[Pair], Any] = lambda pair: None  # what awaits each new connection
        self.listen()

    def spawn(self, function: Callable, *args: Any) -> None:
        self.threads[:] = [t for t in self.threads if t.is_alive()]
        self.sockets[:] = [s for s in self.sockets if s.fileno() >= 0]
        super().spawn(function, *args)

    def strike(self, blow: Callable[[Pair], Any], chance: float = 1.0) -> None:
        """Does this to all connections, and, by chance, to those that follow until heal()."""
        with self.news:
            self.doom = lambda pair: random.random() < chance and blow(pair)
            for pair in self.pairs:
                blow(pair)
            self.news.notify_all()

    def hold(self, *ways: int) -> None:
        """Nothing moves that way (and nothing is lost) until heal()."""
        self.held = set(ways)

    def heal(self) -> None:
        """All is well again for those connections that still live."""
        with self.news:
            self.held, self.delay_s, self.step, self.doom = set(), 0.0, 0, lambda pair: None
            self.news.notify_all()
        if not self.listener:
            self.listen()

    def talk(self, peer: socket.socket, number: int) -> None:
        try:
            other = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            return reset(peer)
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(other)
        pair = Pair(peer, other)
        with other:
            with self.news:
                self.pairs.add(pair)
                self.doom(pair)
            back = threading.Thread(target=self.pump, args=(pair, DOWN), daemon=True)
            back.start()
            self.pump(pair, UP)
            back.join()
            self.pairs.discard(pair)

    def pump(self, pair: Pair, way: int) -> None:
        try:
            while data := pair.ends[way].recv(65536):
                if not self.may_pass(pair, way):
                    return
                if not pair.lost[way]:
                    self.pass_on(pair, way, data)
            if self.may_pass(pair, way) and not pair.lost[way]:
                pair.ends[1 - way].shutdown(socket.SHUT_WR)
        except OSError:  # one end has broken it: so does the relay, unless the other is not to know
            if not pair.lost[way]:
                pair.reset()

    def may_pass(self, pair: Pair, way: int) -> bool:
        """Waits while the way is held; false when the connection is gone."""
        with self.news:
            self.news.wait_for(lambda: way not in self.held or pair.gone or self.closing.is_set())
        if self.delay_s:
            self.closing.wait(self.delay_s)
        return not pair.gone

    def pass_on(self, pair: Pair, way: int, data: bytes) -> None:
        left = pair.left[way]
        if left is not None:
            pair.left[way] = max(0, left - len(data))
        step, whole = self.step or len(data), data if left is None else data[:left]
        for at in range(0, len(whole), step):
            pair.ends[1 - way].sendall(whole[at:at + step])
        if left is not None and len(data) >= left:
            pair.end(UP, DOWN) if left % 2 else pair.reset()

    def close(self) -> None:
        self.heal()
        with self.news:
            self.closing.set()
            self.news.notify_all()
        super().close()
