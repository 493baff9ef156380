// Fibers (x86-64 only), shared memory with its end watched, and what the sanitizers have to be told of both.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define EMULATOR_ASAN 1
#else
#define EMULATOR_ASAN 0
#endif
// Set by the build: this file itself is not instrumented then.
#ifndef EMULATOR_TSAN
#define EMULATOR_TSAN 0
#endif
#if EMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read_range(void*, unsigned long);
extern "C" void __tsan_write_range(void*, unsigned long);
#endif

// Saves the registers that a call keeps, and goes on with another stack.
extern "C" void emulator_switch(void** saved, void* stack);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, . - emulator_switch
)");

namespace emulator {

constexpr std::size_t kGuardBytes = 4096;
constexpr std::size_t kStackBytes = EMULATOR_ASAN || EMULATOR_TSAN ? 512 << 10 : 64 << 10;

struct Fiber {
    char* stack = nullptr;
    void* pointer = nullptr;  // into the stack, while another runs
    void* of_tsan = nullptr;
    void* fake_stack = nullptr;

    Fiber() = default;
    Fiber(const Fiber&) = delete;
    ~Fiber() { end(); }

    void end() {
        if (stack == nullptr) return;
        munmap(stack - kGuardBytes, kStackBytes + kGuardBytes);
#if EMULATOR_TSAN
        __tsan_destroy_fiber(of_tsan);
#endif
        stack = nullptr;
    }
};

// The stack on which the scheduler runs.
struct MainStack {
    void* pointer = nullptr;
    void* of_tsan = nullptr;
    void* fake_stack = nullptr;
    const void* bottom = nullptr;
    std::size_t size = 0;
};
inline MainStack main_stack;

// The first thing that a fiber runs.
inline void (*first_function)();
inline void begin_fiber() {
#if EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &main_stack.bottom, &main_stack.size);
#endif
    first_function();
}

inline void start(Fiber& fiber, void (*function)()) {
    fiber.end();
    first_function = function;
    void* memory = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    mprotect(memory, kGuardBytes, PROT_NONE);
    fiber.stack = static_cast<char*>(memory) + kGuardBytes;
    auto** top = reinterpret_cast<void**>(fiber.stack + kStackBytes);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(&begin_fiber);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.pointer = top;
#if EMULATOR_TSAN
    fiber.of_tsan = __tsan_create_fiber(0);
#endif
}

// From the scheduler to a fiber.
inline void enter(Fiber& fiber) {
#if EMULATOR_ASAN
    __sanitizer_start_switch_fiber(&main_stack.fake_stack, fiber.stack, kStackBytes);
#endif
#if EMULATOR_TSAN
    if (main_stack.of_tsan == nullptr) main_stack.of_tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber.of_tsan, __tsan_switch_to_fiber_no_sync);
#endif
    emulator_switch(&main_stack.pointer, fiber.pointer);
#if EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(main_stack.fake_stack, nullptr, nullptr);
#endif
}

// From a fiber back to the scheduler.
inline void leave(Fiber& fiber) {
#if EMULATOR_ASAN
    __sanitizer_start_switch_fiber(&fiber.fake_stack, main_stack.bottom, main_stack.size);
#endif
#if EMULATOR_TSAN
    __tsan_switch_to_fiber(main_stack.of_tsan, __tsan_switch_to_fiber_no_sync);
#endif
    emulator_switch(&fiber.pointer, main_stack.pointer);
#if EMULATOR_ASAN
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &main_stack.bottom, &main_stack.size);
#endif
}

// What comes before a release happens before what follows an acquisition of the same lock.
inline void release([[maybe_unused]] void* lock) {
#if EMULATOR_TSAN
    __tsan_release(lock);
#endif
}
inline void acquire([[maybe_unused]] void* lock) {
#if EMULATOR_TSAN
    __tsan_acquire(lock);
#endif
}

// An access that the emulator makes on behalf of a kernel.
inline void watch([[maybe_unused]] void* place, [[maybe_unused]] std::size_t size, [[maybe_unused]] bool is_written) {
#if EMULATOR_TSAN
    is_written ? __tsan_write_range(place, size) : __tsan_read_range(place, size);
#endif
}

// Dynamic shared memory of a block, in memory of its own, so that AddressSanitizer sees where it ends.
class SharedMemory {
public:
    explicit SharedMemory(std::size_t size) : size_(size) {
        if (size != 0 && posix_memalign(&bytes_, 128, size) != 0) std::abort();
    }
    ~SharedMemory() { std::free(bytes_); }
    SharedMemory(const SharedMemory&) = delete;

    unsigned char* bytes() { return static_cast<unsigned char*>(bytes_); }
    // NaN in all dtypes: what nobody wrote shows where it is read.
    void spoil() {
        if (size_ != 0) std::memset(bytes_, 0xff, size_);
    }

private:
    void* bytes_ = nullptr;
    std::size_t size_;
};

}  // namespace emulator
