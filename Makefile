# Two commands: `make demo` shows the tool on sample_images/, `make test` runs the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-shared test-scale lint soak bench docs clean

# The package alone is enough for the demo; tests add their tools to the same environment.
$(VENV)/.demo: pyproject.toml
	@sh .ci/install.sh '$(PYTHON)' $(VENV) . && touch $@

$(VENV)/.test: $(VENV)/.demo
	@sh .ci/install.sh '$(PYTHON)' $(VENV) '.[dev]' && touch $@

demo: $(VENV)/.demo
	$(BIN)/embedsearch index sample_images --store demo.es --model packaged
	$(BIN)/embedsearch query sample_images/clocks/clocks_1.jpg --store demo.es -k 6 --sheet demo.png

# Four processes at most: each takes up to a gigabyte.
test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-shared: $(VENV)/.test
	$(BIN)/python -m pytest -m 'shared and not scale'

test-scale: $(VENV)/.test
	$(BIN)/python -m pytest -m scale

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

soak: $(VENV)/.test
	$(BIN)/python -m tests.soak.all

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks.run

docs: $(VENV)/.test
	$(BIN)/python -m docs.support.commands
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

clean:
	rm -rf $(VENV) site demo.es demo.png .pytest_cache .mypy_cache .ruff_cache
