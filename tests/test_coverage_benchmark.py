"""The coverage benchmark's own arithmetic: what counts as handled, main widths, the summary and the page it writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.graph import trace
from benchmarks.coverage_docs import page
from benchmarks.coverage_policies import checked, in_double, random_policies, relative_difference
from benchmarks.coverage_summary import figures, handled, ratio
from benchmarks.coverage_widths import main_obstacles, main_share, multiplied_weights, obstacles
from benchmarks.coverage_zoo import randomise, settle
from tests.graph.models import SHAPE, trained


class Sandwich(nn.Module):
    """Two prunable layers around one whose output is the model's: of 4 x 6, 6 x 8 and 8 x 5 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.relu(self.middle(torch.relu(self.first(x)))))
        return result


def row(**changes: Any) -> dict[str, Any]:
    """A row of a model that passes everything, Torch-Pruning too."""
    whole: dict[str, Any] = {
        "name": "timm/fine",
        "analysis_s": 0.5,
        "operators": 100,
        "prunable_share": 1.0,
        "main_share": 0.9,
        "main_widths": True,
        "policies": [{"kind": "every group", "equal": True}],
        "half": {"parameters": 0.3},
        "training": {"ok": True},
        "onnx": {"ok": True},
        "pt2": {"ok": True},
        "native": {"ok": False, "reason": "sizes are fixed | here"},
        "policy_ms": 2.0,
        "owned_ms": 4.0,
        "peer": {
            "handled": True,
            "setting": "heads unknown",
            "copy_ms": 40.0,
            "build_ms": 100.0,
            "step_ms": 60.0,
            "reason": "",
        },
    }
    return whole | changes


def test_main_share_counts_weights_whose_both_widths_may_shrink() -> None:
    graph = trace(Sandwich().eval(), torch.zeros(2, 4))
    assert multiplied_weights(graph) == ["first.weight", "middle.weight", "last.weight"]
    assert main_share(graph) == pytest.approx(6 * 8 / (4 * 6 + 6 * 8 + 8 * 5))
    assert {item["example"] for item in main_obstacles(graph)} == {"first.weight[1]", "last.weight[0]"}
    assert [item["example"] for item in obstacles(graph)] == ["last.bias"]


def test_random_policies_pass_the_oracle_and_cut() -> None:
    model = trained("Residual")
    graph = trace(model, torch.randn(2, *SHAPE))
    policies = random_policies(graph)
    assert [policy.kind for policy in policies] == ["every group", "heads and residual width", "removed blocks"]
    assert policies[2].removed > 0
    for policy in policies:
        found = checked(graph, in_double(graph), policy)
        assert found["equal"]
        assert found["precision"] == "float64"
        assert found["parameters"] < 1.0


def test_relative_difference() -> None:
    x = torch.tensor([1.0, -4.0])
    assert relative_difference([x], [x]) == 0.0
    assert relative_difference([x], [torch.tensor([1.0, -3.0])]) == 0.25
    assert relative_difference([x], [torch.tensor([1.0, np.nan])]) == float("inf")
    assert relative_difference([x], [x[:1]]) == float("inf")


def test_randomise_and_settle_leave_no_layer_silent() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        for tensor in (model[2].weight, model[0].bias):
            assert isinstance(tensor, Tensor)
            tensor.zero_()
    randomise(model)
    settle(model, images)
    assert all(parameter.unique().numel() == parameter.numel() for parameter in model.parameters())
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.momentum == 0.1
    assert not norm.training
    assert isinstance(norm.running_mean, Tensor)
    torch.testing.assert_close(norm.running_mean, model[0](images).mean((0, 2, 3)))


@pytest.mark.parametrize(
    "changes",
    [
        {"policies": []},
        {"policies": [{"equal": True}, {"equal": False}]},
        {"half": {"parameters": 0.95}},
        {"half": None},
        {"training": {"ok": False}},
    ],
)
def test_a_model_is_handled_only_where_everything_holds(changes: dict[str, Any]) -> None:
    assert handled(row())
    assert not handled(row(**changes))


def test_ratio_is_of_building_and_pruning_over_ours() -> None:
    assert ratio(row()) == 80.0
    assert ratio(row(), "owned_ms") == 40.0
    assert ratio(row(), copied=True) == 100.0
    assert ratio(row(peer={"handled": False, "reason": "RuntimeError"})) is None
    assert ratio(row(policy_ms=None)) is None


def test_figures_meet_and_miss() -> None:
    poor = row(
        name="torchvision/resnet50", analysis_s=3.0, prunable_share=0.5, main_widths=False, policy_ms=30.0,
        policies=[{"equal": False}], peer={"handled": False, "reason": "no"},
    )  # fmt: skip
    large = row(name="timm/large", operators=2000, analysis_s=9.0)
    met: dict[str, Any] = {figure.name: (figure.value, figure.met) for figure in figures([row(), poor, large, row()])}
    assert met["policies equal to the oracle, %"] == (75.0, False)
    assert met["models with main widths prunable, %"] == (75.0, False)
    assert met["worst analysis up to 1,500 operators, s"] == (3.0, False)  # the large model is not bounded
    assert met["policy to model, ResNet-50, ms"] == (30.0, False)
    assert met["policy to model, times faster than Torch-Pruning, median"] == (80.0, True)
    assert met["models handled"] == (3.0, True)
    assert all(figure.met is not True for figure in figures([]))


def test_page_lists_every_exception_with_its_reason() -> None:
    reason = [{"reason": "operator aten.odd.default has no rule", "share": 0.7, "example": "a.weight"}]
    poor = row(
        name="timm/poor", prunable_share=0.3, obstacles=reason, main_share=0.2, main_widths=False,
        main_obstacles=reason, errors={"onnx": "RuntimeError: no"}, onnx=None,
    )  # fmt: skip
    rows = {item["name"]: item for item in (row(), poor)}
    environment = {"torch": "2.13.0", "threads": 1, "versions": {"timm": "1.0"}}
    text = page({"rows": rows, "environment": environment, "summary": []})
    assert "| timm/poor | 0.20 | 70% operator aten.odd.default has no rule (`a.weight`) |" in text
    assert "| timm/poor | 0.30 |" in text
    assert "| timm/poor | onnx | RuntimeError: no |" in text
    assert "| timm/fine | sizes are fixed \\| here |" in text
    assert "| timm/fine | 80 | heads unknown |" in text


def test_missing_libraries_are_one_message(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "coverage.py"
    hidden = "import sys; sys.modules['timm'] = None; sys.argv = sys.argv[1:]; import runpy; "
    command = [sys.executable, "-c", hidden + "runpy.run_path(sys.argv[0], run_name='__main__')", str(script)]
    done = subprocess.run(
        [*command, "--only", "timm/vit_small_patch16_224", "--out", str(tmp_path / "rows.json")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'autoprune[coverage]'" in done.stderr
    assert "Traceback" not in done.stderr
