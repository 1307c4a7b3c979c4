/* The control: threads_sanitized.c, and a data race. */
#define RACE
#include "threads_sanitized.c"
