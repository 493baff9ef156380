// The Python module `tilepress.kernels._native`. Tensors come as addresses and lengths in bytes, see buffers.hpp.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings.hpp"
#include "instruction_sets.hpp"

NB_MODULE(_native, module) {
    module.doc() = "Native kernels for tensors in main memory.";
    module.def("instruction_sets", &tilepress::supported_instruction_sets,
               "Instruction sets that this machine can run, the slowest first.");
    // First, because of the class of weights that others make.
    tilepress::bind_decoder(module);
    tilepress::bind_attention(module);
    tilepress::bind_difference(module);
    tilepress::bind_lossless(module);
    tilepress::bind_lossless_encode(module);
    tilepress::bind_sz(module);
    tilepress::bind_sz_encode(module);
    tilepress::bind_tile_encoders(module);
    tilepress::bind_tiles(module);
    tilepress::bind_trellis(module);
    tilepress::bind_trellis_encode(module);
    tilepress::bind_zfp(module);
}
