"""The stages of a search, from a model and a task to a run folder with a front.

- `problem`: everything checked and bound before work starts: model, data, profiles, space, objectives.
- `explore`: damage curves, seeds, the multi-objective search.
- `candidates`: which of what was searched is trained, and which of that stays: fronts of each device and the joint one.
- `training`: fine-tuning at growing fidelity.
- `finish`: measurement, the front, the test split, what is published.
"""
