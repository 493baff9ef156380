// The scheduler of the emulated threads. Under ThreadSanitizer this file is not instrumented: it tells the sanitizer of
// fibers, and of which barriers order whom.
#include "scheduler.hpp"

#include <xmmintrin.h>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "fibers.hpp"

namespace emulator {
namespace {

enum class State { ready, at_block, at_warp, done };

struct Copy {
    void* shared;
    const void* global;
};

struct Runner {
    Fiber fiber;
    Thread thread;
    State state;
    int line;       // of the barrier where it waits
    unsigned mask;  // of the lanes for which it waits
    unsigned block_meetings, warp_meetings;
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
};

struct Warp {
    unsigned arrived;
    alignas(32) unsigned char left[2][32 * kMostGathered];
};

// What ThreadSanitizer takes for locks: of each barrier two in turns, so that one meeting is not mixed up with the
// next.
struct Locks {
    char of_block[2], of_warps[32][2];
};

// Where the threads of a block meet.
struct Meetings {
    Warp warps[32];
    Locks locks;
};

constexpr unsigned kMostThreads = 1024;
constexpr std::size_t kMostShared = 227 * 1024;
constexpr std::size_t kCopyBytes = 16;

struct Scheduler {
    void (*entry)(void**) = nullptr;
    void** arguments = nullptr;
    Launch launch{};
    std::mt19937 random;
    std::vector<std::unique_ptr<Runner>> runners;
    std::vector<unsigned> runner_of;  // a thread's number -> who plays it
    Meetings* meetings = nullptr;     // of the block that runs
    Locks begin_and_end;
    Runner* running = nullptr;
    bool has_failed = false;
    char error[512];
};
Scheduler s;

Runner& runner_of(unsigned number) {
    return *s.runners[s.runner_of[number]];
}

void run_thread() {
    for (;;) {
        acquire(&s.begin_and_end.of_block[0]);
        s.entry(s.arguments);
        release(&s.begin_and_end.of_block[1]);
        s.running->state = State::done;
        leave(s.running->fiber);
    }
}

void run(Runner& runner) {
    s.running = &runner;
    enter(runner.fiber);
}

unsigned threads() {
    return s.launch.block.x * s.launch.block.y * s.launch.block.z;
}

void wait(State state, int line) {
    s.running->state = state;
    s.running->line = line;
    release(&s.begin_and_end.of_block[1]);  // where a launch fails, threads end here
    leave(s.running->fiber);
}

// Threads in the order in which they run now.
std::vector<unsigned> turn(Order order) {
    std::vector<unsigned> numbers(threads());
    for (unsigned i = 0; i < numbers.size(); ++i) numbers[i] = i;
    if (order == Order::descending) std::reverse(numbers.begin(), numbers.end());
    if (order == Order::shuffled) std::shuffle(numbers.begin(), numbers.end(), s.random);
    if (order == Order::greedy) {
        std::vector<unsigned> warps((numbers.size() + 31) / 32);
        for (unsigned i = 0; i < warps.size(); ++i) warps[i] = i;
        std::shuffle(warps.begin(), warps.end(), s.random);
        std::vector<unsigned> place(warps.size());
        for (unsigned i = 0; i < warps.size(); ++i) place[warps[i]] = i;
        std::stable_sort(numbers.begin(), numbers.end(),
                         [&](unsigned a, unsigned b) { return place[a / 32] < place[b / 32]; });
    }
    return numbers;
}

bool run_if_ready(unsigned number) {
    if (s.has_failed || runner_of(number).state != State::ready) return false;
    run(runner_of(number));
    return true;
}

// Let every thread run once, or every warp as far as it gets; false where none could.
bool run_turn(Order order) {
    const std::vector<unsigned> numbers = turn(order);
    bool has_run = false;
    if (order != Order::greedy) {
        for (const unsigned number : numbers) has_run |= run_if_ready(number);
        return has_run;
    }
    for (std::size_t first = 0; first < numbers.size();) {
        std::size_t last = first;
        while (last < numbers.size() && numbers[last] / 32 == numbers[first] / 32) ++last;
        for (bool goes_on = true; goes_on;) {
            goes_on = false;
            for (std::size_t i = first; i < last; ++i) goes_on |= run_if_ready(numbers[i]);
            has_run |= goes_on;
        }
        first = last;
    }
    return has_run;
}

unsigned count(State state) {
    unsigned found = 0;
    for (unsigned i = 0; i < threads(); ++i) found += runner_of(i).state == state;
    return found;
}

void fail_block(const char* format, ...) __attribute__((format(printf, 1, 2)));
void fail_block(const char* format, ...) {
    const Size block = s.launch.block_index;
    int used = std::snprintf(s.error, sizeof s.error, "block (%u,%u,%u): ", block.x, block.y, block.z);
    va_list list;
    va_start(list, format);
    std::vsnprintf(s.error + used, sizeof s.error - static_cast<std::size_t>(used), format, list);
    va_end(list);
    s.has_failed = true;
}

// All threads are at the block's barrier, or done: let them go on, if it is the same barrier for all of them.
void pass_block_barrier() {
    int line = 0;
    for (unsigned i = 0; i < threads(); ++i) {
        const Runner& runner = runner_of(i);
        if (runner.state == State::done) return fail_block("__syncthreads, but thread %u has returned", i);
        if (line != 0 && runner.line != line)
            return fail_block("__syncthreads at line %d for some threads, at line %d for others", line, runner.line);
        line = runner.line;
    }
    for (unsigned i = 0; i < threads(); ++i) runner_of(i).state = State::ready;
}

void run_block(Order order) {
    std::vector<unsigned> roles(threads());
    for (unsigned i = 0; i < roles.size(); ++i) roles[i] = i;
    if (order >= Order::shuffled) std::shuffle(roles.begin(), roles.end(), s.random);
    const Size size = s.launch.block;
    for (unsigned i = 0; i < roles.size(); ++i) {
        const unsigned number = roles[i];
        Runner& runner = *s.runners[i];
        s.runner_of[number] = i;
        runner.thread = {
            {number % size.x, number / size.x % size.y, number / (size.x * size.y)}, number, number % 32, number / 32};
        runner.state = State::ready;
        runner.block_meetings = runner.warp_meetings = 0;
        runner.open.clear();
        runner.groups.clear();
    }
    for (Warp& warp : s.meetings->warps) warp.arrived = 0;
    release(&s.begin_and_end.of_block[0]);
    while (!s.has_failed && count(State::done) < threads()) {
        const bool has_run = run_turn(order);
        if (s.has_failed) return;
        const unsigned at_block = count(State::at_block);
        if (at_block != 0 && at_block + count(State::done) == threads())
            pass_block_barrier();
        else if (!has_run)
            return fail_block("nobody can go on: %u threads wait at __syncthreads, %u in a warp, %u have returned",
                              at_block, count(State::at_warp), count(State::done));
    }
}

}  // namespace

const Thread& current() {
    return s.running->thread;
}
const Launch& launch() {
    return s.launch;
}

void fail(const char* format, ...) {
    int used = std::snprintf(s.error, sizeof s.error, "block (%u,%u,%u), thread %u: ", s.launch.block_index.x,
                             s.launch.block_index.y, s.launch.block_index.z, s.running->thread.number);
    va_list list;
    va_start(list, format);
    std::vsnprintf(s.error + used, sizeof s.error - static_cast<std::size_t>(used), format, list);
    va_end(list);
    s.has_failed = true;
    release(&s.begin_and_end.of_block[1]);
    for (;;) leave(s.running->fiber);
}

void meet_block(int line) {
    Runner& runner = *s.running;
    char* lock = &s.meetings->locks.of_block[runner.block_meetings++ % 2];
    release(lock);
    wait(State::at_block, line);
    acquire(lock);
}

void meet_warp(unsigned mask, int line) {
    Runner& runner = *s.running;
    Warp& warp = s.meetings->warps[runner.thread.warp];
    if (!(mask >> runner.thread.lane & 1)) fail("line %d: the mask %08x lacks the lane that calls", line, mask);
    const unsigned in_block = threads() - 32 * runner.thread.warp;
    if (in_block < 32 && mask >> in_block != 0) fail("line %d: the mask %08x has lanes that are not there", line, mask);
    char* lock = &s.meetings->locks.of_warps[runner.thread.warp][runner.warp_meetings++ % 2];
    release(lock);
    runner.mask = mask;
    warp.arrived |= 1u << runner.thread.lane;
    if ((warp.arrived & mask) == mask) {
        for (unsigned lane = 0; lane < 32; ++lane) {
            if (!(mask >> lane & 1)) continue;
            Runner& other = runner_of(32 * runner.thread.warp + lane);
            if (&other == &runner) continue;
            if (other.mask != mask || other.line != line)
                fail("line %d meets line %d in a warp, or masks differ: %08x, %08x", line, other.line, mask,
                     other.mask);
            other.state = State::ready;
        }
        warp.arrived &= ~mask;
    } else {
        wait(State::at_warp, line);
    }
    acquire(lock);
}

const unsigned char* gather_bytes(unsigned mask, const void* value, std::size_t size, int line) {
    Runner& runner = *s.running;
    unsigned char* all = s.meetings->warps[runner.thread.warp].left[runner.warp_meetings % 2];
    std::memcpy(all + runner.thread.lane * kMostGathered, value, size);
    meet_warp(mask, line);
    return all;
}

void watch_read(const void* place, std::size_t size) {
    watch(const_cast<void*>(place), size, false);
}

void copy_async(void* shared, const void* global) {
    if (reinterpret_cast<std::uintptr_t>(shared) % kCopyBytes != 0 ||
        reinterpret_cast<std::uintptr_t>(global) % kCopyBytes != 0)
        fail("an asynchronous copy from or to an address that is no multiple of 16");
    watch(shared, kCopyBytes, true);
    std::memset(shared, 0xff, kCopyBytes);
    s.running->open.push_back({shared, global});
}

void copies_commit() {
    s.running->groups.push_back(std::move(s.running->open));
    s.running->open.clear();
}

void copies_wait(int open) {
    auto& groups = s.running->groups;
    while (groups.size() > static_cast<std::size_t>(open)) {
        for (const Copy& copy : groups.front()) {
            watch(const_cast<void*>(copy.global), kCopyBytes, false);
            watch(copy.shared, kCopyBytes, true);
            std::memcpy(copy.shared, copy.global, kCopyBytes);
        }
        groups.erase(groups.begin());
    }
}

}  // namespace emulator

// Runs a kernel; null, or what went wrong. `orders_blocks` is false where ThreadSanitizer shall take the blocks of the
// grid for concurrent.
extern "C" const char* emulator_launch(void (*entry)(void**), const unsigned* grid, const unsigned* block,
                                       std::size_t shared_bytes, void** arguments, unsigned seed, int order,
                                       int orders_blocks) {
    using namespace emulator;
    s.entry = entry;
    s.arguments = arguments;
    s.launch = {{grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, {}, nullptr};
    s.random.seed(seed);
    s.has_failed = false;
    const std::uint64_t blocks = std::uint64_t{grid[0]} * grid[1] * grid[2];
    if (threads() == 0 || threads() > kMostThreads) return "a block has 1 to 1024 threads";
    if (shared_bytes > kMostShared) return "a block has at most 227 KiB of shared memory";
    if (grid[1] > 65535 || grid[2] > 65535) return "a grid has at most 65535 blocks in its second and third dimension";
    s.runner_of.resize(kMostThreads);
    while (s.runners.size() < threads()) s.runners.push_back(std::make_unique<Runner>());
    std::vector<std::uint64_t> numbers(blocks);
    for (std::uint64_t i = 0; i < blocks; ++i) numbers[i] = i;
    if (static_cast<Order>(order) >= Order::shuffled) std::shuffle(numbers.begin(), numbers.end(), s.random);

    const unsigned flags = _mm_getcsr();
    _mm_setcsr(flags | 0x8040u);  // flush to zero, denormals are zero: -ftz=true
    std::vector<std::unique_ptr<SharedMemory>> shared;
    std::vector<std::unique_ptr<Meetings>> meetings;
    for (const std::uint64_t number : numbers) {
        if (shared.empty() || !orders_blocks) {
            shared.push_back(std::make_unique<SharedMemory>(shared_bytes));
            meetings.push_back(std::make_unique<Meetings>());
        }
        for (unsigned i = 0; i < threads(); ++i) {
            Fiber& fiber = s.runners[i]->fiber;
            if (fiber.stack == nullptr || !orders_blocks) start(fiber, run_thread);
        }
        if (orders_blocks) acquire(&s.begin_and_end.of_block[1]);
        shared.back()->spoil();
        s.launch.dynamic_shared = shared.back()->bytes();
        s.meetings = meetings.back().get();
        s.launch.block_index = {static_cast<unsigned>(number % grid[0]),
                                static_cast<unsigned>(number / grid[0] % grid[1]),
                                static_cast<unsigned>(number / grid[0] / grid[1])};
        run_block(static_cast<Order>(order));
        if (s.has_failed) break;
    }
    acquire(&s.begin_and_end.of_block[1]);
    _mm_setcsr(flags);
    // Fibers that a failure left in the middle of a kernel can't be used again.
    if (s.has_failed) s.runners.clear();
    return s.has_failed ? s.error : nullptr;
}
