/* The example on OpenSSL: built with its header and libcrypto. */
#define WITH_OPENSSL
#include "../../examples/manual_page.c"
