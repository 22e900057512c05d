"""The contract that every format keeps, and parity as it is judged."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.artifacts.exporters import EXPORTERS, Tensors, publish
from autoprune.artifacts.exporters.contract import check_exporter
from autoprune.artifacts.exporters.onnx import OnnxExporter
from autoprune.artifacts.exporters.parity import batch_axes, difference, parity_batches
from autoprune.artifacts.exporters.pt2 import Pt2Exporter
from autoprune.artifacts.exporters.safetensors import SafetensorsExporter
from autoprune.artifacts.records import ExportRecord
from autoprune.core.errors import Failure, InputError
from autoprune.graph import DependencyGraph, TracedModule, trace
from autoprune.graph.onnx import UnsupportedOperator
from tests.graph.transformers import TRANSFORMERS, transformer


class TwoInputs(nn.Module):
    """Keyword inputs, one of them integers; a dict comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits and the hidden state."""
        hidden = torch.relu(self.mix(self.embed(tokens).mean(1) * scale))
        return {"logits": self.head(hidden), "hidden": hidden}


@pytest.fixture(scope="module")
def keyword_graph() -> DependencyGraph:
    torch.manual_seed(0)
    return trace(TwoInputs().eval(), {"tokens": torch.randint(0, 11, (2, 4)), "scale": torch.rand(2, 6)})


def built_in(graph: DependencyGraph) -> tuple[TracedModule, tuple[torch.Tensor, ...]]:
    return graph.module(graph.uniform(0.5)).clone_tensors(), graph.example_inputs


@pytest.mark.parametrize("kind", EXPORTERS.names())
def test_contract(kind: str, tmp_path: Path) -> None:
    check_exporter(EXPORTERS.get(kind), tmp_path)


class _Off(SafetensorsExporter):
    def run(self, module: TracedModule, path: Path, batches: Sequence[Tensors]) -> list[Tensors]:
        return [tuple(tensor + 0.01 for tensor in outputs) for outputs in super().run(module, path, batches)]


class _Litters(SafetensorsExporter):
    def export(self, module: TracedModule, inputs: Tensors, path: Path) -> str:
        path.with_suffix(".log").write_text("")
        return super().export(module, inputs, path)


class _Changes(SafetensorsExporter):
    def export(self, module: TracedModule, inputs: Tensors, path: Path) -> str:
        next(module.parameters()).add_(1.0)
        return super().export(module, inputs, path)


class _Dotted(SafetensorsExporter):
    suffix = ".onnx"


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (_Off, "expected outputs within 1e-06, got 0.0"),
        (_Litters, "expected one file model.safetensors"),
        (_Changes, "expected to only read the module"),
        (_Dotted, "expected a suffix without dot"),
    ],
)
def test_contract_catches(kind: type[SafetensorsExporter], message: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=message):
        check_exporter(kind, tmp_path)


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_publish(kind: str, graph: DependencyGraph, tmp_path: Path) -> None:
    module, inputs = built_in(graph)
    module.train()
    exporter = EXPORTERS.get(kind)()
    record = publish(kind, module, inputs, tmp_path / f"model.{exporter.suffix}")
    assert isinstance(record, ExportRecord), record
    assert [item.name for item in tmp_path.iterdir()] == [record.file]
    assert record.bytes == (tmp_path / record.file).stat().st_size
    assert record.difference is not None
    assert record.difference <= exporter.tolerance == record.tolerance
    assert record.batches == (1, 3)
    assert module.training


@pytest.mark.parametrize("kind", EXPORTERS.names())
def test_keyword_inputs_and_nested_outputs(kind: str, keyword_graph: DependencyGraph, tmp_path: Path) -> None:
    module, inputs = built_in(keyword_graph)
    assert isinstance(publish(kind, module, inputs, tmp_path / "model"), ExportRecord)


def test_pt2_is_called_as_the_users_model(keyword_graph: DependencyGraph, tmp_path: Path) -> None:
    module, inputs = built_in(keyword_graph)
    publish("pt2", module, inputs, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    found = loaded(tokens=torch.zeros(5, 4, dtype=torch.int64), scale=torch.ones(5, 6))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {"logits": (5, 3), "hidden": (5, 8)}


def test_onnx_is_deterministic_and_its_batch_free(graph: DependencyGraph, tmp_path: Path) -> None:
    import onnxruntime

    module, inputs = built_in(graph)
    first, second = (publish("onnx", module, inputs, tmp_path / f"{name}.onnx") for name in "ab")
    assert isinstance(first, ExportRecord)
    assert isinstance(second, ExportRecord)
    assert first.sha256 == second.sha256
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    assert session.run(None, {name: np.zeros((9, 3, 8, 8), np.float32)})[0].shape == (9, 5)


def test_onnx_falls_back_to_torch(graph: DependencyGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UnsupportedOperator("aten.odd.default", "odd")

    monkeypatch.setattr("autoprune.artifacts.exporters.onnx.to_onnx", refuse)
    module, inputs = built_in(graph)
    record = publish("onnx", module, inputs, tmp_path / "model.onnx")
    assert isinstance(record, ExportRecord), record
    assert record.note.startswith("by torch.onnx.export (")
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_what_no_exporter_writes_is_said_once(
    graph: DependencyGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UnsupportedOperator("aten.odd.default", "odd", "its second form")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to decompose\nand four hundred lines")

    monkeypatch.setattr("autoprune.artifacts.exporters.onnx.to_onnx", refuse)
    monkeypatch.setattr("torch.onnx.export", fail)
    failure = publish("onnx", *built_in(graph), tmp_path / "model.onnx")
    assert isinstance(failure, Failure)
    assert failure.kind == "export"
    assert failure.message == (
        "onnx: no emitter for 'aten.odd.default' (operation 'odd'): its second form, and torch.onnx.export cannot "
        "write it either (RuntimeError: Failed to decompose). Export pt2 instead, or replace the operator."
    )
    assert not list(tmp_path.iterdir())


@functools.cache
def transformed(name: str) -> DependencyGraph:
    return trace(transformer(name), TRANSFORMERS[name][1]())


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("name", sorted(TRANSFORMERS))
def test_transformers_are_written_without_help(name: str, kind: str, tmp_path: Path) -> None:
    module, inputs = built_in(transformed(name))
    record = publish(kind, module, inputs, tmp_path / "model")
    assert isinstance(record, ExportRecord), record
    assert (record.note, record.batches) == ("", (1, 3) if batch_axes(module.program) else ())


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("name", sorted(TRANSFORMERS))
def test_removed_branches_are_written(name: str, kind: str, tmp_path: Path) -> None:
    graph = transformed(name)
    removed = [group.id for group in graph.groups.values() if group.removable]
    assert removed, "expected a residual branch"
    module = graph.module({removed[0]: 0}).clone_tensors()
    assert len(module.program.operations) < len(graph.program.operations)
    record = publish(kind, module, graph.example_inputs, tmp_path / "model")
    assert isinstance(record, ExportRecord), record
    assert record.note == ""


def test_a_file_that_differs_is_not_published(
    graph: DependencyGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").write_text("older")
    monkeypatch.setattr(EXPORTERS, "get", lambda _: _Off)
    failure = publish("wrong", *built_in(graph), tmp_path / "model")
    assert isinstance(failure, Failure)
    assert failure.kind == "parity"
    assert "outputs differ by 0.0" in failure.message
    assert (tmp_path / "model").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("method", "kind"), [("export", "export"), ("run", "load")])
def test_what_exporters_raise_is_data(
    method: str, kind: str, graph: DependencyGraph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("\n  no such kernel\nand much more")

    monkeypatch.setattr(Pt2Exporter, method, fail)
    failure = publish("pt2", *built_in(graph), tmp_path / "model.pt2")
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.message) == (kind, "pt2: RuntimeError: no such kernel")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_data(graph: DependencyGraph, tmp_path: Path) -> None:
    failure = publish("safetensors", *built_in(graph), tmp_path / "none" / "model")
    assert isinstance(failure, (Failure, ExportRecord))
    failure = publish("onnx", *built_in(graph), tmp_path / "nothing" / "model.onnx")
    assert isinstance(failure, Failure)


def test_unknown_formats_are_listed(graph: DependencyGraph, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown format 'tflite'.*Known: onnx, pt2, safetensors"):
        publish("tflite", *built_in(graph), tmp_path / "model")


def test_inputs_of_other_sizes(keyword_graph: DependencyGraph) -> None:
    program, inputs = keyword_graph.program, keyword_graph.example_inputs
    sizes, batches = parity_batches(program, inputs)
    assert sizes == (1, 3)
    assert [tuple(tensor.shape[0] for tensor in batch) for batch in batches] == [(1, 1), (3, 3)]
    assert torch.equal(batches[1][0][2], inputs[0][0])
    assert not torch.equal(batches[1][1][2], inputs[1][0])


def test_difference() -> None:
    one, two = torch.tensor([1.0, 200.0]), torch.tensor([2.0, 200.0])
    assert difference([(one,)], [(one,)]) == 0.0
    assert difference([(one,)], [(two,)]) == pytest.approx(1 / 200)
    assert difference([(one / 1000,)], [(two / 1000,)]) == pytest.approx(1e-3)
    assert difference([(one,)], [(one, one)]) == math.inf
    assert difference([(one,)], [(one[:1],)]) == math.inf
    odd = torch.tensor([math.nan, math.inf])
    assert difference([(odd,)], [(odd,)]) == 0.0
    assert difference([(odd,)], [(-odd,)]) == math.inf
    assert difference([(one,)], [(odd,)]) == math.inf
    assert difference([(torch.tensor([1, 2]),)], [(torch.tensor([1, 3]),)]) == 0.5
    assert OnnxExporter.tolerance == 1e-4
