// Encoding into fixed-rate tiles for x86 processors with AVX2, FMA and F16C, by the compiler's own vectors.
#include "tile_encode.hpp"

namespace tilepress {

TileEncoderKernels avx2_tile_encoder_kernels() {
    return {encode, largest};
}

}  // namespace tilepress
