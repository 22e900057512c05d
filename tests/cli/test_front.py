"""`autoprune front|select` on runs made up: devices, plots, preferences, and every way to ask for what is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoprune.cli.app import run
from autoprune.cli.plot import LEAST_WIDTH
from tests.artifacts.samples import write_sample


@pytest.fixture
def sample(tmp_path: Path) -> str:
    return str(write_sample(tmp_path / "sample"))


@pytest.fixture
def several(tmp_path: Path) -> str:
    return str(write_sample(tmp_path / "several", profiles=("cpu", "phone")))


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(list(arguments)) == 0
    return capsys.readouterr().out


def chosen(capsys: pytest.CaptureFixture[str], *arguments: str) -> object:
    return json.loads(shown(capsys, "select", *arguments, "--json"))["member"]


def test_a_plot_where_it_is_asked_for(
    sample: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "up is better" not in shown(capsys, "front", sample)  # no terminal here
    monkeypatch.setenv("COLUMNS", "60")
    text = shown(capsys, "front", sample, "--plot")
    drawn = text[text.index("accuracy (up is better") :].splitlines()[:17]
    assert max(map(len, drawn)) <= 60
    for member in ("dense", "member-1", "member-6"):
        assert any(member in line for line in drawn)
    assert not {character for character in text if character == "\x1b"}
    monkeypatch.setenv("COLUMNS", str(LEAST_WIDTH - 5))
    assert "up is better" not in shown(capsys, "front", sample, "--plot")


def test_json_has_the_ranking_and_no_plot(sample: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(shown(capsys, "front", sample, "--plot", "--json"))
    assert data["members"][0]["member"] == "dense"
    assert {entry["kind"] for entry in data["ranking"]} == {"fidelity", "split", "latency"}


def test_how_well_stages_rank_in_one_line(sample: str, capsys: pytest.CaptureFixture[str]) -> None:
    last = shown(capsys, "front", sample).splitlines()[-1]
    assert last.startswith("ranks alike (Kendall's tau): no fine-tuning and full fine-tuning")
    assert "latency_p50 predicted and measured" in last


def test_a_front_for_each_device(several: str, capsys: pytest.CaptureFixture[str]) -> None:
    joint = shown(capsys, "front", several, "--plot")
    assert "predicted\np50@cpu" in joint or "p50@cpu" in joint
    assert joint.count("up is better") == 2
    assert "latency_p50@phone" in joint
    phone = json.loads(shown(capsys, "front", several, "--profile", "phone", "--json"))["members"]
    assert "latency_p50_us" in phone[0]
    assert not [name for name in phone[0] if "@" in name]
    assert " for phone" in shown(capsys, "front", several, "--profile", "phone")


def test_select_by_what_people_type(sample: str, several: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen(capsys, sample, "--within", "1pt") == "member-4"
    assert chosen(capsys, sample, "--within", "1pt", "--prefer", "fastest") == "member-4"
    assert chosen(capsys, sample, "--where", "latency_p50 <= 610us", "--prefer", "best") == "member-4"
    assert chosen(capsys, sample, "--prefer", "accuracy*5 + latency_p50*1") == "member-5"
    assert chosen(capsys, sample, "--prefer", "knee") == chosen(capsys, sample)
    assert chosen(capsys, several, "--profile", "phone", "--prefer", "fastest") == "member-1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "latency_p50 <="], "where: expected a number"),
        (["--prefer", "accurracy"], "unknown preference 'accurracy'. Did you mean 'accuracy'"),
        (["--prefer", "accuracy*-1"], "expected a weight of at least 0 for 'accuracy', got -1"),
        (["--prefer", "accuracy*0"], "expected at least one weight above 0"),
        (["--within", "1parsec"], "within: expected how much quality may be lost"),
        (["--within", "-1pt"], "within: expected a number of at least 0"),
        (
            ["--within", "0.0001pt", "--where", "latency_p50 < 300us"],
            "no member is within 0.0001pt of the dense model's",
        ),
        (["--profile", "gpu"], "unknown profile 'gpu'"),
    ],
)
def test_what_makes_no_sense_is_one_message(
    arguments: list[str], message: str, sample: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["select", sample, *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_an_unknown_profile_of_a_front(several: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["front", several, "--profile", "phnoe"]) == 2
    assert "unknown profile 'phnoe'. Did you mean 'phone'?" in capsys.readouterr().err
    assert run(["select", several, "--where", "latency_p50 <= 5ms"]) == 2
    assert "write one of latency_p50@cpu, latency_p50@phone" in capsys.readouterr().err
    assert run(["export", several, "out", "--member", "member-1", "--within", "1pt"]) == 2
    assert "either --member or --where" in capsys.readouterr().err
