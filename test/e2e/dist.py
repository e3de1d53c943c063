"""What is shipped: `make test-dist`. The static binaries are the same bytes in another folder, and each is at work with a
real broker: natively, by qemu-user, and on a kernel of its own architecture."""

import os
import pathlib
import signal
import subprocess

import pytest

from lab import ROOT, Lab, Process
from sandbox import CALLS, FILES, TOLD
from test_places import serve

DIST = ROOT / "dist"
ARCHS = {"x86-64": None, "arm64": "qemu-aarch64-static", "armhf": "qemu-arm-static"}
READ = {"function_code": 3, "device_id": "A2332407312", "address": 10056}


def path(arch: str) -> pathlib.Path:
    return DIST / f"iamcat-{os.environ['VERSION']}-linux-{arch}"


def test_the_same_bytes_in_another_folder(tmp_path: pathlib.Path):
    clean = not subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True).stdout
    assert clean, "what is not committed can't be built again: commit, then make test-dist"
    other = tmp_path / "a folder of another name".replace(" ", "-")
    subprocess.run(["git", "clone", "-q", ROOT, other], check=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    subprocess.run(["make", "-s", "dist"], cwd=other, check=True, stdout=subprocess.DEVNULL, env=env)
    assert sorted(p.name for p in (other / "dist").iterdir()) == sorted([*(path(arch).name for arch in ARCHS), "SHA256SUMS"])
    for file in (other / "dist").iterdir():
        assert file.read_bytes() == (DIST / file.name).read_bytes(), file.name


def test_sums():
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=DIST, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == len(ARCHS), done.stdout + done.stderr


@pytest.mark.parametrize("arch", ARCHS)
def test_static_and_stripped(arch: str):
    head = subprocess.run(["readelf", "-lS", path(arch)], capture_output=True, text=True, check=True).stdout
    assert "INTERP" not in head and "DYNAMIC" not in head and ".symtab" not in head
    assert str(ROOT).encode() not in path(arch).read_bytes()
    # A kernel with pages of 16 kB (Raspberry Pi 5) or 64 kB can map it.
    loads = [line.split() for line in subprocess.run(["readelf", "-lW", path(arch)], capture_output=True, text=True,
                                                     check=True).stdout.splitlines() if line.split()[:1] == ["LOAD"]]
    assert len(loads) == 2 and all((int(load[1], 0) - int(load[2], 0)) % 65536 == 0 for load in loads), loads
    assert int(loads[0][2], 0) + int(loads[0][5], 0) <= int(loads[1][2], 0) // 65536 * 65536


@pytest.mark.parametrize("arch", ARCHS)
def test_at_work(lab: Lab, arch: str):
    """TLS, a request, a state, a stop."""
    gateway = lab.gateway(device=lab.device())
    broker = lab.broker(gateway)
    operator = lab.operator(broker, gateway)
    mark = broker.log.mark()
    emulator = ARCHS[arch]
    program = (pathlib.Path("/usr/bin") / emulator, str(path(arch))) if emulator else (path(arch),)
    cat = lab.iamcat(lab.env(broker, gateway), *program[1:], binary=program[0])
    broker.wait_subscribed(cat, since=mark)
    assert operator.request(READ)["response"]["value"] == 42
    assert operator.state()["type"] == "gateway_state"
    cat.wait_log("sandbox: .*files and ports; system calls$" if emulator is None else "sandbox: ")
    assert cat.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="a root directory and a process 1 of its own need root")
def test_in_an_empty_root(lab: Lab):
    """As process 1 with 20 descriptors, where there is nothing but the program: no /dev, no /etc, no /proc."""
    root = lab.work_dir("root")
    (root / "iamcat").write_bytes(path("x86-64").read_bytes())
    (root / "iamcat").chmod(0o555)
    root.chmod(0o555)
    cat = serve(lab, "--nofile=20", "unshare", "--pid", "--fork", "--kill-child", "chroot", str(root), "/iamcat",
                binary=pathlib.Path("/usr/bin/prlimit"))
    assert not cat.log.find(" warn ")
    inside, = pathlib.Path(f"/proc/{cat.pid}/task/{cat.pid}/children").read_text().split()
    os.kill(int(inside), signal.SIGTERM)
    cat.wait_log("info +stopped")
    assert cat.wait() == 0


KERNELS = pytest.mark.parametrize("arch, kernel", [("arm64", "aarch64"), ("armhf", "armv7l")])


def on_its_kernel(lab: Lab, arch: str, kernel: str, binary: pathlib.Path, **more: str) -> Process:
    """In the sandbox of a real kernel, at work until it is stopped in an orderly way."""
    gateway = lab.gateway(device=lab.device())
    broker = lab.broker(gateway)
    operator = lab.operator(broker, gateway)
    env = {**lab.env(broker, gateway), "MQTT_BROKER_HOST": "10.0.2.2", "MQTT_TLS_SERVER_NAME": "localhost",
           "WEB_CONTAINER_HOST": "10.0.2.2", "MQTT_ROOT_CA_FILE": f"/{lab.ca_file.name}", **more}
    mark = broker.log.mark()
    vm = lab.start(Process, "vm", [ROOT / "test" / "vm", arch, binary, lab.ca_file,
                                   *(f"{name}={value}" for name, value in env.items())],
                   lab.work_dir("vm"), None, None, subprocess.PIPE)
    vm.out.wait(rf"kernel \S+ {kernel}", timeout=120)
    broker.log.wait("Sending SUBACK to 0123", timeout=60, since=mark)
    assert operator.request(READ)["response"]["value"] == 42
    assert operator.state()["type"] == "gateway_state"
    vm.out.wait("info +sandbox: user 65534; files; system calls")
    vm.popen.stdin.write(b"stop\n")
    vm.popen.stdin.flush()
    vm.out.wait("^healthy: in service")
    vm.out.wait("info +stopped")
    vm.out.wait("ended with 0")
    assert vm.wait() == 0
    return vm


@KERNELS
def test_on_its_kernel(lab: Lab, arch: str, kernel: str):
    vm = on_its_kernel(lab, arch, kernel, path(arch))
    assert not vm.out.find("refused, which")


@KERNELS
def test_what_its_kernel_refuses(lab: Lab, arch: str, kernel: str):
    """The hook of make test-sandbox."""
    vm = on_its_kernel(lab, arch, kernel, ROOT / "build/static" / arch / "hook/iamcat",
                       HOOK_FILE=f"/{lab.ca_file.name}", HOOK_PORT="9", HOOK_FREE_PORT="9")
    tried = {m[1]: m[2] for m in vm.out.find(r"hook (\S+): (\S+)")}
    assert tried.keys() == {*FILES, *CALLS, "connect", "listen", "end"}
    del tried["end"], tried["connect"]  # these kernels' Landlock knows no ports yet
    assert {name: how for name, how in tried.items() if how != "EPERM"} == {}
    # Some of them the kernel would refuse by itself, without a word.
    told = [m[1] for m in vm.out.find(r"error sandbox: a system call was refused, .* number: (\d+)")]
    assert len(told) == len({*told}) == TOLD
