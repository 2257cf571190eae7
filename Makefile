PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Which tests on Flower's real processes; all of them take a quarter of an hour.
FLOWER_TESTS ?= tests/flower
# One thread a process: small networks train no faster on more, and processes side by side would fight over the cores.
export OMP_NUM_THREADS = 1

.PHONY: demo test test-slow test-flower lint bench catalogue clean

demo: $(VENV)/ready
	$(BIN)/pfedhr run demo

test: $(VENV)/ready
	$(BIN)/pytest -n 2

test-slow: $(VENV)/ready
	$(BIN)/pytest -n 2 -m slow

test-flower: $(VENV)/ready
	$(BIN)/pytest -m flower $(FLOWER_TESTS)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks

catalogue: $(VENV)/ready
	PYTHONPATH=. $(BIN)/python tests/catalogue/survey.py docs/catalogue.md

# torch first and by itself: any other order lets pip choose a build with gigabytes of CUDA libraries. The packages whose networks
# the tests cut come without what they ask for, which is torch again.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $$(grep -E '^(timm|torchvision|transformers)==' constraints.txt)
	touch $@

clean:
	rm -rf $(VENV)
