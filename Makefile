# The interpreter that a new .venv is made with.
PYTHON ?= python3
# The versions that are installed; empty for the newest of everything.
CONSTRAINTS ?= constraints.txt

BIN := .venv/bin
READY := .venv/.ready
OLDEST := .venv-oldest
MODELS := .venv-models
# What looks at the clock, or has a Prometheus look twice a second, runs beside nothing else.
TIMED_TESTS := $(addprefix tests/e2e/test_, panels.py event_loop.py incidents.py)
# More than the cores of a small machine: many a test waits for what it has started. In the order of
# their names, since xdist would begin the files with few tests last, which are the longest.
IN_PARALLEL := -n 4 --dist loadfile --no-loadscope-reorder
# What must hold with any release of Chainlit and of what it stands on.
CORE_TESTS := tests/core tests/cli/test_progress.py tests/testing/test_client.py $(addprefix tests/e2e/test_, $(addsuffix .py, \
  access data_layer feedback_and_files harmless hosting http_sessions peak sessions shutdown \
  stickiness trace_context turns ways))
BEHAVIOUR := examples/analytics/grafana/dashboards
PROMETHEUSRULE := examples/kubernetes/prometheusrule.yaml

.DEFAULT_GOAL := help
.PHONY: help setup demo stack alert-quality test test-parallel test-timed compat core-tests test-oldest setup-models test-models dist test-wheel install-check bench bench-instructions bench-analysis bench-backtest bench-faults bench-rules bench-visitors soak fuzz lint format docs docs-site picture clean system-packages

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything that development needs (the other targets do it too)

demo: $(READY) ## run a demo app with visitors; DEMO_ARGS="..." goes to `chainlit-otel demo`
	$(BIN)/chainlit-otel demo $(DEMO_ARGS)

stack: $(READY) ## run the demo beside Prometheus and Alertmanager; STACK_ARGS="--scale 0.02" goes to it
	@tools/system-packages.sh prometheus prometheus-alertmanager
	$(BIN)/python -m tools.stack $(STACK_ARGS)

test: test-parallel $(if $(TEST_ARGS),,test-timed) ## run all tests; TEST_ARGS="..." goes to pytest

test-parallel: $(READY) system-packages
	$(BIN)/python -m pytest $(IN_PARALLEL) $(or $(TEST_ARGS),$(addprefix --ignore=,tests/models $(TIMED_TESTS)))

test-timed: $(READY) system-packages
	$(BIN)/python -m pytest $(or $(TEST_ARGS),$(TIMED_TESTS))

test-oldest: $(OLDEST)/.ready ## run the core of the tests with the oldest Chainlit and the oldest of all else
	$(OLDEST)/bin/python -m pytest -W default $(IN_PARALLEL) $(CORE_TESTS) $(TEST_ARGS)

compat: $(READY) system-packages ## run the core of the tests with each supported Chainlit; COMPAT_ARGS="--chainlit 2.9.6" goes to it
	$(BIN)/python -m tools.compat $(COMPAT_ARGS)

core-tests:
	@echo $(CORE_TESTS)

setup-models: $(MODELS)/.ready ## make .venv-models with the clients of models and what instruments them

test-models: $(MODELS)/.ready ## count the tokens of turns by each client of models, and each of its instrumentations
	$(MODELS)/bin/python -m pytest -n 3 $(or $(TEST_ARGS),tests/models)

dist: $(READY) ## build the wheel and the source distribution into dist/
	$(BIN)/python -m pip install -qq -c constraints.txt hatchling hatch-fancy-pypi-readme
	$(BIN)/python -m hatchling build

# In a copy: the source is removed, so that nothing but the wheel can be imported.
test-wheel: $(READY) ## run the core of the tests with the wheel in dist/, where its source is not
	rm -rf build/wheel
	mkdir -p build/wheel
	$(PYTHON) -m venv build/wheel/.venv
	cp -R tests examples pyproject.toml build/wheel
	build/wheel/.venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt --upgrade pip
	build/wheel/.venv/bin/python -m pip install -qq -c constraints.txt dist/*.whl --group core-test
	cd build/wheel && .venv/bin/python -m pytest $(IN_PARALLEL) $(CORE_TESTS) $(TEST_ARGS)

install-check: $(READY) ## install the wheel without constraints, by old pip, new pip and uv, timed, and run it
	$(BIN)/python -m tools.install_check

bench: $(READY) ## measure what it costs the server, by time and instructions; with BENCH_ARGS="--rounds 3" by time alone
	$(BIN)/python -m bench $(BENCH_ARGS)
	$(if $(BENCH_ARGS),,$(MAKE) bench-instructions)

bench-analysis: $(READY) ## measure export and report over a million sessions, beside pandas; takes BENCH_ARGS, too
	$(BIN)/python -m bench.analysis $(BENCH_ARGS)

bench-instructions: $(READY) ## count the instructions of a turn, some ten minutes; takes BENCH_ARGS, too
	@tools/system-packages.sh valgrind
	$(BIN)/python -m bench.instructions $(BENCH_ARGS)

bench-backtest: $(READY) system-packages ## hold `backtest` against the rule engine of Prometheus, over weeks; takes BENCH_ARGS, too
	$(BIN)/python -m bench.backtest $(BENCH_ARGS)

soak: $(READY) ## measure thousands of sessions at once, and 100,000 that come and go, some 75 minutes; takes BENCH_ARGS, too
	$(BIN)/python -m bench.soak $(BENCH_ARGS)

bench-faults: $(READY) system-packages ## have people talk with and without it while something goes wrong; takes BENCH_ARGS, too
	$(BIN)/python -m bench.faults $(BENCH_ARGS)

bench-rules: $(READY) system-packages ## measure what the rules cost the Prometheus of 100 replicas; takes BENCH_ARGS, too
	$(BIN)/python -m bench.rules $(BENCH_ARGS)

bench-visitors: $(READY) ## measure the limit, the lag and the clock of visitors, some 20 minutes; takes BENCH_ARGS, too
	$(BIN)/python -m bench.visitors $(BENCH_ARGS)

alert-quality: $(READY) ## measure the alerts that read traffic, over simulated weeks; takes BENCH_ARGS, too
	$(BIN)/python -m tools.alert_quality $(BENCH_ARGS)

fuzz: $(READY) ## look for inputs that break us, a minute for each target; FUZZ_ARGS="--seconds 600" goes to it
	$(BIN)/python -m pip install -qq --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) --group fuzz
	$(BIN)/python -m tools.fuzz $(FUZZ_ARGS)

lint: $(READY) ## check style, types, workflows and the generated parts of the documents
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/zizmor --quiet --offline .github
	$(BIN)/python -m tools.docs --check
	$(BIN)/chainlit-otel dashboards --check
	$(BIN)/chainlit-otel dashboards --records --output $(BEHAVIOUR) --check
	$(BIN)/chainlit-otel rules --output dashboards/rules.yml --check
	$(BIN)/chainlit-otel rules --format prometheusrule --output $(PROMETHEUSRULE) --check
	$(BIN)/chainlit-otel rules --format alertmanager --output dashboards/inhibitions.yml --check

format: $(READY) ## mend what can be mended of the style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(READY) ## write dashboards, rules and the generated parts of the documents again
	$(BIN)/python -m tools.docs
	$(BIN)/chainlit-otel dashboards
	$(BIN)/chainlit-otel dashboards --records --output $(BEHAVIOUR)
	$(BIN)/chainlit-otel rules --output dashboards/rules.yml
	$(BIN)/chainlit-otel rules --format prometheusrule --output $(PROMETHEUSRULE)
	$(BIN)/chainlit-otel rules --format alertmanager --output dashboards/inhibitions.yml

docs-site: $(READY) ## build the site of the pages in docs/ into site/; a broken link fails
	$(BIN)/zensical build --strict --clean

picture: $(READY) system-packages ## draw the dashboard in the README again, from six minutes of the demo
	$(BIN)/python -m tools.picture

clean: ## remove .venv, caches and built files
	rm -rf .venv $(OLDEST) $(MODELS) .venv-compat .cache .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist htmlcov site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

system-packages:
	@tools/system-packages.sh

# `--group` came with pip 25.1, so pip itself comes first. A .venv may be there already, made by
# another tool and without pip: ensurepip mends that. Build isolation ignores --constraint, hence
# --build-constraint.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null \
	  || { echo "error: '$(PYTHON)' is not Python 3.10 to 3.13; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "error: '$(PYTHON)' cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	$(BIN)/python -m pip install -qq --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) --upgrade pip
	$(BIN)/python -m pip install -qq $(if $(CONSTRAINTS),-c $(CONSTRAINTS) --build-constraint $(CONSTRAINTS)) -e '.[analysis,backtest,s3]' --group dev
	touch $@

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt --upgrade pip
	$(OLDEST)/bin/python -m pip install -qq -c constraints-oldest.txt --build-constraint constraints.txt -e . --group oldest-test
	touch $@

# OpenTelemetry's older instrumentation of OpenAI and its newer ones want different releases of one
# package: the older has a directory of its own, for who puts it first.
$(MODELS)/.ready: pyproject.toml constraints-models.txt
	$(PYTHON) -m venv --clear $(MODELS)
	$(MODELS)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt --upgrade pip
	$(MODELS)/bin/python -m pip install -qq -c constraints-models.txt --build-constraint constraints.txt -e '.[prices]' --group models-test
	$(MODELS)/bin/python -m pip install -qq --no-deps --target $(MODELS)/openai-v2 opentelemetry-instrumentation-openai-v2==2.4b0 opentelemetry-util-genai==0.4b0
	touch $@
