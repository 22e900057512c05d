"""Programs that `torch.export.save` wrote, loaded without unpickling, importing or running anything they name.

`torch.export.load` trusts its file: it unpickles tensors and example inputs that ask for it, evaluates symbolic sizes
as Python, and looks operators up by any name below `torch` (torch 2.13: `torch/export/pt2_archive/_package.py`,
`torch/_export/serde/serialize.py`). Here an archive is read with `zipfile`, each of its parts checked or left out, and
what is left put into a new archive, which torch then loads.
"""

from __future__ import annotations

import io
import json
import logging
import os.path
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.core.errors import InputError, shortened
from autoprune.core.files import parse_json
from autoprune.graph.module import plain_spec
from autoprune.graph.run import resolve_target

MAX_BYTES = 8 * 2**30
MAX_PARTS = 200_000
MAX_TEXT_BYTES = 256 * 2**20  # of the program's JSON
MODEL, WEIGHTS, CONSTANTS = "models/model.json", "data/weights/", "data/constants/"
CONFIGS = {f"{WEIGHTS}model_weights_config.json": WEIGHTS, f"{CONSTANTS}model_constants_config.json": CONSTANTS}
FIXED = ("archive_format", "archive_version", "byteorder", ".data/version", "version", ".data/serialization_id")
EXAMPLES = "data/sample_inputs/model.pt"  # pickled; left empty
_PAYLOAD = re.compile(r"(weight|tensor)_\d{1,9}")
_MODULES = {
    "_operator": "add and_ eq floordiv ge getitem gt le lt mod mul ne neg not_ or_ pow sub truediv",
    "math": "ceil floor sqrt trunc",
    "torch": "sym_float sym_int sym_ite sym_max sym_min sym_not sym_sqrt sym_sum",
    "torch.ops.higher_order": "wrap_with_autocast wrap_with_set_grad_enabled",
}
_FUNCTIONS = {f"{module}.{name}" for module, names in _MODULES.items() for name in names.split()}
_EXPRESSION = re.compile(r"(?:'[\w.+\-]{1,40}'|[A-Za-z_]\w{0,40}|\d{1,19}|[(),=\s+\-]|\*(?!\*))*")
_WORDS = re.compile(r"'[^']*'|[A-Za-z_]\w*")
_KNOWN_WORDS = frozenset(  # no powers: a tower of them takes for ever
    """Symbol Integer Float Rational Add Mul Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv ModularIndexing Where
    Identity TruncToInt TruncToFloat FloorToInt CeilToInt RoundToInt RoundDecimal ToFloat IntTrueDiv FloatTrueDiv
    IsNonOverlappingAndDenseIndicator Eq Ne Lt Le Gt Ge And Or Not Equality Unequality StrictLessThan LessThan
    StrictGreaterThan GreaterThan ITE Piecewise ExprCondPair int_oo oo true false True False positive integer
    nonnegative negative real zero precision evaluate dps""".split()  # noqa: SIM905 - sixty names, one a line
)
_SYMBOL = re.compile(r"[suz]{1,2}[a-z]?\d{1,9}")
_METADATA = ("stack_trace", "nn_module_stack", "torch_fn")


def load_exported(path: Path) -> nn.Module:
    """The module of a program in a `.pt2` file.

    Raises:
        InputError: no such file, not what `torch.export.save` writes, or with parts that would run code: pickled
            objects, operators that are no ATen, sizes that are no arithmetic.
    """
    try:
        archive = _clean(path)
        with _quiet():
            module: nn.Module = torch.export.load(archive).module()
    except InputError:
        raise
    except Exception as error:  # torch raises what it likes
        told = shortened(str(error).strip().partition("\n")[0] or "no message", 200)
        raise InputError(
            f"model {path}: expected a .pt2 file written by torch.export.save, got one that does not load "
            f"({type(error).__name__}: {told})."
        ) from error
    for name in ("train", "eval"):  # torch's refuse; what was exported is in eval mode, and is traced so
        module.__dict__.pop(name, None)
    return module


def _clean(path: Path) -> io.BytesIO:
    """A new archive of what was checked."""
    if not os.path.isfile(path):  # to open a pipe is to wait
        raise InputError(f"model {path}: expected a .pt2 file written by torch.export.save, found none.")
    told = path.stat()
    if told.st_size > MAX_BYTES:
        raise InputError(f"model {path}: expected at most {MAX_BYTES} bytes, got {told.st_size}.")
    out = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as clean:
        parts = _parts(archive, told.st_size)
        for name, content in _checked(archive, parts):
            clean.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    out.seek(0)
    return out


def _parts(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Members by their name in the archive's one folder."""
    found: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.partition("/")[2]
        if name in found or len(found) >= MAX_PARTS:
            raise ValueError(f"expected each part once, got '{shortened(name)}' twice")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise ValueError(f"expected parts that are not compressed, got '{shortened(name)}'")
        found[name] = info
    if sum(info.file_size for info in found.values()) > size:
        raise ValueError("parts that are larger together than the file")
    if MODEL not in found:
        raise ValueError(f"expected the part '{MODEL}', got none")
    return found


def _checked(archive: zipfile.ZipFile, parts: Mapping[str, zipfile.ZipInfo]) -> Iterator[tuple[str, bytes]]:
    """What is left of an archive: nothing of it runs when it is loaded."""
    yield from ((name, archive.read(parts[name])) for name in FIXED if name in parts)
    yield EXAMPLES, b""
    program = _json(archive, parts, MODEL)
    if isinstance(program, dict):
        program["guards_code"] = []  # Python, run by every call
    yield MODEL, json.dumps(_checked_program(program)).encode()
    for name, folder in CONFIGS.items():
        if name in parts:
            config = _json(archive, parts, name)
            payloads = _checked_config(config, parts, folder)
            yield name, json.dumps(config).encode()
            yield from ((payload, archive.read(parts[payload])) for payload in payloads)


def _json(archive: zipfile.ZipFile, parts: Mapping[str, zipfile.ZipInfo], name: str) -> Any:
    if parts[name].file_size > MAX_TEXT_BYTES:
        raise ValueError(f"expected at most {MAX_TEXT_BYTES} bytes of '{name}', got {parts[name].file_size}")
    return parse_json(archive.read(parts[name]).decode("utf-8"), f"model {archive.filename}, {name}")


def _checked_config(config: Any, parts: Mapping[str, zipfile.ZipInfo], folder: str) -> list[str]:
    """The payloads that a config names; its tensors come to the CPU."""
    found: dict[str, None] = {}
    for name, entry in config["config"].items():
        told = shortened(str(name))
        payload = str(entry["path_name"])
        if entry.get("use_pickle") is not False or _PAYLOAD.fullmatch(payload) is None:
            raise ValueError(f"the tensor '{told}' is pickled, and nothing is unpickled")
        meta = entry["tensor_meta"]
        if not parts[folder + payload].file_size and all(_size(one) for one in meta["sizes"]):
            raise ValueError(f"the tensor '{told}' has sizes and no numbers")
        meta["device"] = {"type": "cpu", "index": None}
        found[folder + payload] = None
    return list(found)


def _size(item: Any) -> int:
    return int(item["as_int"])


def _checked_program(item: Any) -> Any:
    """The program's JSON, what would run code refused, and what only tells of its origin left out."""
    if isinstance(item, list):
        return [_checked_program(part) for part in item]
    if not isinstance(item, dict):
        return item
    found = {}
    for key, part in item.items():
        if key == "metadata" and isinstance(part, dict):
            part = {name: str(part[name]) for name in _METADATA if part.get(name)}
        elif key == "treespec_namedtuple_fields":
            part = {}
        elif key in ("target", "as_operator") and isinstance(part, str):
            _check_target(part)
        elif key == "expr_str":
            _check_expression(part)
        elif key in ("in_spec", "out_spec") and part:
            plain_spec(part)
        elif part and ("custom_obj" in key or "opaque" in key):
            raise ValueError("it holds an object of a class of its own")
        found[key] = _checked_program(part)
    return found


def _check_target(target: str) -> None:
    if target.startswith("torch.ops.aten."):
        resolve_target(target.removeprefix("torch.ops."))
    elif target not in _FUNCTIONS:
        raise ValueError(f"expected ATen operators, got '{shortened(target)}'")


def _check_expression(text: Any) -> None:
    """torch evaluates symbolic sizes with sympy, which evaluates them as Python."""
    if not isinstance(text, str) or len(text) > 10_000 or _EXPRESSION.fullmatch(text) is None:
        raise ValueError(f"expected arithmetic as a size, got '{shortened(str(text))}'")
    for word in _WORDS.findall(text):
        if not (word.startswith("'") or word in _KNOWN_WORDS or _SYMBOL.fullmatch(word)):
            raise ValueError(f"expected arithmetic as a size, got '{shortened(word)}' in it")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's log, which shows a traceback of what is then said in one message."""
    log = logging.getLogger("torch.export")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before
