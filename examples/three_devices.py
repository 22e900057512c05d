"""One model searched for three devices: what is worth pruning depends on the hardware.

python examples/three_devices.py [OUTPUT_FOLDER]

A phone's GPU pays for every four channels and dearly for depthwise convolutions, a server's CPU for blocks of sixteen
and for memory traffic, and a data-centre GPU on a network this small mostly for starting kernels: there, only whole
blocks that go save time. The page that is written shows which widths each search chose, and what each choice is worth
on the devices it was not searched for.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

import autoprune as ap
from autoprune import demo
from autoprune.artifacts.front import Front, Member
from autoprune.graph import DependencyGraph

DEVICES = {
    "phone GPU": "mobile-pixel4-gpu-tflite",
    "server CPU": "cpu-x86-onnxruntime-1t",
    "data-centre GPU": "gpu-a100-pytorch",
}
SPACE = {"extends": "cnn", "rules": [{"remove": True}]}  # widths, and whole residual branches
POINTS = 2.0  # of validation accuracy that a chosen member may lose


def main(folder: Path, trials: int = 200, members: int = 8) -> dict[str, Front]:
    """Search once a device, then compare; the fronts by device."""
    model, task = demo.model(), demo.task()
    graph = ap.trace(model, torch.zeros(1, 1, 28, 28))
    fronts = {}
    for device, profile in DEVICES.items():
        print(f"searching for the {device} ({profile})")
        fronts[device] = ap.search(
            model, task, profiles=[profile], space=SPACE, trials=trials, finetune={"members": members},
            run=folder / profile, measure=False,
        )  # fmt: skip
    chosen = {device: pick(front) for device, front in fronts.items()}
    speedups = np.array(
        [[speedup(graph, member, profile) for profile in DEVICES.values()] for member in chosen.values()]
    )
    print(f"\nspeed-up of the fastest member within {POINTS:g} points, searched for (row) and run on (column):")
    print(f"{'':18}" + "".join(f"{device:>18}" for device in DEVICES))
    for device, row in zip(DEVICES, speedups, strict=True):
        print(f"{device:18}" + "".join(f"{value:17.2f}x" for value in row))
    page = folder / "three_devices.html"
    picture(graph, fronts, chosen, speedups).write_html(page, include_plotlyjs=True)
    print(f"\n{page}")
    return fronts


def pick(front: Front) -> Member:
    """The fastest member whose validation accuracy is within `POINTS` of the dense model's."""
    assert front.dense is not None
    least = number(front.dense, "accuracy") - POINTS / 100
    good = [member for member in front.members if number(member, "accuracy") >= least]
    return min(good or front.members, key=lambda member: number(member, "latency_p50_us"))


def number(member: Member, column: str) -> float:
    """A member's metric."""
    return float(member.metrics[column] or 0.0)


def speedup(graph: DependencyGraph, member: Member, profile: str) -> float:
    """Of a member over the dense model on some device, as its profile predicts."""
    dense, small = ap.predict_cost(graph, {}, profile), ap.predict_cost(graph, member.policy, profile)
    return dense.latency_us["p50"] / small.latency_us["p50"]


def picture(
    graph: DependencyGraph, fronts: dict[str, Front], chosen: dict[str, Member], speedups: np.ndarray
) -> go.Figure:
    """Fronts, chosen widths, and what each choice is worth elsewhere."""
    titles = ("Fronts", "Share of units kept by the chosen member", "Speed-up on ...")
    figure = make_subplots(1, 3, subplot_titles=titles, column_widths=[0.3, 0.44, 0.26], horizontal_spacing=0.1)
    for device, front in fronts.items():
        rows = front.to_frame().sort_values("latency_p50_us")
        faster = rows.loc[rows["member"] == "dense", "latency_p50_us"].iloc[0] / rows["latency_p50_us"]
        figure.add_scatter(x=faster, y=100 * rows["accuracy"], name=f"searched for {device}", mode="lines+markers")
    figure.update_xaxes(title="predicted speed-up on that device", row=1, col=1)
    figure.update_yaxes(title="validation accuracy in %", row=1, col=1)
    dense = graph.widths({})
    widths = [[member_width / dense[group] for group, member_width in graph.widths(member.policy).items()]
              for member in chosen.values()]  # fmt: skip
    figure.add_heatmap(z=widths, x=list(dense), y=list(chosen), zmin=0, zmax=1, colorscale="Blues", xgap=2, ygap=2,
                       showscale=False, texttemplate="%{z:.2f}", row=1, col=2)  # fmt: skip
    figure.add_heatmap(z=speedups, x=list(DEVICES), y=list(chosen), colorscale="Greens", xgap=2, ygap=2,
                       showscale=False, texttemplate="%{z:.2f}x", row=1, col=3)  # fmt: skip
    figure.update_yaxes(title="searched for", row=1, col=2)
    for column in (2, 3):
        figure.update_yaxes(autorange="reversed", row=1, col=column)
    figure.update_layout(template="plotly_white", width=1500, height=480, legend={"orientation": "h", "y": -0.35})
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/three-devices"))
