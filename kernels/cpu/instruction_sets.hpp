// The instruction sets that the kernels are compiled for, and which of them this machine has.
#pragma once

#include <array>
#include <string_view>

namespace tilepress {

enum class InstructionSet { portable, avx2, avx512 };

constexpr std::array<std::string_view, 3> kInstructionSetNames = {"portable", "avx2", "avx512"};

// True where the machine and its operating system can run code of the set.
bool is_supported(InstructionSet set);

}  // namespace tilepress
