# What a contributor runs. `make help` lists the targets; tools come from scripts/tool, pinned, into the user's cache.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# A number of runs, not a time: go test's fuzzer now and then calls its own end a failure when it stops by time.
FUZZTIME ?= 10000x

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Start a real MinIO and a broker, and show what happens: five minutes the first time, two after that
	@scripts/demo/demo.sh

.PHONY: demo-kong
demo-kong: ## Show the plugin for Kong: nginx with Lua, broker, MinIO and an identity provider
	@scripts/demo/kong/demo.sh

.PHONY: demo-sdks
demo-sdks: ## Run stock SDKs and command lines against a broker and MinIO by variables alone, and check the endpoints
	@scripts/demo/sdks/demo.sh

.PHONY: demo-vault
demo-vault: ## The same with a real Vault and Redis, a broker that holds no secret of its own and a gateway; ends with an inventory
	@scripts/demo/vault/demo.sh

.PHONY: test
test: lint checkgenerate breaking unit fuzz demo demo-kong demo-vault ## Everything: set-up, lint, tests with -race, fuzzing, the demos

.PHONY: build
build: ## Build bin/broker, static
	CGO_ENABLED=0 go build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/broker ./cmd/broker

.PHONY: unit
unit: tools ## Go tests with -race, against real servers where they need one
	go test -race -timeout 15m ./...

.PHONY: tools
tools: ## Install the servers that the tests run, if the cache lacks them
	@for tool in minio mc redis-server redis-cli kube-apiserver vault nginx-lua lua-busted lua-check aws; do scripts/tool $$tool >/dev/null; done

.PHONY: fuzz
fuzz: ## Run every fuzz target FUZZTIME (10000x) times
	@scripts/fuzz $(FUZZTIME)

.PHONY: mutate
mutate: ## Break the verifiers, the policy and the issuer in each small way and see that a test notices (two hours)
	@scripts/mutate

.PHONY: bench
bench: ## Measure speed and memory against the targets, with real MinIO and Redis (ten minutes; docs/performance.md)
	@scripts/bench

.PHONY: bench-kong
bench-kong: ## Measure what the plugin for Kong costs, in nginx with Lua (two minutes; docs/kong.md)
	go test -count=1 ./internal/kongtest -run '^TestTable$$' -table -v | grep -v '^\(===\|---\|PASS\|ok\)'

.PHONY: microbench
microbench: ## Run the benchmarks of single packages
	go test -run '^$$' -bench . -benchmem ./internal/...

.PHONY: lint
lint: ## gofmt, go vet, golangci-lint, buf lint
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); \
	  test -z "$$unformatted" || { echo "Run gofmt -w on:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	$$(scripts/tool golangci-lint) run ./...
	$$(scripts/tool buf) lint
	go mod tidy -diff

.PHONY: generate
generate: ## Generate Go code from the proto files
	PATH="$$(dirname $$(scripts/tool protoc-gen-go)):$$(dirname $$(scripts/tool protoc-gen-go-grpc)):$$PATH" $$(scripts/tool buf) generate

.PHONY: checkgenerate
checkgenerate: generate ## Fail if generated code isn't what the proto files say
	@test -z "$$(git status --porcelain proto)" || { git --no-pager diff proto; echo "proto/ is not what 'make generate' makes, or not committed."; exit 1; }

.PHONY: breaking
breaking: ## Fail if the API breaks users of the last release
	@tag=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true); \
	  if test -z "$$tag"; then echo "breaking: there is no release yet, so nothing to break"; \
	  else $$(scripts/tool buf) breaking --against ".git#tag=$$tag"; fi

.PHONY: vulncheck
vulncheck: ## Look for known vulnerabilities; needs the internet
	go run golang.org/x/vuln/cmd/govulncheck@latest ./...
