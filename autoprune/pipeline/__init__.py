"""The stages of a search, from a model and a task to a run folder with a front.

- `problem`: everything checked and bound before work starts: model, data, profiles, space, objectives.
- `explore`: damage curves, seeds, the multi-objective search.
- `finish`: fine-tuning, the test split, measurement, the front, what is published.
"""
