// `lossless` for x86 processors with AVX-512.
#include "avx512_floats.hpp"
#include "lossless_kernels.hpp"
#include "rans_avx2.hpp"

namespace tilepress {

LosslessKernels avx512_lossless_kernels() {
    return {decode_lossless<Avx512Floats, RansCodersAvx2>, x_in_float32<Avx512Floats>,
            multiply_lossless<Avx512Floats, RansCodersAvx2>};
}

}  // namespace tilepress
