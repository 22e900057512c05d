"""What people write by hand: YAML read safely, checked by pydantic models, refused with one clear message."""

from __future__ import annotations

import difflib
import reprlib
import types
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ValidationError

from autoprune.core.errors import LONGEST, InputError, shortened
from autoprune.core.files import read_text

MAX_YAML_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NUMBER = 40  # characters; base 60, which YAML has, takes the square of them in time
MAX_VALUES = 200_000  # each takes microseconds

Model = TypeVar("Model", bound=BaseModel)

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
_TAG = "tag:yaml.org,2002:"
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_CONVERTED = (*_NUMBERS, f"{_TAG}bool", f"{_TAG}null")
_TEXTS = tuple(f"{_TAG}{name}" for name in ("str", "timestamp", "value", "merge"))  # what looks like a date is a text


class _Document:
    """One YAML document as plain values, from the parser's events.

    There are no aliases (a few hundred bytes of them expand to gigabytes), other types than YAML's plainest, deep
    nesting or repeated keys.
    """

    def __init__(self, text: str) -> None:
        self._loader = _LOADER(text)
        self._left = MAX_VALUES

    def value(self) -> Any:
        loader = self._loader
        try:
            loader.get_event()  # the stream's start
            if loader.check_event(yaml.StreamEndEvent):
                return None
            loader.get_event()  # the document's start
            value = self._value(1)
            loader.get_event()  # the document's end
            if not loader.check_event(yaml.StreamEndEvent):
                raise _refusal("expected one document, got a second one", loader.peek_event())
            return value
        finally:
            loader.dispose()

    def _value(self, depth: int) -> Any:
        self._left -= 1
        event = self._loader.get_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases (*name) are not allowed; write the value out", event)
        if self._left < 0:
            raise _refusal(f"expected at most {MAX_VALUES} values, got more", event)
        if depth > MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels", event)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if event.tag not in (None, "!", f"{_TAG}map", f"{_TAG}seq"):
            raise _unknown_tag(event.tag, event)
        return self._mapping(depth) if isinstance(event, yaml.MappingStartEvent) else self._sequence(depth)

    def _sequence(self, depth: int) -> list[Any]:
        found = []
        while not self._loader.check_event(yaml.SequenceEndEvent):
            found.append(self._value(depth + 1))
        self._loader.get_event()
        return found

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._loader.check_event(yaml.MappingEndEvent):
            event = self._loader.peek_event()
            key = self._value(depth + 1)
            if not isinstance(key, str):
                raise _refusal(f"expected text as key, got {_short(key)}", event)
            if key in found:
                raise _refusal(f"the key '{shortened(key)}' stands twice", event)
            found[key] = self._value(depth + 1)
        self._loader.get_event()
        return found

    def _scalar(self, event: Any) -> Any:
        tag = event.tag
        if tag in (None, "!"):
            tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag in _TEXTS:
            return event.value
        if tag not in _CONVERTED:
            raise _unknown_tag(tag, event)
        if tag in _NUMBERS and len(event.value) > MAX_NUMBER:
            raise _refusal(f"expected numbers of at most {MAX_NUMBER} characters, got a longer one", event)
        try:
            return self._loader.yaml_constructors[tag](self._loader, yaml.ScalarNode(tag, event.value))
        except (ValueError, KeyError, IndexError, OverflowError) as error:  # `!!int x`
            what = tag.removeprefix(_TAG)
            raise _refusal(f"expected a value of type {what}, got '{shortened(event.value)}'", event) from error


def _refusal(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, event.start_mark)


def _unknown_tag(tag: str, event: Any) -> yaml.MarkedYAMLError:
    problem = f"could not determine a constructor for the tag '{shortened(tag)}': only plain values are read"
    return _refusal(problem, event)


def parse_yaml(text: str, what: str, max_characters: int = MAX_YAML_BYTES) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        InputError: too large, not YAML, not a mapping, or with aliases, repeated keys, unsafe tags or deep nesting.
    """
    if len(text) > max_characters:
        raise InputError(f"{what}: expected at most {max_characters} characters, got {len(text)}.")
    try:
        data = _Document(text).value()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InputError(f"{what}: expected YAML, got a problem{where}: {error.problem or error}.") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        told = shortened(" ".join(str(error).split()), 200)
        raise InputError(f"{what}: expected YAML, got text that does not parse: {told}.") from error
    if not isinstance(data, dict):
        raise InputError(f"{what}: expected a mapping (`key: value` lines), got {_kind(data)}.")
    return data


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """A YAML mapping from a file; see `parse_yaml`."""
    return parse_yaml(read_text(path, what, MAX_YAML_BYTES), f"{what} {path}")


def at_most(count: int) -> BeforeValidator:
    """For `Annotated`: a list or mapping of so many items, seen before they are looked at one by one."""

    def check(value: object) -> object:
        if isinstance(value, Sized) and not isinstance(value, (str, bytes)) and len(value) > count:
            raise ValueError(f"expected at most {count} items, got {len(value)}")
        return value

    return BeforeValidator(check)


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
        name = str(location[-1])
        near = difflib.get_close_matches(name, known, n=1) if len(name) <= LONGEST else []
        hint = f" Did you mean '{near[0]}'?" if near else ""
        return f"unknown key '{where}'.{hint} Known: {', '.join(known)}."
    if item["type"] == "missing":
        return f"the key '{where}' is missing."
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{where or 'the whole'}: {message}, got {_short(item['input'])}."


def _path(location: tuple[Any, ...]) -> str:
    text = ""
    for part in location[:MAX_DEPTH]:
        name = shortened(str(part))
        text += f"[{part}]" if isinstance(part, int) else (f".{name}" if text else name)
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


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlist = _REPR.maxtuple = _REPR.maxdict = 8


def _short(value: object, limit: int = 80) -> str:
    return shortened(_REPR.repr(value), limit)
