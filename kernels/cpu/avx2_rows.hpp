// How 16 rows of a tile lie in registers of 256 bits; a part of tiles_avx2.cpp.
//
// 32 bytes of codes are a pair of neighbouring rows of a tile, 16 codes each, one row in each half of a register.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "tile_prefetch.hpp"

namespace tilepress {
namespace {

constexpr int kRowPairs = 8;

inline __m256i load_32(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}

// The same 16 bytes in both halves.
inline __m256i twice_16(const void* from) {
    return _mm256_broadcastsi128_si256(_mm_load_si128(static_cast<const __m128i*>(from)));
}

// Codes of rows 2 pair and 2 pair + 1 of a tile, a byte each.
template <int Bits>
inline __m256i row_pair(const std::uint8_t* plane, int pair) {
    if constexpr (Bits == 8) return load_32(plane + 32 * pair);
    __m256i codes = _mm256_setzero_si256();
    if constexpr (Bits & 4) {
        const __m256i bytes = load_32(plane + 32 * (pair % 4));
        codes = _mm256_and_si256(pair < 4 ? bytes : _mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(0x0f));
        plane += 128;
    }
    if constexpr (Bits & 2) {
        const __m256i bytes = _mm256_srli_epi16(load_32(plane + 32 * (pair % 2)), 2 * (pair / 2));
        const __m256i fields = _mm256_and_si256(bytes, _mm256_set1_epi8(0x03));
        codes = _mm256_or_si256(codes, _mm256_slli_epi16(fields, Bits & 4));
        plane += 64;
    }
    if constexpr (Bits & 1) {
        const __m256i fields = _mm256_and_si256(_mm256_srli_epi16(load_32(plane), pair), _mm256_set1_epi8(0x01));
        codes = _mm256_or_si256(codes, _mm256_slli_epi16(fields, Bits & 6));
    }
    return codes;
}

// Two halves of 8 rows each, even rows before odd ones in steps of 2 -> in order.
inline __m256i row_order() {
    return _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
}

// 4 partial sums of each of 8 rows -> the 8 sums, in the order of the rows.
inline __m256i eight_row_sums(const __m256i* pairs) {
    const __m256i sums =
        _mm256_hadd_epi32(_mm256_hadd_epi32(pairs[0], pairs[1]), _mm256_hadd_epi32(pairs[2], pairs[3]));
    return _mm256_permutevar8x32_epi32(sums, row_order());
}

inline __m256 eight_row_sums(const __m256* pairs) {
    const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(pairs[0], pairs[1]), _mm256_hadd_ps(pairs[2], pairs[3]));
    return _mm256_permutevar8x32_ps(sums, row_order());
}

// 8 partial sums of each of 8 rows -> the 8 sums, in the order of the rows.
inline __m256 eight_row_sums_of_8(const __m256* rows) {
    const __m256 left = _mm256_hadd_ps(_mm256_hadd_ps(rows[0], rows[1]), _mm256_hadd_ps(rows[2], rows[3]));
    const __m256 right = _mm256_hadd_ps(_mm256_hadd_ps(rows[4], rows[5]), _mm256_hadd_ps(rows[6], rows[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(left, right, 0x20), _mm256_permute2f128_ps(left, right, 0x31));
}

}  // namespace
}  // namespace tilepress
