# Sluice. `make help` lists the targets.

GO          ?= go
export GO
STATICCHECK ?= $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 20s
AXE         ?= 4.14.1
# The packages that lock, wait and start goroutines.
SHELL_OF_MACHINES := change compiled cow crew ctxwatch deadline dropq oneshot permit recall stage turn
# Nested modules keep heavy dependencies out of the core's go.mod. Frameworks has a target of its own.
NESTED := $(patsubst ./%/go.mod,%,$(shell find . -mindepth 2 -name go.mod -not -path './.git/*' -not -path './internal/frameworks/*'))

# By another name than MAKE, else make -n would run what it is to show.
SELF := $(MAKE) --no-print-directory

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Replay agent turns of four providers against a strict backend, unguarded and guarded; ARGS=-page serves a page of it
	@$(GO) run ./examples/demo $(ARGS)

.PHONY: test
test: ## Everything a change must pass: lint, tests with the race detector and on 32 bits, examples, nested modules
	@. .ci/steps.sh; steps $$((6 + $(words $(NESTED)))); \
	step 'lint: format, vet on four platforms, staticcheck, go.mod' $(SELF) lint; \
	step 'tests and examples, with the race detector' raced ./...; \
	step 'allocations, models and storms, without it' $(GO) test -run 'Alloc|Bytes|Model|Storm' ./...; \
	step 'tests on 32 bits' $(SELF) test-386; \
	step 'each benchmark once' quietly $(GO) test -run '^$$' -bench . -benchtime 1x ./...; \
	for m in $(NESTED); do step "module $$m" $(SELF) test-module M=$$m; done; \
	step 'what was left out' $(SELF) left-out; \
	steps_done

.PHONY: test-386
test-386: # where this machine can run it
	@case "$$($(GO) env GOHOSTOS)/$$($(GO) env GOHOSTARCH)" in \
	linux/amd64 | windows/amd64) set -x; GOARCH=386 $(GO) test -short . ./internal/promises ./internal/admit ./internal/kv ./internal/value ./sim/... ./upstream ;; \
	*) echo "no 32-bit tests: this machine cannot run GOARCH=386" ;; \
	esac

.PHONY: test-module
test-module: # M, a nested one, whose dependencies are compiled once
	@. .ci/steps.sh; cd $(M) && $(GO) vet -race ./... && raced ./...

.PHONY: left-out
left-out:
	@command -v redis-server >/dev/null || \
	echo "what contrib/redis does with a server, for want of redis-server (make test-engines demands it)"
	@command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	echo "what the page looks like in a browser, for want of chromium-headless-shell, chromium or google-chrome"

.PHONY: test-engines
test-engines: ## The engines against real servers, which have to be in PATH: kits, a cluster, Sentinel, outages, costs
	cd contrib/redis && SLUICE_ENGINES=1 $(GO) test -race -count=1 ./...

.PHONY: test-axe
test-axe: ## axe-core over every view of the page, light and dark: needs npm, the network and a browser
	@set -e; dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; npm install --silent --no-save --prefix "$$dir" axe-core@$(AXE); \
	cd internal/browser && SLUICE_BROWSER=1 AXE="$$dir/node_modules/axe-core/axe.min.js" $(GO) test -run TestAxe -count=1 -v .

.PHONY: chaos
chaos: ## A thousand runs of real processes on one quota, and on slots, and some minutes on a state, while they, the server and what is between them fail (an hour and a half)
	cd contrib/redis && SLUICE_ENGINES=1 CHAOS=$${CHAOS:-1000} CHAOS_WIDTH=$${CHAOS_WIDTH:-8} CHAOS_STATE=$${CHAOS_STATE:-100} $(GO) test -run 'TestChaos(OnSlots)?$$|TestFleetState_|TestOnce_' -count=1 -timeout 4h -v .

.PHONY: test-frameworks
test-frameworks: ## Suites and servers of others with guards laid over: needs npm, the network and a quarter of an hour
	cd internal/frameworks && $(GO) vet . && FRAMEWORKS=all $(GO) test -v -count=1 -timeout 90m .

.PHONY: race
race: RACE := $(GO) test -race -cpu 1,2,4 -timeout 45m
race: ## Hand-overs twenty times, storms of layers and turns, models twice, on 1, 2 and 4 processors
	$(RACE) -count=20 -run 'HandOver|Combine|Chaos|Watch|Txn' . ./internal/promises ./internal/kv ./internal/ctxwatch ./engine ./sluicetest
	$(RACE) -count=3 -run 'Storm' ./resilience ./agent
	$(RACE) -count=20 $(addprefix ./internal/,$(SHELL_OF_MACHINES))
	$(RACE) -count=2 -run Model ./...
	cd internal/verify && $(RACE) -count=2 .

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (20s)
	@set -e; for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz' || true); do \
	    echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p; \
	  done; done

.PHONY: bench
bench: ## The library's own benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: bench-compare
bench-compare: ## Measure beside peers and floors, and write BENCHMARKS.md (6 minutes)
	cd internal/compare && $(GO) run ./cmd/report -o ../../BENCHMARKS.md

.PHONY: instructions
instructions: ## Count the instructions of whole calls with valgrind
	cd internal/compare && $(GO) run ./cmd/instructions

.PHONY: lint
lint: ## gofmt, go vet (32-bit, Windows and macOS too), staticcheck, go mod tidy
	@test -z "$$(gofmt -l .)" || { echo "gofmt would change:"; gofmt -l .; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet ./...
	GOOS=linux GOARCH=386 $(GO) vet ./...
	GOOS=windows GOARCH=amd64 $(GO) vet ./...
	GOOS=darwin GOARCH=arm64 $(GO) vet ./...
	$(STATICCHECK) ./...

.PHONY: cover
cover: ## Coverage of the core, by function
	$(GO) test -coverpkg=.,./internal/...,./upstream,./engine,./sim -coverprofile=coverage.out ./... && $(GO) tool cover -func=coverage.out | tail -1

.PHONY: api
api: ## Write the exported API to the golden file that a test compares
	$(GO) test -run 'TestAPI$$' -update .

.PHONY: release-api
release-api: ## Keep the exported API as that of a release: make release-api VERSION=v0.1.0
	@case "$(VERSION)" in v[0-9]*.[0-9]*.[0-9]*) ;; *) echo "VERSION is '$(VERSION)': must be one, as v0.1.0"; exit 1 ;; esac
	cp testdata/api.txt testdata/api-$(VERSION).txt
