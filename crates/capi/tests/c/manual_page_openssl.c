/* The example, built with OpenSSL's header and libcrypto. */
#define WITH_OPENSSL
#include "../../examples/manual_page.c"
