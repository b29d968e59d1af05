# Everything here works on a fresh machine with Python 3.10 to 3.12 and make; nothing else needs to be installed.
SUPPORTED := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
# A name on the path is not yet a Python that runs (pyenv leaves such names), so each is tried.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
  $$p -c '$(SUPPORTED)' 2>/dev/null && echo $$p && exit; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
UV := 0.13.9
READY := $(VENV)/ready
WORKERS := 2
TESTS := tests/unit
# A machine that stalls for a second breaks a bound on seconds once; what is broken fails twice. Reruns are reported.
PARALLEL := -n $(WORKERS) --dist worksteal --reruns 1
export VERL_PLATFORM := cpu

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-policy lint unit coverage test bench gpu-check study docs clean requirements

help:  ## say what each verb does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: $(READY)  ## create .venv with the CPU build of everything

$(READY): requirements/cpu.txt setup.cfg pyproject.toml
	@$(PYTHON) -c '$(SUPPORTED)' || \
	  { echo "Python 3.10, 3.11 or 3.12 is needed; '$(PYTHON)' is none. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@date +%s > .install-start
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check uv==$(UV)
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --compile-bytecode -r requirements/cpu.txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@echo $$(( `date +%s` - `cat .install-start` )) > $(READY); rm .install-start
	@echo "installed in `cat $(READY)` s"

demo: setup  ## run everything on a toy world: cold start, StableReinforce, evaluation, report (JUDGE=pool, MODEL=qwen3-vl)
	$(BIN)/r1reward demo --install-seconds `cat $(READY)` $(if $(MODEL),--model $(MODEL)) $(if $(JUDGE),--judge $(JUDGE)) $(DEMO)

demo-policy: setup  ## train reward models of an easier demo, then a tiny policy with them as its only rewards, and report
	$(BIN)/r1reward demo --level single --out outputs/demo-single
	$(BIN)/r1reward demo-policy --demo outputs/demo-single $(DEMO)

lint: setup  ## check style, types and which module imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell docs *.md

unit: setup  ## run the unit tests, in WORKERS=2 processes (one file: make unit TESTS=tests/unit/test_cli.py)
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

coverage: setup  ## run the unit tests and print the lines that no test runs (slower)
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term-missing:skip-covered $(TESTS)

test: lint unit  ## run lint and all tests, the end-to-end ones included
	$(BIN)/python -m pytest tests --ignore tests/unit

bench: setup  ## measure beside the peer; tables to the screen, figures to benchmarks/results
	@missed=0; for file in benchmarks/bench_*.py; do echo "$$file"; $(BIN)/python $$file || missed=1; done; exit $$missed

# With the Python at hand: it may be one that has nothing but torch yet, or that of a container with verl and vLLM.
gpu-check:  ## measure on a GPU what only a GPU can show, with PYTHON's packages; figures to benchmarks/results (GPU_CHECK="--only loss")
	PYTHONPATH=src$(if $(PYTHONPATH),:$(PYTHONPATH)) $(PYTHON) benchmarks/gpu_check.py $(GPU_CHECK)

study: setup  ## train small policies with each loss and filter, and compare (50 minutes on two cores; QUICK=1: whether it runs)
	$(BIN)/python benchmarks/stability/study.py $(if $(QUICK),--quick)

docs: setup  ## build the documentation site; open site/index.html
	$(BIN)/python tools/build_site.py

clean:  ## remove what make and the demo wrote
	rm -rf $(VENV) .install-start outputs build dist site .import_linter_cache .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info

requirements: setup  ## pin the versions anew (for maintainers)
	$(BIN)/uv pip compile -q --universal --python-version 3.10 --no-annotate --no-header --no-emit-index-url \
	  --override requirements/override.txt --extra cpu --extra dev --extra docs setup.cfg -o requirements/cpu.txt
