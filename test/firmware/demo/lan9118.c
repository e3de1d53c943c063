#include "lan9118.h"

#include <string.h>

#include "lwip/etharp.h"
#include "netif/ethernet.h"

/* SMSC, LAN9118 data sheet, §5.3: offsets in bytes */
enum {
	RX_DATA = 0x00,
	TX_DATA = 0x20,
	RX_STATUS = 0x40,
	TX_STATUS = 0x48,
	RX_CONFIG = 0x6c,
	TX_CONFIG = 0x70,
	HW_CONFIG = 0x74,
	RX_INFO = 0x7c,
	TX_INFO = 0x80,
	MAC_COMMAND = 0xa4,
	MAC_DATA = 0xa8
};
enum { MAC_CONTROL = 1, MAC_ADDRESS_HIGH = 2, MAC_ADDRESS_LOW = 3 };
enum { FIRST_AND_LAST = 3 << 12, TX_ON = 2, MAC_BUSY = 1 << 31, RX_ERROR = 1 << 15, CRC_BYTES = 4 };
enum { FULL_DUPLEX = 1 << 20, TX_ENABLED = 1 << 3, RX_ENABLED = 1 << 2, STORE_AND_FORWARD = 1 << 20 };

static volatile uint32_t *reg(uint32_t offset)
{
	return (volatile uint32_t *)(0x40200000 + offset);
}

static void write_mac(uint32_t index, uint32_t value)
{
	*reg(MAC_DATA) = value;
	*reg(MAC_COMMAND) = (uint32_t)MAC_BUSY | index;
	while (*reg(MAC_COMMAND) & (uint32_t)MAC_BUSY)
		;
}

static err_t send_frame(struct netif *netif, struct pbuf *p)
{
	uint32_t word = 0, n = 0;
	(void)netif;
	while (*reg(TX_INFO) >> 16 & 0xff) /* how earlier ones went */
		(void)*reg(TX_STATUS);
	if ((*reg(TX_INFO) & 0xffff) < p->tot_len + 16u)
		return ERR_BUF;
	*reg(TX_DATA) = FIRST_AND_LAST | p->tot_len;
	*reg(TX_DATA) = p->tot_len;
	for (const struct pbuf *q = p; q != NULL; q = q->next) {
		for (uint32_t i = 0; i < q->len; i++) {
			word |= (uint32_t)((const uint8_t *)q->payload)[i] << n % 4 * 8;
			if (++n % 4 == 0) {
				*reg(TX_DATA) = word;
				word = 0;
			}
		}
	}
	if (n % 4 != 0)
		*reg(TX_DATA) = word;
	return ERR_OK;
}

err_t lan9118_init(struct netif *netif)
{
	static const uint8_t address[6] = {0x02, 0x69, 0x61, 0x6d, 0x63, 0x61};
	netif->name[0] = 'e';
	netif->name[1] = 'n';
	netif->hwaddr_len = sizeof address;
	memcpy(netif->hwaddr, address, sizeof address);
	netif->mtu = 1500;
	netif->flags = NETIF_FLAG_BROADCAST | NETIF_FLAG_ETHARP | NETIF_FLAG_ETHERNET | NETIF_FLAG_LINK_UP;
	netif->output = etharp_output;
	netif->linkoutput = send_frame;
	write_mac(MAC_ADDRESS_LOW, address[0] | (uint32_t)address[1] << 8 | (uint32_t)address[2] << 16 |
	                                   (uint32_t)address[3] << 24);
	write_mac(MAC_ADDRESS_HIGH, address[4] | (uint32_t)address[5] << 8);
	*reg(HW_CONFIG) = STORE_AND_FORWARD | 5 << 16; /* 5 kB of FIFO for what is to be sent */
	*reg(RX_CONFIG) = 0;
	*reg(TX_CONFIG) = TX_ON;
	write_mac(MAC_CONTROL, FULL_DUPLEX | TX_ENABLED | RX_ENABLED);
	return ERR_OK;
}

bool lan9118_poll(struct netif *netif)
{
	if ((*reg(RX_INFO) >> 16 & 0xff) == 0)
		return false;
	uint32_t status = *reg(RX_STATUS), n = status >> 16 & 0x3fff, word = 0;
	size_t at = 0, left = n > CRC_BYTES ? n - CRC_BYTES : 0;
	struct pbuf *p = status & RX_ERROR || left == 0 ? NULL : pbuf_alloc(PBUF_RAW, (u16_t)left, PBUF_POOL);
	struct pbuf *q = p;
	for (uint32_t i = 0; i < (n + 3) / 4 * 4; i++) { /* the FIFO is emptied in any case */
		if (i % 4 == 0)
			word = *reg(RX_DATA);
		if (q == NULL || i >= left)
			continue;
		((uint8_t *)q->payload)[at++] = (uint8_t)(word >> i % 4 * 8);
		if (at == q->len) {
			q = q->next;
			at = 0;
		}
	}
	if (p != NULL && netif->input(p, netif) != ERR_OK)
		pbuf_free(p);
	return true;
}
