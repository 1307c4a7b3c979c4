/* S77: the default library context belongs to the job. */
#include <openssl/async.h>
#include <openssl/crypto.h>
#include <stdio.h>

static OSSL_LIB_CTX *contexts[3];

static void say(const char *who)
{
    OSSL_LIB_CTX *now = OSSL_LIB_CTX_set0_default(NULL);
    const char *name = now == OSSL_LIB_CTX_get0_global_default() ? "global" : "unknown";
    static const char *const names[3] = { "a", "b", "c" };

    for (int i = 0; i < 3; i++)
        if (now == contexts[i])
            name = names[i];
    printf("%s sees %s\n", who, name);
}

static int job(void *unused)
{
    (void)unused;
    say("job, started,");
    ASYNC_pause_job();
    say("job, nothing changed,");
    OSSL_LIB_CTX_set0_default(contexts[0]);
    ASYNC_pause_job();
    say("job, it set a,");
    OSSL_LIB_CTX_set0_default(contexts[1]);
    ASYNC_pause_job();
    say("job, it set b,");
    OSSL_LIB_CTX_set0_default(OSSL_LIB_CTX_get0_global_default());
    ASYNC_pause_job();
    say("job, it set the global one,");
    OSSL_LIB_CTX_set0_default(contexts[0]);
    return 1;
}

static void run(ASYNC_WAIT_CTX *ctx, OSSL_LIB_CTX *before_second)
{
    ASYNC_JOB *one = NULL, *two = NULL;
    int ret, first = ASYNC_PAUSE, second = ASYNC_PAUSE;

    for (int step = 0; first == ASYNC_PAUSE || second == ASYNC_PAUSE; step++) {
        if (first == ASYNC_PAUSE)
            first = ASYNC_start_job(&one, ctx, &ret, job, NULL, 0);
        say("main");
        if (step == 1)
            OSSL_LIB_CTX_set0_default(before_second);
        if (second == ASYNC_PAUSE)
            second = ASYNC_start_job(&two, ctx, &ret, job, NULL, 0);
        say("main");
    }
}

int main(void)
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();

    for (int i = 0; i < 3; i++)
        contexts[i] = OSSL_LIB_CTX_new();
    run(ctx, contexts[2]);
    run(ctx, OSSL_LIB_CTX_get0_global_default());
    OSSL_LIB_CTX_set0_default(contexts[1]);
    run(ctx, contexts[1]);
    ASYNC_WAIT_CTX_free(ctx);
    return 0;
}
