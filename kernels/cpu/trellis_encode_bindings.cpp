// Python's way to the search for trellis codes: checks every length, then calls the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <string>
#include <vector>

#include "bindings.hpp"
#include "buffers.hpp"
#include "parallel.hpp"
#include "trellis.hpp"
#include "trellis_encode.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

// Tiles that a thread takes at a time: its tables are set up once for them.
constexpr std::int64_t kTilesAtOnce = 8;

void encode(const std::string& instruction_set, int bits, int window, int survivors, std::int64_t panels,
            std::int64_t tiles, const Buffer& wanted, const Buffer& found, const Buffer& codes, int threads) {
    const TrellisEncodeKernels kernels = TILEPRESS_KERNELS(trellis_encode, instruction_set);
    require(1 <= bits && bits <= 8 && 12 <= window && window <= 16 && survivors >= 0,
            "there is no trellis of these parameters");
    require(0 <= panels && panels <= kMost && 0 <= tiles && tiles <= kMost, "the matrix's shape is out of bounds");
    const std::int64_t values = kTrellisSteps * static_cast<std::int64_t>(sizeof(float));
    require(holds(wanted, panels, tiles, values) && holds(found, panels, tiles, values),
            "the values do not fit the matrix's shape");
    require(holds(codes, panels, tiles, 32 * bits), "the codes do not fit the matrix's shape");
    if (codes.second == 0) return;
    const nb::gil_scoped_release released;
    std::vector<float> book(std::size_t{1} << window);
    for (std::size_t state = 0; state < book.size(); ++state)
        book[state] = static_cast<float>(trellis_value(static_cast<std::uint32_t>(state)));
    const TrellisTarget target{reinterpret_cast<const float*>(wanted.first), reinterpret_cast<float*>(found.first),
                               reinterpret_cast<std::uint8_t*>(codes.first), tiles};
    parallel(panels * tiles, kTilesAtOnce, threads, [&](std::int64_t first, std::int64_t last) {
        kernels.encode({bits, window, survivors}, target, book.data(), {first, last});
    });
}

}  // namespace

void bind_trellis_encode(nb::module_& module) {
    module.def("trellis_encode", &encode, "instruction_set"_a, "bits"_a, "window"_a, "survivors"_a, "panels"_a,
               "tiles"_a, "wanted"_a, "found"_a, "codes"_a, "threads"_a,
               "Search codes of the float32 matrix `wanted`, in code units; write them, and what they decode to.");
}

}  // namespace tilepress
