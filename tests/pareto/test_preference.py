"""Weights and margins as people write them, and what is said of those that make no sense."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.errors import InputError
from autoprune.pareto.preference import parse_margin, parse_weights


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("accuracy", {"accuracy": 1.0}),
        ("accuracy*1 + latency_p50*2", {"accuracy": 1.0, "latency_p50": 2.0}),
        ("2 * latency_p50@pixel4-gpu+0.5*accuracy", {"latency_p50@pixel4-gpu": 2.0, "accuracy": 0.5}),
        (" size + 1e+2*macs ", {"size": 1.0, "macs": 100.0}),
        ("size*0 + macs", {"size": 0.0, "macs": 1.0}),
        ({"accuracy": 1, "size": 0.25}, {"accuracy": 1.0, "size": 0.25}),
    ],
)
def test_weights(text: str | dict[str, float], weights: dict[str, float]) -> None:
    assert parse_weights(text) == weights


@pytest.mark.parametrize(
    ("prefer", "message"),
    [
        ("accuracy - size", r"expected '\+' or the end at character 10 of 'accuracy - size'"),
        ("accuracy +", "expected a column with its weight, .* at character 11"),
        ("", "expected a column with its weight, .* at character 1"),
        ("2*accuracy*3", "expected a column with its weight"),
        ("accuracy*fast", r"expected '\+' or the end at character 9"),
        ("accuracy + accuracy", "expected each name once, got 'accuracy' twice"),
        ("accuracy*-1", "expected a weight of at least 0 for 'accuracy', got -1"),
        ("0*accuracy + 0*size", "expected at least one weight above 0, got none"),
        ({}, "expected at least one weight above 0, got none"),
        ({"accuracy": -2}, "expected a weight of at least 0 for 'accuracy', got -2"),
        ({"accuracy": math.nan}, "expected a weight of at least 0 for 'accuracy', got nan"),
        ({"accuracy": math.inf}, "expected a weight of at least 0 for 'accuracy', got inf"),
        ({"accuracy": "much"}, "expected names with numbers as weights, got 'accuracy': 'much'"),
        ({"accuracy": True}, "expected names with numbers as weights"),
        ({3: 1.0}, "expected names with numbers as weights, got 3"),
        (["accuracy"], "expected a name, text such as .* or a mapping of weights, got list"),
        ("x" * 2000, "expected at most 1000 characters, got 2000"),
    ],
)
def test_weights_that_make_no_sense(prefer: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_weights(prefer)  # type: ignore[arg-type]


@given(st.text(alphabet="accuray@ *+.-0123456789e(", max_size=30))
def test_any_text_is_weights_or_one_message(text: str) -> None:
    try:
        weights = parse_weights(text)
    except InputError as error:
        assert str(error).startswith("prefer: expected")  # noqa: PT017 - text that parses raises nothing
    else:
        assert any(weights.values())


@pytest.mark.parametrize(
    ("text", "reference", "allowed"),
    [
        ("1pt", 0.9, 0.01),
        ("1.5 points", 0.9, 0.015),
        ("2pp", 0.9, 0.02),
        ("1%", 0.9, 0.009),
        ("10%", -20.0, 2.0),
        ("0.3", 5.0, 0.3),
        (0.3, 5.0, 0.3),
        (0, 5.0, 0.0),
    ],
)
def test_margins(text: str | float, reference: float, allowed: float) -> None:
    assert parse_margin(text).allowance(reference) == pytest.approx(allowed)


@pytest.mark.parametrize("text", ["", "pt", "1 parsec", "one point", "1pt2", "1ms", "9" * 2_000_000, None, True, [1]])
def test_margins_that_cannot_be_read(text: object) -> None:
    with pytest.raises(InputError, match="within: expected how much quality may be lost, such as '1pt'"):
        parse_margin(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["-1pt", "-0.5%", -0.1, "1e999"])
def test_margins_below_nothing(text: str | float) -> None:
    with pytest.raises(InputError, match="within: expected a number of at least 0"):
        parse_margin(text)
