// zfp streams for x86 processors with AVX-512.
#include "avx512_floats.hpp"
#include "zfp_kernels.hpp"

namespace tilepress {

ZfpKernels avx512_zfp_kernels() {
    return zfp_kernels<Avx512Floats>();
}

}  // namespace tilepress
