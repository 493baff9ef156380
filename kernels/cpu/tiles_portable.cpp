// The kernels for any processor: plain loops over 16 values, which compilers turn into what vectors there are.
#include "tile_decode.hpp"
#include "tile_multiply.hpp"

namespace tilepress {
namespace {

struct Portable {
    struct Values {
        float of[kSide];
    };
    using Book = const float*;
    using Table = const std::uint16_t*;
    static constexpr std::int64_t most_vectors = 2;

    template <class Function>
    static Values each(Function function) {
        Values values;
        for (int i = 0; i < kSide; ++i) values.of[i] = function(i);
        return values;
    }

    static Book book(const float* values) { return values; }
    static Values broadcast(float value) {
        return each([&](int) { return value; });
    }
    static Values load(const float* from) {
        return each([&](int i) { return from[i]; });
    }
    static void store(float* to, const Values& values) { std::memcpy(to, values.of, sizeof values.of); }
    static Values add(const Values& a, const Values& b) {
        return each([&](int i) { return a.of[i] + b.of[i]; });
    }
    static Values subtract(const Values& a, const Values& b) {
        return each([&](int i) { return a.of[i] - b.of[i]; });
    }
    static Values multiply(const Values& a, const Values& b) {
        return each([&](int i) { return a.of[i] * b.of[i]; });
    }
    static Values multiply_add(const Values& a, const Values& b, const Values& c) {
        return each([&](int i) { return a.of[i] * b.of[i] + c.of[i]; });
    }
    static float sum(const Values& values) {
        float halves[8];
        for (int i = 0; i < 8; ++i) halves[i] = values.of[i] + values.of[i + 8];
        for (int step = 4; step > 0; step /= 2)
            for (int i = 0; i < step; ++i) halves[i] += halves[i + step];
        return halves[0];
    }
    static Values from_integers(const std::uint8_t* codes) {
        return each([&](int i) { return static_cast<float>(codes[i]); });
    }
    static Values from_book(const std::uint8_t* codes, Book book) {
        return each([&](int i) { return book[codes[i]]; });
    }
    static Values from_e4m3(const std::uint8_t* codes) {
        return each([&](int i) { return float_of_fp16(fp16_of_e4m3(codes[i])) * 256.0f; });
    }
    static Values from_e5m2(const std::uint8_t* codes) {
        return each([&](int i) { return float_of_fp16(fp16_of_e5m2(codes[i])); });
    }
    static Values load_bf16(const std::uint16_t* from) {
        return each([&](int i) { return float_of_bf16(from[i]); });
    }
    static Values load_fp16(const std::uint16_t* from) {
        return each([&](int i) { return float_of_fp16(from[i]); });
    }
    static void store_bf16(std::uint16_t* to, const Values& values) {
        for (int i = 0; i < kSide; ++i) to[i] = bf16_of_float(values.of[i]);
    }
    static void store_bf16_normal(std::uint16_t* to, const Values& values) { store_bf16(to, values); }
    static void store_fp16(std::uint16_t* to, const Values& values) {
        for (int i = 0; i < kSide; ++i) to[i] = fp16_of_float(values.of[i]);
    }
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
