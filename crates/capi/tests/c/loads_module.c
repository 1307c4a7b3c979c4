/* Loads module.c with RTLD_LOCAL and runs it. Its path is the argument. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    void *module = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    int (*run)(void);

    if (module == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    *(void **)&run = dlsym(module, "run");
    printf("libcrypto is %s\n", dlsym(RTLD_DEFAULT, "OPENSSL_init_crypto") ? "global" : "local");
    return run();
}
