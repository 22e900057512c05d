"""The whole run is under one lock, and says what of the software changed while it was stopped."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import autoprune as ap
from autoprune.artifacts.records import RunRecord
from autoprune.core.errors import AutopruneError, InputError
from autoprune.pipeline.software import CODE, code_hash, continued
from autoprune.search.executors import ExecutorSettings
from autoprune.search.lock import FolderLock
from benchmarks.survival_driver import run as searched

SMALL: dict[str, Any] = {"trials": 8, "finetune": {"members": 1, "epochs": 1}}
STAGES = {"calibrate", "damage curves", "search policies", "fine-tune members", "publish members"}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[ap.Front, set[str]]:
    """A run, and the stages at which another one was refused."""
    folder = tmp_path_factory.mktemp("locked") / "run"
    refused = set()

    def intrude(stage: str, done: int, total: int) -> None:
        with pytest.raises(InputError, match=rf"already \(process {os.getpid()} on "):
            FolderLock(folder)
        refused.add(stage)

    return searched(folder, {"kind": "local"}, progress=intrude, **SMALL), refused


def test_every_stage_is_under_the_lock(stages: tuple[ap.Front, set[str]]) -> None:
    front, refused = stages
    assert refused >= STAGES
    FolderLock(front.run).release()


def test_another_version_of_the_code_is_refused(stages: tuple[ap.Front, set[str]]) -> None:
    path = stages[0].run / "run.json"
    text = path.read_text()
    data = json.loads(text)
    assert data["hashes"]["code version"] == ap.__version__
    data["hashes"]["code version"] = "0.0.9"
    path.write_text(json.dumps(data))
    try:
        with pytest.raises(InputError, match=rf"code version.* 0\.0\.9, got {re.escape(ap.__version__)}"):
            searched(stages[0].run, {"kind": "local"}, **SMALL)
    finally:
        path.write_text(text)


def test_other_software_is_told() -> None:
    old = continued(None, RunRecord(versions={"torch": "2.12.0", "numpy": "2.0"}))
    assert old.versions[CODE] == code_hash()
    assert old.notes == ()
    new = continued(old, RunRecord(versions={"torch": "2.13.0", "numpy": "2.0"}, notes=("as ever",)))
    assert new.notes == (
        "as ever",
        "this run began with torch 2.12.0 and went on with 2.13.0: trials before and after may differ in their last "
        "digits",
    )
    again = continued(new, RunRecord(versions={"torch": "2.13.0", "numpy": "2.0"}, notes=("as ever",)))
    assert again.notes == new.notes


def test_limits_reach_the_executor(tmp_path: Path) -> None:
    """A limit that nothing meets fails every policy, with the reason."""
    limits = ExecutorSettings("local", memory_bytes=1_000_000)
    with pytest.raises(AutopruneError, match=r"cannot start: out of memory: .* 1 MB are allowed"):
        searched(tmp_path / "run", limits, **SMALL)  # type: ignore[arg-type]
