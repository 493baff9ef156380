// Products of a few rows of x by integer instructions; a part of tiles_avx2.cpp.
//
// avx2_input.hpp says what becomes of x, avx2_rows.hpp how rows lie in registers. Codes become 16-bit words, 8 columns
// of each of two rows in a register; an instruction multiplies them by as many words of x and adds neighbouring
// products. Codes of at most 4 bits are multiplied as bytes, by the upper and by the lower bytes of x: sums over a
// strip fit in 16 bits. Codes of a book become the book's values, and their sums float32 from tile to tile.
#pragma once

#include "avx2_input.hpp"
#include "avx2_rows.hpp"

namespace tilepress {
namespace {

struct Words {
    __m256i left, right;  // columns 0..7 and 8..15 of a pair of rows
};

template <int Bits>
struct IntegerCode {
    using Sums = __m256i;
    static constexpr int bits = Bits;
    static constexpr bool is_book = false;
    static constexpr float step = 1.0f;
    static Words words(__m256i codes) {
        const __m256i zero = _mm256_setzero_si256();
        return {_mm256_unpacklo_epi8(codes, zero), _mm256_unpackhi_epi8(codes, zero)};
    }
};

inline __m256i byte_book(const std::uint8_t* bytes) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
}

// The book in 15 bits. Of the steps of which four products with x fit in 31 bits, this one has the smallest error.
struct Nf4Code {
    using Sums = __m256;
    static constexpr int bits = 4;
    static constexpr bool is_book = true;
    static constexpr float step = 1.0f / 15684.0f;
    __m256i low, high;

    Nf4Code() {
        std::uint8_t lows[kSide], highs[kSide];
        for (int code = 0; code < kSide; ++code) {
            const float exact = kNf4Book[code] / step;
            const auto word = static_cast<unsigned>(static_cast<int>(exact < 0.0f ? exact - 0.5f : exact + 0.5f));
            lows[code] = static_cast<std::uint8_t>(word & 255u);
            highs[code] = static_cast<std::uint8_t>((word >> 8) & 255u);
        }
        low = byte_book(lows);
        high = byte_book(highs);
    }
    Words words(__m256i codes) const {
        const __m256i lows = _mm256_shuffle_epi8(low, codes), highs = _mm256_shuffle_epi8(high, codes);
        return {_mm256_unpacklo_epi8(lows, highs), _mm256_unpackhi_epi8(lows, highs)};
    }
};

// 512 times the value, an upper byte.
struct E2m1Code {
    using Sums = __m256;
    static constexpr int bits = 4;
    static constexpr bool is_book = true;
    static constexpr float step = 1.0f / 512.0f;
    __m256i twice;

    E2m1Code() {
        std::uint8_t bytes[kSide];
        for (int code = 0; code < kSide; ++code)
            bytes[code] = static_cast<std::uint8_t>(static_cast<std::int8_t>(2.0f * kE2m1Book[code]));
        twice = byte_book(bytes);
    }
    Words words(__m256i codes) const {
        const __m256i zero = _mm256_setzero_si256(), highs = _mm256_shuffle_epi8(twice, codes);
        return {_mm256_unpacklo_epi8(zero, highs), _mm256_unpackhi_epi8(zero, highs)};
    }
};

inline __m256i dot(Words codes, const std::int16_t* x) {
    return _mm256_add_epi32(_mm256_madd_epi16(codes.left, twice_16(x)),
                            _mm256_madd_epi16(codes.right, twice_16(x + 8)));
}

// `Count` rows of x by the panels of a weight.
template <class Set, class Kind, int Count>
struct Dot {
    using Values = typename Set::Values;
    using Sums = typename Kind::Sums;
    static constexpr bool has_bytes = !Kind::is_book && Kind::bits <= 4;

    const Tiles& weight;
    const XTile* tiles[Count];
    const XStrip* strips[Count];
    Kind kind{};

    static void add(__m256i& sums, __m256i more) { sums = _mm256_add_epi32(sums, more); }
    static void add(__m256& sums, __m256i more) { sums = _mm256_add_ps(sums, _mm256_cvtepi32_ps(more)); }
    static __m256 in_float(__m256i sums) { return _mm256_cvtepi32_ps(sums); }
    static __m256 in_float(__m256 sums) { return sums; }

    // Sums over a strip by words; where `IsWide`, those of the rest of x too.
    template <bool IsWide>
    void add_words(std::int64_t panel, Range strip, Sums (&sums)[Count][kRowPairs],
                   Sums (&rest)[Count][kRowPairs]) const {
        constexpr int at_once = kRowPairs / Count;
        for (int first = 0; first < kRowPairs; first += at_once) {
            Sums now[Count][at_once] = {}, low[Count][at_once] = {};
            for (std::int64_t tile = strip.first; tile < strip.last; ++tile) {
                const std::uint8_t* codes = weight.tile(panel, tile);
                for (int pair = 0; pair < at_once; ++pair) {
                    const Words words = kind.words(row_pair<Kind::bits>(codes, first + pair));
                    for (int vector = 0; vector < Count; ++vector) {
                        add(now[vector][pair], dot(words, tiles[vector][tile].words));
                        if constexpr (IsWide) add(low[vector][pair], dot(words, tiles[vector][tile].rest));
                    }
                }
            }
            for (int vector = 0; vector < Count; ++vector)
                for (int pair = 0; pair < at_once; ++pair) {
                    sums[vector][first + pair] = now[vector][pair];
                    if constexpr (IsWide) rest[vector][first + pair] = low[vector][pair];
                }
        }
    }

    // The same by bytes.
    void add_bytes(std::int64_t panel, Range strip, __m256i (&sums)[Count][kRowPairs]) const {
        constexpr int at_once = kRowPairs / 2 / Count;
        for (int first = 0; first < kRowPairs; first += at_once) {
            __m256i high[Count][at_once] = {}, middle[Count][at_once] = {};
            for (std::int64_t tile = strip.first; tile < strip.last; ++tile) {
                const std::uint8_t* bytes = weight.tile(panel, tile);
                for (int pair = 0; pair < at_once; ++pair) {
                    const __m256i codes = row_pair<Kind::bits>(bytes, first + pair);
                    for (int vector = 0; vector < Count; ++vector) {
                        const XTile& x = tiles[vector][tile];
                        __m256i &of_high = high[vector][pair], &of_middle = middle[vector][pair];
                        of_high = _mm256_add_epi16(of_high, _mm256_maddubs_epi16(codes, twice_16(x.high)));
                        of_middle = _mm256_add_epi16(of_middle, _mm256_maddubs_epi16(codes, twice_16(x.middle)));
                    }
                }
            }
            for (int vector = 0; vector < Count; ++vector)
                for (int pair = 0; pair < at_once; ++pair)
                    sums[vector][first + pair] =
                        _mm256_add_epi32(_mm256_madd_epi16(high[vector][pair], _mm256_set1_epi16(256)),
                                         _mm256_madd_epi16(middle[vector][pair], _mm256_set1_epi16(1)));
        }
    }

    // Sums of 16 rows without what the codes' offset contributes.
    Values row_sums(const Sums (&pairs)[kRowPairs], std::int64_t first, std::int32_t sum) const {
        if constexpr (Kind::is_book) {
            return {eight_row_sums(pairs), eight_row_sums(pairs + 4)};
        } else {
            const __m256i low = eight_row_sums(pairs), high = eight_row_sums(pairs + 4);
            __m256i low_offset = _mm256_set1_epi32(sum * (1 << (Kind::bits - 1))), high_offset = low_offset;
            if (weight.zero_points != nullptr) {
                const std::uint8_t* zeros = weight.zero_points + first;
                const __m256i sums = _mm256_set1_epi32(sum);
                low_offset = _mm256_mullo_epi32(Set::eight_codes(zeros), sums);
                high_offset = _mm256_mullo_epi32(Set::eight_codes(zeros + 8), sums);
            }
            return {_mm256_cvtepi32_ps(_mm256_sub_epi32(low, low_offset)),
                    _mm256_cvtepi32_ps(_mm256_sub_epi32(high, high_offset))};
        }
    }

    void add_strip(std::int64_t panel, Range strip, std::int64_t number, Values (&totals)[Count]) const {
        Sums sums[Count][kRowPairs], rest[Count][kRowPairs];
        bool is_wide = false;
        for (int vector = 0; vector < Count; ++vector) is_wide |= strips[vector][number].is_wide != 0;
        if (is_wide) {
            add_words<true>(panel, strip, sums, rest);
        } else if constexpr (has_bytes) {
            add_bytes(panel, strip, sums);
        } else {
            add_words<false>(panel, strip, sums, rest);
        }
        const std::int64_t group = strip.first / weight.group_tiles;
        const std::int64_t first = (panel * weight.groups + group) * kSide;
        const Values scales = load_scales<Set>(weight, panel, group);
        for (int vector = 0; vector < Count; ++vector) {
            const XStrip& x = strips[vector][number];
            Values sum = row_sums(sums[vector], first, x.sum);
            if (is_wide) {
                const Values lower = row_sums(rest[vector], first, x.rest_sum);
                sum = Set::multiply_add(lower, Set::broadcast(1.0f / kRestStep), sum);
            }
            const Values factors = Set::multiply(scales, Set::broadcast(x.factor * Kind::step));
            totals[vector] = Set::multiply_add(factors, sum, totals[vector]);
        }
    }

    void add_panel(std::int64_t panel, Values (&totals)[Count]) const {
        std::int64_t number = 0;
        for (std::int64_t tile = 0; tile < weight.tiles; ++number) {
            const std::int64_t end = strip_end(weight, tile, kDotTiles);
            prefetch(weight.tile(panel, tile), (end - tile) * weight.tile_bytes());
            add_strip(panel, {tile, end}, number, totals);
            tile = end;
        }
    }
};

template <class Set, class Kind, int Count>
void dot_panel(const Tiles& weight, std::int64_t panel, const Product& product, const DotInput& input,
               std::int64_t vector_first) {
    Dot<Set, Kind, Count> dot{weight, {}, {}};
    typename Set::Values totals[Count];
    for (int vector = 0; vector < Count; ++vector) {
        dot.tiles[vector] = input.tiles(weight, vector_first + vector);
        dot.strips[vector] = input.strips(weight, product, vector_first + vector);
        totals[vector] = Set::broadcast(0.0f);
    }
    dot.add_panel(panel, totals);
    for (int vector = 0; vector < Count; ++vector) {
        alignas(64) float results[kSide];
        Set::store(results, totals[vector]);
        finish<Set>(product, panel, vector_first + vector, results);
    }
}

template <class Set, class Kind>
void dot_panels(const Tiles& weight, Range panels, const Product& product, const DotInput& input) {
    for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
        std::int64_t vector = 0;
        for (; vector + 4 <= product.count; vector += 4) dot_panel<Set, Kind, 4>(weight, panel, product, input, vector);
        for (; vector + 2 <= product.count; vector += 2) dot_panel<Set, Kind, 2>(weight, panel, product, input, vector);
        if (vector < product.count) dot_panel<Set, Kind, 1>(weight, panel, product, input, vector);
    }
}

template <class Set>
void dot_multiply(const Tiles& weight, Range panels, const Product& product, const DotInput& input) {
    if (weight.code == Code::nf4) return dot_panels<Set, Nf4Code>(weight, panels, product, input);
    if (weight.code == Code::e2m1) return dot_panels<Set, E2m1Code>(weight, panels, product, input);
    switch (weight.bits) {
        case 2:
            return dot_panels<Set, IntegerCode<2>>(weight, panels, product, input);
        case 3:
            return dot_panels<Set, IntegerCode<3>>(weight, panels, product, input);
        case 4:
            return dot_panels<Set, IntegerCode<4>>(weight, panels, product, input);
        case 5:
            return dot_panels<Set, IntegerCode<5>>(weight, panels, product, input);
        case 6:
            return dot_panels<Set, IntegerCode<6>>(weight, panels, product, input);
        case 7:
            return dot_panels<Set, IntegerCode<7>>(weight, panels, product, input);
        default:
            return dot_panels<Set, IntegerCode<8>>(weight, panels, product, input);
    }
}

}  // namespace
}  // namespace tilepress
