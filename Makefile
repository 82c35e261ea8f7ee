# PG: the major version of PostgreSQL (15, 16, 17, 18). PG_CONFIG: its pg_config, if it is not from Debian or PGDG.
PG ?= 15
PG_CONFIG ?=
export PG PG_CONFIG

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' Makefile
	@echo '  PG=16, 17 or 18 selects that major version instead of 15. PG_CONFIG=/path/to/pg_config selects an installation in an unusual place.'

all: ## build vault_ext in release mode for the PostgreSQL of PG_CONFIG=…, or of PG
	@scripts/install build

install: ## install what `make all` has built into that PostgreSQL, or below DESTDIR
	@scripts/install copy

demo: ## install what is missing, build, and show what vault_ext does on a temporary server
	@scripts/demo

test: ## run all tests on PostgreSQL 15, or PG=…
	@scripts/test

test-upgrade: ## test pg_upgrade and dumps from PG=15 to NEW=18; NEW_PG_CONFIG names the pg_config of NEW
	@scripts/test-upgrade

test-extension-upgrade: ## run the tests over the wire in databases that were upgraded from vault_ext FROM=0.1.0
	@scripts/test upgraded

test-neighbours: ## run the tests over the wire together with pgaudit, pg_stat_statements, auto_explain and pg_cron
	@scripts/test neighbours

test-patroni: ## test a failover by Debian's Patroni, and the way back
	@scripts/test-patroni

test-monitoring: ## test examples/monitoring with Debian's Prometheus and its exporters
	@scripts/test-monitoring

test-citus: ## test a vault on the nodes of a Citus cluster; CITUS=/path/to/pg_config names a PostgreSQL that has Citus
	@scripts/test-citus $(CITUS)

test-examples: ## run the applications in examples/ on a temporary server; NAMES="php-pdo ruby-pg" selects some; POOLER=1: behind pgbouncer
	@scripts/test-examples $(NAMES)

deb: ## build the Debian packages of the extension for PostgreSQL PG=15 and of vault-trail into target/deb
	@scripts/deb

test-deb: ## build the packages, and test them on a clean Debian without a compiler (root)
	@scripts/test-deb

deb-reproducible: ## build the packages twice, in two places, and compare them
	@scripts/deb-reproducible

sbom: ## write the bills of materials of the packages (CycloneDX) into target/deb
	@scripts/sbom

deny: ## check the licences and the sources of all crates; CHECKS="advisories" selects other checks of cargo-deny
	@scripts/deny

dist: ## pack the last commit for PGXN, target/dist/vault_ext-VERSION.zip
	@scripts/dist

container: ## build the container image localhost/vault_ext with Docker or Podman
	@scripts/container

test-container: ## test that image with Podman, and what docs/how-to/containers.md says
	@scripts/test-container

soak: ## run the storms under load for MINUTES=30 and print counts
	@scripts/soak

reliability: ## run the suite of faults with ROUNDS=20 and write its counts to docs/reliability.md
	@scripts/reliability

loom: ## run the models of the audit queue in every order that the memory model allows
	cargo test -p audit_queue_models

fuzz: ## feed 10,000,000 inputs, or RUNS=…, to each parser; TARGETS="keyring wrap" selects parsers
	@scripts/fuzz

bench: ## compare with plain PostgreSQL; QUICK=1 takes under 10 minutes; ONLY=fetch,unwrap selects sections; ROUNDS=5 instead of 3
	@scripts/bench

docs: ## build the documentation as a book in target/book, and check its links
	@scripts/docs

up: ## start a server with vault_ext for experiments and leave it running
	@scripts/playground up

psql: ## open psql on that server, as an application
	@scripts/playground psql

down: ## stop and remove that server
	@scripts/playground down

fmt: ## format the Rust code
	cargo fmt && cargo fmt --manifest-path fuzz/Cargo.toml

lint: ## check the code without running it, as CI does: format, clippy, shellcheck
	@scripts/lint

clean: down ## remove everything that was built
	@scripts/clean

.PHONY: help all install demo test docs test-upgrade test-extension-upgrade test-neighbours test-patroni test-monitoring test-citus test-examples deb test-deb deb-reproducible sbom deny dist container test-container bench soak reliability loom fuzz up psql down fmt lint clean
