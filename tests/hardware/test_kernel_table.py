"""Rows of kernels that failed, that were timed inside a model, and files written before there were such rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.core.errors import InputError
from autoprune.hardware.kernel_table import REQUIRED, KernelRow, read_kernels, write_kernels
from tests.hardware.samples import row

FAMILY = "x0:(1,c0,4,4);y0:(1,c0,4,4)=relu.default(x0)"
OLD = f"""{",".join(REQUIRED)},energy_uj,provenance
"{FAMILY}",8,elementwise,150,12.5,12.5,13,14,19,0.1,1,1,,measured
"""


def columns(path: Path) -> list[str]:
    return path.read_text().splitlines()[0].split(",")


def test_files_of_older_profiles_are_read(tmp_path: Path) -> None:
    path = tmp_path / "kernels.csv"
    path.write_text(OLD)
    [found] = read_kernels(path)
    assert (found.within, found.failure, found.peak_memory_bytes) == ("alone", "", None)
    assert (found.sizes, found.p99_us) == ((8,), 19.0)


def test_a_kernel_may_have_a_row_of_each_place_and_columns_are_there_where_used(tmp_path: Path) -> None:
    alone = row(FAMILY, (8,), 12.5)
    path = tmp_path / "kernels.csv"
    write_kernels(path, [alone])
    assert columns(path) == list(REQUIRED)
    inside = replace(alone, p50_us=10.0, within="model", peak_memory_bytes=4096.0, energy_uj=1.5)
    write_kernels(path, [inside, alone])
    assert columns(path) == [*REQUIRED, "energy_uj", "peak_memory_bytes", "within"]
    assert read_kernels(path) == (alone, inside)


def test_failures_are_rows_with_their_reason_on_one_line(tmp_path: Path) -> None:
    failed = KernelRow.failed(FAMILY, (8,), "elementwise", "memory: out of\n  memory, 4 GB", 1.0, 2.0)
    assert failed.failure == "memory: out of memory, 4 GB"
    assert (failed.n, failed.p50_us, failed.mean_us, failed.bytes) == (0, 0.0, 0.0, 2.0)
    assert KernelRow.failed(FAMILY, (8,), "conv", "  ", 1.0, 2.0).failure == "no reason given"
    path = tmp_path / "kernels.csv"
    write_kernels(path, [failed])
    assert read_kernels(path) == (failed,)


def test_the_same_place_twice(tmp_path: Path) -> None:
    path = tmp_path / "kernels.csv"
    inside = row(FAMILY, (8,), 12.5, within="model")
    write_kernels(path, [inside, inside])
    with pytest.raises(InputError, match=r"kernel 2: expected each kernel once.*timed inside a model"):
        read_kernels(path)


def test_an_unknown_place(tmp_path: Path) -> None:
    path = tmp_path / "kernels.csv"
    write_kernels(path, [row(FAMILY, (8,), 12.5, within="model")])
    path.write_text(path.read_text().replace(",model", ",phone"))
    with pytest.raises(InputError, match="line 2, column 'within': expected one of alone, model, got 'phone'"):
        read_kernels(path)
