"""The page of exceptions, written from a coverage run.

    python benchmarks/coverage_docs.py runs/coverage.json docs/coverage.md

Every model whose main widths are not prunable, or less than nine tenths of whose parameters are in prunable dimensions,
or that fails a stage, with the reason that the run recorded.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from anywhere, installed or not

from autoprune.core.errors import AutopruneError
from autoprune.core.files import read_json, write_text
from benchmarks.coverage_summary import SCHEMA, handled, ratio

Row = Mapping[str, Any]


def page(document: Mapping[str, Any]) -> str:
    """The page as Markdown, for the document that `benchmarks/coverage.py` wrote."""
    rows = sorted(document["rows"].values(), key=lambda row: str(row["name"]))
    environment = document["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(environment["versions"].items()) if version)
    parts = [
        "# Coverage: what is pruned, and the exceptions\n\n"
        f"From `python benchmarks/coverage.py`: {len(rows)} models of torchvision, timm and transformers with random "
        f"weights, torch {environment['torch']}, {versions}, {environment['threads']} thread(s). "
        "`python benchmarks/coverage.py --help` says what each figure is.\n",
        _section("Figures", ["figure", "measured", "accepted"], _figures(document)),
        _section("Main widths not prunable", ["model", "share of weights", "why"], _main(rows)),
        _section(
            "Fewer than nine tenths of the parameters in prunable dimensions", ["model", "share", "why"], _shares(rows)
        ),
        _section("Stages that fail", ["model", "stage", "why"], _failures(rows)),
        _section("No native model", ["model", "why (use `member.model`)"], _native(rows)),
        _section("Torch-Pruning on the same models", ["model", "times longer", "setting, or why not"], _peer(rows)),
    ]
    return "\n".join(parts)


def _section(title: str, head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    body = [f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines]
    if not body:
        return f"## {title}\n\nNone.\n"
    return "\n".join([f"## {title}\n", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body]) + "\n"


def _cell(text: str) -> str:
    text = re.sub(r"/\S*/site-packages/", "", text)  # where packages are installed is nobody's business
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _figures(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (each["name"], "-" if each["value"] is None else f"{each['value']:.4g}", each["asked"])
        for each in document.get("summary", [])
    ]


def _reasons(obstacles: Sequence[Row], least: float = 0.02) -> str:
    told = [item for item in obstacles if item["share"] >= least] or obstacles[:1]
    return "; ".join(f"{item['share']:.0%} {item['reason']} (`{item['example']}`)" for item in told)


def _main(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return [
        (row["name"], f"{row['main_share']:.2f}", _reasons(row["main_obstacles"]))
        for row in rows
        if "main_share" in row and not row["main_widths"]
    ]


def _shares(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    return [
        (row["name"], f"{row['prunable_share']:.2f}", _reasons(row["obstacles"]))
        for row in rows
        if row.get("prunable_share", 1.0) < 0.9
    ]


def _failures(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    found = []
    for row in rows:
        found += [(row["name"], stage, message) for stage, message in row.get("errors", {}).items()]
        for policy in row.get("policies") or []:
            if not policy["equal"]:
                found.append((row["name"], f"oracle, {policy['kind']}", policy.get("error", _difference(policy))))
        training = row.get("training") or {"ok": True}
        if not training["ok"]:
            found.append((row["name"], "training", f"parameters without gradient: {training['without_gradient']}"))
        for kind in ("onnx", "pt2"):
            export = row.get(kind) or {"ok": True}
            if not export["ok"]:
                found.append((row["name"], kind, export["reason"]))
    return found


def _difference(policy: Row) -> str:
    return f"differs by {policy['difference']}"


def _native(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [(row["name"], row["native"]["reason"]) for row in rows if row.get("native") and not row["native"]["ok"]]


def _peer(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    found = []
    for row in rows:
        peer = row.get("peer")
        if peer is None:
            continue
        times = ratio(row)
        shown = "fails" if not peer["handled"] else "-" if times is None else f"{times:.0f}"
        ours = "" if handled(row) else " (not handled here)"
        found.append((row["name"] + ours, shown, peer["setting"] if peer["handled"] else peer["reason"]))
    return found


def main() -> int:
    """Run it; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the JSON that coverage.py wrote")
    parser.add_argument("page", type=Path, help="the Markdown file to write")
    options = parser.parse_args()
    try:
        write_text(options.page, page(read_json(options.run, "coverage", SCHEMA)))
    except AutopruneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
