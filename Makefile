# Two commands: `make demo` runs the main job, `make test` runs every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PACKAGES := cli common data demo experiments harness_plugin judge_tasks leaderboard metrics \
  models rl task_yamls

.PHONY: venv demo test check format clean
.DEFAULT_GOAL := venv

venv: $(INSTALLED)

# The stamp is newer than what it was installed from, so a second run installs nothing.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	rm -rf build/mypy && mkdir -p build/mypy/mtrl_judge
	ln -sfn $(CURDIR)/package/* $(addprefix $(CURDIR)/,$(PACKAGES)) build/mypy/mtrl_judge/
	touch $@

demo: venv
	$(BIN)/mtrl-judge demo

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two workers of one thread: torch's threads wait for each other where several tests run.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
