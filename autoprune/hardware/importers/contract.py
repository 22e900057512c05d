"""The contract of importers, for those built in and for those that other packages add.

from autoprune.hardware.importers.contract import check_importer

def test_my_importer(tmp_path: Path) -> None:
    check_importer("mine", MyImporter(), sample_file, ImportSettings(), tmp_path)
"""

from __future__ import annotations

import math
from pathlib import Path

from autoprune.core.errors import InputError
from autoprune.hardware.importers import Importer, ImportSettings
from autoprune.hardware.importers.rows import kernel_rows


def check_importer(name: str, importer: Importer, sample: Path, settings: ImportSettings, folder: Path) -> None:
    """Raise AssertionError, saying what, where an importer breaks its contract.

    Args:
        name: it is registered as.
        importer: an instance.
        sample: a good file of its format.
        settings: what the file needs beside it.
        folder: to write broken files into.
    """
    found = importer.read(sample, settings)
    assert found.timings, f"{name}: expected times from {sample.name}, got none"
    for timing in found.timings:
        assert timing.kernels, f"{name}: {timing.place}: expected at least one kernel"
        assert 0 < timing.mean_us < math.inf, f"{name}: {timing.place}: expected a time above 0"
        assert timing.n >= 1, f"{name}: {timing.place}: expected at least one run"
    assert importer.read(sample, settings) == found, f"{name}: expected the same from the same file"
    rows = kernel_rows(found.timings)
    assert all(row.provenance == "imported" for row in rows), f"{name}: expected rows of provenance 'imported'"
    content = sample.read_bytes()
    refused = {
        "missing": None,
        "empty": b"",
        "cut": content[: 2 * len(content) // 3],
        "binary": bytes(range(256)) * 8,
        "deep": b"[" * 200_000,
        "other": b'{"a": [1, 2, 3]}\n',
    }
    for kind, data in refused.items():
        path = folder / f"{name}-{kind}{sample.suffix}"
        if data is not None:
            path.write_bytes(data)
        _check_refused(name, importer, path, settings, kind)


def _check_refused(name: str, importer: Importer, path: Path, settings: ImportSettings, kind: str) -> None:
    got = "none"
    try:
        importer.read(path, settings)
    except InputError as error:
        got = str(error)
    except Exception as error:
        raise AssertionError(f"{name}: {kind} file: expected InputError, got {type(error).__name__}") from error
    assert str(path) in got, f"{name}: {kind} file: expected an InputError that names the file, got {got}"
