"""`package.module:callable` references to the user's model and task, imported with errors that say what to do."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from autoprune.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

_REFERENCE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")
_SHAPE = re.compile(r"(?P<sizes>\d{1,9}(?:[,x]\d{1,9})*)(?::(?P<dtype>[a-z]+\d*))?")
_MAX_ELEMENTS = 2**30


def load_model(reference: str, folder: Path | None = None) -> nn.Module:
    """The trained model that `module:callable` returns, or the program in a `.pt2` file.

    Args:
        reference: `module:callable`, `module:module_object`, or the path of a `.pt2` file.
        folder: searched for the module first; the current folder is searched as well.

    Raises:
        InputError: it cannot be imported, raised, or is not an `nn.Module`.
    """
    from torch import nn

    if reference.endswith(".pt2"):
        from autoprune.graph.exported import load_exported

        return load_exported(Path(reference))
    value = import_reference(reference, "model", folder)
    model = value if isinstance(value, nn.Module) else call(value, f"model '{reference}'")
    if not isinstance(model, nn.Module):
        raise InputError(f"model '{reference}': expected it to return a torch.nn.Module, got {type(model).__name__}.")
    return model


def load_task(reference: str, folder: Path | None = None) -> Any:
    """The `autoprune.Task` that `module:callable` returns.

    Raises:
        InputError: it cannot be imported, raised, or is not a `Task`.
    """
    from autoprune.tuning.task import Task

    value = import_reference(reference, "task", folder)
    task = value if isinstance(value, Task) else call(value, f"task '{reference}'")
    if not isinstance(task, Task):
        raise InputError(
            f"task '{reference}': expected it to return an autoprune.Task, got {type(task).__name__}. "
            "autoprune.Task.classification(train_loader, validation_loader) makes one."
        )
    return task


def import_reference(reference: str, what: str, folder: Path | None = None) -> Any:
    """The callable named by `package.module:attribute`.

    `folder` and the current folder are put in front of `sys.path`, as Python does for scripts; they stay there, since
    worker processes import the same modules.

    Raises:
        InputError: malformed, module not found or raising, attribute missing or not callable.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise InputError(
            f"{what} '{reference}': expected 'package.module:callable', such as 'mypackage.models:trained_resnet'."
        )
    _search_in(Path.cwd())
    if folder is not None:
        _search_in(folder.resolve())
    module = _import(found["module"], f"{what} '{reference}'")
    value: Any = module
    for name in found["attribute"].split("."):
        if not hasattr(value, name):
            near = difflib.get_close_matches(name, [known for known in dir(value) if not known.startswith("_")], n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            where = getattr(module, "__file__", None) or found["module"]
            raise InputError(f"{what} '{reference}': expected '{name}' in {where}, got none.{hint}")
        value = getattr(value, name)
    if not callable(value):
        raise InputError(f"{what} '{reference}': expected a callable, got {type(value).__name__}.")
    return value


def call(function: Any, what: str) -> Any:
    """`function()`; what it raises becomes an `InputError` that says where."""
    try:
        return function()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what} raised {_told(error)}.") from error


def example_inputs(shapes: list[str]) -> tuple[Tensor, ...]:
    """Random example inputs for shapes such as `1,3,224,224` or `1,128:int64`.

    Raises:
        InputError: not a shape, an unknown dtype, or too large.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = []
    for text in shapes:
        found = _SHAPE.fullmatch(text.replace(" ", ""))
        dtype = getattr(torch, found["dtype"] or "float32", None) if found else None
        if found is None or not isinstance(dtype, torch.dtype):
            raise InputError(f"--input: expected a shape such as '1,3,224,224' or '1,128:int64', got '{text}'.")
        sizes = [int(size) for size in re.split("[,x]", found["sizes"])]
        elements = 1
        for size in sizes:
            elements *= size
        if not 0 < elements <= _MAX_ELEMENTS:
            raise InputError(f"--input: expected 1 to {_MAX_ELEMENTS} elements, got {elements} in '{text}'.")
        if dtype.is_floating_point:
            tensors.append(torch.randn(sizes, generator=generator).to(dtype))
        else:
            tensors.append(torch.randint(0, 2, sizes, generator=generator).to(dtype))
    return tuple(tensors)


def _search_in(folder: Path) -> None:
    text = str(folder)
    if text in sys.path:
        sys.path.remove(text)
    sys.path.insert(0, text)


def _import(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(
                f"{what}: expected a module '{error.name}', found none in the config's folder, in {Path.cwd()} or "
                "among installed packages."
            ) from error
        raise InputError(f"{what}: importing it needs '{error.name}', which is not installed.") from error
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: importing '{name}' raised {_told(error)}.") from error


def _told(error: Exception) -> str:
    """`ValueError: no such file (data.py, line 12)`."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError):
        place = f" ({error.filename}, line {error.lineno})"
        text = error.msg
    else:
        place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
        text = str(error)
    return f"{type(error).__name__}: {text}".rstrip(": .") + place
