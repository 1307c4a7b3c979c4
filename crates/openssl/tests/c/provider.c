/* A provider, "pausing", of RSA and EC keys whose signatures are made by a thread (work.h). It exports no key. */
#include "work.h"

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/provider.h>
#include <string.h>

/* Where the real keys are. */
static OSSL_LIB_CTX *inner;

struct key {
    const char *type;
    EVP_PKEY *pkey;
    int selection;
};

static void *new_key(const char *type) {
    struct key *key = calloc(1, sizeof *key);
    if (key != NULL)
        key->type = type;
    return key;
}

static void *new_rsa(void *provctx) {
    (void)provctx;
    return new_key("RSA");
}

static void *new_ec(void *provctx) {
    (void)provctx;
    return new_key("EC");
}

static void free_key(void *data) {
    struct key *key = data;
    if (key != NULL)
        EVP_PKEY_free(key->pkey);
    free(key);
}

static int has(const void *data, int selection) {
    const struct key *key = data;
    int wanted = selection & OSSL_KEYMGMT_SELECT_KEYPAIR;
    return key->pkey != NULL && (key->selection & wanted) == wanted;
}

static int match(const void *one, const void *other, int selection) {
    (void)selection;
    return EVP_PKEY_eq(((const struct key *)one)->pkey, ((const struct key *)other)->pkey) == 1;
}

static int import(void *data, int selection, const OSSL_PARAM params[]) {
    struct key *key = data;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(inner, key->type, NULL);
    int made = ctx != NULL && EVP_PKEY_fromdata_init(ctx) > 0
               && EVP_PKEY_fromdata(ctx, &key->pkey, selection, (OSSL_PARAM *)params) > 0;
    EVP_PKEY_CTX_free(ctx);
    key->selection = selection;
    return made;
}

static const OSSL_PARAM *rsa_import_types(int selection) {
    static const OSSL_PARAM types[] = {OSSL_PARAM_BN("n", NULL, 0), OSSL_PARAM_BN("e", NULL, 0),
                                       OSSL_PARAM_BN("d", NULL, 0), OSSL_PARAM_END};
    (void)selection;
    return types;
}

static const OSSL_PARAM *ec_import_types(int selection) {
    static const OSSL_PARAM types[]
        = {OSSL_PARAM_utf8_string("group", NULL, 0), OSSL_PARAM_octet_string("pub", NULL, 0),
           OSSL_PARAM_BN("priv", NULL, 0), OSSL_PARAM_END};
    (void)selection;
    return types;
}

static int get_params(void *data, OSSL_PARAM params[]) {
    return EVP_PKEY_get_params(((struct key *)data)->pkey, params);
}

static const OSSL_PARAM *gettable_params(void *provctx) {
    static const OSSL_PARAM params[]
        = {OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, NULL),
           OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, NULL),
           OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, NULL),
           OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
           OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_DEFAULT_DIGEST, NULL, 0),
           OSSL_PARAM_END};
    (void)provctx;
    return params;
}

static const char *rsa_operation(int operation) {
    (void)operation;
    return "RSA";
}

static const char *ec_operation(int operation) {
    (void)operation;
    return "ECDSA";
}

#define FUNCTION(id, function) {id, (void (*)(void))function}
#define KEYMGMT(create, types, operation) \
    {FUNCTION(OSSL_FUNC_KEYMGMT_NEW, create), \
     FUNCTION(OSSL_FUNC_KEYMGMT_FREE, free_key), \
     FUNCTION(OSSL_FUNC_KEYMGMT_HAS, has), \
     FUNCTION(OSSL_FUNC_KEYMGMT_MATCH, match), \
     FUNCTION(OSSL_FUNC_KEYMGMT_IMPORT, import), \
     FUNCTION(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, types), \
     FUNCTION(OSSL_FUNC_KEYMGMT_GET_PARAMS, get_params), \
     FUNCTION(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, gettable_params), \
     FUNCTION(OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, operation), \
     {0, NULL}}

static const OSSL_DISPATCH rsa_keymgmt[] = KEYMGMT(new_rsa, rsa_import_types, rsa_operation);
static const OSSL_DISPATCH ec_keymgmt[] = KEYMGMT(new_ec, ec_import_types, ec_operation);
static const OSSL_ALGORITHM keymgmts[] = {{"RSA:rsaEncryption", "provider=pausing", rsa_keymgmt, NULL},
                                          {"EC:id-ecPublicKey", "provider=pausing", ec_keymgmt, NULL},
                                          {NULL, NULL, NULL, NULL}};

/* The context of a signature in the inner library context. It goes to the work. */
struct signing {
    EVP_MD_CTX *md;
    EVP_PKEY_CTX *pctx; /* belongs to md */
};

static void *new_signing(void *provctx, const char *propq) {
    (void)provctx, (void)propq;
    return calloc(1, sizeof(struct signing));
}

static void free_signing(void *data) {
    struct signing *signing = data;
    EVP_MD_CTX_free(signing->md);
    free(signing);
}

static int digest_sign_init(void *data, const char *digest, void *provkey, const OSSL_PARAM params[]) {
    struct signing *signing = data;
    EVP_PKEY *pkey = ((struct key *)provkey)->pkey;
    EVP_MD_CTX_free(signing->md);
    signing->md = EVP_MD_CTX_new();
    return signing->md != NULL
           && EVP_DigestSignInit_ex(signing->md, &signing->pctx, digest, inner, NULL, pkey, params) > 0;
}

static int set_ctx_params(void *data, const OSSL_PARAM params[]) {
    return EVP_PKEY_CTX_set_params(((struct signing *)data)->pctx, (OSSL_PARAM *)params) > 0;
}

static const OSSL_PARAM *settable_ctx_params(void *data, void *provctx) {
    static const OSSL_PARAM params[]
        = {OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PAD_MODE, NULL, 0),
           OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_PSS_SALTLEN, NULL, 0),
           OSSL_PARAM_utf8_string(OSSL_SIGNATURE_PARAM_MGF1_DIGEST, NULL, 0), OSSL_PARAM_END};
    (void)data, (void)provctx;
    return params;
}

struct signature {
    struct work work;
    EVP_MD_CTX *md;
    unsigned char *tbs, *out;
    size_t tbs_size, out_size;
};

static int make_signature(struct work *work) {
    struct signature *it = (struct signature *)work;
    return EVP_DigestSign(it->md, it->out, &it->out_size, it->tbs, it->tbs_size) > 0;
}

static void release_signature(struct work *work) {
    struct signature *it = (struct signature *)work;
    EVP_MD_CTX_free(it->md);
    free(it->tbs);
    free(it->out);
    free(it);
}

static int digest_sign(void *data, unsigned char *out, size_t *out_size, size_t room, const unsigned char *tbs,
                       size_t tbs_size) {
    struct signing *signing = data;
    struct signature *it;
    int made;

    if (out == NULL)
        return EVP_DigestSign(signing->md, NULL, out_size, tbs, tbs_size) > 0;
    it = calloc(1, sizeof *it);
    it->work.run = make_signature;
    it->work.release = release_signature;
    it->md = signing->md;
    signing->md = NULL;
    it->tbs = malloc(tbs_size);
    memcpy(it->tbs, tbs, tbs_size);
    it->tbs_size = tbs_size;
    it->out = malloc(room);
    it->out_size = room;
    made = run_paused(&it->work);
    if (made) {
        memcpy(out, it->out, it->out_size);
        *out_size = it->out_size;
    }
    drop_work(&it->work);
    return made;
}

static const OSSL_DISPATCH signature_functions[]
    = {FUNCTION(OSSL_FUNC_SIGNATURE_NEWCTX, new_signing),
       FUNCTION(OSSL_FUNC_SIGNATURE_FREECTX, free_signing),
       FUNCTION(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, digest_sign_init),
       FUNCTION(OSSL_FUNC_SIGNATURE_DIGEST_SIGN, digest_sign),
       FUNCTION(OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, set_ctx_params),
       FUNCTION(OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, settable_ctx_params),
       {0, NULL}};

static const OSSL_ALGORITHM signatures[] = {{"RSA:rsaEncryption", "provider=pausing", signature_functions, NULL},
                                            {"ECDSA", "provider=pausing", signature_functions, NULL},
                                            {NULL, NULL, NULL, NULL}};

static const OSSL_ALGORITHM *query(void *provctx, int operation, int *no_cache) {
    (void)provctx;
    *no_cache = 0;
    return operation == OSSL_OP_KEYMGMT ? keymgmts : operation == OSSL_OP_SIGNATURE ? signatures : NULL;
}

static const OSSL_DISPATCH provider_functions[] = {FUNCTION(OSSL_FUNC_PROVIDER_QUERY_OPERATION, query), {0, NULL}};

int OSSL_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out,
                       void **provctx) {
    (void)handle, (void)in;
    inner = OSSL_LIB_CTX_new();
    *out = provider_functions;
    *provctx = inner;
    return inner != NULL;
}

/* The private key in `pem`, as a key of this provider. NULL if it is none. */
EVP_PKEY *pausing_key(const char *pem) {
    BIO *bio = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *plain = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL), *made = NULL;
    OSSL_PARAM *params = NULL;
    EVP_PKEY_CTX *ctx = NULL;

    BIO_free(bio);
    if (plain != NULL && EVP_PKEY_todata(plain, EVP_PKEY_KEYPAIR, &params))
        ctx = EVP_PKEY_CTX_new_from_name(NULL, EVP_PKEY_get0_type_name(plain), "provider=pausing");
    if (ctx != NULL && EVP_PKEY_fromdata_init(ctx) > 0)
        EVP_PKEY_fromdata(ctx, &made, EVP_PKEY_KEYPAIR, params);
    EVP_PKEY_CTX_free(ctx);
    OSSL_PARAM_free(params);
    EVP_PKEY_free(plain);
    return made;
}

/* Keys that are not made in this provider stay with that of OpenSSL. */
int pausing_prefer_default(void) { return EVP_set_default_properties(NULL, "?provider=default"); }
