/* An engine whose RSA signatures wait for a device: a byte in the FIFO that DEVICE names. It needs no thread, and opens
 * the FIFO when it is loaded, before a server changes its root directory. */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <fcntl.h>
#include <openssl/async.h>
#include <openssl/engine.h>
#include <openssl/rsa.h>
#include <stdlib.h>
#include <unistd.h>

static int (*signs_at_once)(int, const unsigned char *, unsigned char *, RSA *, int);
static int device;

__attribute__((noinline)) static void waits_for_device(ASYNC_WAIT_CTX *ctx)
{
    static const char key;
    char answer;

    ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, device, NULL, NULL);
    while (read(device, &answer, 1) != 1)
        ASYNC_pause_job();
    ASYNC_WAIT_CTX_clear_fd(ctx, &key);
}

static int signs(int size, const unsigned char *from, unsigned char *to, RSA *rsa, int padding)
{
    ASYNC_JOB *job = ASYNC_get_current_job();

    if (job != NULL)
        waits_for_device(ASYNC_get_wait_ctx(job));
    return signs_at_once(size, from, to, rsa, padding);
}

static int bind(ENGINE *engine, const char *id)
{
    RSA_METHOD *method = RSA_meth_dup(RSA_PKCS1_OpenSSL());
    const char *path = getenv("DEVICE");

    (void)id;
    device = path == NULL ? -1 : open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    signs_at_once = RSA_meth_get_priv_enc(RSA_PKCS1_OpenSSL());
    return device >= 0 && RSA_meth_set_priv_enc(method, signs) && ENGINE_set_id(engine, "device")
           && ENGINE_set_name(engine, "signs when a device has answered") && ENGINE_set_RSA(engine, method);
}
IMPLEMENT_DYNAMIC_BIND_FN(bind)
IMPLEMENT_DYNAMIC_CHECK_FN()
