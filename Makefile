# One command per task, the same here and in CI.

export EDGEWRIGHT_NATS_SERVER := $(CURDIR)/.tools/bin/nats-server

.PHONY: help setup programs compose build up demo test chaos chaos-power check bench bench-long bench-build

# Campaigns of `test` follow from this one, so that a failure can be had again.
CHAOS_SEED := 1

help:            ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: programs compose ## Install what is missing: nats-server, git, ssh-keygen, a C compiler; for tests PostgreSQL, docker-registry and Docker

programs:
	@scripts/setup.sh

# Takes minutes, and only tests and measurements need it: what needs it not does not wait for it.
compose: programs
	@scripts/compose.sh

build: programs  ## Build every program
	@cargo build --workspace

up: build        ## Start the whole platform here; Ctrl-C ends it
	@target/debug/edgewright --log error,async_nats=off up

demo: build      ## From nothing to an answering application and its audit trail; ends by itself
	@scripts/demo.sh

test: build compose ## Run every test; the end-to-end tests run the programs that `build` made
	@EDGEWRIGHT_CHAOS_SEED=$(CHAOS_SEED) scripts/test.sh

chaos: build     ## Kill everything at random under orders, and check what is left: SEED=7 SECONDS=600
	@EDGEWRIGHT_CHAOS_SEED=$(SEED) EDGEWRIGHT_CHAOS_SECONDS=$(SECONDS) cargo test --workspace --test chaos -- --nocapture every_promise_is_kept

chaos-power: build ## Cut the power a hundred times under git-writer's commits, and check what is left: SEED=7 CUTS=100
	@EDGEWRIGHT_CHAOS_SEED=$(SEED) EDGEWRIGHT_POWER_CUTS=$(or $(CUTS),100) cargo test --workspace --test power

check: programs  ## Format, lints, documentation, one TLS provider, a small edge-node, no circles among crates or modules
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets -- --deny warnings
	@cargo clippy --workspace --lib --bins -- --deny warnings --deny clippy::disallowed_methods
	@RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --quiet
	@scripts/check-tls.sh
	@scripts/check-features.sh
	@scripts/check-graph.sh
	@scripts/check-edge-node.sh

bench: bench-build   ## Measure everything within 15 minutes; ONLY=start_ms measures one figure, DATA=/mnt/disk on another disk (docs/performance.md)
	@target/release/bench run --only "$(ONLY)" --data "$(DATA)"

bench-long: bench-build ## Measure the same with more runs, and storms of sites and nodes, in about an hour
	@target/release/bench run --only "$(ONLY)" --data "$(DATA)" --effort long

# Agents and runners also as they are shipped: their memory is measured.
bench-build: setup
	@cargo build --release --workspace
	@cargo build --profile dist -p edge-node -p wasm-runner
