# The core without an operating system: see FIRMWARE.md. Included by the Makefile.

FIRMWARE_PACKAGES := gcc-arm-none-eabi libnewlib-arm-none-eabi libbearssl-dev libjsmn-dev python3
firmware-deps: PACKAGES := $(FIRMWARE_PACKAGES)

# All that is pure and everything that it needs: these files and BearSSL are the whole library. dns.c is in it
# for the addresses in certificates, and for firmwares whose IP stack has no resolver of its own.
PURE := bridge.c session.c requests.c api.c link.c tls.c cert.c mqtt.c http.c json.c dns.c queue.c buf.c
# No compiler extension or header beyond C11's freestanding ones and string.h.
FW_CC := arm-none-eabi-gcc
FW_FLAGS = -std=c11 -ffreestanding -mthumb -Os -ffunction-sections -fdata-sections $(WARN) -MMD -MP \
	-isystem build/firmware/include -DIAMCAT_VERSION='"$(VERSION)"' $(if $(BUILD_TIME),-DIAMCAT_BUILD_TIME=$(BUILD_TIME)) \
	-fstack-usage -fcallgraph-info=su

# The headers of BearSSL and jsmn alone: the rest of /usr/include is the host's.
build/firmware/include:
	@mkdir -p $@ && for h in bearssl bearssl.h jsmn.h; do ln -sf /usr/include/$$h $@/$$h; done

define firmware_cpu
build/firmware/$(1)/%.o: %.c Makefile test/firmware/rules.mk | build/firmware/include
	@mkdir -p $$(@D)
	$$(call Q,compile)$(FW_CC) $$(FW_FLAGS) -mcpu=$(1) -c -o $$@ $$<
build/firmware/$(1)/libiamcat.a: $(PURE:%.c=build/firmware/$(1)/%.o)
	@rm -f $$@
	$$(call Q,archive)arm-none-eabi-ar rcsD $$@ $$^
-include $$(wildcard build/firmware/$(1)/*.d)
endef
FW_CPUS := cortex-m3 cortex-m4
$(foreach cpu,$(FW_CPUS),$(eval $(call firmware_cpu,$(cpu))))

# What the library takes on a microcontroller; fails on any symbol, static byte or recursion that it must not have.
firmware: firmware-deps
	@$(MAKE) --no-print-directory $(FW_CPUS:%=build/firmware/%/libiamcat.a)
	@for cpu in $(FW_CPUS); do $(PYTHON) test/firmware/measure.py $$cpu build/firmware/$$cpu $(PURE:.c=) || exit 1; done

.PHONY: firmware firmware-deps
