// Attention over a compressed KV cache: what its kernels read, and the softmax of the tokens that a warp has at a time.
//
// The cache is that of kernels/kv_store.py: tiles, whose bytes kernels/layout/kv.py draws, then a window of dense
// tokens. A unit is a sequence and one of its KV heads; its rows are the queries that share it, consecutive heads and
// in each its queries.
//
// A warp takes a pass of up to 64 tokens at a time: four sets of 16, for which the sums of mma.m16n8k16 have 16 rows
// each, and eight rows of queries for their columns. Row g of the sums is token 2 g of its set and row g + 8 token
// 2 g + 1; of values, which are multiplied likewise, these are channels. So neighbouring bytes of codes are rows g and
// g + 8 of the A fragment.
#pragma once

#include "unpack.cuh"

namespace tilepress {

constexpr int kSets = 4;  // of 16 tokens, of a pass
constexpr int kPassTokens = kSets * kSide;
constexpr unsigned kLanes = 0xffffffffu;

constexpr int kMostBlocks = 8;  // of 16 channels of values, that a block has
constexpr int kMostChannels = 512;
constexpr int kPartialExtras = 4;  // floats of a partial after the sums of values: the greatest score, the total
constexpr int kAttentionWarps = 4;
constexpr int kAttentionThreads = 32 * kAttentionWarps;

// The sections of a tile.
template <class Code>
struct KvTile {
    static constexpr int kFields = 8 / Code::kBits;          // tokens of a byte
    static constexpr int kSides = Code::kIsInteger ? 2 : 1;  // scales, and minima
    static constexpr int kLines = kSets / kFields;           // of 16 byte rows, of a pass

    int group, key_size, value_size;

    TILEPRESS_DEVICE int rows() const { return group / kFields; }
    TILEPRESS_DEVICE int lines() const { return rows() / kSide; }
    TILEPRESS_DEVICE int passes() const { return (lines() + kLines - 1) / kLines; }
    TILEPRESS_DEVICE int key_blocks() const { return key_size / kSide; }
    TILEPRESS_DEVICE int value_blocks() const { return value_size / kSide; }
    TILEPRESS_DEVICE int group_blocks() const { return group / kSide; }  // of channels that share constants
    TILEPRESS_DEVICE int value_groups() const { return (value_size + group - 1) / group; }
    TILEPRESS_DEVICE int value_codes() const { return key_size * rows(); }
    TILEPRESS_DEVICE int key_scales() const { return value_codes() + rows() * value_size; }
    TILEPRESS_DEVICE int value_scales() const { return key_scales() + 2 * kSides * key_size; }
    TILEPRESS_DEVICE int bytes() const { return value_scales() + 2 * kSides * value_groups() * group; }
};

// What attention does besides softmax(scaling * q k^T) v, as kernels/reference/attention.py has it.
struct Attention {
    int tokens, heads, queries;
    float softcap;  // 0: none
    int is_causal;
    int window;                          // tokens that a query sees, its own included; 0: all
    const float* slopes;                 // [heads], or null
    const float* bias;                   // [tokens] for each query, or null
    i64 of_sequence, of_head, of_query;  // values from one bias to the next
};

// What a block has of the grid: up to `kBlockRows` rows of a unit, and up to 128 channels of values.
template <int kBlockRows>
struct BlockShare {
    int unit, number;             // of its first row, as attention counts the queries of all heads of all sequences
    int count;                    // of its rows
    int query_first, query_last;  // within a head, of all its rows
    int value_first, value_last;  // blocks of 16 channels

    TILEPRESS_DEVICE BlockShare(int rows, int queries, int value_blocks) {
        const int slices = (value_blocks + kMostBlocks - 1) / kMostBlocks,
                  groups = (rows + kBlockRows - 1) / kBlockRows;
        const int place = blockIdx.x / slices, first = place % groups * kBlockRows;
        unit = place / groups;
        number = unit * rows + first;
        count = min(kBlockRows, rows - first);
        const bool is_one_head = first / queries == (first + count - 1) / queries;
        query_first = is_one_head ? first % queries : 0;
        query_last = is_one_head ? (first + count - 1) % queries : queries - 1;
        value_first = blockIdx.x % slices * kMostBlocks;
        value_last = min(value_blocks, value_first + kMostBlocks);
    }
};

// The passes that hold tokens which some of the queries `query_first` to `query_last` see: of all tiles' passes `tiles`
// from `tile_first` on, of the window's `dense` from `dense_first` on.
struct Passes {
    int tile_first, tiles, dense_first, dense;

    template <class Code>
    TILEPRESS_DEVICE Passes(const KvTile<Code>& tile, int tiled, const Attention& attention, int query_first,
                            int query_last) {
        const int own = attention.tokens - attention.queries;
        const int first = attention.window == 0 ? 0 : max(0, own + query_first + 1 - attention.window);
        const int last = attention.is_causal ? own + query_last + 1 : attention.tokens;
        tile_first = min(first, tiled) / tile.group * tile.passes();
        tiles = (min(last, tiled) + tile.group - 1) / tile.group * tile.passes() - tile_first;
        dense_first = max(0, first - tiled) / kPassTokens;
        dense = (max(0, last - tiled) + kPassTokens - 1) / kPassTokens - dense_first;
    }
};

// One row of queries.
struct QueryRow {
    int first, last;  // the tokens that it sees
    int own;          // its token
    float slope;
    const float* bias;

    TILEPRESS_DEVICE QueryRow() {}
    // `number` counts the queries of all heads of all sequences.
    TILEPRESS_DEVICE QueryRow(const Attention& attention, int number) {
        const int query = number % attention.queries, all_heads = number / attention.queries;
        const int head = all_heads % attention.heads, sequence = all_heads / attention.heads;
        own = attention.tokens - attention.queries + query;
        last = attention.is_causal ? own + 1 : attention.tokens;
        first = attention.window == 0 ? 0 : max(0, own + 1 - attention.window);
        slope = attention.slopes == nullptr ? 0.0f : attention.slopes[head];
        bias = attention.bias == nullptr ? nullptr
                                         : attention.bias + sequence * attention.of_sequence +
                                               head * attention.of_head + query * attention.of_query;
    }

    TILEPRESS_DEVICE float adjusted(float score, int token, float softcap) const {
        if (softcap != 0.0f) score = softcap * tanhf(score / softcap);
        if (slope != 0.0f) score += slope * static_cast<float>(token - own);
        if (token < first || token >= last) return float_of_bits(kLowest);
        return bias == nullptr ? score : score + bias[token];
    }

    static constexpr u32 kLowest = 0xff800000u;  // minus infinity
};

// Where the tokens of a pass stand in the sequence: `step` tokens from one field of a byte to the next.
struct PassTokens {
    int first, step, lines;
};

// Which products of a pass a lane 4 g + t has: four numbers, i = 0 to 3, of each of `kCount`; `row` of its two rows, of
// which set of 16 tokens, and which of these. The lanes with the same rows differ in bits `kFirstLanes` to
// `kLastLanes`.
//
// [token][query]: tokens 2 g (i = 0, 1) and 2 g + 1 of each set, rows 2 t (i = 0, 2) and 2 t + 1.
struct TokensByQueries {
    static constexpr int kCount = kSets, kFirstLanes = 4, kLastLanes = 16;
    static TILEPRESS_DEVICE int row(int i) { return i % 2; }
    static TILEPRESS_DEVICE int set(int number) { return number; }
    static TILEPRESS_DEVICE int place(int, int i) { return 2 * (threadIdx.x % 32 / 4) + i / 2; }
};
// [query][token]: of each eight tokens 2 t (i = 0, 2) and 2 t + 1, rows g (i = 0, 1) and g + 8.
struct QueriesByTokens {
    static constexpr int kCount = 2 * kSets, kFirstLanes = 1, kLastLanes = 2;
    static TILEPRESS_DEVICE int row(int i) { return i / 2; }
    static TILEPRESS_DEVICE int set(int number) { return number / 2; }
    static TILEPRESS_DEVICE int place(int number, int i) { return 8 * (number % 2) + 2 * (threadIdx.x % 4) + i % 2; }
};
template <class Lanes>
using Scores = float[Lanes::kCount][4];

// The softmax of a lane's two rows, as far as it has come. Totals are those of the lane's tokens.
template <class Lanes>
struct Progress {
    float highest[2] = {float_of_bits(QueryRow::kLowest), float_of_bits(QueryRow::kLowest)};
    float totals[2] = {};

    // Turn scores into weights, relative to the greatest score. `kept` is what earlier sums are to be multiplied by.
    template <int kFields>
    TILEPRESS_DEVICE void weigh(const QueryRow (&rows)[2], float softcap, const PassTokens& tokens,
                                Scores<Lanes>& scores, float (&kept)[2]) {
        float higher[2] = {highest[0], highest[1]}, base[2], sums[2] = {};
        for (int number = 0; number < Lanes::kCount; ++number)
            for (int i = 0; i < 4; ++i) {
                const int row = Lanes::row(i), line = Lanes::set(number) / kFields,
                          field = Lanes::set(number) % kFields;
                const int token = tokens.first + kSide * line + tokens.step * field + Lanes::place(number, i);
                float& score = scores[number][i];
                score =
                    line < tokens.lines ? rows[row].adjusted(score, token, softcap) : float_of_bits(QueryRow::kLowest);
                higher[row] = max(higher[row], score);
            }
        for (int row = 0; row < 2; ++row) {
            for (int lanes = Lanes::kFirstLanes; lanes <= Lanes::kLastLanes; lanes *= 2)
                higher[row] = max(higher[row], __shfl_xor_sync(kLanes, higher[row], lanes));
            base[row] = higher[row] == float_of_bits(QueryRow::kLowest) ? 0.0f : higher[row];
            kept[row] = expf(highest[row] - base[row]);
            highest[row] = higher[row];
        }
        for (auto& of_number : scores)
            for (int i = 0; i < 4; ++i) {
                of_number[i] = expf(of_number[i] - base[Lanes::row(i)]);
                sums[Lanes::row(i)] += of_number[i];
            }
        for (int row = 0; row < 2; ++row) totals[row] = totals[row] * kept[row] + sums[row];
    }

    // Totals become those of all tokens.
    TILEPRESS_DEVICE void finish() {
        for (float& total : totals)
            for (int lanes = Lanes::kFirstLanes; lanes <= Lanes::kLastLanes; lanes *= 2)
                total += __shfl_xor_sync(kLanes, total, lanes);
    }
};

// Two neighbouring values, cut into bfloat16 numbers that add up to them, or nearly: parts[i] has a part of both.
template <int kParts>
TILEPRESS_DEVICE void cut_pair(float first, float second, u32 (&parts)[kParts]) {
    for (int part = 0; part < kParts; ++part) {
        parts[part] = select_bytes(bits_of_float(first), bits_of_float(second), 0x7632u);
        first -= Bfloat16::leading(first);
        second -= Bfloat16::leading(second);
    }
}

// Factors for k = 2 t, 2 t + 1, 2 t + 8 and 2 t + 9 of row g -> B fragments.
template <int kParts>
TILEPRESS_DEVICE void factor_fragment(const float (&factors)[4], u32 (&b)[kParts][2]) {
    for (int half = 0; half < 2; ++half) {
        u32 parts[kParts];
        cut_pair(factors[2 * half], factors[2 * half + 1], parts);
        for (int part = 0; part < kParts; ++part) b[part][half] = parts[part];
    }
}

// The parts of queries and weights, times scales: 16 bits of 16-bit dtypes, all 24 of float32.
template <class Dtype>
constexpr int kFactorParts = Dtype::kParts == 1 ? 2 : 3;

template <int kA, int kB>
TILEPRESS_DEVICE void multiply_parts(float (&sums)[4], const u32 (&a)[kA][4], const u32 (&b)[kB][2]) {
    constexpr int kMost = kA > kB ? kA : kB;
    for (int i_a = 0; i_a < kA; ++i_a)
        for (int i_b = 0; i_b < kB; ++i_b)
            if (i_a + i_b < kMost) bf16_mma(sums, a[i_a], b[i_b]);
}

// A fragment of 16 x 16 bytes of codes, as `load_matrices_transposed` gives them, of one field -> the A fragment.
template <class Code>
struct KvCodes {
    Unpacker<Code, Bfloat16> unpack;
    u32 upper, lower;

    TILEPRESS_DEVICE KvCodes() : unpack{nullptr, {}, {}} {
        if constexpr (Code::kIsInteger)
            for (int half = 0; half < 2; ++half) unpack.set_zero(half, 0.0f);
    }
    TILEPRESS_DEVICE void take(u32 first, u32 second) {
        upper = select_bytes(first, second, 0x6420u);
        lower = select_bytes(first, second, 0x7531u);
    }
    TILEPRESS_DEVICE void fragment(int field, u32 (&a)[1][4]) const {
        constexpr u32 mask = 0x01010101u * ((1u << Code::kBits) - 1u);
        const int shift = Code::kBits * field;
        unpack(upper >> shift & mask, lower >> shift & mask, a);
    }
};

// The dense tokens of a unit: the same fragments, in parts, straight from global memory.
template <class Dtype>
struct KvWindow {
    using Stored = typename Dtype::Stored;
    static constexpr int kParts = kIsSame<Dtype, Bfloat16> ? 1 : kIsSame<Dtype, Float16> ? 2 : 3;

    const Stored* states;  // [tokens][size]
    int size, tokens;

    // Channels `channel` and the next one of a token; of the last token where there is none.
    TILEPRESS_DEVICE void load(int token, int channel, float (&values)[2]) const {
        const Stored* from = states + static_cast<i64>(min(token, tokens - 1)) * size + channel;
        if constexpr (sizeof(Stored) == 4) {
            const TwoWords words = *reinterpret_cast<const TwoWords*>(from);
            for (int i = 0; i < 2; ++i) values[i] = float_of_bits(words.of[i]);
        } else {
            const u32 word = *reinterpret_cast<const u32*>(from);
            for (int i = 0; i < 2; ++i) values[i] = Dtype::load(static_cast<u16>(word >> 16 * i));
        }
    }

    // Tokens `first` and the 15 that follow, by 16 channels.
    TILEPRESS_DEVICE void keys(int first, int block, u32 (&a)[kParts][4]) const {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        for (int i = 0; i < 4; ++i) {
            float values[2];
            u32 parts[kParts];
            load(first + 2 * g + i % 2, kSide * block + 2 * t + 8 * (i / 2), values);
            cut_pair(values[0], values[1], parts);
            for (int part = 0; part < kParts; ++part) a[part][i] = parts[part];
        }
    }

    // 16 channels by tokens `first` and the 15 that follow.
    TILEPRESS_DEVICE void values(int first, int block, u32 (&a)[kParts][4]) const {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        for (int half = 0; half < 2; ++half) {
            float one[2], next[2];
            load(first + 2 * t + 8 * half, kSide * block + 2 * g, one);
            load(first + 2 * t + 8 * half + 1, kSide * block + 2 * g, next);
            for (int i = 0; i < 2; ++i) {
                u32 parts[kParts];
                cut_pair(one[i], next[i], parts);
                for (int part = 0; part < kParts; ++part) a[part][2 * half + i] = parts[part];
            }
        }
    }
};

}  // namespace tilepress
