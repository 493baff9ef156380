"""Error feedback: never worse than GPTQ as its paper writes it, and far better than rounding."""

from __future__ import annotations

import pytest
import torch

from tilepress.compress.calibration.statistics import DAMPING, Statistics
from tilepress.compress.codecs import encode
from tilepress.compress.error_feedback import feed_back
from tilepress.kernels import CodecError, decode

FLOATING = ("nf4", "nf4:group=32", "fp8", "fp8:format=e5m2,group=48", "mxfp4", "nvfp4")
SPECS = ("int:bits=3,group=32", "int:bits=4,group=128", "int:bits=4,group=0", "int:bits=2,group=96,symmetric=false")


def correlated(columns: int, seed: int = 3, tokens: int = 400) -> torch.Tensor:
    """Second moments of inputs with strong correlations and a few large channels."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns // 4, columns, generator=generator) + 0.2
    inputs = torch.randn(tokens, columns // 4, generator=generator) @ mixing
    inputs += 0.5 * torch.randn(tokens, columns, generator=generator)
    inputs[:, :3] *= 10
    return inputs.T @ inputs / tokens


def output_error(weight: torch.Tensor, coded: torch.Tensor, moments: torch.Tensor) -> float:
    difference = (weight - coded).double()
    return float(torch.einsum("ij,jk,ik->", difference, moments.double(), difference))


def gptq_of_the_paper(weight: torch.Tensor, moments: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Frantar et al. 2022, algorithm 1, column by column with symmetric groups, in float64 and nothing else."""
    weight = weight.double().clone()
    columns = weight.shape[1]
    damped = moments.double() + DAMPING * moments.double().diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    coded = torch.zeros_like(weight)
    half = 2 ** (bits - 1)
    for j in range(columns):
        if j % (group or columns) == 0:
            of_group = weight[:, j : j + (group or columns)]
            extreme = of_group.gather(1, of_group.abs().argmax(1, keepdim=True))[:, 0]
            scale = -extreme / half
        coded[:, j] = scale * (weight[:, j] / scale).round().clamp(-half, half - 1)
        error = (weight[:, j] - coded[:, j]) / upper[j, j]
        weight[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
    return coded


@pytest.mark.parametrize(("bits", "group"), ((4, 128), (3, 32), (4, 0), (2, 64)))
@pytest.mark.parametrize("shape", ((33, 160), (16, 256)))
def test_error_is_no_larger_than_that_of_gptq_as_its_paper_writes_it(
    bits: int, group: int, shape: tuple[int, int]
) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    moments = correlated(shape[1])
    ours = decode(encode(weight, f"int:bits={bits},group={group}", Statistics(moments)))
    theirs = gptq_of_the_paper(weight, moments, bits, group)
    assert output_error(weight, ours, moments) <= 1.005 * output_error(weight, theirs, moments)


@pytest.mark.parametrize("spec", (*SPECS, *FLOATING, "trellis:bits=3", "trellis:bits=2,window=12"))
@pytest.mark.parametrize("shape", ((1, 64), (48, 100), (17, 16), (5, 3, 131)))
def test_feedback_beats_rounding_of_every_codec_and_shape(spec: str, shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    moments = correlated(shape[-1])
    plain = decode(encode(weight, spec)).reshape(-1, shape[-1])
    fed_back = decode(encode(weight, spec, Statistics(moments))).reshape(-1, shape[-1])
    matrix = weight.reshape(-1, shape[-1])
    # Nothing comes after the one strip of 16 columns that a trellis codes at once.
    share = 1.001 if spec.startswith("trellis") and shape[-1] <= 16 else 0.8
    assert output_error(matrix, fed_back, moments) < share * output_error(matrix, plain, moments)


@pytest.mark.parametrize("spec", SPECS)
def test_unrelated_inputs_leave_nothing_to_feed_back_but_better_scales(spec: str) -> None:
    weight = torch.randn(32, 192, generator=torch.Generator().manual_seed(4))
    plain = decode(encode(weight, spec))
    searched = decode(encode(weight, spec, Statistics(torch.eye(192))))
    assert (searched - weight).square().sum() < (plain - weight).square().sum()


class Halves:
    """Rounds strips of any width to multiples of 1/2, and remembers what it saw."""

    def __init__(self, step: int, group: int) -> None:
        self.step, self.group = step, group
        self.groups: list[torch.Tensor] = []
        self.strips: list[torch.Tensor] = []

    def begin_group(self, values: torch.Tensor, importance: torch.Tensor) -> None:
        assert values.shape[0] == importance.shape[0]
        self.groups.append(values.clone())

    def quantize(self, values: torch.Tensor) -> torch.Tensor:
        self.strips.append((values * 2).round() / 2)
        return self.strips[-1]


def test_a_group_is_seen_as_the_columns_before_it_have_left_it() -> None:
    weight = torch.randn(4, 320, generator=torch.Generator().manual_seed(5))
    factor = Statistics(correlated(320)).factor
    damped = torch.linalg.inv(factor.double().T @ factor.double())
    for group in (16, 48, 96, 128, 160, 320):
        quantizer = Halves(1, group)
        feed_back(weight, factor, quantizer)
        coded = torch.cat(quantizer.strips).T
        for number, seen in enumerate(quantizer.groups):
            begin = number * group
            # The best that the columns from here on can do about the errors of those before, by least squares.
            tail, cross = damped[begin:, begin:], damped[:begin, begin:]
            best = weight.double()[:, begin:] + (weight - coded).double()[:, :begin] @ cross @ torch.linalg.inv(tail)
            assert torch.allclose(seen.T.double(), best[:, : seen.shape[0]], atol=2e-3)


def test_strips_lose_little_against_single_columns() -> None:
    weight = torch.randn(24, 192, generator=torch.Generator().manual_seed(6))
    moments = correlated(192)
    errors = {}
    for step in (1, 4, 16):
        quantizer = Halves(step, 0)
        feed_back(weight, Statistics(moments).factor, quantizer)
        errors[step] = output_error(weight, torch.cat(quantizer.strips).T, moments)
    plain = output_error(weight, (weight * 2).round() / 2, moments)
    assert errors[1] <= errors[4] <= errors[16] < 0.5 * plain


def test_inputs_that_never_occur_and_single_tokens_are_no_obstacle() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(7))
    token = torch.randn(64, generator=torch.Generator().manual_seed(8))
    token[10:20] = 0
    for moments in (torch.outer(token, token), torch.zeros(64, 64)):
        assert torch.isfinite(decode(encode(weight, "int:bits=4", Statistics(moments)))).all()


def test_statistics_of_another_width_are_refused() -> None:
    with pytest.raises(CodecError, match="64 inputs, but the matrix has 32 columns"):
        encode(torch.zeros(16, 32), "int:bits=4", Statistics(torch.eye(64)))
