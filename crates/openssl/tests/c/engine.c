/* An engine, "pausing", whose RSA signatures are made by a thread (work.h). */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "work.h"

#include <openssl/engine.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <string.h>

struct signature {
    struct work work;
    RSA *rsa;
    int padding, in_size;
    unsigned char *in, *out;
};

static int make_signature(struct work *work) {
    struct signature *it = (struct signature *)work;
    return RSA_meth_get_priv_enc(RSA_PKCS1_OpenSSL())(it->in_size, it->in, it->out, it->rsa, it->padding);
}

static void release_signature(struct work *work) {
    struct signature *it = (struct signature *)work;
    RSA_free(it->rsa);
    free(it->in);
    free(it->out);
    free(it);
}

static int sign(int size, const unsigned char *from, unsigned char *to, RSA *rsa, int padding) {
    struct signature *it = calloc(1, sizeof *it);
    int made;

    it->work.run = make_signature;
    it->work.release = release_signature;
    RSA_up_ref(rsa);
    it->rsa = rsa;
    it->padding = padding;
    it->in_size = size;
    it->in = malloc(size);
    memcpy(it->in, from, size);
    it->out = malloc(RSA_size(rsa));
    made = run_paused(&it->work);
    if (made > 0)
        memcpy(to, it->out, made);
    drop_work(&it->work);
    return made > 0 ? made : -1;
}

static RSA_METHOD *method(void) {
    RSA_METHOD *method = RSA_meth_dup(RSA_PKCS1_OpenSSL());
    RSA_meth_set1_name(method, "signs on a thread");
    RSA_meth_set_priv_enc(method, sign);
    return method;
}

static int bind(ENGINE *engine, const char *id) {
    (void)id;
    return ENGINE_set_id(engine, "pausing") && ENGINE_set_name(engine, "signs on a thread")
           && ENGINE_set_RSA(engine, method());
}
IMPLEMENT_DYNAMIC_BIND_FN(bind)
IMPLEMENT_DYNAMIC_CHECK_FN()

/* The RSA key in `pem`, with the engine in the file at `path`. NULL if it is none. */
EVP_PKEY *pausing_engine_key(const char *pem, const char *path) {
    static ENGINE *engine; /* libcrypto loads the engine of a file once */
    BIO *bio = BIO_new_mem_buf(pem, -1);
    RSA *plain = PEM_read_bio_RSAPrivateKey(bio, NULL, NULL, NULL), *rsa;
    EVP_PKEY *key = EVP_PKEY_new();
    const BIGNUM *n, *e, *d, *p, *q, *dp, *dq, *qi;

    BIO_free(bio);
    if (engine == NULL) {
        engine = ENGINE_by_id("dynamic");
        if (!ENGINE_ctrl_cmd_string(engine, "SO_PATH", path, 0) || !ENGINE_ctrl_cmd_string(engine, "LOAD", NULL, 0)
            || !ENGINE_init(engine))
            return NULL;
    }
    rsa = RSA_new_method(engine);
    RSA_get0_key(plain, &n, &e, &d);
    RSA_get0_factors(plain, &p, &q);
    RSA_get0_crt_params(plain, &dp, &dq, &qi);
    RSA_set0_key(rsa, BN_dup(n), BN_dup(e), BN_dup(d));
    RSA_set0_factors(rsa, BN_dup(p), BN_dup(q));
    RSA_set0_crt_params(rsa, BN_dup(dp), BN_dup(dq), BN_dup(qi));
    RSA_free(plain);
    EVP_PKEY_assign_RSA(key, rsa);
    return key;
}
