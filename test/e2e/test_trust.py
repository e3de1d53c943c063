"""The broker is who it says, or nothing is sent: certificates and TLS settings, right and wrong, in real TLS
servers (openssl s_server, gnutls-serv, OpenSSL within Python). Each case names the rule that it probes."""

import datetime
import functools
import glob
import os
import pathlib
import random
import re
import signal
import time
import types
from typing import Any, Callable, Iterator

import pytest

from fake import HANG, LINE, FakeApi, FakeBroker, http_reply
from lab import PASSED, ROOT, TIMEOUT, Certificate, Gateway, Lab, LabError, Process
from pki import (BITS, EXTENSIONS, SEQUENCE, GnuTls, Meddler, OpenSsl, Relay, Speaker, TlsServer, ca, changed,
                 content, dated, der, handshake, leaf, message, parts, records, to_der, version,
                 with_extension)

# Of iamcat's log; a processor without instructions for AES tries ChaCha20 alone before.
FAILED = r" warn  (broker \S+: (?!the broker takes no ChaCha20).*); trying again in [\d.]+ s$"
OK = ""  # a verdict; the others are the beginning of what it says

NAME = "the broker's certificate is for another name: is MQTT_BROKER_HOST right"
NO_NAME = "the broker's certificate has no subjectAltName"
MALFORMED = "a certificate is damaged or badly made"
VERSION = "a certificate is not X.509 version 3"
TWICE = "a certificate has an extension twice"
CRITICAL = "a certificate has an unknown critical extension"
ALGORITHM = "a certificate has an unknown kind of signature"
WEAK_SIGNATURE = "a certificate is signed with SHA-1 or worse"
KEY = "a certificate has an unknown kind of key"
WEAK_KEY = "a certificate has an RSA key under 2048 bits"
EXPIRED = "a certificate has expired"
EARLY = "a certificate is not valid yet"
KEY_USAGE = "a certificate's key usage forbids its use"
NOT_SERVER = "a certificate is not for servers"
LEAF_IS_CA = "the broker's own certificate is a CA's"
LEAF_CONSTRAINED = "the broker's own certificate has name constraints"
NOT_CA = "a certificate was issued by one that is not a CA's"
PATH_LENGTH = "a CA may not have so many CAs below it"
CONSTRAINED = "the broker's certificate has a name that its CA may not give out"
CONSTRAINT_FORM = "a CA's name constraints are of an unknown kind"
SIGNATURE = "a signature is wrong"
UNTRUSTED = "the broker's certificate comes from no trusted root"
ANCHOR_EXPIRED = "the root is outside of its own dates"
TOO_MANY = "the broker sends more than 8 certificates"
NOTHING_SHARED = "the broker offers nothing that is safe enough"
NO_TLS12 = "the broker refuses TLS 1.2"
NOT_TLS = "the broker speaks no TLS 1.2, or no TLS at all on this port"
ALERT = "the broker has ended the connection with a TLS alert"
UNKNOWN_NAME = "the broker does not know the name that it was called by"
BROKEN = "the broker breaks the rules of TLS"
WRONG_KEY = "the broker does not hold the key of its certificate"

# What stands behind the sentence, in brackets.
SAYS_DATES = r"(for|of) \S.*, issued by '.*', valid \d{4}-\d\d-\d\d to \d{4}-\d\d-\d\d"
DETAIL = {TOO_MANY: "", MALFORMED: r"certificate \d+ of \d+; ",
          NAME: f"{SAYS_DATES}; expected '.*'; ", NO_NAME: f"{SAYS_DATES}; expected '.*'; ",
          **dict.fromkeys((EXPIRED, EARLY, ANCHOR_EXPIRED),
                          rf"{SAYS_DATES}; checked for \d{{4}}-\d\d-\d\d; "),
          **dict.fromkeys((NOTHING_SHARED, NO_TLS12, NOT_TLS, WRONG_KEY, BROKEN, ALERT,
                           UNKNOWN_NAME), "")}


@pytest.fixture(scope="module")
def gateway(shared_lab: Lab):
    """One for all: with a user name iamcat asks it for nothing but its serial number."""
    return shared_lab.gateway("--accept-ms", "0")


def pem(certificates: list[Certificate]) -> str:
    return "".join(c.cert for c in certificates)


def settings(gateway: Gateway, port: int, host: str = "localhost", **more: str) -> dict[str, str]:
    return {"MQTT_BROKER_HOST": host, "MQTT_BROKER_PORT": str(port), "WEB_CONTAINER_HOST": "127.0.0.1",
            "WEB_CONTAINER_PORT": str(gateway.port), "MQTT_USERNAME": "user", "MQTT_PASSWORD": "open sesame",
            "LOG_LEVEL": "debug", **more}


def either(what: str, *tests: Callable[[], Any]) -> Any:
    """Waits until one of the tests gives something."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        for test in tests:
            if found := test():
                return found
        time.sleep(0.004)
    raise LabError(f"nothing of {what} within {TIMEOUT:g} s")


class Case(types.SimpleNamespace):
    """A server that sends these certificates, and what iamcat must say of it; trust are its roots."""

    def __init__(self, verdict: str, *send: Certificate, trust: list[Certificate] | None = None,
                 host: str = "localhost", args: tuple[str, ...] = (), prints: str = "", **env: str) -> None:
        super().__init__(verdict=verdict, send=list(send), trust=[root()] if trust is None else trust,
                         host=host, args=args, prints=prints, env=env)

    def run(self, lab: Lab, gateway: Gateway, kind: type[TlsServer] = OpenSsl) -> types.SimpleNamespace:
        """The verdict as it must be; server, cat, and the line that it has logged (said)."""
        server = lab.start(kind, lab.work_dir("server"), self.send, *self.args)
        trust = {"MQTT_ROOT_CA": pem(self.trust)} if self.trust else {}
        cat = lab.iamcat(settings(gateway, server.port, self.host, **trust, **self.env))
        either("a verdict", lambda: re.search(server.taken, server.printed()), lambda: cat.log.find(FAILED),
               lambda: not cat.running)
        said = cat.log.find(FAILED)
        sent = re.search(server.taken, server.printed()) is not None
        assert cat.stop() == 0
        if self.verdict == OK:
            assert sent and not said, said[0][1]
        else:
            assert said and not sent, f"it was accepted: {server.printed()}"
            either("the end of the connection", lambda: re.search(server.gone, server.printed()))
            assert not re.search(server.taken, server.printed()), "something was sent before it was refused"
            self.check_words(said[0][1], server.port)
        assert not [line for line in cat.log.lines if not LINE.fullmatch(line)]
        assert re.search(self.prints, server.printed()), server.printed()
        return types.SimpleNamespace(server=server, cat=cat, said=said[0][1] if said else "")

    def check_words(self, said: str, port: int) -> None:
        start = f"broker {self.host}:{port}: "
        assert said.startswith(start + self.verdict)
        detail = DETAIL.get(self.verdict, f"{SAYS_DATES}; ")
        assert re.search(rf"[^()]( \([^()]*\)[^()]*)? \({detail}error \d+\)$", said[len(start):]), said


def cases(table: dict[str, Callable[[], Case]]) -> Any:
    return pytest.mark.parametrize("case", table.values(), ids=table)


# --------------------------------------------------------------------------------------- certificates for all

rsa = {"key": "rsa"}


@functools.cache
def root() -> Certificate:
    return ca(None, "test root")


@functools.cache
def mid() -> Certificate:
    return ca(root())


@functools.cache
def rsa_root() -> Certificate:
    return ca(None, "RSA root", **rsa)


@functools.cache
def good() -> Certificate:
    return leaf(mid())


@functools.cache
def stranger() -> Certificate:
    return ca(None, "a stranger's root")


# ------------------------------------------------------------------------------------------------------ names


def raw(hexadecimal: str) -> str:
    return f"DER:{hexadecimal}"


NAMES = {
    "the same": ("broker.a.test", "DNS:broker.a.test", OK),
    "another case": ("Broker.A.test", "DNS:bROKER.a.TEST", OK),
    "the last of many": ("broker.a.test",
                         "DNS:b.test,IP:127.0.0.1,email:x@a.test,URI:http://x,DNS:broker.a.test", OK),
    "a final dot of ours": ("broker.a.test.", "DNS:broker.a.test", OK),
    "an A-label": ("xn--mnchen-3ya.test", "DNS:xn--mnchen-3ya.test", OK),
    "a single label": ("broker", "DNS:broker", OK),
    "a wildcard": ("broker.a.test", "DNS:*.a.test", OK),
    "a wildcard in another case": ("BROKER.a.Test", "DNS:*.A.test", OK),
    "a wildcard for an A-label": ("xn--mnchen-3ya.a.test", "DNS:*.a.test", OK),
    "another name": ("broker.a.test", "DNS:broker.b.test", NAME),
    "the parent": ("broker.a.test", "DNS:a.test", NAME),
    "a child": ("a.test", "DNS:broker.a.test", NAME),
    "only its end": ("broker.a.test", "DNS:roker.a.test", NAME),
    "only its beginning": ("broker.a.test", "DNS:broker.a.tes", NAME),
    "a final dot of theirs": ("broker.a.test", "DNS:broker.a.test.", NAME),
    "a dot in front": ("broker.a.test", "DNS:.a.test", NAME),
    "a wildcard for two labels": ("my.broker.a.test", "DNS:*.a.test", NAME),
    "a wildcard for no label": ("a.test", "DNS:*.a.test", NAME),
    "a wildcard in the middle": ("broker.a.test", "DNS:broker.*.test", NAME),
    "a wildcard at the end": ("broker.a.test", "DNS:broker.a.*", NAME),
    "two wildcards": ("broker.a.test", "DNS:*.*.test", NAME),
    "a wildcard in front of one label": ("a.test", "DNS:*.test", NAME),
    "a wildcard alone": ("broker", "DNS:*", NAME),
    "a partial wildcard, end": ("broker.a.test", "DNS:b*.a.test", NAME),
    "a partial wildcard, beginning": ("broker.a.test", "DNS:*r.a.test", NAME),
    "a partial wildcard, middle": ("broker.a.test", "DNS:b*r.a.test", NAME),
    "a partial wildcard in an A-label": ("xn--mnchen-3ya.a.test", "DNS:xn--*.a.test", NAME),
    "a line break in it": ("a.test", raw("300F820D612E746573740A612E74657374"), NAME),
    "U+0000 in it": ("a.test", raw("300C820A612E7465737400782E78"), NAME),
    "only a blank": ("a.test", raw("3003820120"), NAME),
    "only e-mail and URI": ("a.test", "email:a.test,URI:a.test", NAME),
    "only another kind of name": ("a.test", "otherName:1.2.3.4;UTF8:a.test", NAME),
    "empty": ("a.test", raw("30028200"), MALFORMED),
    "no names in the extension": ("a.test", raw("3000"), MALFORMED),
    "no extension, only the common name": ("a.test", None, NO_NAME),
    "an IPv4 address": ("192.0.2.1", "IP:192.0.2.1", OK),
    "an IPv6 address": ("2001:db8::1", "IP:2001:DB8:0:0:0:0:0:1", OK),
    "another IPv4 address": ("192.0.2.1", "IP:192.0.2.2", NAME),
    "an IPv4 address as dNSName": ("192.0.2.1", "DNS:192.0.2.1", NAME),
    "an IPv4 address as wildcard": ("192.0.2.1", "DNS:*.0.2.1", NAME),
    "an IPv6 address as dNSName": ("2001:db8::1", "DNS:2001:db8::1", NAME),
    "an IPv4 address mapped into IPv6": ("192.0.2.1", "IP:::ffff:192.0.2.1", NAME),
    "an IPv6 address that begins like it": ("192.0.2.1", "IP:C000:0201::", NAME),
    "an IPv4 address as URI": ("192.0.2.1", "URI:https://192.0.2.1", NAME),
    "an address with a mask": ("192.0.2.1", raw("300A8708C0000201FFFFFFFF"), MALFORMED),
    "an address of five bytes": ("192.0.2.1", raw("30078705C000020100"), MALFORMED),
    "the name's address": ("localhost", "IP:127.0.0.1", NAME),
    "the address's name": ("127.0.0.1", "DNS:localhost", NAME),
}


@pytest.mark.parametrize("host, names, verdict", NAMES.values(), ids=NAMES)
def test_names(host: str, names: str | None, verdict: str, lab: Lab, gateway: Gateway):
    """MQTT_TLS_SERVER_NAME is what counts; the common name is the right one always."""
    case = Case(verdict, leaf(root(), name=host, subjectAltName=names), host="127.0.0.1",
                MQTT_TLS_SERVER_NAME=host)
    said = case.run(lab, gateway).said
    assert verdict not in (NAME, NO_NAME) or f"; expected '{host}'; " in said


HOSTS = {
    "a name": ("localhost", "DNS:localhost", (), OK),
    "a name below localhost": ("broker.iot.localhost", "DNS:*.iot.localhost", (), OK),
    "an IPv4 address": ("127.0.0.1", "IP:127.0.0.1", (), OK),
    "an IPv6 address": ("::1", "IP:::1", ("-6",), OK),
    "an IPv6 address in brackets": ("[::1]", "IP:::1", ("-6",), OK),
    "another name": ("localhost", "DNS:broker", (), NAME),
    "another address": ("127.0.0.1", "IP:127.0.0.2", (), NAME),
}


@pytest.mark.parametrize("host, names, args, verdict", HOSTS.values(), ids=HOSTS)
def test_names_of_the_host(host: str, names: str, args: tuple[str, ...], verdict: str, lab: Lab,
                           gateway: Gateway):
    Case(verdict, leaf(root(), subjectAltName=names), host=host, args=args).run(lab, gateway)


def test_server_name_replaces_the_host(lab: Lab, gateway: Gateway):
    """A certificate for MQTT_BROKER_HOST is wrong when MQTT_TLS_SERVER_NAME is another."""
    Case(NAME, leaf(root()), MQTT_TLS_SERVER_NAME="other.test").run(lab, gateway)


# ----------------------------------------------------------------------------------------------------- chains


def extension(oid: str, value: bytes, critical: bool = False) -> bytes:
    return der(SEQUENCE, der(6, bytes.fromhex(oid)), der(1, b"\xff") if critical else b"", der(4, value))


UNKNOWN = "2b0601040181fd5901"  # an OID of nobody's
SAN, EXTENDED_KEY_USAGE = "551d11", "551d25"
ca_usage = {"keyUsage": "critical,digitalSignature,keyCertSign"}
CA = {**ca_usage, "basicConstraints": "critical,CA:true"}  # of a certificate that is a server's, too


def chain(*middle: dict[str, Any], **of_leaf: Any) -> list[Certificate]:
    """A leaf, and CAs with these parameters above it, down from the root."""
    above, found = root(), []
    for i, parameters in enumerate(middle):
        above = ca(above, **{"name": f"CA {i}", **parameters})
        found.insert(0, above)
    return [leaf(above, **of_leaf), *found]


def constrained(value: str, names: str = "DNS:localhost", **more: Any) -> list[Certificate]:
    return chain({"nameConstraints": value, **more}, subjectAltName=names)


def many(count: int, fill: int = 0) -> list[Certificate]:
    """A good chain of so many certificates in all, each with so many bytes more."""
    more = {"nsComment": "x" * fill} if fill else {}
    return chain(*[more] * (count - 1), **more)


def foreign_signature(certificate: Certificate) -> Certificate:
    """With a signature that belongs to other bytes."""
    return changed(certificate, None, lambda tbs: tbs.__setitem__(1, der(2, b"\x01")))


def renamed(certificate: Certificate) -> Certificate:
    """For localhost by a change after it was signed."""

    def change(tbs: list[bytes]) -> None:
        assert b"mocalhost" in tbs[-1]
        tbs[-1] = tbs[-1].replace(b"mocalhost", b"localhost")

    return changed(certificate, None, change)


def other_inner_algorithm(tbs: list[bytes]) -> None:
    tbs[2] = der(SEQUENCE, der(6, bytes.fromhex("2a8648ce3d040303")))  # SHA-384 instead of SHA-256


def impostor(of: Certificate, name: str) -> Certificate:
    """A CA of the same name with another key."""
    return ca(None, name, key_name="the impostor's")


def rolled_over() -> list[Certificate]:
    """A CA with pathLen 0, its self-issued certificate for a new key, and a leaf of that."""
    old = ca(root(), "CA", key_name="old", basicConstraints="critical,CA:true,pathlen:0")
    new = ca(old, "CA", key_name="new", basicConstraints="critical,CA:true,pathlen:0")
    return [leaf(new), new, old]


def self_trusted(**parameters: Any) -> Case:
    own = leaf(None, **parameters)
    return Case(OK, own, trust=[own])


GOOD_CHAINS = {
    "by the root": lambda: Case(OK, leaf(root())),
    "with one in between": lambda: Case(OK, good(), mid()),
    "with its root": lambda: Case(OK, good(), mid(), root()),
    "in disorder": lambda: Case(OK, good(), root(), mid()),
    "upside down": lambda: Case(OK, (c := chain({}, {}, {}))[0], *c[:0:-1]),
    "with a stranger's behind": lambda: Case(OK, good(), mid(), stranger()),
    "with a stranger's in front": lambda: Case(OK, good(), stranger(), mid()),
    "with each twice": lambda: Case(OK, good(), mid(), mid(), root(), root()),
    "cross-signed by a stranger, ours last": lambda: Case(OK, good(), ca(stranger()), mid()),
    "cross-signed by a stranger, ours first": lambda: Case(OK, good(), mid(), ca(stranger())),
    "with a cross-signed root": lambda: Case(OK, good(), mid(), ca(stranger(), "test root")),
    "with a cross-signed certificate that has expired": lambda: Case(
        OK, good(), dated(ca(stranger()), stranger(), "200101", "210101"), mid()),
    "with an impostor's in front": lambda: Case(OK, good(), ca(root(), key_name="the impostor's"), mid()),
    "with one that is broken behind": lambda: Case(
        OK, good(), mid(), version(ca(root(), "unused"), root(), 1)),
    "of eight": lambda: Case(OK, *many(8)),
    "of just under 32 kB": lambda: Case(OK, *many(3, 9500)),
    "two roots of one name": lambda: Case(OK, good(), mid(), trust=[impostor(root(), "test root"), root()]),
    "many roots": lambda: Case(OK, good(), mid(), trust=[stranger(), rsa_root(), root()]),
    "the intermediate as root": lambda: Case(OK, good(), trust=[mid()]),
    "the intermediate as root, also sent": lambda: Case(OK, good(), mid(), trust=[mid()]),
    "a root of version 1": lambda: Case(OK, leaf(root()), trust=[version(root(), root(), 1)]),
    "a root with a SHA-1 signature": lambda: Case(
        OK, leaf(o := ca(None, "old", options=("-sha1",))), trust=[o]),
    "a self-signed certificate that is trusted": lambda: self_trusted(),
    "a CA's own certificate that is trusted": lambda: self_trusted(**CA),
    "a leaf that is trusted, its issuer not": lambda: Case(OK, leaf(stranger()), trust=[leaf(stranger())]),
    "leaf with an unknown extension": lambda: Case(
        OK, with_extension(leaf(root()), root(), extension(UNKNOWN, b"?"))),
    "leaf with the least": lambda: Case(
        OK, leaf(root(), basicConstraints=None, keyUsage=None, extendedKeyUsage=None)),
    "leaf with critical serverAuth": lambda: Case(OK, leaf(root(), extendedKeyUsage="critical,serverAuth")),
    "leaf with clientAuth and serverAuth": lambda: Case(
        OK, leaf(root(), extendedKeyUsage="clientAuth,serverAuth")),
    "leaf with anyExtendedKeyUsage": lambda: Case(OK, leaf(root(), extendedKeyUsage="anyExtendedKeyUsage")),
    "leaf with critical policies": lambda: Case(
        OK, leaf(root(), certificatePolicies="critical,2.23.140.1.2.1")),
    "leaf with a critical name": lambda: Case(OK, leaf(root(), subjectAltName="critical,DNS:localhost")),
    "CA with serverAuth": lambda: Case(OK, *chain({"extendedKeyUsage": "serverAuth"})),
    "CA with critical serverAuth": lambda: Case(
        OK, *chain({"extendedKeyUsage": "critical,clientAuth,serverAuth"})),
    "CA without key usage": lambda: Case(OK, *chain({"keyUsage": None})),
    "CA with CA:true that is not critical": lambda: Case(OK, *chain({"basicConstraints": "CA:true"})),
    "CA with pathLen 0": lambda: Case(OK, *chain({"basicConstraints": "critical,CA:true,pathlen:0"})),
    "CA with pathLen 1": lambda: Case(OK, *chain({"basicConstraints": "critical,CA:true,pathlen:1"}, {})),
    "CA with pathLen 0, self-issued below": lambda: Case(OK, *rolled_over()),
    "root with pathLen 0": lambda: Case(OK, leaf(tight_root()), trust=[tight_root()]),
    "name constraints: the name": lambda: Case(OK, *constrained("critical,permitted;DNS:localhost")),
    "name constraints: the parent": lambda: Case(
        OK, *constrained("critical,permitted;DNS:iot.localhost", "DNS:a.iot.localhost"),
        host="a.iot.localhost"),
    "name constraints: the parent, with a dot": lambda: Case(
        OK, *constrained("permitted;DNS:.iot.localhost", "DNS:a.iot.localhost"), host="a.iot.localhost"),
    "name constraints: another excluded": lambda: Case(OK, *constrained("critical,excluded;DNS:alhost")),
    "name constraints: the address": lambda: Case(
        OK, *constrained("critical,permitted;IP:127.0.0.0/255.0.0.0", "IP:127.0.0.1"), host="127.0.0.1"),
    "name constraints: addresses alone": lambda: Case(
        OK, *constrained("critical,permitted;IP:10.0.0.0/255.0.0.0")),
    "name constraints: another address excluded": lambda: Case(
        OK, *constrained("critical,excluded;IP:127.1.0.0/255.255.0.0", "IP:127.0.0.1"), host="127.0.0.1"),
    "ECDSA with SHA-384, P-384": lambda: Case(OK, *chain({"key": "ec384"}, options=("-sha384",))),
    "ECDSA with SHA-512": lambda: Case(OK, leaf(root(), options=("-sha512",))),
    "leaf with P-384": lambda: Case(OK, leaf(root(), key="ec384")),
    "RSA 2048": lambda: Case(OK, leaf(rsa_root(), **rsa), trust=[rsa_root()]),
    "RSA with SHA-384": lambda: Case(OK, leaf(rsa_root(), options=("-sha384",)), trust=[rsa_root()]),
    "RSA with SHA-512": lambda: Case(OK, leaf(rsa_root(), options=("-sha512",)), trust=[rsa_root()]),
    "RSA 4096": lambda: Case(OK, *chain({"key": "rsa4096"}, key="rsa4096")),
}


@functools.cache
def tight_root() -> Certificate:
    return ca(None, "root with pathLen 0", basicConstraints="critical,CA:true,pathlen:0")


@functools.cache
def narrow_root() -> Certificate:
    return ca(None, "root with constraints", nameConstraints="critical,permitted;DNS:b.test")


def not_a_ca(**parameters: Any) -> Case:
    """A leaf by what is another server's certificate."""
    other = leaf(root(), name="another server", **{**ca_usage, **parameters})
    return Case(NOT_CA, leaf(other), other)


def v1_ca() -> Case:
    old = version(ca(root()), root(), 1)
    return Case(VERSION, good(), old)


def outdated(since: str, until: str, verdict: str) -> dict[str, Callable[[], Case]]:
    """The three places where dates count."""

    def its_root() -> Case:
        own = dated(root(), root(), since, until)
        return Case(ANCHOR_EXPIRED, leaf(root()), trust=[own])

    return {"leaf": lambda: Case(verdict, dated(leaf(root()), root(), since, until)),
            "CA": lambda: Case(verdict, good(), dated(mid(), root(), since, until)), "root": its_root}


BAD_CHAINS = {
    "by an unknown root": lambda: Case(UNTRUSTED, leaf(stranger())),
    "by an unknown root, which is sent": lambda: Case(UNTRUSTED, leaf(stranger()), stranger()),
    "self-signed": lambda: Case(UNTRUSTED, leaf(None)),
    "self-signed, under the root's name": lambda: Case(
        SIGNATURE, leaf(None, name="test root", key_name="the impostor's")),
    "the one in between is missing": lambda: Case(UNTRUSTED, good()),
    "two in between, the upper one is missing": lambda: Case(UNTRUSTED, *chain({}, {})[:2]),
    "by an impostor of the root": lambda: Case(SIGNATURE, leaf(impostor(root(), "test root"))),
    "by an impostor of the root, sent, too": lambda: Case(
        SIGNATURE, leaf(i := impostor(root(), "test root")), i),
    "by an impostor of the CA": lambda: Case(
        SIGNATURE, leaf(ca(None, key_name="the impostor's")), mid()),
    "by no embedded root": lambda: Case(UNTRUSTED, good(), mid(), root(), trust=[]),
    "by an impostor of an embedded root": lambda: Case(
        SIGNATURE, leaf(issued_by_digicert()), trust=[]),
    "leaf changed after signing": lambda: Case(
        SIGNATURE, renamed(leaf(root(), subjectAltName="DNS:mocalhost"))),
    "leaf changed after signing, RSA": lambda: Case(
        SIGNATURE, renamed(leaf(rsa_root(), subjectAltName="DNS:mocalhost")), trust=[rsa_root()]),
    "root of another name with that key": lambda: Case(
        UNTRUSTED, leaf(root()), trust=[ca(None, "renamed", key_name="test root")]),
    "CA of another name with that key": lambda: Case(
        UNTRUSTED, good(), ca(root(), "renamed", key_name="intermediate CA")),
    "an unknown old root is sent": lambda: Case(
        UNTRUSTED, leaf(stranger()), version(stranger(), stranger(), 1)),
    "leaf with another's signature": lambda: Case(SIGNATURE, foreign_signature(leaf(root()))),
    "CA with another's signature": lambda: Case(SIGNATURE, good(), foreign_signature(mid())),
    "leaf, two algorithms": lambda: Case(MALFORMED, changed(leaf(root()), root(), other_inner_algorithm)),
    "leaf is a CA": lambda: Case(LEAF_IS_CA, leaf(root(), **CA)),
    "leaf is a CA, self-signed, unknown": lambda: Case(LEAF_IS_CA, leaf(None, **CA)),
    "leaf with name constraints": lambda: Case(
        LEAF_CONSTRAINED, leaf(root(), nameConstraints="critical,permitted;DNS:localhost")),
    "leaf of version 1": lambda: Case(VERSION, version(leaf(root()), root(), 1)),
    "leaf of version 2": lambda: Case(VERSION, version(leaf(root()), root(), 2)),
    "CA of version 1": v1_ca,
    "leaf with clientAuth": lambda: Case(NOT_SERVER, leaf(root(), extendedKeyUsage="clientAuth")),
    "leaf with critical clientAuth": lambda: Case(
        NOT_SERVER, leaf(root(), extendedKeyUsage="critical,clientAuth")),
    "leaf with an unknown use": lambda: Case(NOT_SERVER, leaf(root(), extendedKeyUsage="1.3.6.1.5.5.7.3.99")),
    "CA with clientAuth": lambda: Case(NOT_SERVER, *chain({"extendedKeyUsage": "clientAuth"})),
    "CA with critical clientAuth": lambda: Case(
        NOT_SERVER, *chain({"extendedKeyUsage": "critical,clientAuth"})),
    "upper CA with emailProtection": lambda: Case(
        NOT_SERVER, *chain({"extendedKeyUsage": "emailProtection"}, {})),
    "CA without keyCertSign": lambda: Case(
        KEY_USAGE, *chain({"keyUsage": "critical,digitalSignature,cRLSign"})),
    "leaf by another leaf": lambda: not_a_ca(),
    "leaf by one without basic constraints": lambda: not_a_ca(basicConstraints=None),
    "leaf by a trusted leaf": lambda: Case(
        UNTRUSTED, leaf(o := leaf(None, name="another server", **ca_usage)), trust=[o]),
    "leaf by a trusted leaf, sent, too": lambda: Case(
        NOT_CA, leaf(o := leaf(None, name="another server", **ca_usage)), o, trust=[o]),
    "pathLen 0 with a CA below": lambda: Case(
        PATH_LENGTH, *chain({"basicConstraints": "critical,CA:true,pathlen:0"}, {})),
    "pathLen 1 with two CAs below": lambda: Case(
        PATH_LENGTH, *chain({"basicConstraints": "critical,CA:true,pathlen:1"}, {}, {})),
    "root with pathLen 0 and a CA below": lambda: Case(
        PATH_LENGTH, leaf(c := ca(tight_root())), c, trust=[tight_root()]),
    "name constraints: another permitted": lambda: Case(
        CONSTRAINED, *constrained("critical,permitted;DNS:b.test")),
    "name constraints: not critical": lambda: Case(CONSTRAINED, *constrained("permitted;DNS:b.test")),
    "name constraints: excluded": lambda: Case(CONSTRAINED, *constrained("excluded;DNS:localhost")),
    "name constraints: permitted and excluded": lambda: Case(
        CONSTRAINED, *constrained("critical,permitted;DNS:localhost,excluded;DNS:LOCALhost")),
    "name constraints: all excluded": lambda: Case(CONSTRAINED, *constrained(raw("3006A10430028200"))),
    "name constraints: only its end": lambda: Case(
        CONSTRAINED, *constrained("critical,permitted;DNS:ocalhost")),
    "name constraints: below it, with a dot": lambda: Case(
        CONSTRAINED, *constrained("critical,permitted;DNS:.localhost")),
    "name constraints: another name of the leaf's": lambda: Case(
        CONSTRAINED, *constrained("critical,permitted;DNS:localhost", "DNS:localhost,DNS:a.test")),
    "name constraints: another address of the leaf's": lambda: Case(
        CONSTRAINED, *constrained("critical,permitted;IP:10.0.0.0/255.0.0.0", "DNS:localhost,IP:11.0.0.1")),
    "name constraints: a wildcard for what is excluded": lambda: Case(
        CONSTRAINED, *constrained("critical,excluded;DNS:b.iot.localhost", "DNS:*.iot.localhost"),
        host="a.iot.localhost"),
    "name constraints: a wildcard wider than permitted": lambda: Case(
        CONSTRAINED, *constrained("critical,permitted;DNS:a.iot.localhost", "DNS:*.iot.localhost"),
        host="a.iot.localhost"),
    "name constraints: another address": lambda: Case(
        CONSTRAINED, *constrained("critical,permitted;IP:127.0.0.0/255.255.255.255", "IP:127.0.0.1"),
        host="127.0.0.1"),
    "name constraints: the address excluded": lambda: Case(
        CONSTRAINED, *constrained("critical,excluded;IP:127.0.0.0/255.0.0.0", "IP:127.0.0.1"),
        host="127.0.0.1"),
    "name constraints: addresses of the other family": lambda: Case(
        CONSTRAINED, *constrained("critical,permitted;IP:::/::", "IP:127.0.0.1"), host="127.0.0.1"),
    "name constraints: two CAs further up": lambda: Case(
        CONSTRAINED, *chain({"nameConstraints": "permitted;DNS:b.test"}, {}, {})),
    "name constraints: the root's": lambda: Case(CONSTRAINED, leaf(narrow_root()), trust=[narrow_root()]),
    "name constraints: widened below": lambda: Case(
        CONSTRAINED, *chain({"nameConstraints": "permitted;DNS:b.test"},
                            {"nameConstraints": "permitted;DNS:localhost"})),
    "name constraints: directory names": lambda: Case(
        CONSTRAINT_FORM, *constrained("critical,permitted;dirName:there", more="[there]\nO = x")),
    "name constraints: URIs, not critical": lambda: Case(
        CONSTRAINT_FORM, *constrained("excluded;URI:b.test")),
    "name constraints: e-mail beside a good one": lambda: Case(
        CONSTRAINT_FORM, *constrained("critical,permitted;DNS:localhost,permitted;email:b.test")),
    "name constraints: with a minimum": lambda: Case(
        CONSTRAINT_FORM, *constrained(raw("3012A010300E82096C6F63616C686F7374800101"))),
    "name constraints: broken": lambda: Case(MALFORMED, *constrained(raw("3000"))),
    "leaf with an unknown extension twice": lambda: Case(
        TWICE, with_extension(leaf(root()), root(), *[extension(UNKNOWN, b"?")] * 2)),
    "CA with its constraints twice": lambda: Case(
        TWICE, good(), with_extension(mid(), root(), twice="551d13")),
    "leaf with an unknown critical extension": lambda: Case(
        CRITICAL, with_extension(leaf(root()), root(), extension(UNKNOWN, b"?", critical=True))),
    "leaf that is precertificate": lambda: Case(
        CRITICAL, leaf(root(), **{"1.3.6.1.4.1.11129.2.4.3": "critical,ASN1:NULL"})),
    "CA with an unknown critical extension": lambda: Case(
        CRITICAL, good(), with_extension(mid(), root(), extension(UNKNOWN, b"?", critical=True))),
    "CA with critical policy constraints": lambda: Case(
        CRITICAL, *chain({"policyConstraints": "critical,requireExplicitPolicy:0"})),
    "leaf with SHA-1": lambda: Case(WEAK_SIGNATURE, leaf(root(), options=("-sha1",))),
    "leaf with SHA-224": lambda: Case(WEAK_SIGNATURE, leaf(root(), options=("-sha224",))),
    "leaf with SHA-1, RSA": lambda: Case(
        WEAK_SIGNATURE, leaf(rsa_root(), options=("-sha1",)), trust=[rsa_root()]),
    "leaf with MD5": lambda: Case(WEAK_SIGNATURE, leaf(rsa_root(), options=("-md5",)), trust=[rsa_root()]),
    "CA with SHA-1": lambda: Case(WEAK_SIGNATURE, good(), ca(root(), options=("-sha1",))),
    "leaf with RSA-PSS": lambda: Case(
        ALGORITHM, leaf(rsa_root(), options=("-sha256", "-sigopt", "rsa_padding_mode:pss")),
        trust=[rsa_root()]),
    "leaf with SHA-3": lambda: Case(ALGORITHM, leaf(root(), options=("-sha3-256",))),
    "leaf by an Ed25519 key": lambda: Case(ALGORITHM, *chain({"key": "ed25519"}, options=())),
    "leaf with RSA 1024": lambda: Case(WEAK_KEY, leaf(root(), key="rsa1024")),
    "leaf with RSA 2040": lambda: Case(WEAK_KEY, leaf(root(), key="rsa2040")),
    "CA with RSA 1024": lambda: Case(WEAK_KEY, *chain({"key": "rsa1024"})),
    "CA with RSA 4104": lambda: Case(KEY, *chain({"key": "rsa4104"})),
    "CA with P-521": lambda: Case(KEY, *chain({"key": "ec521"})),
    "CA with secp256k1": lambda: Case(KEY, *chain({"key": "k256"})),
    **{f"expired, {where}": case for where, case in outdated("200101", "210101", EXPIRED).items()},
    **{f"not valid yet, {where}": case for where, case in outdated("480101", "490101", EARLY).items()},
    "of nine": lambda: Case(TOO_MANY, *many(9)),
    "of over 32 kB": lambda: Case(TOO_MANY, *many(3, 12000)),
}


def issued_by_digicert() -> Certificate:
    """A CA that calls itself like an embedded root."""
    key = ca(None, "DigiCert", more="")
    name = der(SEQUENCE, *(
        der(0x31, der(SEQUENCE, der(6, b"\x55\x04" + bytes([kind])), der(0x13, text))) for kind, text in
        ((6, b"US"), (10, b"DigiCert Inc"), (11, b"www.digicert.com"), (3, b"DigiCert Global Root G2"))))
    return changed(key, key, lambda tbs: (tbs.__setitem__(3, name), tbs.__setitem__(5, name)))


@cases(GOOD_CHAINS)
def test_good_chains(case: Callable[[], Case], lab: Lab, gateway: Gateway):
    case().run(lab, gateway)


@cases(BAD_CHAINS)
def test_bad_chains(case: Callable[[], Case], lab: Lab, gateway: Gateway):
    case().run(lab, gateway)


GNUTLS = (
    "by the root", "with one in between", "with its root", "of eight", "leaf with the least", "RSA 2048",
    "leaf with P-384", "name constraints: the name", "RSA with SHA-512", "by an unknown root", "of nine",
    "the one in between is missing", "by an impostor of the root", "leaf is a CA", "expired, leaf",
    "leaf with critical clientAuth", "leaf with SHA-1", "leaf with RSA 1024", "not valid yet, leaf",
    "name constraints: another permitted", "pathLen 0 with a CA below")


@pytest.mark.parametrize("name", GNUTLS)
def test_chains_from_gnutls(name: str, lab: Lab, gateway: Gateway):
    {**GOOD_CHAINS, **BAD_CHAINS}[name]().run(lab, gateway, GnuTls)


# ------------------------------------------------------------------------ a chain as a public broker sends it

# Signed certificate timestamps (RFC 6962 §3.3): a list of one, of 119 bytes, whose contents do not count.
TIMESTAMPS = f"ASN1:FORMAT:HEX,OCTETSTRING:0079007700{'ab' * 32}0000019000000000000004030048{'cd' * 72}"


def digicert_shape() -> tuple[list[Certificate], Certificate]:
    """The chain and its root: key types and extensions as a public broker's, RSA and SHA-256 throughout."""
    top = ca(None, "test Global Root G2", subjectKeyIdentifier="hash",
             keyUsage="critical,digitalSignature,keyCertSign,cRLSign", **rsa)
    issuing = ca(top, "test TLS RSA CA G1", **{
        **rsa, "basicConstraints": "critical,CA:true,pathlen:0", "subjectKeyIdentifier": "hash",
        "authorityKeyIdentifier": "keyid", "keyUsage": "critical,digitalSignature,keyCertSign,cRLSign",
        "extendedKeyUsage": "serverAuth,clientAuth", "certificatePolicies": "2.5.29.32.0",
        "authorityInfoAccess": "OCSP;URI:http://ocsp.a.test,caIssuers;URI:http://cacerts.a.test/root.crt",
        "crlDistributionPoints": "URI:http://crl3.a.test/root.crl"})
    own = leaf(issuing, name="*.broker.a.test", **{
        **rsa, "subjectAltName": "DNS:*.broker.a.test,DNS:broker.a.test", "subjectKeyIdentifier": "hash",
        "authorityKeyIdentifier": "keyid", "keyUsage": "critical,digitalSignature,keyEncipherment",
        "extendedKeyUsage": "serverAuth,clientAuth", "certificatePolicies": "2.23.140.1.2.1",
        "authorityInfoAccess": "OCSP;URI:http://ocsp.a.test,caIssuers;URI:http://cacerts.a.test/ca.crt",
        "crlDistributionPoints": "URI:http://crl3.a.test/ca.crl,URI:http://crl4.a.test/ca.crl",
        "1.3.6.1.4.1.11129.2.4.2": TIMESTAMPS})
    return [own, issuing], top


@pytest.mark.parametrize("host, verdict", (("eu.broker.a.test", OK), ("broker.a.test", OK), ("a.test", NAME)))
@pytest.mark.parametrize("kind", (OpenSsl, GnuTls))
def test_digicert_shape(kind: type[TlsServer], host: str, verdict: str, lab: Lab, gateway: Gateway):
    send, top = digicert_shape()
    Case(verdict, *send, trust=[top], MQTT_TLS_SERVER_NAME=host).run(lab, gateway, kind)


# ----------------------------------------------------------------------------------------------- TLS settings


@functools.cache
def own(kind: str) -> Certificate:
    return leaf(root(), key=kind)


def offering(verdict: str, key: str, *args: str, prints: str = "") -> Callable[[], Case]:
    return lambda: Case(verdict, own(key), args=args, prints=prints)


OLD = ("-cipher", "ALL:@SECLEVEL=0")
SUITES = [f"ECDHE-{kind}-{cipher}" for kind in ("ECDSA", "RSA")
          for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")]
OPENSSL_SETTINGS = {
    **{suite: offering(OK, "rsa" if "-RSA-" in suite else "ec", "-cipher", suite, prints=f"CIPHER is {suite}")
       for suite in SUITES},
    **{f"group {group}": offering(OK, "rsa", "-curves", group, prints=f"Shared groups: {shared}\n")
       for group, shared in (("X25519", "x25519"), ("P-256", "secp256r1"), ("P-384", "secp384r1"))},
    "X25519 comes first": offering(OK, "ec", prints="Supported groups: x25519:secp256r1:secp384r1\n"),
    "TLS 1.2 only": offering(OK, "ec", "-tls1_2"),
    "TLS 1.2 and 1.3": offering(OK, "ec", "-no_tls1", "-no_tls1_1", prints="CIPHER is ECDHE"),
    "signatures with SHA-512": offering(OK, "rsa", "-sigalgs", "RSA+SHA512"),
    "signatures with SHA-384": offering(OK, "ec", "-sigalgs", "ECDSA+SHA384"),
    "small records": offering(OK, "rsa", "-max_send_frag", "512"),
    "a client certificate is wanted": offering(OK, "ec", "-verify", "1"),
    "TLS 1.3 only": offering(NO_TLS12, "ec", "-tls1_3"),
    "TLS 1.1 only": offering(NOTHING_SHARED, "ec", "-tls1_1", *OLD),
    "TLS 1.0 only": offering(NOTHING_SHARED, "ec", "-tls1", *OLD),
    "RSA key exchange": offering(NOTHING_SHARED, "rsa", "-cipher", "kRSA:@SECLEVEL=0"),
    "CBC only": offering(NOTHING_SHARED, "rsa", "-cipher",
                         "ECDHE-RSA-AES128-SHA256:ECDHE-RSA-AES256-SHA:@SECLEVEL=0"),
    "CBC only, ECDSA": offering(NOTHING_SHARED, "ec", "-cipher", "ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0"),
    "DHE only": offering(NOTHING_SHARED, "rsa", "-cipher",
                         "DHE-RSA-AES128-GCM-SHA256:DHE-RSA-CHACHA20-POLY1305"),
    "CCM only": offering(NOTHING_SHARED, "ec", "-cipher", "AESCCM"),
    "ARIA and Camellia only": offering(NOTHING_SHARED, "ec", "-cipher", "ARIA:CAMELLIA"),
    "no encryption": offering(NOTHING_SHARED, "rsa", "-cipher", "eNULL:@SECLEVEL=0"),
    "no authentication": offering(NOTHING_SHARED, "rsa", "-cipher", "aNULL:@SECLEVEL=0"),
    "pre-shared keys": offering(NOTHING_SHARED, "rsa", "-cipher", "PSK", "-psk", "00ff"),
    "P-521 only": offering(NOTHING_SHARED, "rsa", "-curves", "P-521"),
    "X448 only": offering(NOTHING_SHARED, "rsa", "-curves", "X448"),
    "signatures with RSA-PSS only": offering(NOTHING_SHARED, "rsa", "-sigalgs", "RSA-PSS+SHA256"),
    "signatures with SHA-1 only": offering(NOTHING_SHARED, "rsa", "-sigalgs", "RSA+SHA1", *OLD),
    "a P-521 key": offering(NOTHING_SHARED, "ec521"),
    "an Ed25519 key": offering(NOTHING_SHARED, "ed25519"),
    "a client certificate is demanded": offering(NOTHING_SHARED, "ec", "-Verify", "1"),
}


@cases(OPENSSL_SETTINGS)
def test_openssl_settings(case: Callable[[], Case], lab: Lab, gateway: Gateway):
    case().run(lab, gateway)


def priority(verdict: str, key: str, text: str, prints: str = "") -> Callable[[], Case]:
    return offering(verdict, key, "--priority", f"NORMAL:-VERS-ALL:+VERS-TLS1.2{text}", prints=prints)


GNUTLS_SETTINGS = {
    **{f"{cipher}, {key}": priority(OK, key, f":-CIPHER-ALL:+{cipher}", prints=f"Cipher: {cipher}\n")
       for cipher in ("AES-128-GCM", "AES-256-GCM", "CHACHA20-POLY1305") for key in ("ec", "rsa")},
    **{f"group {group}": priority(OK, "rsa", f":-GROUP-ALL:+GROUP-{group}", prints=f"ECDHE-{group}")
       for group in ("X25519", "SECP256R1", "SECP384R1")},
    "TLS 1.2 and 1.3": offering(OK, "ec", prints="Version: TLS1.2"),
    "a server name": offering(OK, "ec", "--sni-hostname", "localhost", "--sni-hostname-fatal"),
    "small records": offering(OK, "rsa", "--recordsize", "512"),
    "TLS 1.3 only": offering(NOTHING_SHARED, "ec", "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3"),
    "TLS 1.1 only": offering(NOTHING_SHARED, "ec", "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.1"),
    "TLS 1.0 only": offering(NOTHING_SHARED, "ec", "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.0"),
    "RSA key exchange": priority(NOTHING_SHARED, "rsa", ":-KX-ALL:+RSA"),
    "DHE only": priority(NOTHING_SHARED, "rsa", ":-KX-ALL:+DHE-RSA"),
    "CBC only": priority(NOTHING_SHARED, "rsa", ":-CIPHER-ALL:+AES-128-CBC:+AES-256-CBC"),
    "CCM only": priority(NOTHING_SHARED, "ec", ":-CIPHER-ALL:+AES-128-CCM:+AES-256-CCM"),
    "P-521 only": priority(NOTHING_SHARED, "rsa", ":-GROUP-ALL:+GROUP-SECP521R1"),
    "a P-521 key": offering(KEY, "ec521"),
    "another server name": offering(UNKNOWN_NAME, "ec", "--sni-hostname", "other", "--sni-hostname-fatal"),
    "no client certificate is wanted": offering(OK, "ec", "--disable-client-cert"),
    "a client certificate is demanded": offering(ALERT, "ec", "--require-client-cert"),
    # What OpenSSL does not send.
    "leaf without digitalSignature": lambda: Case(
        KEY_USAGE, leaf(root(), keyUsage="critical,keyAgreement"),
        args=("--priority", "NORMAL:%DEBUG_ALLOW_KEY_USAGE_VIOLATIONS")),
}


@cases(GNUTLS_SETTINGS)
def test_gnutls_settings(case: Callable[[], Case], lab: Lab, gateway: Gateway):
    case().run(lab, gateway, GnuTls)


SNI = {
    "a name": ("localhost", {}, "localhost"),
    "a name with a final dot": ("localhost.", {}, "localhost"),
    "an address": ("127.0.0.1", {}, None),
    "an IPv6 address": ("::1", {}, None),
    "MQTT_TLS_SERVER_NAME": ("127.0.0.1", {"MQTT_TLS_SERVER_NAME": "broker.a.test"}, "broker.a.test"),
    "MQTT_TLS_SERVER_NAME, an address": ("localhost", {"MQTT_TLS_SERVER_NAME": "192.0.2.1"}, None),
}


@pytest.mark.parametrize("host, env, sent", SNI.values(), ids=SNI)
def test_server_name_indication(host: str, env: dict[str, str], sent: str | None, lab: Lab, gateway: Gateway):
    """RFC 6066 §3: for names, not for addresses. The certificate is for all of them."""
    names = "DNS:localhost,DNS:broker.a.test,IP:127.0.0.1,IP:::1,IP:192.0.2.1"
    args = ("-servername", "x", "-cert2", "first.pem", "-key2", "key", *(["-6"] if host == "::1" else []))
    came = Case(OK, leaf(root(), subjectAltName=names), host=host, args=args, **env).run(lab, gateway)
    assert re.findall(r'Hostname in TLS extension: "(.*)"', came.server.printed()) == ([sent] if sent else [])


def test_certificate_by_server_name(lab: Lab, gateway: Gateway):
    """A server with many names sends the certificate of the one that was asked for."""
    paths = leaf(root()).save(lab.work_dir("other"), "second")
    args = ("-servername", "localhost", "-cert2", str(paths[0]), "-key2", str(paths[1]))
    Case(OK, leaf(root(), subjectAltName="DNS:default.test"), args=args).run(lab, gateway)


class Meeting:
    """iamcat with a TLS server behind a relay, and later perhaps with another one there."""

    def __init__(self, lab: Lab, gateway: Gateway, server: TlsServer, **env: str) -> None:
        self.server, self.relay = server, lab.add(Relay(server.port))
        self.cat = lab.iamcat(settings(gateway, self.relay.port, **env))

    def visits(self) -> int:
        """How often the server has taken iamcat in."""
        return len(re.findall(self.server.taken, self.server.printed()))

    def taken(self, times: int = 1) -> None:
        either(f"{times} visits", lambda: self.visits() >= times)

    def again(self, server: TlsServer | None = None) -> int:
        """Ends the connection; the next one goes to this server. Where iamcat's log is before that."""
        before, self.server = self.server, server or self.server
        self.relay.target = self.server.port
        mark = self.cat.log.mark()
        if not before.hang_up():
            self.relay.cut()
        return mark

    def refused(self, verdict: str, since: int = 0, visits: int = 0) -> None:
        """Waits for the refusal; the server has taken it in so often, and not now."""
        self.cat.wait_log(re.escape(verdict), since=since)
        either("the end of the connection", lambda: re.search(self.server.gone, self.server.printed()))
        assert self.visits() == visits


def serving(lab: Lab, *chain: Certificate, args: tuple[str, ...] = (),
            kind: type[TlsServer] = OpenSsl) -> TlsServer:
    return lab.start(kind, lab.work_dir("server"), list(chain), *args)


@pytest.mark.parametrize("args", ((), ("-legacy_renegotiation",)), ids=("secure", "legacy"))
def test_renegotiation_is_refused(args: tuple[str, ...], lab: Lab, gateway: Gateway):
    """A HelloRequest by the server does not begin a second handshake, with another certificate maybe."""
    meeting = Meeting(lab, gateway, serving(lab, leaf(root()), args=args), MQTT_ROOT_CA=root().cert)
    meeting.taken()
    printed = meeting.server.printed
    meeting.server.type("r\n")
    either("an end of it", lambda: "no renegotiation" in printed() or printed().count("CIPHER is") > 1)
    assert printed().count("CIPHER is") == 1
    meeting.cat.wait_log(FAILED)


def test_plain_text_within_tls(lab: Lab, gateway: Gateway):
    """What is put in from outside after the handshake ends the connection."""
    meeting = Meeting(lab, gateway, serving(lab, leaf(root())), MQTT_ROOT_CA=root().cert)
    meeting.taken()
    meeting.server.type("P\n")
    assert re.search(r"error \d+", meeting.cat.wait_log(FAILED)[1])


# ------------------------------------------------------------------------------------------------- resumption

AGREEING = {"openssl": (OpenSsl, ("-no_ticket",), "Reused session-id"),
            "openssl with tickets": (OpenSsl, (), "Reused session-id"),
            "gnutls": (GnuTls, (), "This is a resumed session")}
OTHERS = {"openssl without a cache": (OpenSsl, ("-no_cache", "-no_ticket"), 0),
          "gnutls without a cache": (GnuTls, ("--nodb", "--noticket"), 32)}  # names sessions, and knows none of them


@pytest.mark.parametrize("kind, args, prints", AGREEING.values(), ids=AGREEING)
def test_session_is_resumed(kind: type[TlsServer], args: tuple[str, ...], prints: str, lab: Lab,
                            gateway: Gateway):
    """Over and over, with less than half the bytes, CONNECT included."""
    meeting = Meeting(lab, gateway, serving(lab, good(), mid(), args=args, kind=kind),
                      MQTT_ROOT_CA=root().cert)
    for times in (1, 2, 3):
        meeting.taken(times)
        meeting.again()
    full, *resumed = meeting.relay.bytes[:3]
    if kind is GnuTls:  # may get to keeping the session only when the next connection is there
        del resumed[0]
    assert all(n < full / 2 for n in resumed), meeting.relay.bytes
    assert len(re.findall(prints, meeting.server.printed())) >= len(resumed)


@pytest.mark.parametrize("kind, args, named", OTHERS.values(), ids=OTHERS)
def test_server_without_sessions(kind: type[TlsServer], args: tuple[str, ...], named: int, lab: Lab, gateway: Gateway):
    """A full handshake each time. What it did not name is not offered, and then all suites are."""
    meeting = Meeting(lab, gateway, serving(lab, good(), mid(), args=args, kind=kind),
                      MQTT_ROOT_CA=root().cert)
    for times in (1, 2):
        meeting.taken(times)
        meeting.again()
    fixed = [(hello[:11], hello[43:]) for hello in meeting.relay.hello[:2]]  # all but the random (RFC 5246 §7.4.1.2)
    assert [rest[0] for _, rest in fixed] == [0, named]
    assert fixed[0] == fixed[1] or named
    full, again = meeting.relay.bytes[:2]
    assert again > full / 2  # what the server echoes behind the handshake may come, or not


def test_server_that_has_forgotten_the_session(lab: Lab, gateway: Gateway):
    """As after a restart: a full handshake without ado, and the new session is resumed then."""
    meeting = Meeting(lab, gateway, serving(lab, good(), mid()), MQTT_ROOT_CA=root().cert)
    meeting.taken()
    meeting.again(serving(lab, good(), mid()))
    meeting.taken()
    meeting.again()
    meeting.taken(2)
    first, second, third = meeting.relay.bytes
    assert abs(first - second) < 100 and third < first / 2


def test_session_opens_no_door_to_others(lab: Lab, gateway: Gateway):
    """Another server, which can't resume it, has to show its certificate."""
    meeting = Meeting(lab, gateway, serving(lab, good(), mid()), MQTT_ROOT_CA=root().cert)
    meeting.taken()
    meeting.refused(UNTRUSTED, meeting.again(serving(lab, leaf(stranger()), stranger())))


# ---------------------------------------------------------------------------------------------------- anchors

CHANGED = "MQTT_ROOT_CA_FILE: it has changed"
STAYS = "; the certificates that were read before stay trusted"


class Rolling(Meeting):
    """With MQTT_ROOT_CA_FILE, which changes."""

    def __init__(self, lab: Lab, gateway: Gateway, server: TlsServer, *trust: Certificate) -> None:
        self.file = lab.work_dir("roots") / "roots.pem"
        self.trust(pem(list(trust)))
        super().__init__(lab, gateway, server, MQTT_ROOT_CA_FILE=str(self.file))

    def trust(self, text: str) -> None:
        """The file is replaced in one step, as administrators do it."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.file)


def test_root_is_rolled_over(lab: Lab, gateway: Gateway):
    """Without a restart; and the old root is trusted no more."""
    meeting = Rolling(lab, gateway, serving(lab, good(), mid()), root())
    meeting.taken()
    meeting.trust(stranger().cert)
    since = meeting.again(serving(lab, leaf(stranger())))
    meeting.taken()
    meeting.cat.wait_log(CHANGED, since=since)
    meeting.refused(UNTRUSTED, meeting.again(serving(lab, good(), mid())))


def test_session_does_not_outlive_its_root(lab: Lab, gateway: Gateway):
    """The server would resume it, and need not show its certificate."""
    meeting = Rolling(lab, gateway, serving(lab, good(), mid()), root())
    meeting.taken()
    meeting.again()
    meeting.taken(2)
    assert "Reused" in meeting.server.printed()
    meeting.trust(stranger().cert)
    meeting.refused(UNTRUSTED, meeting.again(), visits=2)


def test_renewed_root_with_the_same_key(lab: Lab, gateway: Gateway):
    """Only the end of its time is new."""
    meeting = Rolling(lab, gateway, serving(lab, leaf(root())), dated(root(), root(), "200101", "210101"))
    meeting.refused(ANCHOR_EXPIRED)
    meeting.trust(dated(root(), root(), "200101", "491231").cert)
    meeting.taken()


LIMITS = {"no CA": ({"basicConstraints": "critical,CA:false"}, UNTRUSTED),
          "no CA below": ({"basicConstraints": "critical,CA:true,pathlen:0"}, PATH_LENGTH),
          "other names": ({"nameConstraints": "critical,permitted;DNS:b.test"}, CONSTRAINED)}


@pytest.mark.parametrize("limit, verdict", LIMITS.values(), ids=LIMITS)
def test_renewed_root_with_limits(limit: dict[str, str], verdict: str, lab: Lab, gateway: Gateway):
    """The same name, key and dates, but for less."""
    old, new = (dated(root_, root_, "200101", "491231") for root_ in (root(), ca(None, "test root", **limit)))
    meeting = Rolling(lab, gateway, serving(lab, good(), mid(), args=("-no_cache",)), old)
    meeting.taken()
    meeting.trust(new.cert)
    meeting.refused(verdict, meeting.again(), visits=1)


SPOILT = {
    "gone": (lambda m: m.file.unlink(), "no such file"),
    "a directory": (lambda m: (m.file.unlink(), m.file.mkdir()), "it is a directory"),
    "a pipe that nobody fills": (lambda m: (m.file.unlink(), os.mkfifo(m.file)), ""),
    "empty": (lambda m: m.trust(""), "no certificate in it"),
    "no certificate": (lambda m: m.trust("nothing\n"), "no certificate in it"),
    "cut off": (lambda m: m.trust(pem([stranger(), root()])[:-60]), "certificate 2: "),
    "with a key": (lambda m: m.trust(stranger().cert + stranger().key),
                   "certificate 2: BEGIN CERTIFICATE is expected"),
}


@pytest.mark.parametrize("spoil, words", SPOILT.values(), ids=SPOILT)
def test_unreadable_later(spoil: Callable[[Rolling], Any], words: str, lab: Lab, gateway: Gateway):
    """The last good roots stay, and it says so."""
    meeting = Rolling(lab, gateway, serving(lab, good(), mid(), args=("-no_cache",)), root())
    meeting.taken()
    spoil(meeting)
    said = meeting.cat.wait_log(f" warn  (.*{STAYS})$", since=meeting.again())[1]
    assert said.startswith("MQTT_ROOT_CA_FILE: ") and words in said
    meeting.taken(2)


def test_unreadable_for_long(lab: Lab, gateway: Gateway):
    """It says so once; and a good file counts again."""
    meeting = Rolling(lab, gateway, serving(lab, good(), mid(), args=("-no_cache",)), root())
    meeting.taken()
    meeting.trust("nothing")
    for times in (2, 3):
        meeting.again()
        meeting.taken(times)
    assert len(meeting.cat.log.find(STAYS)) == 1
    meeting.trust(stranger().cert)
    meeting.refused(UNTRUSTED, meeting.again(), visits=3)


BUNDLE = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")


@pytest.mark.parametrize("order", (0, 1), ids=("ours last", "ours first"))
def test_large_bundle(order: int, lab: Lab, gateway: Gateway):
    """Debian's, with all of its roots, and one of our own."""
    text = [BUNDLE.read_text(), root().cert]
    assert text[0].count("BEGIN CERTIFICATE") > 100
    path = lab.work_dir("roots") / "all.pem"
    path.write_text("".join(text[::-1] if order else text))
    Case(OK, good(), mid(), trust=[], MQTT_ROOT_CA_FILE=str(path)).run(lab, gateway)


def test_own_roots_replace_the_embedded_ones(lab: Lab, gateway: Gateway):
    """With them the name of an embedded one is known (but not that key)."""
    Case(UNTRUSTED, leaf(issued_by_digicert())).run(lab, gateway)


UNREADABLE = {
    "nothing in it": (lambda: "roots", "no certificate in it"),
    "damaged base64": (lambda: root().cert.replace("\nMII", "\n!II", 1),
                       "certificate 1: its text is damaged"),
    "the second is damaged": (lambda: root().cert + stranger().cert.replace("\nMII", "\nM*I", 1),
                              "certificate 2: its text is damaged"),
    "the second is cut off": (lambda: root().cert + stranger().cert[:-40], "certificate 2: "),
    "a private key": (lambda: root().key, "certificate 1: BEGIN CERTIFICATE is expected"),
    "a private key behind two": (lambda: pem([root(), stranger()]) + root().key,
                                 "certificate 3: BEGIN CERTIFICATE is expected"),
    "a signing request": (lambda: root().cert.replace("CERTIFICATE", "CERTIFICATE REQUEST"),
                          "certificate 1: BEGIN CERTIFICATE"),
    "not a certificate": (lambda: f"-----BEGIN CERTIFICATE-----\n{'AAAA' * 20}\n-----END CERTIFICATE-----\n",
                          f"certificate 1: {MALFORMED}"),
    "RSA 1024": (lambda: root().cert + ca(None, "small", key="rsa1024").cert,
                 f"certificate 2: {WEAK_KEY}"),
    "Ed25519": (lambda: ca(None, "ed", key="ed25519", options=()).cert,
                f"certificate 1: {KEY}"),
    "P-521": (lambda: root().cert + ca(None, "p521", key="ec521").cert,
              f"certificate 2: {KEY}"),
    "RSA 4104": (lambda: ca(None, "big", key="rsa4104").cert,
                 f"certificate 1: {KEY}"),
    "an unknown critical extension": (
        lambda: with_extension(root(), root(), extension(UNKNOWN, b"?", critical=True)).cert,
        f"certificate 1: {CRITICAL}"),
    "name constraints of an unknown kind": (
        lambda: ca(None, "odd", nameConstraints="critical,permitted;URI:b.test").cert,
        f"certificate 1: {CONSTRAINT_FORM}"),
    "257 of them": (lambda: root().cert * 257, "certificate 257: too many"),
}


@pytest.mark.parametrize("variable", ("MQTT_ROOT_CA", "MQTT_ROOT_CA_FILE"))
def test_unreadable_at_the_start(variable: str, lab: Lab, gateway: Gateway):
    """Names the variable, the certificate's number and the reason; exit status 2."""
    for name, (make, words) in UNREADABLE.items():
        text = make()
        if variable == "MQTT_ROOT_CA" and len(text) > 100_000:
            continue  # more than an environment variable can have
        path = lab.work_dir("roots") / "roots.pem"
        path.write_text(text)
        value = text if variable == "MQTT_ROOT_CA" else str(path)
        cat = lab.iamcat(settings(gateway, 1, **{variable: value}))
        assert cat.wait() == 2, name
        said = [line for line in cat.log.lines if variable in line]
        assert len(said) == 1 and re.search(rf" error {variable}\b.*{words}", said[0]), (name, cat.log.lines)
        assert root().key.splitlines()[1] not in cat.log.tail()


# ------------------------------------------------------------------------------------------------------- time


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch):
    """Sets iamcat's clock: not the monotonic one."""
    library, = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")

    def set_clock(date: str) -> dict[str, str]:
        monkeypatch.setitem(PASSED, "ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0")
        return {"LD_PRELOAD": library, "FAKETIME": f"@{date} 12:00:00", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    return set_clock


def lasting(since: str, until: str) -> list[Certificate]:
    """A leaf with these dates, and its root, which has 1950 to 2049."""
    top = dated(root(), root(), "500101", "491231")
    return [dated(leaf(root()), root(), since, until), top]


CLOCKS = {
    "1970": ("1970-01-01", "200101", "491231", OK),
    "before the build": ("2001-01-01", "200101", "491231", OK),
    "1970, long expired": ("1970-01-01", "690101", "210101", EXPIRED),  # but valid by that clock
    "2040": ("2040-01-01", "200101", "491231", OK),
    "2040, expired in between": ("2040-01-01", "200101", "391231", EXPIRED),
    "2040, from then on": ("2040-01-01", "391231", "491231", OK),
    "2040, not valid yet": ("2040-01-01", "400102", "491231", EARLY),
    "the last day": ("2040-01-01", "200101", "400102", OK),
}


@pytest.mark.parametrize("clock, since, until, verdict", CLOCKS.values(), ids=CLOCKS)
def test_clock(clock: str, since: str, until: str, verdict: str, at: Any, lab: Lab, gateway: Gateway):
    """Certificates are checked for the later of the clock and the time of the build."""
    send, top = lasting(since, until)
    said = Case(verdict, send, trust=[top], **at(clock)).run(lab, gateway).said
    if verdict != OK:
        checked = re.search(r"checked for (\S+);", said)[1]
        assert checked == clock if clock > "2030" else "2024" < checked < "2100"


@pytest.mark.parametrize("clock, wrong", (("1970-01-01", True), ("2040-01-01", False)))
def test_clock_before_the_build(clock: str, wrong: bool, at: Any, lab: Lab):
    """It says so in words, and what that means for the token's dates; and works nevertheless."""
    send, top = lasting("200101", "491231")
    broker, api = lab.add(FakeBroker(send)), lab.add(FakeApi())
    cat = lab.iamcat(lab.env(broker, api, MQTT_ROOT_CA_FILE="", MQTT_ROOT_CA=top.cert, **at(clock)))
    broker.connection()
    said = [m[1] for m in cat.log.find(r" warn  (.*clock.*)")]
    assert len(said) == wrong
    assert not wrong or re.search(f"clock is wrong, it says {clock}T.*token's dates are wrong", said[0])


# ---------------------------------------------------------------------------------------------------- secrets

PLAIN = ROOT / "iamcat"  # the sanitizers' own memory and signal handlers do not count
# The dynamic linker, when it looks a function up late, saves the vector registers on the stack, with what was
# copied last in them: that is nobody's to wipe.
EARLY_BINDING = {"LD_BIND_NOW": "1"}


def memory_of(process: Process) -> Iterator[bytes]:
    """What it can read and write itself (as root)."""
    with open(f"/proc/{process.pid}/mem", "rb", 0) as memory:
        for line in pathlib.Path(f"/proc/{process.pid}/maps").read_text().splitlines():
            start, end = (int(n, 16) for n in line.split()[0].split("-"))
            if " rw" in line:
                memory.seek(start)
                yield memory.read(end - start)


def asleep(process: Process) -> bool:
    """It has done all that there was to do, and waits."""
    return pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "S"


def places(process: Process, secret: str | bytes) -> int:
    """How often a good part of it is in its memory, once it waits."""
    either("its rest", lambda: asleep(process))
    raw = secret.encode() if isinstance(secret, str) else secret
    size = min(32, len(raw))
    pieces = [raw[i:i + size] for i in range(0, len(raw) - size + 1, size)]
    return sum(area.count(piece) for area in memory_of(process) for piece in pieces)


def secret_token(request: Any) -> bytes:
    """A token with nothing in it that is elsewhere, too."""
    return http_reply({"jwt": SECRET, "headers": {}, "data": {}, "expires_in": 5})


SECRET = "".join(random.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(350))


def chunked_token(request: Any) -> bytes:
    """What is behind the long extension is moved to the front when the chunks are put together."""
    first, rest = b'{"headers": {}, "jwt": "', SECRET.encode() + b'"}'
    return (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" +
            b"%x;%s\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(first), b"x" * 500, first, len(rest), rest))


@pytest.mark.parametrize("route", (secret_token, chunked_token))
def test_token_leaves_memory(route: Any, lab: Lab):
    """After CONNECT it is nowhere; the serial number, which shows that the search finds, is."""
    broker, api = lab.add(FakeBroker(lab.certificate)), lab.add(FakeApi({"/api/jwt/create": route}))
    cat = lab.iamcat(lab.env(broker, api, **EARLY_BINDING), binary=PLAIN)
    broker.connection()
    assert broker.history[0].password.decode() == SECRET
    assert places(cat, broker.history[0].client_id) > 0
    assert places(cat, SECRET) == 0


def test_token_leaves_memory_when_it_was_not_used(lab: Lab):
    """A broker that is refused does not get it, and it is not kept."""
    server, answers = serving(lab, leaf(stranger())), iter([secret_token])
    api = lab.add(FakeApi({"/api/jwt/create": lambda r: next(answers, lambda r: [HANG])(r)}))
    cat = lab.iamcat(lab.env(server, api, **EARLY_BINDING), binary=PLAIN)
    cat.wait_log(UNTRUSTED)
    assert places(cat, SECRET) == 0


def test_session_leaves_memory(lab: Lab, gateway: Gateway):
    """The master secret is there to be resumed, until the connection is refused."""
    server = serving(lab, good(), mid(), args=("-keylogfile", "keys"))
    relay = lab.add(Relay(server.port))
    cat = lab.iamcat(settings(gateway, relay.port, MQTT_ROOT_CA=root().cert, **EARLY_BINDING), binary=PLAIN)
    either("a visit", lambda: re.search(server.taken, server.printed()))
    text, = pathlib.Path(f"/proc/{server.pid}/cwd/keys").read_text().splitlines()[-1:]
    master = bytes.fromhex(text.split()[2])
    assert len(master) == 48 and places(cat, master) > 0
    relay.target = serving(lab, leaf(stranger())).port
    relay.cut()
    cat.wait_log(UNTRUSTED)
    assert places(cat, master) == 0


def test_no_core_dump(lab: Lab, gateway: Gateway):
    """Not even where dumps have no limit (which a program without the rule shows)."""

    def dumped(argv: list[Any], env: dict[str, str], ready: Callable[[Process], Any]) -> bool:
        limit = ["sh", "-c", 'ulimit -c unlimited && exec "$@"', "sh"]
        process = lab.start(Process, "victim", argv, lab.work_dir("victim"), env, limit)
        ready(process)
        process.send_signal(signal.SIGSEGV)
        end = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert end.si_status == signal.SIGSEGV and process.wait() == -signal.SIGSEGV
        return end.si_code == os.CLD_DUMPED

    assert dumped(["sh", "-c", "echo ready; exec sleep 60"], {}, lambda p: p.out.wait("ready"))
    assert not dumped([PLAIN], settings(gateway, 1), lambda p: p.wait_log(FAILED))


# -------------------------------------------------------------------------------------------------- bad input


def certificates(raw: list[bytes]) -> bytes:
    body = b"".join(len(r).to_bytes(3, "big") + r for r in raw)
    return message(11, len(body).to_bytes(3, "big") + body)


def spoilt(*places: int, by: bytes) -> Certificate:
    """A good leaf, its part at that place replaced and signed again: in the TBSCertificate, or deeper."""

    def change(tbs: list[bytes]) -> None:
        def inner(element: bytes, at: tuple[int, ...]) -> bytes:
            if not at:
                return by
            below = parts(content(element))
            below[at[0]] = inner(below[at[0]], at[1:])
            return der(element[0], *below)

        tbs[places[0]] = inner(tbs[places[0]], places[1:])

    return changed(leaf(root()), root(), change)


def with_value(oid: str, value: bytes) -> Certificate:
    """A good leaf with this value in place of, or beside, its extensions."""

    def change(tbs: list[bytes]) -> None:
        there = [e for e in parts(content(content(tbs[-1]))) if content(parts(content(e))[0]).hex() != oid]
        tbs[-1] = der(EXTENSIONS, der(SEQUENCE, *there, extension(oid, value)))

    return changed(leaf(root()), root(), change)


def inverse(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1:]


# What no server of these sends: in its place into the flight of one that has the leaf's key.
FORGED = {
    "no certificate": (BROKEN, lambda good: []),
    "an empty certificate": (MALFORMED, lambda good: [b""]),
    "one byte": (MALFORMED, lambda good: [b"\x30"]),
    "a byte behind it": (MALFORMED, lambda good: [good + b"\0"]),
    "a byte too few": (MALFORMED, lambda good: [good[:-1]]),
    "an indefinite length": (MALFORMED, lambda good: [b"\x30\x80" + content(good) + b"\0\0"]),
    "a length in too many bytes": (MALFORMED, lambda good: [b"\x30\x83\0" + good[2:]]),
    "a length beyond its end": (MALFORMED, lambda good: [b"\x30\x84\x7f\xff\xff\xff" + content(good)]),
    "random bytes": (MALFORMED, lambda good: [random.Random(1).randbytes(1500)]),
    "zeros": (MALFORMED, lambda good: [bytes(1500)]),
    "nested too deeply": (MALFORMED, lambda good: [b"\x30\x82\x40\x00" * 4000]),
    "one of 40 kB": (TOO_MANY, lambda good: [bytes(40000)]),
    "one thousand": (TOO_MANY, lambda good: [good] + [b"\x30\0"] * 1000),
    "another's, without its key": (WRONG_KEY, lambda good: [to_der(leaf(root(), key_name="another"))]),
    "another's of another kind": (NOTHING_SHARED, lambda good: [to_der(leaf(root(), **rsa))]),
    "its name twice": (TWICE, lambda good: [to_der(with_extension(leaf(root()), root(), twice=SAN))]),
    "its use twice": (TWICE,
                      lambda good: [to_der(with_extension(leaf(root()), root(), twice=EXTENDED_KEY_USAGE))]),
    "no digitalSignature": (KEY_USAGE,
                            lambda good: [to_der(leaf(root(), keyUsage="critical,keyEncipherment"))]),
    "an empty key usage": (MALFORMED, lambda good: [to_der(with_value("551d0f", b"\3\1\0"))]),
    "an empty extended key usage": (MALFORMED,
                                    lambda good: [to_der(with_value(EXTENDED_KEY_USAGE, b"\x30\0"))]),
    "basic constraints cut": (MALFORMED, lambda good: [to_der(with_value("551d13", b"\x30\3\1\1"))]),
    "a name of no kind": (MALFORMED, lambda good: [to_der(with_value(SAN, b"\x30\3\x82\4a"))]),
    "February 30": (MALFORMED, lambda good: [to_der(spoilt(4, 0, by=b"\x17\x0d250230000000Z"))]),
    "a date without Z": (MALFORMED, lambda good: [to_der(spoilt(4, 0, by=b"\x17\x0c250203000000"))]),
    "a date of letters": (MALFORMED, lambda good: [to_der(spoilt(4, 1, by=b"\x17\x0d49123100000xZ"))]),
    "version 300": (VERSION, lambda good: [to_der(spoilt(0, 0, by=b"\2\2\1\x2c"))]),
    "no extensions in the list": (MALFORMED, lambda good: [to_der(spoilt(7, 0, by=b"\x30\0"))]),
    "an element too many": (MALFORMED, lambda good: [to_der(changed(leaf(root()), root(),
                                                                    lambda tbs: tbs.append(b"\4\0")))]),
    "a key that is no point": (MALFORMED,
                               lambda good: [to_der(spoilt(6, 1, by=der(BITS, b"\0\x05" + bytes(64))))]),
    "a P-521 key": (KEY, lambda good: [to_der(own("ec521"))]),
    "an Ed25519 key": (KEY, lambda good: [to_der(own("ed25519"))]),
    "a changed signature": (SIGNATURE, lambda good: [inverse(good, -3)]),
}


def meet(lab: Lab, gateway: Gateway, meddler: Meddler, count: int = 1, **env: str) -> list[Process]:
    """So many iamcats go there, once each."""
    trust = {"MQTT_ROOT_CA": root().cert, **env}
    cats = [lab.iamcat(settings(gateway, meddler.port, **trust)) for _ in range(count)]
    for cat in cats:
        cat.wait_log(FAILED)
        assert cat.stop() == 0
    assert meddler.application_data() == []
    return cats


@pytest.mark.parametrize("verdict, make", FORGED.values(), ids=FORGED)
def test_forged_certificates(verdict: str, make: Callable[[bytes], list[bytes]], lab: Lab, gateway: Gateway):
    def change(flight: bytes, number: int) -> bytes:
        hello, _, *rest = handshake(flight)
        return records([hello, certificates(raw), *rest])

    mine = leaf(root())
    raw = make(to_der(mine))
    cat, = meet(lab, gateway, meddler := lab.add(Meddler(mine, change)))
    Case(verdict).check_words(cat.log.find(FAILED)[0][1], meddler.port)


def test_flipped_bits(lab: Lab, gateway: Gateway):
    """One, anywhere in what a good server sends up to ServerHelloDone."""
    count = 30

    def change(flight: bytes, number: int) -> bytes:
        at = (2 * number + 1) * len(flight) // (2 * count) % len(flight)
        return flight[:at] + bytes([flight[at] ^ 1 << number % 8]) + flight[at + 1:]

    meet(lab, gateway, lab.add(Meddler(leaf(root()), change)), count)


def test_cut_off(lab: Lab, gateway: Gateway):
    """The connection ends anywhere in there."""
    count = 12
    meddler = Meddler(leaf(root()), lambda flight, number: [flight[:number % count * len(flight) // count]])
    meet(lab, gateway, lab.add(meddler), count)


def test_random_bytes(lab: Lab, gateway: Gateway):
    """In place of all that, and behind its beginning; as records, as handshake messages, as nothing."""
    count = 15

    def change(flight: bytes, number: int) -> list[bytes]:
        chance = random.Random(number)
        noise, hello = chance.randbytes(2000), handshake(flight)[0]
        kind = number // 3 % 5
        if kind == 0:
            return [noise]
        if kind == 1:  # one record of any kind
            return [bytes([20 + number % 3]) + b"\x03\x03" + len(noise).to_bytes(2, "big") + noise]
        if kind == 2:  # a message of any kind in place of Certificate
            return [records([hello, message(chance.choice((0, 1, 2, 4, 11, 12, 13, 14, 16, 20, 22)), noise)])]
        if kind == 3:  # too long a record
            return [b"\x16\x03\x03\xff\xff" + noise * 40]
        return [records([hello, message(11, b"\xff\xff\xff" + noise)])]  # a list beyond its message

    meet(lab, gateway, lab.add(Meddler(leaf(root()), change)), count)


@pytest.mark.parametrize("message_number", range(3), ids=("ServerHello", "Certificate", "ServerKeyExchange"))
@pytest.mark.parametrize("cut", (True, False), ids=("cut", "padded"))
def test_lengths_that_are_wrong(message_number: int, cut: bool, lab: Lab, gateway: Gateway):
    """Of a message, so that what it consists of does not fit: the server's fault, which it says."""

    def change(flight: bytes, number: int) -> bytes:
        found = handshake(flight)
        old = found[message_number]
        found[message_number] = message(old[0], old[4:-3] if cut else old[4:] + b"abc")
        return records(found)

    cat, = meet(lab, gateway, meddler := lab.add(Meddler(leaf(root()), change)))
    Case(BROKEN).check_words(cat.log.find(FAILED)[0][1], meddler.port)


def repeated(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece


OTHER_SPEECH = {"HTTP": b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
                "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
                "SMTP": b"220 mail.a.test ESMTP\r\n", "MQTT": b"\x20\x02\x00\x00\x00", "zeros": bytes(100),
                **{f"version 3.{minor}": b"\x16\x03" + bytes([minor]) + b"\0\x2a" + message(
                    2, b"\x03" + bytes([minor]) + bytes(33) + b"\xc0\x2b\0") for minor in (0, 1, 2, 4)}}


@pytest.mark.parametrize("speech", OTHER_SPEECH.values(), ids=OTHER_SPEECH)
def test_no_tls_there(speech: bytes, lab: Lab, gateway: Gateway):
    """It says that this is no TLS, and where to look."""
    speaker = lab.add(Speaker(iter([speech])))
    cat = lab.iamcat(settings(gateway, speaker.port))
    said = cat.wait_log(FAILED)[1]
    assert NOT_TLS in said and "MQTT_BROKER_PORT" in said
    assert b"MQTT" not in speaker.came


HELLO_REQUEST, WARNING = b"\x16\x03\x03\0\4\0\0\0\0", b"\x15\x03\x03\0\2\1\x5a"


def test_stalled_handshake(lab: Lab, gateway: Gateway):
    """Given up after 10 s, whatever trickles in meanwhile: silence; ServerHello byte by byte; warnings and
    requests to begin anew without end. (It takes as long as that, all at the same time.)"""
    hello = b"\x16\x03\x03\x00\x50\x02\x00\x00\x4c\x03\x03"
    speakers = [lab.add(Speaker(pieces, pause)) for pieces, pause in (
        (iter(()), 0), (iter([hello]), 0), (iter([bytes([b]) for b in hello + bytes(100)]), 0.5),
        (repeated(WARNING), 0.5), (repeated(WARNING * 500), 0.01), (repeated(HELLO_REQUEST * 500), 0.01))]
    cats = [lab.iamcat(settings(gateway, speaker.port)) for speaker in speakers]
    for cat in cats:
        cat.wait_log("broker .*trying again")
    took = [seconds_between(cat, "connecting to", "broker .*trying again") for cat in cats]
    said = [cat.log.find("(broker .*); trying again")[0][1] for cat in cats]
    assert all(9.9 < t < 12 for t in took[:3]) and all(t < 12 for t in took), (took, said)
    assert all("took too long" in text for text in said[:3]), said
    assert all(b"MQTT" not in speaker.came for speaker in speakers)


def seconds_between(cat: Process, first: str, second: str) -> float:
    """From its log's own times."""
    begin, end = (datetime.datetime.fromisoformat(cat.log.find(f"^(\\S+)Z .*{regex}")[0][1])
                  for regex in (first, second))
    return (end - begin).total_seconds()
