/* A PKCS#11 module that forwards to SoftHSM and answers as real tokens do, by a script of tests/token_faults.rs.
 *
 *   cc -shared -fPIC -DREAL='"libsofthsm2.so"' -DSCRIPT='"script"' -o shim.so shim.c
 *
 * The script is a file of 64-bit numbers, which this module maps, and the test reads and writes: enum word. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef unsigned long ulong_t;
enum answer { OK = 0, DEVICE_REMOVED = 0x32, SESSION_COUNT = 0xb1, TOKEN_NOT_PRESENT = 0xe0 };
enum word {
    MAX_SESSIONS,   /* more are refused; 0: no limit */
    OPEN,           /* sessions that are open now */
    MOST_OPEN,      /* at any time */
    LOGINS,         /* calls of C_Login */
    LOGIN_ANSWER,   /* what C_Login answers; 0: what SoftHSM answers */
    SIGN_ANSWER,    /* what a broken session answers */
    BREAK,          /* so many of the next sessions to sign break, for ever */
    SET_FLAGS,      /* of the token */
    CLEAR_FLAGS,
    DELAY_US,       /* of each signature */
    SIGNED,         /* signatures that were begun */
    CLOSE_ANSWER,   /* what C_CloseSession answers, after it has closed */
    HANG,           /* the next signature waits until this is 0 again */
    STRAY,          /* of so many calls in a million, each answers STRAY_ANSWER instead of what it does */
    STRAY_ANSWER,
    LOGIN_HANG,     /* the next login waits until this is 0 again */
    REMOVED,        /* no token is there */
    WORDS
};
enum function {
    GET_SLOT_LIST = 4,
    GET_TOKEN_INFO = 6,
    OPEN_SESSION = 12,
    CLOSE_SESSION = 13,
    GET_SESSION_INFO = 15,
    LOGIN = 18,
    GET_ATTRIBUTE_VALUE = 24,
    FIND_OBJECTS_INIT = 26,
    FIND_OBJECTS = 27,
    FIND_OBJECTS_FINAL = 28,
    SIGN_INIT = 42,
    SIGN = 43,
    FUNCTIONS = 68
};
enum flag { PROTECTED_PATH = 0x100 };

typedef struct {
    unsigned char version[2];
    void *call[FUNCTIONS];
} list_t;

static list_t *real, ours;
static volatile uint64_t *script;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char is_broken[1 << 16];

static ulong_t stray(void) {
    static uint64_t state = 88172645463325252;
    pthread_mutex_lock(&lock);
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    ulong_t answer = state % 1000000 < script[STRAY] ? script[STRAY_ANSWER] : OK;
    pthread_mutex_unlock(&lock);
    return answer;
}

/* A function that forwards, or answers something else. None has more arguments. */
#define STRAYS(name, function)                                                                                  \
    static ulong_t name(ulong_t a, ulong_t b, ulong_t c, ulong_t d) {                                           \
        ulong_t answer = stray();                                                                               \
        if (answer != OK)                                                                                       \
            return answer;                                                                                      \
        return ((ulong_t(*)(ulong_t, ulong_t, ulong_t, ulong_t))real->call[function])(a, b, c, d);              \
    }
STRAYS(get_session_info, GET_SESSION_INFO)
STRAYS(get_attribute_value, GET_ATTRIBUTE_VALUE)
STRAYS(find_objects_init, FIND_OBJECTS_INIT)
STRAYS(find_objects, FIND_OBJECTS)
STRAYS(find_objects_final, FIND_OBJECTS_FINAL)

static ulong_t get_slot_list(unsigned char with_token, ulong_t *slots, ulong_t *count) {
    ulong_t answer = stray();
    if (answer != OK)
        return answer;
    if (with_token && script[REMOVED]) {
        *count = 0;
        return OK;
    }
    return ((ulong_t(*)(unsigned char, ulong_t *, ulong_t *))real->call[GET_SLOT_LIST])(with_token, slots, count);
}

static ulong_t sign(ulong_t session, void *data, ulong_t length, void *signature, ulong_t *signature_length) {
    ulong_t answer = script[REMOVED] ? (ulong_t)DEVICE_REMOVED : stray();
    if (answer != OK)
        return answer;
    return ((ulong_t(*)(ulong_t, void *, ulong_t, void *, ulong_t *))real->call[SIGN])(
        session, data, length, signature, signature_length);
}

static ulong_t get_token_info(ulong_t slot, unsigned char *info) {
    ulong_t stray_answer = script[REMOVED] ? (ulong_t)TOKEN_NOT_PRESENT : stray();
    if (stray_answer != OK)
        return stray_answer;
    ulong_t answer = ((ulong_t(*)(ulong_t, void *))real->call[GET_TOKEN_INFO])(slot, info), flags;
    if (answer == OK) {
        /* After the label, the manufacturer, the model and the serial number. */
        memcpy(&flags, info + 32 + 32 + 16 + 16, sizeof flags);
        flags = (flags | script[SET_FLAGS]) & ~script[CLEAR_FLAGS];
        memcpy(info + 32 + 32 + 16 + 16, &flags, sizeof flags);
    }
    return answer;
}

static ulong_t open_session(ulong_t slot, ulong_t flags, void *application, void *notify, ulong_t *session) {
    ulong_t answer = script[REMOVED] ? (ulong_t)TOKEN_NOT_PRESENT : stray();
    if (answer != OK)
        return answer;
    pthread_mutex_lock(&lock);
    answer = SESSION_COUNT;
    if (script[MAX_SESSIONS] == 0 || script[OPEN] < script[MAX_SESSIONS])
        answer = ((ulong_t(*)(ulong_t, ulong_t, void *, void *, ulong_t *))real->call[OPEN_SESSION])(
            slot, flags, application, notify, session);
    if (answer == OK) {
        script[OPEN]++;
        if (script[OPEN] > script[MOST_OPEN])
            script[MOST_OPEN] = script[OPEN];
        is_broken[*session & 0xffff] = 0;
    }
    pthread_mutex_unlock(&lock);
    return answer;
}

static ulong_t close_session(ulong_t session) {
    pthread_mutex_lock(&lock);
    ulong_t answer = ((ulong_t(*)(ulong_t))real->call[CLOSE_SESSION])(session);
    if (answer == OK) {
        script[OPEN]--;
        answer = script[CLOSE_ANSWER];
    }
    pthread_mutex_unlock(&lock);
    return answer;
}

static ulong_t login(ulong_t session, ulong_t user, unsigned char *pin, ulong_t length) {
    pthread_mutex_lock(&lock);
    script[LOGINS]++;
    ulong_t answer = script[LOGIN_ANSWER];
    int hangs = script[LOGIN_HANG] == 1;
    if (hangs)
        script[LOGIN_HANG] = 2;
    pthread_mutex_unlock(&lock);
    while (hangs && script[LOGIN_HANG] != 0)
        usleep(1000);
    if (answer == OK)
        answer = stray();
    if (answer != OK)
        return answer;
    /* The PIN pad. */
    if (pin == NULL && (script[SET_FLAGS] & PROTECTED_PATH))
        pin = (unsigned char *)"12345678", length = 8;
    return ((ulong_t(*)(ulong_t, ulong_t, void *, ulong_t))real->call[LOGIN])(session, user, pin, length);
}

static ulong_t sign_init(ulong_t session, void *mechanism, ulong_t key) {
    pthread_mutex_lock(&lock);
    int hangs = script[HANG] == 1;
    if (hangs)
        script[HANG] = 2;
    script[SIGNED]++;
    if (script[BREAK] > 0) {
        script[BREAK]--;
        is_broken[session & 0xffff] = 1;
    }
    ulong_t answer = is_broken[session & 0xffff] ? script[SIGN_ANSWER] : OK;
    pthread_mutex_unlock(&lock);
    while (hangs && script[HANG] != 0)
        usleep(1000);
    if (script[DELAY_US])
        usleep(script[DELAY_US]);
    if (answer == OK)
        answer = stray();
    if (answer != OK)
        return answer;
    return ((ulong_t(*)(ulong_t, void *, ulong_t))real->call[SIGN_INIT])(session, mechanism, key);
}

ulong_t C_GetFunctionList(list_t **list) {
    pthread_mutex_lock(&lock);
    if (real == NULL) {
        int file = open(SCRIPT, O_RDWR);
        script = mmap(NULL, WORDS * sizeof *script, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        void *library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
        if (script == MAP_FAILED || library == NULL)
            abort();
        ((ulong_t(*)(list_t **))dlsym(library, "C_GetFunctionList"))(&real);
        ours = *real;
        ours.call[GET_SLOT_LIST] = (void *)get_slot_list;
        ours.call[GET_SESSION_INFO] = (void *)get_session_info;
        ours.call[GET_ATTRIBUTE_VALUE] = (void *)get_attribute_value;
        ours.call[FIND_OBJECTS_INIT] = (void *)find_objects_init;
        ours.call[FIND_OBJECTS] = (void *)find_objects;
        ours.call[FIND_OBJECTS_FINAL] = (void *)find_objects_final;
        ours.call[SIGN] = (void *)sign;
        ours.call[GET_TOKEN_INFO] = (void *)get_token_info;
        ours.call[OPEN_SESSION] = (void *)open_session;
        ours.call[CLOSE_SESSION] = (void *)close_session;
        ours.call[LOGIN] = (void *)login;
        ours.call[SIGN_INIT] = (void *)sign_init;
    }
    pthread_mutex_unlock(&lock);
    *list = &ours;
    return OK;
}
