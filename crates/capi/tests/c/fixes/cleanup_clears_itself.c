/*
 * S60: a cleanup clears its own key, or another, during ASYNC_WAIT_CTX_free. On stock, the walk through the list reads
 * freed memory. With our library, each cleanup runs once, and the cleanup of a key that was cleared does not run.
 */
#include "fix.h"

static int keys[4];
static char calls[16];

static void clear_myself(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *name)
{
    strcat(calls, name);
    CHECK(ASYNC_WAIT_CTX_clear_fd(ctx, key) == 1);
    if (fd == 3)
        CHECK(ASYNC_WAIT_CTX_clear_fd(ctx, &keys[2]) == 1);
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    static char *const names[4] = { "a", "b", "c", "d" };

    for (int i = 0; i < 4; i++)
        CHECK(ASYNC_WAIT_CTX_set_wait_fd(ctx, &keys[i], i, names[i], clear_myself) == 1);
    ASYNC_WAIT_CTX_free(ctx);
    CHECK(strcmp(calls, "dba") == 0);
    return 0;
}
