// Kernels for trellis codes on x86 processors with AVX2, FMA and F16C.
#include "avx2_trellis.hpp"
#include "trellis_rotation.hpp"

namespace tilepress {

TrellisKernels avx2_trellis_kernels() {
    return {decode<Avx2Trellis>, multiply<Avx2Trellis>, rotate_row<Avx2Trellis>, rotate_lines<Avx2Trellis>};
}

}  // namespace tilepress
