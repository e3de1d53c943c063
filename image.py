#!/usr/bin/env python3
"""image.py BINARY VERSION ARCH FILE: writes an image with the binary alone, as a file for `docker load`, `podman load` or
skopeo. Always the same bytes for the same binary. What it says of the image is what the Dockerfile says, too."""

import hashlib
import io
import json
import sys
import tarfile

PLATFORMS = {"amd64": {"architecture": "amd64"}, "arm64": {"architecture": "arm64", "variant": "v8"},
             "armhf": {"architecture": "arm", "variant": "v7"}}
SECOND = 1_000_000_000


def pack(*files: tuple[str, bytes, int]) -> bytes:
    """A tar file of (name, bytes, mode)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data, mode in files:
            entry = tarfile.TarInfo(name)  # of root, from 1970
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def image(binary: bytes, version: str, arch: str) -> bytes:
    layer = pack(("iamcat", binary, 0o755))
    config = json.dumps({
        **PLATFORMS[arch], "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": "65534:65534", "Entrypoint": ["/iamcat"], "WorkingDir": "/",
            "Healthcheck": {"Test": ["CMD", "/iamcat", "health"], "Interval": 30 * SECOND, "Timeout": 5 * SECOND,
                            "StartPeriod": 60 * SECOND},
            "Labels": {"org.opencontainers.image.title": "iamcat", "org.opencontainers.image.version": version,
                       "org.opencontainers.image.description":
                           "Bridges an energy gateway's web API and an MQTT broker",
                       "org.opencontainers.image.licenses": "MIT"}},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "COPY iamcat /iamcat"}]}, sort_keys=True).encode()
    names = f"{digest(config)}.json", f"{digest(layer)}/layer.tar"
    manifest = json.dumps([{"Config": names[0], "RepoTags": [f"iamcat:{version}"], "Layers": [names[1]]}]).encode()
    return pack((names[1], layer, 0o644), (names[0], config, 0o644), ("manifest.json", manifest, 0o644))


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[3] not in PLATFORMS:
        sys.exit(__doc__)
    with open(sys.argv[1], "rb") as source:
        whole = image(source.read(), *sys.argv[2:4])
    with open(sys.argv[4], "wb") as target:
        target.write(whole)
