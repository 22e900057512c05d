"""The software that makes a run, and what of it changed since the run began."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import autoprune
from autoprune.artifacts.layout import RUN
from autoprune.artifacts.records import RunRecord

CODE = "code"  # among a run's versions: a hash of autoprune's own source, which versions do not tell in a checkout
_BEGAN = "this run began with "


@cache
def code_hash() -> str:
    """A hash of the package's source files."""
    folder = Path(autoprune.__file__).parent
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        whole.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:16]


def begun(run: Path) -> RunRecord | None:
    """How a run was made so far; None where it only begins.

    Raises:
        InputError: `run.json` is damaged.
    """
    return RunRecord.read(run / RUN) if (run / RUN).is_file() else None


def continued(old: RunRecord | None, record: RunRecord) -> RunRecord:
    """The record of a run that goes on: with a note for each piece of software that is another than before.

    Another version of autoprune is refused (`check_same_run`); of the rest the last digits of results may depend, which
    is no reason to throw hours away, but has to be said.
    """
    software = {"versions": {**record.versions, CODE: code_hash()}}
    software["hashes"] = {**record.hashes, "code version": autoprune.__version__}
    record = record.model_copy(update=software)
    if old is None:
        return record
    earlier = [note for note in old.notes if note.startswith(_BEGAN)]
    changed = [
        f"{_BEGAN}{name} {old.versions[name]} and went on with {version}: trials before and after may "
        "differ in their last digits"
        for name, version in record.versions.items()
        if old.versions.get(name, version) != version
    ]
    return record.model_copy(update={"notes": tuple(dict.fromkeys((*record.notes, *earlier, *changed)))})
