# Every target sets up what it needs in .venv first; only Python 3.11 or later and make are assumed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup demo test chaos gpu check clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "msbd_dist needs Python 3.11 or later; say make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# four edits of pictures that are drawn on the spot; ends with the contact sheet's path
demo: $(READY)
	$(BIN)/python -m msbd_dist.tiny.demo jobs/demo-inputs
	$(BIN)/msbd run jobs/demo.yaml --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest

# processes killed and frozen, hosts cut off, disks full: the long tests, then FAULTS faults (SEED=N replays)
FAULTS ?= 50
chaos: $(READY)
	$(BIN)/python -m pytest -m long tests
	$(BIN)/python tests/chaos/campaign.py --faults $(FAULTS) $(if $(SEED),--seed $(SEED))

# needs a CUDA device: what differs there from its stand-in, then everything that one command can say of a card
gpu: $(READY)
	$(BIN)/python -m pytest -m gpu tests
	$(BIN)/python -m benchmarks.gpu

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf .venv runs jobs/demo-inputs jobs/demo-outputs
