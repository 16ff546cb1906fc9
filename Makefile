# Every target creates .venv with the pinned dependencies when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test slow lint types bench gpu clean

demo: $(READY)
	$(BIN)/python -m examples.panet.demo --out demo-out

test: $(READY)
	$(BIN)/python -m pytest -n auto

slow: $(READY)
	$(BIN)/python -m pytest -n auto -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright

bench: $(READY)
	$(BIN)/python -m bench.accuracy
	$(BIN)/python -m bench.planning
	$(BIN)/python -m bench.measuring
	$(BIN)/python -m bench.localising
	$(BIN)/python -m bench.onnx_accuracy
	$(BIN)/python -m bench.onnx_peers

gpu: $(READY)
	$(BIN)/python -m bench.gpu

# torch comes first: another package's range must not choose its build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv demo-out
