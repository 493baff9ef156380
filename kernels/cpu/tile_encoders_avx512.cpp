// Encoding into fixed-rate tiles for x86 processors with AVX-512, by the compiler's own vectors.
#include "tile_encode.hpp"

namespace tilepress {

TileEncoderKernels avx512_tile_encoder_kernels() {
    return {encode, largest};
}

}  // namespace tilepress
