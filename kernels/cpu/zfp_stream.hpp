// Whole streams: the blocks of an array, x fastest. Blocks that stick out are filled up by repeating values.
#pragma once

#include "zfp_block.hpp"

namespace tilepress {
namespace {

// Call `function(first value, [sizes of the block])` for each block, in the order of the stream.
template <class Function>
void over_blocks(const ZfpShape& shape, const Function& function) {
    const std::int64_t* sizes = shape.sizes;
    for (std::int64_t z = 0; z < sizes[2]; z += kZfpSide)
        for (std::int64_t y = 0; y < sizes[1]; y += kZfpSide)
            for (std::int64_t x = 0; x < sizes[0]; x += kZfpSide) {
                const std::int64_t block[3] = {smaller_count(kZfpSide, sizes[0] - x),
                                               smaller_count(kZfpSide, sizes[1] - y),
                                               smaller_count(kZfpSide, sizes[2] - z)};
                function((z * sizes[1] + y) * sizes[0] + x, block);
            }
}

// Where zfp takes the value for place `place` of a line of which only the first `size` are there.
constexpr std::int64_t place_within(std::int64_t place, std::int64_t size) {
    return place < size ? place : place == 3 ? 0 : size - 1;
}

template <class Scalar, int Dims>
void gather(const Scalar* from, const ZfpShape& shape, const std::int64_t* sizes, Scalar* block) {
    for (int i = 0; i < block_values(Dims); ++i) {
        const std::int64_t x = place_within(i & 3, sizes[0]);
        const std::int64_t y = place_within((i >> 2) & 3, sizes[1]);
        const std::int64_t z = place_within(i >> 4, sizes[2]);
        block[i] = from[(z * shape.sizes[1] + y) * shape.sizes[0] + x];
    }
}

template <class Scalar>
void scatter(const Scalar* block, const ZfpShape& shape, const std::int64_t* sizes, Scalar* to) {
    for (std::int64_t z = 0; z < sizes[2]; ++z)
        for (std::int64_t y = 0; y < sizes[1]; ++y)
            std::memcpy(to + (z * shape.sizes[1] + y) * shape.sizes[0], block + 16 * z + 4 * y,
                        static_cast<std::size_t>(sizes[0]) * sizeof(Scalar));
}

template <class Scalar, int Dims>
void decode_blocks(const ZfpStream& stream, const ZfpShape& shape, const ZfpMode& mode, Scalar* values) {
    BitReader reader{stream.bytes, static_cast<std::uint64_t>(stream.size)};
    over_blocks(shape, [&](std::int64_t first, const std::int64_t* sizes) {
        Scalar block[block_values(Dims)];
        ZfpBlock<Scalar, Dims>::decode(reader, mode, block);
        scatter(block, shape, sizes, values + first);
    });
}

template <class Scalar, int Dims>
std::int64_t encode_blocks(const Scalar* values, const ZfpShape& shape, const ZfpMode& mode, std::uint8_t* to) {
    BitWriter writer{to};
    over_blocks(shape, [&](std::int64_t first, const std::int64_t* sizes) {
        Scalar block[block_values(Dims)];
        gather<Scalar, Dims>(values + first, shape, sizes, block);
        ZfpBlock<Scalar, Dims>::encode(writer, mode, block);
    });
    writer.finish();
    return writer.next - to;
}

template <class Scalar>
void decode_stream(const ZfpStream& stream, const ZfpShape& shape, const ZfpMode& mode, Scalar* values) {
    if (shape.dims == 1) return decode_blocks<Scalar, 1>(stream, shape, mode, values);
    if (shape.dims == 2) return decode_blocks<Scalar, 2>(stream, shape, mode, values);
    decode_blocks<Scalar, 3>(stream, shape, mode, values);
}

template <class Scalar>
std::int64_t encode_stream(const Scalar* values, const ZfpShape& shape, const ZfpMode& mode, std::uint8_t* to) {
    if (shape.dims == 1) return encode_blocks<Scalar, 1>(values, shape, mode, to);
    if (shape.dims == 2) return encode_blocks<Scalar, 2>(values, shape, mode, to);
    return encode_blocks<Scalar, 3>(values, shape, mode, to);
}

}  // namespace
}  // namespace tilepress
