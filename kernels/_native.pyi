"""Native kernels for tensors in main memory (built from kernels/cpu)."""

def instruction_sets() -> list[str]:
    """Instruction sets that this machine can run, the slowest first: portable, avx2, avx512."""
