"""Hand-written YAML: read safely, refused clearly."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from autoprune.core.errors import InputError
from autoprune.core.settings import MAX_YAML_BYTES, parse_yaml, read_yaml, validated

LAUGHS = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefghi", "bcdefghij", strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "line 2, column 8: aliases"),
        ("- 1", "expected a mapping .* got a list"),
        ("", "got nothing"),
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' stands twice"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("[" * 100, "nested deeper than 32"),
        ("a: [1", "line [12]"),
        ("? [1, 2]\n: 3", "expected text as key"),
        ("a: \x00", "does not parse"),
        ("a" * (MAX_YAML_BYTES + 1), "at most"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_yaml(text, "config")


def test_plain_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("a: [1, 2.5, yes]\nb: {c: null}\n")
    assert read_yaml(path, "config") == {"a": [1, 2.5, True], "b": {"c": None}}
    with pytest.raises(InputError, match="cannot read config"):
        read_yaml(tmp_path / "none.yaml", "config")


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    trials: int = 1


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    search: Inner = Inner()
    parts: tuple[Inner, ...] = ()
    name: str


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "x", "search": {"trails": 2}}, "unknown key 'search.trails'. Did you mean 'trials'? Known: trials."),
        ({"name": "x", "parts": [{}, {"trails": 2}]}, "unknown key 'parts[1].trails'. Did you mean 'trials'?"),
        ({"nam": "x"}, "unknown key 'nam'. Did you mean 'name'? Known: name, parts, search."),
        ({}, "the key 'name' is missing"),
        ({"name": "x", "search": {"trials": "many"}}, "search.trials: input should be a valid integer"),
        (3, "config: the whole: "),
    ],
)
def test_models_name_the_field_that_is_wrong(data: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        validated(Outer, data, "config")
    assert message in str(caught.value)


def test_models_pass_what_is_right() -> None:
    assert validated(Outer, {"name": "x", "search": {"trials": 2}}, "config").search.trials == 2
