// CUDA's words for a C++17 compiler, so that the kernels of kernels/cuda run on a CPU, for the tests.
//
// One CPU thread plays all threads of a block, block by block: each is a fiber (scheduler.hpp) that runs until it meets
// a barrier. So kernels are executed in orders that a GPU would hardly ever choose, and under sanitizers. What is not
// modelled: weak memory order, bank conflicts, occupancy, time.
//
// Warp-wide instructions follow the PTX ISA 8.8: prmt (9.7.8.7), dp4a (9.7.1.23), mma.m16n8k16 (9.7.14.5.8), ldmatrix
// (9.7.14.5.15), cp.async (9.7.9.25). A copy is made as late as the program allows, at the wait that covers it; until
// then its target holds NaN.
#pragma once

#include <xmmintrin.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "scheduler.hpp"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

#define threadIdx (emulator::current().index)
#define blockIdx (emulator::launch().block_index)
#define blockDim (emulator::launch().block)
#define gridDim (emulator::launch().grid)
#define __syncthreads() emulator::meet_block(__LINE__)
#define __syncwarp() emulator::meet_warp(0xffffffffu, __LINE__)
#define __shfl_sync(mask, value, source) emulator::shuffle(mask, value, source, __LINE__)
#define __shfl_up_sync(mask, value, distance) emulator::shuffle_up(mask, value, distance, __LINE__)
#define __shfl_xor_sync(mask, value, lanes) emulator::shuffle(mask, value, emulator::current().lane ^ (lanes), __LINE__)
#define __ballot_sync(mask, condition) emulator::ballot(mask, condition, __LINE__)

#define TILEPRESS_DEVICE inline
#define TILEPRESS_DYNAMIC_SHARED(name) unsigned char* const name = emulator::launch().dynamic_shared

using std::max;
using std::min;

inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}

namespace emulator {

template <class Value>
EMULATOR_UNWATCHED Value shuffle(unsigned mask, Value value, unsigned source, int line) {
    const Gathered<Value> all = gather(mask, value, line);
    if (!((mask >> (source % 32)) & 1)) fail("line %d: a shuffle reads lane %u, which is not there", line, source % 32);
    return all.of[source % 32];
}

template <class Value>
EMULATOR_UNWATCHED Value shuffle_up(unsigned mask, Value value, unsigned distance, int line) {
    const unsigned lane = current().lane;
    return shuffle(mask, value, lane < distance ? lane : lane - distance, line);
}

EMULATOR_UNWATCHED inline unsigned ballot(unsigned mask, bool condition, int line) {
    const Gathered<unsigned> all = gather(mask, condition ? 1u : 0u, line);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane)
        if (mask >> lane & 1) votes |= all.of[lane] << lane;
    return votes;
}

// Kernels run as CuPy compiles them, with -ftz=true: subnormal numbers are zero. Within this scope they are not.
class WithSubnormals {
public:
    WithSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ & ~kFlush); }
    ~WithSubnormals() { _mm_setcsr(before_); }

    // Flush to zero, and denormals are zero.
    static constexpr unsigned kFlush = 0x8040u;

private:
    unsigned before_;
};

}  // namespace emulator

namespace tilepress {

TILEPRESS_DEVICE u32 bits_of_float(float value) {
    u32 bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
TILEPRESS_DEVICE float float_of_bits(u32 bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Volatile, since compilers do not know that arithmetic depends on the flags.
TILEPRESS_DEVICE float multiply(float a, float b) {
    const emulator::WithSubnormals scope;
    volatile float first = a, product = first * b;
    return product;
}
TILEPRESS_DEVICE float add(float a, float b) {
    const emulator::WithSubnormals scope;
    volatile float first = a, sum = first + b;
    return sum;
}
TILEPRESS_DEVICE float subtract(float a, float b) {
    return add(a, -b);
}

// What <immintrin.h> has as _cvtsh_ss and _cvtss_sh; to read all of that header takes a second.
typedef short Shorts __attribute__((vector_size(16)));
typedef float Floats __attribute__((vector_size(16)));
TILEPRESS_DEVICE float float_of_fp16(u16 bits) {
    return __builtin_ia32_vcvtph2ps(Shorts{static_cast<short>(bits)})[0];
}
TILEPRESS_DEVICE u16 fp16_of_float(float value) {
    constexpr int to_nearest = 0;
    return static_cast<u16>(__builtin_ia32_vcvtps2ph(Floats{value}, to_nearest)[0]);
}
TILEPRESS_DEVICE float float_of_bf16(u16 bits) {
    return float_of_bits(static_cast<u32>(bits) << 16);
}
TILEPRESS_DEVICE u16 bf16_of_float(float value) {
    const u32 bits = bits_of_float(value);
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return static_cast<u16>(is_nan ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

TILEPRESS_DEVICE u32 fp16x2_of_floats(float first, float second) {
    return fp16_of_float(first) | static_cast<u32>(fp16_of_float(second)) << 16;
}
TILEPRESS_DEVICE u32 bf16x2_of_floats(float first, float second) {
    return bf16_of_float(first) | static_cast<u32>(bf16_of_float(second)) << 16;
}

// Products of two 16-bit floats are exact in float64; sums are rounded to float32 on the way, which kernels' are exact
// in.
template <float (*kLoad)(u16), u16 (*kStore)(float)>
EMULATOR_UNWATCHED inline u32 multiply_add_pairs(u32 a, u32 b, u32 c) {
    const emulator::WithSubnormals scope;
    u32 result = 0;
    for (int shift = 0; shift < 32; shift += 16) {
        const auto of = [&](u32 pair) { return static_cast<double>(kLoad(static_cast<u16>(pair >> shift))); };
        const volatile auto sum = static_cast<float>(of(a) * of(b) + of(c));
        result |= static_cast<u32>(kStore(sum)) << shift;
    }
    return result;
}
TILEPRESS_DEVICE u32 fp16x2_multiply_add(u32 a, u32 b, u32 c) {
    return multiply_add_pairs<float_of_fp16, fp16_of_float>(a, b, c);
}
TILEPRESS_DEVICE u32 bf16x2_multiply_add(u32 a, u32 b, u32 c) {
    return multiply_add_pairs<float_of_bf16, bf16_of_float>(a, b, c);
}

// The fragments of one lane.
struct MmaFragments {
    u32 a[4], b[2];
};

// Lane 4 g + t holds, of A, rows g (registers 0, 2) and g + 8 (1, 3) in columns 2 t, 2 t + 1 (0, 1) and those + 8 (2,
// 3); of B, the same columns as rows, of column g; of the sums, rows g and g + 8 in columns 2 t and 2 t + 1.
template <float (*kLoad)(u16)>
EMULATOR_UNWATCHED inline void mma_of(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2], int line) {
    MmaFragments mine;
    std::memcpy(mine.a, a, sizeof a);
    std::memcpy(mine.b, b, sizeof b);
    const emulator::Gathered<MmaFragments> all = emulator::gather(0xffffffffu, mine, line);
    const unsigned g = emulator::current().lane / 4, t = emulator::current().lane % 4;
    const auto half = [](u32 pair, unsigned k) { return kLoad(static_cast<u16>(pair >> (16 * (k % 2)))); };
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = i / 2, column = 2 * t + i % 2;
        float sum = 0.0f;
        for (unsigned k = 0; k < 16; ++k) {
            const float of_a = half(all.of[4 * g + k % 8 / 2].a[row + k / 8 * 2], k);
            const float of_b = half(all.of[4 * column + k % 8 / 2].b[k / 8], k);
            sum += of_a * of_b;
        }
        sums[i] += sum;
    }
}
TILEPRESS_DEVICE void fp16_mma(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    mma_of<float_of_fp16>(sums, a, b, __LINE__);
}
TILEPRESS_DEVICE void bf16_mma(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    mma_of<float_of_bf16>(sums, a, b, __LINE__);
}

// Lane 8 i + j brings row j of matrix i; lane 4 g + t gets its values 2 t and 2 t + 1 of row g of each, or values g of
// rows 2 t and 2 t + 1.
EMULATOR_UNWATCHED inline void load_matrices_of(u32 (&words)[4], const void* row, bool is_transposed, int line) {
    if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
        emulator::fail("line %d: a row of a matrix begins at no multiple of 16", line);
    const emulator::Gathered<const void*> rows = emulator::gather(0xffffffffu, row, line);
    const unsigned g = emulator::current().lane / 4, t = emulator::current().lane % 4;
    for (unsigned i = 0; i < 4; ++i) {
        u16 pair[2];
        for (unsigned j = 0; j < 2; ++j) {
            const unsigned of_row = is_transposed ? 2 * t + j : g, place = is_transposed ? g : 2 * t + j;
            const auto* value = static_cast<const u16*>(rows.of[8 * i + of_row]) + place;
            emulator::watch_read(value, sizeof(u16));
            std::memcpy(&pair[j], value, sizeof(u16));
        }
        words[i] = pair[0] | static_cast<u32>(pair[1]) << 16;
    }
}
TILEPRESS_DEVICE void load_matrices(u32 (&words)[4], const void* row) {
    load_matrices_of(words, row, false, __LINE__);
}
TILEPRESS_DEVICE void load_matrices_transposed(u32 (&words)[4], const void* row) {
    load_matrices_of(words, row, true, __LINE__);
}

TILEPRESS_DEVICE void copy_async(void* shared, const void* global) {
    emulator::copy_async(shared, global);
}
TILEPRESS_DEVICE void copies_commit() {
    emulator::copies_commit();
}
template <int kOpen>
TILEPRESS_DEVICE void copies_wait() {
    emulator::copies_wait(kOpen);
}

TILEPRESS_DEVICE u32 select_bytes(u32 low, u32 high, u32 selector) {
    const u64 both = static_cast<u64>(high) << 32 | low;
    u32 result = 0;
    for (int i = 0; i < 4; ++i) {
        const u32 nibble = selector >> (4 * i) & 15;
        u32 byte = static_cast<u32>(both >> (8 * (nibble & 7))) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;
        result |= byte << (8 * i);
    }
    return result;
}
TILEPRESS_DEVICE u32 shift_right(u32 low, u32 high, u32 shift) {
    return static_cast<u32>((static_cast<u64>(high) << 32 | low) >> (shift & 31));
}
TILEPRESS_DEVICE u32 dot_bytes(u32 a, u32 b, u32 sum) {
    for (int shift = 0; shift < 32; shift += 8) sum += (a >> shift & 255) * (b >> shift & 255);
    return sum;
}

}  // namespace tilepress
