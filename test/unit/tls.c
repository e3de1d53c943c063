/* The anchors from PEM text in all its shapes, and whole handshakes in memory: the client of tls.c against
 * BearSSL's server. */
// uses: buf.c cert.c dns.c
#include "unit.h"

#include <time.h>

#include <bearssl.h>

/* The processor's AES instructions can be hidden. */
static _Bool without_aes;
#define br_aes_x86ni_ctr_get_vtable() (without_aes ? NULL : br_aes_x86ni_ctr_get_vtable())

#undef IAMCAT_BUILD_TIME
#define IAMCAT_BUILD_TIME 1893456000 /* 2030-01-01: most certificates below are valid from 2026 to 2126 */
#include "../../tls.c"

/* The program that writes roots.h */
int roots_main(int argc, char **argv);
#define main     roots_main
#define push_der roots_push_der
#include "../roots.c"
#undef main
#undef push_der

enum { YEAR_S = 31556952 };

/* Throw-away certificates, and keys that guard nothing. Made with openssl 3.0, where CURVE and NAME vary:
 *   openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:CURVE -nodes -keyout X.key -subj /CN=NAME -out
 * X.csr (RSA: -newkey rsa:2048, and rsa:1024 for leaf_weak) roots: openssl x509 -req -in X.csr -signkey X.key
 * -days 36500 -sha256 -extfile EXT -out X.crt EXT: basicConstraints=critical,CA:TRUE and keyUsage=keyCertSign
 *   others: the same with -CA root.crt -CAkey root.key -set_serial N instead of -signkey
 *          EXT of leaves: subjectAltName=DNS:broker.test,DNS:192.0.2.7 and keyUsage=digitalSignature
 * root_long (signed by root) has eight organizational units of 61 characters.
 *   root_limited: pathlen:1 and nameConstraints=permitted;DNS:test,excluded;IP:192.0.2.0/255.255.255.0
 *   root_old: -days 365 -sha1 and no EXT, which makes it version 1 */
static const char root[] = "-----BEGIN CERTIFICATE-----\n"
                           "MIIBejCCAR+gAwIBAgIUKpTZg/pFT6x+h3xqYorQc99FS6IwCgYIKoZIzj0EAwIw\n"
                           "GzEZMBcGA1UEAwwQaWFtY2F0IHRlc3Qgcm9vdDAgFw0yNjExMjIwOTM0MTRaGA8y\n"
                           "MTI2MTAyOTA5MzQxNFowGzEZMBcGA1UEAwwQaWFtY2F0IHRlc3Qgcm9vdDBZMBMG\n"
                           "ByqGSM49AgEGCCqGSM49AwEHA0IABB+ny5T79iiym2EOxkVz2ziMq4/7DbcaxUtr\n"
                           "vGpSayzqjw8CcDWOLawhWIutlv/ttjHBVubWgeU4r0n8emNdGJmjPzA9MA8GA1Ud\n"
                           "EwEB/wQFMAMBAf8wCwYDVR0PBAQDAgIEMB0GA1UdDgQWBBRnuqCp6FKR3wu1Hx/W\n"
                           "dvwHnnBPkzAKBggqhkjOPQQDAgNJADBGAiEAirA9r9wxlV7vWhoxPwEDca/nVVe0\n"
                           "QMYZLAM5sWV/+6sCIQChnd3bfGr0GX56lebKUNwX9bUkPmCxLZLOlJ5YDCTwWg==\n"
                           "-----END CERTIFICATE-----\n";

static const char root384[] = "-----BEGIN CERTIFICATE-----\n"
                              "MIIBuTCCAT6gAwIBAgIULJwiQnqrgZyeDTwCBAdqY7W15pIwCgYIKoZIzj0EAwIw\n"
                              "HDEaMBgGA1UEAwwRaWFtY2F0IFAtMzg0IHJvb3QwIBcNMjYxMTIyMDkzNDE0WhgP\n"
                              "MjEyNjEwMjkwOTM0MTRaMBwxGjAYBgNVBAMMEWlhbWNhdCBQLTM4NCByb290MHYw\n"
                              "EAYHKoZIzj0CAQYFK4EEACIDYgAEJVNlqUi+tfeJuzjbtpEHiTYgZZKqX8qR5O/W\n"
                              "wfXHKhTmK71dAiwPHHG4BADP/X+UpBXya8RvSVt3UeN4zEonKycAG2o+gArkJZad\n"
                              "CuOyTTd6l/VeA6vvZJsHwhMjPMeeoz8wPTAPBgNVHRMBAf8EBTADAQH/MAsGA1Ud\n"
                              "DwQEAwICBDAdBgNVHQ4EFgQUvufOZWi8L6+/K/GCjFeTMHt4QL0wCgYIKoZIzj0E\n"
                              "AwIDaQAwZgIxANDx9rooChwY0coHJprQPtDH0nQQgAxtByQ4xYqitD92+WaM64E0\n"
                              "LD54r9B/B9dJdAIxAKH9qV7QsUK0XvbJmv/cAaJXQd2r8ka6e2HXQsMO6pei3BZc\n"
                              "XagEtHuKJEVFZIhskQ==\n"
                              "-----END CERTIFICATE-----\n";

static const char root521[] = "-----BEGIN CERTIFICATE-----\n"
                              "MIICAzCCAWSgAwIBAgIUdolOwtjdHYQgKwXBKZI30T/HrmUwCgYIKoZIzj0EAwIw\n"
                              "HDEaMBgGA1UEAwwRaWFtY2F0IFAtNTIxIHJvb3QwIBcNMjYxMTIyMDkzNDE0WhgP\n"
                              "MjEyNjEwMjkwOTM0MTRaMBwxGjAYBgNVBAMMEWlhbWNhdCBQLTUyMSByb290MIGb\n"
                              "MBAGByqGSM49AgEGBSuBBAAjA4GGAAQB6vTf+uysw/GI8ZbEwdaYIgcfIqHBNnzZ\n"
                              "XH0oIVf1zHnMAjMJGGt3EoY1mlpcJfMKu3Tao7YifLH7BWDw5M9XSHQB1FhmkRz2\n"
                              "7KF9gNPYO2D35Vv52qCdcOf4PeNsDfqoHYf84y6VYIuazWvnC2hFkgE5thg/729x\n"
                              "wmRmDDig7nu8/g+jPzA9MA8GA1UdEwEB/wQFMAMBAf8wCwYDVR0PBAQDAgIEMB0G\n"
                              "A1UdDgQWBBQF7onVchqpo3XTTC2LCNLZkIzDSDAKBggqhkjOPQQDAgOBjAAwgYgC\n"
                              "QgGY/4+gjNkXHV7FapdqpUsn92YaDqUTh7UpIYIdRn/6LQBjO5vbuChLt2HjSn99\n"
                              "SaAERhFaWFaVjbmE9uHonWA7ZwJCAUdRg5kXqkZaNoYE+upWZ88UhSM6+mVln3Eu\n"
                              "Wpqwr26W+u7kqAbQc7Dgpe7Ba5GUQEDvZFAWQ31YCF5Kz2SXEdyy\n"
                              "-----END CERTIFICATE-----\n";

static const char leaf[] = "-----BEGIN CERTIFICATE-----\n"
                           "MIIBjjCCATWgAwIBAgIBAjAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBpYW1jYXQg\n"
                           "dGVzdCByb290MCAXDTI2MTEyMjA5MzQxNFoYDzIxMjYxMDI5MDkzNDE0WjARMQ8w\n"
                           "DQYDVQQDDAZicm9rZXIwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASRrecm9MhJ\n"
                           "wUMxmWw3wz9MlFbdHi3609GqKVY/jlgoD9v4k82CmQjz6uZUdUGoaRe/V90eeywo\n"
                           "KioFlLJ/tKGuo3IwcDAhBgNVHREEGjAYggticm9rZXIudGVzdIIJMTkyLjAuMi43\n"
                           "MAsGA1UdDwQEAwIHgDAdBgNVHQ4EFgQUPzNwAbDRODA1tDrENcqfcW1h+DEwHwYD\n"
                           "VR0jBBgwFoAUZ7qgqehSkd8LtR8f1nb8B55wT5MwCgYIKoZIzj0EAwIDRwAwRAIg\n"
                           "dubdNH2H3kZifUF2aCE7qnVJCsFtBBg8qCHPHHtG1FYCIDdPgjXTh4lYAm/z4BFU\n"
                           "9z92/84Z4riZbXDrrq1heFEm\n"
                           "-----END CERTIFICATE-----\n";

static const char leaf_key[] = "-----BEGIN PRIVATE KEY-----\n"
                               "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgsKzI61oA0PRkm3nT\n"
                               "hTpeLs8G9rdN4LoAfG+9ICptO8qhRANCAASRrecm9MhJwUMxmWw3wz9MlFbdHi36\n"
                               "09GqKVY/jlgoD9v4k82CmQjz6uZUdUGoaRe/V90eeywoKioFlLJ/tKGu\n"
                               "-----END PRIVATE KEY-----\n";

static const char leaf_rsa[] = "-----BEGIN CERTIFICATE-----\n"
                               "MIICWjCCAgCgAwIBAgIBAzAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBpYW1jYXQg\n"
                               "dGVzdCByb290MCAXDTI2MTEyMjA5MzQxNFoYDzIxMjYxMDI5MDkzNDE0WjARMQ8w\n"
                               "DQYDVQQDDAZicm9rZXIwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQDj\n"
                               "e9XRYJpbZxdbFZcoiG4kw8Jd9UFAWlerozjx5L0vBmaoDtU9VEyvWmxQl92JYXP8\n"
                               "si90al+htJMnyDTK3bC2ayf13lJouckBump6uKaKVSV9NSQ9glsJsLXilSBC68eE\n"
                               "UdP2Q+dNIVr/zGvzGA6MMhexLMOLBLL/40GCW41PAP1sJJZV5AAymQaykWg/vB0/\n"
                               "M7DTjC+M6w6xAxAPiDNTBvhH+SpluJVYhq+NpgD9tYNiBmbiFunmbVQxEYvceY9+\n"
                               "w1U66JSAMFt/vlZ4CRNCxgQymBh8Q76WdukWpQbEk/pATce27mJuY2jMPBQZsBkj\n"
                               "OmV/em9e3UNtTjJxdUVRAgMBAAGjcjBwMCEGA1UdEQQaMBiCC2Jyb2tlci50ZXN0\n"
                               "ggkxOTIuMC4yLjcwCwYDVR0PBAQDAgeAMB0GA1UdDgQWBBQ3b0VwXgAnES+aWn5a\n"
                               "b4CYO6SgYDAfBgNVHSMEGDAWgBRnuqCp6FKR3wu1Hx/WdvwHnnBPkzAKBggqhkjO\n"
                               "PQQDAgNIADBFAiBKAEBqL9Kt9LNCZgmAWcAt+4wAb0UcqLymNft9P8gN4gIhAPVL\n"
                               "Bf4/GlPxi4Vurb14Dz58XXmrMnVo6rNdObApJwPj\n"
                               "-----END CERTIFICATE-----\n";

static const char rsa_key[] = "-----BEGIN PRIVATE KEY-----\n"
                              "MIIEvgIBADANBgkqhkiG9w0BAQEFAASCBKgwggSkAgEAAoIBAQDje9XRYJpbZxdb\n"
                              "FZcoiG4kw8Jd9UFAWlerozjx5L0vBmaoDtU9VEyvWmxQl92JYXP8si90al+htJMn\n"
                              "yDTK3bC2ayf13lJouckBump6uKaKVSV9NSQ9glsJsLXilSBC68eEUdP2Q+dNIVr/\n"
                              "zGvzGA6MMhexLMOLBLL/40GCW41PAP1sJJZV5AAymQaykWg/vB0/M7DTjC+M6w6x\n"
                              "AxAPiDNTBvhH+SpluJVYhq+NpgD9tYNiBmbiFunmbVQxEYvceY9+w1U66JSAMFt/\n"
                              "vlZ4CRNCxgQymBh8Q76WdukWpQbEk/pATce27mJuY2jMPBQZsBkjOmV/em9e3UNt\n"
                              "TjJxdUVRAgMBAAECggEAAVFZ7tfNEHFG4OFi6K0OJh6/cG8xAXi91rs4GNV2XQMa\n"
                              "gFfvfKwGvUe5gQfD2fWctV/5n1u1TzzaMvYRdrj31X2w9lct7GhXnDpuiZnqW+VU\n"
                              "KtRpCpAX0N+oqmiVXn01IMdJ0lyoi/aw5efoRUOsWWaZ+CiiNHA6onnNkEi8HJhv\n"
                              "ba4agkQsBcC1Byl5o9uSm1oL0y3uU8rmdLHYFzXwyyKiEcOFwIR/41lmsQ1/2vXG\n"
                              "3jMLAUb+cZk2Tdd+bUc+qjfRDlULEfgc7Lh0SxtG2milMupyX/rFDqh/fs2XfK7X\n"
                              "oSuUOldFVed2enM9jgzVDe3XaSc8keh6sgQ0TzwiIQKBgQD7lNgsO0IXNz/nPz12\n"
                              "NhXec1srOlfGHdmgv4SNY+E6q6yy0PsM9GduJpjN14u6/eI0MwuxqmFpnBqd+NE+\n"
                              "2F8toA7xuBTPlgq9kS8ox5Po5KloZtG6DclabNBJ0QDrAhFBjaVSBkX3GZ5pB4Rb\n"
                              "8/Atqk8h8T4kJhxunBe1uNl2YQKBgQDneqSqBtfUNpMw/I/+kakw9B34JlQrlWDq\n"
                              "RqYPcD/ebkg//9gh06c4PTYo/qxS+qMHf2UciWZfibOjxCcdKsKiLfLmphdrunhn\n"
                              "d4pZvtoWMh0ncyxRMQ9q6Yoyj5L4fwo3VXK86YMAmfr7MPOsbphqhDa2WMuTQvJ2\n"
                              "yBfMAgVU8QKBgBAcfx+OB/R+qEwB48i/O/VMA+mnydk5Lie6PB3l6JWeSugEtB8n\n"
                              "Q7xtIloEVMF74tGe9z/Afo6J3baCKbxRlP7SAkL+m+6TWEq9knyVE2bVxfeWphW5\n"
                              "LkzpLQmdJebm8f31uUGgfziM3nUxcwuEerwh7QFqdqVP/4Ah5O7RULPhAoGBAN4Z\n"
                              "/RjvC/OgkcZ07yzRUkeYU5EgJa7T23OuafNyPrYLluNhdl2umUoK4YagJXRQ7FBr\n"
                              "WfbxlvqgQ28k7Gq99pZqBCBuyRYiixiryGGoD9UwLG0Hw0P8ENECWAl/XQN10bWa\n"
                              "FUdRvtK66+hM5eFTFIdPaLe5p0sa904lWz/xyG/hAoGBAKEYF9Ivkan+NngfWs/m\n"
                              "MT6d5KYvthMr7P70NoVERthPOjQAhzPBvQ/RiBKNPBI9grKH6sMKJzkvSrP8CCvH\n"
                              "K/iTZ7YZ6y3fWvzVc34UF1XnTDt+yDSKwK29aLmPMAvQfYLik83qMLTMJsfXw4BR\n"
                              "jiI3LfTd5DSXJE8CLEA/K1By\n"
                              "-----END PRIVATE KEY-----\n";

static const char leaf_weak[] = "-----BEGIN CERTIFICATE-----\n"
                                "MIIB1jCCAXygAwIBAgIBBDAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBpYW1jYXQg\n"
                                "dGVzdCByb290MCAXDTI2MTEyMjA5MzQxNFoYDzIxMjYxMDI5MDkzNDE0WjARMQ8w\n"
                                "DQYDVQQDDAZicm9rZXIwgZ8wDQYJKoZIhvcNAQEBBQADgY0AMIGJAoGBAOPcHEiX\n"
                                "D1oZhirFvFkkvGEkTQYzAREJFpGW9VDJ5Lsx7Y+CliEPFCBQ3DQNpY5QuKEs/IE2\n"
                                "PJpK0NPUTw0HdsfmHeWUytZwawdfBah4EyocltgSKhSCTf2dc+aVWjUPSzhjkR9/\n"
                                "SPfwRlFTsNdpw2bsYQm2t+M9OGr/WXe7nTFLAgMBAAGjcjBwMCEGA1UdEQQaMBiC\n"
                                "C2Jyb2tlci50ZXN0ggkxOTIuMC4yLjcwCwYDVR0PBAQDAgeAMB0GA1UdDgQWBBTM\n"
                                "1PQqHqFYHDExPAmIFwzd4dwpiTAfBgNVHSMEGDAWgBRnuqCp6FKR3wu1Hx/WdvwH\n"
                                "nnBPkzAKBggqhkjOPQQDAgNIADBFAiEAsd9qIwvHdp0o5xjjmc8deMPzZrSyUxws\n"
                                "s9FfivVhhKgCICdp6zf/0BOegS37OxWq/oOQ1Vai1rjIsr2RXnniToBo\n"
                                "-----END CERTIFICATE-----\n";

static const char root_long[] = "-----BEGIN CERTIFICATE-----\n"
                                "MIIDvDCCA2OgAwIBAgIBBTAKBggqhkjOPQQDAjAbMRkwFwYDVQQDDBBpYW1jYXQg\n"
                                "dGVzdCByb290MCAXDTI2MTEyMjA5MzQxNFoYDzIxMjYxMDI5MDkzNDE0WjCCAk8x\n"
                                "DTALBgNVBAMMBGxvbmcxRjBEBgNVBAsMPTF4eHh4eHh4eHh4eHh4eHh4eHh4eHh4\n"
                                "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHgxRjBEBgNVBAsM\n"
                                "PTJ4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4\n"
                                "eHh4eHh4eHh4eHh4eHgxRjBEBgNVBAsMPTN4eHh4eHh4eHh4eHh4eHh4eHh4eHh4\n"
                                "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHgxRjBEBgNVBAsM\n"
                                "PTR4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4\n"
                                "eHh4eHh4eHh4eHh4eHgxRjBEBgNVBAsMPTV4eHh4eHh4eHh4eHh4eHh4eHh4eHh4\n"
                                "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHgxRjBEBgNVBAsM\n"
                                "PTZ4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4\n"
                                "eHh4eHh4eHh4eHh4eHgxRjBEBgNVBAsMPTd4eHh4eHh4eHh4eHh4eHh4eHh4eHh4\n"
                                "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHgxRjBEBgNVBAsM\n"
                                "PTh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4\n"
                                "eHh4eHh4eHh4eHh4eHgwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASp8MTBBtE3\n"
                                "NFftSXZwhcW1HDc21XoHV0abufJrC1jlLjGHMZXC0h8qDs+mojqYIr/VOvuKeLNY\n"
                                "NOMoUjTPqq1uo2AwXjAPBgNVHRMBAf8EBTADAQH/MAsGA1UdDwQEAwICBDAdBgNV\n"
                                "HQ4EFgQUryK3Haw7vRtTmFQFHsPbsMVS9AEwHwYDVR0jBBgwFoAUZ7qgqehSkd8L\n"
                                "tR8f1nb8B55wT5MwCgYIKoZIzj0EAwIDRwAwRAIgC8+EYd7EssdTXGobiiTjEkDq\n"
                                "teJJtlpnHwyQc4JrukYCICs7XZ0kvEbhzwGLvfk2f5DjxwZy7j25980yTIddoGXg\n"
                                "-----END CERTIFICATE-----\n";

static const char root_limited[] = "-----BEGIN CERTIFICATE-----\n"
                                   "MIIBqTCCAU6gAwIBAgIUNZ09IkJSUfeWAeZpbh2agx4uKJwwCgYIKoZIzj0EAwIw\n"
                                   "HjEcMBoGA1UEAwwTaWFtY2F0IGxpbWl0ZWQgcm9vdDAgFw0yNjExMjIxMDM3NDJa\n"
                                   "GA8yMTI2MTAyOTEwMzc0MlowHjEcMBoGA1UEAwwTaWFtY2F0IGxpbWl0ZWQgcm9v\n"
                                   "dDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABN944oEa2NUzlD0saFmQTRwzeXFh\n"
                                   "vnChMwarVRiZO29Qtv0THuK/ygUT5mX5mJMK/tqd9VIgK6b4qeJd7sUyTCWjaDBm\n"
                                   "MBIGA1UdEwEB/wQIMAYBAf8CAQEwCwYDVR0PBAQDAgIEMCQGA1UdHgEB/wQaMBig\n"
                                   "CDAGggR0ZXN0oQwwCocIwAACAP///wAwHQYDVR0OBBYEFB4IEkKeZz+7hHEGkO95\n"
                                   "hEevyu7DMAoGCCqGSM49BAMCA0kAMEYCIQC+XAjXQqtWubtBrL7YANQRCyAMzlwD\n"
                                   "X+qHsdWp9eFU8AIhAJDfe2ol1Ix9Gw6a6dWhRAWB4Rcox9Z+SHRt8MkofSB7\n"
                                   "-----END CERTIFICATE-----\n";

static const char root_old[] = "-----BEGIN CERTIFICATE-----\n"
                               "MIIBLDCB1AIUX+DAkm0GmMEln2YSGkBvIlWKauAwCQYHKoZIzj0EATAaMRgwFgYD\n"
                               "VQQDDA9pYW1jYXQgb2xkIHJvb3QwHhcNMjYxMTIyMTAzNzQyWhcNMjcxMTIyMTAz\n"
                               "NzQyWjAaMRgwFgYDVQQDDA9pYW1jYXQgb2xkIHJvb3QwWTATBgcqhkjOPQIBBggq\n"
                               "hkjOPQMBBwNCAAQY4g54pibpaELrIggVD7ybJcp9DpVzcZK5pnPaCepqtvw50zpi\n"
                               "wFgI8tTwFf9uGN6NWVa8VBb5TbR/spwg2DhYMAkGByqGSM49BAEDSAAwRQIgIokE\n"
                               "VPoGYc2p5X8sJWAeNZCEHYfSTgkWIiz+OzVrtB8CIQDa/6lObyIhHJ/iga23e4Qi\n"
                               "iwkYccyhM/gfoMomL2EwIw==\n"
                               "-----END CERTIFICATE-----\n";

/* Text in, text out */

static struct tls_anchors anchors, others; /* 170 kB each: too much for the stack */
static char why_text[200];

static bool kept(const struct tls_anchors *a, const unsigned char *p, size_t n)
{
	return n > 0 && p >= a->mem + a->n * sizeof *a->list && n <= a->used && p <= a->mem + a->used - n;
}

/* All of them point into a->mem, behind themselves. */
static void must_be_kept(const struct tls_anchors *a)
{
	for (size_t i = 0; i < a->n; i++) {
		const br_x509_pkey *k = &a->list[i].key;
		assert_true(kept(a, a->list[i].subject.p, a->list[i].subject.n));
		if (a->list[i].constraints.p != NULL)
			assert_true(kept(a, a->list[i].constraints.p, a->list[i].constraints.n));
		if (k->key_type == BR_KEYTYPE_EC)
			assert_true(kept(a, k->key.ec.q, k->key.ec.qlen));
		else
			assert_true(kept(a, k->key.rsa.n, k->key.rsa.nlen) &&
			            kept(a, k->key.rsa.e, k->key.rsa.elen));
	}
}

/* A root that was renewed may differ in its dates alone. */
static bool same_anchor(const struct cert_anchor *a, const struct cert_anchor *b)
{
	return slice_eq(a->subject, b->subject) && cert_same_key(&a->key, &b->key) &&
	       a->not_before_s == b->not_before_s && a->not_after_s == b->not_after_s && a->ca == b->ca &&
	       a->path_length == b->path_length && slice_eq(a->constraints, b->constraints);
}

/* Reads text, which lies against a guard page. why_text is the sentence, or "". */
static bool read_anchors(struct tls_anchors *a, const char *text, size_t n)
{
	struct buf why = {(unsigned char *)why_text, sizeof why_text, 0, false};
	unsigned char *p = guarded_copy(text, n);
	memset(a, 0xA5, sizeof *a);
	bool ok = tls_anchors_read(a, (struct slice){p, n}, &why);
	guarded_free(p, n);
	buf_cstr(&why);
	assert_false(why.full);
	assert_int_equal(ok, why.n == 0);
	assert_int_equal(ok, a->n > 0);
	must_be_kept(a);
	return ok;
}

static void must_read(struct tls_anchors *a, const char *text)
{
	if (!read_anchors(a, text, strlen(text)))
		fail_msg("refused: %s\n%s", why_text, text);
}

/* text with every line break replaced, and something put in front of every line. */
static char *reshape(const char *text, const char *line_break, const char *indent)
{
	static char out[8192];
	size_t n = 0;
	for (bool begins = true; *text != 0; text++) {
		if (begins)
			n += (size_t)sprintf(out + n, "%s", indent);
		begins = *text == '\n';
		if (begins)
			n += (size_t)sprintf(out + n, "%s", line_break);
		else
			out[n++] = *text;
		assert_true(n < sizeof out - 100);
	}
	out[n] = 0;
	return out;
}

static char *join2(const char *a, const char *b)
{
	static char out[16384];
	assert_true((size_t)snprintf(out, sizeof out, "%s%s", a, b) < sizeof out);
	return out;
}

static char *join(const char *a, const char *b, const char *c)
{
	static char out[16384];
	assert_true((size_t)snprintf(out, sizeof out, "%s%s%s", a, b, c) < sizeof out);
	return out;
}

/* Every way to write line breaks gives the same anchors; cut at any byte, the text gives as many as it has
 * complete blocks, or a sentence. */
static void pem_shapes(void **state)
{
	static const struct {
		const char *line_break, *indent;
	} shapes[] = {
	        {"\n", ""},
	        {"\r\n", ""},
	        {"\r", ""},
	        {"\\n", ""},
	        {"\\r\\n", ""},
	        {"\\n\n", ""},
	        {"\n\n", ""},
	        {"\n", "   "},
	        {"\n", "\t"},
	        {"\\n", " "},
	        {" \n", ""},
	        {" \t\r\n", ""},
	        {" \\n", ""},
	        {"\n", "\xEF\xBB\xBF"},
	};
	static const char end[] = "-----END CERTIFICATE-----";
	char both[4096];
	(void)state;
	snprintf(both, sizeof both, "a: text\n%sbetween\n%s", root, root384);
	must_read(&others, both);
	assert_int_equal(others.n, 2);
	assert_false(same_anchor(&others.list[0], &others.list[1]));
	for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
		char *text = reshape(both, shapes[i].line_break, shapes[i].indent);
		must_read(&anchors, text);
		if (anchors.n != 2 || !same_anchor(&anchors.list[0], &others.list[0]) ||
		        !same_anchor(&anchors.list[1], &others.list[1]))
			fail_msg("shape %zu reads differently", i);
		char *second = strstr(strstr(text, "-----END ") + 1, "-----BEGIN ");
		for (size_t n = 0; n < strlen(text); n++) {
			if (n > 0 && text[n - 1] == '\\') /* half of a line break */
				continue;
			char *copy = strndup(text, n);
			char *first_end = strstr(copy, end);
			bool second_end = first_end && strstr(first_end + 1, end);
			bool inside = n >= (size_t)(second - text) + strlen("-----BEGIN C") && !second_end;
			bool ok = read_anchors(&anchors, text, n);
			if (ok != (first_end && !inside) || (ok && anchors.n != (second_end ? 2 : 1)))
				fail_msg("shape %zu cut to %zu bytes: %d anchors=%zu", i, n, ok, anchors.n);
			free(copy);
		}
	}
}

static void pem_refused(void **state)
{
	static char damaged[sizeof root], no_end[sizeof root], other_end[sizeof root], short_of[sizeof root];
	memcpy(other_end, root, sizeof root);
	memcpy(strstr(other_end, "END CERT"), "END KERT", 8);
	memcpy(short_of, root, sizeof root);
	memmove(short_of + 100, short_of + 101, sizeof short_of - 101);
	memcpy(damaged, root, sizeof root);
	damaged[100] = '*';
	memcpy(no_end, root, sizeof root);
	*strstr(no_end, "-----END") = 0;
	const struct {
		const char *name, *a, *b, *why;
	} cases[] = {
	        {"empty", "", "", "no certificate in it"},
	        {"text", "hello\n", "-----BEGIN", "no certificate in it"},
	        {"a block without a line break", "-----BEGIN CERTIFICATE-----", "",
	                "certificate 1: its text is damaged"},
	        {"an empty block", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "",
	                "certificate 1: a certificate is damaged"},
	        {"not DER", "-----BEGIN CERTIFICATE-----\naGVsbG8h\n-----END CERTIFICATE-----\n", "",
	                "certificate 1: a certificate is damaged"},
	        {"a byte that is not base64", damaged, "", "certificate 1: its text is damaged"},
	        {"a character is missing", short_of, "", "certificate 1: its text is damaged"},
	        {"padding that is not at the end", "-----BEGIN CERTIFICATE-----\nAA==AAAA\n", "",
	                "certificate 1: its text is damaged"},
	        {"too much padding", "-----BEGIN CERTIFICATE-----\nA===\n", "",
	                "certificate 1: its text is damaged"},
	        {"an end of another kind", other_end, "", "certificate 1: its text is damaged"},
	        {"the same in the second", root384, damaged, "certificate 2: its text is damaged"},
	        {"no end", no_end, "", "certificate 1: its text is damaged"},
	        {"no end, then another", no_end, root, "certificate 1: its text is damaged"},
	        {"one, then no end", root, no_end, "certificate 2: its text is damaged"},
	        {"a private key", leaf_key, "", "certificate 1: BEGIN CERTIFICATE is expected"},
	        {"a private key after it", root, leaf_key, "certificate 2: BEGIN CERTIFICATE is expected"},
	        {"a request", "-----BEGIN CERTIFICATE REQUEST-----\n", "", "certificate 1: BEGIN CERT"},
	        {"a weak key", root, leaf_weak,
	                "certificate 2: a certificate has an RSA key under 2048 bits"},
	        {"a key on P-521", root521, "", "certificate 1: a certificate has an unknown kind of key"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char *text = join(cases[i].a, cases[i].b, "");
		bool ok = read_anchors(&anchors, text, strlen(text));
		if (ok || strncmp(why_text, cases[i].why, strlen(cases[i].why)) != 0)
			fail_msg("%s: %s", cases[i].name, ok ? "was accepted" : why_text);
	}
}

static void collect(void *out, const void *p, size_t n)
{
	struct buf *b = out;
	buf_put(b, p, n);
}

/* The first PEM block of text, decoded. */
static size_t der_of(unsigned char *der, size_t cap, const char *text)
{
	struct buf out = {der, cap, 0, false};
	br_pem_decoder_context pem;
	br_pem_decoder_init(&pem);
	for (int event = 0; event != BR_PEM_END_OBJ; event = br_pem_decoder_event(&pem)) {
		size_t n = br_pem_decoder_push(&pem, text, strlen(text));
		text += n;
		br_pem_decoder_setdest(&pem, collect, &out);
		assert_true(n > 0 || event != 0);
	}
	assert_false(out.full);
	return out.n;
}

/* PEM that is right around DER that is cut short, too long, or has one bit turned: never more than one
 * anchor, never a certificate in part. */
static void der_damaged(void **state)
{
	unsigned char der[1024];
	static char text[4096];
	size_t n = der_of(der, sizeof der, root);
	(void)state;
	for (size_t i = 0; i <= n + 1; i++) {
		size_t len = br_pem_encode(text, der, i, "CERTIFICATE", 0);
		if (read_anchors(&anchors, text, len) != (i == n))
			fail_msg("%zu of %zu bytes: %s", i, n, why_text);
	}
	for (size_t i = 0; i < n * 8; i++) {
		der[i / 8] ^= (unsigned char)(1 << i % 8);
		read_anchors(&anchors, text, br_pem_encode(text, der, n, "CERTIFICATE", 0));
		der[i / 8] ^= (unsigned char)(1 << i % 8);
	}
}

static void anchors_limits(void **state)
{
	static char text[400 * 1024];
	const struct {
		const char *name, *pem, *why;
		size_t fit;
	} cases[] = {
	        {"256 certificates", root, "certificate 257: too many", TLS_ANCHORS},
	        {"160 kB of names and keys", root_long, "certificate 249: too many", 248},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		size_t len = strlen(cases[i].pem), n = 0;
		for (size_t k = 0; k <= cases[i].fit; k++, n += len)
			memcpy(text + n, cases[i].pem, len);
		if (!read_anchors(&anchors, text, n - len) || anchors.n != cases[i].fit)
			fail_msg("%s: %zu bytes, %s", cases[i].name, anchors.used, why_text);
		if (read_anchors(&anchors, text, n) ||
		        strncmp(why_text, cases[i].why, strlen(cases[i].why)) != 0)
			fail_msg("%s, and one more: %s", cases[i].name, why_text);
		assert_int_equal(anchors.n, 0);
	}
}

static size_t read_file(char *text, size_t cap, const char *path)
{
	FILE *f = fopen(path, "rb");
	if (f == NULL)
		fail_msg("%s is needed (package ca-certificates)", path);
	size_t n = fread(text, 1, cap, f);
	fclose(f);
	assert_true(n > 0 && n < cap);
	return n;
}

static void debian_bundle(void **state)
{
	static char text[1024 * 1024];
	size_t n = read_file(text, sizeof text - 1, "/etc/ssl/certs/ca-certificates.crt"), count = 0;
	(void)state;
	for (const char *p = text; (p = strstr(p, "-----BEGIN")) != NULL; p++)
		count++;
	if (!read_anchors(&anchors, text, n) || anchors.n != count)
		fail_msg("%zu of %zu: %s", anchors.n, count, why_text);
}

static void embedded_roots(void **state)
{
	static const char *const lines[] = {
	        "  until 2031-11-10: DigiCert Global Root CA\n",
	        "  until 2038-01-15: DigiCert Global Root G2\n",
	        "  until 2038-01-15: DigiCert Global Root G3\n",
	        "  until 2046-01-14: DigiCert TLS RSA4096 Root G5\n",
	        "  until 2046-01-14: DigiCert TLS ECC P384 Root G5\n",
	};
	static char text[32768];
	unsigned char described[512];
	struct buf b = BUF(described);
	int64_t last_s = 0;
	size_t at = 0, n = 0;
	(void)state;
	tls_anchors_embedded(&others);
	tls_anchors_describe(&b);
	assert_int_equal(others.n, 5);
	for (size_t i = 0; i < 5; i++) {
		n += read_file(text + n, sizeof text - n, usual[i]);
		assert_slice(((struct slice){described + at, strlen(lines[i])}), lines[i]);
		at += strlen(lines[i]);
		last_s = root_anchors[i].not_after_s > last_s ? root_anchors[i].not_after_s : last_s;
	}
	assert_int_equal(b.n, at);
	assert_true(read_anchors(&anchors, text, n));
	assert_int_equal(anchors.n, 5);
	for (size_t i = 0; i < 5; i++)
		if (!same_anchor(&anchors.list[i], &others.list[i]))
			fail_msg("%s differs: run make roots", usual[i]);
	if (last_s - YEAR_S < time(NULL))
		fail_msg("less than a year until the last of the embedded roots expires");
}

#ifndef UNIT_ON_CHIP
/* `make roots` would write the same file again. */
static void roots_again(void **state)
{
	static char have[64 * 1024], made[64 * 1024];
	char *argv[] = {(char *)"roots", NULL};
	(void)state;
	FILE *f = tmpfile();
	assert_non_null(f);
	fflush(stdout);
	int out = dup(STDOUT_FILENO);
	dup2(fileno(f), STDOUT_FILENO);
	int result = roots_main(1, argv);
	fflush(stdout);
	dup2(out, STDOUT_FILENO);
	close(out);
	assert_int_equal(result, 0);
	rewind(f);
	size_t n = fread(made, 1, sizeof made, f);
	fclose(f);
	assert_true(n > 5000 && n < sizeof made);
	if (read_file(have, sizeof have, "roots.h") != n || memcmp(have, made, n) != 0)
		fail_msg("roots.h is not what `make roots` writes");
}
#endif

/* What is kept of a certificate besides its name and key. */
static void anchors_kept(void **state)
{
	static const char subtrees[] =
	        "\xa0\x08\x30\x06\x82\x04test\xa1\x0c\x30\x0a\x87\x08\xc0\0\x02\0\xff\xff\xff";
	(void)state;
	must_read(&anchors, join(root, root_limited, join2(root_old, leaf)));
	assert_int_equal(anchors.n, 4);
	const struct cert_anchor *a = anchors.list;
	assert_true(a[0].ca && a[0].path_length == -1 && a[0].constraints.p == NULL);
	assert_true(a[0].not_before_s == 1795340054 && a[0].not_after_s == INT64_C(4948940054));
	assert_true(a[1].ca && a[1].path_length == 1);
	assert_true(
	        slice_eq(a[1].constraints, (struct slice){(const unsigned char *)subtrees, sizeof subtrees}));
	assert_true(a[2].ca && a[2].path_length == -1 && a[2].not_after_s == 1826879862);
	assert_slice(cert_name_text(a[2].subject), "iamcat old root");
	assert_false(a[3].ca);
	assert_slice(cert_name_text(a[3].subject), "broker");
}

/* Handshakes */

struct lab {
	const char *name; /* of the case */
	/* The server */
	const char *chain;
	bool rsa;             /* it holds leaf_rsa's key, else leaf's */
	bool wrong_key;       /* rather one that differs from leaf's */
	uint16_t suite;       /* the only one, 0: all of BearSSL's */
	unsigned curve;       /* the only one, 0: all of BearSSL's */
	unsigned min, max;    /* versions, 0: TLS 1.2 */
	bool ask_certificate; /* from the client, and go on without */
	bool cache;           /* it keeps sessions */
	/* The client */
	const char *host;
	int64_t wall_s;
	bool embedded;       /* its anchors are the embedded ones */
	const char *anchors; /* or these; NULL: root */
	/* What comes of it */
	int error; /* 0: up */
	const char *why, *detail;
};

static struct tls client;
static br_ssl_server_context server;
static unsigned char server_in[BR_SSL_BUFSIZE_INPUT], server_out[BR_SSL_BUFSIZE_OUTPUT];
static br_ec_impl server_ec;
static br_x509_minimal_context server_x509;
static br_ssl_session_cache_lru server_cache;
static unsigned char server_cache_mem[1000];
static unsigned char chain_der[2048];
static br_x509_certificate chain;
static br_skey_decoder_context server_key;
static const unsigned char entropy[TLS_ENTROPY_BYTES] = {1, 2, 3};

static void server_begin(const struct lab *c)
{
	unsigned char der[2048];
	br_ssl_engine_context *e = &server.eng;
	size_t n = der_of(der, sizeof der, c->rsa ? rsa_key : leaf_key);
	br_skey_decoder_init(&server_key);
	br_skey_decoder_push(&server_key, der, n);
	if (c->wrong_key)
		br_skey_decoder_get_ec(&server_key)->x[20] ^= 1;
	chain.data = chain_der;
	chain.data_len = der_of(chain_der, sizeof chain_der, c->chain);
	if (c->rsa)
		br_ssl_server_init_full_rsa(&server, &chain, 1, br_skey_decoder_get_rsa(&server_key));
	else
		br_ssl_server_init_full_ec(
		        &server, &chain, 1, BR_KEYTYPE_EC, br_skey_decoder_get_ec(&server_key));
	if (c->suite != 0)
		br_ssl_engine_set_suites(e, &c->suite, 1);
	if (c->curve != 0) {
		server_ec = *br_ssl_engine_get_ec(e);
		server_ec.supported_curves = UINT32_C(1) << c->curve;
		br_ssl_engine_set_ec(e, &server_ec);
	}
	if (c->ask_certificate) {
		br_x509_minimal_init_full(&server_x509, NULL, 0);
		br_ssl_engine_set_x509(e, &server_x509.vtable);
		static br_x500_name names[TLS_ANCHORS];
		for (size_t i = 0; i < anchors.n; i++)
			names[i] = (br_x500_name){(unsigned char *)(uintptr_t)anchors.list[i].subject.p,
			        anchors.list[i].subject.n};
		br_ssl_server_set_trust_anchor_names(&server, names, anchors.n);
		br_ssl_engine_add_flags(e, BR_OPT_TOLERATE_NO_CLIENT_AUTH);
	}
	if (c->cache)
		br_ssl_server_set_cache(&server, &server_cache.vtable);
	br_ssl_engine_set_versions(e, c->min ? c->min : BR_TLS12, c->max ? c->max : BR_TLS12);
	br_ssl_engine_set_buffers_bidi(e, server_in, sizeof server_in, server_out, sizeof server_out);
	static unsigned char seed[6]; /* another one each time: session ids come of it */
	seed[0]++;
	br_ssl_engine_inject_entropy(e, seed, sizeof seed);
	assert_true(br_ssl_server_reset(&server));
}

/* What the server has sent */
static unsigned char server_says[8192];
static size_t server_said;

/* Moves what is there, at most step bytes at a time. */
static size_t move(br_ssl_engine_context *from, br_ssl_engine_context *to, size_t step)
{
	size_t have, room;
	unsigned char *p = br_ssl_engine_sendrec_buf(from, &have), *q = br_ssl_engine_recvrec_buf(to, &room);
	if (p == NULL || q == NULL)
		return 0;
	size_t n = have < room ? have : room;
	n = n < step ? n : step;
	memcpy(q, p, n);
	for (size_t i = 0; from == &server.eng && i < n && server_said < sizeof server_says; i++)
		server_says[server_said++] = p[i];
	br_ssl_engine_sendrec_ack(from, n);
	br_ssl_engine_recvrec_ack(to, n);
	return n;
}

static void pump(size_t step)
{
	while (move(&client.client.eng, &server.eng, step) + move(&server.eng, &client.client.eng, step) > 0)
		;
}

static void send_text(br_ssl_engine_context *e, const char *text)
{
	size_t n;
	unsigned char *p = br_ssl_engine_sendapp_buf(e, &n);
	assert_non_null(p);
	assert_true(n >= strlen(text));
	memcpy(p, text, strlen(text));
	br_ssl_engine_sendapp_ack(e, strlen(text));
	br_ssl_engine_flush(e, 0);
}

static void expect_text(br_ssl_engine_context *e, const char *text)
{
	size_t n;
	unsigned char *p = br_ssl_engine_recvapp_buf(e, &n);
	assert_non_null(p);
	assert_slice(((struct slice){p, n}), text);
	br_ssl_engine_recvapp_ack(e, n);
}

static void shake_hands(const struct lab *c, size_t step)
{
	if (c->embedded)
		tls_anchors_embedded(&anchors);
	else
		must_read(&anchors, c->anchors ? c->anchors : root);
	server_begin(c);
	server_said = 0;
	tls_begin(&client, c->host ? c->host : "broker.test", &anchors, c->wall_s, entropy);
	pump(step);
	int error = tls_error(&client);
	if (error != c->error)
		fail_msg("%s, %zu at a time: error %d (%s)", c->name, step, error, tls_error_text(error));
	if (error != 0) {
		assert_int_equal(br_ssl_engine_current_state(&client.client.eng), BR_SSL_CLOSED);
		if (c->why == NULL || strstr(tls_why(&client), c->why) == NULL)
			fail_msg("%s: %s", c->name, tls_why(&client));
		if (c->detail != NULL)
			assert_slice(tls_detail(&client), c->detail);
		else
			assert_int_equal(tls_detail(&client).n, 0);
		return;
	}
	assert_null(tls_why(&client));
	assert_int_equal(tls_detail(&client).n, 0);
	if (!(br_ssl_engine_current_state(&client.client.eng) & BR_SSL_SENDAPP))
		fail_msg("%s, %zu at a time: not up", c->name, step);
	send_text(&client.client.eng, "ping");
	pump(step);
	expect_text(&server.eng, "ping");
	send_text(&server.eng, "pong");
	pump(step);
	expect_text(&client.client.eng, "pong");
	assert_int_equal(br_ssl_engine_get_version(&client.client.eng), BR_TLS12);
	if (c->suite != 0)
		assert_int_equal(client.client.eng.session.cipher_suite, c->suite);
	if (c->curve != 0)
		assert_int_equal(br_ssl_engine_get_ecdhe_curve(&client.client.eng), c->curve);
}

#define NO_NAME "is for another name"
#define DETAIL  "for 'broker.test', '192.0.2.7', issued by 'iamcat test root', valid 2026-11-22 to 2126-10-29"

static void handshakes(void **state)
{
	static char long_host[300];
	memset(long_host, '1', sizeof long_host - 1);
	const struct lab cases[] = {
	        {.name = "EC", .chain = leaf},
	        {.name = "RSA", .chain = leaf_rsa, .rsa = true},
	        {.name = "EC, ChaCha20",
	                .chain = leaf,
	                .suite = BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
	        {.name = "EC, AES-128", .chain = leaf, .suite = BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	        {.name = "EC, AES-256", .chain = leaf, .suite = BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
	        {.name = "RSA, ChaCha20",
	                .chain = leaf_rsa,
	                .rsa = true,
	                .suite = BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256},
	        {.name = "RSA, AES-128",
	                .chain = leaf_rsa,
	                .rsa = true,
	                .suite = BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
	        {.name = "RSA, AES-256",
	                .chain = leaf_rsa,
	                .rsa = true,
	                .suite = BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384},
	        {.name = "X25519", .chain = leaf, .curve = BR_EC_curve25519},
	        {.name = "P-256", .chain = leaf, .curve = BR_EC_secp256r1},
	        {.name = "P-384", .chain = leaf, .curve = BR_EC_secp384r1},
	        {.name = "TLS 1.0 to 1.2", .chain = leaf, .min = BR_TLS10},
	        {.name = "capitals in the name", .chain = leaf, .host = "Broker.TEST"},
	        {.name = "an address that is a dNSName",
	                .chain = leaf,
	                .host = "192.0.2.7",
	                .error = CERT_NAME,
	                .why = NO_NAME,
	                .detail = DETAIL "; expected '192.0.2.7'"},
	        {.name = "a dot at the end", .chain = leaf, .host = "broker.test."},
	        {.name = "a certificate is asked for", .chain = leaf, .ask_certificate = true},
	        {.name = "the clock stands at 1970", .chain = leaf, .wall_s = 0},
	        {.name = "the clock is far below", .chain = leaf, .wall_s = INT64_MIN},
	        {.name = "in 2100", .chain = leaf, .wall_s = INT64_C(130) * YEAR_S},
	        {.name = "expired",
	                .chain = leaf,
	                .wall_s = INT64_C(160) * YEAR_S,
	                .error = CERT_EXPIRED,
	                .why = "has expired",
	                .detail = DETAIL "; checked for 2129-12-31"},
	        {.name = "a leaf as the anchor", .chain = leaf, .anchors = leaf},
	        {.name = "a limited root",
	                .chain = leaf,
	                .anchors = root_limited,
	                .error = CERT_UNTRUSTED,
	                .why = "MQTT_ROOT_CA",
	                .detail = DETAIL},
	        {.name = "another name",
	                .chain = leaf,
	                .host = "other.test",
	                .error = CERT_NAME,
	                .why = NO_NAME,
	                .detail = DETAIL "; expected 'other.test'"},
	        {.name = "a name below it",
	                .chain = leaf,
	                .host = "a.broker.test",
	                .error = CERT_NAME,
	                .why = NO_NAME,
	                .detail = DETAIL "; expected 'a.broker.test'"},
	        {.name = "another address",
	                .chain = leaf,
	                .host = "192.0.2.8",
	                .error = CERT_NAME,
	                .why = NO_NAME,
	                .detail = DETAIL "; expected '192.0.2.8'"},
	        {.name = "an IPv6 address",
	                .chain = leaf,
	                .host = "2001:db8::1",
	                .error = CERT_NAME,
	                .why = NO_NAME,
	                .detail = DETAIL "; expected '2001:db8::1'"},
	        {.name = "no name",
	                .chain = leaf,
	                .host = "",
	                .error = BR_ERR_BAD_STATE,
	                .why = "a mistake in iamcat itself"},
	        {.name = "a long name",
	                .chain = leaf,
	                .host = long_host,
	                .error = BR_ERR_BAD_STATE,
	                .why = "a mistake in iamcat itself"},
	        {.name = "not trusted",
	                .chain = leaf,
	                .embedded = true,
	                .error = CERT_UNTRUSTED,
	                .why = "MQTT_ROOT_CA",
	                .detail = DETAIL},
	        {.name = "a short RSA key",
	                .chain = leaf_weak,
	                .rsa = true,
	                .error = CERT_WEAK_KEY,
	                .why = "under 2048 bits",
	                .detail = DETAIL},
	        {.name = "another's key",
	                .chain = leaf,
	                .wrong_key = true,
	                .error = BR_ERR_BAD_SIGNATURE,
	                .why = "does not hold the key"},
	        {.name = "a key of another kind",
	                .chain = leaf,
	                .rsa = true,
	                .error = BR_ERR_WRONG_KEY_USAGE,
	                .why = "nothing that is safe"},
	        {.name = "TLS 1.1",
	                .chain = leaf,
	                .min = BR_TLS10,
	                .max = BR_TLS11,
	                .error = BR_ERR_RECV_FATAL_ALERT + 40,
	                .why = "TLS 1.2"},
	        {.name = "CBC alone",
	                .chain = leaf,
	                .suite = BR_TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256,
	                .error = BR_ERR_RECV_FATAL_ALERT + 40,
	                .why = "AES-GCM or ChaCha20"},
	        {.name = "RSA key exchange alone",
	                .chain = leaf_rsa,
	                .rsa = true,
	                .suite = BR_TLS_RSA_WITH_AES_128_GCM_SHA256,
	                .error = BR_ERR_RECV_FATAL_ALERT + 40,
	                .why = "ECDHE"},
	        {.name = "P-521 alone",
	                .chain = leaf,
	                .curve = BR_EC_secp521r1,
	                .error = BR_ERR_RECV_FATAL_ALERT + 40,
	                .why = "ECDHE"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		client.all_suites = true;
		shake_hands(&cases[i], 1);
		without_aes = true;
		shake_hands(&cases[i], 100000);
		without_aes = false;
	}
}

/* The types of the messages that the server has sent in the clear, as letters from 'A' for 1; its other
 * records, up to the Finished, as '!'. */
static const char *server_messages(void)
{
	static char types[40];
	static unsigned char bytes[sizeof server_says];
	size_t n = 0, at = 0, count = 0;
	while (server_said - at >= 5 && server_says[at] == 22) {
		size_t length = (size_t)server_says[at + 3] << 8 | server_says[at + 4];
		assert_true(length <= server_said - at - 5);
		memcpy(bytes + n, server_says + at + 5, length);
		n += length;
		at += 5 + length;
	}
	assert_int_equal(server_says[at], 20); /* ChangeCipherSpec */
	for (at = 0; at < n && count < sizeof types - 1; count++) {
		types[count] = (char)('A' - 1 + bytes[at]);
		at += 4 + ((size_t)bytes[at + 1] << 16 | (size_t)bytes[at + 2] << 8 | bytes[at + 3]);
	}
	types[count] = 0;
	return types;
}

#define FULL    "BKLN" /* ServerHello (2), Certificate (11), ServerKeyExchange (12), ServerHelloDone (14) */
#define RESUMED "B"

/* A connection after those before. */
static void connect_again(const struct lab *c, int64_t wall_s, const char *messages)
{
	struct lab lab = *c;
	lab.wall_s = wall_s;
	shake_hands(&lab, 100000);
	if (strcmp(server_messages(), messages) != 0)
		fail_msg("%s: %s", c->name, server_messages());
	tls_established(&client, wall_s);
	tls_end(&client);
}

static const int64_t in_2031 = 1924992000;

static void new_server(void)
{
	br_ssl_session_cache_lru_init(&server_cache, server_cache_mem, sizeof server_cache_mem);
}

static void resumed(void **state)
{
	static const struct lab labs[] = {
	        {.name = "EC", .chain = leaf, .cache = true},
	        {.name = "RSA", .chain = leaf_rsa, .rsa = true, .cache = true},
	        {.name = "ChaCha20",
	                .chain = leaf,
	                .cache = true,
	                .suite = BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
	        {.name = "AES-256",
	                .chain = leaf,
	                .cache = true,
	                .suite = BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384},
	};
	(void)state;
	for (size_t i = 0; i < sizeof labs / sizeof labs[0]; i++) {
		const struct lab *c = &labs[i];
		tls_forget(&client);
		client.all_suites = true;
		new_server();
		connect_again(c, in_2031, FULL);
		assert_true(client.session_s == in_2031);
		size_t full = server_said;
		connect_again(c, in_2031 + 60, RESUMED);
		assert_true(server_said < 300 && full > 2 * server_said);
		assert_true(client.session_s == in_2031); /* of the full one */
		connect_again(c, in_2031 + 120, RESUMED);
		/* The server has forgotten it: no error, and a new one. */
		new_server();
		connect_again(c, in_2031 + 180, FULL);
		assert_true(client.session_s == in_2031 + 180);
		connect_again(c, in_2031 + 240, RESUMED);
	}
}

static void sessions_kept(void **state)
{
	static const struct lab c = {.name = "kept", .chain = leaf, .cache = true},
	                        other = {.name = "other name",
	                                .chain = leaf,
	                                .cache = true,
	                                .host = "b.test",
	                                .error = CERT_NAME,
	                                .why = NO_NAME,
	                                .detail = DETAIL "; expected 'b.test'"};
	static const br_ssl_session_parameters none;
	int64_t end_s = in_2031 + TLS_SESSION_S;
	(void)state;
	/* Not for longer than a day, counted from the full handshake; not before it either, by the clock. */
	tls_forget(&client);
	new_server();
	connect_again(&c, in_2031, FULL);
	connect_again(&c, end_s - 1, RESUMED);
	connect_again(&c, end_s, FULL);
	assert_true(client.session_s == end_s);
	connect_again(&c, end_s, RESUMED);
	connect_again(&c, end_s - 1, FULL);
	/* A clock before the build time stands still. */
	tls_forget(&client);
	connect_again(&c, 0, FULL);
	assert_true(client.session_s == TLS_BUILD_TIME_S);
	connect_again(&c, 100, RESUMED);
	connect_again(&c, TLS_BUILD_TIME_S + 1, RESUMED);
	/* A server that keeps none gives no session id. */
	client.client.eng.session.session_id_len = 0;
	tls_established(&client, in_2031);
	assert_true(client.session_s == 0);
	connect_again(&c, in_2031, FULL);
	/* It is offered with its suite alone; one that is refused is not offered again, which says nothing of
	 * the suites. */
	const uint16_t chacha = BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	               aes = BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384;
	struct lab moved = {.name = "another suite now",
	        .chain = leaf,
	        .cache = true,
	        .suite = client.session.cipher_suite == chacha ? aes : chacha,
	        .wall_s = in_2031,
	        .error = BR_ERR_RECV_FATAL_ALERT + 40,
	        .why = "refuses to resume"};
	bool all = client.all_suites;
	new_server();
	shake_hands(&moved, 100000);
	assert_int_equal(client.client.eng.suites_num, 1);
	tls_refused(&client);
	assert_true(client.session_s == 0 && client.all_suites == all);
	connect_again(&c, in_2031, FULL);
	client.client.eng.err = BR_ERR_OK;
	client.resuming = true;
	tls_refused(&client);
	assert_true(client.session_s == 0 && client.all_suites == all);
	connect_again(&c, in_2031, FULL);
	/* A handshake that was refused, for whatever reason, forgets it. */
	assert_true(client.session_s != 0);
	tls_refused(&client);
	assert_true(client.session_s == 0);
	assert_memory_equal(&client.session, &none, sizeof none);
	connect_again(&c, in_2031, FULL);
	new_server();
	shake_hands(&other, 100000);
	tls_refused(&client);
	tls_end(&client);
	new_server();
	connect_again(&c, in_2031, FULL);
	/* tls_end keeps it, tls_forget does not. */
	assert_memory_not_equal(&client.session, &none, sizeof none);
	tls_forget(&client);
	assert_memory_equal(&client.session, &none, sizeof none);
	connect_again(&c, in_2031, FULL);
}

/* The number of suites that are offered; they follow version, random and session. */
static size_t suites_offered(void)
{
	size_t n;
	must_read(&anchors, root);
	tls_begin(&client, "broker.test", &anchors, 0, entropy);
	unsigned char *p = br_ssl_engine_sendrec_buf(&client.client.eng, &n);
	assert_non_null(p);
	p += 44 + p[43]; /* behind the session */
	assert_memory_equal(p + 2, without_aes ? "\xCC\xA9" : "\xC0\x2B", 2);
	return (size_t)p[1] / 2;
}

static void chacha_first(void **state)
{
	tls_forget(&client); /* no session of another test */
	static const struct lab any = {.name = "any suite", .chain = leaf},
	                        chacha = {.name = "ChaCha20",
	                                .chain = leaf,
	                                .suite = BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
	                        aes = {.name = "AES",
	                                .chain = leaf,
	                                .suite = BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
	                        no_aes = {.name = "AES alone",
	                                .chain = leaf,
	                                .suite = BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	                                .error = BR_ERR_RECV_FATAL_ALERT + 40,
	                                .why = "AES is offered from now on"},
	                        nothing_else = {.name = "CBC alone",
	                                .chain = leaf,
	                                .suite = BR_TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256,
	                                .error = BR_ERR_RECV_FATAL_ALERT + 40,
	                                .why = "nothing that is safe"};
	(void)state;
	without_aes = true;
	tls_forget(&client);
	assert_int_equal(suites_offered(), 2);
	shake_hands(&any, 100000);
	assert_int_equal(
	        client.client.eng.session.cipher_suite, BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256);
	tls_established(&client, 0);
	/* Refused: all of them, until everything is forgotten. */
	tls_forget(&client);
	shake_hands(&no_aes, 100000);
	tls_refused(&client);
	tls_end(&client);
	assert_int_equal(suites_offered(), 6);
	shake_hands(&aes, 100000);
	shake_hands(&chacha, 100000);
	/* A session is offered with its own suite alone, and when that was refused, all of them are again. */
	tls_established(&client, 0);
	tls_end(&client);
	assert_int_equal(suites_offered(), 1);
	client.client.eng.err = BR_ERR_RECV_FATAL_ALERT + 40;
	assert_non_null(strstr(tls_why(&client), "refuses to resume"));
	tls_refused(&client);
	assert_int_equal(suites_offered(), 6);
	tls_forget(&client);
	assert_int_equal(suites_offered(), 2);
	/* insufficient_security is the same, other errors are not. */
	client.client.eng.err = BR_ERR_RECV_FATAL_ALERT + 71;
	assert_non_null(strstr(tls_why(&client), "AES is offered"));
	tls_refused(&client);
	assert_int_equal(suites_offered(), 6);
	shake_hands(&nothing_else, 100000);
	tls_refused(&client);
	assert_int_equal(suites_offered(), 6);
	tls_forget(&client);
	suites_offered();
	client.client.eng.err = BR_ERR_RECV_FATAL_ALERT + 48;
	tls_refused(&client);
	assert_int_equal(suites_offered(), 2);
	/* No word at all: the other choice, and back. */
	tls_refused(&client);
	assert_int_equal(suites_offered(), 6);
	tls_refused(&client);
	assert_int_equal(suites_offered(), 2);
	without_aes = false;
	tls_forget(&client);
	if (br_aes_x86ni_ctr_get_vtable() != NULL)
		assert_int_equal(suites_offered(), 6);
}

/* What a peer that is no TLS 1.2 server says first. */
static void other_peers(void **state)
{
	tls_forget(&client); /* no session of another test */
	static const struct {
		const char *name, *bytes;
		size_t n;
		int error;
	} cases[] = {
	        {"HTTP", "HTTP/1.1 400 Bad Request\r\n\r\n", 28, BR_ERR_UNSUPPORTED_VERSION},
	        {"MQTT without TLS", "\x20\x02\x00\x05\x20\x02\x00\x05", 8, BR_ERR_UNSUPPORTED_VERSION},
	        {"SSH", "SSH-2.0-OpenSSH_9.2\r\n", 21, BR_ERR_UNSUPPORTED_VERSION},
	        {"SSL 3.0 alert", "\x15\x03\x00\x00\x02\x02\x28", 7, BR_ERR_RECV_FATAL_ALERT + 40},
	        {"a TLS 1.1 ServerHello",
	                "\x16\x03\x02\x00\x2A\x02\x00\x00\x26\x03\x02"
	                "................................\x00\xC0\x14\x00",
	                47, BR_ERR_UNSUPPORTED_VERSION},
	        {"a suite that was not offered",
	                "\x16\x03\x03\x00\x2A\x02\x00\x00\x26\x03\x03"
	                "................................\x00\xC0\x23\x00",
	                47, BR_ERR_BAD_CIPHER_SUITE},
	};
	(void)state;
	must_read(&anchors, root);
	for (size_t i = 0; i < 2 * sizeof cases / sizeof cases[0]; i++) {
		size_t step = i % 2 ? 1 : 100, room;
		unsigned char *p;
		client.all_suites = true; /* whether or not this processor has AES instructions */
		tls_begin(&client, "broker.test", &anchors, 0, entropy);
		while ((p = br_ssl_engine_sendrec_buf(&client.client.eng, &room)) != NULL)
			br_ssl_engine_sendrec_ack(&client.client.eng, room);
		for (size_t at = 0, n; at < cases[i / 2].n; at += n) {
			p = br_ssl_engine_recvrec_buf(&client.client.eng, &room);
			if (p == NULL)
				break;
			n = cases[i / 2].n - at;
			n = n < room ? n : room;
			n = n < step ? n : step;
			memcpy(p, cases[i / 2].bytes + at, n);
			br_ssl_engine_recvrec_ack(&client.client.eng, n);
		}
		if (tls_error(&client) != cases[i / 2].error)
			fail_msg("%s: error %d", cases[i / 2].name, tls_error(&client));
		assert_non_null(strstr(tls_why(&client), "TLS 1.2"));
	}
}

/* The server wants to begin anew: we say no_renegotiation (alert 100, RFC 5246 §7.2.2), which BearSSL's
 * server takes for the end, and for us the connection goes on. */
static void no_renegotiation(void **state)
{
	(void)state;
	shake_hands(&(struct lab){.name = "first", .chain = leaf}, 100000);
	assert_true(br_ssl_engine_renegotiate(&server.eng));
	pump(100000);
	assert_int_equal(br_ssl_engine_last_error(&server.eng), BR_ERR_RECV_FATAL_ALERT + 100);
	assert_int_equal(tls_error(&client), 0);
	assert_true(br_ssl_engine_current_state(&client.client.eng) & BR_SSL_SENDAPP);
}

/* The ClientHello to host, after the header of its record. */
static struct slice client_hello(const char *host, const unsigned char *random)
{
	size_t n;
	tls_begin(&client, host, &anchors, 0, random);
	unsigned char *p = br_ssl_engine_sendrec_buf(&client.client.eng, &n);
	assert_non_null(p);
	assert_true(n > 50);
	return (struct slice){p + 5, n - 5};
}

static bool holds(struct slice s, const char *bytes, size_t n)
{
	for (size_t i = 0; i + n <= s.n; i++)
		if (memcmp(s.p + i, bytes, n) == 0)
			return true;
	return false;
}

static void hello(void **state)
{
	tls_forget(&client); /* no session of another test */
	static const unsigned char other_entropy[TLS_ENTROPY_BYTES] = {1, 2, 3, [TLS_ENTROPY_BYTES - 1] = 1};
	unsigned char first[1024];
	(void)state;
	must_read(&anchors, root);
	struct slice s = client_hello("broker.test", entropy);
	assert_true(s.n < sizeof first);
	memcpy(first, s.p, s.n);
	/* Version, random, no session; then six suites or two, no compression */
	assert_memory_equal(s.p + 4, "\x03\x03", 2);
	bool hardware = br_aes_x86ni_ctr_get_vtable() != NULL;
	assert_memory_equal(s.p + 38, hardware ? "\0\0\x0C" : "\0\0\x04", 3);
	assert_memory_equal(s.p + 41,
	        hardware ? "\xC0\x2B\xC0\x2F\xC0\x2C\xC0\x30\xCC\xA9\xCC\xA8\x01\0"
	                 : "\xCC\xA9\xCC\xA8\x01\0",
	        hardware ? 14 : 6);
	assert_true(holds(s,
	        "\0\0\0\x10\0\x0E\0\0\x0B"
	        "broker.test",
	        20)); /* SNI */
	/* SHA-256, SHA-384, SHA-512, each with ECDSA and RSA; three curves */
	assert_true(holds(s, "\0\x0D\0\x0E\0\x0C\x04\x03\x05\x03\x06\x03\x04\x01\x05\x01\x06\x01", 18));
	assert_true(holds(s, "\0\x0A\0\x08\0\x06\0\x1D\0\x17\0\x18", 12));
	/* The randomness is ours alone: the same gives the same bytes, another gives others. */
	assert_memory_equal(client_hello("broker.test", entropy).p, first, s.n);
	assert_memory_not_equal(client_hello("broker.test", other_entropy).p + 10, first + 10, 28);
	assert_true(holds(client_hello("1a.2", entropy), "1a.2", 4));
	assert_false(holds(client_hello("192.0.2.7", entropy), "192.0.2.7", 9));
	assert_false(holds(client_hello("192.0.2.7.", entropy), "192.0.2.7", 9));
	assert_false(holds(client_hello("fe80::1", entropy), "fe80::1", 7));
	assert_true(holds(client_hello("broker.test.", entropy),
	        "\0\x0B"
	        "broker.test\0",
	        14));
}

/* Words */

/* The words for every code that BearSSL has a name for, by a word that the sentence must hold. */
static void words(void **state)
{
	static const struct {
		int first, last;
		const char *word;
	} cases[] = {
	        {0, 0, "unknown"},
	        {1, 1, "rules of TLS"},
	        {2, 2, "report"},
	        {3, 4, "MQTT_BROKER_PORT"},
	        {5, 5, "rules"},
	        {6, 6, "than it was asked for"},
	        {7, 7, "network"},
	        {8, 8, "report"},
	        {9, 9, "MQTT_BROKER_PORT"},
	        {10, 15, "rules"},
	        {16, 16, "TLS 1.2"},
	        {17, 23, "rules"},
	        {24, 24, "meddles"},
	        {25, 25, "rules"},
	        {26, 26, "X25519"},
	        {27, 27, "key file"},
	        {28, 28, "nothing that is safe"},
	        {29, 29, "turn that off"},
	        {31, 31, "report"},
	        {32, 191, "unknown"},
	        {CERT_NONE, CERT_NONE, "no certificate"},
	        {CERT_NAME, CERT_NAME, "MQTT_BROKER_HOST"},
	        {CERT_ANCHOR_EXPIRED, CERT_ANCHOR_EXPIRED, "root"},
	        {CERT_ERRORS, 255, "unknown"},
	        {256, 295, "log"},
	        {296, 296, "ChaCha20"},
	        {297, 302, "turn that off"},
	        {303, 303, "log"},
	        {304, 305, "turn that off"},
	        {306, 325, "log"},
	        {326, 326, "refuses TLS 1.2"},
	        {327, 327, "ChaCha20"},
	        {328, 367, "alert"},
	        {368, 368, "MQTT_BROKER_HOST"},
	        {369, 371, "alert"},
	        {372, 372, "turn that off"},
	        {373, 511, "alert"},
	        {512, 767, "rules"},
	        {768, 768, "unknown"},
	        {-1, -1, "unknown"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		for (int code = cases[i].first; code <= cases[i].last; code++)
			if (strstr(tls_error_text(code), cases[i].word) == NULL)
				fail_msg("%d: %s", code, tls_error_text(code));
	memset(&client, 0, sizeof client);
	assert_null(tls_why(&client));
}

static void wiped(void **state)
{
	static const struct tls zero;
	(void)state;
	memset(&client, 0xA5, sizeof client);
	tls_end(&client);
	assert_memory_equal(&client.client, &zero.client, sizeof zero.client);
	assert_memory_equal(client.in, zero.in, sizeof zero.in);
	assert_memory_equal(client.out, zero.out, sizeof zero.out);
	assert_true(client.session.session_id_len == 0xA5 && client.session_s != 0);
	tls_forget(&client);
	assert_memory_equal(&client, &zero, sizeof zero);
	unsigned char *p = guarded_copy("abcd", 4);
	tls_wipe(p + 1, 2);
	assert_memory_equal(p, "a\0\0d", 4);
	tls_wipe(p + 4, 0);
	tls_wipe_used(p + 2, 2);
	assert_memory_equal(p, "a\0\0\0", 4);
	guarded_free(p, 4);
	tls_wipe(NULL, 0);
}

/* One answer for a signature, ours, which has to be BearSSL's. */
static uint32_t verified(const unsigned char *signature, size_t n, const unsigned char *oid, size_t hash_n,
        const br_rsa_public_key *key)
{
	unsigned char hash[2][64] = {{0}};
	unsigned char *p = guarded_copy(signature, n);
	uint32_t good = verify_rsa(p, n, oid, hash_n, key, hash[0]);
	assert_int_equal(good, br_rsa_i31_pkcs1_vrfy(p, n, oid, hash_n, key, hash[1]));
	if (good)
		assert_memory_equal(hash[0], hash[1], sizeof hash[0]);
	guarded_free(p, n);
	return good;
}

/* A signature with a fresh key, and what is nearly that. */
static void try_rsa(br_hmac_drbg_context *random, unsigned bits, uint32_t exponent)
{
	static unsigned char mem[2][BR_RSA_KBUF_PRIV_SIZE(4096)];
	unsigned char hash[64], wrong[513];
	br_rsa_private_key private;
	br_rsa_public_key key;
	const size_t n = bits / 8;
	unsigned char *modulus = guarded(n);
	assert_true(
	        br_rsa_keygen_get_default()(&random->vtable, &private, mem[0], &key, mem[1], bits, exponent));
	memcpy(modulus, key.n, n);
	key.n = modulus;
	br_hmac_drbg_generate(random, hash, sizeof hash);
	assert_true(br_rsa_pkcs1_sign_get_default()(BR_HASH_OID_SHA256, hash, 32, &private, wrong));
	assert_true(verified(wrong, n, BR_HASH_OID_SHA256, 32, &key));
	assert_false(verified(wrong, n, BR_HASH_OID_SHA384, 32, &key));
	assert_false(verified(wrong, n, BR_HASH_OID_SHA256, 48, &key));
	assert_false(verified(wrong, n - 1, BR_HASH_OID_SHA256, 32, &key));
	assert_false(verified(wrong, n + 1, BR_HASH_OID_SHA256, 32, &key));
	for (size_t i = 0; i < n; i += 37) {
		wrong[i] ^= (unsigned char)(1 << i % 8);
		assert_false(verified(wrong, n, BR_HASH_OID_SHA256, 32, &key));
		wrong[i] ^= (unsigned char)(1 << i % 8);
	}
	/* The same modulo the modulus, where that fits, and the modulus itself, are no signatures. */
	unsigned carry = 0;
	for (size_t i = n; i-- > 0; carry >>= 8)
		wrong[i] = (unsigned char)(carry += (unsigned)wrong[i] + key.n[i]);
	assert_false(carry == 0 && verified(wrong, n, BR_HASH_OID_SHA256, 32, &key));
	assert_false(verified(key.n, n, BR_HASH_OID_SHA256, 32, &key));
	memset(wrong, 0, sizeof wrong);
	assert_false(verified(wrong, n, BR_HASH_OID_SHA256, 32, &key));
	modulus[n - 1] &= 0xfe;
	assert_false(verified(wrong, n, BR_HASH_OID_SHA256, 32, &key));
	guarded_free(modulus, n);
}

static void rsa(void **state)
{
	br_hmac_drbg_context random;
	(void)state;
	br_hmac_drbg_init(&random, &br_sha256_vtable, "rsa", 3);
	try_rsa(&random, 2048, 3);
	try_rsa(&random, 2048, 65537);
	try_rsa(&random, 2056, UINT32_MAX);
	try_rsa(&random, 3072, 65537);
	try_rsa(&random, 4096, 65537);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(pem_shapes),
	        cmocka_unit_test(pem_refused),
	        cmocka_unit_test(der_damaged),
	        cmocka_unit_test(anchors_limits),
	        cmocka_unit_test(debian_bundle),
	        cmocka_unit_test(embedded_roots),
#ifndef UNIT_ON_CHIP
	        cmocka_unit_test(roots_again),
#endif
	        cmocka_unit_test(anchors_kept),
	        cmocka_unit_test(handshakes),
	        cmocka_unit_test(resumed),
	        cmocka_unit_test(sessions_kept),
	        cmocka_unit_test(chacha_first),
	        cmocka_unit_test(other_peers),
	        cmocka_unit_test(no_renegotiation),
	        cmocka_unit_test(hello),
	        cmocka_unit_test(words),
	        cmocka_unit_test(rsa),
	        cmocka_unit_test(wiped),
	};
	return cmocka_run_group_tests_name("tls", tests, NULL, NULL);
}
