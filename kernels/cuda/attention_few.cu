// Attention of a few queries over a compressed KV cache, the codes decoded in registers into operands of tensor cores.
//
// grid    (units, for each group of 8 of their rows and 128 channels of values; splits of the tokens), block 128
// shared  each warp's codes on their way, its weights and its sums of minima; the queries of the block
// moves   the bytes of the tiles once for 8 rows, those of keys for 128 channels; nothing decoded is written anywhere
//
// A warp takes a run of passes, each 64 tokens or those that are left of a tile, and then of the window. Scales of keys
// go into queries, which are cut into bfloat16 parts, those of values into weights; codes are exact in bfloat16. Minima
// become what sums begin with. The softmax is online (kernels/reference/attention.py); warps, and then splits, are
// merged in the same order whatever the device does.
#include "attention_stages.cuh"

namespace tilepress {

constexpr int kRows = 8;  // of queries that a warp has

// The weights of a pass, by row and token, and in the last columns what earlier sums are to be multiplied by. Lanes
// that read eight bytes at once meet different banks.
using Weights = float[kRows][kPassTokens + 8];

// What a warp knows of its rows.
template <class Code, class Dtype>
class FewRows {
public:
    using Tile = KvTile<Code>;
    using Stages = TileStages<Code>;
    using Lanes = TokensByQueries;
    static constexpr int kParts = kFactorParts<Dtype>;
    static constexpr int kQueryStride = kMostChannels + 8;  // lanes that read eight bytes at once meet different banks
    static constexpr int kMinima = Code::kIsInteger ? kMostBlocks / Tile::kFields * 32 : 0;
    using Queries = float[kRows][kQueryStride];

    TILEPRESS_DEVICE FewRows(const Tile& tile, const Attention& attention, const BlockShare<kRows>& share,
                             const Queries& queries, Weights& weights, float* minima)
        : tile_(tile),
          value_first_(share.value_first),
          value_blocks_(share.value_last - share.value_first),
          softcap_(attention.softcap),
          queries_(queries),
          weights_(weights),
          minima_(minima + threadIdx.x % 32) {
        for (int i = 0; i < 2; ++i) rows_[i] = QueryRow(attention, share.number + min(2 * t() + i, share.count - 1));
        if constexpr (kMinima != 0)
            for (int group = 0; group < kMostBlocks / Tile::kFields; ++group) minima_[32 * group] = 0.0f;
    }

    // The tokens of a pass over a tile, whose stages come from `stages`.
    TILEPRESS_DEVICE void attend(Stages& stages, const PassTokens& tokens) {
        Scores<Lanes> scores = {};
        KvCodes<Code> codes;
        float constant = 0.0f;
        const u8* stage = nullptr;
#pragma unroll 1
        for (int first = 0; first < tile_.key_blocks(); first += Stages::kKeyBlocks) {
            stage = stages.next();
            u32 words[4];
#pragma unroll
            for (int i = 0; i < Stages::kBlocks; ++i) {
                const int number = i / Tile::kLines, line = i % Tile::kLines;
                if (i % 2 == 0) load_matrices_transposed(words, stage + i * Stages::kBlockBytes + 16 * lane());
                if (first + number >= tile_.key_blocks()) break;
                u32 b[kParts][2];
                if (line == 0) key_factors(stage, first, number, constant, b);
                if (line >= tokens.lines) continue;
                codes.take(words[i % 2 * 2], words[i % 2 * 2 + 1]);
                for (int field = 0; field < Tile::kFields; ++field) {
                    u32 a[1][4];
                    codes.fragment(field, a);
                    multiply_parts(scores[line * Tile::kFields + field], a, b);
                }
            }
        }
        if constexpr (Code::kIsInteger) {
            float constants[2];
            spread(constant, constants);
            for (int set = 0; set < kSets; ++set)
                for (int i = 0; i < 4; ++i) scores[set][i] += constants[i % 2];
        }
        weigh<Tile::kFields>(tokens, scores);
#pragma unroll 1
        for (int line = 0; line < tokens.lines; ++line) {
            u32 words[4], b[Tile::kFields][kParts][2];
            int left = 0, group = 0;
#pragma unroll
            for (int block = 0; block < kMostBlocks; ++block) {
                if (block >= value_blocks_) break;
                const int i = block % Stages::kBlocks;
                if (i == 0) stage = stages.next();
                if (block % Tile::kFields == 0 && left == 0) {  // a group has so many blocks, or a multiple
                    const int place = i % Stages::kGroups * Tile::kFields;
                    for (int field = 0; field < Tile::kFields; ++field)
                        value_factors(stage, place + field, line * Tile::kFields + field, group, b[field]);
                    ++group;
                    left = left_of_group(block);
                }
                --left;
                if (i % 2 == 0) load_matrices_transposed(words, stage + i * Stages::kBlockBytes + 16 * lane());
                codes.take(words[i % 2 * 2], words[i % 2 * 2 + 1]);
                for (int field = 0; field < Tile::kFields; ++field) {
                    u32 a[1][4];
                    codes.fragment(field, a);
                    multiply_parts(sums_[block], a, b[field]);
                }
            }
        }
    }

    // Dense tokens, of which `tokens.first` is the `first` of the window.
    TILEPRESS_DEVICE void attend(const KvWindow<Dtype>& keys, const KvWindow<Dtype>& values, int first,
                                 const PassTokens& tokens) {
        using Window = KvWindow<Dtype>;
        Scores<Lanes> scores = {};
#pragma unroll 1
        for (int block = 0; block < tile_.key_blocks(); ++block) {
            float factors[4];
            u32 a[Window::kParts][4], b[kParts][2];
            load_queries(block, factors);
            factor_fragment(factors, b);
            for (int set = 0; set < kSets; ++set) {
                if (set >= tokens.lines) break;
                keys.keys(first + kSide * set, block, a);
                multiply_parts(scores[set], a, b);
            }
        }
        weigh<1>(tokens, scores);
#pragma unroll 1
        for (int set = 0; set < tokens.lines; ++set) {
            float factors[4];
            u32 a[Window::kParts][4], b[kParts][2];
            load_weights(set, factors);
            factor_fragment(factors, b);
#pragma unroll
            for (int block = 0; block < kMostBlocks; ++block) {
                if (block >= value_blocks_) break;
                values.values(first + kSide * set, value_first_ + block, a);
                multiply_parts(sums_[block], a, b);
            }
        }
    }

    // Merges the warps of the block, and writes partials of the first `count` of its rows, `step` floats apart: sums of
    // values from `value_first` on, and after all of them the greatest score and the total. The block meets here, and
    // no copy is open.
    TILEPRESS_DEVICE void store(u8* shared, float* partials, int count, i64 step) {
        auto& highest = *reinterpret_cast<float (*)[kAttentionWarps][kRows]>(shared);
        auto& totals = *reinterpret_cast<float (*)[kAttentionWarps][kRows]>(shared + sizeof highest);
        auto& sums = *reinterpret_cast<float (*)[kRows][kSide * kMostBlocks + 4]>(shared + 2 * sizeof highest);
        const int warp = threadIdx.x / 32;
        add_minima();
        progress_.finish();
        __syncthreads();
        if (g() == 0)
            for (int i = 0; i < 2; ++i) {
                highest[warp][2 * t() + i] = progress_.highest[i];
                totals[warp][2 * t() + i] = progress_.totals[i];
            }
        __syncthreads();
        float share[2];
        for (int i = 0; i < 2; ++i) {
            const int row = 2 * t() + i;
            float most = highest[0][row], total = 0.0f;
            for (int other = 1; other < kAttentionWarps; ++other) most = max(most, highest[other][row]);
            const float base = most == float_of_bits(QueryRow::kLowest) ? 0.0f : most;
            for (int other = 0; other < kAttentionWarps; ++other)
                total += expf(highest[other][row] - base) * totals[other][row];
            share[i] = expf(progress_.highest[i] - base);
            if (warp == 0 && g() == 0 && row < count && value_first_ == 0) {
                partials[row * step + tile_.value_size] = most;
                partials[row * step + tile_.value_size + 1] = total;
            }
        }
        for (int turn = 0; turn < kAttentionWarps; ++turn) {
            if (turn == warp)
#pragma unroll
                for (int block = 0; block < kMostBlocks; ++block) {
                    if (block >= value_blocks_) break;
                    for (int i = 0; i < 4; ++i) {
                        const int channel = kSide * block + 2 * g() + i / 2;
                        float& sum = sums[2 * t() + i % 2][channel];
                        sum = (turn == 0 ? 0.0f : sum) + share[i % 2] * sums_[block][i];
                    }
                }
            __syncthreads();
        }
        for (int row = 0; row < count; ++row)
            for (int i = threadIdx.x; i < kSide * value_blocks_; i += kAttentionThreads)
                partials[row * step + kSide * value_first_ + i] = sums[row][i];
    }

private:
    static TILEPRESS_DEVICE int lane() { return threadIdx.x % 32; }
    static TILEPRESS_DEVICE int g() { return lane() / 4; }
    static TILEPRESS_DEVICE int t() { return lane() % 4; }

    // Blocks from this one to the end of its group of channels.
    TILEPRESS_DEVICE int left_of_group(int block) const {
        return tile_.group_blocks() - (value_first_ + block) % tile_.group_blocks();
    }

    TILEPRESS_DEVICE void load_queries(int block, float (&factors)[4]) const {
        for (int i = 0; i < 4; ++i) factors[i] = queries_[g()][kSide * block + 2 * t() + i % 2 + i / 2 * 8];
    }
    TILEPRESS_DEVICE void load_weights(int set, float (&factors)[4]) const {
        for (int i = 0; i < 4; ++i) factors[i] = weights_[g()][kSide * set + 2 * t() + i % 2 + i / 2 * 8];
    }

    // Four of the 16 constants at `place` of a stage.
    static TILEPRESS_DEVICE void load_constants(const u8* stage, int place, float (&values)[4]) {
        const auto* pairs = reinterpret_cast<const u32*>(stage + Stages::kCodeBytes + place * Stages::kConstantBytes);
        for (int i = 0; i < 4; ++i)
            values[i] = Bfloat16::load(static_cast<u16>(pairs[t() + i / 2 * 4] >> (i % 2 * 16)));
    }

    // `factors` times scales -> B fragments; returns the sum of factors times minima.
    static TILEPRESS_DEVICE float scale(const u8* stage, int place, float (&factors)[4], u32 (&b)[kParts][2]) {
        float constants[4], sum = 0.0f;
        if constexpr (Code::kIsInteger) {
            load_constants(stage, 2 * place + 1, constants);
            for (int i = 0; i < 4; ++i) sum += factors[i] * constants[i];
        }
        load_constants(stage, 2 * place, constants);
        for (int i = 0; i < 4; ++i) factors[i] *= constants[i];
        factor_fragment(factors, b);
        return sum;
    }
    TILEPRESS_DEVICE void key_factors(const u8* stage, int first, int number, float& constant,
                                      u32 (&b)[kParts][2]) const {
        float factors[4];
        load_queries(first + number, factors);
        constant += scale(stage, number, factors, b);
    }
    TILEPRESS_DEVICE void value_factors(const u8* stage, int place, int set, int group, u32 (&b)[kParts][2]) {
        float factors[4];
        load_weights(set, factors);
        const float sum = scale(stage, place, factors, b);
        if constexpr (kMinima != 0) minima_[32 * group] += sum;
    }

    template <int kFields>
    TILEPRESS_DEVICE void weigh(const PassTokens& tokens, Scores<Lanes>& scores) {
        float kept[2];
        progress_.template weigh<kFields>(rows_, softcap_, tokens, scores, kept);
        __syncwarp();  // weights of the pass before may still be read
        for (int set = 0; set < kSets; ++set)
            for (int i = 0; i < 4; ++i)
                weights_[2 * t() + Lanes::row(i)][kSide * set + Lanes::place(set, i)] = scores[set][i];
        if (g() == 0)
            for (int row = 0; row < 2; ++row) weights_[2 * t() + row][kPassTokens] = kept[row];
        __syncwarp();
#pragma unroll
        for (int block = 0; block < kMostBlocks; ++block)
            for (int i = 0; i < 4; ++i) sums_[block][i] *= kept[i % 2];
        if constexpr (kMinima != 0)
            for (int group = 0; group < kMostBlocks / Tile::kFields; ++group)
                minima_[32 * group] *= weights_[g()][kPassTokens];
    }

    // The sum of row g over the lanes 4 g + t, of the rows 2 t and 2 t + 1.
    static TILEPRESS_DEVICE void spread(float of_lane, float (&sums)[2]) {
        for (int lanes = 1; lanes < 4; lanes *= 2) of_lane += __shfl_xor_sync(kLanes, of_lane, lanes);
        for (int i = 0; i < 2; ++i) sums[i] = __shfl_sync(kLanes, of_lane, 4 * (2 * t() + i));
    }

    TILEPRESS_DEVICE void add_minima() {
        if constexpr (kMinima != 0) {
            int left = 0, group = 0;
            float constants[2] = {};
#pragma unroll
            for (int block = 0; block < kMostBlocks; ++block) {
                if (block >= value_blocks_) break;
                if (block % Tile::kFields == 0 && left == 0) {
                    spread(minima_[32 * group++], constants);
                    left = left_of_group(block);
                }
                --left;
                for (int i = 0; i < 4; ++i) sums_[block][i] += constants[i % 2];
            }
        }
    }

    const Tile tile_;
    const int value_first_, value_blocks_;
    const float softcap_;
    const Queries& queries_;
    Weights& weights_;
    float* minima_;  // of this lane: by group of channels, 32 floats apart
    QueryRow rows_[2];
    Progress<Lanes> progress_;
    // [channel][query] of each block of channels, as mma.m16n8k16 leaves them.
    float sums_[kMostBlocks][4] = {};
};

// partials: [units * rows][splits][value_size + 4].
template <class Code, class Dtype>
__global__ void __launch_bounds__(kAttentionThreads, 3)
    attention_few(const typename Dtype::Stored* query, const i64* tiles, const typename Dtype::Stored* window_keys,
                  const typename Dtype::Stored* window_values, const float* slopes, const float* bias, float* partials,
                  int group, int key_size, int value_size, int kv_heads, int heads, int queries, int tile_count,
                  int window_tokens, int room, float scaling, float softcap, int is_causal, int window, i64 of_sequence,
                  i64 of_head, i64 of_query) {
    using Rows = FewRows<Code, Dtype>;
    using Tile = KvTile<Code>;
    TILEPRESS_DYNAMIC_SHARED(shared);
    u8* rest = shared + kAttentionWarps * Rows::Stages::kRingBytes;
    auto* weights = reinterpret_cast<Weights*>(rest);
    auto& of_block = *reinterpret_cast<typename Rows::Queries*>(rest + kAttentionWarps * sizeof(Weights));
    auto* minima = reinterpret_cast<float*>(rest + kAttentionWarps * sizeof(Weights) + sizeof of_block);

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
    const BlockShare<kRows> share(heads / kv_heads * queries, queries, tile.value_blocks());
    for (int i = threadIdx.x; i < kRows * key_size; i += kAttentionThreads) {
        const int row = min(i / key_size, share.count - 1);
        of_block[i / key_size][i % key_size] =
            Dtype::load(query[static_cast<i64>(share.number + row) * key_size + i % key_size]) * scaling;
    }
    __syncthreads();

    const int tiled = tile_count * group, warp = threadIdx.x / 32;
    const Passes passes(tile, tiled, attention, share.query_first, share.query_last);
    const int all = passes.tiles + passes.dense, workers = gridDim.y * kAttentionWarps;
    const int of_worker = (all + workers - 1) / workers;
    const int first = min(static_cast<int>(blockIdx.y * kAttentionWarps + warp) * of_worker, all);
    const int last = min(first + of_worker, all);
    Rows of_warp(tile, attention, share, of_block, weights[warp], minima + warp * Rows::kMinima);
    {
        const int end = passes.tile_first + min(last, passes.tiles);
        typename Rows::Stages stages(tile, tiles, static_cast<i64>(share.unit) * tile.bytes(),
                                     passes.tile_first + first, end, share.value_first, share.value_last,
                                     shared + warp * Rows::Stages::kRingBytes);
        for (int pass = passes.tile_first + first; pass < end; ++pass) {
            const int number = pass / tile.passes(), line = pass % tile.passes() * Tile::kLines;
            of_warp.attend(stages,
                           {number * group + kSide * line, tile.rows(), min(Tile::kLines, tile.lines() - line)});
        }
        copies_wait<0>();
    }
    const i64 begin = static_cast<i64>(share.unit) * room;
    const KvWindow<Dtype> keys{window_keys + begin * key_size, key_size, window_tokens};
    const KvWindow<Dtype> values{window_values + begin * value_size, value_size, window_tokens};
    for (int pass = max(first, passes.tiles); pass < last; ++pass) {
        const int token = (passes.dense_first + pass - passes.tiles) * kPassTokens;
        const int sets = min(kSets, (window_tokens - token + kSide - 1) / kSide);
        of_warp.attend(keys, values, token, {tiled + token, 0, sets});
    }
    const int stride = value_size + kPartialExtras;
    of_warp.store(shared, partials + (static_cast<i64>(share.number) * gridDim.y + blockIdx.y) * stride, share.count,
                  static_cast<i64>(gridDim.y) * stride);
}

}  // namespace tilepress
