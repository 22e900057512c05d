"""Profile files: round trips, and every way in which one can be wrong."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.core.errors import InputError
from autoprune.hardware.kernel_table import REQUIRED, KernelRow, read_kernels, write_kernels
from autoprune.hardware.profile import (
    HEADER_FILE,
    KERNELS_FILE,
    Composition,
    HardwareProfile,
    Residuals,
    Validation,
    list_profiles,
    load_profile,
)
from tests.hardware.samples import header, row

FAMILY = "x0:(1,c0,4,4);y0:(1,c0,4,4)=relu.default(x0)"


def profile() -> HardwareProfile:
    made = header(
        composition={"p50": Composition(sum_factor=0.9, constant_us=3.0, kernel_us=0.5)},
        validation=Validation(models=8, residuals={"p50": Residuals(mean_absolute=0.02, low=-0.03, high=0.04)}),
        alignment_quantum=8,
    )
    rows = (row(FAMILY, (8,), 12.5, energy_uj=3.25), row(FAMILY, (4,), 7.0, provenance="imported"))
    return HardwareProfile(made, rows)


def test_round_trip(tmp_path: Path) -> None:
    saved = profile()
    saved.save(tmp_path / "cpu")
    loaded = HardwareProfile.load(tmp_path / "cpu")
    assert loaded.header == saved.header
    assert loaded.kernels == tuple(sorted(saved.kernels, key=lambda item: item.sizes))
    assert loaded.id == saved.id
    assert (loaded.name, loaded.batch, loaded.alignment_quantum) == ("test", 1, 8)


def test_saving_twice_gives_the_same_files(tmp_path: Path) -> None:
    profile().save(tmp_path / "a")
    HardwareProfile.load(tmp_path / "a").save(tmp_path / "b")
    for name in (HEADER_FILE, KERNELS_FILE):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_identity_follows_the_times(tmp_path: Path) -> None:
    first = profile()
    other = HardwareProfile(first.header, (row(FAMILY, (8,), 12.6), first.kernels[1]))
    assert first.id != other.id


def table(tmp_path: Path, edit: dict[str, str] | None = None, drop: str | None = None, add: str | None = None) -> Path:
    """A one-row table with some fields changed."""
    path = tmp_path / KERNELS_FILE
    write_kernels(path, [row(FAMILY, (8,), 12.5)])
    with path.open(newline="") as file:
        [columns, fields] = list(csv.reader(file))
    record = dict(zip(columns, fields, strict=True)) | (edit or {})
    if drop is not None:
        del record[drop]
    if add is not None:
        record[add] = "1"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(record)
        writer.writerow(record.values())
    return path


@pytest.mark.parametrize("column", REQUIRED)
def test_missing_column(tmp_path: Path, column: str) -> None:
    path = table(tmp_path, drop=column)
    with pytest.raises(InputError) as caught:
        read_kernels(path)
    message = str(caught.value)
    assert str(path) in message
    assert f"misses column {column}." in message
    assert "profile the device anew" in message


def test_unknown_and_repeated_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has the unknown column latency"):
        read_kernels(table(tmp_path, add="latency"))
    path = tmp_path / KERNELS_FILE
    path.write_text(",".join([*REQUIRED, "n"]) + "\n")
    with pytest.raises(InputError, match="repeats the column n"):
        read_kernels(path)


@pytest.mark.parametrize("column", ["n", "mean_us", "p50_us", "p99_us", "std_us", "flops", "bytes", "energy_uj"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [("fast", "a number >= 0"), ("nan", "finite"), ("inf", "finite"), ("-3", "finite number >= 0")],
)
def test_wrong_numbers_are_named_by_file_line_and_column(tmp_path: Path, column: str, text: str, expected: str) -> None:
    path = table(tmp_path, {column: text})
    with pytest.raises(InputError) as caught:
        read_kernels(path)
    message = str(caught.value)
    assert f"{path}, line 2, column '{column}'" in message
    assert expected in message
    assert f"got '{text}'" in message
    assert "Correct the field or remove the line" in message


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({"sizes": "8 x"}, "whole numbers with spaces"),
        ({"sizes": "-8"}, "whole numbers with spaces"),
        ({"sizes": "9" * 40}, "whole numbers with spaces"),
        ({"family": " "}, "expected a text"),
        ({"operator": ""}, "expected a text"),
        ({"p50_us": ""}, "a number >= 0"),
        ({"provenance": "guessed"}, "one of measured, fitted, imported, analytical"),
    ],
)
def test_other_wrong_fields(tmp_path: Path, edit: dict[str, str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read_kernels(table(tmp_path, edit))


def test_kernel_twice(tmp_path: Path) -> None:
    path = table(tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    with pytest.raises(InputError, match=r"kernel 2: expected each kernel once, got kernel 1 again.*Remove one"):
        read_kernels(path)


def test_line_of_another_length(tmp_path: Path) -> None:
    path = table(tmp_path)
    path.write_text(path.read_text() + "a,b\n")
    with pytest.raises(InputError, match=rf"line 3: expected {len(REQUIRED)} fields, got 2"):
        read_kernels(path)


def test_text_that_is_not_csv(tmp_path: Path) -> None:
    path = table(tmp_path)
    path.write_text(path.read_text() + '"open\n')
    with pytest.raises(InputError, match="expected CSV"):
        read_kernels(path)


def test_missing_table(tmp_path: Path) -> None:
    profile().save(tmp_path)
    (tmp_path / KERNELS_FILE).unlink()
    with pytest.raises(InputError, match="cannot read kernel table"):
        HardwareProfile.load(tmp_path)


def test_optional_columns_may_be_absent(tmp_path: Path) -> None:
    path = table(tmp_path)
    assert read_kernels(path)[0].energy_uj is None


def broken_header(tmp_path: Path, **fields: object) -> Path:
    profile().save(tmp_path)
    path = tmp_path / HEADER_FILE
    data = json.loads(path.read_text())
    for name, value in fields.items():
        if value is None:
            del data[name]
        else:
            data[name] = value
    path.write_text(json.dumps(data))
    return tmp_path


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"device": None}, "expected the field 'device', got a file without it"),
        ({"batch": 0}, "field 'batch'.*greater than or equal to 1.*got '0'"),
        ({"threads": "two"}, "field 'threads'.*got 'two'"),
        ({"provenance": "guessed"}, "field 'provenance'.*'measured', 'imported' or 'analytical'.*got 'guessed'"),
        ({"colour": "red"}, "field 'colour'"),
        ({"schema": "autoprune.profile/9"}, "expected schema 'autoprune.profile/1', got 'autoprune.profile/9'"),
        ({"composition": {"p50": {"sum_factor": -1, "constant_us": 0, "kernel_us": 0}}}, "composition.p50.sum_factor"),
    ],
)
def test_wrong_headers(tmp_path: Path, fields: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        HardwareProfile.load(broken_header(tmp_path, **fields))


def test_header_that_is_not_json(tmp_path: Path) -> None:
    profile().save(tmp_path)
    (tmp_path / HEADER_FILE).write_text("{")
    with pytest.raises(InputError, match="expected JSON"):
        HardwareProfile.load(tmp_path)


def test_folder_without_a_header(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found no profile.json\. Name a profile of `autoprune profile list`"):
        load_profile(tmp_path)


def test_unknown_profiles_list_the_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile().save(tmp_path / "cpu-test")
    monkeypatch.setattr("autoprune.hardware.profile.data_folder", lambda name: tmp_path)
    with pytest.raises(
        InputError, match=r"unknown hardware profile 'cpu-tset'. Did you mean 'cpu-test'\? Known: cpu-test"
    ):
        load_profile("cpu-tset")
    with pytest.raises(InputError, match=r"path of a profile's folder.*does not exist. Shipped profiles: cpu-test"):
        load_profile("some/where")
    assert load_profile("cpu-test").id == profile().id
    assert [found["name"] for found in list_profiles()] == ["test"]


def test_no_shipped_profiles_is_an_empty_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("autoprune.hardware.profile.data_folder", lambda name: tmp_path / "none")
    assert list_profiles() == []


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        profile().save(tmp_path / "file" / "profile")


def test_shipped_profiles_load() -> None:
    for found in list_profiles():
        loaded = load_profile(found["name"])
        assert loaded.kernels
        assert all(isinstance(item, KernelRow) for item in loaded.kernels)


def test_listing_and_loading_import_nothing_heavy() -> None:
    code = (
        "import sys; from autoprune.hardware.profile import list_profiles, load_profile\n"
        "names = [p['name'] for p in list_profiles()]\n"
        "[load_profile(name) for name in names]\n"
        "heavy = {'torch', 'optuna', 'ray', 'pandas', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
