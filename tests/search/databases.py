"""A real PostgreSQL on 127.0.0.1, for the tests that need one."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PASSWORD = "p@ss:w/rd%"  # what has to be escaped in a URL
QUOTED = "p%40ss%3Aw%2Frd%25"


def server_programs() -> Path | None:
    """The folder of PostgreSQL's server programs; Debian keeps them off the path."""
    found = shutil.which("initdb")
    candidates = [Path(found).resolve().parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in candidates if (folder / "postgres").exists()), None)


@contextmanager
def postgresql() -> Iterator[str]:
    """The URL of an empty database on a server started for it.

    Skips the test where PostgreSQL or its driver is missing. The server refuses to run as root, so it runs as the user
    that Debian's package makes.
    """
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'autoprune[postgresql]'", exc_type=ImportError)
    programs = server_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL's server: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="autoprune-postgresql-"))
    try:
        with _running(programs, folder) as url:
            yield url
    finally:
        shutil.rmtree(folder)


@contextmanager
def _running(programs: Path, folder: Path) -> Iterator[str]:
    user = _server_user(folder)
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    data = folder / "data"
    arguments = ["--auth=scram-sha-256", "--username=tester", f"--pwfile={secret}", "--no-sync", "--encoding=UTF8"]
    subprocess.run([programs / "initdb", "-D", data, *arguments], check=True, capture_output=True, user=user, cwd="/")
    port = _free_port()
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, *options], stdout=log, stderr=log, user=user, cwd="/"
        )
        try:
            _wait_for(port, server, folder / "log")
            yield f"postgresql+psycopg://tester:{QUOTED}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(2)  # fast shutdown
            server.wait(30)


def _server_user(folder: Path) -> str | None:
    """Whom the server runs as: this user, or `postgres` where that is root; the folder is given to him."""
    if os.geteuid() != 0:
        return None
    try:
        found = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres'")
    os.chown(folder, found.pw_uid, found.pw_gid)
    return found.pw_name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError(f"PostgreSQL did not start: {log.read_text()}")
