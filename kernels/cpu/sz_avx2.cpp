// `sz` for x86 processors with AVX2, FMA and F16C.
#include "avx2_floats.hpp"
#include "rans_avx2.hpp"
#include "sz_kernels.hpp"

namespace tilepress {

SzKernels avx2_sz_kernels() {
    return {decode_sz<Avx2Floats, RansCodersAvx2>, x_in_float32<Avx2Floats>, multiply_sz<Avx2Floats, RansCodersAvx2>};
}

}  // namespace tilepress
