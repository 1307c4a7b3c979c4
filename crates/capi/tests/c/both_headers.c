/*
 * S1, S2, S3, S8: our header and OpenSSL's in one program. Every declaration is repeated, so the compiler reports a
 * difference in a type or in a number. OpenSSL 3.0 does not declare the two memory functions, so there is nothing to
 * compare with them then.
 */
#include <openssl/async.h>
#include <asyncjob.h>
#include <stdio.h>

_Static_assert(ASYNC_ERR == 0 && ASYNC_NO_JOBS == 1 && ASYNC_PAUSE == 2 && ASYNC_FINISH == 3, "results");
_Static_assert(ASYNC_STATUS_UNSUPPORTED == 0 && ASYNC_STATUS_ERR == 1, "status");
_Static_assert(ASYNC_STATUS_OK == 2 && ASYNC_STATUS_EAGAIN == 3, "status");
_Static_assert(OSSL_BAD_ASYNC_FD == -1, "no fd");

int main(void)
{
    printf(ASYNC_is_capable() == 1 ? "agreed\n" : "incapable\n");
    return 0;
}
