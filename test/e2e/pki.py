"""Certificates of every kind, made with openssl, and real TLS servers that send them: for the tests of trust.

    root = ca(None, "root")
    server = lab.start(OpenSsl, lab.work_dir("server"), [leaf(root, subjectAltName="DNS:localhost")])
"""

import contextlib
import functools
import pathlib
import socket
import ssl
import subprocess
import tempfile
from typing import Any, Callable, Iterator

from fake import Server
from lab import Certificate, LabError, Process, calm, free_port

# -------------------------------------------------------------------------------------------------------- DER

BOOLEAN, INTEGER, BITS, OCTETS, OID, SEQUENCE, EXTENSIONS = 1, 2, 3, 4, 6, 0x30, 0xA3


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8 or 1, "big")
    return bytes([tag]) + (size if len(body) < 0x80 else bytes([0x80 | len(size)]) + size) + body


def parts(body: bytes) -> list[bytes]:
    """The elements of which the body consists, each as a whole."""
    found = []
    while body:
        head, size = 2, body[1]
        if size >= 0x80:
            head, size = 2 + (size & 0x7F), int.from_bytes(body[2:2 + (size & 0x7F)], "big")
        found.append(body[:head + size])
        body = body[head + size:]
    return found


def content(element: bytes) -> bytes:
    return element[2 + (element[1] & 0x7F if element[1] >= 0x80 else 0):]


# ----------------------------------------------------------------------------------------------- certificates

KINDS = {"ec": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
         "ec384": ["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
         "ec521": ["EC", "-pkeyopt", "ec_paramgen_curve:P-521"], "k256": ["EC", "-pkeyopt",
                                                                          "ec_paramgen_curve:secp256k1"],
         "ed25519": ["ED25519"], "rsa": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
         **{f"rsa{n}": ["RSA", "-pkeyopt", f"rsa_keygen_bits:{n}"] for n in (1024, 2040)},
         # of more primes, which are found sooner
         **{f"rsa{n}": ["RSA", "-pkeyopt", f"rsa_keygen_bits:{n}", "-pkeyopt", "rsa_keygen_primes:4"]
            for n in (4096, 4104)}}
CA = {"basicConstraints": "critical,CA:true", "keyUsage": "critical,keyCertSign,cRLSign"}
LEAF = {"basicConstraints": "critical,CA:false", "keyUsage": "critical,digitalSignature",
        "extendedKeyUsage": "serverAuth", "subjectAltName": "DNS:localhost"}


def openssl(*command: str | pathlib.Path, cwd: pathlib.Path, data: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *command], cwd=cwd, input=data, capture_output=True, process_group=0)
    if done.returncode != 0:
        raise LabError(f"openssl {command[0]} failed: {done.stderr.decode()}")
    return done.stdout


@functools.cache
def private_key(kind: str, name: str) -> str:
    """A key of that kind, the same one for the same name, as PEM."""
    with calm(), tempfile.TemporaryDirectory(prefix="iamcat-key-") as work:
        return openssl("genpkey", "-algorithm", *KINDS[kind], cwd=pathlib.Path(work)).decode()


def issue(issuer: Certificate | None, name: str, extensions: dict[str, str | None], key: str = "ec",
          key_name: str = "", more: str = "", options: tuple[str, ...] = ("-sha256",)) -> Certificate:
    """A certificate for the common name, valid for two days; extensions are openssl's, more is further text
    of its configuration, key a kind or a whole key. Without an issuer it signs itself."""
    lines = [f"{name} = {value}" for name, value in extensions.items() if value is not None]
    private = key if key.startswith("-----") else private_key(key, key_name or name)
    with calm(), tempfile.TemporaryDirectory(prefix="iamcat-ca-") as work:
        at = pathlib.Path(work)
        (at / "config").write_text("\n".join([
            "[req]", "distinguished_name = dn", "prompt = no", "x509_extensions = ext",
            "string_mask = utf8only", "[dn]", f"CN = {name}", "[ext]", *lines, more, ""]))
        (at / "key").write_text(private)
        by = []
        if issuer:
            issuer.save(at, "ca")
            by = ["-CA", "ca.pem", "-CAkey", "ca.key"]
        cert = openssl("req", "-x509", "-utf8", "-config", "config", "-key", "key", "-days", "2", *by,
                       *options, cwd=at)
        return Certificate(cert=cert.decode(), key=private)


def leaf(issuer: Certificate | None, key: str = "ec", name: str = "a broker", key_name: str = "",
         more: str = "",
         options: tuple[str, ...] = ("-sha256",), **extensions: str | None) -> Certificate:
    """A server's certificate for localhost; None leaves an extension of LEAF out."""
    return issue(issuer, name, {**LEAF, **extensions}, key, key_name, more, options)


def ca(issuer: Certificate | None, name: str = "intermediate CA", key: str = "ec", key_name: str = "",
       more: str = "",
       options: tuple[str, ...] = ("-sha256",), **extensions: str | None) -> Certificate:
    """A CA's certificate."""
    return issue(issuer, name, {**CA, **extensions}, key, key_name, more, options)


def to_der(certificate: Certificate) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.cert)


def changed(certificate: Certificate, issuer: Certificate | None,
            change: Callable[[list[bytes]], Any]) -> Certificate:
    """The certificate with the elements of its TBSCertificate (RFC 5280 §4.1) changed in place, and signed
    again by the issuer; without one the signature stays as it was, and is wrong."""
    tbs, algorithm, signature = parts(content(to_der(certificate)))
    elements = parts(content(tbs))
    change(elements)
    tbs = der(SEQUENCE, *elements)
    if issuer:
        with calm(), tempfile.TemporaryDirectory(prefix="iamcat-sign-") as work:
            at = pathlib.Path(work)
            issuer.save(at, "ca")
            signature = der(BITS, b"\0", openssl("dgst", "-sha256", "-sign", "ca.key", cwd=at, data=tbs))
    raw = der(SEQUENCE, tbs, algorithm, signature)
    return Certificate(cert=ssl.DER_cert_to_PEM_cert(raw), key=certificate.key)


def dated(certificate: Certificate, issuer: Certificate, since: str, until: str) -> Certificate:
    """The certificate valid from and to a date YYMMDD."""

    def change(elements: list[bytes]) -> None:
        elements[4] = der(SEQUENCE, *(der(0x17, f"{date}000000Z".encode()) for date in (since, until)))

    return changed(certificate, issuer, change)


def with_extension(certificate: Certificate, issuer: Certificate, *raw: bytes,
                   twice: str = "") -> Certificate:
    """With further extensions, whole; with twice, the one of that OID (in hexadecimal) once more."""

    def change(elements: list[bytes]) -> None:
        there = parts(content(content(elements[-1])))
        again = [e for e in there if twice and content(parts(content(e))[0]).hex() == twice]
        elements[-1] = der(EXTENSIONS, der(SEQUENCE, *there, *again, *raw))

    return changed(certificate, issuer, change)


def version(certificate: Certificate, issuer: Certificate, number: int) -> Certificate:
    """Of another version of X.509; version 1 has no extensions (and so no name)."""

    def change(elements: list[bytes]) -> None:
        elements[0] = der(0xA0, der(INTEGER, bytes([number - 1])))
        if number == 1:
            del elements[0], elements[-1]

    return changed(certificate, issuer, change)


# ------------------------------------------------------------------------------------------------ TLS servers


class TlsServer(Process):
    """A TLS server of somebody else's make; what it prints is kept as one text in one line of its log."""

    name = "TLS server"
    taken = gone = ""  # what it prints when a client's handshake is complete; when a connection has ended
    port = 0

    def __init__(self, work: pathlib.Path, chain: list[Certificate], *args: str) -> None:
        """It sends the chain, and has the key of the first certificate; an empty chain: it has none."""
        self.host = "::1" if "-6" in args else "127.0.0.1"
        files = []
        if chain:
            (work / "first.pem").write_text(chain[0].cert)
            (work / "rest.pem").write_text("".join(c.cert for c in chain[1:]))
            (work / "all.pem").write_text("".join(c.cert for c in chain))
            (work / "key").write_text(chain[0].key)
            files = self.files(len(chain) > 1)
        super().__init__(self.name, [*self.program(), *files, *args], work, stdin=subprocess.PIPE)

    def program(self) -> list[str]:
        raise NotImplementedError

    def files(self, more: bool) -> list[str]:
        """The options for its key and certificate; more: there are others behind that."""
        raise NotImplementedError

    @staticmethod
    def read(stream: Any, log: Any) -> None:
        with stream:
            while data := stream.read1():
                with log.news:
                    log.lines[:] = ["".join(log.lines) + data.decode(errors="backslashreplace")]
                    log.news.notify_all()
        log.end()

    def type(self, text: str) -> None:
        """What someone types at its terminal."""
        self.popen.stdin.write(text.encode())
        self.popen.stdin.flush()

    def hang_up(self) -> bool:
        """Ends its connection in order, so that the session stays good; false: it knows no way to."""
        return False

    def printed(self) -> str:
        return "".join(self.out.lines + self.log.lines)

    def wait(self, *args: Any) -> int:
        with contextlib.suppress(OSError):
            self.popen.stdin.close()
        return super().wait(*args)


class OpenSsl(TlsServer):
    """openssl s_server, at security level 0, so that it sends what no good server would."""

    name, taken, gone = "openssl s_server", "MQTT", "ERROR|CONNECTION CLOSED"

    def __init__(self, work: pathlib.Path, chain: list[Certificate], *args: str) -> None:
        self.wanted = [] if "-cipher" in args else ["-cipher", "ALL:@SECLEVEL=0"]
        super().__init__(work, chain, *args)
        self.port = int(self.out.wait(r"ACCEPT \S+:(\d+)")[1])

    def program(self) -> list[str]:
        at = "[::1]" if self.host == "::1" else self.host
        return ["openssl", "s_server", "-accept", f"{at}:0", *self.wanted]

    def hang_up(self) -> bool:
        self.type("q\n")
        return True

    def files(self, more: bool) -> list[str]:
        return ["-cert", "first.pem", "-key", "key", *(["-cert_chain", "rest.pem"] if more else [])]


class GnuTls(TlsServer):
    """gnutls-serv, which asks for a client certificate, but takes none, too."""

    name, taken, gone = "gnutls-serv", "- Cipher: ", "Error in handshake|Peer has closed"

    def __init__(self, work: pathlib.Path, chain: list[Certificate], *args: str) -> None:
        while True:
            self.port = free_port()
            super().__init__(work, chain, *args)
            try:
                self.log.wait(rf"IPv4 .* port {self.port}\.\.\.done")
                return
            except LabError:
                if not self.log.find("bind|in use"):
                    raise
                self.wait()  # the port was taken meanwhile

    def program(self) -> list[str]:
        return ["gnutls-serv", "--echo", "--port", str(self.port)]

    def files(self, more: bool) -> list[str]:
        return ["--x509certfile", "all.pem", "--x509keyfile", "key"]


class Relay(Server):
    """Hands bytes on to the port target, counts those of each connection in both directions together, and keeps its
    first ones: a ClientHello."""

    def __init__(self, target: int) -> None:
        super().__init__("relay")
        self.target, self.bytes, self.hello, self.links = target, [], [], []
        self.listen()

    def talk(self, peer: socket.socket, number: int) -> None:
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            self.bytes.append(0)
            self.hello.append(b"")
            self.links += [peer, server]
            self.spawn(self.pump, server, peer, number)
            self.pump(peer, server, number)

    def pump(self, source: socket.socket, sink: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.bytes[number] += len(data)
                self.hello[number] = self.hello[number] or data
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Ends all connections."""
        for end in self.links:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


# --------------------------------------------------------------------------------------- TLS servers that lie


def handshake(flight: bytes) -> list[bytes]:
    """The handshake messages in records of plain text, whole (RFC 5246 §6.2.1, §7.4)."""
    data, found = b"", []
    while flight:
        size = int.from_bytes(flight[3:5], "big")
        data, flight = data + flight[5:5 + size], flight[5 + size:]
    while data:
        size = 4 + int.from_bytes(data[1:4], "big")
        found, data = [*found, data[:size]], data[size:]
    return found


def message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def records(messages: list[bytes]) -> bytes:
    """A record for each, or as many as it needs."""
    return b"".join(b"\x16\x03\x03" + len(m[i:i + 16384]).to_bytes(2, "big") + m[i:i + 16384]
                    for m in messages for i in range(0, len(m), 16384))


class Meddler(Server):
    """OpenSSL, but in place of its first flight (ServerHello to ServerHelloDone) goes what change(flight,
    number) gives for that connection, which ends behind a list."""

    def __init__(self, certificate: Certificate, change: Callable[[bytes, int], bytes | list[bytes]]) -> None:
        super().__init__("meddler")
        self.change, self.came = change, {}
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2
        with tempfile.TemporaryDirectory(prefix="iamcat-own-") as work:
            self.context.load_cert_chain(*certificate.save(pathlib.Path(work), "own"))
        self.listen()

    def talk(self, peer: socket.socket, number: int) -> None:
        inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context.wrap_bio(inward, outward, server_side=True)
        self.came[number], first = b"", True
        while data := peer.recv(65536):
            self.came[number] += data
            inward.write(data)
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:  # the other one's alert, or ours, which goes out
                data = b""
            answer = outward.read()
            if answer and first:
                first, answer = False, self.change(answer, number)
            peer.sendall(answer if isinstance(answer, bytes) else b"".join(answer))
            if not data or isinstance(answer, list):
                return

    def application_data(self) -> list[int]:
        """The connections on which some has come."""

        def kinds(data: bytes) -> Iterator[int]:
            while len(data) >= 5:
                yield data[0]
                data = data[5 + int.from_bytes(data[3:5], "big"):]

        return [number for number, data in self.came.items() if 23 in kinds(data)]


class Speaker(Server):
    """Sends these pieces, with so many seconds before each, whatever comes; and then nothing."""

    def __init__(self, pieces: Iterator[bytes], pause: float = 0) -> None:
        super().__init__("speaker")
        self.pieces, self.pause, self.came = pieces, pause, b""
        self.listen()

    def talk(self, peer: socket.socket, number: int) -> None:
        self.spawn(self.hear, peer)
        for piece in self.pieces:
            if self.closing.wait(self.pause):
                return
            peer.sendall(piece)
        self.closing.wait()

    def hear(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := peer.recv(65536):
                self.came += data
