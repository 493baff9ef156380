// The binding of difference.hpp.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <string>
#include <tuple>

#include "bindings.hpp"
#include "buffers.hpp"
#include "difference.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tilepress {
namespace {

std::tuple<double, double, double> measure(const Buffer& truth, const Buffer& found, const std::string& dtype) {
    const Dtype of_values = dtype_named(dtype);
    const std::int64_t size = size_of(of_values);
    require(truth.second >= 0 && truth.second % size == 0 && truth.second == found.second,
            "two tensors of different size can't be compared");
    const nb::gil_scoped_release released;
    const Difference all = difference(reinterpret_cast<const void*>(truth.first),
                                      reinterpret_cast<const void*>(found.first), of_values, truth.second / size);
    return {all.largest, all.squares, all.energy};
}

}  // namespace

void bind_difference(nb::module_& module) {
    module.def("difference", &measure, "truth"_a, "found"_a, "dtype"_a,
               "Largest magnitude and sum of squares of the differences, and sum of squares of the true values.");
}

}  // namespace tilepress
