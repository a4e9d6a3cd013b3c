/* Hashes with the reference implementation of argon2, as the bench beside this file asks for it: one
 * line in is one hash, one line out is its CPU time in nanoseconds and the hash in hex. The folder of
 * the implementation is on the include path; all of it is one translation unit. Memory is kept. */
#define ARGON2_NO_THREADS 1
#include "src/argon2.c"
#include "src/core.c"
#include "src/blake2/blake2b.c"
#include "src/encoding.c"
#include "src/opt.c"

#include <stdio.h>
#include <time.h>

static uint8_t *kept;

static int take(uint8_t **memory, size_t bytes) {
    if (kept == NULL) kept = aligned_alloc(64, bytes);
    *memory = kept;
    return kept == NULL;
}

static void give(uint8_t *memory, size_t bytes) { (void)memory, (void)bytes; }

static long long cpu_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(void) {
    char line[16];
    uint8_t password[] = "correct horse", salt[16], out[32];
    memset(salt, 7, sizeof salt);
    FLAG_clear_internal_memory = 0;
    while (fgets(line, sizeof line, stdin)) {
        argon2_context context = {0};
        context.out = out, context.outlen = sizeof out;
        context.pwd = password, context.pwdlen = sizeof password - 1;
        context.salt = salt, context.saltlen = sizeof salt;
        context.m_cost = 19 * 1024, context.t_cost = 2, context.lanes = 1, context.threads = 1;
        context.version = ARGON2_VERSION_13;
        context.allocate_cbk = take, context.free_cbk = give;
        long long begun = cpu_ns();
        if (argon2_ctx(&context, Argon2_id) != ARGON2_OK) return 1;
        printf("%lld ", cpu_ns() - begun);
        for (size_t n = 0; n < sizeof out; n++) printf("%02x", out[n]);
        puts("");
        fflush(stdout);
    }
    return 0;
}
