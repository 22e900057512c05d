"""What comes out of a search: run folders, members as models, fronts, exports and reports.

- `front`: `Front`, `Member`, `load_front`: what users hold; `choice`: how `select` decides; `device`: one of several.
- `ranking`: how well the cheap stages of a search rank what the dear ones decide.
- `bundle`: `write_run`, `make_recipe`, `write_member`, `write_front`, `write_trials`; `loading`: `load_module`;
  `rebuilding`: `rebuild`.
- `layout`: names of files; `records`: what the JSON files say; `table`: CSV; `weights`, `program_file`: the rest.
- `exporters`: formats and parity; `report`: `write_report`.

Import from these modules: this page imports nothing, so that listing a front does not wait for torch.
"""
