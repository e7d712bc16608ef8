# Everything here sets up its own environment first; nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
BASE := $(VENV)/.base
READY := $(VENV)/.ready

$(BASE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(READY): $(BASE)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[train,annotate,eval,plots,serve,test]'
	touch $@

.PHONY: run test lint model figures study

run: $(BASE)  ## answer a prompt with the bundled model
	$(VENV)/bin/pasta run < /dev/null

test: $(READY)  ## all tests
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(VENV)/bin/python -m pip install --quiet ruff
	$(VENV)/bin/ruff check pastalm tests bench && $(VENV)/bin/ruff format --check pastalm tests bench

RUNS ?= runs
model: $(READY)  ## train the bundled model from nothing; a killed run goes on where it was
	$(VENV)/bin/python -m bench.bundled --out $(RUNS)/bundled

figures: $(READY)  ## the bundled model on the held-out tasks
	$(VENV)/bin/pasta eval bundled tasks:held-out:330 --out $(RUNS)/figures --max-tokens 900

study: $(READY)  ## stage 2 against its baselines on the generated tasks; hours without a GPU
	$(VENV)/bin/python -m bench.bundled --out $(RUNS)/bundled
	$(VENV)/bin/python -m bench.study --base $(RUNS)/bundled/base --model $(RUNS)/bundled/model --out $(RUNS)/study
