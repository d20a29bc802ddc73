# Every target makes its own .venv with pip alone; the second time that is skipped unless pyproject.toml changed.
# Paths are relative on purpose: the checkout may stand in a folder with a space in its name.

PYTHON ?= python3
# CPU wheels of PyTorch, used when they can be reached; PyPI's wheel for Linux brings 2.5 GB of CUDA that hetcc never
# needs. `make TORCH_INDEX= demo` asks PyPI (or whatever pip is configured with) alone; so does a pip that was given a
# folder of wheels (find-links).
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Two processes: the tests compile GPU code, which has both cores of a small machine to itself anyway.
# The order of the files is that of tests/conftest.py, the long ones first.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

BIN := .venv/bin
STAMP := .venv/.hetcc-installed
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check golden bench-gpu install clean

help:  ## Show this list
	@echo 'hetcc: make TARGET'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r name text; do \
	    printf '%-14s %s\n' "$$name" "$$text"; done
	@echo 'Variables: PYTHON (3.11 or newer), TORCH_INDEX (see Makefile), PYTEST_ARGS'

demo: $(STAMP)  ## Compile a model, run it on emulated devices, compare with eager PyTorch
	@$(BIN)/hetcc demo

test: $(STAMP)  ## Run the default tests (no accelerator, no slow ones)
	@$(BIN)/python -m pytest -m 'not slow and not device' $(PYTEST_ARGS)

test-slow: $(STAMP)  ## Run the slow tests too
	@$(BIN)/python -m pytest -m 'not device' $(PYTEST_ARGS)

check: $(STAMP)  ## Lint, strict types, architecture rules, documentation, spilled registers
	@echo '[ruff]'
	@$(BIN)/python -m ruff check .
	@echo '[mypy --strict]'
	@$(BIN)/python .ci/typecheck.py
	@echo '[architecture and documentation]'
	@$(BIN)/python -m pytest -q tests/unit/test_architecture.py tests/unit/test_error_docs.py \
	    tests/unit/test_docs_links.py
	@echo '[registers of the GPU kernels]'
	@$(BIN)/python .ci/check_spills.py

golden: $(STAMP)  ## Rewrite the golden files; read the diff before you commit it
	@$(BIN)/python -m pytest tests/golden --update-golden $(PYTEST_ARGS)

bench-gpu: $(STAMP)  ## Measure the Triton kernels against PyTorch on this machine's GPU
	@$(BIN)/python benchmarks/gpu/run.py

install: $(STAMP)  ## Only make the environment

clean:  ## Remove what was built; keeps .venv
	@rm -rf build dist hetcc.egg-info demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find hetcc passes cost_model backends tests -name __pycache__ -type d -prune -exec rm -rf '{}' +
	@echo 'cleaned; remove .venv by hand to reinstall everything'

$(STAMP): pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'hetcc needs Python 3.11 or newer; "$(PYTHON)" is' "$$("$(PYTHON)" --version 2>&1)." \
	         'Name another one: make PYTHON=python3.11 ...' >&2; exit 1; }
	@test -x $(BIN)/python || { \
	    echo '[1/3] making .venv with' "$$("$(PYTHON)" --version)"; \
	    "$(PYTHON)" -m venv --prompt hetcc .venv || { \
	        rm -rf .venv; echo 'python -m venv failed; on Debian: apt-get install python3-venv' >&2; exit 1; }; }
	@echo '[2/3] setuptools, which builds hetcc'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'setuptools>=77'
	@echo '[3/3] hetcc and what it stands on: PyTorch, transformers, OR-tools, IREE, torch-mlir, Amaranth, Yosys.'
	@echo '      First time: about 0.9 GB of wheels to download and 2.6 GB on disk with the CPU wheel of PyTorch.'
	@index=''; \
	if [ -n '$(TORCH_INDEX)' ] && [ -z "$$PIP_FIND_LINKS$$($(BIN)/python -m pip config get global.find-links 2>/dev/null)" ]; then \
	    if $(BIN)/python -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=5)' \
	        '$(TORCH_INDEX)' 2>/dev/null; \
	    then index='--extra-index-url=$(TORCH_INDEX)'; \
	    else echo '      $(TORCH_INDEX) cannot be reached; PyTorch comes from where pip is configured to look.'; \
	         echo '      The wheel that PyPI has for Linux is the CUDA build: 3.4 GB to download in all.'; fi; fi; \
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation $$index -e '.[gpu,fpga,dev]'
	@touch $(STAMP)
