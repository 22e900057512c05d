"""What the journal keeps, refuses and cuts off."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.core.errors import InputError
from autoprune.hardware.profiling.journal import SCHEMA, Journal

SESSION = {"settings": {"threads": 1, "runtime": "onnxruntime"}, "quantum": 8}


def begun(path: Path, *numbers: int) -> Path:
    with Journal(path) as journal:
        journal.begin(SESSION)
        for number in numbers:
            journal.append("kernels", number=number, seconds=float(number))
    return path


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    path = begun(tmp_path / "deep" / "journal.jsonl", 1, 2)
    with Journal(path) as journal:
        assert journal.session == {"schema": SCHEMA, **SESSION}
        assert [record["number"] for record in journal.of_kind("kernels")] == [1, 2]
        assert journal.of_kind("models") == []
        assert journal.seconds == 2.0
        journal.begin(SESSION)
        journal.append("models")
    assert len(path.read_text().splitlines()) == 4


def test_every_record_is_on_the_disk_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.begin(SESSION)
        for number in range(3):
            journal.append("kernels", number=number)
            assert json.loads(path.read_text().splitlines()[-1])["number"] == number


@pytest.mark.parametrize("torn", ['{"kind": "ker', '{"kind": "kernels"}', "[1]", "{"])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: str) -> None:
    path = begun(tmp_path / "journal.jsonl", 1)
    whole = path.read_text()
    path.write_text(whole + torn)
    with Journal(path) as journal:
        assert len(journal.records) == 1
        journal.begin(SESSION)
        journal.append("kernels", number=2)
    assert path.read_text().startswith(whole)
    with Journal(path) as journal:
        assert [record["number"] for record in journal.records] == [1, 2]


@pytest.mark.parametrize("torn", ["", '{"schema": "autopr'])
def test_a_first_line_that_was_never_finished_is_begun_anew(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(torn)
    with Journal(path) as journal:
        assert journal.session is None
        journal.begin(SESSION)
    with Journal(path) as journal:
        assert journal.session == {"schema": SCHEMA, **SESSION}


def test_a_line_before_the_last_that_does_not_parse(tmp_path: Path) -> None:
    path = begun(tmp_path / "journal.jsonl", 1, 2)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "oops", lines[2]]) + "\n")
    with pytest.raises(InputError, match=r"line 2: expected a JSON object, got 'oops[^\"]*Remove the file"):
        Journal(path)


def test_another_measurement_is_refused_with_the_difference(tmp_path: Path) -> None:
    path = begun(tmp_path / "journal.jsonl", 1)
    other = {"settings": {"threads": 2, "runtime": "onnxruntime"}, "quantum": 8, "precision": "int8"}
    before = path.read_bytes()
    with Journal(path) as journal, pytest.raises(InputError) as caught:
        journal.begin(other)
    assert "precision None, now int8; settings.threads 1, now 2." in str(caught.value)
    assert "remove the file to begin anew" in str(caught.value)
    assert path.read_bytes() == before


def test_another_schema(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"schema": "autoprune.profiling/9"}\n')
    with pytest.raises(InputError, match=r"expected schema 'autoprune.profiling/1', got 'autoprune.profiling/9'"):
        Journal(path)


def test_two_processes_do_not_write_the_same_journal(tmp_path: Path) -> None:
    path = begun(tmp_path / "journal.jsonl")
    script = (
        "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, 2); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process is measuring into it"):
            Journal(path)
        holder.communicate("")
    Journal(path).__exit__()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*Choose a folder you may write to"):
        Journal(tmp_path / "file" / "journal.jsonl")


def test_a_measurement_that_was_never_begun_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Journal(tmp_path / "journal.jsonl"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_without_a_file_nothing_is_kept() -> None:
    with Journal(None) as journal:
        journal.begin(SESSION)
        journal.append("kernels", number=1)
        assert len(journal.of_kind("kernels")) == 1
