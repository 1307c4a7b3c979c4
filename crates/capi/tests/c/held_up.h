/*
 * A call that is held up after one of its instructions, while another thread does something to its object. x86-64 only:
 * the processor traps after each instruction.
 *
 *   the thread that calls                     the other one
 *   HELD_UP(call): after `hold_after`
 *   instructions, held_up = hold_after   -->  does what it does
 *   the call goes on                     <--  answered = hold_after
 */
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static atomic_int held_up, answered;
static volatile int instructions, hold_after;

/* The other thread may wait for a lock of this one, so this one does not wait for long. */
static void traced(int signal)
{
    (void)signal;
    if (++instructions != hold_after)
        return;
    atomic_store(&held_up, hold_after);
    for (int tries = 0; tries < 100 && atomic_load(&answered) != hold_after; tries++)
        usleep(100);
}

/* A call with fewer instructions than `hold_after` was not held up: `instructions` says so. */
#define HELD_UP(call)                                                               \
    do {                                                                            \
        instructions = 0;                                                           \
        __asm__ volatile("pushf; orl $0x100, (%%rsp); popf" ::: "cc", "memory");    \
        call;                                                                       \
        __asm__ volatile("pushf; andl $~0x100, (%%rsp); popf" ::: "cc", "memory");  \
    } while (0)
