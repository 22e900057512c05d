"""Far ends on this machine: a real sshd on 127.0.0.1, and a program that does what adb does, by the local shell."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from autoprune.hardware.devices.ssh import SshDevice

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
NEEDED = [program for program in ("ssh", "ssh-keygen") if shutil.which(program) is None] + ([] if SSHD else ["sshd"])
needs_sshd = pytest.mark.skipif(bool(NEEDED), reason=f"not installed: {', '.join(NEEDED)} (openssh-server)")

ADB = """#!/bin/sh
# Stands in for adb: the device is this machine.
echo "$*" >>"${ADB_LOG:-/dev/null}"
if [ "$1" = -s ]; then
  if [ "$2" != emulator-5554 ]; then echo "error: device '$2' not found" >&2; exit 1; fi
  shift 2
fi
case "$1" in
  shell) shift; exec sh -c "$*" ;;
  push) exec cp -R "$2" "$3" ;;
  pull) exec cp -R "$2" "$3" ;;
  *) echo "adb: unknown command $1" >&2; exit 1 ;;
esac
"""


@dataclass(frozen=True)
class Sshd:
    """A server that this user may log in to; commands run in `home`."""

    address: str
    port: int
    home: Path
    config: Path  # of the client
    pid: int

    def cut(self) -> None:
        """Kill the server's processes for connections that are open; it goes on listening."""
        for process in psutil.Process(self.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it went with the one before it
                if process.name().startswith("sshd"):
                    process.kill()

    def device(self) -> SshDevice:
        """The device behind it."""
        return SshDevice(self.address, ("-F", str(self.config)))


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """A server on a free port, with keys of its own, that ends with the block."""
    assert SSHD is not None
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copyfile(folder / "user.pub", folder / "authorized")
    home = folder / "home"
    home.mkdir()
    port = _free_port()
    user = os.environ.get("USER") or subprocess.run(["id", "-un"], capture_output=True, text=True).stdout.strip()
    (folder / "enter.sh").write_text(f'#!/bin/sh\ncd {home} && exec sh -c "$SSH_ORIGINAL_COMMAND"\n')
    server = f"""
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
ForceCommand sh {folder}/enter.sh
"""
    (folder / "sshd_config").write_text(server)
    host_key = (folder / "host.pub").read_text()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host_key}")
    client = f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
    client += "  KexAlgorithms curve25519-sha256\n"  # the quickest
    (folder / "ssh_config").write_text(client)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd, run by root, drops its rights
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
        try:
            _wait_for(port, process)
            yield Sshd(f"{user}@127.0.0.1:{port}", port, home, folder / "ssh_config", process.pid)
        finally:
            process.terminate()
            process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        assert process.poll() is None, "sshd did not start"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"sshd does not listen on port {port}")


def on_path(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script as the first program of that name."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
