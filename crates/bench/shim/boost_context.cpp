// Boost.Context through its public class `fiber`. Both loops are in C++, so that the compiler inlines what it can.

#include <boost/context/fiber.hpp>
#include <boost/context/preallocated.hpp>
#include <boost/version.hpp>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace ctx = boost::context;

// Gives out one piece of memory, which the caller owns.
struct Borrowed {
    ctx::stack_context stack;
    ctx::stack_context allocate() { return stack; }
    void deallocate(ctx::stack_context &) noexcept {}
};

// Calls `bottom` below `frames` frames, as `descend` in depth.rs does.
template <typename F> __attribute__((noinline)) static void last(F &bottom) {
    bottom();
    asm volatile("");
}

template <typename F> __attribute__((noinline)) static void down(uint32_t frames, F &bottom) {
    if (frames == 1) {
        last(bottom);
    } else {
        down(frames - 1, bottom);
    }
    asm volatile("");
}

template <typename F> static inline void descend(uint32_t frames, F &bottom) {
    if (frames == 0) {
        bottom();
    } else if (frames == 1) {
        last(bottom);
    } else {
        down(frames - 1, bottom);
    }
}

static Borrowed borrow(void *memory, size_t size) {
    Borrowed borrowed;
    borrowed.stack.size = size;
    borrowed.stack.sp = static_cast<char *>(memory) + size;
    return borrowed;
}

// A job that pauses `n` times on the stack `memory`, and is resumed as often.
extern "C" void bench_boost_switch(void *memory, size_t size, uint64_t n, uint32_t job_frames, uint32_t caller_frames) {
    ctx::fiber job{std::allocator_arg, borrow(memory, size), [n, job_frames](ctx::fiber &&caller) {
        auto pause = [&caller] { caller = std::move(caller).resume(); };
        for (uint64_t i = 0; i < n; i++) {
            descend(job_frames, pause);
        }
        return std::move(caller);
    }};
    auto resume = [&job] { job = std::move(job).resume(); };
    for (uint64_t i = 0; i <= n; i++) {
        descend(caller_frames, resume);
    }
}

// `n` jobs that do nothing, one after another on the stack `memory`.
extern "C" void bench_boost_empty(void *memory, size_t size, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        ctx::fiber job{std::allocator_arg, borrow(memory, size), [](ctx::fiber &&caller) { return std::move(caller); }};
        job = std::move(job).resume();
    }
}

extern "C" uint32_t bench_boost_version() { return BOOST_VERSION; }
