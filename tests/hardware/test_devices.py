"""Devices against their contract: this machine, a real sshd on 127.0.0.1, and a stand-in for adb."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autoprune.core.errors import AutopruneError, Failure, InputError
from autoprune.hardware.devices import DEVICES, Device, Progress, open_device
from autoprune.hardware.devices import ssh as ssh_module
from autoprune.hardware.devices.android import AndroidDevice
from autoprune.hardware.devices.contract import LOGS_OF_SMALL, check_device, small_kit
from autoprune.hardware.devices.local import LocalDevice
from autoprune.hardware.devices.process import Ended
from autoprune.hardware.devices.ssh import SshDevice
from autoprune.hardware.kit import importing, planning
from autoprune.hardware.kit import remote as remote_module
from autoprune.hardware.kit.remote import profile_remote
from autoprune.hardware.latency import LatencyTable
from tests.hardware.far_ends import ADB, Sshd, needs_sshd, on_path, sshd
from tests.hardware.kits import MODEL, quick
from tests.hardware.samples import graph_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One sshd for all tests of this file."""
    with sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AndroidDevice:
    """A device behind the stand-in for adb."""
    on_path(tmp_path / "programs", "adb", ADB, monkeypatch)
    return AndroidDevice("emulator-5554", base=str(tmp_path / "phone"))


def test_the_local_device_keeps_the_contract(tmp_path: Path) -> None:
    check_device(LocalDevice(), tmp_path)


@needs_sshd
def test_a_device_behind_ssh_keeps_the_contract(server: Sshd, tmp_path: Path) -> None:
    check_device(server.device(), tmp_path)
    assert server.device().describe().processor == LocalDevice().describe().processor
    assert (server.home / "autoprune-kits" / "0123456789abcdef" / "logs").is_dir()


def test_a_device_behind_adb_keeps_the_contract(adb: AndroidDevice, tmp_path: Path) -> None:
    check_device(adb, tmp_path / "work")
    assert adb.describe().kind == "mobile"


def test_adb_is_called_as_its_manual_says(adb: AndroidDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADB_LOG", str(tmp_path / "calls"))
    small_kit(tmp_path / "kit")
    assert adb.run_kit(tmp_path / "kit") is None
    place = f"{tmp_path}/phone/0123456789abcdef"
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[:4] == [
        f"-s emulator-5554 shell test -f {place}/manifest.json",
        f"-s emulator-5554 shell rm -rf {place}.part && mkdir -p {place}.part",
        f"-s emulator-5554 push {tmp_path}/kit/. {place}.part",
        f"-s emulator-5554 shell rm -rf {place} && mv {place}.part {place}",
    ]
    assert calls[4] == f"-s emulator-5554 shell cd {place} && exec sh run.sh"
    assert calls[5].startswith(f"-s emulator-5554 pull {place}/logs ")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("core", "expected at least one core"),
        ("system", "expected the key 'system'"),
        ("failure", "expected a kit that runs, got run: no"),
        ("logs", "expected a log of every model"),
        ("silent", "expected progress"),
        ("again", "expected a second call to run nothing again"),
    ],
)
def test_the_contract_says_what_is_broken(fault: str, message: str, tmp_path: Path) -> None:
    class Broken(LocalDevice):
        def describe(self) -> object:  # type: ignore[override]
            found = super().describe()
            return found.model_copy(update={"cores": 0}) if fault == "core" else found

        def environment(self) -> dict[str, str]:
            return {} if fault == "system" else super().environment()

        def run_kit(self, folder: Path, progress: Progress | None = None) -> Failure | None:
            if fault == "failure":
                return Failure("run", "no")
            done = super().run_kit(folder, None if fault == "silent" else progress)
            if fault == "logs":
                (folder / "logs" / "s0-b.log").unlink()
            if fault == "again" and progress is not None:
                progress("kit", 3, 3)
            return done

    with pytest.raises(AssertionError, match=message):
        check_device(Broken(), tmp_path)  # type: ignore[arg-type]


@needs_sshd
def test_a_profile_over_ssh(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way by one call, through the user's own `ssh`; a second call runs nothing again."""
    monkeypatch.setattr(importing, "LOST", float("inf"))
    monkeypatch.setattr(planning, "_machine_models", lambda batch: [])
    on_path(tmp_path / "programs", "ssh", f'#!/bin/sh\nexec /usr/bin/ssh -F {server.config} "$@"\n', monkeypatch)
    steps: list[tuple[str, int, int]] = []
    arguments = (f"ssh:{server.address}", graph_of(MODEL), tmp_path / "kit", quick(kernels=6))
    profile = profile_remote(*arguments, progress=lambda *step: steps.append(step))
    assert steps[-1][1] == steps[-1][2]
    assert profile.header.validation.models == 4
    assert len(profile.kernels) == 6
    dense = np.array([[group.size for group in graph_of(MODEL).groups.values()]])
    assert LatencyTable(profile, graph_of(MODEL)).latency_us(dense)["p50"][0] > 0
    assert profile_remote(*arguments).id == profile.id


def test_a_profile_through_a_tool_that_needs_a_converter(
    adb: AndroidDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are converted here; the tool lies above the kits on the device, where it serves them all."""
    monkeypatch.setattr(planning, "_machine_models", lambda batch: [])
    monkeypatch.setattr(remote_module, "open_device", lambda text: adb)
    arguments = ("android", graph_of(MODEL), tmp_path / "kit", quick(kernels=3, whole_models=2, runtime="ncnn"))
    with pytest.raises(InputError, match="expected the program 'pnnx' on this machine"):
        profile_remote(*arguments)
    on_path(tmp_path / "programs", "pnnx", '#!/bin/sh\ncp "$1" "${1%.onnx}.ncnn.param"\n', monkeypatch)
    with pytest.raises(AutopruneError, match="expected the program benchncnn in this folder, the one above"):
        profile_remote(*arguments)
    tool = tmp_path / "phone" / "benchncnn"
    tool.write_text('#!/bin/sh\necho "x  min = 0.01  max = 0.03  avg = 0.02" >&2\n')
    tool.chmod(0o755)
    profile = profile_remote(*arguments)
    assert profile.header.device.kind == "mobile"
    assert len(profile.kernels) == 3


def test_an_id_that_is_a_command_is_refused(adb: AndroidDevice, tmp_path: Path) -> None:
    small_kit(tmp_path / "kit", "x; touch evil")
    with pytest.raises(InputError, match="expected 16 hex digits, got 'x; touch evil'"):
        adb.run_kit(tmp_path / "kit")


@needs_sshd
def test_a_connection_that_is_lost_is_a_failure_and_the_next_call_goes_on(server: Sshd, tmp_path: Path) -> None:
    """The server's process for the connection is killed in the middle of the run."""
    kit = tmp_path / "kit"
    small_kit(kit, "aaaabbbbccccdddd")
    tool = kit / "tool.sh"
    waiting = '&& { [ "$1" != models/b.txt ] || sleep "$(cat ../../wait)"; } && cat'
    tool.write_text(tool.read_text().replace("&& cat", waiting))
    sums = (kit / "sums.txt").read_text().splitlines(keepends=True)
    (kit / "sums.txt").write_text("".join(line for line in sums if "tool.sh" not in line))
    (server.home / "wait").write_text("5\n")
    there = server.home / "autoprune-kits" / "aaaabbbbccccdddd"

    failure = server.device().run_kit(kit, lambda stage, done, total: server.cut())
    assert failure is not None
    assert failure.kind == "connection"
    assert f"127.0.0.1:{server.port}: no connection after 1 of 3 logs" in failure.message
    assert failure.hint == f"see: ssh -v -p {server.port} {server.address.rpartition(':')[0]} true"
    _end_of(there)
    (server.home / "wait").write_text("0\n")
    assert server.device().run_kit(kit) is None
    assert (there / "runs").read_text().splitlines().count("models/a.txt") == 1
    assert {path.stem for path in (kit / "logs").iterdir()} == set(LOGS_OF_SMALL)


def _end_of(kit: Path) -> None:
    """The run that lost its reader is killed: its lock is then that of a dead process."""
    pid = int((kit / "lock" / "pid").read_text())
    os.kill(pid, 9)


@needs_sshd
def test_a_kit_that_does_not_run_there_says_why(server: Sshd, tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    small_kit(kit, "1111222233334444")
    (kit / "models" / "b.txt").write_text("changed\n")
    failure = server.device().run_kit(kit)
    assert failure is not None
    assert failure.kind == "run"
    assert "ended with status 1: kit: files differ from sums.txt" in failure.message


@needs_sshd
def test_nobody_at_the_other_end(server: Sshd, tmp_path: Path) -> None:
    """Another key than the server's: ssh refuses; nothing listens: the same, and both name host, port and command."""
    small_kit(tmp_path / "kit")
    stranger = SshDevice(server.address, ("-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes"))
    failure = stranger.run_kit(tmp_path / "kit")
    assert failure is not None
    assert "Host key verification failed" in failure.message
    silent = SshDevice("127.0.0.1:1")
    with pytest.raises(AutopruneError, match=r"127.0.0.1:1: no connection: .*refused.*see: ssh -v -p 1 127.0.0.1 true"):
        silent.describe()
    with pytest.raises(AutopruneError, match=r"127.0.0.1:1: no connection"):
        profile_remote("ssh:127.0.0.1:1", graph_of(MODEL), tmp_path / "another", quick())
    assert not (tmp_path / "another").exists()


def test_no_phone_is_told_with_the_command_that_lists_them(
    adb: AndroidDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_kit(tmp_path / "kit")
    other = AndroidDevice("0a1b2c")
    failure = other.run_kit(tmp_path / "kit")
    assert str(failure) == (
        "connection: android 0a1b2c: no connection: error: device '0a1b2c' not found (see: adb devices -l)"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="expected the program 'adb' on this machine, found none"):
        other.run_kit(tmp_path / "kit")
    with pytest.raises(InputError, match="expected the program 'ssh' on this machine, found none"):
        SshDevice("host").describe()


def test_what_a_far_end_sends_is_kept_only_where_it_is_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile far end: names that lead out, links, files of the kit itself, logs without end."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in (
            "../evil",
            "/tmp/evil-of-a-kit",
            "run.sh",
            "logs/../../evil",
            "logs/s0-a.log",
            "./logs/s0-b.failed",
        ):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("logs/s0-c.log")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    kit = tmp_path / "kit"
    kit.mkdir()
    (tmp_path / "sent.tar").write_bytes(stream.getvalue())
    on_path(tmp_path / "programs", "ssh", f"#!/bin/sh\ncat {tmp_path}/sent.tar\n", monkeypatch)
    assert SshDevice("host").fetch("there", kit) == Ended(0, "")
    found = sorted(path.relative_to(tmp_path).as_posix() for path in kit.rglob("*"))
    assert found == ["kit/logs", "kit/logs/s0-a.log", "kit/logs/s0-b.failed"]
    assert not Path("/tmp/evil-of-a-kit").exists()
    assert not (tmp_path / "evil").exists()
    monkeypatch.setattr(ssh_module, "_MOST_BYTES", 100)
    with pytest.raises(AutopruneError, match="host:22: expected logs, got more than 100 bytes"):
        SshDevice("host").fetch("there", kit)
    monkeypatch.undo()
    on_path(tmp_path / "programs", "ssh", "#!/bin/sh\necho welcome\n", monkeypatch)
    with pytest.raises(AutopruneError, match="expected logs as a tar"):
        SshDevice("host").fetch("there", kit)


@pytest.mark.parametrize(
    "address", ["", "-oProxyCommand=evil", "user@", "host:port", "a b", "host;evil", "user@-host", "$(x)"]
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InputError, match="expected ssh:user@host"):
        open_device(f"ssh:{address}")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("host", "host:22"),
        ("me@10.0.0.7:2222", "me@10.0.0.7:2222"),
        ("me@[::1]:22", "me@::1:22"),
        ("board-5", "board-5:22"),
    ],
)
def test_addresses(address: str, name: str) -> None:
    device = open_device(f"ssh:{address}")
    assert isinstance(device, SshDevice)
    assert device.name == name


def test_devices_by_name() -> None:
    assert isinstance(open_device("local"), LocalDevice)
    android = open_device("android")
    assert isinstance(android, AndroidDevice)
    assert android.command("true") == ["adb", "shell", "true"]
    for text, message in (
        ("telnet:host", "unknown device 'telnet'. Known: android, local, ssh"),
        ("local:host", "expected 'local' without an address"),
        ("android:-s", "expected android or android:serial"),
    ):
        with pytest.raises(InputError, match=message):
            open_device(text)
    devices: list[Device] = [DEVICES.get("local")()]
    assert devices[0].describe().cores >= 1
