"""Members as files: what is written loads back the same, and what was damaged is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoprune.artifacts.bundle import make_recipe, write_front, write_member, write_run, write_trials
from autoprune.artifacts.front import load_front
from autoprune.artifacts.layout import INPUTS, METRICS, PROGRAM, RECIPE, RUN, TRIALS, WEIGHTS, member_folder
from autoprune.artifacts.loading import load_module, member_names
from autoprune.artifacts.rebuilding import rebuild
from autoprune.artifacts.records import MetricsRecord, Recipe, RunRecord
from autoprune.artifacts.table import read_table
from autoprune.artifacts.weights import state_hash
from autoprune.core.errors import AutopruneError, InputError
from autoprune.graph import DependencyGraph, trace
from autoprune.pruning import Pruner
from tests.artifacts.conftest import Net


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_member_loads_with_the_same_outputs(run: Path, graph: DependencyGraph) -> None:
    inputs = torch.randn(5, 3, 8, 8)
    expected = graph.module(graph.uniform(0.5)).eval()(inputs)
    module = load_module(run, "half")
    assert not module.training
    assert torch.equal(module(inputs), expected)
    member = load_front(run).select()
    assert member.model is member.model
    assert torch.equal(member.predict(inputs), expected)
    assert torch.equal(member.predict((inputs,)), expected)
    assert not member.predict(inputs).requires_grad
    assert member.policy == graph.uniform(0.5)


def test_a_member_loads_in_a_new_process_without_the_users_code(run: Path, graph: DependencyGraph) -> None:
    inputs = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    expected = graph.module(graph.uniform(0.5)).eval()(inputs).sum().item()
    code = (
        "import sys, torch; torch.set_num_threads(1); from autoprune.artifacts.loading import load_module;"
        "x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(7));"
        "print(load_module(sys.argv[1], 'half')(x).sum().item(), 'tests' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    total, imported = found.stdout.split()
    assert float(total) == pytest.approx(expected, abs=1e-5)
    assert imported == "False"


def test_a_loaded_member_can_be_trained(run: Path) -> None:
    module = load_module(run, "half").clone_tensors().train()
    module(torch.randn(4, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_what_is_written(run: Path, graph: DependencyGraph) -> None:
    assert member_names(run) == ("half",)
    folder = member_folder(run, "half")
    assert {item.name for item in folder.iterdir()} == {RECIPE, WEIGHTS, METRICS, "model.safetensors"}
    recipe = Recipe.read(folder / RECIPE)
    assert recipe.source == {"weights": state_hash(graph.state), "program": recipe.source["program"]}
    assert {group: len(units) for group, units in recipe.kept.items()} == recipe.policy
    record = MetricsRecord.read(folder / METRICS)
    assert record.row["accuracy"] == 0.9
    assert record.exports["safetensors"].bytes == (folder / "model.safetensors").stat().st_size
    groups = [(group.id, group.size, group.unit) for group in RunRecord.read(run / RUN).groups]
    assert groups == [(group.id, group.size, group.unit) for group in graph.groups.values()]
    assert not list(run.rglob(".*"))


def test_writing_again_replaces_the_member(run: Path, graph: DependencyGraph) -> None:
    policy = graph.uniform(0.25)
    write_member(run, make_recipe("half", graph, policy), graph.module(policy), formats=())
    assert load_module(run, "half").widths == graph.widths(policy)
    assert not (member_folder(run, "half") / "model.safetensors").exists()
    assert [item.name for item in (run / "members").iterdir()] == ["half"]


def test_a_member_without_a_branch_loads_and_exports(run: Path, graph: DependencyGraph) -> None:
    policy = graph.check({"inner": 0, "stem": 5})
    module = graph.module(policy)
    metrics = write_member(run, make_recipe("short", graph, policy), module, formats=("onnx", "pt2", "safetensors"))
    assert set(metrics.exports) == {"onnx", "pt2", "safetensors"}
    inputs = torch.randn(3, 3, 8, 8)
    loaded = load_module(run, "short")
    assert torch.equal(loaded(inputs), module(inputs))
    assert "outer.constant" in load_file(member_folder(run, "short") / WEIGHTS)
    edit(member_folder(run, "short") / RECIPE, lambda data: data["policy"].update(stem=0))
    edit(member_folder(run, "short") / RECIPE, lambda data: data["kept"].update(stem=[]))
    with pytest.raises(InputError, match="expected at least 1 unit for"):
        load_module(run, "short")


def test_the_recipe_rebuilds_the_member(run: Path, graph: DependencyGraph) -> None:
    calibration = [(torch.randn(16, 3, 8, 8),)]
    pruner = Pruner(graph, "obs", calibration)
    policy = graph.uniform(0.5)
    recipe = make_recipe("obs", graph, policy, pruner.orders, criterion="obs")
    write_member(run, recipe, pruner.build(policy), formats=())
    again = rebuild(graph, Recipe.read(member_folder(run, "obs") / RECIPE), calibration)
    inputs = torch.randn(4, 3, 8, 8)
    assert torch.allclose(again(inputs), load_module(run, "obs")(inputs), atol=1e-6)
    torch.manual_seed(5)
    other = trace(Net().eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(InputError, match=r"expected weights [0-9a-f]{16}, got [0-9a-f]{16}: another model"):
        rebuild(other, recipe, calibration)
    backwards = {group: tuple(range(8 - len(units), 8)) for group, units in recipe.kept.items() if len(units) == 4}
    swapped = recipe.model_copy(update={"kept": backwards | {"stem": (0, 1, 2, 7)}})
    with pytest.raises(InputError, match="Give the calibration inputs it was made with"):
        rebuild(graph, swapped, calibration)


def test_front_and_metrics_agree(run: Path) -> None:
    write_front(run, [{"member": "half", "accuracy": 0.91, "latency_p50_us": float("nan")}])
    assert read_table(run / "front.csv", "front") == ({"member": "half", "accuracy": 0.91, "latency_p50_us": None},)
    assert MetricsRecord.read(member_folder(run, "half") / METRICS).row["accuracy"] == 0.91
    with pytest.raises(InputError, match="expected each member once"):
        write_front(run, [{"member": "half"}, {"member": "half"}])


def test_trials(run: Path) -> None:
    write_trials(run, [{"number": 0, "origin": "dense", "feasible": True, "accuracy": 0.9, "policy": '{"stem":8}'}])
    row = read_table(run / TRIALS, "trials")[0]
    assert row == {"number": 0, "origin": "dense", "feasible": 1, "accuracy": 0.9, "policy": '{"stem":8}'}


def test_a_run_resumes_only_as_what_it_began(run: Path, graph: DependencyGraph) -> None:
    write_run(run, graph, RunRecord(profiles=("cpu",), notes=("again",)))
    for change, message in (
        (
            {"objectives": ("error", "size")},
            "expected objectives as when it began, error, latency_p50, got error, size",
        ),
        ({"profiles": ("phone",)}, "expected profiles as when it began, cpu, got phone"),
        ({"hashes": {"data": "ab"}}, r"expected data \(hash\) as when it began, None, got ab"),
    ):
        with pytest.raises(InputError, match=message):
            write_run(run, graph, RunRecord(profiles=("cpu",)).model_copy(update=change))
    other = trace(Net().eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(InputError, match=r"expected weights \(hash\) as when it began"):
        write_run(run, other, RunRecord(profiles=("cpu",)))


@pytest.mark.parametrize("name", ["../half", "/etc", "..", "half/../half", "a\0b"])
def test_names_cannot_lead_out_of_the_run(run: Path, name: str) -> None:
    with pytest.raises(InputError, match="member name: expected"):
        load_module(run, name)


def test_unknown_members_are_listed(run: Path) -> None:
    with pytest.raises(InputError, match=r"unknown member 'hal'. Did you mean 'half'"):
        load_module(run, "hal")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d.update(schema="autoprune.recipe/2"),
            "expected schema 'autoprune.recipe/1', got 'autoprune.recipe/2'",
        ),
        (lambda d: d.update(member="other"), "expected member 'half', got 'other'"),
        (lambda d: d.update(criterium="l1"), "unknown key 'criterium'. Did you mean 'criterion'"),
        (lambda d: d["policy"].update(stem=9), "expected 0 to 8 units for 'stem', got 9"),
        (lambda d: d["policy"].update(stem=-1), "policy.stem: .*greater than or equal to 0"),
        (lambda d: d["policy"].update(stem=4.0), "policy.stem: .*valid integer"),
        (lambda d: d["policy"].pop("stem"), "expected exactly the groups of the program, 'stem' differs"),
        (lambda d: d["policy"].update(other=1), "expected exactly the groups of the program, 'other' differs"),
        (lambda d: d["kept"].update(stem=[0, 1, 2]), "expected 4 ascending unit numbers below 8 for 'stem'"),
        (lambda d: d["kept"].update(stem=[0, 1, 2, 8]), "expected 4 ascending unit numbers below 8 for 'stem'"),
        (lambda d: d["kept"].update(stem=[0, 1, 1, 2]), "expected 4 ascending unit numbers below 8 for 'stem'"),
        (lambda d: d["kept"].update(steam=[0]), "unknown group in .*'steam'. Did you mean 'stem'"),
        (lambda d: d["source"].update(program="0" * 16), "expected a member of this run's program"),
        (lambda d: d.update(finetune={"lr": float("nan")}), "finite"),
        (
            lambda d: d["policy"].update(stem=6),
            "expected 'stem.weight' of shape \\(6, 3, 3, 3\\), got \\(4, 3, 3, 3\\)",
        ),
    ],
)
def test_recipes_that_do_not_fit(run: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    def both(data: dict[str, Any]) -> None:
        change(data)
        if data["policy"].get("stem") == 6:
            data["kept"]["stem"] = list(range(6))

    edit(member_folder(run, "half") / RECIPE, both)
    with pytest.raises(InputError, match=message) as caught:
        load_module(run, "half")
    assert str(run) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.bias"), "lacks 'head.bias'"),
        (lambda t: t.update(extra=torch.zeros(1)), "has unexpected 'extra'"),
        (lambda t: t.update({"head.bias": torch.zeros(6)}), r"expected 'head.bias' of shape \(5,\), got \(6,\)"),
        (lambda t: t.update({"head.bias": torch.zeros(5).half()}), "expected 'head.bias' of type F32, got F16"),
    ],
)
def test_weights_that_do_not_fit(run: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str) -> None:
    path = member_folder(run, "half") / WEIGHTS
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(InputError, match=message) as caught:
        load_module(run, "half")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 20, 300, -1])
def test_truncated_weights(run: Path, keep: int) -> None:
    path = member_folder(run, "half") / WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="expected a whole safetensors file"):
        load_module(run, "half")
    path.unlink()
    with pytest.raises(InputError, match="expected a file, got none"):
        load_module(run, "half")


def test_pickled_weights_are_not_read(run: Path) -> None:
    path = member_folder(run, "half") / WEIGHTS
    torch.save({"stem.weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="expected a whole safetensors file"):
        load_module(run, "half")


def test_a_header_that_claims_terabytes_is_refused(run: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path = member_folder(run, "half") / WEIGHTS
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="weights"):
        load_module(run, "half")


TREE = '[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'
ENUM = (
    '[1, {"type": "builtins.dict", "context": "[{\\"__enum__\\": true, \\"fqn\\": \\"MODULE:A\\", \\"name\\": \\"B\\"'
    '}]", "children_spec": [{"type": null, "context": null, "children_spec": []}]}]'
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema="autoprune.program/9"), "expected schema 'autoprune.program/1', got"),
        (
            lambda d: d.update(output_tree=TREE),
            "expected outputs in tuples, lists and dicts, got 'collections.defaultdict'",
        ),
        (lambda d: d.update(output_tree="[" * 5000), "program"),
        (lambda d: d.pop("values"), "KeyError"),
        (lambda d: d["operations"][0].update(target="aten.from_file.default"), "expected a known ATen operator"),
        (lambda d: d["operations"][0].update(target="os.system"), "expected a known ATen operator"),
        (lambda d: d["operations"][0].update(module="forward"), "cannot be module 'forward'"),
        (lambda d: d["outputs"].append("nothing"), "'nothing' is read before it is defined"),
        (
            lambda d: d["values"]["head.bias"].update(dimensions=[{"width": ["stem", 5]}]),
            "group 'stem' of 8 units has 5",
        ),
        (lambda d: d["values"]["head.bias"].update(dimensions=[-5]), "not a dimension"),
        (lambda d: d["values"]["head.bias"].update(dimensions=[float("nan")]), "finite numbers"),
        (lambda d: d["values"]["head.bias"].update(dimensions=[6]), "expected a member of this run's program"),
    ],
)
def test_programs_that_do_not_fit(run: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    edit(run / PROGRAM, change)
    with pytest.raises(InputError, match=message) as caught:
        load_module(run, "half")
    assert str(run) in str(caught.value)


def test_a_program_imports_nothing_it_names(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_for_readers.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    edit(run / PROGRAM, lambda data: data.update(output_tree=ENUM.replace("MODULE", "trap_for_readers")))
    with pytest.raises(InputError, match="keyed by texts"):
        load_module(run, "half")
    assert "trap_for_readers" not in sys.modules


def test_a_width_that_cannot_be_built_is_refused(run: Path) -> None:
    edit(run / PROGRAM, lambda data: data["parameters"].append("x"))
    with pytest.raises(InputError, match="program"):
        load_module(run, "half")


def test_inputs_that_do_not_fit(run: Path) -> None:
    save_file({"000": torch.zeros(3)}, run / INPUTS)
    with pytest.raises(InputError, match=r"expected 'x' of 4 dimensions, got \(3,\)"):
        load_front(run).select().export(run / "out", ["safetensors"])
    save_file({"000": torch.zeros(3), "001": torch.zeros(3)}, run / INPUTS)
    with pytest.raises(InputError, match="expected 1 tensors, got 2"):
        load_front(run).select().export(run / "out", ["safetensors"])


def test_members_of_other_widths_are_refused(run: Path, graph: DependencyGraph) -> None:
    with pytest.raises(InputError, match="expected a module of the recipe's widths"):
        write_member(run, make_recipe("x", graph, graph.uniform(0.5)), graph.module())
    with pytest.raises(InputError, match=r"unknown format 'onx'. Did you mean 'onnx'"):
        write_member(run, make_recipe("x", graph, {}), graph.module(), formats=("onx",))
    assert member_names(run) == ("half",)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_named(run: Path, graph: DependencyGraph) -> None:
    run.chmod(0o500)
    with pytest.raises(InputError, match="Choose a folder you may write to"):
        write_run(run, graph, RunRecord(profiles=("cpu",)))


def test_a_file_in_the_way_is_named(run: Path, graph: DependencyGraph) -> None:
    blocked = run / "run.json"
    with pytest.raises(InputError, match=r"cannot write .*Choose a folder you may write to"):
        write_run(blocked, graph, RunRecord())
    with pytest.raises(InputError, match="cannot write"):
        load_front(run).select().export(blocked / "out", ["safetensors"])


def test_native_model_says_why_there_is_none(run: Path) -> None:
    member = load_front(run).select()
    assert member.native_model is None
    assert "the dense model is not at hand" in member.native_reason


def test_export_failures_are_errors_of_work(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprune.artifacts.exporters.safetensors import SafetensorsExporter

    monkeypatch.setattr(SafetensorsExporter, "tolerance", -1.0)
    with pytest.raises(AutopruneError, match="export of 'half': parity: safetensors: outputs differ by"):
        load_front(run).select().export(tmp_path / "out", ["safetensors"])
    assert not list((tmp_path / "out").iterdir())
