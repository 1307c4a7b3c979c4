/* The example under a name of its own: it is built twice, with different libraries. */
#include "../../examples/manual_page.c"
