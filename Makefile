# PG: the major version of PostgreSQL (15, 16, 17, 18). PG_CONFIG: its pg_config, where it is not Debian's or PGDG's.
PG ?= 15
PG_CONFIG ?=
export PG PG_CONFIG

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' Makefile
	@echo '  PG=16|17|18 chooses another major than 15, PG_CONFIG=/path/to/pg_config an installation that is not in the usual place'

demo: ## install what is missing, build, and show the main job on a throw-away server
	@scripts/demo

test: ## all tests on PostgreSQL 15, or PG=…
	@scripts/test

test-upgrade: ## pg_upgrade and dumps from PG=15 to NEW=18, whose pg_config is NEW_PG_CONFIG
	@scripts/test-upgrade

test-extension-upgrade: ## the tests over the wire, in databases that were upgraded from FROM=0.1.0 of vault_ext
	@scripts/test upgraded

test-neighbours: ## all tests over the wire beside pgaudit, pg_stat_statements, auto_explain and pg_cron
	@scripts/test neighbours

test-patroni: ## a failover by Debian's Patroni, and back
	@scripts/test-patroni

soak: ## storms under load for MINUTES=30, with counts
	@scripts/soak

reliability: ## the suite of faults with ROUNDS=20, its counts into docs/reliability.md
	@scripts/reliability

fuzz: ## 10,000,000 inputs for each parser, or RUNS=…; TARGETS="keyring wrap" chooses
	@scripts/fuzz

bench: ## benchmarks against plain PostgreSQL; QUICK=1: in under 10 minutes; ONLY=fetch,unwrap: these sections; ROUNDS=5: instead of 3
	@scripts/bench

up: ## start a server with vault_ext to play with, and leave it running
	@scripts/playground up

psql: ## open psql in it, as an application
	@scripts/playground psql

down: ## stop and remove it
	@scripts/playground down

fmt: ## format the Rust code
	cargo fmt && cargo fmt --manifest-path fuzz/Cargo.toml

lint: ## what CI checks without running anything: format, clippy, shellcheck
	@scripts/lint

clean: down ## remove everything that was built
	@scripts/clean

.PHONY: help demo test test-upgrade test-extension-upgrade test-neighbours test-patroni bench soak reliability fuzz up psql down fmt lint clean
