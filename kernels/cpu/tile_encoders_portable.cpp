// Encoding into fixed-rate tiles for any processor, by the compiler's own vectors.
#include "tile_encode.hpp"

namespace tilepress {

TileEncoderKernels portable_tile_encoder_kernels() {
    return {encode, largest};
}

}  // namespace tilepress
