// Attention of a few queries over a compressed KV cache: what the kernels of every instruction set take and offer.
//
// The cache is that of kernels/kv_store.py: tiles of `group` tokens, then a window of dense ones. A tile is a string of
// bytes for each sequence and KV head, with the sections that kernels/layout/kv.py draws:
//
//     key_codes     [key_size][rows] bytes, rows = group * bits / 8
//     value_codes   [rows][value_size] bytes
//     key_scales    [key_size] bfloat16, then as many key_minima where the code has minima
//     value_scales  [groups of `group` channels][group] bfloat16, then as many value_minima
//
// A softmax over part of the tokens is a `Partial`: rows of the greatest score, the sum of exp(score - greatest), and
// the sum of values weighted so. Spans of tokens are shared among threads, and their partials merged; the result does
// not depend on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "values.hpp"

namespace tilepress {

constexpr std::int64_t kMostChannels = 512;  // of a head
constexpr std::int64_t kMostGroup = 256;     // tokens of a tile
constexpr std::int64_t kSpanTiles = 16;      // that one thread works on at a time

enum class KvCode { integer, e4m3 };

struct KvLayout {
    KvCode code;
    int bits;
    std::int64_t group;
    std::int64_t key_size;
    std::int64_t value_size;

    bool has_minima() const { return code == KvCode::integer; }
    std::int64_t rows() const { return group * bits / 8; }
    std::int64_t value_groups() const { return (value_size + group - 1) / group; }
    std::int64_t value_codes() const { return key_size * rows(); }
    std::int64_t key_scales() const { return value_codes() + rows() * value_size; }
    std::int64_t key_minima() const { return key_scales() + 2 * key_size; }
    std::int64_t value_scales() const { return key_minima() + (has_minima() ? 2 * key_size : 0); }
    std::int64_t value_minima() const { return value_scales() + 2 * value_groups() * group; }
    std::int64_t tile_bytes() const { return value_minima() + (has_minima() ? 2 * value_groups() * group : 0); }
};

struct KvCache {
    KvLayout layout;
    std::vector<const std::uint8_t*> tiles;  // each [sequences][heads][tile_bytes]
    std::int64_t sequences;
    std::int64_t heads;
    const void* window_keys;    // [sequences][heads][room][key_size]
    const void* window_values;  // [sequences][heads][room][value_size]
    Dtype window_dtype;
    std::int64_t room;
    std::int64_t window_tokens;

    std::int64_t tiled_tokens() const { return static_cast<std::int64_t>(tiles.size()) * layout.group; }
    std::int64_t tokens() const { return tiled_tokens() + window_tokens; }
    std::int64_t spans() const {
        const auto count = static_cast<std::int64_t>(tiles.size());
        return count == 0 ? 1 : (count + kSpanTiles - 1) / kSpanTiles;
    }
};

struct Attention {
    const void* query;  // [sequences][heads][queries][key_size]; of the last tokens
    void* result;       // [sequences][heads][queries][value_size]
    Dtype dtype;        // of both
    std::int64_t heads;
    std::int64_t queries;
    float scaling;
    float softcap;  // 0: none
    bool is_causal;
    std::int64_t window;         // tokens that a query sees, its own included; 0: all
    const float* slopes;         // [heads], or null
    const float* sinks;          // [heads], or null
    const float* bias;           // [tokens] for each query, or null
    std::int64_t bias_steps[3];  // from one sequence, head or query to the next, in values
};

// Rows of queries that share a KV head: consecutive heads, and in each its queries.
inline std::int64_t rows_of(const KvCache& cache, const Attention& attention) {
    return attention.heads / cache.heads * attention.queries;
}

// Floats of one row of a partial: the greatest score, the total, and from the 17th on the sum of values.
inline std::int64_t partial_floats(const KvCache& cache) {
    return kSide + cache.layout.value_size;
}

// `unit` numbers the pairs of a sequence and a KV head.
struct AttentionKernels {
    // Attend to one span of tokens: [rows][partial_floats] to `partial`.
    void (*attend)(const KvCache&, const Attention&, std::int64_t unit, std::int64_t span, float* partial);
    // Merge the partials of all spans into the result.
    void (*merge)(const KvCache&, const Attention&, std::int64_t unit, const float* partials);
};

AttentionKernels portable_attention_kernels();
AttentionKernels avx2_attention_kernels();
AttentionKernels avx512_attention_kernels();

}  // namespace tilepress
