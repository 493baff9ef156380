// Attention for any processor: plain loops over 16 values, which compilers turn into what vectors there are.
#include "attention_kernels.hpp"
#include "portable_floats.hpp"

namespace tilepress {
namespace {

struct Portable : PortableFloats {
    using Packed = const std::uint8_t*;

    static Packed widen(const std::uint8_t* bytes) { return bytes; }
    template <int Bits, int Place>
    static Values field(Packed bytes) {
        return each([&](int i) { return static_cast<float>(bytes[i] >> (Bits * Place) & ((1 << Bits) - 1)); });
    }
    template <int Bits, int Number>
    static Values piece(const std::uint8_t* bytes) {
        return field<Bits, Number>(widen(bytes));
    }
    template <int, int Number>
    static void store_piece(float* to, std::int64_t step, const Values& values) {
        store(to + Number * step, values);
    }
    static Values e4m3_by_256(const std::uint8_t* codes) {
        return each([&](int i) {
            return float_of_fp16(static_cast<std::uint16_t>((codes[i] & 0x80) << 8 | (codes[i] & 0x7f) << 7));
        });
    }
};

}  // namespace

AttentionKernels portable_attention_kernels() {
    return attention_kernels<Portable>();
}

}  // namespace tilepress
