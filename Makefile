# iamcat: see README.md. `make` builds ./iamcat, `make demo` shows it at work, `make test` tests it.
VERSION := 0.1.0

CC ?= cc
PYTHON ?= /usr/bin/python3
CFLAGS ?= -O2 -g
WARN := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
BASE := -std=c11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -D_TIME_BITS=64 $(WARN) -MMD -MP
# Certificates are never checked against an earlier time than that of the sources, whoever owns them.
BUILD_TIME := $(or $(SOURCE_DATE_EPOCH),$(shell git -c safe.directory='*' log -1 --format=%ct 2>/dev/null))
VERSION_FLAGS := -DIAMCAT_VERSION='"$(VERSION)"' $(if $(BUILD_TIME),-DIAMCAT_BUILD_TIME=$(BUILD_TIME))
ALL_CFLAGS = $(BASE) -ffunction-sections -fdata-sections -fstack-protector-strong $(VERSION_FLAGS) $(CFLAGS)
SANITIZE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

SRC := iamcat.c check.c config.c sandbox.c notify.c net.c resolve.c fd.c status.c figures.c bridge.c session.c requests.c api.c link.c tls.c cert.c mqtt.c http.c dns.c json.c \
	queue.c buf.c

ifndef V
Q = @echo "  $(1) $@";
endif

all: build-deps
	@$(MAKE) --no-print-directory iamcat

iamcat: $(SRC:%.c=build/%.o)
	$(call Q,link   )$(CC) $(CFLAGS) $(LDFLAGS) -Wl,--gc-sections -Wl,-z,relro,-z,now -o $@ $^ -lbearssl

build/%.o: %.c Makefile | build
	$(call Q,compile)$(CC) $(ALL_CFLAGS) -c -o $@ $<

# --- static binaries of musl and Debian's packages: make static ARCH=amd64 (or arm64, armhf) ---
THIS_ARCH := $(shell dpkg --print-architecture)
ARCH ?= $(THIS_ARCH)
GNU = $(patsubst amd64,x86_64-linux-gnu,$(patsubst arm64,aarch64-linux-gnu,$(ARCH:armhf=arm-linux-gnueabihf)))
MUSL = $(patsubst amd64,x86_64-linux-musl,$(patsubst arm64,aarch64-linux-musl,$(ARCH:armhf=arm-linux-musleabihf)))
STATIC := build/static/$(ARCH)
STATIC_PACKAGES = gcc$(if $(filter-out $(THIS_ARCH),$(ARCH)),-$(subst _,-,$(GNU))) musl-dev:$(ARCH) libbearssl-dev:$(ARCH) libjsmn-dev
# Small before fast (-Oz still has some steps that make code longer, unrolls short loops and inlines too much), all files as one. No unwind tables, which nobody reads, and no RELRO, which musl does not act on in a static file.
# The segments lie behind each other in the file, for kernels with pages of up to 64 kB (Raspberry Pi 5: 16 kB). musl's FD_SET mixes signs.
STATIC_OPT := -Oz -fno-tree-switch-conversion -fno-caller-saves -fno-thread-jumps -fno-tree-dominator-opts -fno-jump-tables \
	-fno-move-loop-invariants -fno-tree-loop-im -fno-if-conversion -fno-tree-tail-merge -fno-forward-propagate \
	--param max-completely-peeled-insns=1 --param uninlined-function-insns=0 --param sra-max-scalarization-size-Osize=8 \
	-flto -flto-partition=one $(if $(ARCH:amd64=),,-malign-data=abi)
STATIC_CFLAGS = $(BASE) -ffunction-sections -fdata-sections -fstack-protector $(VERSION_FLAGS) -isystem $(STATIC)/include \
	$(STATIC_OPT) -fno-asynchronous-unwind-tables -fno-unwind-tables -fno-ident -fno-pie -Wno-sign-conversion \
	-ffat-lto-objects
STATIC_LDFLAGS = -static -no-pie -s -fdata-sections $(STATIC_OPT) -fcallgraph-info=su \
	-Wl,--gc-sections,--sort-section=alignment,--build-id=none,-z,noseparate-code,-z,max-page-size=65536,-z,common-page-size=64,-z,norelro

static-deps: PACKAGES = $(STATIC_PACKAGES)
static: static-deps
	@$(MAKE) --no-print-directory $(STATIC)/iamcat

# A new commit, which is a new time of the build, compiles anew: the bytes of a commit are always the same.
$(STATIC)/time: always | $(STATIC)/include
	@echo $(BUILD_TIME) | cmp -s - $@ || echo $(BUILD_TIME) > $@
always:
# musl-gcc does not look in /usr/include: these headers are all that is wanted from there.
$(STATIC)/include: Makefile
	@rm -rf $@ && mkdir -p $@ && ln -s /usr/include/bearssl* /usr/include/jsmn.h $@
$(STATIC)/libbearssl.a: Makefile | $(STATIC)/include
	$(call Q,copy   )$(GNU)-objcopy -R .eh_frame /usr/lib/$(GNU)/libbearssl.a $@
$(STATIC)/%.o: %.c Makefile $(STATIC)/time | $(STATIC)/include
	$(call Q,compile)$(MUSL)-gcc $(STATIC_CFLAGS) -c -o $@ $<
$(STATIC)/iamcat: $(SRC:%.c=$(STATIC)/%.o) $(STATIC)/musl.o $(STATIC)/libbearssl.a
	$(call Q,link   )$(MUSL)-gcc $(STATIC_LDFLAGS) -Wl,-Map=$(STATIC)/map -o $@ $^
# With a hook that tries what the sandbox refuses, see test-sandbox.
$(STATIC)/hook/%.o: %.c Makefile $(STATIC)/time | $(STATIC)/include
	$(call Q,compile)mkdir -p $(@D) && $(MUSL)-gcc $(STATIC_CFLAGS) -DIAMCAT_TEST_HOOK -I. -c -o $@ $<
$(STATIC)/hook/iamcat: $(patsubst %.c,$(STATIC)/%.o,$(filter-out sandbox.c,$(SRC))) $(STATIC)/hook/sandbox.o \
		$(STATIC)/hook/test/hook.o $(STATIC)/musl.o $(STATIC)/libbearssl.a
	$(call Q,link   )$(MUSL)-gcc $(STATIC_LDFLAGS) -o $@ $^

# --- to ship: dist/iamcat-VERSION-linux-ARCH and SHA256SUMS ---
DIST := dist/iamcat-$(VERSION)-linux-
DIST_ARCHS := amd64:x86-64 arm64:arm64 armhf:armhf
dist:
	@for a in $(DIST_ARCHS); do $(MAKE) --no-print-directory static ARCH=$${a%:*} && mkdir -p dist && \
		install -m 755 build/static/$${a%:*}/iamcat $(DIST)$${a#*:} || exit 1; done
	@cd dist && sha256sum $(patsubst dist/%,%,$(foreach a,$(DIST_ARCHS),$(DIST)$(lastword $(subst :, ,$a)))) > SHA256SUMS
	@cat dist/SHA256SUMS

# Two builds of this commit are the same bytes, and each binary is at work: natively, by qemu-user, and once on a kernel
# of its own architecture that knows Landlock and seccomp.
DIST_PACKAGES := $(TEST_PACKAGES) qemu-user-static qemu-system-arm cpio git
test-dist: dist
	@$(MAKE) --no-print-directory deps PACKAGES="$(DIST_PACKAGES)"
	@$(MAKE) --no-print-directory $(TOOLS)
	@for a in arm64 armhf; do $(MAKE) --no-print-directory build/static/$$a/hook/iamcat ARCH=$$a || exit 1; done
	@VERSION=$(VERSION) IAMCAT=$(STATIC)/iamcat $(PYTEST) -v test/e2e/dist.py

# The static binary as an image, for docker load or podman load: make image ARCH=arm64 (or armhf). Always the same bytes.
IMAGE = dist/iamcat-$(VERSION)-image-$(patsubst $(ARCH):%,%,$(filter $(ARCH):%,$(DIST_ARCHS))).tar
image: static
	@$(MAKE) --no-print-directory deps PACKAGES=python3
	@mkdir -p dist && $(PYTHON) image.py $(STATIC)/iamcat $(VERSION) $(ARCH) $(IMAGE) && echo "  image   $(IMAGE)"

# The image, built in both ways, at work: needs root.
IMAGE_PACKAGES := $(TEST_PACKAGES) buildah podman runc debootstrap docker-compose \
	$(if $(wildcard /usr/*bin/dockerd),,docker.io)
test-image:
	@$(MAKE) --no-print-directory deps PACKAGES="$(IMAGE_PACKAGES)"
	@$(MAKE) --no-print-directory image
	@$(MAKE) --no-print-directory $(TOOLS)
	@VERSION=$(VERSION) IAMCAT=$(STATIC)/iamcat $(PYTEST) -v test/e2e/image.py

# --- to install: make install PREFIX=/usr (BINARY=iamcat for the dynamic one) ---
PREFIX ?= /usr/local
BINARY ?= $(STATIC)/iamcat
BIN = $(DESTDIR)$(PREFIX)/bin
UNITS = $(DESTDIR)$(PREFIX)/lib/systemd/system
MAN = $(DESTDIR)$(PREFIX)/share/man/man1
DOC = $(DESTDIR)$(PREFIX)/share/doc/iamcat
install: $(if $(filter build/static/%,$(BINARY)),static,$(BINARY))
	install -d $(BIN) $(UNITS) $(MAN) $(DOC)
	install -m 755 $(BINARY) $(BIN)/iamcat
	sed 's,@BINDIR@,$(PREFIX)/bin,' iamcat.service > $(UNITS)/iamcat.service && chmod 644 $(UNITS)/iamcat.service
	install -m 644 iamcat.1 $(MAN)
	install -m 644 mqtt.env.example LICENSE $(DOC)
uninstall:
	rm -f $(BIN)/iamcat $(UNITS)/iamcat.service $(MAN)/iamcat.1 $(DOC)/mqtt.env.example $(DOC)/LICENSE
	[ ! -d $(DOC) ] || rmdir --ignore-fail-on-non-empty $(DOC)

# The service under a systemd of its own, in a container: needs root.
SYSTEMD_PACKAGES := $(TEST_PACKAGES) systemd systemd-container debootstrap
test-systemd: static
	@$(MAKE) --no-print-directory deps PACKAGES="$(SYSTEMD_PACKAGES)"
	@$(MAKE) --no-print-directory $(TOOLS)
	@IAMCAT=$(STATIC)/iamcat $(PYTEST) -v test/e2e/systemd.py

# All of it, from a clean clone of what is committed: run it before a tag. The tag is v and the version, which is above.
release-check:
	@git diff --quiet HEAD || { echo "commit first: only what is committed is checked"; exit 1; }
	@grep -q '^## $(VERSION) - ' CHANGELOG.md || { echo "CHANGELOG.md has nothing about version $(VERSION)"; exit 1; }
	@! git rev-parse -q --verify refs/tags/v$(VERSION) >/dev/null || \
		[ "$$(git rev-parse 'v$(VERSION)^{commit}')" = "$$(git rev-parse HEAD)" ] || \
		{ echo "version $(VERSION) is released already: raise VERSION in the Makefile"; exit 1; }
	@work=$$(mktemp -d) && chmod 755 "$$work" && trap 'rm -rf "$$work"' EXIT && git clone -q . "$$work/iamcat" && cd "$$work/iamcat" && \
		.ci/run && make --no-print-directory test-sandbox test-arm test-dist test-image test-systemd && \
		echo "  release $(VERSION): all checks passed"
.PHONY: dist test-dist image test-image install uninstall test-systemd release-check

# --- set-up: what is missing of Debian's packages; of services the programs alone (invoke-rc.d asks policy-rc.d) ---
BUILD_PACKAGES := gcc libc6-dev libbearssl-dev libjsmn-dev
TEST_PACKAGES := $(BUILD_PACKAGES) libcmocka-dev libmodbus-dev mosquitto mosquitto-clients mosquitto-dev libmosquitto-dev libssl-dev openssl \
	ca-certificates python3 python3-pytest python3-pytest-xdist python3-paho-mqtt iproute2 gnutls-bin faketime mandoc
COUNT_PACKAGES := $(BUILD_PACKAGES) openssl valgrind
FUZZ_PACKAGES := $(BUILD_PACKAGES) clang libclang-rt-14-dev
LINT_PACKAGES := clang clang-format cppcheck clang-tools mandoc
TEST_PACKAGES += python3-prometheus-client

build-deps: PACKAGES := $(BUILD_PACKAGES)
deps: PACKAGES := $(TEST_PACKAGES)
lint-deps: PACKAGES := $(LINT_PACKAGES)
count-deps: PACKAGES := $(COUNT_PACKAGES)
fuzz-deps: PACKAGES := $(FUZZ_PACKAGES)
rabbitmq-deps: PACKAGES := $(TEST_PACKAGES) rabbitmq-server
deps build-deps lint-deps count-deps fuzz-deps rabbitmq-deps static-deps firmware-deps emulator-deps:
	@command -v dpkg-query >/dev/null || exit 0; \
	missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q ' installed' || echo $$p; done); \
	[ -z "$$missing" ] || { echo "  installing" $$missing; as_root=; [ "$$(id -u)" = 0 ] || as_root=sudo; \
	for a in $$(echo $$missing | tr ' ' '\n' | sed -n 's/.*://p' | sort -u); do $$as_root dpkg --add-architecture $$a; done; \
	$$as_root env DEBIAN_FRONTEND=noninteractive sh -ec 'policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then trap "rm $$policy" EXIT; trap "exit 130" INT TERM; printf "#!/bin/sh\nexit 101\n" >$$policy; chmod +x $$policy; fi; \
	apt-get update -qq || echo "  an index could not be had"; \
	apt-get install -y -qq --no-install-recommends "$$@" >/dev/null' sh $$missing; }

# --- what the tests run: iamcat with sanitizers, and its surroundings ---
build/san/iamcat: $(SRC:%.c=build/san/%.o)
	$(call Q,link   )$(CC) $(SANITIZE) -o $@ $^ -lbearssl

build/san/%.o: %.c Makefile | build/san
	$(call Q,compile)$(CC) $(ALL_CFLAGS) $(SANITIZE) -c -o $@ $<

TOOLS := build/test/gateway build/test/device build/test/broker_auth.so build/test/asleep.so
build/test/gateway: LIBS := -pthread -lbearssl -lmodbus
build/test/device: LIBS := -lmodbus
build/test/broker_auth.so: LIBS := -shared -fPIC -lcrypto
build/test/asleep.so: LIBS := -shared -fPIC
build/test/%: test/%.c Makefile | build/test
	$(call Q,compile)$(CC) $(BASE) -O1 -g -o $@ $< $(LIBS)
build/test/%.so: test/%.c Makefile | build/test
	$(call Q,compile)$(CC) $(BASE) -O1 -g -o $@ $< $(LIBS)

# A unit test includes the .c file that it tests; a line `// uses: x.c y.c` names the others that it needs.
UNIT := $(patsubst test/unit/%.c,build/unit/%,$(wildcard test/unit/*.c))
uses = $(patsubst %.c,build/san/%.o,$(shell sed -n 's,^// uses: ,,p' test/unit/$(1).c))
$(foreach t,$(notdir $(UNIT)),$(eval build/unit/$t: $(call uses,$t)))
build/unit/%: test/unit/%.c Makefile | build/unit
	$(call Q,compile)$(CC) $(ALL_CFLAGS) $(SANITIZE) -I. -o $@ $< $(call uses,$*) -lcmocka -lbearssl

# --- the commands ---
demo: deps
	@$(MAKE) --no-print-directory iamcat $(TOOLS)
	@KEEP=$(KEEP) $(PYTHON) test/demo.py

test: deps
	@$(MAKE) --no-print-directory -j2 iamcat build/san/iamcat $(TOOLS) $(UNIT)
	@PYTHON=$(PYTHON) test/run $(UNIT)

# What a TLS handshake costs, full and resumed; fails when it is over its budget.
count: count-deps
	@CC="$(CC)" test/count/run

# Beside the floor and a plain Python client, in one run, the static binary: make bench, QUICK=1 (a minute), PROFILE=1
# (what costs the instructions, in ./iamcat with its symbols, and which system calls the time), IAMCAT=path (another binary). And N iamcats against one broker, which is restarted: make fleet N=1000.
BENCH_PACKAGES := $(TEST_PACKAGES) $(STATIC_PACKAGES) valgrind strace gnuplot-nox python3-requests $(if $(PROFILE),linux-perf)
BENCHED = $(or $(IAMCAT),$(if $(PROFILE),iamcat,build/static/$(THIS_ARCH)/iamcat))
BENCH := build/bench/gateway build/bench/load build/bench/publish build/bench/publish-small
bench-deps:
	@$(MAKE) --no-print-directory deps PACKAGES="$(BENCH_PACKAGES)"
bench: bench-deps
	@$(MAKE) --no-print-directory -j2 iamcat $(BENCH) $(STATIC)/iamcat
	@QUICK=$(QUICK) PROFILE=$(PROFILE) IAMCAT=$(BENCHED) $(PYTHON) test/bench/bench.py
N ?= 1000
fleet: bench-deps
	@$(MAKE) --no-print-directory -j2 build/bench/gateway build/bench/load $(STATIC)/iamcat
	@IAMCAT=$(BENCHED) $(PYTHON) test/bench/fleet.py $(N)
build/bench/load: LIBS := -lssl -lcrypto
build/bench/%: test/bench/%.c Makefile | build/bench
	$(call Q,compile)$(CC) $(BASE) -O2 -g -o $@ $< $(LIBS)
PUBLISH := link.c mqtt.c queue.c tls.c cert.c dns.c buf.c
build/bench/publish: test/bench/publish.c test/count/handshake.c $(wildcard *.[ch]) Makefile | build/bench
	$(call Q,compile)$(CC) $(ALL_CFLAGS) -flto -I. -MF /dev/null -o $@ $< $(PUBLISH) -Wl,-z,now -l:libbearssl.a
# As it is in the static binary.
build/bench/publish-small: build/bench/publish $(STATIC)/libbearssl.a
	$(call Q,compile)$(MUSL)-gcc $(STATIC_CFLAGS) $(filter-out -s -fcallgraph-info=su,$(STATIC_LDFLAGS)) -I. -MF /dev/null \
		-o $@ test/bench/publish.c $(PUBLISH) musl.c $(STATIC)/libbearssl.a
build/bench:
	@mkdir -p $@
.PHONY: bench-deps bench fleet

# What the static binaries are made of, their memory and stack; fails when one is over test/size/budget.
ARCHS ?= $(THIS_ARCH)
size: count-deps
	@for a in $(ARCHS); do $(MAKE) --no-print-directory static ARCH=$$a || exit 1; done
	@stack=$$(CC="$(CC)" test/count/run stack) && $(PYTHON) test/size/run $$stack $(ARCHS:%=build/static/%)

# Every parser, and the core as a whole, against random input: make fuzz SECONDS=n, TARGETS="cert pem" for some
# of them, RUNS=n for so many runs instead of a time (at most SECONDS each, counted over any number of calls).
SECONDS ?= 60
fuzz: fuzz-deps
	@test/fuzz/run $(SECONDS) $(TARGETS)

# The core in virtual time against a simulated broker, gateway and network: SEEDS runs of 10 hours each.
CORE := session.c bridge.c requests.c api.c link.c tls.c cert.c mqtt.c http.c dns.c json.c queue.c buf.c
build/test/world: test/world.c $(wildcard test/world/*.[ch] *.h) $(CORE) Makefile | build/test
	$(call Q,compile)$(CC) $(ALL_CFLAGS) -O2 -I. -MF /dev/null -o $@ test/world.c test/world/*.c $(CORE) -lbearssl
SEEDS ?= 20
world: deps
	@$(MAKE) --no-print-directory build/test/world
	@build/test/world -j2 1 $(SEEDS) 10

# Is every property of that one noticed when it is broken? A quarter of an hour.
world-mutations: deps
	@$(PYTHON) test/world/mutations

# The program itself, without sanitizers, under valgrind: requests of all kinds, and sessions that break and end.
VALGRIND_TESTS := test_requests.py $(addprefix test_session.py::test_,duplicates a_stale_session_is_discarded \
	answers_are_kept_until_acknowledged real_broker_restarts stop_answers_everything) \
	test_faults.py::test_a_reset_in_the_middle_of_a_record
PYTEST = PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m pytest -q -p no:cacheprovider
valgrind: deps count-deps
	@$(MAKE) --no-print-directory iamcat $(TOOLS)
	@IAMCAT=test/valgrind SANDBOX=off $(PYTEST) -n 2 $(addprefix test/e2e/,$(VALGRIND_TESTS))

# At RabbitMQ; 55 MB of Debian packages.
test-rabbitmq: rabbitmq-deps
	@$(MAKE) --no-print-directory build/san/iamcat $(TOOLS)
	@IAMCAT=build/san/iamcat SANDBOX=off $(PYTEST) test/e2e/rabbitmq.py

# Inside the sandbox: iamcat with a hook that tries what is refused, and all end-to-end tests with the program itself.
build/hook/%.o: %.c Makefile | build/hook
	$(call Q,compile)$(CC) $(ALL_CFLAGS) -DIAMCAT_TEST_HOOK -c -o $@ $<
build/hook/hook.o: test/hook.c Makefile | build/hook
	$(call Q,compile)$(CC) $(ALL_CFLAGS) -I. -c -o $@ $<
build/hook/iamcat: $(SRC:%.c=build/hook/%.o) build/hook/hook.o
	$(call Q,link   )$(CC) -o $@ $^ -lbearssl
build/hook:
	@mkdir -p $@
test-sandbox: deps
	@$(MAKE) --no-print-directory -j2 iamcat build/hook/iamcat $(TOOLS)
	@$(PYTEST) test/e2e/sandbox.py
	@$(PYTEST) -n $(or $(JOBS),6) test/e2e
# What Arm binaries do in all end-to-end tests, by qemu-user, which has no sandbox: no system call that theirs would refuse.
# make test-arm ARCHS=armhf for one of them. It leaves out what looks into the process, which is qemu's here, or moves the clock.
ARM_ARCHS = $(filter arm%,$(ARCHS))
NOT_EMULATED := $(foreach t,test_config.py::test_started_with_closed_descriptors test_faults.py::test_the_clock_jumps test_faults.py::test_the_machine_sleeps \
	test_faults.py::test_descriptors_are_exhausted test_trust.py::test_clock test_trust.py::test_clock_before_the_build \
	test_session.py::test_a_failure_is_told_once_and_backed_off test_status.py::test_metrics_port_in_use,--deselect test/e2e/$t)
test-arm: deps
	@$(MAKE) --no-print-directory deps PACKAGES=qemu-user-static
	@$(MAKE) --no-print-directory iamcat $(TOOLS)
	@for a in $(or $(ARM_ARCHS),arm64 armhf); do $(MAKE) --no-print-directory test-arm-one ARCH=$$a || exit 1; done
test-arm-one: static
	@rm -rf build/calls/$(ARCH) && mkdir -p build/calls/$(ARCH) && chmod 1777 build/calls/$(ARCH)
	@printf '#!/bin/sh\nexec %s -strace -D "%s/$$$$" %s "$$@"\n' $(QEMU_USER) $(CURDIR)/build/calls/$(ARCH) \
		$(CURDIR)/$(STATIC)/iamcat > build/calls/$(ARCH).iamcat && chmod +x build/calls/$(ARCH).iamcat
	@IAMCAT=build/calls/$(ARCH).iamcat SANDBOX=off $(PYTEST) -n $(or $(JOBS),5) $(NOT_EMULATED) test/e2e
	@test/calls sandbox.c build/calls/$(ARCH)/*
QEMU_USER = qemu-$(patsubst arm64,aarch64,$(ARCH:armhf=arm))-static
.PHONY: test-sandbox test-arm test-arm-one

# Random faults for MINUTES on the real thing, counted at both ends; SAN=1: with sanitizers; SEED=n: those faults again.
MINUTES ?= 2
SOAKED = $(if $(filter-out 0,$(SAN)),build/san/)iamcat
soak: deps
	@$(MAKE) --no-print-directory -j2 $(SOAKED) $(TOOLS)
	@IAMCAT=$(SOAKED) MINUTES=$(MINUTES) SEED=$(SEED) $(PYTHON) test/soak.py

# The embedded roots, from Debian's ca-certificates, or from PEM files: make roots ROOTS="mine.pem another.pem".
ROOTS_NEEDS := cert.c dns.c buf.c
build/test/roots: LIBS := $(ROOTS_NEEDS) -lbearssl
build/test/roots: $(ROOTS_NEEDS)
roots: build/test/roots
	build/test/roots $(ROOTS) > build/roots.h && mv build/roots.h roots.h

include test/firmware/rules.mk

C_FILES = $(wildcard *.[ch] test/*.[ch] test/*/*.[ch]) test/firmware/*/*.[ch]
lint: deps lint-deps
	clang-format --dry-run -Werror $(C_FILES)
	@$(MAKE) --no-print-directory -j2 lint-clang lint-cppcheck lint-analyzer lint-manual
	@echo "  lint: nothing found"

lint-manual:
	mandoc -Tlint iamcat.1
lint-clang:
	@for f in $(SRC); do clang $(ALL_CFLAGS) -MF /dev/null -fsyntax-only $$f || exit 1; done
lint-cppcheck:
	cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 --enable=warning,performance,portability \
		--suppress=missingIncludeSystem -DIAMCAT_VERSION='""' $(SRC)
lint-analyzer: | build
	@for f in $(SRC); do echo "  analyze $$f"; $(CC) $(ALL_CFLAGS) -O1 -fanalyzer -MF /dev/null -c -o build/analyzed.o $$f || exit 1; done

build build/san build/test build/unit:
	@mkdir -p $@

clean:
	rm -rf build dist iamcat

-include $(wildcard build/*.d build/*/*.d build/static/*/*.d)
.PHONY: valgrind rabbitmq-deps test-rabbitmq
.PHONY: all build-deps deps lint-deps count-deps fuzz-deps demo test world world-mutations count fuzz roots lint lint-clang lint-cppcheck lint-analyzer lint-manual clean
.PHONY: soak
.PHONY: always static-deps static size
