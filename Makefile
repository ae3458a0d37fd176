# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
BIN := .venv/bin
DEMO := tessera/nano/demo

.PHONY: demo test test-slow lint bench gpu-check clean

demo: .venv/installed
	$(BIN)/tessera ask "What is the value of Q3?" -i $(DEMO)/chart.png
	$(BIN)/tessera ask "Which bar is highest?" -i $(DEMO)/chart.png --quiet
	$(BIN)/tessera ask "What is the total?" -i $(DEMO)/receipt.png --quiet
	$(BIN)/tessera ask "Give vendor, date and total as JSON." -i $(DEMO)/receipt.png --quiet

test: .venv/installed-dev
	$(BIN)/python -m pytest

test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow --timeout 3600

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-dev
	$(BIN)/python -m tessera.bench

# Correctness, then a table, on a machine with a CUDA device and its own PyTorch.
gpu-check:
	$(PYTHON) -m tessera.bench.gpu_check

.venv/installed: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
