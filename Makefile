# Two commands: `make demo` shows the tool on sample_images/, `make test` runs the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-scale lint soak bench clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("embedsearch needs Python 3.11 or newer, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/embedsearch index sample_images --store demo.es --model packaged
	$(BIN)/embedsearch query sample_images/clocks/clocks_1.jpg --store demo.es -k 6 --sheet demo.png

test: $(VENV)/.installed
	$(BIN)/python -m pytest

test-scale: $(VENV)/.installed
	$(BIN)/python -m pytest -m scale

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(VENV)/.installed
	$(BIN)/python -m tests.soak.all

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf $(VENV) demo.es demo.png .pytest_cache .mypy_cache .ruff_cache
