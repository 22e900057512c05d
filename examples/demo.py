"""The whole road through the Python API: what `autoprune demo` does, step by step.

python examples/demo.py [RUN_FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import autoprune as ap
from autoprune import demo


def main(
    run: Path,
    trials: int = demo.TRIALS,
    members: int = 6,
    profile_seconds: float = demo.PROFILE_SECONDS,
) -> ap.Front:
    """Train, trace, profile, search, select, export."""
    # A trained model and the data to judge it by. Bring your own here.
    model = demo.model()
    task = demo.task()
    image = torch.zeros(1, 1, 28, 28)

    # What can be pruned, and what cannot and why.
    graph = ap.trace(model, image)
    print(graph.summary())

    # Measure this machine: the model's kernels at the widths that the search may choose.
    profile = ap.profile_device(
        runtime="onnxruntime",
        model=model,
        example_inputs=image,
        space="cnn",
        threads=1,
        budget_s=profile_seconds,
    )
    profile.save(run / "profile")

    # Search, fine-tune the best, measure them. The same call again would resume.
    front = ap.search(
        model,
        task,
        profiles=[profile],
        space="cnn",
        objectives=["error", "latency_p50"],
        trials=trials,
        finetune={"members": members, "epochs": 4, "optimizer": "sgd", "lr": 0.05},
        seed=0,
        run=run / "search",
    )
    print(front.to_frame().to_string())

    # The best trade, as a model and as a file to deploy.
    member = front.select(prefer="knee")
    files = member.export(run / "deploy", formats=["onnx"])
    print(f"{member.name}: {member.predict(image).shape} -> {files['onnx']}")
    return front


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example"))
