"""The language of `where` and constraints: what it means, and what it says when it is wrong."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.core.errors import InputError
from autoprune.pareto import Constraint, column, format_quantity, parse_constraint, parse_where

ROW = {
    "member": "m3",
    "accuracy": 0.97,
    "latency_p50_us": 4000.0,
    "latency_p95_us": 5200.0,
    "measured_latency_p50_us": 4500.0,
    "latency_p50_us@phone": 9000.0,
    "size_bytes": 3.9e6,
    "peak_memory_bytes": 1048576.0,
    "macs": 31e6,
    "gain": -3.0,
    "speedup": None,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency_p50 <= 5ms", True),
        ("latency_p50 <= 4.2ms", False),  # the measured 4.5 ms counts, not the predicted 4
        ("latency_p50_us <= 4.2ms", True),
        ("latency_p50@phone < 9ms", False),
        ("latency_p50@phone <= 9 ms", True),
        ("latency_p95 <= 5200", True),
        ("latency_p95 <= 5200\u00b5s and latency_p95 >= 5200\u03bcs", True),
        ("size <= 4MB", True),
        ("size <= 3.7 MiB", False),
        ("peak_memory == 1MiB", True),
        ("macs < 32M", True),
        ("macs < 3.05e7", False),
        ("accuracy >= 97%", True),
        ("accuracy > .97", False),
        ("accuracy != 0.97", False),
        ("gain >= -3.5 and gain < +0", True),
        ("speedup > 0 or speedup <= 0 or speedup != 0", False),  # missing meets nothing
        ("accuracy > 1 or size < 4MB and macs < 1M", False),  # `and` binds closer
        ("(accuracy > 1 or size < 4MB) and macs < 32M", True),
        ("accuracy > 1 and size < 4MB or macs < 32M", True),
        ("ACCURACY", None),
        ("accuracy>0.5AND size<4MB", True),
        ("accuracy > 0.5\n  and\tsize < 4MB", True),
        ("((((accuracy > 0.5))))", True),
    ],
)
def test_meaning(text: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(InputError):
            parse_where(text)
    else:
        assert parse_where(text).matches(ROW) is expected


def test_names_are_listed_once_in_order() -> None:
    condition = parse_where("size < 4MB and (latency_p50@phone < 9ms or size > 1kB)", ROW)
    assert condition.names == ("size", "latency_p50@phone")
    assert condition.text.startswith("size < 4MB")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "where: expected a column such as latency_p50 at character 1 of '', got the end."),
        ("latency_p50", "expected <=, <, >=, >, == or != after 'latency_p50' at character 12"),
        ("latency_p50 <=", "expected a number such as 5, 5ms or 4MB after '<=' at character 15"),
        ("latency_p50 <= fast", "got 'fast'"),
        ("latency_p50 = 5ms", "unexpected '=' at character 13 of 'latency_p50 = 5ms'. Write == to compare."),
        ("5ms >= latency_p50", "expected a column such as latency_p50 at character 1"),
        ("size < 4MB macs < 3", "expected 'and', 'or' or the end at character 12"),
        ("(size < 4MB", "expected 'and', 'or' or ')' at character 12"),
        ("size < 4MB)", "expected 'and', 'or' or the end at character 11"),
        ("size < 4MB and", "expected a column such as latency_p50 at character 15"),
        ("and size < 4MB", "got 'and'"),
        ("size < 4ms", "where: at character 8, for 'size': expected a size such as '5B'"),
        ("latency_p50 < 4MB", "for 'latency_p50': expected a time such as '5us'"),
        ("accuracy > 5parsecs", "'accuracy' has no unit: expected a plain number"),
        ("accuracy > 1e999", "expected a finite number, got '1e999'"),
        ("__import__('os')", "after '__import__' at character 11 of '__import__('os')', got '('"),
        ("accuracy > 1; drop", "unexpected ';'"),
        ("(" * 60 + "accuracy > 1" + ")" * 60, "at most 50 nested parentheses"),
        ("a" * 10_001, "expected at most 10000 characters, got 10001"),
    ],
)
def test_messages(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_where(text)
    assert message in str(caught.value)


def test_an_unknown_name_is_placed_and_the_nearest_named() -> None:
    text = "macs < 1 or acuracy > 0.9"
    message = "where: at character 13: unknown column 'acuracy'. Did you mean 'accuracy'?"
    for attempt in (
        lambda: parse_where(text, ROW),
        lambda: parse_where(text).matches(ROW),
    ):
        with pytest.raises(InputError) as caught:
            attempt()
        assert message in str(caught.value)


def test_text_in_a_column_is_refused() -> None:
    with pytest.raises(InputError, match="expected numbers in column 'member', got 'm3'"):
        parse_where("member == 3").matches(ROW)


def test_not_text_is_refused() -> None:
    with pytest.raises(InputError, match="expected text such as 'latency_p50 <= 5ms', got int"):
        parse_where(5)  # type: ignore[arg-type]


def test_columns() -> None:
    assert column("latency_p99@phone") == "latency_p99_us@phone"
    assert column("measured_latency_p50") == "measured_latency_p50_us"
    assert column("latency_p50@a-b", {"measured_latency_p50_us@a-b"}) == "measured_latency_p50_us@a-b"
    assert column("size@phone") == "size_bytes@phone"
    assert column("size", {"size"}) == "size"
    assert column("latency_p50_us") == "latency_p50_us"
    assert column("energy") == "energy_uj"
    assert column("error") == "error"


@pytest.mark.parametrize(
    ("text", "metric", "op", "value", "shown"),
    [
        ("latency_p99 <= 8ms", "latency_p99", "<=", 8000.0, "latency_p99 <= 8 ms"),
        ("(size@phone < 4MB)", "size@phone", "<", 4e6, "size@phone < 4 MB"),
        ("accuracy >= 97%", "accuracy", ">=", 0.97, "accuracy >= 0.97"),
        ("energy <= 5mJ", "energy", "<=", 5000.0, "energy <= 5000 uJ"),
        ("macs > 30M", "macs", ">", 30e6, "macs > 30M"),
        ("seconds <= 2min", "seconds", "<=", 120.0, "seconds <= 120"),
    ],
)
def test_constraints(text: str, metric: str, op: str, value: float, shown: str) -> None:
    constraint = parse_constraint(text)
    assert (constraint.metric, constraint.op) == (metric, op)
    assert constraint.value == pytest.approx(value)
    assert str(constraint) == shown
    assert constraint.column == column(metric)


def test_violation_is_relative_and_signed() -> None:
    at_most, at_least = parse_constraint("latency_p50 <= 8ms"), parse_constraint("accuracy >= 0.5")
    assert at_most.violation(12000.0) == pytest.approx(0.5)
    assert at_most.violation(4000.0) == pytest.approx(-0.5)
    assert at_most.violation(8000.0) == 0.0
    assert at_least.violation(0.25) == pytest.approx(0.5)
    assert at_least.violation(math.nan) == math.inf
    assert parse_constraint("latency_p50 < 8ms").violation(8000.0) > 0.0
    assert parse_constraint("gain >= 0").violation(-2.0) == 2.0


@given(st.sampled_from(["<=", "<", ">=", ">"]), st.floats(-1e9, 1e9), st.floats(allow_infinity=True))
def test_met_agrees_with_the_comparison(op: str, bound: float, value: float) -> None:
    expected = {"<=": value <= bound, "<": value < bound, ">=": value >= bound, ">": value > bound}[op]
    assert (Constraint("accuracy", op, bound).violation(value) <= 0.0) is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a < 1 and b < 2", "expected one comparison, got several joined by 'and'. Give each as its own entry."),
        ("a < 1 or b < 2", "joined by 'or'. Alternatives cannot be constraints."),
        ("a == 1", "constraint on 'a': expected <=, <, >= or >, got '=='"),
        ("a <", "constraint: expected a number"),
    ],
)
def test_constraint_messages(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_constraint(text)
    assert message in str(caught.value)


def test_a_constraint_needs_a_finite_bound() -> None:
    with pytest.raises(InputError, match="expected a finite bound, got inf"):
        Constraint("a", "<=", math.inf)


def test_quantities_for_people() -> None:
    assert format_quantity("latency_p50", 950.0) == "950 us"
    assert format_quantity("params", 61200.0) == "61.2k"


WORDS = ["latency_p50", "size", "@phone", "accuracy", "<=", "<", "==", "!=", "=", "(", ")", "and", "or", "AND"]
ENDS = ["5", "ms", "4MB", "-", "+", ".", "1e", "1e9", "%", "nan", "inf", "'"]
PIECES = st.sampled_from([*WORDS, *ENDS, " ", "\n", "\u00b5s", "\x00", "\ud800", "\u0665"])


@given(
    st.one_of(
        st.text(max_size=60), st.lists(PIECES, max_size=20).map("".join), st.lists(PIECES, max_size=20).map(" ".join)
    )
)
def test_whatever_is_written_only_input_errors_come_out(text: str) -> None:
    for attempt in (parse_constraint, lambda t: parse_where(t).matches(ROW)):
        with contextlib.suppress(InputError):
            attempt(text)


@given(st.lists(st.tuples(st.sampled_from(["and", "or"]), st.booleans()), max_size=12), st.booleans())
def test_and_binds_closer_than_or_as_in_python(rest: list[tuple[str, bool]], first: bool) -> None:
    def say(value: bool) -> str:
        return "accuracy > 0" if value else "accuracy < 0"

    text = say(first) + "".join(f" {word} {say(value)}" for word, value in rest)
    clauses, current = [], first
    for word, value in rest:
        if word == "and":
            current = current and value
        else:
            clauses.append(current)
            current = value
    assert parse_where(text).matches(ROW) is any([*clauses, current])
