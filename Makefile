# The first build takes several minutes (see README.md), later ones seconds.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

.PHONY: test demo dev dev-stop lint setup

# Everything that is checked before a change is accepted.
test: lint
	cargo test --locked

# A backup and a restore before your eyes. Leaves nothing behind.
demo: setup
	deploy/dev/demo.sh

# The service with a sample platform, running in .dev until `make dev-stop`.
dev: setup
	deploy/dev/dev.sh up

dev-stop:
	deploy/dev/dev.sh down

lint: setup
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

# Installs what the machine lacks.
setup:
	deploy/dev/install.sh
	deploy/dev/s3.sh install
