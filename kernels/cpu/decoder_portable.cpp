// The step of a decoder for any processor.
#include "decoder_kernels.hpp"
#include "portable_floats.hpp"

namespace tilepress {

DecoderKernels portable_decoder_kernels() {
    return decoder_kernels<PortableFloats>();
}

}  // namespace tilepress
