# Everything that people and CI run. Each target sets up its own environment in .venv from a bare Python 3.10+.
#
#   make demo       compress a small real model three ways and compare them
#   make test       lint, then every test that is not slow
#   make test-all   lint, then every test
#   make sanitize   the kernels' tests under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer
#   make fuzz       fuzz every decoder, and attention, for FUZZ_SECONDS each; needs clang
#   make bench      measure what benchmarks/README.md says
#   make lint       formatting, style and types of Python and C++
#   make clean      remove the environment and everything that was built

PYTHON ?= python3
VENV ?= .venv
# Installed first where no PyTorch is there yet; any version that pyproject.toml allows will do.
TORCH ?= torch==2.13.0
PYTEST_FLAGS ?= -n 2
FUZZ_SECONDS ?= 600

# Bytecode is made of what is imported, once, and not of thousands of modules that nobody imports.
export PIP_COMPILE := 0
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
READY := $(VENV)/.ready
NATIVE := $(wildcard kernels/cpu/*.cpp kernels/cpu/*.hpp)
CUDA := $(wildcard kernels/cuda/*.cu kernels/cuda/*.cuh tests/cuda/*.cu tests/cuda/emulator/*.cpp tests/cuda/emulator/*.hpp)

.PHONY: demo test test-all sanitize fuzz bench lint clean

demo: $(READY)
	@echo "== demo: a small real model, compressed three ways"
	$(BIN)/python benchmarks/demo.py

test: lint
	@echo "== test: everything that is not slow"
	$(BIN)/pytest -m "not slow" $(PYTEST_FLAGS)

test-all: lint
	@echo "== test-all: every test"
	$(BIN)/pytest $(PYTEST_FLAGS)

sanitize: $(READY)
	@echo "== sanitize: the kernels' tests, with sanitizers watching"
	$(BIN)/pytest tests/sanitizers $(PYTEST_FLAGS)

fuzz: $(READY)
	@echo "== fuzz: every decoder, and attention, for $(FUZZ_SECONDS) seconds, findings in out/fuzz"
	@command -v clang++ >/dev/null || { echo "make fuzz needs clang: apt-get install clang libclang-rt-14-dev"; exit 1; }
	$(BIN)/python -m pip install --quiet "atheris>=3.0"
	$(BIN)/python tests/fuzz/fuzz.py $(FUZZ_SECONDS)

bench: $(READY)
	@echo "== bench: kernels, attention, lossless coders, sz, trellis, zfp, then peak memory of conversions"
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/lossless.py
	$(BIN)/python benchmarks/sz.py
	$(BIN)/python benchmarks/trellis.py
	$(BIN)/python benchmarks/trellis_search.py
	$(BIN)/python benchmarks/zfp.py
	$(BIN)/python benchmarks/memory.py

lint: $(READY)
	@echo "== lint: ruff, mypy, clang-format"
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers 2
	$(BIN)/clang-format --dry-run -Werror $(NATIVE) $(CUDA)

clean:
	rm -rf $(VENV) build dist

$(VENV)/.torch:
	@echo "== environment: $(VENV), with PyTorch"
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "tilepress needs Python 3.10 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet "$(TORCH)"
	@touch $@

$(READY): $(VENV)/.torch pyproject.toml CMakeLists.txt $(NATIVE)
	@echo "== environment: what the native extension is built with, then tilepress, editable"
	$(BIN)/python -m pip install --quiet "scikit-build-core>=0.11" "nanobind>=2.4" "cmake>=3.20" "ninja>=1.11"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[test]" \
		--config-settings=cmake.define.TILEPRESS_INSTRUCTION_SETS=native
	@touch $@
