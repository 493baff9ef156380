// From codes of tiles to what tensor cores multiply: A fragments of mma.m16n8k16, exact and unscaled.
#pragma once

#include "small_floats.cuh"

namespace tilepress {

// From codes to A fragments, unscaled, in `kParts` parts.
template <class Code, class Dtype>
struct Unpacker {
    using Element = typename Dtype::Element;
    static constexpr int kParts = Code::kFitsElement ? 1 : Dtype::kParts == 1 ? 2 : 3;

    // The parts of each value of a book: the first two of code c in word c, the third in word 16 + c.
    struct Book {
        u32 words[kParts == 3 ? 32 : 16];
    };
    const Book* book;
    // What is added to the integers of rows g and g + 8, twice in a register or as float32.
    u32 addends[2];
    float float_addends[2];

    // Otherwise values are computed from codes, exactly.
    static constexpr bool kIsBook = Code::kIsBook && !Code::kFitsElement;
    static constexpr bool kIsSmall = Code::kIsInteger && Code::kBits <= Element::kIntegerBits;

    // By 16 threads of a block.
    static TILEPRESS_DEVICE void fill(Book& book, int code) {
        if constexpr (kIsBook) {
            float parts[kParts];
            cut<Element>(Code::book(code), parts);
            book.words[code] = Element::pair(parts[0], kParts > 1 ? parts[kParts > 1] : 0.0f);
            if constexpr (kParts == 3) book.words[16 + code] = Element::pair(parts[2], 0.0f);
        }
    }

    TILEPRESS_DEVICE void set_zero(int half, float zero) {
        if constexpr (kIsSmall) {
            // Exact where the zero point is a code: at most 128 + 127 in bfloat16.
            const float addend = -zero - Element::load(Element::kInteger);
            addends[half] = Element::pair(addend, addend);
        } else {
            float_addends[half] = -zero - 8388608.0f;
        }
    }

    // Two codes, bytes 2 i and 2 i + 1 of a word, of row g + 8 half.
    TILEPRESS_DEVICE void pair(u32 word, int i, int half, u32 (&parts)[kParts]) const {
        if constexpr (kIsSmall) {
            constexpr u32 integer = Element::kInteger >> 8;
            const u32 both = select_bytes(word, integer, i == 0 ? 0x4140u : 0x4342u);
            parts[0] = Element::multiply_add(both, Element::kOnes, addends[half]);
        } else if constexpr (Code::kIsInteger) {
            // 2^23 + code in float32; what is left after the addition fits into the upper 16 bits.
            const float first = float_of_bits(select_bytes(word, 0x4b000000u, i == 0 ? 0x7440u : 0x7442u));
            const float second = float_of_bits(select_bytes(word, 0x4b000000u, i == 0 ? 0x7441u : 0x7443u));
            parts[0] = select_bytes(bits_of_float(first + float_addends[half]),
                                    bits_of_float(second + float_addends[half]), 0x7632u);
        } else if constexpr (kIsBook) {
            const u32 first = word >> (16 * i) & 255u, second = word >> (16 * i + 8) & 255u;
            const u32 a = book->words[first], b = book->words[second];
            parts[0] = select_bytes(a, b, 0x5410u);
            if constexpr (kParts > 1) parts[1] = select_bytes(a, b, 0x7632u);
            if constexpr (kParts > 2)
                parts[2] = select_bytes(book->words[16 + first], book->words[16 + second], 0x5410u);
        } else if constexpr (SmallFloats<Code, Element>::kIsKnown) {
            parts[0] = SmallFloats<Code, Element>::pair(select_bytes(word, 0u, i == 0 ? 0x1404u : 0x3424u));
        } else {
            parts[0] = Element::pair(Code::value(word >> (16 * i) & 255u), Code::value(word >> (16 * i + 8) & 255u));
        }
    }

    // Codes of rows g and g + 8, the same four columns of each, as bytes -> the fragments.
    TILEPRESS_DEVICE void operator()(u32 upper, u32 lower, u32 (&a)[kParts][4]) const {
        if constexpr (Code::kIsBook && !kIsBook) {
            e2m1_fragment<Element>(upper, lower, a[0]);
        } else {
            for (int i = 0; i < 4; ++i) {
                u32 parts[kParts];
                pair(i % 2 == 0 ? upper : lower, i / 2, i % 2, parts);
                for (int part = 0; part < kParts; ++part) a[part][i] = parts[part];
            }
        }
    }
};

}  // namespace tilepress
