// The tiles of a KV cache on their way to a warp: a ring of stages in shared memory, filled by asynchronous copies.
//
// A stage is some blocks of 16 x 16 bytes of codes, and the scales and minima that go with them:
//
//     of keys     16 channels, a line of 16 tokens' bytes each: all lines of the pass, of one or two blocks of
//     channels;
//                 scales and minima of these channels
//     of values   a line of 16 rows of bytes, of each 16 channels: several blocks of channels; where a group of
//     channels
//                 begins, scales and minima of the line's tokens, of each field
//
// A pass has its stages of keys, block by block, then those of values, line by line.
#pragma once

#include "attention.cuh"

namespace tilepress {

template <class Code>
class TileStages {
public:
    using Tile = KvTile<Code>;
    static constexpr int kBlocks = Tile::kLines < 2 ? 2 : Tile::kLines;
    static constexpr int kKeyBlocks = kBlocks / Tile::kLines;
    // Groups of channels may begin anywhere where a group can be 16 channels, else with a stage.
    static constexpr int kGroups = Tile::kFields == 1 ? kBlocks : 1;
    static constexpr int kBlockBytes = kSide * kSide;
    static constexpr int kCodeBytes = kBlocks * kBlockBytes;
    static constexpr int kConstantBytes = 2 * kSide;  // of 16 scales or minima
    static constexpr int kStageBytes = kCodeBytes + 2 * kConstantBytes * (kGroups * Tile::kFields);
    static constexpr int kStages = Code::kBits == 8 ? 4 : 8;
    static constexpr int kRingBytes = kStages * kStageBytes;

    // Passes `first` to `last` of a unit's tiles. `tiles`: addresses of all units' tiles, of which this unit's begins
    // `offset` bytes on. Of values, blocks `value_first` to `value_last`.
    TILEPRESS_DEVICE TileStages(const Tile& tile, const i64* tiles, i64 offset, int first, int last, int value_first,
                                int value_last, u8* ring)
        : tile_(tile),
          tiles_(tiles),
          offset_(offset),
          ring_(ring),
          value_first_(value_first),
          value_last_(value_last),
          pass_(first),
          last_(last) {
        if (pass_ < last_) begin_pass();
        for (int ahead = 0; ahead < kStages - 1; ++ahead) fetch(ahead);
    }

    // The next stage. The warp meets here.
    TILEPRESS_DEVICE const u8* next() {
        copies_wait<kStages - 2>();
        __syncwarp();
        fetch(slot_);
        slot_ = slot_ == kStages - 1 ? 0 : slot_ + 1;
        return ring_ + slot_ * kStageBytes;
    }

private:
    TILEPRESS_DEVICE void begin_pass() {
        const int passes = tile_.passes();
        from_ = reinterpret_cast<const u8*>(tiles_[pass_ / passes]) + offset_;
        line_ = pass_ % passes * Tile::kLines;
        lines_ = min(Tile::kLines, tile_.lines() - line_);
        block_ = 0;
        value_line_ = -1;
    }

    TILEPRESS_DEVICE void fetch(int slot) {
        if (pass_ < last_) {
            u8* to = ring_ + slot * kStageBytes;
            if (value_line_ < 0) {
                copy_keys(to);
                block_ += kKeyBlocks;
                if (block_ >= tile_.key_blocks()) {
                    block_ = value_first_;
                    value_line_ = 0;
                }
            } else {
                copy_values(to);
                block_ += kBlocks;
                if (block_ >= value_last_) {
                    block_ = value_first_;
                    if (++value_line_ == lines_ && ++pass_ < last_) begin_pass();
                }
            }
        }
        copies_commit();
    }

    TILEPRESS_DEVICE void copy_keys(u8* to) const {
        const int lane = threadIdx.x % 32, row = lane % kSide;
        for (int i = lane / kSide; i < kBlocks; i += 2) {
            const int block = block_ + i / Tile::kLines, line = i % Tile::kLines;
            if (line < lines_ && block < tile_.key_blocks())
                copy_async(to + i * kBlockBytes + kSide * row,
                           from_ + (block * kSide + row) * tile_.rows() + kSide * (line_ + line));
        }
        const int half = lane % 2, side = lane / 2 % Tile::kSides, i = lane / (2 * Tile::kSides);
        if (i < kKeyBlocks && block_ + i < tile_.key_blocks())
            copy_async(to + kCodeBytes + (2 * i + side) * kConstantBytes + 16 * half,
                       from_ + tile_.key_scales() + 2 * (side * tile_.key_size + (block_ + i) * kSide) + 16 * half);
    }

    TILEPRESS_DEVICE void copy_values(u8* to) const {
        const int lane = threadIdx.x % 32, row = lane % kSide;
        const u8* codes = from_ + tile_.value_codes() + (kSide * (line_ + value_line_) + row) * tile_.value_size;
        for (int i = lane / kSide; i < kBlocks; i += 2)
            if (block_ + i < value_last_) copy_async(to + i * kBlockBytes + kSide * row, codes + kSide * (block_ + i));
        const int half = lane % 2, side = lane / 2 % Tile::kSides, place = lane / (2 * Tile::kSides);
        const int field = place % Tile::kFields, i = place / Tile::kFields, block = block_ + i;
        const int group = block / tile_.group_blocks();
        if (i < kGroups && block < value_last_ && (group * tile_.group_blocks() == block || block == value_first_)) {
            const int token = group * tile_.group + field * tile_.rows() + kSide * (line_ + value_line_);
            copy_async(
                to + kCodeBytes + (2 * place + side) * kConstantBytes + 16 * half,
                from_ + tile_.value_scales() + 2 * (side * tile_.value_groups() * tile_.group + token) + 16 * half);
        }
    }

    const Tile tile_;
    const i64* tiles_;
    i64 offset_;
    u8* ring_;
    int value_first_, value_last_;
    // What is fetched next: of `from_`, lines from `line_` on; of keys where `value_line_` is negative.
    int pass_, last_;
    const u8* from_ = nullptr;
    int line_ = 0, lines_ = 0, block_ = 0, value_line_ = 0;
    // The stage that was read last, which is free.
    int slot_ = kStages - 1;
};

}  // namespace tilepress
