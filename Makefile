# The first build takes several minutes (see README.md), later ones seconds.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

.PHONY: test test-long fuzz demo dev dev-stop bench bench-growth bench-memory lint chart-test image image-test sbom notices setup

# Everything that is checked before a change is accepted.
test: lint
	cargo test --locked

# The service tests with every place and hundreds of rounds: hours. Those of some hazards: make test-long ONLY='f03_ s05_'
test-long: setup
	HOLDFAST_LONG_TESTS=1 cargo test --locked --test service -- --nocapture $(ONLY)

# Hostile bytes for each parser, SECONDS long; what reaches new code is found in fuzz/target/corpus.
fuzz: setup
	deploy/dev/fuzz.sh run $(or $(SECONDS),60)

# A backup and a restore before your eyes. Leaves nothing behind.
demo: setup
	deploy/dev/demo.sh

# The service with a sample platform, running in .dev until `make dev-stop`.
dev: setup
	deploy/dev/dev.sh up

dev-stop:
	deploy/dev/dev.sh down

# Holdfast beside what people use instead, on the same data: docs/benchmark.md. About an hour, with the machine for itself; SCALE=0.1 is a tenth of the data.
bench: setup
	python3 -B tests/bench compare

# How time, CPU and memory grow with data, tables and files: docs/growth.md. LARGEST=10GB for all of it.
bench-growth: setup
	python3 -B tests/bench growth

# Whether the service lives in 192 MiB with rows of 20 MB. As root, else the peak is only looked at.
bench-memory: setup
	python3 -B tests/bench memory

lint: setup
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	deploy/dev/deny.sh install
	deploy/dev/deny.sh check

# The Helm chart, the manifests, the alerts: without a cluster. The first time, building helm takes some minutes.
chart-test: setup
	cargo build --locked
	deploy/dev/chart.sh install
	deploy/dev/chart.sh check

# The container, with docker, podman or buildah; where no registry is reachable: deploy/dev/base-images.sh before.
image:
	deploy/dev/image.sh build

# Runs the container: a backup and a restore, as nobody in particular and with nothing to write but the folder.
image-test:
	deploy/dev/image.sh test

# What is in the program: CycloneDX, in target/holdfast.cdx.json.
sbom: setup
	cargo run --locked --quiet --example supply -- sbom target/holdfast.cdx.json

# What has to go with a binary that is given away, in target/notices: NOTICE says why.
notices: setup
	cargo run --locked --quiet --example supply -- notices target/notices

# Installs what the machine lacks.
setup:
	deploy/dev/install.sh
	deploy/dev/s3.sh install
