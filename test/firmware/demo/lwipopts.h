/* lwIP as small as a gateway needs it: IPv4, DHCP, DNS, TCP by its raw interface, no threads. */
#ifndef LWIPOPTS_H
#define LWIPOPTS_H

#define NO_SYS               1
#define SYS_LIGHTWEIGHT_PROT 0
#define LWIP_NETCONN         0
#define LWIP_SOCKET          0
#define LWIP_RAW             0
#define LWIP_IPV6            0
#define LWIP_DHCP            1
#define LWIP_DNS             1
#define LWIP_ICMP            1
#define IP_REASSEMBLY        0
#define IP_FRAG              0

#define MEM_ALIGNMENT      4
#define MEM_SIZE           8192
#define MEMP_NUM_TCP_PCB   6
#define MEMP_NUM_TCP_SEG   16
#define MEMP_NUM_UDP_PCB   3
#define MEMP_NUM_PBUF      8
#define PBUF_POOL_SIZE     8
#define TCP_MSS            1024
#define TCP_WND            (2 * TCP_MSS)
#define TCP_SND_BUF        (2 * TCP_MSS)
#define TCP_SND_QUEUELEN   8
#define TCP_LISTEN_BACKLOG 0
#define TCP_QUEUE_OOSEQ    0

#define LWIP_STATS         1
#define LWIP_STATS_DISPLAY 0
#define MEM_STATS          1
#define MEMP_STATS         0
#define LINK_STATS         0
#define IP_STATS           0
#define TCP_STATS          0
#define UDP_STATS          0
#define ICMP_STATS         0
#define ETHARP_STATS       0

#endif
