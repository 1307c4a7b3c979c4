/* The example under another name, because it is built twice, with different libraries. */
#include "../../examples/manual_page.c"
