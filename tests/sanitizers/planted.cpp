// Mistakes made on purpose, built as the kernels are: a sanitizer that misses one of them is not watching.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <thread>

#include "parallel.hpp"

extern "C" {

int read_past_the_end(std::int64_t length) {
    auto* bytes = static_cast<unsigned char*>(std::calloc(static_cast<std::size_t>(length), 1));
    const volatile unsigned char* const end = bytes + length;
    const int value = *end;
    std::free(bytes);
    return value;
}

int shift_too_far(int bits) {
    return 1 << bits;
}

// Two threads that have met, so that neither can be through before the other begins.
std::int64_t count_without_a_lock() {
    std::atomic<int> arrived{0};
    std::int64_t count = 0;
    tilepress::parallel(2, 1, 2, [&](std::int64_t first, std::int64_t last) {
        arrived.fetch_add(1, std::memory_order_relaxed);
        while (arrived.load(std::memory_order_relaxed) < 2) std::this_thread::yield();
        count += last - first;
    });
    return count;
}

}  // extern "C"
