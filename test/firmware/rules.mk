# The core without an operating system: see FIRMWARE.md. Included by the Makefile.

FIRMWARE_PACKAGES := gcc-arm-none-eabi libnewlib-arm-none-eabi libbearssl-dev libjsmn-dev python3
EMULATOR_PACKAGES := $(FIRMWARE_PACKAGES) qemu-system-arm dpkg-dev patch ca-certificates
firmware-deps: PACKAGES := $(FIRMWARE_PACKAGES)
emulator-deps: PACKAGES := $(EMULATOR_PACKAGES)

# All that is pure and everything that it needs: these files and BearSSL are the whole library. dns.c is in it
# for the addresses in certificates, and for firmwares whose IP stack has no resolver of its own.
PURE := bridge.c session.c requests.c api.c link.c tls.c cert.c mqtt.c http.c json.c dns.c queue.c buf.c
FW_CPUS := cortex-m3 cortex-m4
# Which sizes: the small profile, a header of your own, or none for those of the program.
FW_SIZES ?= small.h

FW := build/firmware
FW_CC := arm-none-eabi-gcc
FW_OPTIONS = -mthumb -Os -ffunction-sections -fdata-sections -MMD -MP -fstack-usage -fcallgraph-info=su
# No compiler extension, and no header beyond C11's freestanding ones and string.h.
FW_FLAGS = -std=c11 -ffreestanding $(FW_OPTIONS) $(WARN) -isystem $(FW)/include -DIAMCAT_VERSION='"$(VERSION)"' \
	$(if $(BUILD_TIME),-DIAMCAT_BUILD_TIME=$(BUILD_TIME))
FW_SIZE_FLAG = $(if $(FW_SIZES),-DIAMCAT_SIZES='"$(FW_SIZES)"')

# The headers of BearSSL and jsmn alone: the rest of /usr/include is the host's.
$(FW)/include:
	@mkdir -p $@ && for h in bearssl bearssl.h jsmn.h; do ln -sf /usr/include/$$h $@/$$h; done

# Other sizes, or another commit's time, compile the library anew.
$(FW)/sizes: always
	@mkdir -p $(@D) && { echo '$(FW_SIZES) $(BUILD_TIME)' | cmp -s - $@ || echo '$(FW_SIZES) $(BUILD_TIME)' > $@; }

define firmware_cpu
$(FW)/$(1)/%.o: %.c Makefile test/firmware/rules.mk $(FW)/sizes | $(FW)/include
	@mkdir -p $$(@D)
	$$(call Q,compile)$(FW_CC) $$(FW_FLAGS) $$(FW_SIZE_FLAG) -mcpu=$(1) -c -o $$@ $$<
$(FW)/$(1)/libiamcat.a: $(PURE:%.c=$(FW)/$(1)/%.o)
	@rm -f $$@
	$$(call Q,archive)arm-none-eabi-ar rcsD $$@ $$^
endef
$(foreach cpu,$(FW_CPUS),$(eval $(call firmware_cpu,$(cpu))))

# The header is one for C++, and the port in FIRMWARE.md is one that compiles.
$(FW)/port.o: FIRMWARE.md $(wildcard *.h) $(FW)/sizes test/firmware/rules.mk | $(FW)/include
	@echo '#include "iamcat.h"' | $(FW_CXX) -fsyntax-only -x c++ -
	@{ printf '#include "iamcat.h"\nvoid print(struct slice), sleep_until(int64_t);\nbool serve(struct link *);\n' && \
		printf 'struct bridge_time time_now(void);\nuint32_t random_32_bits(void);\n' && \
		printf 'void port(void);\nvoid port(void)\n{\nsize_t at;\nenum bridge_level level;\nstruct slice text;\n' && \
		sed -n '/^    static struct bridge /,/^    }$$/p' FIRMWARE.md && echo '}'; } | \
		$(FW_CC) $(FW_FLAGS) $(FW_SIZE_FLAG) -mcpu=cortex-m3 -I. -MF /dev/null -x c -c -o $@ -

# What the library takes on a microcontroller; fails on any symbol, static byte or recursion that it must not have.
firmware: firmware-deps
	@$(MAKE) --no-print-directory $(FW)/port.o
	@$(MAKE) --no-print-directory $(FW_CPUS:%=$(FW)/%/libiamcat.a)
	@for cpu in $(FW_CPUS); do $(PYTHON) test/firmware/measure.py $$cpu $(FW)/$$cpu $(PURE:.c=) || exit 1; done

# --- the unit tests and the simulated world on the emulated board, QEMU's mps2-an385 with a Cortex-M3 ---
# With the program's own sizes, so that the tests are those of the host; newlib's uint32_t is a long, as wide as %u.
M3 := -mcpu=cortex-m3
BOARD_FLAGS = -std=gnu11 $(M3) $(FW_OPTIONS) $(WARN) -Wno-format -DUNIT_ON_CHIP -isystem $(FW)/include -isystem test/firmware/target -I. \
	-DIAMCAT_VERSION='"$(VERSION)"' $(if $(BUILD_TIME),-DIAMCAT_BUILD_TIME=$(BUILD_TIME))
BOARD_LINK = $(M3) -mthumb -nostartfiles --specs=rdimon.specs -T test/firmware/board/board.ld -Wl,--gc-sections,--no-warn-rwx-segments
BOARD_BIG := -Wl,--defsym=FLASH_BYTES=4M,--defsym=RAM_START=0x21000000,--defsym=RAM_BYTES=16M

$(FW)/src/%/debian: test/firmware/fetch
	$(call Q,fetch  )test/firmware/fetch $(FW)/src $*
	@touch $@

BEARSSL := $(wildcard $(FW)/src/bearssl/src/*.c $(FW)/src/bearssl/src/*/*.c)
$(FW)/bearssl/%.o: $(FW)/src/bearssl/src/%.c
	@mkdir -p $(@D)
	@$(FW_CC) $(M3) $(FW_OPTIONS) -I$(FW)/src/bearssl/inc -I$(FW)/src/bearssl/src -c -o $@ $<
$(FW)/libbearssl.a: $(BEARSSL:$(FW)/src/bearssl/src/%.c=$(FW)/bearssl/%.o)
	$(call Q,archive)rm -f $@ && arm-none-eabi-ar rcsD $@ $^

$(FW)/board/%.o: %.c Makefile test/firmware/rules.mk | $(FW)/include
	@mkdir -p $(@D)
	$(call Q,compile)$(FW_CC) $(FW_FLAGS) $(M3) -c -o $@ $<
$(FW)/board/test/%.o: test/%.c Makefile test/firmware/rules.mk | $(FW)/include
	@mkdir -p $(@D)
	$(call Q,compile)$(FW_CC) $(BOARD_FLAGS) -c -o $@ $<

BOARD := $(FW)/board/test/firmware/board/board.o
TARGET := $(BOARD) $(FW)/board/test/firmware/target/target.o
# config.c knows the operating system, and so does its test.
FW_UNIT := $(filter-out config,$(patsubst test/unit/%.c,%,$(wildcard test/unit/*.c)))
fw_uses = $(patsubst %.c,$(FW)/board/%.o,$(shell sed -n 's,^// uses: ,,p' test/unit/$(1).c))
$(foreach t,$(FW_UNIT),$(eval $(FW)/unit/$t.elf: $(call fw_uses,$t)))
$(FW)/unit/%.elf: $(FW)/board/test/unit/%.o $(TARGET) $(FW)/libbearssl.a test/firmware/board/board.ld
	@mkdir -p $(@D)
	$(call Q,link   )$(FW_CC) $(BOARD_LINK) $(BOARD_BIG) -o $@ $(filter %.o,$^) $(FW)/libbearssl.a

WORLD := test/world.c $(wildcard test/world/*.c)
$(FW)/world.elf: $(WORLD:%.c=$(FW)/board/%.o) $(PURE:%.c=$(FW)/board/%.o) $(TARGET) $(FW)/libbearssl.a test/firmware/board/board.ld
	$(call Q,link   )$(FW_CC) $(BOARD_LINK) $(BOARD_BIG) -o $@ $(filter %.o,$^) $(FW)/libbearssl.a

# The same with the library itself and its sizes, which the host can run, too.
$(FW)/sized/%.o: %.c Makefile test/firmware/rules.mk $(FW)/sizes | $(FW)/include
	@mkdir -p $(@D)
	$(call Q,compile)$(FW_CC) $(BOARD_FLAGS) $(FW_SIZE_FLAG) -c -o $@ $<
$(FW)/world-sized.elf: $(WORLD:%.c=$(FW)/sized/%.o) $(FW)/cortex-m3/libiamcat.a $(TARGET) $(FW)/libbearssl.a test/firmware/board/board.ld
	$(call Q,link   )$(FW_CC) $(BOARD_LINK) $(BOARD_BIG) -o $@ $(filter %.o,$^) $(FW)/cortex-m3/libiamcat.a $(FW)/libbearssl.a
build/test/world-sized: $(WORLD) $(wildcard test/world/*.h *.h) $(CORE) Makefile $(FW)/sizes | build/test
	$(call Q,compile)$(CC) $(ALL_CFLAGS) -O2 $(FW_SIZE_FLAG) -I. -MF /dev/null -o $@ $(WORLD) $(CORE) -lbearssl

# C++ includes iamcat.h, and two bridges run side by side in it, with the sizes of the library. Without C++'s own library.
FW_CXX = arm-none-eabi-g++ -std=c++11 -mthumb -Os -fno-exceptions -fno-rtti -nostdinc++ -Wall -Wextra -Wshadow -Werror \
	-isystem $(FW)/include -I. $(FW_SIZE_FLAG)
$(FW)/two.o: test/firmware/two.cpp $(FW)/sizes | $(FW)/include
	$(call Q,compile)$(FW_CXX) $(M3) -MMD -MP -c -o $@ $<
$(FW)/two.elf: $(FW)/two.o $(FW)/cortex-m3/libiamcat.a $(BOARD) $(FW)/libbearssl.a test/firmware/board/board.ld
	$(call Q,link   )$(FW_CC) $(BOARD_LINK) $(BOARD_BIG) -o $@ $< $(BOARD) $(FW)/cortex-m3/libiamcat.a $(FW)/libbearssl.a

# The simulated world with the library's sizes, on the host.
firmware-world: deps
	@$(MAKE) --no-print-directory build/test/world-sized
	@build/test/world-sized -j2 1 $(SEEDS) 10

# Runs the host's tests on the chip: the same vectors, and the simulated world, which must take the same course.
CHIP_SEEDS := 1 4 2
LONGEST := tls cert
firmware-test: deps emulator-deps
	@$(MAKE) --no-print-directory $(FW)/src/bearssl/debian
	@$(MAKE) --no-print-directory -j2 $(FW)/libbearssl.a
	@$(MAKE) --no-print-directory -j2 $(FW_UNIT:%=$(FW)/unit/%.elf) $(FW)/world.elf $(FW)/world-sized.elf $(FW)/two.elf \
		build/test/world build/test/world-sized
	@test/firmware/run $(LONGEST:%=$(FW)/unit/%.elf) "$(FW)/world.elf $(CHIP_SEEDS)" "$(FW)/world-sized.elf $(CHIP_SEEDS)" \
		$(FW)/two.elf $(patsubst %,$(FW)/unit/%.elf,$(filter-out $(LONGEST),$(FW_UNIT))) > $(FW)/there; \
		status=$$?; cat $(FW)/there; exit $$status
	@for w in world world-sized; do build/test/$$w $(CHIP_SEEDS) | sed 's/^/# /' > $(FW)/here && \
		grep -qxFf $(FW)/here $(FW)/there || { echo "$$w took another course on the chip"; exit 1; }; done

# What TLS costs there, in instructions, with the library's sizes.
$(FW)/sized/test/firmware/handshake.o: BOARD_FLAGS += -I$(FW)/sized
$(FW)/handshake.elf: $(FW)/sized/test/firmware/handshake.o $(FW)/cortex-m3/libiamcat.a $(TARGET) $(FW)/libbearssl.a test/firmware/board/board.ld
	$(call Q,link   )$(FW_CC) $(BOARD_LINK) $(BOARD_BIG) -u _printf_float -o $@ $(filter %.o,$^) $(FW)/cortex-m3/libiamcat.a $(FW)/libbearssl.a
firmware-count: count-deps emulator-deps
	@test/count/run stack >/dev/null # makes the certificates
	@$(MAKE) --no-print-directory $(FW)/src/bearssl/debian build/test/roots
	@mkdir -p $(FW)/sized && build/test/roots build/count/root.crt > $(FW)/sized/count_root.h
	@$(MAKE) --no-print-directory -j2 $(FW)/handshake.elf
	@ICOUNT=1 test/firmware/run "$(FW)/handshake.elf build/count"

# --- a whole gateway: lwIP, BearSSL and the library in 200 kB of flash and 96 kB of RAM ---
FLASH_BYTES := 200000
RAM_BYTES := 96000
LWIP := $(wildcard $(FW)/src/lwip/src/core/*.c $(FW)/src/lwip/src/core/ipv4/*.c) $(FW)/src/lwip/src/netif/ethernet.c
LWIP_FLAGS := -isystem $(FW)/src/lwip/src/include -Itest/firmware/demo -Itest/firmware/board
$(FW)/lwip/%.o: $(FW)/src/lwip/src/%.c test/firmware/demo/lwipopts.h test/firmware/demo/arch/cc.h
	@mkdir -p $(@D)
	@$(FW_CC) $(M3) $(FW_OPTIONS) $(LWIP_FLAGS) -c -o $@ $<
DEMO := $(patsubst %.c,$(FW)/demo/%.o,$(wildcard test/firmware/demo/*.c))
$(FW)/demo/%.o: %.c Makefile test/firmware/rules.mk $(FW)/sizes | $(FW)/include
	@mkdir -p $(@D)
	$(call Q,compile)$(FW_CC) -std=gnu11 $(M3) $(FW_OPTIONS) $(WARN) $(LWIP_FLAGS) -isystem $(FW)/include -I. $(FW_SIZE_FLAG) -c -o $@ $<
$(FW)/demo.elf: $(DEMO) $(LWIP:$(FW)/src/lwip/src/%.c=$(FW)/lwip/%.o) $(BOARD) $(FW)/cortex-m3/libiamcat.a $(FW)/libbearssl.a \
		test/firmware/board/board.ld
	$(call Q,link   )$(FW_CC) $(M3) -mthumb -nostartfiles --specs=nano.specs -T test/firmware/board/board.ld \
		-Wl,--gc-sections,--no-warn-rwx-segments,-Map=$@.map,--defsym=FLASH_BYTES=$(FLASH_BYTES) \
		-Wl,--defsym=RAM_START=0x20000000,--defsym=RAM_BYTES=$(RAM_BYTES) -o $@ $(filter %.o %.a,$^)

firmware-demo: deps emulator-deps
	@$(MAKE) --no-print-directory $(FW)/src/bearssl/debian $(FW)/src/lwip/debian
	@$(MAKE) --no-print-directory -j2 $(FW)/demo.elf $(TOOLS)
	@$(PYTHON) test/firmware/demo.py

.SECONDARY: $(FW)/src/bearssl/debian $(FW)/src/lwip/debian $(FW_UNIT:%=$(FW)/board/test/unit/%.o)
-include $(wildcard $(FW)/*/*.d $(FW)/*/*/*.d $(FW)/*/*/*/*.d $(FW)/*/*/*/*/*.d)
.PHONY: firmware firmware-deps emulator-deps firmware-test firmware-world firmware-count firmware-demo
