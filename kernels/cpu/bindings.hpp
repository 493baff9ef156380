// Each family of kernels adds its functions to the Python module.
#pragma once

#include <nanobind/nanobind.h>

namespace tilepress {

void bind_attention(nanobind::module_& module);
void bind_decoder(nanobind::module_& module);
void bind_difference(nanobind::module_& module);
void bind_lossless(nanobind::module_& module);
void bind_lossless_encode(nanobind::module_& module);
void bind_sz(nanobind::module_& module);
void bind_sz_encode(nanobind::module_& module);
void bind_tile_encoders(nanobind::module_& module);
void bind_tiles(nanobind::module_& module);
void bind_trellis(nanobind::module_& module);
void bind_trellis_encode(nanobind::module_& module);
void bind_zfp(nanobind::module_& module);

}  // namespace tilepress
