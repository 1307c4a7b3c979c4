/* The control: the same with a race in it. */
#define RACE
#include "threads_sanitized.c"
