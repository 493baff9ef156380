// The threads of a block as fibers on one CPU thread, the barriers at which they meet, and copies under way.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>

// Code that plays the hardware: what it reads and writes on behalf of a kernel is told to ThreadSanitizer by hand.
#define EMULATOR_UNWATCHED __attribute__((no_sanitize("thread")))

namespace emulator {

struct Size {
    unsigned x, y, z;
};

struct Thread {
    Size index;
    unsigned number, lane, warp;
};

struct Launch {
    Size grid, block, block_index;
    unsigned char* dynamic_shared;
};

// The order in which the threads of a block run, each as far as it gets.
enum class Order : int {
    ascending,
    descending,
    shuffled,  // anew each time that all have run
    greedy,    // warps in a shuffled order, each as far as barriers of the block let it
};

const Thread& current();
const Launch& launch();

// Ends the launch with an error.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void meet_block(int line);
void meet_warp(unsigned mask, int line);

constexpr std::size_t kMostGathered = 32;

// What each lane of a warp brought.
template <class Value>
struct Gathered {
    Value of[32];
};

// Leave `size` bytes, wait for the lanes of `mask`, and see what all of them left, kMostGathered bytes a lane.
const unsigned char* gather_bytes(unsigned mask, const void* value, std::size_t size, int line);

template <class Value>
EMULATOR_UNWATCHED Gathered<Value> gather(unsigned mask, const Value& value, int line) {
    static_assert(std::is_trivially_copyable_v<Value> && sizeof(Value) <= kMostGathered);
    const unsigned char* all = gather_bytes(mask, &value, sizeof value, line);
    Gathered<Value> gathered;
    for (int lane = 0; lane < 32; ++lane)
        __builtin_memcpy(&gathered.of[lane], all + lane * kMostGathered, sizeof(Value));
    return gathered;
}

// Tells ThreadSanitizer of a read that the hardware makes.
void watch_read(const void* place, std::size_t size);

void copy_async(void* shared, const void* global);
void copies_commit();
void copies_wait(int open);

}  // namespace emulator
