/*
 * A TLS server and its clients in SSL_MODE_ASYNC, with many connections on one thread. Their servername, certificate
 * and verify callbacks pause in the middle of the handshake. Installed engines do not pause, so the program does it.
 *
 *     main thread                                engine thread
 *     poll: sockets, wait fds, one eventfd       takes a request, then wakes its job
 *     SSL_do_handshake / read / write              through a pipe       (connection 0, 3, 6, ...)
 *       -> callback -> ASYNC_pause_job             through an eventfd   (connection 1, 4, 7, ...)
 *       <- SSL_ERROR_WANT_ASYNC                    through the callback (connection 2, 5, 8, ...)
 *
 * Every endpoint writes what it observes into a transcript of its own. The transcripts are printed in order at the end,
 * so two runs print the same bytes in whatever order the threads ran. The callbacks count their resumes: a driver that
 * resumes an endpoint without its wake shows in the transcript.
 *
 *     cc tls_pause.c -lssl -lcrypto -lpthread && ./a.out [connections] [bytes each way]
 */
#define _GNU_SOURCE
#include <openssl/async.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum wake { WAKE_PIPE, WAKE_EVENTFD, WAKE_CALLBACK, WAKES };
static const char *const wake_names[WAKES] = { "pipe", "eventfd", "callback" };

struct endpoint {
    SSL *ssl;
    int is_server;
    int fd;
    enum wake wake;
    size_t sent, received;
    unsigned long sum;
    enum { HANDSHAKE, TRANSFER, SHUTDOWN, CLOSED } phase;
    enum { RUNNABLE, WANT_READ, WANT_WRITE, WANT_WAKE } wants;
    atomic_int called_back;         /* set by the engine's thread, read by the driver and the job */
    char transcript[8192];
    size_t written;
};

static size_t bytes_each_way = 65536;
static int wake_main = -1;          /* a callback writes to this eventfd, which the main thread polls */

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);         \
            ERR_print_errors_fp(stderr);                                            \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

__attribute__((format(printf, 2, 3))) static void say(struct endpoint *e, const char *format, ...)
{
    va_list arguments;
    size_t left = sizeof(e->transcript) - e->written;

    va_start(arguments, format);
    int length = vsnprintf(e->transcript + e->written, left, format, arguments);
    va_end(arguments);
    CHECK(length >= 0 && (size_t)length < left);
    e->written += (size_t)length;
}

/* ---- the engine: a thread that completes requests ---- */

struct request {
    struct request *next;
    enum wake wake;
    int fd;                         /* for pipe and eventfd: written to */
    ASYNC_WAIT_CTX *ctx;            /* for callback: its callback is called */
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t arrived;
    struct request *first;
    int stop;
} queue = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, 0 };

static void complete(struct request *request)
{
    uint64_t one = 1;
    ASYNC_callback_fn callback;
    void *argument;

    switch (request->wake) {
    case WAKE_PIPE:
        CHECK(write(request->fd, "x", 1) == 1);
        break;
    case WAKE_EVENTFD:
        CHECK(write(request->fd, &one, sizeof(one)) == sizeof(one));
        break;
    default:
        CHECK(ASYNC_WAIT_CTX_get_callback(request->ctx, &callback, &argument) == 1);
        CHECK(callback(argument) == 1);
    }
    free(request);
}

static void *engine(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&queue.lock);
    for (;;) {
        while (queue.first == NULL && !queue.stop)
            pthread_cond_wait(&queue.arrived, &queue.lock);
        if (queue.first == NULL)
            break;
        struct request *request = queue.first;
        queue.first = request->next;
        pthread_mutex_unlock(&queue.lock);
        complete(request);
        pthread_mutex_lock(&queue.lock);
    }
    pthread_mutex_unlock(&queue.lock);
    return NULL;
}

static void submit(enum wake wake, int fd, ASYNC_WAIT_CTX *ctx)
{
    struct request *request = malloc(sizeof(*request));

    CHECK(request != NULL);
    *request = (struct request){ NULL, wake, fd, ctx };
    pthread_mutex_lock(&queue.lock);
    request->next = queue.first;
    queue.first = request;
    pthread_cond_signal(&queue.arrived);
    pthread_mutex_unlock(&queue.lock);
}

/* ---- in the job: an engine does this around ASYNC_pause_job ---- */

static const char pipe_key, eventfd_key;

static void close_pipe(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *write_end)
{
    (void)ctx, (void)key;
    close(fd);
    close((int)(intptr_t)write_end);
}

static void close_eventfd(ASYNC_WAIT_CTX *ctx, const void *key, int fd, void *custom)
{
    (void)ctx, (void)key, (void)custom;
    close(fd);
}

/* The wait fd of this connection. It is made at its first use and kept, because an engine should keep its fd. */
static int wait_fd(ASYNC_WAIT_CTX *ctx, enum wake wake, int *write_end)
{
    int fd, ends[2];
    void *custom;

    if (wake == WAKE_PIPE) {
        if (!ASYNC_WAIT_CTX_get_fd(ctx, &pipe_key, &fd, &custom)) {
            CHECK(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
            CHECK(ASYNC_WAIT_CTX_set_wait_fd(ctx, &pipe_key, ends[0], (void *)(intptr_t)ends[1], close_pipe));
            fd = ends[0];
            custom = (void *)(intptr_t)ends[1];
        }
        *write_end = (int)(intptr_t)custom;
    } else {
        if (!ASYNC_WAIT_CTX_get_fd(ctx, &eventfd_key, &fd, &custom)) {
            CHECK((fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) >= 0);
            CHECK(ASYNC_WAIT_CTX_set_wait_fd(ctx, &eventfd_key, fd, NULL, close_eventfd));
        }
        *write_end = fd;
    }
    return fd;
}

static void pause_for_the_engine(struct endpoint *e, const char *where)
{
    ASYNC_JOB *job = ASYNC_get_current_job();
    CHECK(job != NULL);
    ASYNC_WAIT_CTX *ctx = ASYNC_get_wait_ctx(job);
    CHECK(ctx != NULL);
    int resumes = 0;
    char drained[8];

    say(e, "  %s: pause until %s\n", where, wake_names[e->wake]);
    if (e->wake == WAKE_CALLBACK) {
        atomic_store(&e->called_back, 0);
        CHECK(ASYNC_WAIT_CTX_set_status(ctx, ASYNC_STATUS_OK));
        submit(WAKE_CALLBACK, -1, ctx);
        do {
            CHECK(ASYNC_pause_job() == 1);
            resumes++;
        } while (!atomic_load(&e->called_back));
    } else {
        int write_end;
        int fd = wait_fd(ctx, e->wake, &write_end);
        submit(e->wake, write_end, ctx);
        do {
            CHECK(ASYNC_pause_job() == 1);
            resumes++;
        } while (read(fd, drained, e->wake == WAKE_PIPE ? 1 : 8) < 0);
    }
    CHECK(ASYNC_get_current_job() == job);
    say(e, "  %s: resumed %d time(s)\n", where, resumes);
}

static int on_servername(SSL *ssl, int *alert, void *unused)
{
    (void)alert, (void)unused;
    struct endpoint *e = SSL_get_app_data(ssl);

    say(e, "  servername %s\n", SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name));
    pause_for_the_engine(e, "servername");
    return SSL_TLSEXT_ERR_OK;
}

static int on_certificate(SSL *ssl, void *unused)
{
    (void)unused;
    pause_for_the_engine(SSL_get_app_data(ssl), "certificate");
    return 1;
}

static int on_verify(int ok, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct endpoint *e = SSL_get_app_data(ssl);

    (void)ok;
    say(e, "  verify error %d depth %d\n", X509_STORE_CTX_get_error(store), X509_STORE_CTX_get_error_depth(store));
    pause_for_the_engine(e, "verify");
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
}

static int on_wake(SSL *ssl, void *argument)
{
    struct endpoint *e = argument;
    uint64_t one = 1;

    (void)ssl;
    atomic_store(&e->called_back, 1);
    CHECK(write(wake_main, &one, sizeof(one)) == sizeof(one));
    return 1;
}

/* ---- the driver ---- */

static void want_async(struct endpoint *e)
{
    size_t all = 0, added = 0, deleted = 0;
    int status = -1;

    CHECK(SSL_waiting_for_async(e->ssl));
    CHECK(SSL_get_all_async_fds(e->ssl, NULL, &all));
    CHECK(SSL_get_changed_async_fds(e->ssl, NULL, &added, NULL, &deleted));
    CHECK(SSL_get_async_status(e->ssl, &status));
    say(e, "  paused: %zu fd(s), %zu added, %zu deleted, status %d\n", all, added, deleted, status);
    e->wants = WANT_WAKE;
}

/* Notes what the endpoint waits for after an SSL call. Returns 1 if the call is done, 0 if it must be made again. */
static int is_done(struct endpoint *e, int returned)
{
    int error = SSL_get_error(e->ssl, returned);

    e->wants = RUNNABLE;
    switch (error) {
    case SSL_ERROR_NONE:
    case SSL_ERROR_ZERO_RETURN:
        return 1;
    case SSL_ERROR_WANT_READ:
        e->wants = WANT_READ;
        return 0;
    case SSL_ERROR_WANT_WRITE:
        e->wants = WANT_WRITE;
        return 0;
    case SSL_ERROR_WANT_ASYNC:
        want_async(e);
        return 0;
    default:
        fprintf(stderr, "unexpected SSL error %d\n%s", error, e->transcript);
        ERR_print_errors_fp(stderr);
        exit(1);
    }
}

static void handshake(struct endpoint *e)
{
    if (!is_done(e, SSL_do_handshake(e->ssl)))
        return;
    say(e, "  handshake %s %s\n", SSL_get_version(e->ssl), SSL_get_cipher_name(e->ssl));
    e->phase = TRANSFER;
}

static unsigned char byte_at(const struct endpoint *e, size_t offset)
{
    return (unsigned char)(offset * 7 + (e->is_server ? 3 : 5));
}

/* The client sends all its bytes first, then the server. One end writes while the other reads. */
static void transfer(struct endpoint *e)
{
    static unsigned char buffer[4096];
    int sends_now = e->is_server ? e->received == bytes_each_way : e->sent < bytes_each_way;

    if (sends_now && e->sent < bytes_each_way) {
        size_t length = bytes_each_way - e->sent < sizeof(buffer) ? bytes_each_way - e->sent : sizeof(buffer);
        for (size_t i = 0; i < length; i++)
            buffer[i] = byte_at(e, e->sent + i);
        int n = SSL_write(e->ssl, buffer, (int)length);
        if (is_done(e, n))
            e->sent += (size_t)n;
    } else if (e->received < bytes_each_way) {
        int n = SSL_read(e->ssl, buffer, sizeof(buffer));
        if (!is_done(e, n))
            return;
        CHECK(n > 0);
        for (int i = 0; i < n; i++)
            e->sum = e->sum * 31 + buffer[i];
        e->received += (size_t)n;
    }
    if (e->sent == bytes_each_way && e->received == bytes_each_way) {
        say(e, "  sent %zu received %zu sum %016lx\n", e->sent, e->received, e->sum);
        e->phase = SHUTDOWN;
    }
}

static void shut_down(struct endpoint *e)
{
    int returned = SSL_shutdown(e->ssl);

    if (returned == 1 || (returned == 0 && e->is_server) || (returned < 0 && is_done(e, returned))) {
        say(e, "  closed\n");
        e->phase = CLOSED;
    }
}

static void step(struct endpoint *e)
{
    ERR_clear_error();
    switch (e->phase) {
    case HANDSHAKE:
        handshake(e);
        break;
    case TRANSFER:
        transfer(e);
        break;
    case SHUTDOWN:
        shut_down(e);
        break;
    case CLOSED:
        break;
    }
}

/* What to poll for the endpoint: its socket, its wait fd, or nothing if a callback will wake it. */
static struct pollfd interest(struct endpoint *e)
{
    struct pollfd p = { -1, POLLIN, 0 };
    size_t count = 0;

    if (e->wants == WANT_READ || e->wants == WANT_WRITE) {
        p.fd = e->fd;
        p.events = e->wants == WANT_READ ? POLLIN : POLLOUT;
    } else if (e->wants == WANT_WAKE && e->wake != WAKE_CALLBACK) {
        CHECK(SSL_get_all_async_fds(e->ssl, NULL, &count) && count == 1);
        CHECK(SSL_get_all_async_fds(e->ssl, &p.fd, &count));
    }
    return p;
}

static int ready(struct endpoint *e, const struct pollfd *p)
{
    if (e->wants == RUNNABLE)
        return 1;
    if (e->wants == WANT_WAKE && e->wake == WAKE_CALLBACK)
        return atomic_load(&e->called_back);
    return p->revents != 0;
}

static void drive(struct endpoint *endpoints, size_t count)
{
    struct pollfd *polled = calloc(count + 1, sizeof(*polled));

    for (size_t open = count; open > 0;) {
        int runnable = 0;
        polled[count] = (struct pollfd){ wake_main, POLLIN, 0 };
        for (size_t i = 0; i < count; i++) {
            polled[i] = interest(&endpoints[i]);
            runnable |= endpoints[i].phase != CLOSED && endpoints[i].wants == RUNNABLE;
        }
        CHECK(poll(polled, count + 1, runnable ? 0 : 60000) != 0 || runnable);
        if (polled[count].revents != 0) {
            uint64_t drained;
            CHECK(read(wake_main, &drained, sizeof(drained)) == sizeof(drained));
        }
        open = 0;
        for (size_t i = 0; i < count; i++) {
            if (endpoints[i].phase != CLOSED && ready(&endpoints[i], &polled[i]))
                step(&endpoints[i]);
            open += endpoints[i].phase != CLOSED;
        }
    }
    free(polled);
}

/* ---- setting up ---- */

static void make_certificate(SSL_CTX *ctx)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    X509_NAME *name = X509_get_subject_name(certificate);

    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 86400);
    X509_set_pubkey(certificate, key);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"asyncjob.test", -1, -1, 0);
    X509_set_issuer_name(certificate, name);
    CHECK(X509_sign(certificate, key, EVP_sha256()) > 0);
    CHECK(SSL_CTX_use_certificate(ctx, certificate) == 1);
    CHECK(SSL_CTX_use_PrivateKey(ctx, key) == 1);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static SSL_CTX *make_context(int is_server, int version)
{
    SSL_CTX *ctx = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());

    CHECK(ctx != NULL);
    SSL_CTX_set_mode(ctx, SSL_MODE_ASYNC | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    CHECK(SSL_CTX_set_min_proto_version(ctx, version) && SSL_CTX_set_max_proto_version(ctx, version));
    CHECK(SSL_CTX_set_cipher_list(ctx, "ECDHE-ECDSA-AES128-GCM-SHA256"));
    CHECK(SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256"));
    if (is_server) {
        make_certificate(ctx);
        SSL_CTX_set_num_tickets(ctx, 0);
        SSL_CTX_set_cert_cb(ctx, on_certificate, NULL);
        SSL_CTX_set_tlsext_servername_callback(ctx, on_servername);
    } else {
        SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, on_verify);
    }
    return ctx;
}

static void make_endpoint(struct endpoint *e, SSL_CTX *ctx, int is_server, int fd, enum wake wake)
{
    memset(e, 0, sizeof(*e));
    e->ssl = SSL_new(ctx);
    e->is_server = is_server;
    e->fd = fd;
    e->wake = wake;
    CHECK(e->ssl != NULL && SSL_set_fd(e->ssl, fd) == 1);
    SSL_set_app_data(e->ssl, e);
    CHECK(SSL_set_async_callback(e->ssl, on_wake) == 1);
    CHECK(SSL_set_async_callback_arg(e->ssl, e) == 1);
    if (is_server) {
        SSL_set_accept_state(e->ssl);
    } else {
        SSL_set_connect_state(e->ssl);
        CHECK(SSL_set_tlsext_host_name(e->ssl, "asyncjob.test") == 1);
    }
}

int main(int argc, char **argv)
{
    size_t connections = argc > 1 ? strtoul(argv[1], NULL, 10) : 12;
    if (argc > 2)
        bytes_each_way = strtoul(argv[2], NULL, 10);
    struct endpoint *endpoints = calloc(2 * connections, sizeof(*endpoints));
    SSL_CTX *contexts[2][2];
    pthread_t thread;

    CHECK((wake_main = eventfd(0, EFD_CLOEXEC)) >= 0);
    CHECK(pthread_create(&thread, NULL, engine, NULL) == 0);
    for (int is_server = 0; is_server < 2; is_server++) {
        contexts[is_server][0] = make_context(is_server, TLS1_2_VERSION);
        contexts[is_server][1] = make_context(is_server, TLS1_3_VERSION);
    }
    for (size_t i = 0; i < connections; i++) {
        int ends[2];
        /* Versions alternate in blocks of three, so that each kind of wake occurs with both. */
        size_t version = i / WAKES % 2;
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
        make_endpoint(&endpoints[2 * i], contexts[0][version], 0, ends[0], (enum wake)(i % WAKES));
        make_endpoint(&endpoints[2 * i + 1], contexts[1][version], 1, ends[1], (enum wake)(i % WAKES));
    }

    drive(endpoints, 2 * connections);

    for (size_t i = 0; i < 2 * connections; i++) {
        printf("%s %zu\n%s", endpoints[i].is_server ? "server" : "client", i / 2, endpoints[i].transcript);
        CHECK(!SSL_waiting_for_async(endpoints[i].ssl));
        SSL_free(endpoints[i].ssl);
        close(endpoints[i].fd);
    }
    pthread_mutex_lock(&queue.lock);
    queue.stop = 1;
    pthread_cond_signal(&queue.arrived);
    pthread_mutex_unlock(&queue.lock);
    pthread_join(thread, NULL);
    for (int i = 0; i < 4; i++)
        SSL_CTX_free(contexts[i / 2][i % 2]);
    free(endpoints);
    return 0;
}
