PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete

.PHONY: run setup test test-all check docs docs-check chaos sanitize clean

run: setup
	$(BIN)/python run.py cache=uniform task=kitchen

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tools/doctor.py
	$(PYTHON) tools/doctor.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0 --constraint constraints.txt
	$(BIN)/pip install --quiet --editable '.[sim,data,dev]' --constraint constraints.txt
	touch $(STAMP)

# files of few but long tests go first, so that both cores have work to the end
LONG := $(addprefix tests/runners/test_,$(addsuffix .py,collect runs calibrate_runs shards train_runs calibration_places realtime)) \
        tests/benchmarks/test_benchmarks.py

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(LONG) tests

# the tests marked slow too: sweeps that are killed, whole queries of both policies, Slurm
test-all: test
	$(BIN)/python -m pytest -m slow tests

check: setup docs-check
	$(BIN)/codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict accel policies envs runners skipstep run.py

# the documentation as a site: site/docs/index.html
docs: setup
	$(BIN)/pip install --quiet --editable '.[docs]' --constraint constraints.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# tables of README.md and docs/ that differ from their studies (--write mends them), and long lines
docs-check: setup
	$(BIN)/python -m tools.docs_check

# hostile files, killed processes, full disks, two at once, bad clients, many episodes: docs/results/chaos.md
chaos: setup
	for campaign in files kills disk two server soak; do $(BIN)/python -m tools.chaos $$campaign --seeds 0:4 || exit 1; done

# the engine's C code under AddressSanitizer and UBSan, and on two threads under ThreadSanitizer
sanitize: setup
	$(BIN)/python -m tools.sanitize --seeds 0:200 --seconds 40

clean:
	rm -rf $(VENV) build *.egg-info
