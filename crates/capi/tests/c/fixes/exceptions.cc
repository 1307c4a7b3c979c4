/*
 * Three C++ jobs start in a handler of their program, pause while they handle an exception of their own, and throw it
 * again. On stock OpenSSL the exceptions belong to the thread: a job begins with the exception of its program, and
 * throws that of another job.
 */
#include <openssl/async.h>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>

static int begun_with_none, caught_own;

static int body(void *argument)
{
    const char *name = *static_cast<const char **>(argument);
    begun_with_none += !std::current_exception();
    try {
        try {
            throw std::runtime_error(name);
        } catch (const std::exception &) {
            ASYNC_pause_job();
            throw;
        }
    } catch (const std::exception &caught) {
        caught_own += std::strcmp(caught.what(), name) == 0;
    }
    return 1;
}

int main()
{
    ASYNC_WAIT_CTX *ctx = ASYNC_WAIT_CTX_new();
    const char *names[] = {"first", "second", "third"};
    ASYNC_JOB *jobs[3] = {};
    int ret;

    try {
        throw std::runtime_error("the program's own");
    } catch (const std::exception &) {
        for (int round = 0; round < 2; round++)
            for (int i = 0; i < 3; i++)
                if (ASYNC_start_job(&jobs[i], ctx, &ret, body, &names[i], sizeof names[i])
                    != (round == 0 ? ASYNC_PAUSE : ASYNC_FINISH))
                    return EXIT_FAILURE;
        try {
            throw;
        } catch (const std::exception &own) {
            caught_own += std::strcmp(own.what(), "the program's own") == 0;
        }
    }
    ASYNC_WAIT_CTX_free(ctx);
    if (begun_with_none != 3 || caught_own != 4)
        return EXIT_FAILURE;
    return !std::current_exception() ? EXIT_SUCCESS : EXIT_FAILURE;
}
