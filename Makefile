# Two commands matter: `make demo` and `make test`. Each makes what it needs.
#
#   PYTHON=python3.13   the interpreter behind the virtual environment
#   VENV=.venv-3.13     where that environment lies
#   JAX='jax==0.10.2'   the jax in it; the newest where nothing is said
#   TESTS=tests/ops     the tests; all where nothing is said
#   PYTEST_ARGS='-k x'  more arguments for pytest
#
# and for the CUDA kernels
#
#   CUDA_ARCHITECTURES='75-real;90-real'  else all, or where a GPU is needed, its own
#   NVCC=package        the package index's nvcc even where the machine has one
#   PYTHON=python3 NO_VENV=1  nothing is downloaded: that interpreter with the
#                       packages it has; what we build lies in build/no_venv

PYTHON ?= python3
VENV ?= .venv
TESTS ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=
JAX ?=
CUDA_ARCHITECTURES ?=
NVCC ?=
NO_VENV ?=

LINT := mypy==2.4.1 pre-commit==4.7.0

ifeq ($(NO_VENV),)
make_venv = $(PYTHON) -m venv $(VENV)
packages = --editable '.[examples,detector,test]' $(if $(JAX),'$(JAX)')
else
# A layer over PYTHON, which may be that of a virtual environment, so that
# --system-site-packages would show the wrong ones. It holds our build alone.
override VENV := build/no_venv
make_venv = $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -c 'import site; \
  print("import site;", *(f"site.addsitedir({folder!r});" for folder in site.getsitepackages()))' \
  > $$(echo $(VENV)/lib/python3*/site-packages)/beneath.pth
packages = --no-index --no-deps --no-build-isolation --editable .
endif

python := $(VENV)/bin/python
# Two, each with the tests that share compiled programs (tests/conftest.py).
workers := -n 2 --dist loadgroup --no-loadscope-reorder
pip := $(python) -m pip install --quiet --disable-pip-version-check
sources := pyproject.toml CMakeLists.txt $(shell find csrc tools -name '*.pyc' -o -type f -print)

.PHONY: help demo test lint nightly coverage soak asan tsan fuzz bench cuda \
  cuda-usage test-cuda bench-cuda wheels clean check-python check-compiler FORCE

help:
	@echo "make demo     build, pool RoIs on a photograph (quickstart.png), then train"
	@echo "              a detector in minutes (detector.png)"
	@echo "make test     build, then run the tests (TESTS='tests/ops')"
	@echo "make lint     ruff, clang-format, mypy, as pre-commit runs them"
	@echo "make nightly  the tests that take too long for every change"
	@echo "make coverage  every line of the op's Python is reached by a test"
	@echo "make soak     ten minutes of mixed calls; memory flat, results right"
	@echo "make asan, make tsan  kernels and handlers under sanitizers, without jaxlib"
	@echo "make fuzz     clang's fuzzer on the CPU's kernels, until it is stopped"
	@echo "make bench    time an op beside its peers (BENCH_ARGS='--op roi_align')"
	@echo "make cuda     build with CUDA kernels; the others then keep them"
	@echo "make cuda-usage  registers, spills and stack of the CUDA kernels"
	@echo "make test-cuda, make bench-cuda  on a GPU"
	@echo "make wheels   wheels with and without CUDA kernels, checked, in dist"
	@echo "make clean    remove what the others made"

demo: $(VENV)/built
	$(python) -m jax_roipool
	MPLBACKEND=agg $(python) examples/quickstart.py --output quickstart.png
	MPLBACKEND=agg $(python) -m examples.faster_rcnn demo --picture detector.png

test: $(VENV)/built
	JAX_PLATFORMS=cpu $(python) -m pytest $(workers) $(PYTEST_ARGS) $(TESTS)

lint: $(VENV)/built $(VENV)/lint
	PATH="$(abspath $(VENV))/bin:$$PATH" pre-commit run --all-files --show-diff-on-failure

nightly: $(if $(filter Linux,$(shell uname)),cuda-usage,$(VENV)/built)
	JAX_PLATFORMS=cpu $(python) -m pytest $(workers) -m nightly $(PYTEST_ARGS) $(TESTS)
	$(MAKE) coverage soak

# On one instruction set: the Python is the same for all.
covering := tests/ops tests/boxes tests/package tests/cuda/test_lowering.py
uncovering := test_case _channels quickstart processes soak
coverage: $(VENV)/built $(VENV)/coverage
	rm -rf build/coverage
	JAX_PLATFORMS=cpu $(python) -m coverage run -m pytest $(workers) $(PYTEST_ARGS) \
	  --one-isa $(covering) -k 'not ($(subst $() , or ,$(uncovering)))'
	$(python) -m coverage combine --quiet
	$(python) -m coverage report

soak: $(VENV)/built
	JAX_PLATFORMS=cpu $(python) -m tests.soak $(SOAK_ARGS)

# Of jaxlib they need the headers alone.
asan tsan fuzz: $(VENV)/built
	CXX='$(CXX)' $(python) tests/native/run.py $@

bench: $(VENV)/built $(VENV)/bench
	CXX='$(CXX)' $(python) benchmarks/roi_pool_cpu.py $(BENCH_ARGS)

# What was asked for is noted, for every later build in this environment.
cuda: $(VENV)/wanted
	@echo '$(CUDA_ARCHITECTURES)' | cmp -s - $(VENV)/cuda || echo '$(CUDA_ARCHITECTURES)' > $(VENV)/cuda
	@$(MAKE) --no-print-directory $(VENV)/built
	@$(python) -c 'import jax_roipool._cuda as m; print("_cuda built for", m.ARCHITECTURES)'

# What it finds on all architectures is kept, for CI to know which sources it saw.
cuda-usage: cuda
	$(python) tools/cuda_usage.py report > build/cuda_usage.txt; status=$$?; \
	  cat build/cuda_usage.txt; exit $$status
	$(if $(CUDA_ARCHITECTURES),,$(python) tests/cuda/usage.py keep < build/cuda_usage.txt)

test-cuda bench-cuda: CUDA_ARCHITECTURES := $(or $(CUDA_ARCHITECTURES),native)

test-cuda: cuda
	JAX_PLATFORMS=cuda,cpu $(python) -m pytest $(PYTEST_ARGS) tests

bench-cuda: cuda
	$(python) benchmarks/roi_pool_cuda.py $(BENCH_ARGS)

wheels:
	tools/make_wheels $(call cuda_options,'$(CUDA_ARCHITECTURES)')

clean:
	rm -rf $(VENV) build dist quickstart.png detector.png

# --- What the commands stand on ----------------------------------------------

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "jax_roipool needs Python 3.11 or newer; say PYTHON=... to choose one." >&2; exit 1; }
	@$(PYTHON) -c 'import $(if $(NO_VENV),pip,ensurepip), venv' 2>/dev/null \
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
	  rm -rf $(VENV) && $(make_venv) && echo "$$wanted" > $@; \
	fi

# Editable: changes of Python files take effect at once, changes of the sources
# named here at the next `make`.
$(VENV)/built: $(sources) $(VENV)/wanted $(wildcard $(VENV)/cuda) | check-compiler
	CXX='$(CXX)' $(pip) $(packages) $(if $(wildcard $(VENV)/cuda),\
	  -C cmake.define.JAX_ROIPOOL_CUDA=ON $(call cuda_options,"$$(cat $(VENV)/cuda)"))
	@touch $@

cuda_options = -C cmake.define.JAX_ROIPOOL_CUDA_ARCHITECTURES=$(1) \
  $(if $(NVCC),-C cmake.define.JAX_ROIPOOL_NVCC=$(NVCC))

$(VENV)/bench: pyproject.toml $(VENV)/wanted
	$(pip) $$($(PYTHON) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['bench'])")
	@touch $@

$(VENV)/coverage: Makefile $(VENV)/wanted
	$(pip) coverage==7.17.3
	@touch $@

$(VENV)/lint: Makefile $(VENV)/wanted
	$(pip) $(LINT)
	@touch $@
