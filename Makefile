# `make` alone lists the targets. Rust must be installed; the rest installs itself where it can.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO := . scripts/build-env.sh && cargo
BINARY := $(or $(CARGO_TARGET_DIR),target)/release/vaultdb
COMPOSE := $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

# The node of `make run`.
NODE_ID ?= node0
DATA_DIR ?= ./data/$(NODE_ID)

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install-deps
install-deps: ## Install what building needs (clang, g++, ...), where it is missing
	@scripts/install-deps.sh

.PHONY: build
build: install-deps ## Build the release binary
	@$(CARGO) build --release --locked --bin vaultdb

.PHONY: run
run: build ## Build and run one node (NODE_ID=node0 DATA_DIR=./data/node0 FLAGS=...)
	@exec "$(BINARY)" -id "$(NODE_ID)" $(FLAGS) "$(DATA_DIR)"

.PHONY: demo
demo: build ## Break five nodes in seven ways under load and watch them heal, 5 minutes (ARGS=--fast: 2)
	@scripts/install-deps.sh --test
	@scripts/demo.sh $(ARGS)

.PHONY: test
test: ## Run every check and test that this machine can
	@scripts/install-deps.sh --test
	@scripts/test.sh

.PHONY: check
check: install-deps ## Check formatting, lints and documentation
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@export RUSTDOCFLAGS="-D warnings"; $(CARGO) doc --workspace --no-deps --locked

.PHONY: fix
fix: install-deps ## Format the code and apply the lints' own suggestions
	@$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	@$(CARGO) fmt --all

.PHONY: bench
bench: build ## Measure durable writes a second on five local nodes (ARGS="--duration 5s")
	@scripts/bench-writes.sh $(ARGS)

.PHONY: bench-compare
bench-compare: install-deps ## Compare with etcd on this machine, 15 minutes (ARGS=--fast: 4)
	@scripts/bench-compare.sh $(ARGS)

.PHONY: bench-reads
bench-reads: install-deps ## Measure reads at each level beside etcd, 13 minutes (ARGS=--fast: 4)
	@scripts/bench-reads.sh $(ARGS)

.PHONY: bench-spread
bench-spread: build ## Spread reads over five nodes, each with a share of a processor of its own
	@scripts/bench-spread.sh $(ARGS)

.PHONY: bench-recovery
bench-recovery: install-deps ## Measure formation, failover and recovery beside etcd, 10 minutes (ARGS=--fast: 3)
	@scripts/bench-recovery.sh $(ARGS)

.PHONY: bench-soak
bench-soak: build ## Watch the memory of five nodes under ten minutes of load
	@scripts/bench-soak.sh $(ARGS)

.PHONY: bench-profile
bench-profile: build ## Show where the time of a write goes, by thread and by stage
	@scripts/bench-profile.sh $(ARGS)

.PHONY: bench-against
bench-against: install-deps ## Measure what this tree costs or saves beside another commit (ARGS=COMMIT)
	@scripts/bench-against.sh $(ARGS)

.PHONY: bench-log
bench-log: install-deps ## Measure the Raft log beside the crate raft-log
	@$(CARGO) bench --locked -p vaultdb-storage --bench log

.PHONY: bench-cache
bench-cache: install-deps ## Measure what the cache keeps, costs and saves
	@$(CARGO) bench --locked -p vaultdb-storage --bench cache

# How long `make fuzz` runs.
FUZZ_SECONDS ?= 300

.PHONY: fuzz
fuzz: install-deps ## Fuzz the recovery of the Raft log (FUZZ_SECONDS=300)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

.PHONY: screenshots
screenshots: install-deps ## Make the pictures of docs/images from a real cluster, 4 minutes
	@scripts/install-deps.sh --test
	@scripts/screenshots.sh

.PHONY: compose-up
compose-up: ## Start five nodes in containers, HTTP on localhost:11000 to 11004
	@$(COMPOSE) up -d --build

.PHONY: compose-down
compose-down: ## Stop them; their data stays (docker compose down -v removes it)
	@$(COMPOSE) down

.PHONY: compose-test
compose-test: ## Test the compose file on a real engine: kill, cut off, restart
	@scripts/install-deps.sh --test
	@scripts/compose-test.sh
