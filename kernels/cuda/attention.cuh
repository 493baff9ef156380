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

constexpr int kRows = 8;  // of queries that a warp has at a time
constexpr int kSets = 4;  // of 16 tokens, of a pass
constexpr int kPassTokens = kSets * kSide;
constexpr unsigned kLanes = 0xffffffffu;

constexpr int kMostBlocks = 8;  // of 16 channels of values, that a block has
constexpr int kMostChannels = 512;

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

// The products of a pass, [token][query]: lane 4 g + t has tokens 2 g (i = 0, 1) and 2 g + 1 of each set, rows 2 t (i =
// 0, 2) and 2 t + 1.
using Scores = float[kSets][4];

// The weights of a pass, by row and token, and in the last columns what earlier sums are to be multiplied by. Lanes
// that read eight bytes at once meet different banks.
using Weights = float[kRows][kPassTokens + 8];

// The softmax of the rows 2 t and 2 t + 1, as far as it has come. Totals are those of the lane's tokens.
struct Progress {
    float highest[2] = {float_of_bits(QueryRow::kLowest), float_of_bits(QueryRow::kLowest)};
    float totals[2] = {};

    // Turn scores into weights, relative to the greatest score. `kept` is what earlier sums are to be multiplied by.
    template <int kFields>
    TILEPRESS_DEVICE void weigh(const QueryRow (&rows)[2], float softcap, const PassTokens& tokens, Scores& scores,
                                Weights& weights, float (&kept)[2]) {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        float higher[2] = {highest[0], highest[1]};
        for (int set = 0; set < kSets; ++set)
            for (int i = 0; i < 4; ++i) {
                const int token =
                    tokens.first + kSide * (set / kFields) + 2 * g + i / 2 + tokens.step * (set % kFields);
                scores[set][i] = set / kFields < tokens.lines ? rows[i % 2].adjusted(scores[set][i], token, softcap)
                                                              : float_of_bits(QueryRow::kLowest);
                higher[i % 2] = max(higher[i % 2], scores[set][i]);
            }
        float sums[2] = {}, base[2];
        __syncwarp();  // weights of the pass before may still be read
        for (int row = 0; row < 2; ++row) {
            for (int lanes = 4; lanes < 32; lanes *= 2)
                higher[row] = max(higher[row], __shfl_xor_sync(kLanes, higher[row], lanes));
            base[row] = higher[row] == float_of_bits(QueryRow::kLowest) ? 0.0f : higher[row];
            kept[row] = expf(highest[row] - base[row]);
            highest[row] = higher[row];
            if (g == 0) weights[2 * t + row][kPassTokens] = kept[row];
        }
        for (int set = 0; set < kSets; ++set)
            for (int i = 0; i < 4; ++i) {
                const float weight = expf(scores[set][i] - base[i % 2]);
                sums[i % 2] += weight;
                weights[2 * t + i % 2][kSide * set + 2 * g + i / 2] = weight;
            }
        for (int row = 0; row < 2; ++row) totals[row] = totals[row] * kept[row] + sums[row];
        __syncwarp();
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
