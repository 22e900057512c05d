"""`report.html`: one self-contained page about a run.

- `write_report`: writes it from the run folder.
- `data`: reads the run; `budget`: what fits a latency budget.
- `figures`, `devices`, `tables`: parts of the page; `page`: puts them together with `page.css` and `page.js`.
"""

from autoprune.artifacts.report.page import write_report

__all__ = ["write_report"]
