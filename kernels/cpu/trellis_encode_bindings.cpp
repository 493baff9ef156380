// Python's way to the search for trellis codes: checks every length, then calls the kernels.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <algorithm>
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
#include "trellis_price.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

// Tiles that a thread takes at a time: strips have few, and all threads should be busy.
constexpr std::int64_t kTilesAtOnce = 1;

// Memory to search in, for each thread of a team.
class Workspaces {
public:
    Workspaces(std::size_t values, std::int64_t threads) : idle_(static_cast<std::size_t>(threads)) {
        for (Workspace& workspace : idle_) workspace.reset(::operator new(values * sizeof(std::uint16_t), kAlignment));
    }

    template <class Function>
    void lend(Function function) {
        Workspace workspace = take();
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

    Workspace take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        Workspace workspace = std::move(idle_.back());
        idle_.pop_back();
        return workspace;
    }

    std::mutex mutex_;
    std::vector<Workspace> idle_;
};

// Whether following some of the paths would take longer than all, as measured.
bool is_exact_quicker(const TrellisSearch& search) {
    const std::int64_t memories = std::int64_t{1} << (search.window - search.bits);
    const std::int64_t vectors = search.bits < 4 ? 1 : std::int64_t{1} << (search.bits - 4);
    const std::int64_t work = 16 * search.survivors * (2 + vectors) + 2 * memories;
    return memories < 64 || work > std::int64_t{1} << search.window;
}

// Enough for each kind of search.
std::size_t workspace_values(const TrellisSearch& search) {
    const std::size_t memories = std::size_t{1} << (search.window - search.bits);
    return (2 * (kTrellisSteps + 1) + 1) * memories + (std::size_t{1} << search.window) + 128;
}

std::unique_ptr<const TrellisBook> make_book(int bits) {
    constexpr float kUnits[] = {1.0f / 4.0f, 1.0f / 2.0f, 2.0f / 3.0f, 1.0f, 2.0f, 4.0f, 8.0f, 8.0f};
    auto book = std::make_unique<TrellisBook>();
    book->units = kUnits[bits - 1];
    const float longest = 2.0f * kTrellisOffset * book->units + 2.0f;
    book->longest = static_cast<std::uint16_t>(bits < kFineBits ? longest : std::min(longest, kLongest));
    book->bend = static_cast<std::uint16_t>(0xffff / book->longest);
    for (std::uint32_t state = 0; state < 1u << 16; ++state)
        book->values[state] = in_units(*book, static_cast<float>(trellis_value(state)));
    return book;
}

// Made once and kept: error feedback along rows searches tile by tile, which takes hardly longer than making a book.
const TrellisBook& book_of(int bits) {
    static std::once_flag made[8];
    static std::unique_ptr<const TrellisBook> books[8];
    std::call_once(made[bits - 1], [&] { books[bits - 1] = make_book(bits); });
    return *books[bits - 1];
}

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
    TrellisSearch search{bits, window, survivors};
    if (is_exact_quicker(search)) search.survivors = 0;
    const TrellisBook& book = book_of(bits);
    Workspaces workspaces(workspace_values(search), std::min<std::int64_t>(std::max(threads, 1), panels * tiles));
    const TrellisTarget target{reinterpret_cast<const float*>(wanted.first), reinterpret_cast<float*>(found.first),
                               reinterpret_cast<std::uint8_t*>(codes.first), tiles};
    parallel(panels * tiles, kTilesAtOnce, threads, [&](std::int64_t first, std::int64_t last) {
        workspaces.lend(
            [&](std::uint16_t* workspace) { kernels.encode(search, target, book, workspace, {first, last}); });
    });
}

}  // namespace

void bind_trellis_encode(nb::module_& module) {
    module.def("trellis_encode", &encode, "instruction_set"_a, "bits"_a, "window"_a, "survivors"_a, "panels"_a,
               "tiles"_a, "wanted"_a, "found"_a, "codes"_a, "threads"_a,
               "Search codes of the float32 matrix `wanted`, in code units; write them, and what they decode to.");
}

}  // namespace tilepress
