// The instruction sets that the kernels are compiled for.
#pragma once

#include <string>
#include <vector>

namespace tilepress {

// Those of "portable", "avx2" and "avx512" that the machine and its operating system can run, the slowest first.
std::vector<std::string> supported_instruction_sets();

}  // namespace tilepress
