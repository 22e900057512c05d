"""What the documents show is what the code takes: configs parse, code compiles, names and links exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import autoprune
from autoprune.config import load_config

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="documents are in the checkout")


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)


def test_the_config_of_the_readme(tmp_path: Path) -> None:
    (example,) = blocks("README.md", "yaml")
    path = tmp_path / "config.yaml"
    path.write_text(example, encoding="utf-8")
    config = load_config(path)
    assert config.profiles == ("cpu-x86-onnxruntime-1t",)
    assert (ROOT / "hardware_profiles" / config.profiles[0] / "profile.json").is_file()


def test_the_config_of_the_examples() -> None:
    assert load_config(ROOT / "examples" / "config.yaml").model == "mnist:model"


def test_the_code_of_the_readme() -> None:
    code = "\n".join(blocks("README.md", "python"))
    compile(code, "README.md", "exec")
    for name in re.findall(r"\bap\.(\w+)", code):
        assert name in autoprune.__all__


def test_the_commands_of_the_readme() -> None:
    shown = re.findall(r"^autoprune ((?:profile )?[a-z]+)", "\n".join(blocks("README.md", "sh")), flags=re.MULTILINE)
    assert len(set(shown)) >= 6
    done = subprocess.run(
        [sys.executable, "-m", "autoprune", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for command in shown:
        assert command.split()[0] in done.stdout


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target


def test_hooks_and_extras_name_the_same_tools() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for tool in ("ruff", "mypy"):
        assert f"python -m {tool}" in hooks
        assert re.search(rf'"{tool}==[0-9.]+"', extras)
