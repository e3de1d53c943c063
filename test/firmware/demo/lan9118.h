/* The board's Ethernet controller, an SMSC LAN9118, as an interface of lwIP. Polled, without interrupts. */
#ifndef LAN9118_H
#define LAN9118_H

#include <stdbool.h>

#include "lwip/netif.h"

/* For netif_add. */
err_t lan9118_init(struct netif *netif);

/* Takes one frame that has come, if there is one. */
bool lan9118_poll(struct netif *netif);

#endif
