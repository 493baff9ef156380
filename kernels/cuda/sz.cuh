// Tiles of `sz` as kernels/layout/sz.py draws them.
#pragma once

#include "blocks.cuh"
#include "rans.cuh"

namespace tilepress {

constexpr int kSzColumns = 2048;
constexpr int kSzHead = 6;
constexpr int kSzTableHead = 16;
constexpr int kSzShift = 4;  // where the table has it
constexpr int kSzMostShift = 16;
constexpr int kSzMiddle = 128;
enum SzPredictor { kNoPredictor, kLorenzo1, kLorenzo2 };

TILEPRESS_DEVICE int plane_bytes(int width, int count) {
    return (count * width + 7) / 8;
}

// Width of the lowest of the planes of `shift` > 0 bits.
TILEPRESS_DEVICE int lowest_plane(int shift) {
    return shift >= 8 ? 8 : shift & 4 ? 4 : shift & 2 ? 2 : 1;
}

// Where the parts of a tile lie. Nothing of them is trusted: a tile whose parts do not fit into it is not sound.
struct SzTile {
    const u8 *low, *exceptions, *outliers;
    const u8* base;  // of the tile, aligned to 4 bytes
    int stream;      // its place behind `base`
    int count, shift, low_bytes, stream_bytes, exception_count, outlier_count;
    bool is_sound;

    // The tile `number`, of `values` values of `value_bytes` bytes.
    TILEPRESS_DEVICE SzTile(const u8* payload, i64 payload_bytes, const i64* offsets, const u8* table, i64 number,
                            int values, int value_bytes)
        : count(values), shift(table[kSzShift]) {
        const i64 begin = offsets[number], end = offsets[number + 1];
        is_sound =
            0 <= begin && begin <= end && end <= payload_bytes && end - begin >= kSzHead && shift <= kSzMostShift;
        if (!is_sound) return;
        const u8* tile = payload + begin;
        exception_count = static_cast<int>(u16_at(tile));
        outlier_count = static_cast<int>(u16_at(tile + 2));
        stream_bytes = static_cast<int>(u16_at(tile + 4));
        low_bytes = 0;
        for (int left = shift; left > 0; left -= lowest_plane(left))
            low_bytes += plane_bytes(lowest_plane(left), count);
        // The last ones are the cargo of the stream.
        if (low_bytes >= kRansLanes) low_bytes -= kRansLanes;
        low = tile + kSzHead;
        base = payload + begin / 4 * 4;
        stream = static_cast<int>(begin % 4) + kSzHead + low_bytes;
        exceptions = low + low_bytes + stream_bytes;
        outliers = exceptions + 4 * exception_count;
        const i64 bytes = kSzHead + low_bytes + stream_bytes + 4 * exception_count + (2 + value_bytes) * outlier_count;
        is_sound = stream_bytes >= kRansStateBytes && bytes <= end - begin;
    }

    // The low part of a value; `cargo` are the 32 bytes behind those that the tile stores.
    TILEPRESS_DEVICE u32 low_part(int i, const u8* cargo) const {
        u32 part = 0;
        int bit = 0, first = 0;
        for (int left = shift; left > 0;) {
            const int width = lowest_plane(left), size = plane_bytes(width, count);
            const int field = width == 8 ? 0 : i / size, place = first + i - field * size;
            const u32 byte = place < low_bytes ? low[place] : cargo[place - low_bytes];
            part |= (byte >> (width * field) & ((1u << width) - 1)) << bit;
            bit += width;
            first += size;
            left -= width;
        }
        return part;
    }
};

// High parts of the residuals of a tile: 16 rows of `pitch` int16, a multiple of 8 of them, and then the cargo of its
// stream.
struct SzHighs {
    u16* of_tile;
    int pitch;

    TILEPRESS_DEVICE SzHighs(u16* highs, int item, int columns) : pitch((min(columns, kSzColumns) + 7) / 8 * 8) {
        of_tile = highs + static_cast<i64>(item) * (kSide * pitch + kRansLanes / 2);
    }
    TILEPRESS_DEVICE u16* row(int number) const { return of_tile + number * pitch; }
    TILEPRESS_DEVICE u8* cargo() const { return reinterpret_cast<u8*>(row(kSide)); }
};

}  // namespace tilepress
