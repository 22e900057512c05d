"""The front benchmark: parts, budgets and figures on a toy network, and the pieces that peers are run by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.core.errors import InputError
from autoprune.graph import trace
from benchmarks.front import main
from benchmarks.front_bench import Bench, Evaluated, curve, front, spread, volume
from benchmarks.front_cost import trial_times, wide
from benchmarks.front_figure import Figure
from benchmarks.front_finish import standard_error
from benchmarks.front_methods import METHODS, PEERS, chosen
from benchmarks.front_peers import widths_of
from benchmarks.front_report import best_peer
from benchmarks.front_tasks import Sizes, toy
from tests.graph.models import SHAPE, trained

RUN = ["run", "--task", "toy", "--seeds", "0", "--trials", "16"]
RAN = ("ours", "ours-damage-measured", "optuna-nsga2-bn", "halp")


def entry(error: float | None, latency_us: float, spent: float = 1.0) -> Evaluated:
    return Evaluated(error, latency_us, spent, 0.0, {})


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("front")
    assert main([*RUN, "--methods", *RAN, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(toy(0, Sizes()), tmp_path_factory.mktemp("bench"))


def part(out: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((out / "toy" / f"{name}-s0.json").read_text(encoding="utf-8"))
    return data


def test_every_method_keeps_its_budget(out: Path) -> None:
    for name in RAN:
        spent = [item["spent"] for item in part(out, name)["evaluated"]]
        assert spent == sorted(spent)
        assert 0 < spent[-1] <= 16
    assert len(part(out, "optuna-nsga2-bn")["evaluated"]) == 16


def test_damage_curves_are_taken_off_our_budget(out: Path) -> None:
    assert part(out, "ours")["figures"]["damage curves, evaluations"] == 0.0
    data = part(out, "ours-damage-measured")
    used = data["figures"]["damage curves, evaluations"]
    assert used > 0
    assert data["evaluated"][0]["setting"] == {"origin": "dense"}
    steps = np.diff([item["spent"] for item in data["evaluated"]])
    origins = [item["setting"]["origin"] for item in data["evaluated"]]
    assert steps.max() == pytest.approx(used + 1, abs=1.0)  # a trial that is stopped early is less than an evaluation
    assert origins[int(steps.argmax())] == "uniform"  # the last before the curves


def test_what_is_done_is_not_done_again_and_other_options_are_refused(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (out / "toy" / "ours-s0.json").stat().st_mtime_ns
    assert main([*RUN, "--methods", "ours", "--out", str(out)]) == 0
    assert (out / "toy" / "ours-s0.json").stat().st_mtime_ns == before
    assert main([*RUN[:-1], "13", "--methods", "ours", "--out", str(out)]) == 2
    assert "expected a part made with {'trials': 13" in capsys.readouterr().err


def test_rescored_and_tuned_fronts_and_the_report(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--task", "toy", "--seeds", "0", "--methods", "ours", "halp", "--members", "2", "--no-measure"]
    assert main(["rescore", *given, "--out", str(out)]) == 0
    assert main(["tune", *given, "--epochs", "1", "--out", str(out)]) == 0
    rows = json.loads((out / "toy" / "ours-s0.tuned.json").read_text(encoding="utf-8"))["members"]
    assert 0 < len(rows) <= 2
    assert all(row["tuned_error"] <= row["error"] for row in rows)  # the best epoch stays, the one before training too
    status = main(["report", "--out", str(out)])
    text = capsys.readouterr().out
    data = json.loads((out / "front.json").read_text(encoding="utf-8"))
    assert status == (1 if any(figure["met"] is False for figure in data["figures"]) else 0)
    assert set(data["tasks"]["toy"]) == set(RAN)
    assert data["tasks"]["toy"]["ours"]["tuned"]["0"] > 0
    assert "toy: hypervolume over that of" in text
    assert (out / "front.html").stat().st_size > 1000


def test_the_same_module_is_made_again(out: Path, bench: Bench) -> None:
    for name in RAN:
        found = [Evaluated(**item) for item in part(out, name)["evaluated"]]
        item = min((item for item in found if item.error is not None), key=lambda item: item.latency_us)
        module = METHODS[name].module(bench, 0, item)
        assert bench.error(module) == pytest.approx(item.error)
        assert module.widths == dict(item.policy)


def test_a_report_of_nothing_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--out", str(tmp_path)]) == 2
    assert "expected parts of the benchmark, got none" in capsys.readouterr().err


def test_methods_by_name_and_by_set() -> None:
    assert set(chosen(["peers"])) == set(PEERS)
    assert list(chosen(["ours", "halp"])) == ["ours", "halp"]
    with pytest.raises(InputError, match=r"unknown method 'hapl'\. Did you mean 'halp'"):
        chosen(["hapl"])


def test_front_curve_and_volume() -> None:
    found = [entry(0.5, 8.0, 1.0), entry(None, 1.0, 2.0), entry(0.6, 9.0, 3.0), entry(0.2, 9.0, 4.0)]
    assert [item.latency_us for item in front(found)] == [8.0, 9.0]
    rows = curve(found, (0.1, 10.0), (1.0, 10.0))
    np.testing.assert_allclose(rows[:, 0], [0, 1, 2, 3, 4])
    np.testing.assert_allclose(rows[:, 1], [0.0, 0.1, 0.1, 0.1, 0.1 + 0.1 * 0.3])
    assert volume([(0.0, 0.0)], (0.9, 30.0)) == 1.0


def test_spread_takes_both_ends_and_leaves_the_dense_out() -> None:
    members = [entry(1.0 / time, time) for time in (1.0, 2.0, 4.0, 8.0, 16.0)]
    assert [item.latency_us for item in spread(members, 2, 16.0)] == [1.0, 4.0]
    assert [item.latency_us for item in spread(members, 9, 16.0)] == [1.0, 2.0, 4.0, 8.0]


def test_standard_error_draws_whole_groups() -> None:
    hits = np.repeat([1.0, 0.0], 50)
    assert standard_error(hits, None) == pytest.approx(0.05, rel=0.15)
    assert standard_error(hits, np.arange(100) // 10) == pytest.approx(0.16, rel=0.15)


def test_figures_meet_miss_or_are_not_known() -> None:
    assert Figure("a", 1.2, 1.15).met
    assert Figure("a", 0.2, 0.1, least=False).met is False
    assert Figure("a", None, 1.0).met is None
    assert str(Figure("a", 1.0, 1.15)) == "a: 1.000 (asked >= 1.15): MISSED"


def test_ours_is_no_peer() -> None:
    assert best_peer({"ours": {0: 0.9}, "ladder-obs": {0: 0.8}, "halp": {0: 0.3}, "ladder": {0: 0.4}}) == "ladder"


class Heads(nn.Module):
    """Attention over one set of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (4, 2)).transpose(1, 2) for part in (self.query, self.key, self.value))
        found: Tensor = self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return found


def test_widths_are_read_from_shapes() -> None:
    for graph in (trace(trained("Residual"), torch.zeros(2, *SHAPE)), trace(Heads().eval(), torch.zeros(2, 3, 8))):
        policy = {group.id: group.size - (group.unit != "head_dim") for group in graph.groups.values()}
        module = graph.module(graph.check(policy))
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        assert widths_of(graph, shapes) == module.widths
        with pytest.raises(InputError, match="expected shapes that fit group"):
            widths_of(graph, dict.fromkeys(shapes, (99, 99, 99, 99)))


def test_cost_notes_every_trial(tmp_path: Path) -> None:
    times, _ = trial_times(wide(12, 4), 40, tmp_path)
    assert len(times) == 40
    assert (np.diff(times) >= 0).all()


def test_unequal_searches_are_not_compared(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy").mkdir()
    for name, trials in (("ours", 12), ("halp", 24)):
        data = part(out, name)
        data["options"]["trials"] = trials
        (tmp_path / "toy" / f"{name}-s0.json").write_text(json.dumps(data), encoding="utf-8")
    assert main(["report", "--out", str(tmp_path)]) == 2
    assert "expected searches that had equal evaluations" in capsys.readouterr().err
