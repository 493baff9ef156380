// zfp's bit stream: 64-bit little-endian words, the lowest bit first. Written for little-endian machines.
#pragma once

#include <cstdint>
#include <cstring>

namespace tilepress {
namespace {

constexpr std::uint64_t low_bits(unsigned count) {
    return count >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

inline std::uint64_t load_word(const std::uint8_t* from) {
    std::uint64_t word;
    std::memcpy(&word, from, sizeof word);
    return word;
}

inline void store_word(std::uint8_t* to, std::uint64_t word) {
    std::memcpy(to, &word, sizeof word);
}

// Number of zero bits below the lowest one; `bits` is not 0.
inline unsigned trailing_zeros(std::uint64_t bits) {
    return static_cast<unsigned>(__builtin_ctzll(bits));
}

// Bits from `position` on; after the last byte there are zeros without end.
struct BitReader {
    const std::uint8_t* bytes;
    std::uint64_t size;  // in bytes
    std::uint64_t position = 0;

    // The next 57 bits at least; what lies above them is 0 or the bits that follow.
    std::uint64_t window() const {
        const std::uint64_t byte = position >> 3;
        std::uint64_t word = 0;
        if (byte + sizeof word <= size)
            word = load_word(bytes + byte);
        else if (byte < size)
            std::memcpy(&word, bytes + byte, size - byte);
        return word >> (position & 7);
    }

    // `count` is at most 64.
    std::uint64_t read(unsigned count) {
        if (count > 32) {
            const std::uint64_t low = read(32);
            return low | (read(count - 32) << 32);
        }
        const std::uint64_t bits = window() & low_bits(count);
        position += count;
        return bits;
    }
};

// Appends bits; the room for all of them, in whole words, must be there.
struct BitWriter {
    std::uint8_t* next;
    std::uint64_t word = 0;
    unsigned filled = 0;  // bits of the word, less than 64
    std::uint64_t written = 0;

    // `count` is at most 64, and `bits` has none above them.
    void write(std::uint64_t bits, unsigned count) {
        word |= bits << filled;
        written += count;
        filled += count;
        if (filled < 64) return;
        store_word(next, word);
        next += sizeof word;
        filled -= 64;
        word = filled == 0 ? 0 : bits >> (count - filled);
    }

    void write_zeros(std::uint64_t count) {
        for (; count > 64; count -= 64) write(0, 64);
        write(0, static_cast<unsigned>(count));
    }

    // Fill the last word up.
    void finish() { write_zeros((64 - filled) % 64); }
};

}  // namespace
}  // namespace tilepress
