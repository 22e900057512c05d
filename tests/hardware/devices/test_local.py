"""What this machine says of itself, and what it says where the files of other machines are read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from autoprune.hardware.devices import local as local_module
from autoprune.hardware.devices.local import LocalDevice


def test_the_environment_names_versions_system_and_load() -> None:
    found = LocalDevice().environment()
    assert found["numpy"] == np.__version__
    assert found["torch"] == torch.__version__
    assert {"system", "python"} <= set(found)
    if hasattr(os, "getloadavg"):
        assert float(found["load_1min"]) >= 0


def test_states_of_the_processors_and_limits_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {"governor": "performance\n", "smt": "on\n", "cgroup_cpu_max": "200000 100000\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "no_turbo").write_text("1\n")
    monkeypatch.setattr(local_module, "_STATES", {name: str(tmp_path / name) for name in (*files, "nothing")})
    monkeypatch.setattr(local_module, "_TURBO", {str(tmp_path / "no_turbo"): {"0": "on", "1": "off"}})
    found = LocalDevice().environment()
    assert (found["governor"], found["smt"], found["turbo"]) == ("performance", "on", "off")
    assert found["cgroup_cpu_max"] == "200000 100000"
    assert "nothing" not in found
