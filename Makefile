# Everything runs from .venv, which `make build` creates. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip --quiet --disable-pip-version-check
FUZZ_TIME ?= 60
SOAK_TIME ?= 600
PYVERSIONS ?= 3.10 3.11 3.12 3.13
PYTEST_ARGS ?=
BENCH_ARGS ?=
FUZZ_TARGETS ?=
INSTRUCTIONS_ARGS ?=
AUTOBAHN_CASES ?= *
AUTOBAHN_ARGS ?=
REQUIREMENTS := dev

.DEFAULT_GOAL := help

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The source tree is used in place: a .pth file puts it on the path of the venv.
$(VENV)/.made: $(wildcard requirements/*.txt)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install -r requirements/$(REQUIREMENTS).txt
	$(BIN)/python -c "import pathlib, sysconfig as s; \
		pathlib.Path(s.get_path('purelib'), 'picows-in-place.pth').write_text('$(CURDIR)\n')"
	touch $@

.PHONY: build
build: $(VENV)/.made  ## .venv, and the extension modules in place (PICOWS_BUILD=debug|sanitize|coverage)
	$(BIN)/python setup.py --quiet build_ext --inplace

.PHONY: demo
demo: build  ## an echo server and its client; prints round trips per second and percentiles
	$(BIN)/python examples/demo.py

# PyPI's picows and its like, as peers of the interoperability tests and of the benchmarks.
.venv-peers/.made: requirements/peers.txt
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python $(PIP) install -r requirements/peers.txt
	touch $@

.PHONY: peers
peers: .venv-peers/.made  ## .venv-peers, with PyPI's picows and other peers

# PyPI carries its source, inside of a package that is not used otherwise.
ZLIB_NG := build/zlib-ng
$(ZLIB_NG)/libz-ng.a: requirements/zlib-ng.txt | $(VENV)/.made
	rm -rf $(ZLIB_NG)
	mkdir -p $(ZLIB_NG)/sdist
	$(BIN)/python $(PIP) download --no-deps --no-binary zlib-ng --require-hashes -r requirements/zlib-ng.txt \
		--dest $(ZLIB_NG)/sdist
	tar -xzf $(ZLIB_NG)/sdist/*.tar.gz -C $(ZLIB_NG)/sdist --strip-components=1
	cd $(ZLIB_NG) && CFLAGS="-O2 -fPIC" sdist/src/zlib_ng/zlib-ng/configure --static >configure.out
	$(MAKE) --silent -j2 -C $(ZLIB_NG) libz-ng.a >$(ZLIB_NG)/make.out

ZLIB_NG_LIB := build/release-zlib-ng/tree

.PHONY: zlib-ng
zlib-ng: build $(ZLIB_NG)/libz-ng.a  ## picows with zlib-ng (built from source), in build/release-zlib-ng/tree
	PICOWS_ZLIB=zlib-ng C_INCLUDE_PATH=$(ZLIB_NG) LIBRARY_PATH=$(ZLIB_NG) \
		$(BIN)/python setup.py --quiet build --build-lib $(ZLIB_NG_LIB)

.PHONY: test
test: lint types docs pytest  ## all that CI runs: lint, types, docs and the suite

.PHONY: pytest
pytest: build peers $(ZLIB_NG)/libz-ng.a  ## the suite alone (PYTEST_ARGS="-k close -x")
	$(BIN)/pytest $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/.made  ## ruff, cython-lint, codespell
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint picows tests examples benchmarks  # runs pycodestyle
	$(BIN)/codespell

.PHONY: format
format: $(VENV)/.made  ## ruff's formatter and its safe fixes
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# stubtest compares the .pyi of compiled modules with the modules themselves.
STUBBED := $(subst /,.,$(basename $(wildcard $(patsubst %.pyx,%.pyi,$(wildcard picows/*/*.pyx)))))

.PHONY: types
types: build  ## mypy --strict, and stubtest on the compiled modules
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest $(STUBBED) --allowlist tests/typing/stubtest_allowlist.txt

.PHONY: docs
docs: build  ## HTML in docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# The modules lie in a tree of their own, so that the build in place stays what it is. Only pytest's own process gets
# the preload: tests/conftest.py takes it out of the environment of child processes that are not ours.
SANITIZE_LIB := build/sanitize/tree
SANITIZE_ENV = PYTHONPATH=$(CURDIR)/$(SANITIZE_LIB) PYTHONMALLOC=malloc PICOWS_SANITIZE=1 \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

.PHONY: build-sanitize
build-sanitize: $(VENV)/.made
	PICOWS_BUILD=sanitize $(BIN)/python setup.py --quiet build --build-lib $(SANITIZE_LIB)

.PHONY: sanitize
sanitize: build build-sanitize peers $(ZLIB_NG)/libz-ng.a  ## the suite under AddressSanitizer and UndefinedBehaviorSanitizer
	$(SANITIZE_ENV) $(BIN)/pytest -p no:cacheprovider $(PYTEST_ARGS)

.PHONY: fuzz
fuzz: build  ## each target in tests/fuzz for FUZZ_TIME seconds (default 60); needs clang
	$(BIN)/python $(PIP) install -r requirements/fuzz.txt
	PICOWS_BUILD=fuzz $(BIN)/python setup.py --quiet build --build-lib build/fuzz/tree
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_TIME) $(FUZZ_TARGETS)

# The suite is Python 2, for which hardly anything makes a venv any more: its user site lies in a folder of ours.
.venv-autobahn/.made: requirements/autobahn.txt
	python=$$(ls "$$(pyenv root 2>/dev/null)"/versions/2.7.*/bin/python2.7 2>/dev/null | tail -1); \
		PYTHONUSERBASE=$(CURDIR)/.venv-autobahn PYTHONWARNINGS=ignore "$${python:-python2.7}" $(PIP) install \
		--user --no-warn-script-location -r requirements/autobahn.txt
	touch $@

.PHONY: autobahn
autobahn: build peers .venv-autobahn/.made  ## the Autobahn TestSuite (AUTOBAHN_CASES="1.* 6.4.1" or quick); needs Python 2.7
	cd tests && $(CURDIR)/$(BIN)/python -m autobahn.run --cases "$(AUTOBAHN_CASES)" $(AUTOBAHN_ARGS)

.PHONY: conformance
conformance: build  ## the tables of docs/conformance.rst, from the runs of `make autobahn`
	cd tests && $(CURDIR)/$(BIN)/python -m autobahn.page

.PHONY: soak
soak: build  ## 500 connections on each loop, good and bad, for SOAK_TIME seconds (default 600)
	$(BIN)/python tests/soak/run.py --seconds $(SOAK_TIME)

# Cython's plugin for coverage.py wants .pyx and generated C side by side, below the current folder.
COVERAGE_LIB := build/coverage/tree

.PHONY: coverage
coverage: build peers $(ZLIB_NG)/libz-ng.a  ## line coverage of Python and Cython, in htmlcov/ (PYTEST_ARGS: absolute paths)
	PICOWS_BUILD=coverage $(BIN)/python setup.py --quiet build --build-lib $(COVERAGE_LIB)
	cp -r build/coverage/cython-*/picows $(COVERAGE_LIB)/
	find picows -name '*.pyx' -exec cp --parents {} $(COVERAGE_LIB) ';'
	cd $(COVERAGE_LIB) && export COVERAGE_RCFILE=$(CURDIR)/pyproject.toml && \
		PYTHONPATH=$(CURDIR)/$(COVERAGE_LIB) $(CURDIR)/$(BIN)/coverage run $(CURDIR)/$(BIN)/pytest \
		-c $(CURDIR)/pyproject.toml --rootdir $(CURDIR) $(or $(PYTEST_ARGS),$(CURDIR)/tests); \
		status=$$?; \
		$(CURDIR)/$(BIN)/coverage html -q -d $(CURDIR)/htmlcov; $(CURDIR)/$(BIN)/coverage report; \
		exit $$status

.PHONY: bench
bench: build peers zlib-ng  ## benchmarks against peers, a selection: five minutes (benchmarks/README.rst)
	$(BIN)/python benchmarks/run.py --quick $(BENCH_ARGS)

.PHONY: bench-full
bench-full: build peers zlib-ng  ## all benchmarks, about an hour: the figures to quote
	$(BIN)/python benchmarks/run.py $(BENCH_ARGS)

.PHONY: instructions
instructions: build  ## instructions a message, by callgrind (INSTRUCTIONS_ARGS=--update writes the figures)
	$(BIN)/python benchmarks/instructions.py $(INSTRUCTIONS_ARGS)

.PHONY: plot
plot: $(VENV)/.made  ## the charts of README and docs, from RESULTS=benchmarks/results/<run>.json
	$(BIN)/python $(PIP) install -r requirements/plot.txt
	$(BIN)/python benchmarks/plot.py $(RESULTS) docs/_static

.PHONY: wheel
wheel: $(VENV)/.made  ## sdist and wheel in dist/
	$(BIN)/python -m build --no-isolation --outdir dist

# Needs pyenv, or pythonX.Y on the path; one venv for each.
.PHONY: pyversions
pyversions: peers $(addprefix pyversion-,$(PYVERSIONS))  ## the suite on every supported Python

pyversion-%:
	python=$$(ls -d "$$(pyenv root 2>/dev/null)"/versions/$*.*/bin/python 2>/dev/null | tail -1); \
		$(MAKE) VENV=.venv-$* REQUIREMENTS=test PYTHON="$${python:-python$*}" pytest

.PHONY: clean
clean:  ## all that was built, but for the venvs
	rm -rf build dist docs/_build htmlcov .coverage .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find picows tests examples benchmarks -name '*.so' -delete -o -name '__pycache__' -prune -exec rm -rf {} +
