// Attention of many queries in float16 or bfloat16 over a compressed KV cache, whose tokens are decoded to shared
// memory as they are needed, for tensor cores.
//
// grid    (units, for each group of 64 of their rows and 128 channels of values; splits of the tokens), block 128
// shared  64 tokens: of 128 channels of keys, and of the block's channels of values
// moves   the bytes of the tiles once for 64 rows, those of keys for 128 channels; blocks that share them run side by
// side
//
// A block takes 64 tokens of a tile or of the window at a time. Keys and values are rounded to the dtype of the
// queries, as a dense cache holds them, keys of a tile as [channel][token], all else as [token][channel]; each warp has
// 16 rows of queries, whose scores, weights and sums stay in its registers. The softmax is online; splits are merged by
// `attention_merge`.
#include "attention.cuh"

namespace tilepress {

constexpr int kManyRows = kSide * kAttentionWarps;
constexpr int kSliceBlocks = kMostBlocks;  // of 16 channels of keys, at a time
// Values from one row in shared memory to the next: eight rows of 16 bytes lie in different banks.
constexpr int kTokenStride = kPassTokens + 8;
constexpr int kChannelStride = kSide * kMostBlocks + 8;

// Decodes the tokens of a pass of a tile.
template <class Code, class Dtype>
class TileDecoder {
public:
    using Tile = KvTile<Code>;

    // `from`: a tile, of which the pass has `lines` lines of byte rows from `line_first` on.
    TILEPRESS_DEVICE TileDecoder(const Tile& tile, const u8* from, int line_first, int lines)
        : tile_(tile), from_(from), line_first_(line_first), lines_(lines), unpack_{nullptr, {}, {}} {
        if constexpr (Code::kIsInteger) unpack_.set_zero(0, 0.0f);
    }

    // Blocks `first` to `last` of 16 channels.
    TILEPRESS_DEVICE void keys(int first, int last, u16* to) const {
        for (int i = threadIdx.x; i < (last - first) * kSide * lines_; i += kAttentionThreads) {
            const int place = i / lines_, line = i % lines_, channel = first * kSide + place;
            const Words codes = load(channel * tile_.rows() + kSide * (line_first_ + line));
            const u32 scale = constant(tile_.key_scales() + 2 * channel);
            const u32 minimum = constant_minimum(tile_.key_scales() + 2 * (tile_.key_size + channel));
            for (int field = 0; field < Tile::kFields; ++field)
                decode(codes, field, scale, minimum,
                       to + place * kTokenStride + kSide * (line * Tile::kFields + field));
        }
    }
    TILEPRESS_DEVICE void values(int first, int last, u16* to) const {
        const int blocks = last - first;
        for (int i = threadIdx.x; i < blocks * kSide * lines_; i += kAttentionThreads) {
            const int place = i % blocks, line = i / blocks / kSide, row = i / blocks % kSide;
            const int token = kSide * (line_first_ + line) + row, group = (first + place) / tile_.group_blocks();
            const Words codes = load(tile_.value_codes() + token * tile_.value_size + kSide * (first + place));
            for (int field = 0; field < Tile::kFields; ++field) {
                const int scales = tile_.value_scales() + 2 * (group * tile_.group + field * tile_.rows() + token);
                decode(codes, field, constant(scales),
                       constant_minimum(scales + 2 * tile_.value_groups() * tile_.group),
                       to + (kSide * (line * Tile::kFields + field) + row) * kChannelStride + kSide * place);
            }
        }
    }

private:
    TILEPRESS_DEVICE Words load(int offset) const { return *reinterpret_cast<const Words*>(from_ + offset); }
    TILEPRESS_DEVICE u32 constant(int offset) const {
        const float value = Bfloat16::load(*reinterpret_cast<const u16*>(from_ + offset));
        return Dtype::pair(value, value);
    }
    TILEPRESS_DEVICE u32 constant_minimum(int offset) const {
        if constexpr (Code::kIsInteger)
            return constant(offset);
        else
            return 0x80008000u;  // minus zeros
    }

    // 16 codes of one field -> scale * code + minimum.
    TILEPRESS_DEVICE void decode(const Words& codes, int field, u32 scale, u32 minimum, u16* to) const {
        constexpr u32 mask = 0x01010101u * ((1u << Code::kBits) - 1u);
        for (int half = 0; half < 2; ++half) {
            Words values;
            for (int i = 0; i < 4; ++i) {
                u32 parts[1];
                unpack_.pair(codes.of[2 * half + i / 2] >> Code::kBits * field & mask, i % 2, 0, parts);
                values.of[i] = Dtype::multiply_add(parts[0], scale, minimum);
            }
            reinterpret_cast<Words*>(to)[half] = values;
        }
    }

    const Tile tile_;
    const u8* from_;
    int line_first_, lines_;
    Unpacker<Code, Dtype> unpack_;
};

// Copies 16 channels a block of 64 tokens of the window, from `token` on; where there are fewer, the last one instead.
TILEPRESS_DEVICE void copy_states(const u16* states, int size, int tokens, int token, int first, int last, u16* to) {
    const int pieces = 2 * (last - first);  // of 8 channels
    for (int i = threadIdx.x; i < kPassTokens * pieces; i += kAttentionThreads) {
        const int row = i / pieces, piece = i % pieces;
        const u16* from = states + static_cast<i64>(min(token + row, tokens - 1)) * size + kSide * first + 8 * piece;
        *reinterpret_cast<Words*>(to + row * kChannelStride + 8 * piece) = *reinterpret_cast<const Words*>(from);
    }
}

// The 16 rows of a warp.
template <class Dtype>
class ManyRows {
public:
    using Lanes = QueriesByTokens;

    // Row g of the warp is `number + g`, as attention counts them; those that are not there are `last_number`.
    TILEPRESS_DEVICE ManyRows(const Attention& attention, float scaling, const u16* query, int key_size, int number,
                              int last_number, int value_blocks)
        : scaling_(scaling), softcap_(attention.softcap), value_blocks_(value_blocks) {
        for (int i = 0; i < 2; ++i) {
            const int of_row = min(number + g() + 8 * i, last_number);
            rows_[i] = QueryRow(attention, of_row);
            query_[i] = query + static_cast<i64>(of_row) * key_size + 2 * t();
        }
    }

    TILEPRESS_DEVICE void begin() {
        for (auto& of_tokens : scores_)
            for (float& score : of_tokens) score = 0.0f;
    }

    // Products with blocks `first` to `last` of channels of the keys, which lie in shared memory by channels or tokens.
    template <bool kByChannels>
    TILEPRESS_DEVICE void multiply_keys(const u16* keys, int first, int last) {
        const int row = 8 * (lane() / 16), column = 8 * (lane() / 8 % 2), i = lane() % 8;
#pragma unroll 1
        for (int block = first; block < last; ++block) {
            u32 a[4];
            for (int j = 0; j < 4; ++j)
                a[j] = *reinterpret_cast<const u32*>(query_[j % 2] + kSide * block + 8 * (j / 2));
            const int channel = kSide * (block - first);
            for (int set = 0; set < kSets; ++set) {
                u32 words[4];
                if constexpr (kByChannels)
                    load_matrices_transposed(words, keys + (channel + column + i) * kTokenStride + kSide * set + row);
                else
                    load_matrices(words, keys + (kSide * set + row + i) * kChannelStride + channel + column);
                multiply(scores_[2 * set], scores_[2 * set + 1], a, words);
            }
        }
    }

    // Weighs the tokens of a pass, and adds up their values.
    template <int kFields>
    TILEPRESS_DEVICE void add(const PassTokens& tokens, const u16* values) {
        float kept[2];
        for (auto& of_tokens : scores_)
            for (float& score : of_tokens) score *= scaling_;
        progress_.template weigh<kFields>(rows_, softcap_, tokens, scores_, kept);
#pragma unroll
        for (int block = 0; block < kMostBlocks; ++block)
            for (int i = 0; i < 8; ++i) sums_[block][i / 4][i % 4] *= kept[i % 4 / 2];
        const int row = lane() % 16, column = 8 * (lane() / 16);
#pragma unroll
        for (int set = 0; set < kSets; ++set) {
            if (set >= tokens.lines * kFields) break;
            u32 a[4];
            for (int j = 0; j < 4; ++j) {
                const float (&pair)[4] = scores_[2 * set + j / 2];
                a[j] = Dtype::pair(pair[2 * (j % 2)], pair[2 * (j % 2) + 1]);
            }
#pragma unroll
            for (int block = 0; block < kMostBlocks; ++block) {
                if (block >= value_blocks_) break;
                u32 words[4];
                load_matrices_transposed(words, values + (kSide * set + row) * kChannelStride + kSide * block + column);
                multiply(sums_[block][0], sums_[block][1], a, words);
            }
        }
    }

    // Writes partials of the first `count` rows, `step` floats apart: sums of values from channel `channel` on, and,
    // with the first of them, the greatest score and the total after all `value_size`.
    TILEPRESS_DEVICE void store(float* partials, int count, i64 step, int channel, int value_size) {
        progress_.finish();
        for (int i = 0; i < 2; ++i) {
            const int row = g() + 8 * i;
            if (row >= count) continue;
            float* to = partials + row * step;
#pragma unroll
            for (int block = 0; block < kMostBlocks; ++block) {
                if (block >= value_blocks_) break;
                for (int j = 0; j < 4; ++j)
                    to[channel + kSide * block + 8 * (j / 2) + 2 * t() + j % 2] = sums_[block][j / 2][2 * i + j % 2];
            }
            if (channel == 0 && t() == 0) {
                to[value_size] = progress_.highest[i];
                to[value_size + 1] = progress_.totals[i];
            }
        }
    }

private:
    static TILEPRESS_DEVICE int lane() { return threadIdx.x % 32; }
    static TILEPRESS_DEVICE int g() { return lane() / 4; }
    static TILEPRESS_DEVICE int t() { return lane() % 4; }

    static TILEPRESS_DEVICE void multiply(float (&first)[4], float (&second)[4], const u32 (&a)[4],
                                          const u32 (&words)[4]) {
        const u32 b[2][2] = {{words[0], words[1]}, {words[2], words[3]}};
        Dtype::mma(first, a, b[0]);
        Dtype::mma(second, a, b[1]);
    }

    const float scaling_, softcap_;
    const int value_blocks_;
    QueryRow rows_[2];
    const u16* query_[2];
    Progress<Lanes> progress_;
    Scores<Lanes> scores_;
    float sums_[kMostBlocks][2][4] = {};
};

// Blocks of a multiprocessor, whose registers they share: what would spill on sm_100 gets more of them.
template <class Code, class Dtype>
constexpr int kManyBlocks = Code::kBits == 4 && kIsSame<Dtype, Float16> ? 2 : 3;

// partials: [units * rows][splits][value_size + 4].
template <class Code, class Dtype>
__global__ void __launch_bounds__(kAttentionThreads, kManyBlocks<Code, Dtype>)
    attention_many(const u16* query, const i64* tiles, const u16* window_keys, const u16* window_values,
                   const float* slopes, const float* bias, float* partials, int group, int key_size, int value_size,
                   int kv_heads, int heads, int queries, int tile_count, int window_tokens, int room, float scaling,
                   float softcap, int is_causal, int window, i64 of_sequence, i64 of_head, i64 of_query) {
    using Tile = KvTile<Code>;
    TILEPRESS_DYNAMIC_SHARED(shared);
    auto* keys = reinterpret_cast<u16*>(shared);
    u16* values = keys + kSide * kSliceBlocks * kTokenStride;

    const Tile tile{group, key_size, value_size};
    const Attention attention{tile_count * group + window_tokens,
                              heads,
                              queries,
                              softcap,
                              is_causal,
                              window,
                              slopes,
                              bias,
                              of_sequence,
                              of_head,
                              of_query};
    const BlockShare<kManyRows> share(heads / kv_heads * queries, queries, tile.value_blocks());
    const int of_warp = threadIdx.x / 32 * kSide;
    ManyRows<Dtype> mine(attention, scaling, query, key_size, share.number + of_warp, share.number + share.count - 1,
                         share.value_last - share.value_first);
    const int tiled = tile_count * group;
    const Passes passes(tile, tiled, attention, share.query_first, share.query_last);
    const int all = passes.tiles + passes.dense, of_split = (all + gridDim.y - 1) / gridDim.y;
    const int first = min(static_cast<int>(blockIdx.y) * of_split, all);

    const i64 window_begin = static_cast<i64>(share.unit) * room;
    for (int pass = first; pass < min(first + of_split, all); ++pass) {
        mine.begin();
        if (pass < passes.tiles) {
            const int number = (passes.tile_first + pass) / tile.passes();
            const int line = (passes.tile_first + pass) % tile.passes() * Tile::kLines;
            const u8* from = reinterpret_cast<const u8*>(tiles[number]) + static_cast<i64>(share.unit) * tile.bytes();
            const int lines = min(Tile::kLines, tile.lines() - line);
            const TileDecoder<Code, Dtype> decoder(tile, from, line, lines);
            for (int block = 0; block < tile.key_blocks(); block += kSliceBlocks) {
                const int end = min(block + kSliceBlocks, tile.key_blocks());
                __syncthreads();
                decoder.keys(block, end, keys);
                if (block == 0) decoder.values(share.value_first, share.value_last, values);
                __syncthreads();
                mine.template multiply_keys<true>(keys, block, end);
            }
            mine.template add<Tile::kFields>({number * group + kSide * line, tile.rows(), lines}, values);
        } else {
            const int token = (passes.dense_first + pass - passes.tiles) * kPassTokens;
            for (int block = 0; block < tile.key_blocks(); block += kSliceBlocks) {
                const int end = min(block + kSliceBlocks, tile.key_blocks());
                __syncthreads();
                copy_states(window_keys + window_begin * key_size, key_size, window_tokens, token, block, end, keys);
                if (block == 0)
                    copy_states(window_values + window_begin * value_size, value_size, window_tokens, token,
                                share.value_first, share.value_last, values);
                __syncthreads();
                mine.template multiply_keys<false>(keys, block, end);
            }
            mine.template add<1>({tiled + token, 0, kSets}, values);
        }
    }
    const int stride = value_size + kPartialExtras;
    mine.store(partials + (static_cast<i64>(share.number + of_warp) * gridDim.y + blockIdx.y) * stride,
               share.count - of_warp, static_cast<i64>(gridDim.y) * stride, kSide * share.value_first, value_size);
}

}  // namespace tilepress
