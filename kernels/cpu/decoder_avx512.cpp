// The step of a decoder for x86 processors with AVX-512.
#include "avx512_floats.hpp"
#include "decoder_kernels.hpp"

namespace tilepress {

DecoderKernels avx512_decoder_kernels() {
    return decoder_kernels<Avx512Floats>();
}

}  // namespace tilepress
