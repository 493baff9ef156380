// The step of a pre-norm decoder from one token to the next: what the kernels of every instruction set take and offer.
//
//     h = embedding of the token
//     in each layer   h += output(attention(rotary(norm(query(x))), rotary(norm(key(x))), value(x))), x = norm(h)
//                     h += down(activation(gate(x)) * up(x)), x = norm(h)
//     logits = head(norm(h))
//
// Norms divide by the root mean square; those of queries and keys are left out where a model has none. What each of
// these names makes is rounded to the model's dtype, as PyTorch's operators round it.
#pragma once

#include <cstdint>

#include "panels.hpp"

namespace tilepress {

enum class Activation { silu, gelu, gelu_tanh };

struct DenseMatrix {
    const void* values;  // [rows][columns]
    Dtype dtype;
    std::int64_t rows;
    std::int64_t columns;
};

// All values are of `dtype`.
struct DecoderKernels {
    // values += addend
    void (*add)(Dtype dtype, std::int64_t count, const void* addend, void* values);
    // y = x / sqrt(mean square + epsilon) * weight; y may be x.
    void (*normalize)(Dtype dtype, std::int64_t count, const void* x, const void* weight, float epsilon, void* y);
    // x = x * cosines + (minus the second half, then the first half of x) * sines
    void (*rotate)(Dtype dtype, std::int64_t count, const void* cosines, const void* sines, void* x);
    // y = activation(gate) * up
    void (*activate)(Activation activation, Dtype dtype, std::int64_t count, const void* gate, const void* up, void* y);
    // What attention.hpp calls partials, of one row and `spans` spans that lie `step` floats apart: the result.
    void (*merge)(Dtype dtype, std::int64_t count, const float* partials, std::int64_t spans, std::int64_t step,
                  void* result);
    PanelKernels<DenseMatrix> dense;
};

DecoderKernels portable_decoder_kernels();
DecoderKernels avx2_decoder_kernels();
DecoderKernels avx512_decoder_kernels();

}  // namespace tilepress
