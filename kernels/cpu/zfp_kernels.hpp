// The kernels of zfp with a `Set` for conversions and products (product_values.hpp).
#pragma once

#include "panel_multiply.hpp"
#include "zfp_encode.hpp"
#include "zfp_source.hpp"
#include "zfp_stream.hpp"

namespace tilepress {
namespace {

template <class Set>
void decode_zfp(const ZfpPanels& weight, Range panels, const Dense& dense) {
    decode_panels<Set>(ZfpSource(weight, panels.last), panels, dense);
}

template <class Set>
void multiply_zfp(const ZfpPanels& weight, Range panels, const Product& product, const float* x) {
    multiply_panels<Set>(ZfpSource(weight, panels.last), panels, product, x);
}

template <class Set>
ZfpKernels zfp_kernels() {
    return {decode_stream<float>,  decode_stream<double>, encode_stream<float>,
            encode_stream<double>, encode_panel,          {decode_zfp<Set>, x_in_float32<Set>, multiply_zfp<Set>}};
}

}  // namespace
}  // namespace tilepress
