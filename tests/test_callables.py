"""`module:callable` references: what they give, and what is said when they do not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.callables import call, example_inputs, import_reference, load_model, load_task
from autoprune.core.errors import InputError

SOURCE = """
from torch import nn

number = 5
net = nn.Linear(2, 2)

def model():
    return nn.Linear(3, 1)

def text():
    return "no model"

def broken():
    raise ValueError("weights are missing")

class Holder:
    @staticmethod
    def model():
        return net
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "user_code_under_test.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "user_code_raising.py").write_text("x = 1\nx.nothing\n", encoding="utf-8")
    (tmp_path / "user_code_syntax.py").write_text("def f(:\n", encoding="utf-8")
    (tmp_path / "user_code_needing.py").write_text("import not_installed_anywhere\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("user_code")]:
        del sys.modules[name]


def test_a_callable_a_module_object_and_a_nested_name(folder: Path) -> None:
    assert isinstance(load_model("user_code_under_test:model", folder), nn.Linear)
    assert load_model("user_code_under_test:net", folder) is load_model("user_code_under_test:Holder.model", folder)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("user_code_under_test", "expected 'package.module:callable'"),
        ("os; import x:y", "expected 'package.module:callable'"),
        ("user_code_nowhere:model", "expected a module 'user_code_nowhere', found none"),
        ("user_code_under_test.inner:model", "raised ModuleNotFoundError|expected a module"),
        ("user_code_under_test:modle", "expected 'modle' in .*got none. Did you mean 'model'"),
        ("user_code_under_test:number", "expected a callable, got int"),
        ("user_code_under_test:text", "expected it to return a torch.nn.Module, got str"),
        ("user_code_under_test:broken", "raised ValueError: weights are missing .*line 14"),
        ("user_code_raising:model", "importing 'user_code_raising' raised AttributeError.*line 2"),
        ("user_code_syntax:model", "raised SyntaxError.*line 1"),
        ("user_code_needing:model", "needs 'not_installed_anywhere', which is not installed"),
        ("nothing/here.pt2", "expected a .pt2 file written by torch.export.save, found none"),
    ],
)
def test_wrong_references(folder: Path, reference: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_model(reference, folder)


def test_a_task_that_is_none(folder: Path) -> None:
    with pytest.raises(InputError, match=r"expected it to return an autoprune.Task, got str"):
        load_task("user_code_under_test:text", folder)


def test_a_pt2_file(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 2)).eval()
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(network, (torch.zeros(1, 4),)), path)
    inputs = torch.ones(1, 4)
    torch.testing.assert_close(load_model(str(path))(inputs), network(inputs))
    path.write_bytes(b"not a zip")
    with pytest.raises(InputError, match="got one that does not load"):
        load_model(str(path))


def test_interruption_is_not_an_input_error() -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(stop, "model")


def test_the_folder_of_the_config_comes_first(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "user_code_under_test.py").write_text("def model(): return None\n", encoding="utf-8")
    monkeypatch.chdir(elsewhere)
    import_reference("user_code_under_test:Holder", "model", folder)
    assert sys.path[:2] == [str(folder), str(elsewhere)]


def test_example_inputs() -> None:
    image, tokens = example_inputs(["1,3,8,8", "2x5:int64"])
    assert (tuple(image.shape), image.dtype) == ((1, 3, 8, 8), torch.float32)
    assert (tuple(tokens.shape), tokens.dtype) == ((2, 5), torch.int64)
    torch.testing.assert_close(image, example_inputs(["1,3,8,8"])[0])


@pytest.mark.parametrize("text", ["", "1,a", "1,-3", "1,3:float12", "1,3:nn", "0,3", "99999,99999,99999", "1,,3"])
def test_wrong_shapes(text: str) -> None:
    with pytest.raises(InputError, match="--input: expected"):
        example_inputs([text])
