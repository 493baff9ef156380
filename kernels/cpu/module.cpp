// The Python module `tilepress.kernels._native`.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "instruction_sets.hpp"

namespace nb = nanobind;

namespace tilepress {
namespace {

std::vector<std::string> instruction_sets() {
    std::vector<std::string> supported;
    for (std::size_t set = 0; set < kInstructionSetNames.size(); ++set)
        if (is_supported(static_cast<InstructionSet>(set))) supported.emplace_back(kInstructionSetNames[set]);
    return supported;
}

}  // namespace
}  // namespace tilepress

NB_MODULE(_native, module) {
    module.doc() = "Native kernels for tensors in main memory.";
    module.def("instruction_sets", &tilepress::instruction_sets,
               "Instruction sets that this machine can run, the slowest first.");
}
