# Everything one does here. `just` prints this list.

[private]
default:
    @just --list --unsorted

# Build the binary
build:
    cargo build --locked --package skep

# Run the demo: identity provider, MCP server, proxy
up *ARGS:
    cargo run --locked --package skep -- up {{ARGS}}

# Unit and component tests of the crates
test *ARGS:
    cargo test --workspace --exclude skep-e2e --locked {{ARGS}}

# Tests of the operator against a real API server (hack/k8s/build makes it, or KUBEBUILDER_ASSETS names it)
test-cluster *ARGS:
    hack/k8s/build
    cargo test --package skep-operator --test cluster --locked {{ARGS}}

# End-to-end tests against the real binary (hack/test installs what they need)
test-e2e *ARGS:
    cargo build --locked --package skep
    cargo test --package skep-e2e --locked {{ARGS}}

# Property tests with a hundred times the usual number of cases
fuzz:
    PROPTEST_CASES=25600 cargo test --workspace --exclude skep-e2e --locked --release

# Measure throughput, latency and memory
bench *ARGS:
    cargo build --release --locked --package skep
    cargo bench --package skep-benches --locked {{ARGS}}

# Write the generated files: CRDs, schemas, command reference
gen:
    hack/gen

# Format the code
fmt:
    cargo fmt --all

# Formatting, clippy, docs and dependency policy
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
    cargo deny --all-features --locked check -A unused-wrapper bans licenses sources

# What CI runs: every check and every test
ci:
    hack/test
