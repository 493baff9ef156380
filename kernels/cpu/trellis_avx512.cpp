// Kernels for trellis codes on x86 processors with AVX-512, which runs the kernels of AVX2.
#include "avx2_trellis.hpp"
#include "trellis_rotation.hpp"

namespace tilepress {

TrellisKernels avx512_trellis_kernels() {
    return {decode<Avx2Trellis>, multiply<Avx2Trellis>, rotate_row<Avx2Trellis>, rotate_lines<Avx2Trellis>};
}

}  // namespace tilepress
