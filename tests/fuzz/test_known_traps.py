"""What once got through: each trap in a file of its own kind, refused in one sentence."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import onnx
import pytest
import torch

from autoprune.artifacts.front import load_front
from autoprune.artifacts.ranking import compare_damage
from autoprune.artifacts.report.data import load_report_data
from autoprune.artifacts.report.page import render
from autoprune.callables import load_model
from autoprune.config import resolve
from autoprune.core.errors import InputError, shortened, unknown_name
from autoprune.core.files import parse_json, read_text
from autoprune.core.settings import parse_yaml
from autoprune.graph.kernel import Kernel
from autoprune.graph.run import resolve_target
from autoprune.hardware.importers.named import Report, timings_of
from autoprune.hardware.importers.profile import named_kernels
from autoprune.hardware.kit.contents import read_contents
from autoprune.hardware.kit.importing import import_kit
from autoprune.hardware.profile import load_profile
from autoprune.hardware.runtimes.model import Model
from autoprune.search.rules import read_rules
from autoprune.search.storage import TrialStorage
from tests.fuzz.hardware import kit_files
from tests.fuzz.mutations import gzip_bomb, packed
from tests.fuzz.reader import write_files
from tests.fuzz.runs import journal_files, run_files
from tests.fuzz.tensors import exported
from tests.fuzz.texts import traits
from tests.hardware.importers.files import small_graph


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "each key once, got 'a' twice"),
        ('{"a": NaN}', "finite numbers, got NaN"),
        ('{"a": 1e999}', "finite numbers, got 1e999"),
        ('{"a": ' + "9" * 5000 + "}", "at most 19 digits"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "[]," * 400_000 + "0]", "at most 2000000 items"),
    ],
)
def test_json(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_json(text, "file")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="expected a file, got a device or pipe"):
        read_text(tmp_path / "pipe", "config")
    os.mkfifo(tmp_path / "kit.pipe")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="expected plain files"):
        read_contents(tmp_path)


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000, "~nobody-at-all/x", "\ud800"])
def test_names_that_no_file_has(name: str) -> None:
    resolve(name, Path.cwd())
    with pytest.raises(InputError):
        load_profile(name)


def test_numbers_in_base_sixty_and_sixteen() -> None:
    for text in ("a: " + ":".join(["1"] * 10_000), "a: 0x" + "f" * 10_000):
        with pytest.raises(InputError, match="numbers of at most 40 characters"):
            parse_yaml(text, "config")


def test_eight_wildcards_are_matched_in_no_time() -> None:
    rules = read_rules({"rules": [{"match": "*a*a*a*a*a*a*a*b", "levels": 2}]})
    assert rules.settings("a" * 200, 8, traits()) == {"freeze": True}
    rules = read_rules({"rules": [{"match": "*.?.*conv*", "tie": "{1}-{2}-{3}-{4}"}]})
    assert rules.settings("layer1.0.block.conv2", 8, traits())["tie"] == "layer1-0-block.-2"


def test_digits_that_are_none_of_ours() -> None:
    with pytest.raises(InputError, match="expected '<family> @ <sizes>'"):
        Kernel.from_key("x @ ²")


def test_operators_that_write_files() -> None:
    for target in ("aten.save.default", "aten.from_file.default", "aten.manual_seed.default", "aten.warn.default"):
        with pytest.raises(InputError, match="known ATen operator"):
            resolve_target(target)


def test_what_a_terminal_would_obey_is_spelt_out() -> None:
    assert shortened("\x1b[2J\u202e") == "\\x1b[2J\\u202e"


def test_more_values_than_anybody_writes() -> None:
    with pytest.raises(InputError, match="expected at most 200000 values, got more"):
        parse_yaml("a: [" + "[]," * 201_000 + "]", "table", 4 * 2**20)


def test_names_that_take_long_to_compare() -> None:
    known = {f"{'a' * 150}{number:04}": 1 for number in range(3000)}
    with pytest.raises(InputError, match="unknown group 'aaa"):
        raise unknown_name("group", "a" * 190 + "b" * 10, known)


def test_thousands_of_reports_of_one_kernel() -> None:
    graph = small_graph()
    model = named_kernels(graph)
    name = next(iter(model.places))
    found = timings_of([Report(f"{name}_token_{number}", 1.0) for number in range(20_000)], model, "file")
    assert [timing.mean_us for timing in found.timings] == [20_000.0]


def test_what_a_far_end_says_is_spelt_out(tmp_path: Path) -> None:
    """A lock's holder, a database's name, a prediction: of bounded length, and nothing that a terminal obeys."""
    (tmp_path / "prediction.json").write_text('{"n": 5, "kendall_damage": "' + "\\u001b[2J" * 9000 + '"}')
    with pytest.raises(InputError) as caught:
        compare_damage(tmp_path, "accuracy")
    assert len(str(caught.value)) < 400
    assert "\x1b" not in str(caught.value)


def test_inputs_of_an_onnx_file_that_no_memory_holds() -> None:
    tensor = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2**40, "batch"])
    data = onnx.helper.make_model(onnx.helper.make_graph([], "g", [tensor], [])).SerializeToString()
    with pytest.raises(InputError, match="expected the input 'x' and those before of at most"):
        Model.of_onnx(data).inputs(1)


def test_a_journal_whose_last_two_records_are_damaged(tmp_path: Path) -> None:
    (tmp_path / "journal.log").write_bytes(journal_files()["journal.log"] + b"torn\nand torn\n")
    with pytest.raises(InputError, match="got several that are none"):
        TrialStorage(tmp_path, ("a", "b"), (3, 4), ("error", "latency_p50"), None)


def _run_with(folder: Path, **changes: object) -> Path:
    write_files(folder, run_files())
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | changes))
    return folder


def test_a_run_of_no_metric(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics: .*at least 1 item"):
        load_front(_run_with(tmp_path / "run", metrics=[]))


def test_a_run_of_which_no_row_has_its_metric(tmp_path: Path) -> None:
    page = render(load_report_data(_run_with(tmp_path / "run", metrics=["another"])))
    assert "<table" in page


def test_versions_of_a_tool_that_a_terminal_would_obey(tmp_path: Path) -> None:
    files = dict(kit_files())
    log = next(name for name in files if name.startswith("logs/") and name.endswith(".log"))
    files[log] = files[log].replace(b"#tool ", b"#tool \x1b[2J")
    write_files(tmp_path / "kit", files)
    with pytest.raises(InputError, match="expected logs of one version of the tool") as caught:
        import_kit(tmp_path / "kit")
    assert str(caught.value).isprintable()


# --------------------------------------------------------------------------- archives


def _kit(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_contents(path)
    return str(caught.value)


def test_a_tar_of_negative_sizes_ends(tmp_path: Path) -> None:
    """CVE-2025-8194: Python's own reader goes round for ever."""
    info = tarfile.TarInfo("logs/a.log")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"
    header[156:157] = b"x"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\x00 " % sum(header)
    (tmp_path / "kit.tar").write_bytes(bytes(header) + bytes(1024))
    assert "does not read" in _kit(tmp_path / "kit.tar")


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "kit.tar.gz").write_bytes(gzip_bomb(64))
    assert "found none" in _kit(tmp_path / "kit.tar.gz")  # zeros end a tar
    big = tarfile.TarInfo("models/a.onnx")
    big.size = 2**33
    (tmp_path / "big.tar.gz").write_bytes(gzip.compress(big.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)))
    assert "No kit is so large" in _kit(tmp_path / "big.tar.gz")
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("logs/a.log", b"x", zipfile.ZIP_LZMA)
    (tmp_path / "kit.zip").write_bytes(out.getvalue())
    assert "does not read" in _kit(tmp_path / "kit.zip")


def test_links_and_names_that_lead_out(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        with tarfile.open(tmp_path / "kit.tar", "w") as tar:
            for name, content in kit_files().items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, BytesIO(content))
            link = tarfile.TarInfo("logs/b.log")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
        assert "a link or device" in _kit(tmp_path / "kit.tar")
    (tmp_path / "kit.zip").write_bytes(packed({**kit_files(), "../canary": b"x"}))
    assert "leads out of it" in _kit(tmp_path / "kit.zip")
    assert not (tmp_path.parent / "canary").exists()


# --------------------------------------------------------------------------- exported programs

MODEL = "archive/models/model.json"
WEIGHTS = "archive/data/weights/model_weights_config.json"


def _loaded(files: dict[str, bytes], folder: Path) -> str:
    path = folder / "model.pt2"
    path.write_bytes(packed(files))
    with pytest.raises(InputError) as caught:
        load_model(str(path))
    return str(caught.value)


def _replaced(old: str, new: str, part: str = MODEL) -> dict[str, bytes]:
    files = dict(exported())
    assert old.encode() in files[part]
    return {**files, part: files[part].replace(old.encode(), new.encode())}


def test_an_exported_program_is_loaded_and_computes_the_same(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(packed(exported()))
    module = load_model(str(tmp_path / "model.pt2"))
    assert module.eval()(torch.ones(3, 4)).shape == (3, 4)


def test_operators_of_exported_programs_are_aten(tmp_path: Path) -> None:
    for target in (
        "torch.os.system",
        "_operator.call",
        "torch.ops.aten.save.default",
        "torch.hub.load",
        "math.__class__",
    ):
        assert "ATen" in _loaded(_replaced("torch.ops.aten.relu.default", target), tmp_path)


def test_sizes_of_exported_programs_are_arithmetic(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    size = json.dumps(f"__import__('os').mkdir('{canary}')")[1:-1]
    files = dict(exported())
    data = json.loads(files[MODEL])
    [symbol] = [
        v["sizes"][0]["as_expr"] for k, v in data["graph_module"]["graph"]["tensor_values"].items() if k == "input"
    ]
    for text in (size, "exec(chr(49))", "9**9**9**9", "Pow(9, Pow(9, Pow(9, 9)))"):
        symbol["expr_str"] = text
        assert "expected arithmetic as a size" in _loaded({**files, MODEL: json.dumps(data).encode()}, tmp_path)
    assert not canary.exists()


def test_nothing_of_an_exported_program_is_unpickled(tmp_path: Path) -> None:
    assert "pickled" in _loaded(_replaced('"use_pickle": false', '"use_pickle": true', WEIGHTS), tmp_path)
    guarded = _replaced('"guards_code": []', '"guards_code": ["__import__(\'os\').abort()"]')
    guarded["archive/data/sample_inputs/model.pt"] = b"cos\nabort\n(tR."
    (tmp_path / "model.pt2").write_bytes(packed(guarded))
    assert load_model(str(tmp_path / "model.pt2"))(torch.ones(2, 4)).shape == (2, 4)
