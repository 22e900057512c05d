"""Readers of tensors and programs: safetensors, checkpoints, exported programs."""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.fuzz import mutations
from tests.fuzz.reader import Files, Reader, changed_file, sampled, simple

KEY = "key"


def _training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    from autoprune.tuning.optimizer import build_optimizer
    from autoprune.tuning.settings import FinetuneSettings

    model = torch.nn.Linear(4, 3)
    return model, build_optimizer(model, FinetuneSettings(), 1e-3)


def _checkpointed(history: Sequence[Any]) -> dict[str, torch.Tensor]:
    """What a checkpoint holds after some of three epochs."""
    from autoprune.tuning.checkpoint import joined
    from autoprune.tuning.epochs import as_tensors
    from autoprune.tuning.optimizer import memory

    model, optimizer = _training()
    return joined({"model": model.state_dict(), "optimizer": memory(optimizer), "history": as_tensors(history, 0, 3)})


def _write_checkpoint(folder: Path) -> None:
    from autoprune.tuning.checkpoint import save
    from autoprune.tuning.epochs import Epoch

    history = [Epoch(number, 0.5 if number else None, {"accuracy": 0.9}, 1.0) for number in range(3)]
    save(folder / "a.checkpoint", KEY, _checkpointed(history))


checkpoint_files = sampled(_write_checkpoint)


def _checkpoint(folder: Path) -> object:
    """Training gone on with from it."""
    from autoprune.core.errors import InputError
    from autoprune.tuning.checkpoint import BrokenCheckpointError, load, part
    from autoprune.tuning.epochs import Epoch, from_tensors
    from autoprune.tuning.optimizer import remember

    model, optimizer = _training()
    try:
        found = load(folder / "a.checkpoint", KEY, _checkpointed([Epoch(0, None, {"accuracy": 0.0}, 0.0)]))
        history, best = from_tensors(part(found, "history"), ("accuracy",))
    except BrokenCheckpointError as error:  # fine-tuning says so, and begins anew
        raise InputError(str(error)) from error
    remember(optimizer, part(found, "optimizer"))
    model.load_state_dict(part(found, "model"))
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return history[best]


@functools.cache
def exported() -> Files:
    """A program that `torch.export.save` wrote, member by member of its archive."""
    out = io.BytesIO()
    program = torch.export.export(
        torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()).eval(), (torch.zeros(2, 4),),
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
    )  # fmt: skip
    torch.export.save(program, out)
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _changed_program(given: Files, random: Random) -> Files:
    """One part of the archive changed, or the archive itself."""
    try:
        with zipfile.ZipFile(io.BytesIO(given["model.pt2"])) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, LookupError, NotImplementedError, RuntimeError):
        return {"model.pt2": mutations.plain(given["model.pt2"], random)}
    if random.random() < 0.25:
        return {"model.pt2": mutations.zip_file(files, random)}
    path = random.choice(list(files))
    files[path] = changed_file(files[path], "json" if path.endswith(".json") else "bytes", random)
    if random.random() < 0.1:
        files[path.rpartition("/")[0] + "/" + random.choice(("x.pt", "model.pt", "opaque_obj_0", "../x"))] = b"x"
    data = mutations.packed(files)
    return {"model.pt2": mutations.plain(data, random) if random.random() < 0.1 else data}


def _load_pt2(folder: Path) -> object:
    from autoprune.callables import load_model

    return load_model(str(folder / "model.pt2"))


def _tensors(folder: Path) -> object:
    from autoprune.artifacts.weights import read_any_tensors, read_tensors

    expected = {"a": ("float32", (3, 4)), "b": ("int64", (2,))}
    read_any_tensors(folder / "x.safetensors", 2**20)
    return read_tensors(folder / "x.safetensors", expected)


def _write_tensors(folder: Path) -> None:
    from autoprune.artifacts.weights import write_tensors

    write_tensors(folder / "x.safetensors", {"a": torch.zeros(3, 4), "b": torch.zeros(2, dtype=torch.int64)})


tensors_files = sampled(_write_tensors)


def readers() -> list[Reader]:
    """Those of tensors and programs."""
    return [
        simple("safetensors", tensors_files, {"x.safetensors": "tensors"}, _tensors),
        simple("checkpoint", checkpoint_files, {"a.checkpoint": "tensors"}, _checkpoint),
        Reader("exported program", _changed_program, _load_pt2, lambda: {"model.pt2": mutations.packed(exported())}),
    ]
