// Mistakes made on purpose, built as the kernels are: a sanitizer that misses one of them is not watching.
#include <cstdint>
#include <cstdlib>

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

std::int64_t count_without_a_lock(int threads) {
    std::int64_t count = 0;
    tilepress::parallel(1 << 12, 1, threads, [&](std::int64_t first, std::int64_t last) { count += last - first; });
    return count;
}

}  // extern "C"
