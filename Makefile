# Every target sets up what it needs in .venv, with the versions of constraints.txt: Python 3.11 or later and make are
# all that a machine must have. PYTHON=... chooses the interpreter, ARGS=... is handed to pytest.

.DEFAULT_GOAL := help

# The first of these that runs and is new enough makes .venv.
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14)

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install --constraint constraints.txt
# Pins what builds the package (hatchling) as well as what is installed.
INSTALL := $(PIP) --build-constraint constraints.txt

# Stamps: what .venv has been given. The light one is enough to run the demo.
RUNTIME := .venv/.runtime-installed
DEV := .venv/.dev-installed
DOCS := .venv/.docs-installed

# The wheel, and what is in it: ahead on the path of the installed source.
WHEEL := build/wheel

# The bench has an environment of its own, for its peers: see `bench` in pyproject.toml.
BENCH := .venv-bench/.installed
BENCH_PYTHON := .venv-bench/bin/python

# Each worker imports poise anew: without bytecode that takes it five times as long.
unexport PYTHONDONTWRITEBYTECODE

# Do not ask a registry whether there is a newer pyright: its version is pinned.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

# So many processes share the tests file by file, each with a Ray of its own: most of the time a test waits for workers to
# start. PROCESSES=1 runs one after the other.
PROCESSES := 3
PYTEST := $(BIN)/python -m pytest
SHARED := $(PYTEST) --numprocesses $(PROCESSES) --dist loadfile

# What failed is run once more by itself, in a new process, as CPython's buildbots do (`regrtest --rerun`): what passes
# then does not stop a change, and stands in the output, a race to be found.
again = { test $$? -eq 1 && echo "Once more, what failed only: what passes now has a race, which is to be found." \
	&& $(1) --last-failed --last-failed-no-failures=none; }

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

.PHONY: venv
venv: $(DEV) ## make .venv with everything that development needs

.PHONY: demo
demo: $(RUNTIME) ## run the digits service under recorded traffic, kill a worker, report
	$(BIN)/python -m examples.digits demo

.PHONY: serve
serve: $(RUNTIME) ## run the digits service until interrupted
	$(BIN)/python -m examples.digits serve

# What neither covers the core nor is run against the wheel.
OTHERS := --ignore tests/core --ignore tests/engine --ignore tests/faces

.PHONY: test
ifeq ($(strip $(ARGS)),)
test: $(DEV) test-wheel ## run the tests; ARGS='-k name' runs some of them
	$(BIN)/coverage run -m pytest tests/core tests/engine || \
		$(call again,$(BIN)/coverage run --append -m pytest tests/core tests/engine)
	$(BIN)/coverage report --include='src/poise/_core/*' --fail-under=100
	$(SHARED) $(OTHERS) || $(call again,$(PYTEST) $(OTHERS))
else # a part of the tests says nothing about coverage, and runs on the source
test: $(DEV)
	$(PYTEST) $(ARGS)
endif

.PHONY: test-wheel
test-wheel: $(WHEEL) ## build the wheel and run the tests of what users meet against it
	export PYTHONPATH=$(CURDIR)/$(WHEEL); $(SHARED) tests/faces || $(call again,$(PYTEST) tests/faces)

.PHONY: test-uvloop
test-uvloop: $(DEV) ## run the contract of the express lane on uvloop
	$(SHARED) tests/contract -k express --uvloop

.PHONY: test-cluster
test-cluster: $(DEV) ## meet the faults of a cluster: two nodes in network namespaces (8 minutes; Linux, root, iproute2)
	POISE_TEST_CLUSTER=1 $(PYTEST) tests/cluster -rs --capture=no

.PHONY: check
check: $(DEV) ## lint, formatting, layers, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright
	@# --verifytypes finds the package by way of the first `python` on the path
	PATH="$(CURDIR)/$(BIN):$$PATH" pyright --verifytypes poise --ignoreexternal

.PHONY: bench
bench: $(BENCH) ## measure everything against the targets and the peers (15 minutes); rewrites docs/benchmarks.md
	$(BENCH_PYTHON) -m bench --json docs/bench/results.json --charts docs/bench --docs docs/benchmarks.md

.PHONY: bench-quick
bench-quick: $(BENCH) ## the same in 3 minutes, with fewer repetitions; writes nothing
	$(BENCH_PYTHON) -m bench --quick

.PHONY: docs
docs: $(DOCS) ## build the pages of docs/ into site/; a warning fails
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env --builder html \
		--doctree-dir site/.doctrees docs site
	@echo "open site/index.html"

.PHONY: clean
clean: ## remove .venv and whatever else was made
	rm -rf .venv .venv-bench build dist site htmlcov .coverage .coverage.* .hypothesis
	rm -rf .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests examples bench tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@for python in $(PYTHONS); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "making .venv with $$("$$python" --version)"; \
			"$$python" -m venv --clear .venv || { rm -rf .venv; exit 1; }; \
			exit 0; \
		fi; \
	done; \
	echo "poise needs Python 3.11 or later; none of these is: $(PYTHONS). Name one with make PYTHON=..." >&2; \
	exit 1

$(RUNTIME): $(BIN)/python pyproject.toml constraints.txt
	@echo "installing poise and what the demo needs into .venv (the first time takes a minute)"
	@$(PIP) pip
	@$(INSTALL) --editable '.[demo,progress]'
	@touch $@

$(BENCH): $(BIN)/python pyproject.toml bench/constraints.txt
	@echo "installing poise and its peers into .venv-bench (the first time takes a minute)"
	@test -x $(BENCH_PYTHON) || $(BIN)/python -m venv .venv-bench
	@echo '*' > .venv-bench/.gitignore
	@$(BENCH_PYTHON) -m pip --disable-pip-version-check -qq install --constraint bench/constraints.txt pip
	@$(BENCH_PYTHON) -m pip --disable-pip-version-check -qq install --constraint bench/constraints.txt \
		--build-constraint bench/constraints.txt --editable . --group bench
	@touch $@

$(DEV): $(RUNTIME)
	@echo "installing the tools for development into .venv"
	@$(INSTALL) --editable '.[cli,demo,otel,progress,prometheus,tls,web]' --group dev
	@touch $@

# Made anew each time: whether it is up to date is the build's own business. `.venv` has all that it needs.
.PHONY: $(WHEEL)
$(WHEEL): $(DEV)
	@rm -rf $@
	@$(BIN)/python -m pip --disable-pip-version-check -qq wheel --no-deps --wheel-dir $@ \
		--build-constraint constraints.txt .
	@$(BIN)/python -m pip --disable-pip-version-check -qq install --no-deps --target $@ $@/poise-*.whl

$(DOCS): $(RUNTIME)
	@echo "installing what builds the pages into .venv"
	@$(INSTALL) --editable '.[prometheus,web]' --group docs
	@touch $@
