// Python's way to the search for trellis codes: checks every length, then calls the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <utility>
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

// Tiles that a thread takes at a time: strips have few, and all threads should be busy.
constexpr std::int64_t kTilesAtOnce = 1;

// Memory to search in, for as many threads as ask at once.
class Workspaces {
public:
    explicit Workspaces(std::size_t size) : size_(size * sizeof(std::uint16_t)) {}

    template <class Function>
    void lend(Function function) {
        Workspace workspace;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!idle_.empty()) {
                workspace = std::move(idle_.back());
                idle_.pop_back();
            }
        }
        if (!workspace) workspace.reset(::operator new(size_, kAlignment));
        function(static_cast<std::uint16_t*>(workspace.get()));
        const std::lock_guard<std::mutex> lock(mutex_);
        idle_.push_back(std::move(workspace));
    }

private:
    static constexpr std::align_val_t kAlignment{64};
    struct Release {
        void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
    };
    using Workspace = std::unique_ptr<void, Release>;

    std::size_t size_;
    std::mutex mutex_;
    std::vector<Workspace> idle_;
};

void encode(const std::string& instruction_set, int bits, int window, int survivors, std::int64_t panels,
            std::int64_t tiles, const Buffer& wanted, const Buffer& found, const Buffer& codes, int threads) {
    const TrellisEncodeKernels kernels = TILEPRESS_KERNELS(trellis_encode, instruction_set);
    require(1 <= bits && bits <= 8 && 12 <= window && window <= 16 && 0 <= survivors && survivors <= 1 << 16,
            "there is no trellis of these parameters");
    require(0 <= panels && panels <= kMost && 0 <= tiles && tiles <= kMost, "the matrix's shape is out of bounds");
    const std::int64_t values = kTrellisSteps * static_cast<std::int64_t>(sizeof(float));
    require(holds(wanted, panels, tiles, values) && holds(found, panels, tiles, values),
            "the values do not fit the matrix's shape");
    require(holds(codes, panels, tiles, 32 * bits), "the codes do not fit the matrix's shape");
    if (codes.second == 0) return;
    const nb::gil_scoped_release released;
    const TrellisSearch search{bits, window, survivors};
    const auto book = std::make_unique<const TrellisBook>(bits);
    Workspaces workspaces(search.workspace_size());
    const TrellisTarget target{reinterpret_cast<const float*>(wanted.first), reinterpret_cast<float*>(found.first),
                               reinterpret_cast<std::uint8_t*>(codes.first), tiles};
    parallel(panels * tiles, kTilesAtOnce, threads, [&](std::int64_t first, std::int64_t last) {
        workspaces.lend(
            [&](std::uint16_t* workspace) { kernels.encode(search, target, *book, workspace, {first, last}); });
    });
}

}  // namespace

void bind_trellis_encode(nb::module_& module) {
    module.def("trellis_encode", &encode, "instruction_set"_a, "bits"_a, "window"_a, "survivors"_a, "panels"_a,
               "tiles"_a, "wanted"_a, "found"_a, "codes"_a, "threads"_a,
               "Search codes of the float32 matrix `wanted`, in code units; write them, and what they decode to.");
}

}  // namespace tilepress
