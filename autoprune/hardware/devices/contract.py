"""The contract of devices, for those built in and for those that other packages add.

from autoprune.hardware.devices.contract import check_device

def test_my_device(tmp_path: Path) -> None:
    check_device(MyDevice("address"), tmp_path)
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from autoprune.hardware.devices import Device
from autoprune.hardware.kit.manifest import KIT_ID, LOGS, MANIFEST, ORDER, SUMS

FAR = Path(__file__).parents[1] / "kit" / "far"
LOGS_OF_SMALL = ("s0-a", "s0-b", "s0-c")
TOOL = """
TOOL_SUFFIX=txt
TOOL_UNIT=us
TOOL_BATCH=1
TOOL_NEEDS='expected nothing'
tool_version() { echo "${TOOL_TOLD:-1}"; }
tool_run() { echo "$1" >>runs; [ "$1" != "${TOOL_REFUSES-}" ] && cat "$1"; }
"""
SETTINGS = "TOOL=cat THREADS=1 MINIMUM_RUNS=1 MAXIMUM_RUNS=1 TARGET_US=1 WARMUP_RUNS=1 WARMUP_US=1 PRECISION=float32\n"


def small_kit(folder: Path, kit_id: str = "0123456789abcdef") -> None:
    """Write a kit of three models, whose tool is `cat`: all that a device has to do with a kit, without a runtime."""
    (folder / "models").mkdir(parents=True)
    for name in ("run.sh", "environment.sh"):
        shutil.copyfile(FAR / name, folder / name)
    files = {"tool.sh": TOOL, "settings.sh": SETTINGS, KIT_ID: f"{kit_id}\n", MANIFEST: "{}\n"}
    files |= {f"models/{log[-1]}.txt": f"{place}.5\n" for place, log in enumerate(LOGS_OF_SMALL, start=1)}
    files[ORDER] = "".join(f"{log} models/{log[-1]}.txt 1\n" for log in LOGS_OF_SMALL)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    sums = (f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in files.items())
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")


def check_device(device: Device, folder: Path) -> None:
    """Raise AssertionError, saying what, where a device breaks its contract.

    Args:
        device: one that is at hand.
        folder: an empty one, to work in.
    """
    described, environment = device.describe(), device.environment()
    assert described.name, "describe: expected a name"
    assert described.cores >= 1, f"describe: expected at least one core, got {described.cores}"
    assert environment.get("system"), "environment: expected the key 'system'"
    kit = folder / "kit"
    small_kit(kit)
    steps: list[tuple[str, int, int]] = []
    failure = device.run_kit(kit, lambda *step: steps.append(step))
    assert failure is None, f"run_kit: expected a kit that runs, got {failure}"
    logs = {log: kit / LOGS / f"{log}.log" for log in LOGS_OF_SMALL}
    missing = [log for log, path in logs.items() if not path.is_file()]
    assert not missing, f"run_kit: expected a log of every model in the kit's folder, got none of {missing}"
    assert steps, "run_kit: expected progress"
    assert steps[-1] == ("kit", 3, 3), f"run_kit: expected progress to end with ('kit', 3, 3), got {steps[-1]}"
    before = {log: path.read_bytes() for log, path in logs.items()}
    steps.clear()
    assert device.run_kit(kit, lambda *step: steps.append(step)) is None, "run_kit: expected a second call to succeed"
    assert steps == [("kit", 3, 3)], f"run_kit: expected a second call to run nothing again, got progress {steps}"
    after = {log: path.read_bytes() for log, path in logs.items()}
    assert before == after, "run_kit: expected a second call to leave finished logs as they are"
