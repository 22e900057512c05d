"""Fronts: reading, frames, selection and its messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from autoprune.artifacts.front import Front, load_front
from autoprune.artifacts.layout import FRONT, RUN
from autoprune.artifacts.records import RunRecord
from autoprune.artifacts.table import Row, read_table
from autoprune.core.errors import InputError
from tests.artifacts.samples import write_sample


@pytest.fixture
def front(tmp_path: Path) -> Front:
    return load_front(write_sample(tmp_path / "sample"))


def make_front(*rows: Row, metrics: tuple[str, ...] = ("accuracy",), minimize: tuple[str, ...] = ()) -> Front:
    return Front(Path("nowhere"), RunRecord(metrics=metrics, minimize=minimize), rows)


def test_members_and_dense(front: Front) -> None:
    assert len(front) == len(list(front)) == 6
    assert [member.name for member in front.members] == [f"member-{index}" for index in range(1, 7)]
    assert front.dense is not None
    assert front["dense"] is front.dense
    assert front["member-2"].metrics["accuracy"] == pytest.approx(0.9586, abs=1e-4)
    assert sum(front["member-2"].policy.values()) > 0
    with pytest.raises(InputError, match=r"unknown member 'member-9'. Did you mean 'member-"):
        front["member-9"]


def test_metrics_are_read_only(front: Front) -> None:
    with pytest.raises(TypeError):
        front["member-1"].metrics["accuracy"] = 1.0  # type: ignore[index]


def test_frame_is_the_csv(front: Front) -> None:
    frame = front.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    wanted = {"member", "accuracy", "test_accuracy", "latency_p50_us", "latency_p99_us", "measured_latency_p50_us"}
    wanted |= {"measured_latency_p95_us", "speedup", "params", "macs", "size_bytes", "peak_memory_bytes", "policy_id"}
    assert wanted <= set(frame.columns)
    assert list(frame["member"]) == ["dense", *(member.name for member in front)]
    assert frame.to_dict("records") == list(read_table(front.run / FRONT, "front"))


def test_select_prefers_the_best_of_those_that_fit(front: Front) -> None:
    assert front.select("latency_p50 <= 610us", prefer="accuracy").name == "member-4"
    assert front.select("latency_p50 <= 610us", prefer="error").name == "member-4"
    assert front.select("accuracy >= 96%", prefer="latency_p50").name == "member-3"
    assert front.select("accuracy >= 96%", prefer="speedup").name == "member-3"
    assert front.select(prefer="size").name == "member-1"
    assert front.select(prefer="test_accuracy").name == "member-6"
    assert front.select().name in {member.name for member in front}


def test_select_uses_measured_latencies_where_there_are_any() -> None:
    front = make_front(
        {"member": "a", "accuracy": 0.9, "latency_p50_us": 10.0, "measured_latency_p50_us": 30.0},
        {"member": "b", "accuracy": 0.8, "latency_p50_us": 20.0, "measured_latency_p50_us": None},
    )
    assert front.select("latency_p50 <= 25us").name == "b"
    assert front.select(prefer="latency_p50").name == "b"


def test_select_minimises_metrics_that_are_minimised() -> None:
    rows: tuple[Row, ...] = ({"member": "a", "loss": 0.2, "f1": 0.5}, {"member": "b", "loss": 0.1, "f1": 0.6})
    front = make_front(*rows, metrics=("loss", "f1"), minimize=("loss",))
    assert front.select(prefer="loss").name == "b"
    assert front.select(prefer="f1").name == "b"
    assert front.select("loss >= 0.15").name == "a"


def test_select_on_one_of_several_profiles() -> None:
    front = make_front(
        {"member": "a", "accuracy": 0.9, "latency_p50_us@phone": 10.0, "latency_p50_us@cpu": 2.0},
        {"member": "b", "accuracy": 0.8, "latency_p50_us@phone": 5.0, "latency_p50_us@cpu": 4.0},
    )
    assert front.select("latency_p50@phone <= 7us").name == "b"
    assert front.select(prefer="latency_p50@cpu").name == "a"


def test_nothing_matches_names_the_nearest(front: Front) -> None:
    with pytest.raises(InputError) as caught:
        front.select("latency_p50 <= 200us and accuracy >= 90%")
    assert "no member meets 'latency_p50 <= 200us and accuracy >= 90%'" in str(caught.value)
    assert "The nearest is 'member-1' with latency_p50 248 us, accuracy 0.942" in str(caught.value)
    with pytest.raises(InputError, match="The dense model does"):
        front.select("params > 250k")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("latency_p50 <=", "where: expected a number"),
        ("latencyp50 <= 5", "where: at character 1.*unknown column 'latencyp50'.*Did you mean"),
        ("member == 3", "unknown column 'member'"),
        ("__import__('os')", "where: "),
    ],
)
def test_bad_conditions(front: Front, where: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        front.select(where)


def test_bad_preferences(front: Front) -> None:
    with pytest.raises(InputError, match=r"unknown preference 'accurracy'. Did you mean 'accuracy'"):
        front.select(prefer="accurracy")
    nothing = make_front({"member": "a", "accuracy": None}, {"member": "b", "accuracy": None})
    with pytest.raises(InputError, match="expected values of 'accuracy', got none"):
        nothing.select(prefer="accuracy")
    with pytest.raises(InputError, match="expected at least one member"):
        make_front({"member": "dense"}).select()


def test_knee_without_values_is_the_first() -> None:
    assert make_front({"member": "a"}, {"member": "b"}).select().name == "a"


def test_load_front_messages(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a run folder, got nothing there"):
        load_front(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected run.json in it, got none"):
        load_front(tmp_path / "empty")
    run = write_sample(tmp_path / "sample")
    (run / FRONT).unlink()
    with pytest.raises(InputError, match=r"expected front.csv, got none. The search has not ended"):
        load_front(run)
    (run / RUN).write_text('{"schema": "autoprune.run/99"}')
    with pytest.raises(InputError, match=r"expected schema 'autoprune.run/1', got 'autoprune.run/99'"):
        load_front(run)


@pytest.mark.parametrize("name", ["../../etc", "a/b", "", ".hidden", "a\\b", "con\n", "x" * 101, "end."])
def test_member_names_cannot_lead_out_of_the_run(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="member name: expected 1 to 100 letters"):
        Front(tmp_path, RunRecord(), [{"member": name}])


def test_a_member_twice_is_refused() -> None:
    with pytest.raises(InputError, match="expected each member once, got 'a' twice"):
        make_front({"member": "a"}, {"member": "a"})


def test_listing_a_front_imports_neither_torch_nor_pandas(tmp_path: Path) -> None:
    run = write_sample(tmp_path / "sample")
    code = (
        "import sys; from autoprune.artifacts.front import load_front;"
        "from autoprune.artifacts.report import write_report;"
        "f = load_front(sys.argv[1]); f.select('latency_p50 <= 1ms'); write_report(sys.argv[1]);"
        "sys.exit(', '.join({'torch', 'pandas', 'onnx', 'plotly'} & sys.modules.keys()) or None)"
    )
    found = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
