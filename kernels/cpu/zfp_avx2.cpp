// zfp streams for x86 processors with AVX2, FMA, F16C and BMI2.
#include "avx2_floats.hpp"
#include "zfp_kernels.hpp"

namespace tilepress {

ZfpKernels avx2_zfp_kernels() {
    return zfp_kernels<Avx2Floats>();
}

}  // namespace tilepress
