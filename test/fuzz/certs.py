#!/usr/bin/python3
"""Makes the seeds of the fuzz target cert anew, with openssl: certs.py [FOLDER]. They are kept in seeds/cert, so
this is only needed when a case is added. See cert.c for what ok- and no- mean."""
import pathlib, subprocess, sys, tempfile

out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "seeds/cert")
work = pathlib.Path(tempfile.mkdtemp())
HOSTS = ["broker.test", "a.b.test", "192.0.2.7", "2001:db8::7"]  # cert.c's hosts, in its order
CA = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
LEAF = "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\nbasicConstraints=critical,CA:FALSE\n"
BROKER = LEAF + "subjectAltName=DNS:broker.test\n"
der = {}


def cert(name, issuer, ext, key="P-256", subject=None, days=36500, sha="sha256"):
    """A certificate, signed by issuer's key (None: by its own)."""
    new = ["rsa:" + key] if key.isdigit() else ["ec", "-pkeyopt", "ec_paramgen_curve:" + key]
    base = work / name
    base.with_suffix(".ext").write_text(ext)
    sign = ["-signkey", f"{base}.key"] if issuer is None else ["-CA", f"{work / issuer}.crt", "-CAkey", f"{work / issuer}.key"]
    for command in (["req", "-new", "-newkey", *new, "-nodes", "-keyout", f"{base}.key", "-subj", f"/CN={subject or name}", "-out", f"{base}.csr"],
                    ["x509", "-req", "-in", f"{base}.csr", *sign, "-days", str(days), f"-{sha}", "-set_serial", "7", "-out", f"{base}.crt"]
                    + (["-extfile", f"{base}.ext"] if ext else []),
                    ["x509", "-in", f"{base}.crt", "-outform", "DER", "-out", f"{base}.der"]):
        subprocess.run(["openssl", *command], check=True, stderr=subprocess.DEVNULL)
    der[name] = base.with_suffix(".der").read_bytes()


def chain(name, certs, host="broker.test", time=0, piece=200):
    data = bytes([HOSTS.index(host), time, piece])
    for c in certs.split():
        data += len(der[c]).to_bytes(2, "big") + der[c]
    (out / name).write_bytes(data)


out.mkdir(parents=True, exist_ok=True)
for old in (*out.glob("ok-*"), *out.glob("no-*")):
    old.unlink()

cert("root", None, CA)
cert("other", None, CA, subject="root")  # of the same name; in no chain, so that it is no anchor
cert("leaf", "root", BROKER)
cert("inter", "root", CA)
cert("inter2", "inter", CA)
cert("below", "inter", BROKER)
cert("deep", "inter2", BROKER)
chain("ok-direct", "leaf root")
chain("ok-between", "below inter root", piece=1)
chain("ok-deep-shuffled", "deep root leaf inter inter2", time=3)
chain("no-other-name", "leaf", host="a.b.test")
chain("no-host-address", "leaf", host="192.0.2.7")
chain("no-too-early", "leaf", time=1)
chain("no-gap", "deep inter2")

cert("rsa-root", None, CA, key="2048")
cert("rsa-inter", "rsa-root", CA, key="2048", sha="sha384")
cert("rsa-leaf", "rsa-inter", BROKER, key="2048", sha="sha512")
chain("ok-rsa", "rsa-leaf rsa-inter rsa-root")

cert("root384", None, CA, key="P-384", sha="sha384")
cert("leaf384", "root384", LEAF + "subjectAltName=DNS:other.test,DNS:*.b.test,email:x@y.test\n", sha="sha384")
chain("ok-wildcard", "leaf384 root384", host="a.b.test")
cert("addresses", "root", LEAF + "subjectAltName=IP:192.0.2.7,IP:2001:db8::7\n")
chain("ok-ipv4", "addresses", host="192.0.2.7")
chain("ok-ipv6", "addresses", host="2001:db8::7")
chain("no-address-for-name", "addresses")

cert("own", None, BROKER)
chain("ok-own-anchor", "own")

cert("limited", "root", CA + "nameConstraints=critical,permitted;DNS:test,permitted;IP:192.0.2.0/255.255.255.0,excluded;DNS:b.test\n")
cert("limited-leaf", "limited", LEAF + "subjectAltName=DNS:broker.test,IP:192.0.2.9\n")
cert("limited-evil", "limited", LEAF + "subjectAltName=DNS:broker.test,DNS:x.b.test\n")
cert("limited-wild", "limited", LEAF + "subjectAltName=DNS:*.b.test\n")
cert("limited-ip", "limited", LEAF + "subjectAltName=DNS:broker.test,IP:192.0.3.9\n")
cert("limited-mail", "root", CA + "nameConstraints=critical,permitted;email:test\n")
cert("mailed", "limited-mail", BROKER)
chain("ok-constrained", "limited-leaf limited")
chain("no-excluded", "limited-evil limited")
chain("no-excluded-wildcard", "limited-wild limited", host="a.b.test")
chain("no-address-outside", "limited-ip limited")
chain("no-constraint-form", "mailed limited-mail")

cert("pathlen", "root", CA.replace("TRUE", "TRUE,pathlen:0"))
cert("pathlen-inter", "pathlen", CA)
cert("pathlen-leaf", "pathlen-inter", BROKER)
cert("pathlen-good", "pathlen", BROKER)
chain("ok-path-length", "pathlen-good pathlen")
chain("no-path-length", "pathlen-leaf pathlen-inter pathlen")
cert("root-len0", None, CA.replace("TRUE", "TRUE,pathlen:0"))
cert("root-len0-inter", "root-len0", CA)
cert("root-len0-leaf", "root-len0-inter", BROKER)
chain("no-path-length-of-root", "root-len0-leaf root-len0-inter root-len0")
cert("root-old", None, CA, days=1)
cert("root-old-leaf", "root-old", BROKER)
chain("no-old-root", "root-old-leaf root-old")
cert("root-limited", None, CA + "nameConstraints=permitted;DNS:b.test\n")
cert("root-limited-leaf", "root-limited", BROKER)
chain("no-constrained-by-root", "root-limited-leaf root-limited")

cert("unknown", None, CA)
cert("unknown-inter", "unknown", CA)
cert("unknown-leaf", "unknown-inter", BROKER)
chain("no-unknown-ca", "unknown-leaf unknown-inter")
cert("by-leaf", "leaf", BROKER)
chain("no-issuer-not-ca", "by-leaf leaf")
cert("by-own", "own", BROKER)
chain("no-anchor-not-ca", "by-own own")
cert("stranger", "other", BROKER)
chain("no-other-ca-of-that-name", "stranger root")
for name, ext in {
        "is-ca": CA.replace("keyCertSign", "digitalSignature,keyCertSign") + "subjectAltName=DNS:broker.test\n",
        "for-clients": BROKER.replace("serverAuth", "clientAuth"),
        "no-usage": BROKER.replace("digitalSignature", "keyAgreement"),
        "critical": BROKER + "1.2.3.4=critical,DER:0500\n",
        "no-alt-names": LEAF,
        "odd-address": LEAF + "subjectAltName=DER:3023820b62726f6b65722e746573748714" + 20 * "07" + "\n",
        "many-extensions": BROKER + "".join(f"1.2.3.{i}=DER:0500\n" for i in range(30)),
        "no-extensions": "",
        "leaf-constraints": BROKER + "nameConstraints=permitted;DNS:test\n"}.items():
    cert(name, "root", ext)
    chain("no-" + name, name)
for name, ext in {
        "ca-for-clients": CA + "extendedKeyUsage=clientAuth\n",
        "ca-no-usage": CA.replace("keyCertSign,", ""),
        "ca-false": CA.replace("TRUE", "FALSE"),
        "ca-version-1": ""}.items():
    cert(name, "root", ext)
    cert(name + "-leaf", name, BROKER)
    chain("no-" + name, f"{name}-leaf {name}")
cert("expired", "root", BROKER, days=1)
chain("no-expired", "expired")
cert("ca-expired", "root", CA, days=1)
cert("ca-expired-leaf", "ca-expired", BROKER)
chain("no-ca-expired", "ca-expired-leaf ca-expired")
cert("weak", "root", BROKER, key="1024")
chain("no-weak-key", "weak")
cert("sha1", "root", BROKER, sha="sha1")
chain("no-sha1", "sha1")
cert("p521", "root", BROKER, key="P-521")
chain("no-p521", "p521")
chain("no-nine", "leaf" + 8 * " inter")
subprocess.run(["rm", "-r", work])
