# `make demo` and `make test` set up what they need on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
# Where it is set, every process would compile all of PyTorch's modules anew: 15 s each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-fast coverage report lint bench setup clean
demo: setup
	$(BIN)/python run.py scenario=7noisymnist intention=cor shot=0.3 scale=demo

test: setup
	$(BIN)/python -m pytest -n auto --dist worksteal

test-fast: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

coverage: setup
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term

report: setup
	$(BIN)/python -m unlearn.report

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m scripts.bench

setup: .venv/.done
.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
