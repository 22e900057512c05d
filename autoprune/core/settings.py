"""What people write by hand: YAML read safely, checked by pydantic models, refused with one clear message."""

from __future__ import annotations

import difflib
import types
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from autoprune.core.errors import InputError
from autoprune.core.files import read_text

MAX_YAML_BYTES = 256 * 1024
MAX_DEPTH = 32

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """`SafeLoader` without aliases (a few hundred bytes of them expand to gigabytes), deep nesting or repeated keys."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise self._refusal("aliases (*name) are not allowed; write the value out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._refusal(f"nested deeper than {MAX_DEPTH} levels")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def _refusal(self, problem: str) -> yaml.MarkedYAMLError:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return yaml.constructor.ConstructorError(None, None, problem, mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str) or key in seen:
                problem = (
                    f"the key {key!r} stands twice" if isinstance(key, str) else f"expected text as key, got {key!r}"
                )
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, what: str, max_characters: int = MAX_YAML_BYTES) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        InputError: too large, not YAML, not a mapping, or with aliases, repeated keys, unsafe tags or deep nesting.
    """
    if len(text) > max_characters:
        raise InputError(f"{what}: expected at most {max_characters} characters, got {len(text)}.")
    try:
        data = yaml.load(text, _Loader)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{what}: expected YAML, got a problem{where}: {error.problem or error}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{what}: expected YAML, got text that does not parse: {error}.") from error
    if not isinstance(data, dict):
        raise InputError(f"{what}: expected a mapping (`key: value` lines), got {_kind(data)}.")
    return data


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML mapping from a file; see `parse_yaml`."""
    return parse_yaml(read_text(path, what, MAX_YAML_BYTES), f"{what} {path}")


def validated(model: type[Model], data: object, what: str) -> Model:
    """`data` as a `model`.

    Raises:
        InputError: names the first field that is wrong, what was expected and got; an unknown key names the nearest
            known one.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        first = next((item for item in details if item["type"] == "extra_forbidden"), details[0])
        raise InputError(f"{what}: {_explain(model, first)}") from error


def _explain(model: type[BaseModel], item: Any) -> str:
    location = tuple(item["loc"])
    where = _path(location)
    if item["type"] == "extra_forbidden":
        known = sorted(_keys(model, location[:-1]))
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"unknown key '{where}'.{hint} Known: {', '.join(known)}."
    if item["type"] == "missing":
        return f"the key '{where}' is missing."
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{where or 'the whole'}: {message}, got {_short(item['input'])}."


def _path(location: tuple[Any, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def _keys(model: type[BaseModel], location: tuple[Any, ...]) -> set[str]:
    """Known keys of the (nested) model at `location`."""
    names = [part for part in location if isinstance(part, str)]
    here: list[type[BaseModel]] = [model]
    for name in names:
        deeper = [
            found
            for one in here
            for key, field in one.model_fields.items()
            if name in (key, field.alias)
            for found in _models(field.annotation)
        ]
        here = deeper or here
    return {field.alias or key for one in here for key, field in one.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
    elif get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _models(argument)


def _kind(data: object) -> str:
    return "nothing" if data is None else f"a {type(data).__name__}"


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
