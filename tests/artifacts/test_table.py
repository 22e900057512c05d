"""The CSV round trip is exact, bytes follow from values, and damage is named."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.artifacts.table import Row, clean_row, order_columns, read_table, table_text, write_table
from autoprune.core.errors import InputError

NUMBERS = st.one_of(st.none(), st.integers(-(2**63), 2**63), st.floats(allow_nan=False, allow_infinity=False))
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).filter(str.strip)


@given(rows=st.lists(st.fixed_dictionaries({"a": NUMBERS, "b": NUMBERS, "speedup@x": NUMBERS}), min_size=1, max_size=5))
def test_round_trip_is_exact(
    rows: list[dict[str, int | float | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "front.csv"
    full: list[Row] = [{"member": f"m{index}", **row} for index, row in enumerate(rows)]
    write_table(path, full)
    back = read_table(path, "front")
    assert list(back) == full
    assert [{k: type(v) for k, v in row.items()} for row in back] == [
        {k: type(v) for k, v in row.items()} for row in full
    ]
    assert table_text(back) == path.read_text()


@given(name=NAMES, text=NAMES)
def test_round_trip_of_any_name_and_text(name: str, text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("csv") / "front.csv"
    rows = [clean_row({"member": "m", "note": text, f"x{name}": 1.5})]
    write_table(path, rows)
    assert list(read_table(path, "front")) == rows


def test_bytes_do_not_depend_on_the_order_of_keys() -> None:
    row: Row = {"policy_id": "ab", "latency_p50_us": 2.0, "accuracy": 0.5, "member": "m", "zeta": 1}
    backwards = dict(reversed(list(row.items())))
    assert table_text([row], ["accuracy"]) == table_text([backwards], ["accuracy"])
    assert table_text([row], ["accuracy"]).splitlines()[0] == "member,accuracy,latency_p50_us,zeta,policy_id"


def test_columns_are_ordered_profile_by_profile() -> None:
    names = [
        "policy_id",
        "speedup@b",
        "latency_p50_us@a",
        "f1",
        "latency_p50_us@b",
        "test_f1",
        "params",
        "member",
        "odd",
    ]
    assert order_columns(names, ["f1"]) == (
        "member", "f1", "test_f1", "params", "latency_p50_us@a", "latency_p50_us@b", "speedup@b", "odd", "policy_id",
    )  # fmt: skip


def test_numpy_scalars_become_plain_and_what_is_not_finite_is_missing() -> None:
    row = clean_row(
        {"member": "m", "a": np.float64(0.5), "b": np.int64(3), "c": math.nan, "d": math.inf, "feasible": True}
    )
    assert row == {"member": "m", "a": 0.5, "b": 3, "c": None, "d": None, "feasible": 1}
    assert [type(row[name]) for name in "ab"] == [float, int]


@pytest.mark.parametrize(
    ("row", "message"), [({"member": 3}, "expected text, got int"), ({"a": "x"}, "expected a number")]
)
def test_cells_of_the_wrong_kind_are_a_programming_error(row: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        clean_row(row)


def test_a_column_name_with_a_line_break_is_refused() -> None:
    with pytest.raises(InputError, match="expected printable text"):
        clean_row({"a\nb": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header line, got an empty file"),
        ("name,accuracy\nm,1\n", "expected the column 'member', got name, accuracy"),
        ("member,a,a\nm,1,1\n", "expected each column once, got 'a' twice"),
        ("member,a\nm,1\nn\n", "row 3: expected 2 cells, got 1"),
        ("member,a\nm,fast\n", "row 2, column 'a': expected a finite number or nothing, got 'fast'"),
        ("member,a\nm,nan\n", "column 'a': expected a finite number"),
        ("member,a\nm,-inf\n", "column 'a': expected a finite number"),
        ('member,a\nm,"1\n', "does not parse"),
    ],
)
def test_damage_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "front.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"front.csv") as caught:
        read_table(path, "front", required=("member",))
    assert message in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "front.csv").write_bytes(b"member\n\xff\xfe\n")
    with pytest.raises(InputError, match="expected UTF-8"):
        read_table(tmp_path / "front.csv", "front")
