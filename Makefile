# Two commands do everything: `make demo` and `make test`. Each sets up what it needs first.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEV    := $(VENV)/.installed-dev
PEERS  := $(VENV)-bench
ROOMS  := models producers workers console sandbox

# Some machines have it set: then each of the hundreds of processes that tests start compiles all code anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench chaos proofs format lock clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## Run the whole path on 459 real alerts against Microsoft 365 in a box
	@$(BIN)/alertpost demo $(ARGS)

test: $(DEV)  ## Run all tests, on SQLite and on PostgreSQL
	@$(BIN)/python -m pytest $(ARGS)

lint: $(DEV)  ## Check style, types and the arrows between rooms
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: $(DEV)  ## Measure, beside the bare limit and what people use today: ARGS="--quick --only storm"
	@$(MAKE) --no-print-directory $(PEERS)/.installed || echo "The peers cannot be installed; their rows will say so."
	@$(BIN)/python -m bench.run $(ARGS)

chaos: $(DEV)  ## Break everything at random and count what is lost: ARGS="--rounds 100 --seed N"
	@$(BIN)/python -m bench.chaos.run $(ARGS)

proofs: $(DEV)  ## Prove the promises at their stated size: ARGS="--only rotation --seed N"
	@$(BIN)/python -m bench.proofs.run $(ARGS)

format: $(DEV)  ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(DEV)  ## Pin the dependencies anew
	@$(PYTHON) -m pip show uv >/dev/null 2>&1 || $(BIN)/python -m pip install -q uv
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements-dev.lock
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -c requirements-dev.lock -o requirements.lock
	uv pip compile --group bench --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -c requirements-dev.lock -o requirements-bench.lock

clean:  ## Remove what was installed; ./var stays
	rm -rf $(VENV) $(PEERS) build *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "alertpost needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making $(VENV) …"
	@$(PYTHON) -m venv $(VENV)

$(STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing the pinned dependencies (hashes checked) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements-dev.lock $(STAMP)
	@echo "Installing the pinned development dependencies (hashes checked) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@touch $@

$(PEERS)/.installed: requirements-bench.lock
	@echo "Installing the peers of the benchmark into $(PEERS) (hashes checked) …"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements-bench.lock
	@touch $@
