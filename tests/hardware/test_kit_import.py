"""Kits that come back: times of a formula are found again, and what is damaged, hostile or half run is refused."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoprune.core.errors import AutopruneError, InputError
from autoprune.core.files import canonical_json, digest
from autoprune.graph.fusion import kernel_slots
from autoprune.hardware.kit import contents
from autoprune.hardware.kit.contents import read_contents
from autoprune.hardware.kit.importing import Asked, import_kit
from autoprune.hardware.kit.manifest import KitModel, Manifest, manifest_of
from autoprune.hardware.kit.planning import plan_kit
from autoprune.hardware.latency import LatencyTable
from tests.hardware.kits import MODEL, TINY, TimeOf, answer, log_text, quick, written
from tests.hardware.samples import bilinear_us, graph_of

EMPTY_US, STEP, WHOLE = 2.0, 8, (1.3, 7.0)  # of the formula: an empty run, the quantum, the composition


def formula(model: KitModel, session: int) -> float:
    """What a model takes on a machine that is a formula."""
    if model.role == "whole":
        graph = graph_of(MODEL)
        widths = dict(zip(graph.groups, model.widths, strict=True))
        kernels = [slot.kernel(widths) for slot in kernel_slots(graph.program)]
        return WHOLE[0] * sum(bilinear_us(kernel.family, kernel.sizes) for kernel in kernels) + WHOLE[1]
    kernel = model.as_kernel()
    if model.role == "empty":
        return EMPTY_US
    if model.role == "probe":
        return EMPTY_US + 5.0 + 0.6 * STEP * -(-kernel.sizes[1] // STEP)
    if model.role == "edge":  # two in a row take twice one, but for the run itself: no edges
        return EMPTY_US + (10.0 if model.id.startswith("one") else 20.0)
    return EMPTY_US + bilinear_us(kernel.family, kernel.sizes)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A kit that the formula ran: all kernels of the network, ten whole models."""
    folder = tmp_path_factory.mktemp("answered") / "kit"
    manifest = written(folder, kernels=None, whole_models=10)
    answer(folder, manifest, formula)
    return folder, manifest


@pytest.fixture
def kit(template: tuple[Path, Manifest], tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(template[0], tmp_path / "kit"))


def answered(folder: Path, time_of: TimeOf, **fields: object) -> Path:
    """A kit of its own, answered."""
    answer(folder, written(folder, **fields), time_of)
    return folder


def test_times_of_a_formula_come_back(kit: Path) -> None:
    profile = import_kit(kit)
    header = profile.header
    assert header.name == "aarch64-onnxruntime-1t"
    assert (header.device.processor, header.device.cores) == ("Cortex-Z9", 4)
    assert header.device.memory_bytes == 2**30
    assert header.device.features == ("asimd", "asimddp")
    assert header.environment["load"] == "0.01 0.02 0.03"
    assert (header.runtime.name, header.runtime.version) == ("onnxruntime", "1.0")
    assert header.created == "2026-01-31"
    assert header.protocol.empty_run_us == EMPTY_US
    assert header.alignment_quantum == STEP
    assert header.validation.models == 10
    assert header.validation.sentinel_drift == 0.0
    assert header.validation.notes == ()
    graph = graph_of(MODEL)
    table = LatencyTable(profile, graph)
    random = np.random.default_rng(0)
    steps = np.array([[round(group.size * k / 8) or 1 for k in range(1, 9)] for group in graph.groups.values()])
    widths = np.stack([random.choice(row, 20) for row in steps], axis=1)
    for row, predicted in zip(widths, table.latency_us(widths)["p50"], strict=True):
        whole = KitModel(id="w", role="whole", file="models/w.onnx", target=0, widths=tuple(int(w) for w in row))
        assert predicted == pytest.approx(formula(whole, 0), rel=0.02)


def test_the_machine_that_slows_down_is_seen_and_taken_out(tmp_path: Path) -> None:
    """The second session runs on a machine of three quarters the speed."""
    pace = (0.875, 1.125)
    settings = {"protocol": TINY.model_copy(update={"sessions": 2}), "kernels": 40}
    folder = answered(tmp_path / "kit", lambda model, session: formula(model, session) * pace[session], **settings)
    profile = import_kit(folder)
    for row in profile.kernels:
        assert row.p50_us == pytest.approx(bilinear_us(row.family, row.sizes), rel=0.02, abs=0.03)
        assert row.n == 6
    assert profile.header.validation.sentinel_drift == pytest.approx(0.125, rel=0.01)
    assert any("speed changed by 12%" in note for note in profile.header.validation.notes)
    planned = plan_kit(graph_of(MODEL), None, quick()).planned
    left_out = f"40 of {planned} planned kernels were in the kit; the rest is interpolated"
    assert left_out in profile.header.validation.notes


def test_a_machine_out_of_hand_is_refused(tmp_path: Path) -> None:
    def wild(model: KitModel, session: int) -> float:
        return formula(model, session) * (1.0, 1.0, 5.0)[session]

    settings = {"protocol": TINY.model_copy(update={"sessions": 3})}
    with pytest.raises(InputError, match="expected a machine of steady speed"):
        import_kit(answered(tmp_path / "kit", wild, **settings))


def test_what_the_user_says_goes_into_the_profile(kit: Path) -> None:
    asked = Asked(name="board", device="Board 5", kind="other", description="by hand", runtime="onnxruntime 1.0")
    header = import_kit(kit, asked).header
    assert (header.name, header.device.name, header.device.kind) == ("board", "Board 5", "other")
    assert header.description == "by hand"


@pytest.mark.parametrize("ending", ["tar.gz", "zip", "tar.gz of files", "without models"])
def test_archives_give_the_profile_of_the_folder(kit: Path, ending: str, tmp_path: Path) -> None:
    expected = import_kit(kit).id
    if ending == "zip":
        path = Path(shutil.make_archive(str(tmp_path / "back"), "zip", tmp_path, "kit"))
    elif ending == "tar.gz of files":
        path = Path(shutil.make_archive(str(tmp_path / "back"), "gztar", kit))
    else:
        if ending == "without models":
            shutil.rmtree(kit / "models")
        path = Path(shutil.make_archive(str(tmp_path / "back"), "gztar", tmp_path, "kit"))
    assert import_kit(path).id == expected


def test_a_kit_that_was_cut_off_is_enough_from_half_of_its_kernels_on(kit: Path, template: Any) -> None:
    manifest = template[1]
    kernels = [log for log, model in manifest.order if model.startswith("k")]
    for log in kernels[len(kernels) // 2 :]:
        (kit / "logs" / f"{log}.log").unlink()
    for log, model in manifest.order:
        if model.startswith("w") and model > "w004":
            (kit / "logs" / f"{log}.log").unlink()
    profile = import_kit(kit)
    assert len(profile.kernels) == len(kernels) // 2
    notes = profile.header.validation.notes
    assert f"{len(kernels) - len(kernels) // 2} of {len(kernels)} kernels of the kit were not run" in notes
    assert "5 of 10 whole models of the kit were not run" in notes
    (kit / "logs" / f"{kernels[0]}.log").unlink()
    (kit / "logs" / f"{kernels[1]}.log").unlink()
    with pytest.raises(InputError, match=rf"at least half of its {len(kernels)} kernels, got {len(kernels) // 2 - 2}"):
        import_kit(kit)


def test_kernels_that_the_tool_refused_are_rows(kit: Path, template: Any) -> None:
    manifest = template[1]
    refuse(kit, manifest, "s0-k00003", "no such operator")
    failed = [row for row in import_kit(kit).kernels if row.failure]
    assert [row.failure for row in failed] == ["no such operator"]
    for log, model in manifest.order:
        if model.startswith("k"):
            refuse(kit, manifest, log, "no such operator")
    with pytest.raises(AutopruneError, match="onnxruntime refused every kernel, the first with: no such operator"):
        import_kit(kit)


def refuse(kit: Path, manifest: Manifest, log: str, why: str) -> None:
    """As if the tool had refused the log's model."""
    text = log_text(manifest.id, log, [], end=f"{why}\n#end 1\n")
    (kit / "logs" / f"{log}.log").unlink(missing_ok=True)
    (kit / "logs" / f"{log}.failed").write_text(text)


def edited(kit: Path, change: Callable[[dict[str, Any]], object], identify: bool = True) -> None:
    """The manifest, changed; with `identify` as a hostile hand would, with an id that fits."""
    path = kit / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    if identify:
        data["id"] = digest(canonical_json({**data, "id": ""}))
    path.write_text(json.dumps(data))


def relogged(kit: Path, change: Callable[[str], str], log: str = "s0-k00001") -> None:
    path = kit / "logs" / f"{log}.log"
    path.write_text(change(path.read_text()))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "model changed": (
        lambda kit: (kit / "models" / "k00001.onnx").write_bytes(b"other"),
        r"models/k00001.onnx: expected the file as it was written",
    ),
    "settings changed": (
        lambda kit: (kit / "settings.sh").write_text("THREADS=8\n"),
        r"settings.sh: expected the file as it was written",
    ),
    "manifest changed": (
        lambda kit: edited(kit, lambda data: data.update(threads=8), identify=False),
        r"got one that was changed since",
    ),
    "manifest of another schema": (
        lambda kit: edited(kit, lambda data: data.update(schema="autoprune.kit/9")),
        r"expected schema 'autoprune.kit/1', got 'autoprune.kit/9'",
    ),
    "manifest cut off": (
        lambda kit: (kit / "manifest.json").write_text('{"schema": "autoprune.kit/1",'),
        r"manifest.json: expected JSON",
    ),
    "manifest is a list": (lambda kit: (kit / "manifest.json").write_text("[]"), r"expected a JSON object, got list"),
    "no manifest": (lambda kit: (kit / "manifest.json").unlink(), r"expected manifest.json, found none"),
    "kernel twice": (
        lambda kit: edited(kit, lambda data: data["models"][1].update(kernel=data["models"][0]["kernel"])),
        r"the kernel '.*' is there twice",
    ),
    "log twice": (
        lambda kit: edited(kit, lambda data: data["order"].append(data["order"][0])),
        r"the log 's0-sentinel-000' is there twice",
    ),
    "file outside": (
        lambda kit: edited(kit, lambda data: data["models"][0].update(file="../../etc/passwd.txt")),
        r"models\[0\].file: .* got '../../etc/passwd.txt'",
    ),
    "file absolute": (
        lambda kit: edited(kit, lambda data: data["targets"][0].update(program="/etc/passwd.json")),
        r"targets\[0\].program: .* got '/etc/passwd.json'",
    ),
    "batch of NaN": (
        lambda kit: edited(kit, lambda data: data.update(batch="nan")),
        r"batch: .* got 'nan'",
    ),
    "log cut off": (lambda kit: relogged(kit, lambda text: text[: len(text) // 2]), r"k00001.log: expected a whole"),
    "log empty": (lambda kit: relogged(kit, lambda text: ""), r"k00001.log: expected a whole log"),
    "log of another kit": (
        lambda kit: relogged(kit, lambda text: text.replace("#kit ", "#kit f")),
        r"expected the log 's0-k00001' of the kit .*Do not mix",
    ),
    "log of another model": (
        lambda kit: relogged(kit, lambda text: text.replace("s0-k00001", "s0-k00002")),
        r"got 's0-k00002' of",
    ),
    "log in another unit": (
        lambda kit: relogged(kit, lambda text: text.replace("#unit us", "#unit ms")),
        r"expected times in us, got 'ms'",
    ),
    "log of another version": (
        lambda kit: relogged(kit, lambda text: text.replace("onnxruntime 1.0", "onnxruntime 1.1")),
        r"logs of one version of the tool, got onnxruntime 1.0 in .*; onnxruntime 1.1 in logs/s0-k00001.log",
    ),
    "log of no order": (
        lambda kit: shutil.copy(kit / "logs" / "s0-k00001.log", kit / "logs" / "s7-k00001.log"),
        r"expected logs of the manifest's order, got 's7-k00001'",
    ),
    "log without times": (
        lambda kit: (kit / "logs" / "s0-k00001.log").write_text(log_text(kit_id(kit), "s0-k00001", [])),
        r"expected what time_onnx.py prints of its times, got none of it",
    ),
    "time of another unit": (
        lambda kit: (kit / "logs" / "s0-k00001.log").write_text(log_text(kit_id(kit), "s0-k00001", [9e6] * 3)),
        r"expected times of one unit",
    ),
    "program changed": (
        lambda kit: resummed(kit, "programs/0.json", lambda text: text.replace("conv", "conw")),
        r"programs/0.json: ",
    ),
    "program of other groups": (
        lambda kit: other_groups(kit),
        r"programs/0.json: expected a program as autoprune writes it, got ValueError: other groups",
    ),
    "widths beyond the group": (
        lambda kit: edited(kit, lambda data: data["models"][-1]["widths"].__setitem__(0, 99999)),
        r"has widths that do not fit its groups",
    ),
    "a link": (lambda kit: (kit / "logs" / "s0-more.log").symlink_to("/etc/passwd"), r"got 'logs/s0-more.log', a link"),
    "no kit at all": (lambda kit: shutil.rmtree(kit), r"expected a kit's folder"),
} | {
    f"time {value}": (
        lambda kit, value=value: (kit / "logs" / "s0-k00001.log").write_text(
            log_text(kit_id(kit), "s0-k00001", [1.0, value, 1.0])
        ),
        rf"s0-k00001.log: expected a .*time.*, got '{value}'",
    )
    for value in (float("nan"), float("inf"), -1.0, 0.0, 1e13)
}  # fmt: skip


def other_groups(kit: Path) -> None:
    edited(kit, lambda data: data["targets"][0]["groups"][0].__setitem__(1, 9999))
    relogged_all(kit)


def kit_id(kit: Path) -> str:
    return (kit / "kit.id").read_text().strip()


def resummed(kit: Path, name: str, change: Callable[[str], str]) -> None:
    """A file changed, and the manifest with it."""
    path = kit / name
    path.write_text(change(path.read_text()))
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    edited(kit, lambda data: data["files"][name].update(sha256=sha, size=path.stat().st_size))
    relogged_all(kit)


def relogged_all(kit: Path) -> None:
    """All logs of the manifest as it now is."""
    identity = json.loads((kit / "manifest.json").read_text())["id"]
    for log in (kit / "logs").iterdir():
        log.write_text(log.read_text().replace(f"#kit {kit_id(kit)}", f"#kit {identity}"))


@pytest.mark.parametrize("fault", BROKEN)
def test_a_kit_that_is_wrong_says_what_and_where(fault: str, kit: Path) -> None:
    spoil, message = BROKEN[fault]
    spoil(kit)
    with pytest.raises(InputError, match=message):
        import_kit(kit)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(precision="float16"), "expected a kit of precision float16, got precision float32"),
        (Asked(batch=8), "expected a kit of batch 8, got batch 1"),
        (Asked(threads=2), "expected a kit of threads 2, got threads 1"),
        (Asked(runtime="litert"), "expected a kit of runtime litert, got runtime onnxruntime"),
        (Asked(runtime="onnxruntime 1.2"), "expected a kit of version 1.2, got version 1.0"),
    ],
)
def test_a_kit_of_something_else_than_asked(asked: Asked, message: str, kit: Path) -> None:
    with pytest.raises(InputError, match=message):
        import_kit(kit, asked)


@pytest.mark.parametrize("name", ["../evil.log", "/etc/evil.log", "kit/../../evil.log", "..\\evil.log", "C:/evil.log"])
@pytest.mark.parametrize("ending", ["tar.gz", "zip"])
def test_names_that_lead_out_of_the_kit(name: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"kit.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")
    else:
        with tarfile.open(path, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(InputError, match="expected names inside the kit"):
        import_kit(path)
    assert not list(tmp_path.parent.glob("evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("logs/s0-a.log")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "kit.tgz", "w:gz") as tar:
        tar.addfile(info)
    with pytest.raises(InputError, match=r"got 'logs/s0-a.log', a link or device"):
        import_kit(tmp_path / "kit.tgz")


def test_links_in_a_zip(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("logs/s0-a.log")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "kit.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="a link or device"):
        import_kit(tmp_path / "kit.zip")


def test_a_tar_that_promises_more_than_any_kit_has_is_not_read(tmp_path: Path) -> None:
    info = tarfile.TarInfo("models/k00000.onnx")
    info.size = 2**40
    with tarfile.open(tmp_path / "kit.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(InputError, match="No kit is so large"):
        import_kit(tmp_path / "kit.tar")


def test_a_zip_that_grows_a_thousandfold_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "kit.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logs/s0-a.log", b"0" * (contents.MAX_TEXT_BYTES + 1))
    assert path.stat().st_size < contents.MAX_TEXT_BYTES / 500
    with pytest.raises(InputError, match=f"logs of at most {contents.MAX_TEXT_BYTES} bytes"):
        import_kit(path)


def test_more_files_or_bytes_than_any_kit_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "kit.zip", "w") as archive:
        for index in range(5):
            archive.writestr(f"models/k{index}.onnx", b"0" * 100)
    monkeypatch.setattr(contents, "MAX_FILES", 4)
    with pytest.raises(InputError, match=r"got more at 'models/k4.onnx'"):
        read_contents(tmp_path / "kit.zip")
    monkeypatch.setattr(contents, "MAX_FILES", 9)
    monkeypatch.setattr(contents, "MAX_BYTES", 250)
    with pytest.raises(InputError, match=r"got more at 'models/k2.onnx'"):
        read_contents(tmp_path / "kit.zip")


def test_a_file_twice_in_an_archive(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "kit.tar.gz", "w:gz") as tar:
        for name in ("manifest.json", "./manifest.json"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(InputError, match=r"got 'manifest.json' twice"):
        import_kit(tmp_path / "kit.tar.gz")


@pytest.mark.parametrize("ending", ["tar.gz", "tar", "zip"])
def test_archives_that_are_cut_off_or_none(ending: str, kit: Path, tmp_path: Path) -> None:
    kind = {"tar.gz": "gztar", "tar": "tar", "zip": "zip"}[ending]
    path = Path(shutil.make_archive(str(tmp_path / "back"), kind, tmp_path, "kit"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="It may be cut off"):
        import_kit(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="It may be cut off"):
        import_kit(path)
    path.unlink()
    with pytest.raises(InputError, match="cannot read kit"):
        import_kit(path)


def test_another_file_is_no_kit(tmp_path: Path) -> None:
    (tmp_path / "times.csv").write_text("a,b\n")
    with pytest.raises(InputError, match=r"expected a kit's folder or a .tar.gz"):
        import_kit(tmp_path / "times.csv")


def test_the_manifest_reads_back(template: tuple[Path, Manifest]) -> None:
    folder, manifest = template
    assert manifest_of(json.loads((folder / "manifest.json").read_text()), "kit") == manifest


def test_a_plan_is_the_same_every_time() -> None:
    first, second = (plan_kit(graph_of(MODEL), None, quick()) for _ in range(2))
    assert [(model.id, model.kernel, model.widths) for model in first.models] == [
        (model.id, model.kernel, model.widths) for model in second.models
    ]
