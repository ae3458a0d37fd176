# Everything runs in .venv, which the first target that needs it makes. With PIP_EXTRA_INDEX_URL set to PyTorch's index
# of CPU builds that takes hundreds of megabytes, else on Linux gigabytes of CUDA libraries.
PYTHON ?= python3
BIN := .venv/bin
DEMO := tessera/nano/demo
# The client suite: an environment for each set of pins.
CLIENTS := build/clients
CLIENT_ENVIRONMENTS := openai anthropic langchain-openai langchain-mistralai litellm llama-index node

.PHONY: demo kernels test test-slow test-fuzz test-clients soak lint docs docs-serve bench bench-serve gpu-check clean

demo: .venv/installed
	$(BIN)/tessera ask "What is the value of Rome?" -i $(DEMO)/chart.png
	$(BIN)/tessera ask "Which bar is highest?" -i $(DEMO)/chart.png --quiet
	$(BIN)/tessera ask "What is the total?" -i $(DEMO)/receipt.png --quiet
	$(BIN)/tessera ask "Give vendor, date and total as JSON." -i $(DEMO)/receipt.png --quiet

# The C++ kernels anew when their sources changed; without a compiler the rest works all the same, slower.
kernels: .venv/installed
	-$(BIN)/python -m tessera.kernels.build

# Bytecode is written also where the environment says not to: each process would compile some hundred files again.
test: .venv/installed-dev kernels
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile

test-slow: .venv/installed-dev kernels
	$(BIN)/python -m pytest -m slow --timeout 3600

# Our own OpenAPI description and random conversations against the server, with many examples.
test-fuzz: .venv/installed-dev
	TESSERA_FUZZ_EXAMPLES=400 $(BIN)/python -m pytest tests/server/test_fuzz.py --timeout 3600

# Ten thousand mixed requests, some bad and some left early; prints what is held and what memory does.
soak: .venv/installed-dev
	$(BIN)/python -m pytest tests/server/test_soak.py -m slow -s --timeout 7200

# Real clients against a real server; needs Node.js 20 or later. Writes its table to where the documentation has it.
test-clients: .venv/installed $(CLIENT_ENVIRONMENTS:%=$(CLIENTS)/%/installed)
	$(BIN)/python -m tests.clients.run --table docs/clients.md

$(CLIENTS)/%/installed: tests/clients/requirements-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet -r $<
	touch $@

$(CLIENTS)/node/installed: tests/clients/package.json tests/clients/package-lock.json
	mkdir -p $(@D)
	cp $^ $(@D)
	cd $(@D) && npm ci --ignore-scripts --no-audit --no-fund --loglevel error
	touch $@

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples/*.py

# The searchable site, in build/site; a broken link fails.
docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: .venv/installed-dev kernels
	$(BIN)/tessera bench --peer transformers

# The server under load, beside the bare engine in the same run; on a machine that does nothing else.
bench-serve: .venv/installed-dev
	$(BIN)/python -m benchmarks.serve

# Correctness, then a table, on a machine with a CUDA device and its own PyTorch.
gpu-check:
	$(PYTHON) -m benchmarks.gpu.check

.venv/installed: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
