// `lossless` for x86 processors with AVX2, FMA and F16C.
#include "avx2_floats.hpp"
#include "lossless_kernels.hpp"
#include "rans_avx2.hpp"

namespace tilepress {

LosslessKernels avx2_lossless_kernels() {
    return {decode_lossless<Avx2Floats, RansCodersAvx2>, x_in_float32<Avx2Floats>,
            multiply_lossless<Avx2Floats, RansCodersAvx2>};
}

}  // namespace tilepress
