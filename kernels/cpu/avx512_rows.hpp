// How 16 rows of a tile lie in registers of 512 bits; a part of tiles_avx512.cpp.
//
// 64 bytes of codes are 4 rows of a tile, 16 codes each. An instruction multiplies them by the same 16 columns of x
// and adds neighbouring products, so a register holds 4 partial sums of each of 4 rows.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "tile_prefetch.hpp"

namespace tilepress {
namespace {

// Codes of rows 4 quarter .. 4 quarter + 3 of a tile, a byte each.
template <int Bits>
inline __m512i four_rows(const std::uint8_t* plane, int quarter) {
    if constexpr (Bits == 8) return _mm512_loadu_si512(plane + 64 * quarter);
    __m512i codes = _mm512_setzero_si512();
    if constexpr (Bits & 4) {
        const __m512i bytes = _mm512_loadu_si512(plane + 64 * (quarter & 1));
        codes = _mm512_and_si512(quarter < 2 ? bytes : _mm512_srli_epi16(bytes, 4), _mm512_set1_epi8(0x0f));
        plane += 128;
    }
    if constexpr (Bits & 2) {
        const __m512i bytes = _mm512_srli_epi16(_mm512_loadu_si512(plane), static_cast<unsigned>(2 * quarter));
        const __m512i fields = _mm512_and_si512(bytes, _mm512_set1_epi8(0x03));
        codes = _mm512_or_si512(codes, _mm512_slli_epi16(fields, Bits & 4));
        plane += 64;
    }
    if constexpr (Bits & 1) {
        const __m512i twice = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(plane)));
        const __m512i shifts = _mm512_inserti64x4(_mm512_set1_epi16(static_cast<short>(2 * quarter)),
                                                  _mm256_set1_epi16(static_cast<short>(2 * quarter + 1)), 1);
        const __m512i fields = _mm512_and_si512(_mm512_srlv_epi16(twice, shifts), _mm512_set1_epi8(0x01));
        codes = _mm512_or_si512(codes, _mm512_slli_epi16(fields, Bits & 6));
    }
    return codes;
}

inline __m512i sixteen_columns(const void* x) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(static_cast<const __m128i*>(x)));
}

// Lane 4 l + q of a reduction is row 4 q + l.
inline __m512i row_order() {
    return _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
}

// 4 partial sums of each of 16 rows -> the 16 sums, in the order of the rows.
inline __m512i row_sums(const __m512i (&quarters)[4]) {
    const __m512i even = _mm512_add_epi32(_mm512_unpacklo_epi32(quarters[0], quarters[1]),
                                          _mm512_unpackhi_epi32(quarters[0], quarters[1]));
    const __m512i odd = _mm512_add_epi32(_mm512_unpacklo_epi32(quarters[2], quarters[3]),
                                         _mm512_unpackhi_epi32(quarters[2], quarters[3]));
    const __m512i sums = _mm512_add_epi32(_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd));
    return _mm512_permutexvar_epi32(row_order(), sums);
}

inline __m512 row_sums(const __m512 (&quarters)[4]) {
    const __m512 even =
        _mm512_add_ps(_mm512_unpacklo_ps(quarters[0], quarters[1]), _mm512_unpackhi_ps(quarters[0], quarters[1]));
    const __m512 odd =
        _mm512_add_ps(_mm512_unpacklo_ps(quarters[2], quarters[3]), _mm512_unpackhi_ps(quarters[2], quarters[3]));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(even), _mm512_castps_pd(odd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(even), _mm512_castps_pd(odd));
    const __m512 sums = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    return _mm512_permutexvar_ps(row_order(), sums);
}

}  // namespace
}  // namespace tilepress
