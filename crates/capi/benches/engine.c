/*
 * An engine whose SHA-1 really pauses, for `openssl speed -async_jobs`: each update writes a byte into a pipe, pauses
 * until the program has seen that the pipe is readable, and reads the byte. It sets its wait fd once for each wait ctx,
 * as the engine dasync of OpenSSL does.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/async.h>
#include <openssl/engine.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char key;
static unsigned long pauses;

static void close_pipe(ASYNC_WAIT_CTX *ctx, const void *by, OSSL_ASYNC_FD reader, void *writer)
{
    (void)ctx, (void)by;
    close(reader);
    close(*(int *)writer);
    free(writer);
}

static void pause_through_pipe(void)
{
    ASYNC_JOB *job = ASYNC_get_current_job();
    ASYNC_WAIT_CTX *ctx;
    OSSL_ASYNC_FD reader;
    int *writer, ends[2];
    char byte = 'x';

    if (job == NULL)
        return;
    ctx = ASYNC_get_wait_ctx(job);
    if (!ASYNC_WAIT_CTX_get_fd(ctx, &key, &reader, (void **)&writer)) {
        if (pipe(ends) != 0)
            abort();
        reader = ends[0];
        writer = malloc(sizeof(*writer));
        *writer = ends[1];
        ASYNC_WAIT_CTX_set_wait_fd(ctx, &key, reader, writer, close_pipe);
    }
    if (write(*writer, &byte, 1) != 1)
        abort();
    ASYNC_pause_job();
    if (read(reader, &byte, 1) != 1)
        abort();
    pauses++;
}

static int init(EVP_MD_CTX *ctx)
{
    return SHA1_Init(EVP_MD_CTX_md_data(ctx));
}

static int update(EVP_MD_CTX *ctx, const void *data, size_t size)
{
    pause_through_pipe();
    return SHA1_Update(EVP_MD_CTX_md_data(ctx), data, size);
}

static int final(EVP_MD_CTX *ctx, unsigned char *digest)
{
    return SHA1_Final(digest, EVP_MD_CTX_md_data(ctx));
}

static EVP_MD *sha1(void)
{
    static EVP_MD *method;

    if (method == NULL) {
        method = EVP_MD_meth_new(NID_sha1, NID_sha1WithRSAEncryption);
        EVP_MD_meth_set_result_size(method, SHA_DIGEST_LENGTH);
        EVP_MD_meth_set_input_blocksize(method, SHA_CBLOCK);
        EVP_MD_meth_set_app_datasize(method, sizeof(EVP_MD *) + sizeof(SHA_CTX));
        EVP_MD_meth_set_init(method, init);
        EVP_MD_meth_set_update(method, update);
        EVP_MD_meth_set_final(method, final);
    }
    return method;
}

static int digests(ENGINE *engine, const EVP_MD **method, const int **nids, int nid)
{
    static const int all[] = {NID_sha1};

    (void)engine;
    if (method == NULL) {
        *nids = all;
        return 1;
    }
    *method = nid == NID_sha1 ? sha1() : NULL;
    return *method != NULL;
}

static int finish(ENGINE *engine)
{
    (void)engine;
    fprintf(stderr, "the engine has paused %lu times\n", pauses);
    return 1;
}

static int bind(ENGINE *engine, const char *id)
{
    (void)id;
    return ENGINE_set_id(engine, "pausing") && ENGINE_set_name(engine, "pauses through a pipe")
           && ENGINE_set_digests(engine, digests) && ENGINE_set_finish_function(engine, finish);
}
IMPLEMENT_DYNAMIC_BIND_FN(bind)
IMPLEMENT_DYNAMIC_CHECK_FN()
