# levee's commands. `make demo` and `make test` need root (or sudo) for network namespaces; all they do
# happens inside namespaces that they make and remove.

GO ?= go
FUZZTIME ?= 60s
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS = -X main.version=$(VERSION)

# Debian packages of the peers that the tests run.
PEERS = nginx-light curl iperf3 openssh-server openssh-client wrk apache2-utils nftables tshark iproute2 python3 \
	prometheus systemd linux-libc-dev ethtool mandoc

.PHONY: chaos all build man package demo bench churn floods engage night-call forgeries reloads measure survive test unit integration lint fuzz generate packages clean

all: build

# Both binaries, static.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/levee ./cmd/levee
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/levee-lab ./cmd/levee-lab

# The manual pages of levee and its verbs, in bin/man: man -l bin/man/levee.8.
man: build
	mkdir -p bin/man
	SOURCE_DATE_EPOCH="$$(git log -1 --format=%ct 2>/dev/null)" bin/levee man bin/man

# A Debian package in PACKAGES, with the list of what it is built from. The same source makes the same bytes.
PACKAGES ?= bin
package:
	CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS) -s -w' -o bin/levee ./cmd/levee
	cmd/levee/package/build.sh bin/levee '$(VERSION)' '$(PACKAGES)'

# What levee does, in under a minute.
demo: build
	bin/levee-lab demo --levee bin/levee

# Side by side in one run: plain forwarding, the kernel's SYNPROXY, levee. 22 minutes on a quiet machine; the table and
# its plots go to docs.
bench: build
	bin/levee-lab bench --levee bin/levee --out docs --commit '$(VERSION)' --date "$$(date -u +%F)"

# A million flows open, and connections that come and go as fast as the machine can for ten minutes; 16 minutes in all.
churn: build
	bin/levee-lab churn --levee bin/levee --out docs/churn.md --commit '$(VERSION)' --date "$$(date -u +%F)"

# The comparisons behind two tables of docs/tcp.md; four minutes on a quiet machine.
measure: build packages
	LEVEE_REQUIRE_ROOT=1 LEVEE_BINARY=$(CURDIR)/bin/levee $(GO) test -count=1 -v -tags measure -timeout 20m \
		-run 'PathMTUSideBySide|ConnectionPerRequestRate/IPv4/wrk' ./integration

# Floods of every kind of segment, and what becomes of honest clients; three minutes.
floods: build
	bin/levee-lab floods --levee bin/levee --out docs/floods.md --commit '$(VERSION)' --date "$$(date -u +%F)"

# Quiet, a flood of one destination, quiet, in mode auto: half a minute; the plot goes to docs.
engage: build
	bin/levee-lab engage --levee bin/levee --out docs --commit '$(VERSION)' --date "$$(date -u +%F)"

# What an operator who is called at night types and sees, recorded on a lab, with pictures of levee top and of the dashboard; a minute.
night-call: build packages
	bin/levee-lab night-call --levee bin/levee --out docs/night-call.md --dashboard docs/grafana-dashboard.json --commit '$(VERSION)' --date "$$(date -u +%F)"

# A hundred million random ACKs against the cookies of each layout; a minute.
forgeries:
	LEVEE_FORGERIES=100000000 $(GO) test -count=1 -v -run TestForgedACKs ./proxy

# A reload each second under load, for two minutes.
reloads: build
	LEVEE_REQUIRE_ROOT=1 LEVEE_BINARY=$(CURDIR)/bin/levee LEVEE_RELOAD_SECONDS=120 $(GO) test -count=1 -v -run TestReloadUnderLoad ./integration

# Everything: unit and in-process tests with the race detector, in random order, fuzz seeds, and real hosts in
# network namespaces with real peers. No test skips: what can't run fails and says why.
test: unit integration

# Restarts and crashes, more often than make test has time for.
survive: build
	LEVEE_REQUIRE_ROOT=1 LEVEE_RESTARTS=20 LEVEE_BINARY=$(CURDIR)/bin/levee $(GO) test -count=1 -v -run Survives ./integration
	LEVEE_CRASHES=10000 $(GO) test -count=1 -v -timeout 30m -run TestCrashes ./proxy

# Kills, upgrades, reloads, floods, and whatever others do to rules, interfaces and the TUN, for a quarter of an hour.
chaos: build
	LEVEE_REQUIRE_ROOT=1 LEVEE_BINARY=$(CURDIR)/bin/levee LEVEE_CHAOS=15m LEVEE_CHAOS_OUT=$(CURDIR)/docs/chaos.md \
		LEVEE_CHAOS_COMMIT='$(VERSION)' LEVEE_CHAOS_DATE="$$(date -u +%F)" \
		$(GO) test -count=1 -v -timeout 30m -run TestChaos ./integration

# The race detector allocates, so what counts allocations runs without it.
unit: packages
	LEVEE_REQUIRE_ROOT=1 $(GO) test -race -shuffle=on -timeout 25m $$($(GO) list ./... | grep -v '/integration$$')
	LEVEE_REQUIRE_ROOT=1 $(GO) test -count=1 -run 'Alloc' ./stack ./proxy/... ./tunnel

integration: build packages
	LEVEE_REQUIRE_ROOT=1 LEVEE_BINARY=$(CURDIR)/bin/levee $(GO) test -count=1 -shuffle=on -timeout 20m ./integration

packages:
	@integration/packages.sh $(PEERS)

# Formatting, vet, staticcheck (pinned in go.mod as a tool).
lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted" >&2; exit 1; }
	$(GO) vet -tags measure ./...
	$(GO) tool staticcheck -tags measure ./...
	$(GO) mod tidy -diff

# Every fuzz target for FUZZTIME each.
fuzz:
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

clean:
	rm -rf bin
