// The kernels for any processor: plain loops over 16 values, which compilers turn into what vectors there are.
#include "portable_floats.hpp"
#include "tile_decode.hpp"
#include "tile_multiply.hpp"

namespace tilepress {
namespace {

struct Portable : PortableFloats {
    using Book = const float*;
    using Table = const std::uint16_t*;

    static Book book(const float* values) { return values; }
    static Values from_integers(const std::uint8_t* codes) {
        return each([&](int i) { return static_cast<float>(codes[i]); });
    }
    static Values from_book(const std::uint8_t* codes, Book book) {
        return each([&](int i) { return book[codes[i]]; });
    }
    static Values from_e5m2(const std::uint8_t* codes) {
        return each([&](int i) { return float_of_fp16(fp16_of_e5m2(codes[i])); });
    }
    static Values from_e8m0(const std::uint8_t* codes) {
        return each([&](int i) { return float_of_e8m0(codes[i]); });
    }
    static void store_bf16_normal(std::uint16_t* to, const Values& values) { store_bf16(to, values); }
    static Table table(const std::uint16_t* values) { return values; }
    static void look_up(Table table, const std::uint8_t* codes, std::uint16_t* to) {
        for (int i = 0; i < kSide; ++i) to[i] = table[codes[i]];
    }
    static void copy_past_cache(void* to, const void* from, std::size_t bytes) { std::memcpy(to, from, bytes); }
    static void end_copies() {}
};

}  // namespace

TileKernels portable_tile_kernels() {
    return {decode<Portable>, float_prepared_bytes, float_prepare<Portable>, float_multiply<Portable>};
}

}  // namespace tilepress
