// `sz` for x86 processors with AVX-512.
#include "avx512_floats.hpp"
#include "rans_avx2.hpp"
#include "sz_kernels.hpp"

namespace tilepress {

SzKernels avx512_sz_kernels() {
    return {decode_sz<Avx512Floats, RansCodersAvx2>, x_in_float32<Avx512Floats>,
            multiply_sz<Avx512Floats, RansCodersAvx2>};
}

}  // namespace tilepress
