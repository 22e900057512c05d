"""Kits: a device profiled by somebody else, or over a wire, with nothing of autoprune on it.

- `planning`, `writing`: which models a kit holds, in which order; its folder. `manifest`: the file that says so.
- `far/`: what runs at the far end: `run.sh`, what it asks of the system, and one shell file a stock tool.
- `tools`: those tools as autoprune knows them. To add one: a file in `far/tools`, a line and a parser in `tools`.
- `contents`, `logs`, `timing`, `environment`: what came back, checked and read. `importing`: the profile of it.
- `remote`: all of it in one call, over a device such as `ssh:user@host`.
"""
