"""What the instructions that device.cuh wraps do by NVIDIA's manual, and the kernels that ask a device for it.

The fragments are written down here from the formulas of the PTX ISA 8.8, section 9.7.14.5.8 (mma.m16n8k16) and
9.7.14.5.15 (ldmatrix), not from the emulator, which could share a mistake with the kernels.
"""

from __future__ import annotations

from pathlib import Path

import torch

from tilepress.kernels.cuda.launch import Launcher, Pointer
from tilepress.kernels.cuda.registry import Kernel

SOURCE = str(Path(__file__).parent / "instructions.cu")
LANES = 32


def _kernel(template: str, *arguments: str, shared_bytes: int = 0) -> Kernel:
    return Kernel(SOURCE, template, arguments, LANES, shared_bytes, 64)


MMA = {torch.float16: _kernel("mma_fragments", "Float16"), torch.bfloat16: _kernel("mma_fragments", "Bfloat16")}
MATRICES = _kernel("matrices", "Plain", shared_bytes=16 * LANES)
TRANSPOSED = _kernel("matrices", "Transposed", shared_bytes=16 * LANES)
WORDS = _kernel("words")
FLOATS = _kernel("floats")
KERNELS = [*MMA.values(), MATRICES, TRANSPOSED, WORDS, FLOATS]


def place_in_a(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element a_i of A: groupID or groupID + 8; threadID_in_group * 2 + (i & 1), + 8 from a_4 on."""
    group, thread = lane >> 2, lane % 4
    return (group if 0 <= i < 2 or 4 <= i < 6 else group + 8), thread * 2 + (i & 1) + (8 if i >= 4 else 0)


def place_in_b(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element b_i of B."""
    group, thread = lane >> 2, lane % 4
    return thread * 2 + (i & 1) + (8 if i >= 2 else 0), group


def place_in_sums(lane: int, i: int) -> tuple[int, int]:
    """Row and column of element c_i of C, and d_i of D."""
    group, thread = lane >> 2, lane % 4
    return (group if i < 2 else group + 8), thread * 2 + (i & 1)


def product(device: Launcher, place: str, dtype: torch.dtype, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """D of `mma` and A @ B + C, of integers small enough that both are exact."""
    generator = torch.Generator().manual_seed(seed)
    a, b, c = (torch.randint(-16, 17, shape, generator=generator).float() for shape in ((16, 16), (16, 8), (16, 8)))
    of_a = torch.stack([a[place_in_a(lane, i)] for lane in range(LANES) for i in range(8)]).to(dtype)
    of_b = torch.stack([b[place_in_b(lane, i)] for lane in range(LANES) for i in range(4)]).to(dtype)
    sums = torch.stack([c[place_in_sums(lane, i)] for lane in range(LANES) for i in range(4)]).to(place)
    _launch(device, MMA[dtype], of_a.to(place), of_b.to(place), sums)
    found = torch.empty(16, 8)
    for number, value in enumerate(sums.cpu().tolist()):
        found[place_in_sums(number // 4, number % 4)] = value
    return found, a @ b + c


def matrices(device: Launcher, place: str, seed: int, *, is_transposed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """What ldmatrix.x4 of rows in any order loads, and what the manual says: 16-bit elements [32, 8]."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-(1 << 15), 1 << 15, (LANES, 8), generator=generator, dtype=torch.int16)
    order = torch.randperm(LANES, generator=generator).int()
    loaded = torch.zeros(LANES, 8, dtype=torch.int16, device=place)
    _launch(device, TRANSPOSED if is_transposed else MATRICES, rows.to(place), order.to(place), loaded)
    # Threads 8 i to 8 i + 7 hold the addresses of the rows of matrix i; thread l gets elements 2 (l % 4) and the next
    # one of its row l / 4, or of its column l / 4 with .trans.
    of_matrices = rows[order.long()].view(4, 8, 8)
    if is_transposed:
        of_matrices = of_matrices.mT
    wanted = [of_matrices[:, lane // 4, 2 * (lane % 4) :][:, :2].flatten() for lane in range(LANES)]
    return loaded.cpu(), torch.stack(wanted)


def words(device: Launcher, place: str, operands: torch.Tensor) -> torch.Tensor:
    """int32 [32, 3] -> [32, 7]: prmt, a funnel shift, dp4a, two packed fma and two packed conversions."""
    results = torch.zeros(LANES, 7, dtype=torch.int32, device=place)
    _launch(device, WORDS, operands.to(place), results)
    return results.cpu()


def floats(device: Launcher, place: str, operands: torch.Tensor) -> torch.Tensor:
    """float32 [32, 2] -> [32, 5]: product, sum, difference, and the first one through float16 and bfloat16."""
    results = torch.zeros(LANES, 5, device=place)
    _launch(device, FLOATS, operands.to(place), results)
    return results.cpu()


def _launch(device: Launcher, kernel: Kernel, *tensors: torch.Tensor) -> None:
    device.launch(kernel, (1, 1), [Pointer(tensor) for tensor in tensors])


def check_fragments(device: Launcher, place: str) -> None:
    """`mma` and `ldmatrix` have the manual's fragments."""
    for seed in range(3):
        for dtype in MMA:
            found, wanted = product(device, place, dtype, seed)
            assert torch.equal(found, wanted)
        for is_transposed in (False, True):
            loaded, wanted = matrices(device, place, seed, is_transposed=is_transposed)
            assert torch.equal(loaded, wanted)


def check_words(device: Launcher, place: str) -> None:
    """Integer instructions give what the manual's definitions give."""
    operands = torch.randint(-(1 << 31), 1 << 31, (LANES, 3), generator=torch.Generator().manual_seed(1)).int()
    found = words(device, place, operands)
    lanes = zip((operands.long() & 0xFFFFFFFF).tolist(), (found.long() & 0xFFFFFFFF).tolist(), strict=True)
    for (a, b, c), row in lanes:
        of_both = (a | b << 32).to_bytes(8, "little")
        assert list(row[0].to_bytes(4, "little")) == [of_both[c >> 4 * i & 7] for i in range(4)]
        assert row[1] == ((b << 32 | a) >> (c & 31)) & 0xFFFFFFFF
        dot = sum(x * y for x, y in zip(a.to_bytes(4, "little"), b.to_bytes(4, "little"), strict=True))
        assert row[2] == (c + dot) & 0xFFFFFFFF


def check_packed(device: Launcher, place: str) -> None:
    """Packed arithmetic rounds once, to nearest and ties to even; the first operand is the lower half."""
    generator = torch.Generator().manual_seed(2)
    for column, dtype in ((3, torch.float16), (4, torch.bfloat16)):
        of_halves = (torch.randint(-64, 65, (LANES, 6), generator=generator) / 8).to(dtype)
        found = words(device, place, of_halves.view(torch.int32))[:, column].contiguous().view(dtype).view(LANES, 2)
        a, b, c = of_halves.double().view(LANES, 3, 2).unbind(1)
        assert torch.equal(found, (a * b + c).to(dtype))
    of_floats = torch.randn(LANES, 3, generator=generator) * 100
    of_floats[0, :2] = torch.tensor([1 + 2**-11, 1 + 3 * 2**-11])
    of_floats[1, :2] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8])
    found = words(device, place, of_floats.view(torch.int32))
    for column, dtype in ((5, torch.float16), (6, torch.bfloat16)):
        assert torch.equal(found[:, column].contiguous().view(dtype).view(LANES, 2), of_floats[:, :2].to(dtype))


def check_floats(device: Launcher, place: str) -> None:
    """Arithmetic of decoding keeps subnormal numbers, although kernels are compiled with -ftz=true."""
    operands = torch.randn(LANES, 2, generator=torch.Generator().manual_seed(3))
    operands[:8] *= 2.0**-126
    operands[8:16, 0] *= 2.0**-100
    operands[8:16, 1] *= 2.0**-30
    operands[16, 0] = 65520.0
    a, b = operands.unbind(1)
    found = floats(device, place, operands)
    for column, wanted in enumerate((a * b, a + b, a - b)):
        assert torch.equal(found[:, column], wanted), column
    assert torch.equal(found[:, 3], a.half().float())
    # Of bfloat16, subnormal numbers are not needed.
    assert torch.equal(found[8:, 4], a[8:].bfloat16().float())
