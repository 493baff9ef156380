// The kernels of attention, written once: codes become float32 in registers, 16 at a time, for up to four rows of
// queries.
//
// Scales go into what codes are multiplied by (queries, weights), minima into what sums begin with, so that a code
// costs its conversion and one multiplication a row. An instruction set is a type `Set` with what product_values.hpp
// and exponential.hpp ask for, and
//
//     Packed, widen(const uint8_t*)  16 bytes, and
//     field<Bits, Place>             the integers that their bits from Bits * Place on make -> Values
//     piece<Bits, Number>            the same integers of 16 bytes in the order in which they come fastest -> Values
//     store_piece<Bits, Number>      put them, or what was made of each, where `field` would have them
//     e4m3_by_256(const uint8_t*)    16 codes -> a 256th of their Values; an encoder writes no code of NaN but beside a
//                                    scale that is not finite, which decides alone then
//
// Everything is in an unnamed namespace, for the reason that floats.hpp gives.
#pragma once

#include <algorithm>
#include <utility>

#include "attention.hpp"
#include "attention_softmax.hpp"
#include "product_values.hpp"

namespace tilepress {
namespace {

constexpr int kMostRows = 4;  // that share the conversion of codes

// `value`s of a line of 16 bytes are 16 bytes' fields, one after the other, `piece`s the same in any order.
template <class Set, int Bits>
struct Integers {
    static constexpr int fields = 8 / Bits;
    static constexpr float unit = 1.0f;
    using Packed = typename Set::Packed;
    using Values = typename Set::Values;
    static Packed load(const std::uint8_t* bytes) { return Set::widen(bytes); }
    template <int Place>
    static Values value(Packed packed) {
        return Set::template field<Bits, Place>(packed);
    }
    template <int Number>
    static Values piece(const std::uint8_t* bytes) {
        return Set::template piece<Bits, Number>(bytes);
    }
    template <int Number>
    static void store_piece(float* to, std::int64_t step, Values values) {
        Set::template store_piece<Bits, Number>(to, step, values);
    }
};

template <class Set>
struct E4m3 {
    static constexpr int fields = 1;
    static constexpr float unit = 256.0f;  // of what the functions below return
    using Packed = typename Set::Values;
    using Values = Packed;
    static Packed load(const std::uint8_t* bytes) { return Set::e4m3_by_256(bytes); }
    template <int>
    static Values value(Packed packed) {
        return packed;
    }
    template <int>
    static Values piece(const std::uint8_t* bytes) {
        return load(bytes);
    }
    template <int>
    static void store_piece(float* to, std::int64_t, Values values) {
        Set::store(to, values);
    }
};

// Call `function` with each number from 0 on as a constant.
template <class Function, int... Number>
inline void for_each_number(std::integer_sequence<int, Number...>, const Function& function) {
    (function(std::integral_constant<int, Number>{}), ...);
}
template <int Count, class Function>
inline void for_each(const Function& function) {
    for_each_number(std::make_integer_sequence<int, Count>{}, function);
}

template <class Set, class Code, int Rows>
struct Tile {
    using Values = typename Set::Values;
    // Fields with sums of their own: enough sums for additions to overlap, and few enough for the registers.
    static constexpr int together = std::max(1, std::min(Code::fields, kMostRows / Rows));

    const KvLayout& layout;
    const std::uint8_t* bytes;

    Values bf16(std::int64_t offset, std::int64_t place) const {
        return Set::load_bf16(reinterpret_cast<const std::uint16_t*>(bytes + offset) + place);
    }
    Values scales(std::int64_t offset, std::int64_t place) const {
        const Values scales = bf16(offset, place);
        return Code::unit == 1.0f ? scales : Set::multiply(scales, Set::broadcast(Code::unit));
    }

    // Scores of the tile's tokens.
    void score(const float (*query)[kMostChannels], float (*scores)[kMostGroup]) const {
        alignas(64) float scaled[Rows][kMostChannels];
        Values constants[Rows];
        for (int row = 0; row < Rows; ++row) constants[row] = Set::broadcast(0.0f);
        for (std::int64_t channel = 0; channel < layout.key_size; channel += kSide)
            for (int row = 0; row < Rows; ++row) {
                const Values values = Set::load(query[row] + channel);
                Set::store(scaled[row] + channel, Set::multiply(values, scales(layout.key_scales(), channel)));
                if (!layout.has_minima()) continue;
                constants[row] = Set::multiply_add(values, bf16(layout.key_minima(), channel), constants[row]);
            }
        for (int row = 0; row < Rows; ++row) constants[row] = Set::broadcast(Set::sum(constants[row]));

        const std::int64_t bytes_a_channel = layout.rows();
        for (std::int64_t line = 0; line < bytes_a_channel; line += kSide)
            for_each<Code::fields / together>([&](auto pass) {
                constexpr int first = decltype(pass)::value * together;
                Values sums[together][Rows];
                for (int place = 0; place < together; ++place)
                    for (int row = 0; row < Rows; ++row) sums[place][row] = constants[row];
                const std::uint8_t* codes = bytes + line;
                for (std::int64_t channel = 0; channel < layout.key_size; ++channel, codes += bytes_a_channel) {
                    for_each<together>([&](auto number) {
                        const Values values = Code::template piece<first + decltype(number)::value>(codes);
                        for (int row = 0; row < Rows; ++row)
                            sums[number][row] =
                                Set::multiply_add(Set::broadcast(scaled[row][channel]), values, sums[number][row]);
                    });
                }
                for_each<together>([&](auto number) {
                    for (int row = 0; row < Rows; ++row)
                        Code::template store_piece<first + decltype(number)::value>(scores[row] + line, bytes_a_channel,
                                                                                    sums[number][row]);
                });
            });
    }

    // sums = kept * sums + weights * values.
    void add(const float (*weights)[kMostGroup], const float* kept, float* const* sums) const {
        for (std::int64_t group = 0; group < layout.value_groups(); ++group) {
            alignas(64) float scaled[Rows][kMostGroup];
            Values constants[Rows];
            for (int row = 0; row < Rows; ++row) constants[row] = Set::broadcast(0.0f);
            const std::int64_t first = group * layout.group;
            for (std::int64_t token = 0; token < layout.group; token += kSide)
                for (int row = 0; row < Rows; ++row) {
                    const Values values = Set::load(weights[row] + token);
                    Set::store(scaled[row] + token,
                               Set::multiply(values, scales(layout.value_scales(), first + token)));
                    if (!layout.has_minima()) continue;
                    constants[row] =
                        Set::multiply_add(values, bf16(layout.value_minima(), first + token), constants[row]);
                }
            for (int row = 0; row < Rows; ++row) constants[row] = Set::broadcast(Set::sum(constants[row]));
            const std::int64_t last = smaller(first + layout.group, layout.value_size);
            for (std::int64_t channel = first; channel < last; channel += kSide)
                add_channels(channel, scaled, constants, kept, sums);
        }
    }

    void add_channels(std::int64_t channel, const float (*scaled)[kMostGroup], const Values* constants,
                      const float* kept, float* const* sums) const {
        Values parts[together][Rows];
        for (int row = 0; row < Rows; ++row) {
            parts[0][row] =
                Set::multiply_add(Set::load(sums[row] + channel), Set::broadcast(kept[row]), constants[row]);
            for (int place = 1; place < together; ++place) parts[place][row] = Set::broadcast(0.0f);
        }
        const std::int64_t rows = layout.rows();
        const std::uint8_t* codes = bytes + layout.value_codes() + channel;
        for (std::int64_t token = 0; token < rows; ++token, codes += layout.value_size) {
            const auto packed = Code::load(codes);
            for_each<Code::fields>([&](auto place) {
                const Values values = Code::template value<decltype(place)::value>(packed);
                for (int row = 0; row < Rows; ++row) {
                    Values& part = parts[place % together][row];
                    part = Set::multiply_add(Set::broadcast(scaled[row][token + place * rows]), values, part);
                }
            });
        }
        for (int row = 0; row < Rows; ++row) {
            for (int place = 1; place < together; ++place) parts[0][row] = Set::add(parts[0][row], parts[place][row]);
            Set::store(sums[row] + channel, parts[0][row]);
        }
    }
};

// The dense tokens of one sequence and head, or some of them.
template <class Set, int Rows>
struct Window {
    const KvCache& cache;
    std::int64_t unit;
    std::int64_t first;
    std::int64_t count;

    typename Set::Values load(const void* states, std::int64_t size, std::int64_t token, std::int64_t channel) const {
        const std::int64_t place = (unit * cache.room + first + token) * size + channel;
        return load_values<Set>(states, cache.window_dtype, place, kSide);
    }

    void score(const float (*query)[kMostChannels], float (*scores)[kMostGroup]) const {
        const std::int64_t size = cache.layout.key_size;
        for (std::int64_t token = 0; token < count; ++token) {
            typename Set::Values sums[Rows];
            for (int row = 0; row < Rows; ++row) sums[row] = Set::broadcast(0.0f);
            for (std::int64_t channel = 0; channel < size; channel += kSide) {
                const auto keys = load(cache.window_keys, size, token, channel);
                for (int row = 0; row < Rows; ++row)
                    sums[row] = Set::multiply_add(Set::load(query[row] + channel), keys, sums[row]);
            }
            for (int row = 0; row < Rows; ++row) scores[row][token] = Set::sum(sums[row]);
        }
    }

    void add(const float (*weights)[kMostGroup], const float* kept, float* const* sums) const {
        const std::int64_t size = cache.layout.value_size;
        for (std::int64_t channel = 0; channel < size; channel += kSide) {
            typename Set::Values parts[Rows];
            for (int row = 0; row < Rows; ++row)
                parts[row] = Set::multiply(Set::load(sums[row] + channel), Set::broadcast(kept[row]));
            for (std::int64_t token = 0; token < count; ++token) {
                const auto values = load(cache.window_values, size, token, channel);
                for (int row = 0; row < Rows; ++row)
                    parts[row] = Set::multiply_add(Set::broadcast(weights[row][token]), values, parts[row]);
            }
            for (int row = 0; row < Rows; ++row) Set::store(sums[row] + channel, parts[row]);
        }
    }
};

// Some rows of one unit, on their way through the tokens.
template <class Set, int Rows>
struct RowGroup {
    const KvCache& cache;
    const Attention& attention;
    Row rows[Rows];
    Progress progress[Rows];
    float* sums[Rows];
    alignas(64) float query[Rows][kMostChannels];

    RowGroup(const KvCache& cache, const Attention& attention, std::int64_t unit, std::int64_t first, float* partial)
        : cache(cache), attention(attention) {
        const std::int64_t size = cache.layout.key_size;
        for (int row = 0; row < Rows; ++row) {
            const std::int64_t number = unit * rows_of(cache, attention) + first + row;
            const std::int64_t head = number / attention.queries;
            rows[row] =
                Row(cache, attention, head / attention.heads, head % attention.heads, number % attention.queries);
            sums[row] = partial + (first + row) * partial_floats(cache) + kSide;
            std::fill_n(sums[row], cache.layout.value_size, 0.0f);
            for (std::int64_t channel = 0; channel < size; channel += kSide) {
                const auto values = load_values<Set>(attention.query, attention.dtype, number * size + channel, kSide);
                Set::store(query[row] + channel, Set::multiply(values, Set::broadcast(attention.scaling)));
            }
        }
    }

    // A tile, or a part of the window, whose first token is the `first` of the sequence.
    template <class Tokens>
    void attend(const Tokens& tokens, std::int64_t first, std::int64_t count) {
        const bool is_seen = std::any_of(rows, rows + Rows, [&](const Row& row) { return row.sees(first, count); });
        if (!is_seen) return;
        alignas(64) float scores[Rows][kMostGroup];
        float kept[Rows];
        tokens.score(query, scores);
        for (int row = 0; row < Rows; ++row)
            kept[row] = progress[row].template weigh<Set>(attention, rows[row], scores[row], first, count);
        tokens.add(scores, kept, sums);
    }

    void finish() const {
        for (int row = 0; row < Rows; ++row) {
            sums[row][-kSide] = progress[row].highest;
            sums[row][-kSide + 1] = progress[row].total;
        }
    }
};

template <class Set, class Code, int Rows>
void attend_rows(const KvCache& cache, const Attention& attention, std::int64_t unit, std::int64_t span,
                 std::int64_t first_row, float* partial) {
    RowGroup<Set, Rows> group(cache, attention, unit, first_row, partial);
    const KvLayout& layout = cache.layout;
    const auto tiles = static_cast<std::int64_t>(cache.tiles.size());
    const std::int64_t last = smaller((span + 1) * kSpanTiles, tiles);
    for (std::int64_t tile = span * kSpanTiles; tile < last; ++tile) {
        const std::uint8_t* bytes = cache.tiles[static_cast<std::size_t>(tile)] + unit * layout.tile_bytes();
        group.attend(Tile<Set, Code, Rows>{layout, bytes}, tile * layout.group, layout.group);
    }
    if (span == cache.spans() - 1)
        for (std::int64_t token = 0; token < cache.window_tokens; token += kMostGroup) {
            const std::int64_t count = smaller(kMostGroup, cache.window_tokens - token);
            group.attend(Window<Set, Rows>{cache, unit, token, count}, cache.tiled_tokens() + token, count);
        }
    group.finish();
}

template <class Set, class Code>
void attend_with(const KvCache& cache, const Attention& attention, std::int64_t unit, std::int64_t span,
                 float* partial) {
    const std::int64_t rows = rows_of(cache, attention);
    for (std::int64_t row = 0; row < rows; row += kMostRows) switch (smaller(kMostRows, rows - row)) {
            case 1:
                attend_rows<Set, Code, 1>(cache, attention, unit, span, row, partial);
                break;
            case 2:
                attend_rows<Set, Code, 2>(cache, attention, unit, span, row, partial);
                break;
            case 3:
                attend_rows<Set, Code, 3>(cache, attention, unit, span, row, partial);
                break;
            default:
                attend_rows<Set, Code, kMostRows>(cache, attention, unit, span, row, partial);
        }
}

template <class Set>
void attend_span(const KvCache& cache, const Attention& attention, std::int64_t unit, std::int64_t span,
                 float* partial) {
    if (cache.layout.code == KvCode::e4m3) return attend_with<Set, E4m3<Set>>(cache, attention, unit, span, partial);
    switch (cache.layout.bits) {
        case 2:
            return attend_with<Set, Integers<Set, 2>>(cache, attention, unit, span, partial);
        case 4:
            return attend_with<Set, Integers<Set, 4>>(cache, attention, unit, span, partial);
        default:
            return attend_with<Set, Integers<Set, 8>>(cache, attention, unit, span, partial);
    }
}

template <class Set>
void merge_spans(const KvCache& cache, const Attention& attention, std::int64_t unit, const float* partials) {
    const std::int64_t rows = rows_of(cache, attention);
    const std::int64_t row_floats = partial_floats(cache);
    const std::int64_t size = cache.layout.value_size;
    for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t number = unit * rows + row;
        const auto part = [&](std::int64_t span) { return partials + (span * rows + row) * row_floats; };
        const float* sink = attention.sinks;
        if (sink != nullptr) sink += number / attention.queries % attention.heads;
        float highest = sink == nullptr ? kLowest : *sink;
        for (std::int64_t span = 0; span < cache.spans(); ++span) highest = std::max(highest, part(span)[0]);
        const float base = highest == kLowest ? 0.0f : highest;
        float total = sink == nullptr ? 0.0f : std::exp(*sink - base);
        for (std::int64_t span = 0; span < cache.spans(); ++span)
            total += std::exp(part(span)[0] - base) * part(span)[1];
        const float share = total == 0.0f ? 0.0f : 1.0f / total;
        auto* result = static_cast<std::byte*>(attention.result) + number * size * size_of(attention.dtype);
        for (std::int64_t channel = 0; channel < size; channel += kSide, result += kSide * size_of(attention.dtype)) {
            auto sum = Set::broadcast(0.0f);
            for (std::int64_t span = 0; span < cache.spans(); ++span)
                sum = Set::multiply_add(Set::load(part(span) + kSide + channel),
                                        Set::broadcast(std::exp(part(span)[0] - base) * share), sum);
            store_values<Set>(sum, result, attention.dtype);
        }
    }
}

template <class Set>
AttentionKernels attention_kernels() {
    return {attend_span<Set>, merge_spans<Set>};
}

}  // namespace
}  // namespace tilepress
