# make run      build, then do the main job on a network of this machine; FILE=path sends that file
# make test     the tests: what a clean checkout must pass
# make ci       all that a change must pass: lint, test, run, short benchmarks and
#               fuzz, a fault of the day, and the race detector where it can be built
.POSIX:
GO      = go
VERSION = $(shell git describe --always --dirty 2>/dev/null || echo dev)
BUILD   = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X top/lib/top.Version=$(VERSION)'
FUZZ    = 20s
REF     = HEAD~1

.PHONY: build run test ci race fault fuzz bench bench-short bench-diff lint shape fault-rotate clean

build:
	$(BUILD) -o bin/ ./cmd/...

run: build
	scripts/run $(FILE)

test: build
	CGO_ENABLED=0 $(GO) test -timeout 10m ./...

# The rooms that have no CometBFT in them; cgo is what the race detector needs.
race:
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./lib/keys ./lib/pool ./lib/load ./lib/tool ./lib/daemon ./lib/sock ./lib/pipe ./lib/home ./lib/wallet ./lib/mesh ./lib/session ./lib/delivery ./lib/envelope ./lib/relay ./lib/carry ./lib/netstack ./lib/socks ./lib/wg ./lib/flow ./lib/policy ./lib/vpn

# Ten rounds of every fault, and one while payments are offered without a pause; make
# test does one.
fault: build
	TOP_FAULT_ROUNDS=10 CGO_ENABLED=0 $(GO) test -count=1 -timeout 40m -run Fault ./lib/... ./scripts
	TOP_FAULT_LOAD=100 CGO_ENABLED=0 $(GO) test -count=1 -timeout 20m -run Fault ./scripts

fuzz:
	scripts/fuzz $(FUZZ)

bench: build
	scripts/bench

bench-short:
	CGO_ENABLED=0 $(GO) test -run='^$$' -bench=. -benchtime=50ms ./lib/session ./lib/ledger ./lib/receipt ./lib/envelope

# Compares the benchmarks of this tree with those of REF.
bench-diff:
	scripts/bench-diff $(REF)

lint:
	@test -z "$$(gofmt -l cmd lib scripts)" || { gofmt -l cmd lib scripts; echo "gofmt would change these"; exit 1; }
	CGO_ENABLED=0 $(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...

# The sizes of rooms, beside the house's habits (docs/style.md): lines, files, the
# longest file. The rule itself is TestR7 of lib/rules.
shape:
	@for d in lib/* cmd/*; do find $$d -maxdepth 1 -name '*.go' ! -name '*_test.go' -exec wc -l {} + | \
	  awk -v room=$$d '$$2!="total"{n++; s+=$$1; if($$1>m){m=$$1; f=$$2}} END{if(n) printf "%-16s %5d lines in %2d files, the longest %s with %d\n", room, s, n, f, m}'; done
	CGO_ENABLED=0 $(GO) test -count=1 -run R7 ./lib/rules

# One fault ten times over, another each day.
fault-rotate: build
	@set -e; all=$$(CGO_ENABLED=0 $(GO) test -list Fault ./scripts | grep '^Test'); \
	n=$$(echo "$$all" | wc -l); one=$$(echo "$$all" | sed -n "$$(($$(date +%j | sed 's/^0*//') % n + 1))p"); \
	echo "$$one"; TOP_FAULT_ROUNDS=3 CGO_ENABLED=0 $(GO) test -count=1 -timeout 20m -run "^$$one\$$" ./scripts

ci: lint test bench-short run fault-rotate
	$(MAKE) fuzz FUZZ=2s
	@if command -v gcc >/dev/null; then $(MAKE) race; else echo "no C compiler: the race detector was not run"; fi

clean:
	rm -rf bin
