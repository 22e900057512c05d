"""What results look like: units, JSON, progress without a terminal."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from autoprune.cli import output
from autoprune.cli.front import columns
from autoprune.cli.output import cell, emit_json, progress, table


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("latency_p50_us", 1234.0, "1.23 ms"),
        ("measured_latency_p50_us@phone", 12.0, "12 us"),
        ("size_bytes", 1_500_000, "1.5 MB"),
        ("params", 225_130, "225k"),
        ("speedup", 2.5, "2.50x"),
        ("accuracy", 0.98765, "0.9877"),
        ("accuracy", float("nan"), "-"),
        ("accuracy", None, "-"),
        ("member", "dense", "dense"),
        ("flag", True, "True"),
    ],
)
def test_cells(name: str, value: object, shown: str) -> None:
    assert cell(name, value) == shown


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    data = {"a": float("nan"), "b": Path("x/y"), "c": np.float32(0.5), "d": (1, {"e": np.int64(3)}), "f": float("inf")}
    emit_json(data)
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"a": None, "b": "x/y", "c": 0.5, "d": [1, {"e": 3}], "f": None}


def test_tables_show_markup_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    table("[red]title", ["member", "x"], [["[bold]m0[/bold]", "1" * 90]])
    shown = capsys.readouterr().out
    assert "[red]title" in shown
    assert "[bold]m0[/bold]" in shown
    assert "1" * 90 in shown


def test_columns_of_a_front() -> None:
    rows = [
        {"member": "dense", "accuracy": 1.0, "latency_p50_us@a": 3.0, "policy_id": "x", "size_bytes": 4},
        {"member": "m0", "test_accuracy": 0.9, "latency_p50_us@b": 3.0},
    ]
    assert columns(rows, ["accuracy"]) == [
        "member",
        "accuracy",
        "test_accuracy",
        "latency_p50_us@a",
        "latency_p50_us@b",
        "size_bytes",
    ]


def test_progress_says_what_is_left_at_the_speed_since_it_was_resumed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with progress() as report:
        report("kernels", 500, 1000)  # resumed: nothing is known of the speed
        now = 10.0
        report("kernels", 600, 1000)
        now = 130.0
        report("kernels", 900, 2000)  # more is wanted than it seemed
        now = 140.0
        report("kernels", 900, 900)
    assert capsys.readouterr().err.splitlines() == [
        "kernels: 500/1000",
        "kernels: 600/1000, 40 s left",
        "kernels: 900/2000, 6 min left",
        "kernels: 900/900",
    ]


def test_progress_on_a_terminal_counts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(output, "errors", lambda: Console(file=screen, force_terminal=True, width=100))
    with progress() as report:
        report("kernels", 0, 10)
        past = time.monotonic() + 20_000.0
        monkeypatch.setattr(time, "monotonic", lambda: past)
        report("kernels", 5, 10)
    shown = screen.getvalue()
    assert "kernels" in shown
    assert "5/10" in shown
    assert " h left" in shown


def test_progress_without_a_terminal_is_a_line_a_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as report:
        for done in range(1, 101):
            report("search", done, 100)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == ["search: 1/100", *(f"search: {done}/100" for done in range(10, 101, 10))]
