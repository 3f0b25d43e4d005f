# `make run` shows the appliance at work, `make test` proves it. Both install
# what they need beside Go on Debian, Ubuntu and Fedora: packaging/prerequisites.

SHELL    := /bin/bash
GO       ?= go
VERSION  := $(or $(VERSION),$(shell packaging/version))
LDFLAGS  := -s -w -X main.version=$(VERSION)
GOBUILD  := $(GO) build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'

# Longer fuzzing and more kills: make soak FUZZTIME=1h KILLS=1000
FUZZTIME ?= 10m
KILLS    ?= 1000
OVERLOAD ?= 5m
FLOOD    ?= 20s

.PHONY: all build run test bench packages clients repo test-packages soak attack lint generate clean prerequisites

all: build

# Four programs. Only the signer, which loads the HSM's module, uses cgo.
build:
	CGO_ENABLED=0 $(GOBUILD) -o bin/octo-stsd ./cmd/octo-stsd
	CGO_ENABLED=0 $(GOBUILD) -o bin/octo-sts ./cmd/octo-sts
	CGO_ENABLED=0 $(GOBUILD) -o bin/octo-sts-demo ./cmd/octo-sts-demo
	CGO_ENABLED=1 $(GOBUILD) -o bin/octo-sts-signer ./cmd/octo-sts-signer

# The appliance in miniature, on this machine alone, until Ctrl-C. ONCE=1: leave
# after the demonstration.
run: prerequisites build
	ONCE=$(ONCE) bin/octo-sts-demo

# Everything: unit tests, fuzz seeds, and the real programs against SoftHSM, all
# with the race detector, the programs too. (By default each of these sleeps for a
# second at its end; the tests run hundreds.)
test: prerequisites build lint
	CGO_ENABLED=1 $(GOBUILD) -race -o bin/race/ ./cmd/octo-stsd ./cmd/octo-sts ./cmd/octo-sts-signer
	GORACE=atexit_sleep_ms=0 OCTO_STS_BIN=$(CURDIR)/bin/race $(GO) test -race -timeout 14m ./...

# Our server beside a bare floor, in one run.
bench: prerequisites build
	bin/octo-sts-demo bench

# Every deb and rpm, under dist/. One architecture alone: ARCHES=amd64.
packages:
	@packaging/prerequisites packages
	VERSION=$(VERSION) packaging/packages

# The command line alone, static, for Linux, macOS and Windows, under dist/clients.
clients:
	VERSION=$(VERSION) packaging/clients

# A signed apt and a signed dnf repository of them, under dist/repo:
# make repo SIGNING_KEY=FINGERPRINT, of a key in your keyring.
repo: packages
	@packaging/prerequisites repo
	SIGNING_KEY=$(SIGNING_KEY) packaging/repo

# The packages checked, built a second time, installed and at work, on systems booted
# in containers; as root.
# SUITES="bookworm trixie noble" runs it on more than Debian 12, RUN=TestInstall a
# part of it, UPGRADES=5 RESTARTS=100 more of those.
test-packages:
	@packaging/prerequisites test-packages
	packaging/test-packages $(if $(RUN),-run '$(RUN)')

# The daemon under ten times its load, and under floods: make attack OVERLOAD=5m
attack: prerequisites build
	OCTO_STS_BIN=$(CURDIR)/bin packaging/attack $(OVERLOAD) $(FLOOD)

# Everything that takes hours.
soak: prerequisites build
	OCTO_STS_BIN=$(CURDIR)/bin packaging/soak $(FUZZTIME) $(KILLS)
	OCTO_STS_BIN=$(CURDIR)/bin packaging/attack $(OVERLOAD) $(FLOOD)

lint:
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "gofmt: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags manual ./cmd/octo-stsd ./cmd/octo-sts ./cmd/octo-sts-signer
	$(GO) vet -tags packages ./packaging/test/...
	@for system in darwin windows; do GOOS=$$system CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/octo-sts || exit 1; done

# The protobuf code in sts/stspb. Needs protoc.
generate:
	$(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
	$(GO) install connectrpc.com/connect/cmd/protoc-gen-connect-go@v1.21.1
	PATH="$$($(GO) env GOPATH)/bin:$$PATH" protoc -I . \
	  --go_out=. --go_opt=module=github.com/octo-sts/appliance \
	  --connect-go_out=. --connect-go_opt=module=github.com/octo-sts/appliance,simple sts/stspb/sts.proto

prerequisites:
	@packaging/prerequisites

clean:
	rm -rf bin dist
