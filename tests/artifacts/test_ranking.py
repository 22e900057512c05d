"""How well cheap stages rank: computed, stored, read back, said in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprune.artifacts.front import load_front
from autoprune.artifacts.layout import PREDICTION, RANKING
from autoprune.artifacts.ranking import (
    compare,
    compare_damage,
    compare_fidelities,
    read_ranking,
    summary,
    write_ranking,
)
from autoprune.artifacts.records import ComparisonRecord
from autoprune.core.errors import InputError
from tests.artifacts.samples import write_sample


def test_a_comparison_counts_the_models_that_have_both() -> None:
    found = compare(
        "latency", "latency_p50", ("predicted", "measured"), [1.0, 2.0, 3.0, 9.0], [2.0, 4.0, 3.0, float("nan")]
    )
    assert found is not None
    assert found.models == 3
    assert (found.kendall, found.spearman) == pytest.approx((1 / 3, 0.5))
    assert found.error == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert compare("split", "accuracy", ("validation", "test"), [1.0], [1.0]) is None
    flat = compare("split", "accuracy", ("validation", "test"), [1.0, 1.0], [1.0, 2.0])
    assert flat is not None
    assert (flat.kendall, flat.error) == (None, None)


def test_fidelities_are_compared_two_by_two() -> None:
    levels = [
        {"none": {"accuracy": 0.1}, "short": {"accuracy": 0.3}, "full": {"accuracy": 0.7}},
        {"none": {"accuracy": 0.2}, "short": {"accuracy": 0.4}, "full": {"accuracy": 0.6}},
        {"none": {"accuracy": 0.3}, "short": {"accuracy": 0.2}},
        {},
    ]
    found = {(c.first, c.second): (c.models, c.kendall) for c in compare_fidelities(["accuracy"], levels)}
    assert found == {
        ("no fine-tuning", "short fine-tuning"): (3, pytest.approx(-1 / 3)),
        ("no fine-tuning", "full fine-tuning"): (2, -1.0),
        ("short fine-tuning", "full fine-tuning"): (2, -1.0),
    }


def test_written_and_read_back(tmp_path: Path) -> None:
    front = load_front(write_sample(tmp_path / "sample"))
    wanted = ComparisonRecord(kind="split", what="accuracy", first="a", second="b", models=3, kendall=0.5)
    assert read_ranking(front)
    write_ranking(front.run, [wanted])
    assert read_ranking(front) == (wanted,)


def test_a_run_without_the_file_is_compared_by_its_front(tmp_path: Path) -> None:
    front = load_front(write_sample(tmp_path / "sample"))
    (front.run / PREDICTION).write_text(json.dumps({"n": 40, "spearman_damage": 0.9, "kendall_damage": None}))
    text = summary(read_ranking(front))
    assert text.startswith("ranks alike (Kendall's tau): no fine-tuning and full fine-tuning 1.00 of 6; ")
    assert "validation and test 1.00 of 6" in text
    assert "latency_p50 predicted and measured 1.00 of 7, 4." in text
    assert text.endswith("damage curves and trials 0.90 (Spearman's rho) of 40")
    assert "\n" not in text
    assert summary(()) == ""


def test_one_devices_ranking_leaves_the_others_out(tmp_path: Path) -> None:
    front = load_front(write_sample(tmp_path / "sample", profiles=("cpu", "phone")))
    latencies = [
        ComparisonRecord(kind="latency", what=f"latency_p50@{name}", first="p", second="m", models=2, kendall=1.0)
        for name in ("cpu", "phone")
    ]
    write_ranking(front.run, latencies)
    assert read_ranking(front) == tuple(latencies)
    assert read_ranking(front.for_profile("phone")) == (latencies[1],)


def test_damage_curves_as_the_search_found_them(tmp_path: Path) -> None:
    assert compare_damage(tmp_path, "error") == []
    data = {"schema": "x", "spearman_damage": 0.8, "kendall_damage": 0.6, "spearman_corrected": 0.9, "n": 12}
    (tmp_path / PREDICTION).write_text(json.dumps(data))
    plain, corrected = compare_damage(tmp_path, "error")
    assert (plain.first, plain.kendall, plain.spearman, plain.models) == ("damage curves", 0.6, 0.8, 12)
    assert (corrected.first, corrected.kendall, corrected.spearman) == ("corrected damage curves", None, 0.9)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (PREDICTION, '{"n": -1}', "n: expected a count of trials, got -1"),
        (
            PREDICTION,
            '{"n": 3, "kendall_damage": "high"}',
            "kendall_damage: expected a correlation from -1 to 1 .* 'high'",
        ),
        (PREDICTION, '{"n": 3, "kendall_damage": NaN}', "expected (a correlation from -1 to 1|finite numbers)"),
        (PREDICTION, "[", "expected JSON"),
        (RANKING, '{"schema": "autoprune.ranking/9"}', "expected schema 'autoprune.ranking/1'"),
        (RANKING, '{"schema": "autoprune.ranking/1", "comparisons": [{"kind": "x"}]}', r"ranking .*comparisons\[0\]"),
    ],
)
def test_damaged_files_are_named(file: str, text: str, message: str, tmp_path: Path) -> None:
    front = load_front(write_sample(tmp_path / "sample"))
    (front.run / file).write_text(text)
    with pytest.raises(InputError, match=message):
        read_ranking(front)
