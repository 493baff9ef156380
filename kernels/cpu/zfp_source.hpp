// A `Source` (panels.hpp) of zfp streams: sixteen blocks are decoded at a time. Bits are read of four blocks in turns:
// at fixed rate they are neighbours in one panel, else they belong to four panels.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "panels.hpp"
#include "zfp_turns.hpp"

namespace tilepress {
namespace {

constexpr std::int64_t kPanelBlocks = kSide / kZfpSide;
constexpr std::int64_t kLaneColumns = kZfpSide * kLanes;
// More than a block takes whose bits are not limited, whatever they are.
constexpr std::int64_t kBlockBytes = 160;
// A block of at most 32 bits a value, and the zeros that may be read behind it.
constexpr std::int64_t kFixedBytes = 64;
constexpr std::int64_t kFixedStride = kFixedBytes + 80;

// What sixteen blocks need on their way.
struct LaneScratch {
    LanePlanes planes;
    std::uint32_t exponents[kLanes];
    std::uint32_t raw[kLanes];  // of reversible blocks, see `values_of_reversible_planes`
    LaneRows rows;

    void clear() {
        std::memset(&planes, 0, sizeof planes);
        std::memset(exponents, 0, sizeof exponents);
        std::memset(raw, 0, sizeof raw);
    }
};

// Copies of blocks of fixed rate, each with zeros behind it.
struct FixedBlocks {
    alignas(64) std::uint8_t bytes[kLanes * kFixedStride] = {};

    void load(int lane, const ZfpStream& stream, std::uint64_t position, std::int64_t bits) {
        BitReader reader{stream.bytes, static_cast<std::uint64_t>(stream.size), position};
        std::uint8_t* to = bytes + lane * kFixedStride;
        const std::uint64_t byte = position >> 3;
        if (position % 8 == 0 && bits % 64 == 0 && byte + static_cast<std::uint64_t>(bits / 8) <= reader.size) {
            for (std::int64_t i = 0; i < bits / 8; i += 8) store_word(to + i, load_word(stream.bytes + byte + i));
            return;
        }
        for (; bits > 0; bits -= 64, to += 8) store_word(to, reader.read(smaller_count(bits, 64)));
    }
};

// What a block of variable length begins with.
struct BlockHeader {
    std::uint32_t exponent;  // biased
    std::uint32_t raw;       // see LaneScratch
    unsigned bits;           // of the header
    int planes;
};

inline BlockHeader header_of(std::uint64_t bits, const ZfpMode& mode) {
    const auto exponent = static_cast<std::uint32_t>(bits >> 1) & 0xff;
    if ((bits & 1) == 0) return {exponent, 0, 1, 0};
    return {exponent, 0, kHeaderBits, std::min(planes_of(mode, static_cast<int>(exponent) - 127, 2), kPlanes)};
}

inline BlockHeader reversible_header(std::uint64_t bits) {
    constexpr unsigned precision = ZfpScalar<float>::precision_bits, exponent = ZfpScalar<float>::exponent_bits;
    const auto planes = [&](unsigned place) { return static_cast<int>(bits >> place & low_bits(precision)) + 1; };
    if ((bits & 1) == 0) return {0, 0, 1, 0};
    if ((bits & 2) != 0) return {0, ~0u, 2 + precision, planes(2)};
    return {static_cast<std::uint32_t>(bits >> 2) & 0xff, 0, 2 + exponent + precision, planes(2 + exponent)};
}

// Up to four panels whose blocks have any lengths: each stream with zeros behind it, read from its beginning.
struct VariableBlocks {
    std::vector<std::uint8_t> bytes;
    std::uint64_t position[kTurns];
    std::uint64_t end[kTurns];

    void load(const ZfpPanels& weight, Range panels, std::int64_t blocks) {
        std::int64_t sizes[kTurns] = {}, total = 0;
        for (std::int64_t panel = panels.first; panel < panels.last; ++panel) {
            std::int64_t& size = sizes[panel - panels.first];
            size = std::min(weight.stream(panel).size, blocks * kBlockBytes);
            total += size;
        }
        bytes.assign(static_cast<std::size_t>(total + kTurns * kBlockBytes), 0);
        std::int64_t begin = 0;
        for (int turn = 0; turn < kTurns; ++turn) {
            if (sizes[turn] > 0)
                std::memcpy(bytes.data() + begin, weight.stream(panels.first + turn).bytes,
                            static_cast<std::size_t>(sizes[turn]));
            position[turn] = static_cast<std::uint64_t>(begin * 8);
            end[turn] = static_cast<std::uint64_t>((begin + sizes[turn]) * 8);
            begin += sizes[turn] + kBlockBytes;
        }
    }

    // Read the next block of each panel to the lanes lane, lane + 4, ... Returns the lowest plane that was read.
    int read(const ZfpMode& mode, LaneScratch& lanes, int lane) {
        Turns turns{};
        turns.bytes = bytes.data();
        for (int turn = 0; turn < kTurns; ++turn) {
            turns.position[turn] = std::min(position[turn], end[turn]);
            const std::uint64_t bits = window(turns.bytes, turns.position[turn]);
            const BlockHeader header = mode.is_reversible ? reversible_header(bits) : header_of(bits, mode);
            lanes.exponents[lane + kTurns * turn] = header.exponent;
            lanes.raw[lane + kTurns * turn] = header.raw;
            turns.position[turn] += header.bits;
            turns.least_plane[turn] = kPlanes - header.planes;
        }
        const int lowest = read_planes<false>(turns, lanes.planes, lane, kTurns);
        std::copy(turns.position, turns.position + kTurns, position);
        return lowest;
    }
};

class ZfpSource {
public:
    struct Scratch {
        LaneScratch lanes;
        FixedBlocks fixed;
        VariableBlocks variable;
        // Panels of variable length that have been decoded together, [panels][16][stride].
        std::vector<float> values;
        Range panels{0, 0};
    };

    // Panels up to `last_panel` are wanted one after the other, all of them with the same columns.
    ZfpSource(const ZfpPanels& weight, std::int64_t last_panel)
        : weight_(weight), last_panel_(last_panel), across_((weight.columns + kZfpSide - 1) / kZfpSide) {}

    template <class Sink>
    void decode(std::int64_t panel, const Rectangle& wanted, Scratch& scratch, Sink&& sink) const {
        const Range columns{wanted.columns.first / kLaneColumns * kLaneColumns,
                            std::min((wanted.columns.last + kSide - 1) / kSide * kSide, weight_.columns)};
        const std::int64_t top = panel * kSide;
        const Range down{(wanted.rows.first - top) / kZfpSide, (wanted.rows.last - top + kZfpSide - 1) / kZfpSide};
        if (weight_.mode.has_fixed_rate()) return decode_fixed(panel, down, columns, scratch, sink);
        const std::int64_t stride = (weight_.columns + kLaneColumns - 1) / kLaneColumns * kLaneColumns;
        if (panel < scratch.panels.first || scratch.panels.last <= panel) decode_group(panel, columns, stride, scratch);
        const float* values = scratch.values.data() + (panel - scratch.panels.first) * kSide * stride + columns.first;
        sink(Piece{{top, std::min(top + kSide, weight_.rows)}, columns, values, stride});
    }

private:
    // The piece that sixteen blocks of a row of blocks are.
    template <class Sink>
    void put_lanes(std::int64_t panel, std::int64_t down, std::int64_t column, std::int64_t last_column,
                   const LaneRows& rows, Sink&& sink) const {
        const std::int64_t first = panel * kSide + down * kZfpSide;
        if (first >= weight_.rows) return;
        sink(Piece{{first, std::min(first + kZfpSide, weight_.rows)},
                   {column, std::min(column + kLaneColumns, last_column)},
                   rows.of[0],
                   kLaneColumns});
    }

    template <class Sink>
    void decode_fixed(std::int64_t panel, Range downs, Range columns, Scratch& scratch, Sink&& sink) const {
        for (std::int64_t down = downs.first; down < downs.last; ++down)
            for (std::int64_t column = columns.first; column < columns.last; column += kLaneColumns) {
                const std::int64_t block = column / kZfpSide;
                const std::int64_t last_block = (columns.last + kZfpSide - 1) / kZfpSide;
                const auto count = static_cast<int>(std::min<std::int64_t>(kLanes, last_block - block));
                scratch.lanes.clear();
                int lowest = kPlanes;
                for (int lane = 0; lane < count; lane += kTurns)
                    lowest = std::min(lowest, read_fixed(panel, down * across_ + block, lane, count, scratch));
                values_of_planes(scratch.lanes.planes, scratch.lanes.exponents, lowest < 16, scratch.lanes.rows);
                put_lanes(panel, down, column, columns.last, scratch.lanes.rows, sink);
            }
    }

    // Read the blocks of four lanes; `first` is the panel's block in lane 0.
    int read_fixed(std::int64_t panel, std::int64_t first, int lane, int count, Scratch& scratch) const {
        const std::int64_t bits = weight_.mode.most_bits;
        Turns turns{};
        turns.bytes = scratch.fixed.bytes;
        for (int turn = 0; turn < kTurns; ++turn) {
            const int place = lane + turn;
            std::uint64_t header = 0;
            if (place < count) {
                scratch.fixed.load(place, weight_.stream(panel), static_cast<std::uint64_t>((first + place) * bits),
                                   bits);
                header = load_word(scratch.fixed.bytes + place * kFixedStride);
            }
            scratch.lanes.exponents[place] = static_cast<std::uint32_t>(header >> 1) & 0xff;
            const auto begin = static_cast<std::uint64_t>(place * kFixedStride * 8);
            turns.end[turn] = begin + static_cast<std::uint64_t>(bits);
            turns.position[turn] = (header & 1) != 0 ? begin + kHeaderBits : turns.end[turn];
        }
        return read_planes<true>(turns, scratch.lanes.planes, lane, 1);
    }

    // Decode a panel and its followers, as many as are read in turns.
    void decode_group(std::int64_t panel, Range columns, std::int64_t stride, Scratch& scratch) const {
        scratch.panels = {panel, std::min(panel + kTurns, last_panel_)};
        scratch.values.resize(static_cast<std::size_t>(kTurns * kSide * stride));
        scratch.variable.load(weight_, scratch.panels, kPanelBlocks * across_);
        for (std::int64_t down = 0; down < kPanelBlocks; ++down)
            for (std::int64_t block = 0; block < across_; block += kTurns) {
                const auto count = static_cast<int>(std::min<std::int64_t>(kTurns, across_ - block));
                scratch.lanes.clear();
                int lowest = kPlanes;
                for (int i = 0; i < count; ++i)
                    lowest = std::min(lowest, scratch.variable.read(weight_.mode, scratch.lanes, i));
                const std::int64_t column = block * kZfpSide;
                if (column >= columns.last || column + kSide <= columns.first) continue;
                const LaneScratch& lanes = scratch.lanes;
                if (weight_.mode.is_reversible)
                    values_of_reversible_planes(lanes.planes, lanes.exponents, lanes.raw, scratch.lanes.rows);
                else
                    values_of_planes(lanes.planes, lanes.exponents, lowest < 16, scratch.lanes.rows);
                for (int turn = 0; turn < kTurns; ++turn)
                    for (int y = 0; y < kZfpSide; ++y)
                        std::memcpy(scratch.values.data() + (turn * kSide + down * kZfpSide + y) * stride + column,
                                    scratch.lanes.rows.of[y] + turn * kSide, kSide * sizeof(float));
            }
    }

    ZfpPanels weight_;
    std::int64_t last_panel_;
    std::int64_t across_;
};

}  // namespace
}  // namespace tilepress
