# `make demo` and `make test` make .venv and install into it when pyproject.toml or constraints.txt ask for it.
# Needed beforehand: Python 3.10 to 3.12 with venv and headers, a C++ compiler (it builds pydensecrf2).

PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install predict demo test check test-long fuzz lint docs docs-serve clean

help:
	@echo "make install    .venv with all packages; then: . .venv/bin/activate"
	@echo "make predict IMAGES=photo.jpg   labels photographs with the network that comes with this"
	@echo "make demo       the whole pipeline on a small synthetic set, in minutes"
	@echo "make test       lint, then the quick tests: under two minutes on two cores"
	@echo "make check      lint, all tests but the long ones, the guard of the benchmarks: what CI runs"
	@echo "make test-long  the tests that take minutes (python -m tests.kills: 100 random kills)"
	@echo "make fuzz       damaged files and wrong values against every command, 5 minutes (SEED=0)"
	@echo "make lint       ruff, import-linter, mypy"
	@echo "make docs       the documentation, as pages: site/index.html"
	@echo "make docs-serve the same at http://127.0.0.1:8000, anew after each change"
	@echo "make clean      remove .venv, site/ and caches (runs/ and data/ stay)"
	@echo "PYTHON=...      another Python than python3; CXX=... another C++ compiler than $(CXX)"

install: .venv/installed

predict: .venv/installed
	@test -n "$(IMAGES)" || { echo 'error: name photographs or folders: make predict IMAGES="photo.jpg holiday/"' >&2; exit 2; }
	$(BIN)/python -m stages.predict $(IMAGES)

demo: .venv/installed
	env -u DECONVNET_VOC_ROOT $(BIN)/python -m stages.run --recipe demo --run runs/demo

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow and not long'

check: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal
	$(BIN)/python -m experiments.bench --quick --guard --only aggregation,scoring

test-long: .venv/installed
	$(BIN)/python -m pytest -m long

fuzz: .venv/installed
	$(BIN)/python -m tests.fuzz --minutes 5 --seed $(or $(SEED),0)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

clean:
	rm -rf .venv build site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp says that everything is in: it is made last, and only when every line before it succeeded.
.venv/installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null 2>&1 || \
	{ echo "error: $(PYTHON) not found: install Python 3.10, 3.11 or 3.12, or name one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || \
	{ echo "error: $(PYTHON) is not Python 3.10, 3.11 or 3.12: name one that is: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo "error: $(PYTHON) lacks venv: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo 'int main() { return 0; }' | $(CXX) -x c++ -o /dev/null - >/dev/null 2>&1 || \
	{ echo "error: no working C++ compiler ($(CXX)): install one (Debian, Ubuntu: apt install g++)" >&2; exit 1; }
	@echo '#include <Python.h>' | $(CXX) -fsyntax-only -x c++ - \
	-I"$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')" >/dev/null 2>&1 || \
	{ echo "error: $(PYTHON) lacks its headers: install them (Debian, Ubuntu: apt install python3-dev)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "error: $(PYTHON) could not make .venv (its message is above)" >&2; exit 1; }
	@echo "installing into .venv (on Linux about 6 GB: torch comes with CUDA, unless you do as docs/index.md says); this happens once"
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]' || \
	{ echo "error: pip could not install the packages (its message is above): check network and disk, then repeat" >&2; exit 1; }
	@touch $@
