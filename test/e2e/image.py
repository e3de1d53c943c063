"""The image: `make test-image`, as root. The file that `make image` writes, and the image that the Dockerfile builds, at work
in a container: read-only, without capabilities, as user 65534. With podman and buildah, and with Docker's engine."""

import contextlib
import json
import os
import pathlib
import subprocess
import tarfile
import tempfile
import time

import pytest

from lab import ROOT, TIMEOUT, Lab, LabError, Process, calm

VERSION = os.environ["VERSION"]
READ = {"function_code": 3, "device_id": "A2332407312", "address": 10056}
FILE = ROOT / "dist" / f"iamcat-{VERSION}-image-x86-64.tar"
PODMAN = ["podman", "--runtime", "runc"]


def run(*command: object, **options: object) -> str:
    """What it wrote."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise LabError(f"{command} failed: {done.stdout}{done.stderr}")
    return done.stdout.strip()


EPOCH = run("git", "-C", ROOT, "log", "-1", "--format=%ct")


def loaded() -> str:
    """The image that make image wrote; its id."""
    run("podman", "load", "-q", "-i", FILE)
    return run("podman", "image", "inspect", "--format", "{{.Id}}", f"iamcat:{VERSION}")


def debian(work: pathlib.Path) -> str:
    """A base image for the build, where there is none: this machine's Debian, from its mirrors."""
    name = "docker.io/library/debian:bookworm-slim"
    if subprocess.run(["podman", "image", "exists", name]).returncode != 0:
        run("debootstrap", "--variant=minbase", "bookworm", work / "root")
        run("rm", "-rf", work / "root/etc/apt")
        run("cp", "-a", "/etc/apt", work / "root/etc/apt")
        run("tar", "-C", work / "root", "-cf", work / "base.tar", ".")
        run("podman", "import", "-q", work / "base.tar", name)
    return name


def build(platform: str) -> str:
    """The image that the Dockerfile builds; its id."""
    with tempfile.TemporaryDirectory(prefix="iamcat-image-") as work:
        debian(pathlib.Path(work))
    return run("buildah", "bud", "-q", "--format", "docker", "--isolation", "chroot", "--pull=never",
               "--platform", platform, "--build-arg", "BUILDPLATFORM=linux/amd64", "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}", ROOT).splitlines()[-1]


@pytest.fixture(scope="module")
def built() -> str:
    return build("linux/amd64")


def save(image: str, to: pathlib.Path) -> None:
    run("podman", "save", "-q", "--format", "docker-archive", "-o", to, image)


def unpacked(file: pathlib.Path) -> dict[str, bytes]:
    """The files of an image, by name."""
    found = {}
    with tarfile.open(file) as saved:
        for name in json.load(saved.extractfile("manifest.json"))[0]["Layers"]:
            layer = tarfile.open(fileobj=saved.extractfile(name))
            found.update({entry.name: layer.extractfile(entry).read() for entry in layer})
    return found


def files(image: str, work: pathlib.Path) -> dict[str, bytes]:
    save(image, work / "saved.tar")
    found = unpacked(work / "saved.tar")
    (work / "saved.tar").unlink()
    return found


def around(lab: Lab) -> tuple:
    """Broker and operator, and lab.dir/mqtt.env for an iamcat between them."""
    gateway = lab.gateway(device=lab.device())
    broker = lab.broker(gateway)
    env = {**lab.env(broker, gateway), "MQTT_ROOT_CA": lab.ca.cert.replace("\n", "\\n")}
    del env["MQTT_ROOT_CA_FILE"]
    (lab.dir / "mqtt.env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    return broker, lab.operator(broker, gateway)


def check(lab: Lab, image: str) -> None:
    """Runs it, until it was healthy, has answered, and has stopped as it should."""
    broker, operator = around(lab)
    mark = broker.log.mark()
    with calm():
        name = run(*PODMAN, "run", "-d", "--network", "host", "--read-only", "--cap-drop=all",
                   "--security-opt=no-new-privileges", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
                   "--env-file", lab.dir / "mqtt.env", image)
        lab.callback(lambda: subprocess.run([*PODMAN, "rm", "-f", name], capture_output=True))
    try:
        broker.log.wait("Sending SUBACK to 0123", since=mark)
        assert operator.request(READ)["response"]["value"] == 42
        state = json.loads(run("podman", "inspect", name))[0]
        status = pathlib.Path(f"/proc/{state['State']['Pid']}/status").read_text().splitlines()
        assert "Uid:\t65534\t65534\t65534\t65534" in status and "NSpid:" in "".join(status)
        assert [line.split()[-1] for line in status if line.startswith("NSpid")] == ["1"]
        assert [line.split()[-1] for line in status if line.startswith(("CapEff", "CapBnd"))] == ["0" * 16] * 2
        run(*PODMAN, "healthcheck", "run", name)
        # SIGTERM to process 1; were it still there after 6 s, it would be killed and say 137.
        run(*PODMAN, "stop", "--time", "6", name)
        assert run("podman", "inspect", "--format", "{{.State.ExitCode}}", name) == "0"
    except BaseException:
        with contextlib.suppress(LabError):
            print(subprocess.run([*PODMAN, "logs", name], capture_output=True, text=True).stderr)
        raise
    logs = subprocess.run([*PODMAN, "logs", name], capture_output=True, text=True).stderr
    assert "sandbox: user 65534; files and ports; system calls" in logs and "refused, which" not in logs, logs


def test_the_file_at_work(lab: Lab):
    check(lab, loaded())


def test_the_file_is_always_the_same(tmp_path: pathlib.Path):
    run("python3", ROOT / "image.py", ROOT / "build/static/amd64/iamcat", VERSION, "amd64", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == FILE.read_bytes()


def test_nothing_but_the_binary(built: str, tmp_path: pathlib.Path):
    binary = (ROOT / "build" / "static" / "amd64" / "iamcat").read_bytes()
    for image in loaded(), built:
        assert files(image, tmp_path) == {"iamcat": binary}  # and the same bytes


@pytest.mark.parametrize("platform, arch", [("linux/arm64", "arm64"), ("linux/arm/v7", "armhf")])
def test_for_other_machines(platform: str, arch: str, tmp_path: pathlib.Path):
    """By cross-compiling; the bytes of make dist."""
    image = build(platform)
    run("make", "-s", "-C", ROOT, "static", f"ARCH={arch}", f"SOURCE_DATE_EPOCH={EPOCH}")
    assert files(image, tmp_path) == {"iamcat": (ROOT / "build" / "static" / arch / "iamcat").read_bytes()}
    assert run("podman", "image", "inspect", "--format", "{{.Architecture}}", image) == platform.split("/")[1]


def test_both_say_the_same(built: str):
    def said(image: str) -> dict:
        config = json.loads(run("podman", "image", "inspect", image))[0]
        labels = {k: v for k, v in config["Config"]["Labels"].items() if "buildah" not in k and "version" not in k}
        return {"user": config["User"], "entry": config["Config"]["Entrypoint"], "labels": labels,
                "health": config["Healthcheck"], "platform": (config["Os"], config["Architecture"])}

    assert said(loaded()) == said(built)


class Engine:
    """Docker's engine and its files for this test alone, with this machine's network as it is."""

    def __init__(self, lab: Lab) -> None:
        work = lab.work_dir("docker")
        self.env = {**os.environ, "DOCKER_HOST": f"unix://{work}/socket", "DOCKER_CONFIG": str(work), "DOCKER_BUILDKIT": "1"}
        daemon = lab.start(Process, "dockerd", [
            "dockerd", "--storage-driver=vfs", f"--data-root={work}/data", f"--exec-root={work}/run",
            f"--pidfile={work}/pid", f"--host=unix://{work}/socket", "--bridge=none", "--iptables=false",
            "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"], work)
        lab.callback(lambda: subprocess.run(["umount", work / "run/netns/default"], capture_output=True))
        lab.callback(daemon.stop)
        daemon.wait_log("API listen on")

    def docker(self, *command: object) -> str:
        return run("/usr/bin/docker", *command, env=self.env)  # Debian's, which has BuildKit in it

    def compose(self, work: pathlib.Path, *command: object) -> str:
        return run("docker-compose", *command, cwd=work, env=self.env)

    def load(self, image: str, work: pathlib.Path) -> None:
        """What podman has."""
        save(image, work / "image.tar")
        self.docker("load", "-q", "-i", work / "image.tar")


def test_docker_compose_up(lab: Lab):
    """The README's line, with the image that make image wrote."""
    broker, operator = around(lab)
    engine = Engine(lab)
    engine.docker("load", "-q", "-i", FILE)
    engine.docker("tag", f"iamcat:{VERSION}", "iamcat")
    (lab.dir / "docker-compose.yml").write_bytes((ROOT / "docker-compose.yml").read_bytes())
    (lab.dir / "docker-compose.override.yml").write_text("services: {mqtt-client: {healthcheck: {interval: 1s}}}\n")
    mark = broker.log.mark()
    with calm():
        lab.callback(lambda: engine.compose(lab.dir, "down", "-t", "1"))
        engine.compose(lab.dir, "up", "-d", "mqtt-client")
    broker.log.wait("Sending SUBACK to 0123", since=mark)
    assert operator.request(READ)["response"]["value"] == 42
    name = engine.compose(lab.dir, "ps", "-q", "mqtt-client")

    def state() -> dict:
        return json.loads(engine.docker("inspect", name))[0]["State"]

    deadline = time.monotonic() + TIMEOUT
    while state()["Health"]["Status"] != "healthy":
        assert time.monotonic() < deadline, state()
        time.sleep(0.1)
    assert "phase               serve" in engine.compose(lab.dir, "exec", "-T", "mqtt-client", "/iamcat", "status")
    engine.compose(lab.dir, "stop", "-t", "6")
    assert (state()["Status"], state()["ExitCode"], state()["OOMKilled"]) == ("exited", 0, False)
    logs = engine.compose(lab.dir, "logs")
    assert "sandbox: user 65534; files and ports; system calls" in logs and "refused, which" not in logs, logs


def test_docker_builds_it_for_another_machine(lab: Lab):
    """BuildKit, as docker buildx has it: what the Dockerfile is told of the platforms comes from the builder."""
    engine = Engine(lab)
    engine.load(debian(lab.dir), lab.dir)
    engine.docker("build", "-q", "--network=host", "--platform=linux/arm/v7", f"--build-arg=SOURCE_DATE_EPOCH={EPOCH}",
                  "-t", "iamcat", ROOT)
    (lab.dir / "image.tar").unlink()
    engine.docker("save", "-o", lab.dir / "image.tar", "iamcat")
    run("make", "-s", "-C", ROOT, "static", "ARCH=armhf", f"SOURCE_DATE_EPOCH={EPOCH}")
    assert unpacked(lab.dir / "image.tar") == {"iamcat": (ROOT / "build" / "static" / "armhf" / "iamcat").read_bytes()}


def test_compose(tmp_path: pathlib.Path):
    """What docker-compose makes of its file."""
    (tmp_path / "docker-compose.yml").write_bytes((ROOT / "docker-compose.yml").read_bytes())
    (tmp_path / "mqtt.env").write_bytes((ROOT / "mqtt.env.example").read_bytes())
    lines = [line.strip() for line in run("docker-compose", "config", cwd=tmp_path).splitlines()]
    assert "mqtt-client:" in lines and "MQTT_BROKER_HOST: broker.example.com" in lines
    for line in "network_mode: host", "read_only: true", "- ALL", "- no-new-privileges:true", "mem_limit: 8m", "restart: always":
        assert line in lines, line


def test_the_built_one_at_work(lab: Lab, built: str):
    check(lab, built)
