# Two commands matter: `make demo` and `make test`. Each makes what it needs.
#
#   PYTHON=python3.13   the interpreter behind the virtual environment
#   VENV=.venv-3.13     where that environment lies
#   JAX='jax==0.10.2'   the jax in it; the newest where nothing is said
#   PYTEST_ARGS='-k x'  more arguments for pytest

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
BENCH_ARGS ?=
JAX ?=

LINT := mypy==2.4.1 pre-commit==4.7.0

python := $(VENV)/bin/python
pip := $(python) -m pip install --quiet --disable-pip-version-check
sources := pyproject.toml CMakeLists.txt $(shell find csrc -type f)

.PHONY: help demo test lint nightly bench clean check-python check-compiler FORCE

help:
	@echo "make demo     build, then pool RoIs on a photograph: quickstart.png"
	@echo "make test     build, then run the tests"
	@echo "make lint     ruff, clang-format, mypy, as pre-commit runs them"
	@echo "make nightly  the tests that take too long for every change"
	@echo "make bench    time the op beside its peers (BENCH_ARGS='--workload tiny')"
	@echo "make clean    remove what the others made"

demo: $(VENV)/built
	$(python) -m jax_roipool
	MPLBACKEND=agg $(python) examples/quickstart.py --output quickstart.png

test: $(VENV)/built
	JAX_PLATFORMS=cpu $(python) -m pytest -n 2 $(PYTEST_ARGS)

lint: $(VENV)/built $(VENV)/lint
	PATH="$(abspath $(VENV))/bin:$$PATH" pre-commit run --all-files --show-diff-on-failure

nightly: $(VENV)/built
	JAX_PLATFORMS=cpu $(python) -m pytest -n 2 -m nightly $(PYTEST_ARGS)

bench: $(VENV)/built $(VENV)/bench
	CXX='$(CXX)' $(python) benchmarks/roi_pool_cpu.py $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build dist quickstart.png

# --- What the commands stand on ----------------------------------------------

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "jax_roipool needs Python 3.11 or newer; say PYTHON=... to choose one." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) has no venv module; install it (Debian, Ubuntu: apt install python3-venv)." >&2; exit 1; }

check-compiler:
	@echo '#include <optional>' | $(CXX) -std=c++17 -x c++ -fsyntax-only - 2>/dev/null \
	  || { echo "jax_roipool needs a C++17 compiler and found none as '$(CXX)'; install one (Debian, Ubuntu: apt install g++) or say CXX=..." >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
	  || { echo "$(PYTHON) has no C headers (Python.h); install them (Debian, Ubuntu: apt install python3-dev)." >&2; exit 1; }

# Which interpreter and jax the environment was made for: another PYTHON or JAX
# makes it anew.
$(VENV)/wanted: FORCE | check-python
	@wanted='$(JAX)'" on $$($(PYTHON) -V)"; \
	if [ "$$(cat $@ 2>/dev/null)" != "$$wanted" ]; then \
	  if [ -d $(VENV) ] && [ ! -e $@ ]; then \
	    echo "$(VENV) was not made by make; say VENV=... for another place." >&2; exit 1; \
	  fi; \
	  rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) && echo "$$wanted" > $@; \
	fi

# Editable: changes of Python files take effect at once, changes of the sources
# named here at the next `make`.
$(VENV)/built: $(sources) $(VENV)/wanted | check-compiler
	CXX='$(CXX)' $(pip) --editable '.[examples,test]' $(if $(JAX),'$(JAX)')
	@touch $@

$(VENV)/bench: pyproject.toml $(VENV)/wanted
	$(pip) $$($(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['bench'])")
	@touch $@

$(VENV)/lint: Makefile $(VENV)/wanted
	$(pip) $(LINT)
	@touch $@
