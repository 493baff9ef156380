// The step of a decoder for x86 processors with AVX2, FMA and F16C.
#include "avx2_floats.hpp"
#include "decoder_kernels.hpp"

namespace tilepress {

DecoderKernels avx2_decoder_kernels() {
    return decoder_kernels<Avx2Floats>();
}

}  // namespace tilepress
