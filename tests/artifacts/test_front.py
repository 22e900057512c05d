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


def test_the_fastest_within_a_point(front: Front) -> None:
    # dense 0.98; members 0.942, 0.9586, 0.9695, 0.9758, 0.9788, 0.9799
    assert front.select(within="1pt").name == "member-4"
    assert front.select(within=0.01).name == "member-4"
    assert front.select(within="1.1%").name == "member-3"
    assert front.select(within="3pt", prefer="best").name == "member-6"
    assert front.select("latency_p50 >= 620us", within="3pt").name == "member-5"
    assert front.select(within="90%", prefer="smallest").name == "member-1"


def test_within_is_of_the_best_member_where_there_is_no_dense_model() -> None:
    rows: tuple[Row, ...] = (
        {"member": "a", "loss": 2.0, "latency_p50_us": 1.0},
        {"member": "b", "loss": 1.5, "latency_p50_us": 2.0},
        {"member": "c", "loss": 1.4, "latency_p50_us": 3.0},
        {"member": "d", "loss": None, "latency_p50_us": 0.5},
    )
    found = make_front(*rows, metrics=("loss",), minimize=("loss",))
    assert found.select(within="10%").name == "b"
    assert found.select(within=0.6).name == "a"
    with pytest.raises(
        InputError, match=r"'1pt' is a hundredth of a metric between 0 and 1; 'loss' is 1.4. Write a perc"
    ):
        found.select(within="1pt")


def test_nothing_within_names_the_nearest(front: Front) -> None:
    with pytest.raises(InputError) as caught:
        front.select("latency_p50 <= 300us", within="1pt")
    wanted = "no member is within 1pt of the dense model's accuracy 0.98. The nearest is 'member-1' with accuracy 0.942"
    assert wanted in str(caught.value)
    nothing = make_front({"member": "a", "accuracy": None})
    with pytest.raises(InputError, match="within: expected values of 'accuracy', got none"):
        nothing.select(within="1pt")


def test_preferences_with_a_name(front: Front) -> None:
    assert front.select("latency_p50 <= 610us", prefer="best").name == "member-4"
    assert front.select(prefer="fastest").name == "member-1"
    assert front.select("accuracy >= 96%", prefer="fastest").name == "member-3"
    assert front.select(prefer="smallest").name == "member-1"


def test_weights_are_of_columns_scaled_over_the_front() -> None:
    front = make_front(
        {"member": "a", "accuracy": 0.90, "latency_p50_us": 10.0},
        {"member": "b", "accuracy": 0.96, "latency_p50_us": 16.0},
        {"member": "c", "accuracy": 1.00, "latency_p50_us": 30.0},
    )
    # scaled (error, latency): a (1, 0), b (0.4, 0.3), c (0, 1)
    assert front.select(prefer={"accuracy": 1, "latency_p50": 1}).name == "b"
    assert front.select(prefer="accuracy + latency_p50").name == "b"
    assert front.select(prefer={"error": 1, "latency_p50": 3}).name == "a"
    assert front.select(prefer="3*accuracy + latency_p50*1").name == "c"
    assert front.select(prefer="accuracy*0 + latency_p50").name == "a"
    # the scale is the whole front's, whatever the condition leaves: 0.4 w + 0.3 < 1 for w = 1
    assert front.select("latency_p50 > 12us", prefer="accuracy + latency_p50").name == "b"


@pytest.mark.parametrize(
    ("prefer", "message"),
    [
        ({"accurracy": 1.0}, r"unknown preference 'accurracy'. Did you mean 'accuracy'"),
        ({"member": 1.0}, "unknown preference 'member'"),
        ({"accuracy": -1.0}, "expected a weight of at least 0"),
        ({"accuracy": 0.0, "size": 0.0}, "expected at least one weight above 0"),
        ("accuracy * fast", "prefer: expected"),
        ("fastest + accuracy", "unknown preference 'fastest'"),
    ],
)
def test_bad_weights(front: Front, prefer: str | dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        front.select(prefer=prefer)


def two_devices() -> Front:
    record = RunRecord(
        profiles=("phone", "cpu"),
        objectives=("error", "latency_p50@phone", "latency_p50@cpu"),
        constraints=("latency_p99@cpu <= 8 ms", "latency_p99@phone <= 9 ms", "size <= 4 MB"),
    )
    rows: list[Row] = [
        {"member": "dense", "accuracy": 0.95, "latency_p50_us@phone": 20.0, "latency_p50_us@cpu": 20.0},
        {"member": "a", "accuracy": 0.9, "latency_p50_us@phone": 10.0, "latency_p50_us@cpu": 2.0},
        {"member": "b", "accuracy": 0.8, "latency_p50_us@phone": 5.0, "latency_p50_us@cpu": 4.0},
        {"member": "c", "accuracy": 0.7, "latency_p50_us@phone": 6.0, "latency_p50_us@cpu": 1.0},
    ]
    return Front(Path("nowhere"), record, rows)


def test_a_front_as_one_device_sees_it() -> None:
    front = two_devices()
    phone, cpu = front.for_profile("phone"), front.for_profile("cpu")
    assert [member.name for member in phone] == ["a", "b"]
    assert [member.name for member in cpu] == ["a", "c"]
    assert phone["b"].metrics == {"member": "b", "accuracy": 0.8, "latency_p50_us": 5.0}
    assert phone.dense is not None
    assert phone.record.objectives == ("error", "latency_p50")
    assert phone.record.constraints == ("latency_p99 <= 9 ms", "size <= 4 MB")
    assert phone.for_profile("phone") is phone
    assert front.select("latency_p50 <= 7us", profile="phone").name == "b"
    assert front.select(prefer="fastest", profile="cpu").metrics["latency_p50_us@phone"] == 6.0
    assert front.select(prefer="fastest").name == "c"  # on both together
    assert front.select(prefer="latency_p50@phone").name == "b"


def test_the_search_says_who_is_on_a_devices_front() -> None:
    front = two_devices()
    rows = [{**row, "on_front@phone": int(row["member"] in ("a", "c"))} for row in front.rows]
    marked = Front(front.run, front.record, rows)
    assert [member.name for member in marked.for_profile("phone")] == ["a", "c"]


def test_a_profile_that_no_objective_names_is_seen_by_what_is_minimised_elsewhere() -> None:
    front = two_devices()
    record = front.record.model_copy(update={"objectives": ("error", "latency_p50@phone")})
    seen = Front(front.run, record, front.rows).for_profile("cpu")
    assert seen.record.objectives == ("error", "latency_p50")
    assert [member.name for member in seen] == ["a", "c"]


def test_messages_about_profiles() -> None:
    front = two_devices()
    with pytest.raises(InputError, match=r"unknown profile 'phnoe'. Did you mean 'phone'\? Known: cpu, phone"):
        front.select(profile="phnoe")
    for call in ({"where": "latency_p50 <= 5us"}, {"prefer": "latency_p50"}, {"prefer": {"latency_p50": 1.0}}):
        with pytest.raises(
            InputError, match="'latency_p50' is another on each profile: write one of latency_p50@phone"
        ):
            front.select(**call)
