// Encoding of `sz` for x86 processors with AVX-512: the coder is that of AVX2.
#include "rans_encode_avx2.hpp"
#include "sz_encode_tiles.hpp"

namespace tilepress {

SzEncodeKernels avx512_sz_encode_kernels() {
    return {encode_sz<RansPushersAvx2>};
}

}  // namespace tilepress
