# One command per task, the same here and in CI.

export EDGEWRIGHT_NATS_SERVER := $(CURDIR)/.tools/bin/nats-server

.PHONY: help setup build up demo test check

help:            ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup:           ## Install what is missing: nats-server, git, ssh-keygen, a C compiler
	@scripts/setup.sh

build: setup     ## Build every program
	@cargo build --workspace

up: build        ## Start the whole platform here; Ctrl-C ends it
	@target/debug/edgewright --log error,async_nats=off up

demo: build      ## From nothing to an answering application and its audit trail; ends by itself
	@scripts/demo.sh

test: build      ## Run every test; the end-to-end tests run the programs that `build` made
	@cargo test --workspace

check: setup     ## Format, lints, documentation, and one TLS provider only
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets -- --deny warnings
	@RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --quiet
	@scripts/check-tls.sh
