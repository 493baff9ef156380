"""Encoder of `trellis`: rotate, scale each row, search the trellis of each tile.

The steps are offered one by one, since error feedback quantizes a strip of 16 columns at a time and moves what the
codes missed to the columns that follow:

    basis = Basis.of(shape, params)
    rotated = basis.rotate_weight(weight)                   [rows, columns], padded to whole tiles
    moments = basis.rotate_moments(second_moments)          of the layer's input
    scales = choose_scales(rotated, params)                 bfloat16 [rows]
    codes, values = quantize_strip(strip, scales, params)   for each 16 columns, from left to right
    encoded = assemble(codes of all strips, scales, basis, params, shape, dtype)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tilepress.compress.calibration.statistics import OUTPUT_DAMPING, Statistics, factor_of
from tilepress.compress.codecs.groups import divide
from tilepress.compress.codecs.panels import as_matrix, require_finite
from tilepress.compress.error_feedback import feed_back
from tilepress.kernels import PANEL_ROWS, BackendError, CodecError, Encoded
from tilepress.kernels.layout.trellis import CODE_SPREAD, TrellisParams, padded_shape
from tilepress.kernels.params import Shape
from tilepress.kernels.reference.rotation import rotate

USES_STATISTICS = True
USES_OUTPUTS = True

LARGEST = 2.0**96
"""Largest magnitude that can be encoded: sums of squares of rotated rows must stay finite in float64."""

SURVIVORS = {
    "fast": (192, 192, 192, 192, 128, 96, 64, 64),
    "normal": (512, 512, 512, 448, 288, 160, 128, 96),
    "exact": (0,) * 8,
}
"""Paths that the search follows at each step, about, for 1 to 8 bits by effort; 0 for all. The fewer values a path can
go on to, the more of them it takes; those of `normal` lose about 0.03 bit."""

_SPREADS = (146.0, 142.0, 138.0, 134.0, 130.0, 126.0, 122.0, 118.0, 114.0, 109.0, 104.0, 98.0, 88.0, 76.0, 60.0, 45.0)
"""Root mean squares that are tried for a row, in units of the code's integers, whose own is 147.8."""

_REACH = (385.0, 390.0, 385.0, 410.0, 425.0, 435.0, 440.0, 440.0)
"""How far codes reach, for 1 to 8 bits, in the same units; few of the 65,536 states go beyond, which matters the more,
the fewer follow each other. Fitted to searches of normally distributed rows, whole or without their tails."""

_ERRORS = {1: 0.2787, 2: 0.0721, 3: 0.01838, 4: 0.00472, 5: 0.001223, 6: 3.19e-4, 7: 8.23e-5, 8: 2.09e-5}
"""Mean squared error over mean square, by bits, of normally distributed values with a window of 16 at normal effort."""


def expected_error(params: TrellisParams) -> float | None:
    """Mean squared error over mean square of any tensor: rotated, all are distributed alike (see `_ERRORS`).

    Without a rotation, and with other windows and efforts, it has to be measured.
    """
    is_usual = params.window == 16 and params.effort == "normal" and params.rotate != "none"
    return _ERRORS[params.bits] if is_usual else None


@dataclass(frozen=True)
class Basis:
    """The rotated basis in which one tensor is quantized; a side that isn't rotated has no signs."""

    row_signs: torch.Tensor | None
    column_signs: torch.Tensor | None

    @classmethod
    def of(cls, shape: Shape, params: TrellisParams) -> Basis:
        """The basis for a tensor of this shape, always the same: equal sides get equal signs."""
        rows, columns = padded_shape(shape)
        sides = params.sides(shape)
        return cls(_signs(rows, 1) if sides.rows else None, _signs(columns, 0) if sides.columns else None)

    def rotate_weight(self, weight: torch.Tensor) -> torch.Tensor:
        """[rows, columns] of float32 or float64 -> the same in the rotated basis, padded with zeros to whole tiles."""
        rows, columns = weight.shape
        rotated = torch.nn.functional.pad(weight, (0, -columns % PANEL_ROWS, 0, -rows % PANEL_ROWS))
        if self.column_signs is not None:
            rotated = rotate(rotated, self.column_signs)
        if self.row_signs is not None:
            rotated = rotate(rotated.T, self.row_signs).T.contiguous()
        return rotated

    def rotate_moments(self, moments: torch.Tensor) -> torch.Tensor:
        """Second moments of inputs, [columns, columns], float32 or float64 -> those of rotated inputs, padded."""
        return _rotate_moments(moments, self.column_signs)

    def rotate_outputs(self, moments: torch.Tensor) -> torch.Tensor:
        """Second moments of gradients at outputs, [rows, rows] -> those at rotated outputs, padded."""
        return _rotate_moments(moments, self.row_signs)


def choose_scales(rotated: torch.Tensor, params: TrellisParams) -> torch.Tensor:
    """Scales of the rows of a rotated matrix [rows, columns], for the least mean squared error: bfloat16 [rows].

    A row of spread S (its root mean square in units) has about the error of random codes that are normally distributed
    with spread C, 4^-bits exp((S / C)^2 - 1) (C / S)^2 of its energy, and what lies beyond the reach of the codes. So
    rows without outliers get smaller scales than others.
    """
    energy = rotated.double().square().mean(dim=1)
    rms = energy.sqrt()
    outermost = rotated.abs().topk(rotated.shape[1] // 32 + 1, dim=1).values.double()
    least, scales = torch.full_like(rms, torch.inf), rms
    for spread in _SPREADS:
        scale = rms / spread
        shape = (spread / CODE_SPREAD) ** 2
        within = 4.0**-params.bits * math.exp(shape - 1) / shape
        beyond = (outermost - scale[:, None] * _REACH[params.bits - 1]).clamp_(min=0).square_().sum(
            dim=1
        ) / rotated.shape[1]
        error = energy * within + beyond
        scales = torch.where(error < least, scale, scales)
        least = torch.minimum(error, least)
    return scales.bfloat16()


def quantize_strip(
    strip: torch.Tensor, scales: torch.Tensor, params: TrellisParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """Search codes for whole tiles of a rotated matrix.

    Args:
        strip: float32 [rows, columns], multiples of 16; error feedback passes 16 columns.
        scales: bfloat16 [rows].
        params: of the codec.

    Returns:
        codes: uint8 [rows / 16, columns / 16, 32 bits].
        values: float32 [rows, columns], what the codes decode to, still in the rotated basis.

    Raises:
        BackendError: the native kernels are not built.
    """
    scale = scales.float()[:, None]
    codes, integers = _search(divide(strip, scale), params)
    return codes, integers.mul_(scale)


def _search(wanted: torch.Tensor, params: TrellisParams) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        from tilepress.kernels.cpu.trellis_search import search
    except ImportError:
        raise BackendError("the codec trellis can't be encoded: the native kernels are not built") from None
    return search(wanted, params.bits, params.window, SURVIVORS[params.effort][params.bits - 1])


def assemble(
    codes: Sequence[torch.Tensor],
    scales: torch.Tensor,
    basis: Basis,
    params: TrellisParams,
    shape: Shape,
    dtype: torch.dtype,
) -> Encoded:
    """The encoded tensor.

    Args:
        codes: of the strips, from left to right, as `quantize_strip` gives them.
        scales: bfloat16 [rows], as `choose_scales` gives them.
        basis: in which the strips were quantized.
        params: of the codec.
        shape: of the tensor that went in.
        dtype: likewise.
    """
    parts = {
        "codes": torch.cat(list(codes), dim=1),
        "scales": scales.reshape(-1, PANEL_ROWS),
        "column_signs": basis.column_signs,
        "row_signs": basis.row_signs,
    }
    return Encoded(params, shape, dtype, {name: part for name, part in parts.items() if part is not None})


class _Strips:
    """Codes strips of 16 columns for `error_feedback`, and with a factor of the outputs feeds back along rows, too.

    Whatever the strip, an error e in the rows of a panel is made up for by later rows as `error_feedback` has it for
    columns: with U the factor, they are to have (U_panel^-1 U_panel,later)^T e less.
    """

    step = PANEL_ROWS
    group = 0

    def __init__(self, params: TrellisParams, output_factor: torch.Tensor | None) -> None:
        self._params, self._output_factor = params, output_factor
        self._shares: torch.Tensor | None = None
        self.scales = torch.empty(0)
        self.codes: list[torch.Tensor] = []

    def begin_group(self, values: torch.Tensor, importance: torch.Tensor) -> None:
        """Choose the scales of the rows; the rotation has made all columns of about equal importance."""
        self.scales = choose_scales(values.T, self._params)
        if self._output_factor is not None:
            self._shares = _shares(self._output_factor, self.scales.float())

    def quantize(self, values: torch.Tensor) -> torch.Tensor:
        """Code a strip [16, rows], and return what it decodes to."""
        strip = values.T.contiguous()
        if self._shares is None:
            codes, decoded = quantize_strip(strip, self.scales, self._params)
        else:
            codes, decoded = _quantize_panels(strip, self.scales, self._shares, self._params)
        self.codes.append(codes)
        return decoded.T


def _shares(factor: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """What each row makes up of errors in each panel's rows, in units of scales: [panels, rows, 16]."""
    rows = len(factor)
    of_panels = factor.reshape(-1, PANEL_ROWS, rows)
    own = torch.stack([of_panels[i, :, i * PANEL_ROWS : (i + 1) * PANEL_ROWS] for i in range(len(of_panels))])
    shares = torch.linalg.solve(own, of_panels) * scales.reshape(-1, PANEL_ROWS, 1)
    return divide(shares, scales).transpose(1, 2).contiguous()


def _quantize_panels(
    strip: torch.Tensor, scales: torch.Tensor, shares: torch.Tensor, params: TrellisParams
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `quantize_strip`, panel by panel, with what a panel has missed taken out of those below it."""
    scale = scales.float()[:, None]
    wanted = divide(strip, scale)
    found = torch.empty_like(wanted)
    codes = []
    for panel, share in enumerate(shares):
        first, last = panel * PANEL_ROWS, (panel + 1) * PANEL_ROWS
        of_panel, found[first:last] = _search(wanted[first:last], params)
        codes.append(of_panel)
        missed = wanted[first:last] - found[first:last]
        wanted[last:].addmm_(share[last:], missed, alpha=-1)
    return torch.cat(codes), found.mul_(scale)


def encode(weight: torch.Tensor, params: TrellisParams, statistics: Statistics | None = None) -> Encoded:
    """Quantize to the least mean squared error; with error feedback, strip by strip, where statistics are given.

    Raises:
        CodecError: NaN, infinite or enormous values, a dtype that can't be compressed, or statistics of other inputs.
        BackendError: the native kernels are not built.
    """
    matrix = as_matrix(weight)
    require_finite(matrix, params.codec)
    if matrix.numel() and matrix.abs().max() > LARGEST:
        raise CodecError(f"codec trellis has no code for values beyond {LARGEST:g}; give this tensor another codec")
    if statistics is not None and statistics.columns != matrix.shape[1]:
        raise CodecError(f"the statistics are of {statistics.columns} inputs, not {matrix.shape[1]}")
    if statistics is not None and statistics.outputs is not None and len(statistics.outputs) != matrix.shape[0]:
        raise CodecError(f"the statistics are of {len(statistics.outputs)} outputs, not {matrix.shape[0]}")
    shape = tuple(weight.shape)
    basis = Basis.of(shape, params)
    rows, columns = padded_shape(shape)
    if not rows or not columns:
        codes = torch.zeros(params.part_specs(shape, weight.dtype)["codes"].shape, dtype=torch.uint8)
        return assemble([codes], torch.zeros(rows, dtype=torch.bfloat16), basis, params, shape, weight.dtype)
    rotated = basis.rotate_weight(matrix.float())
    if statistics is not None:
        output_factor = None
        if statistics.outputs is not None:
            output_factor = factor_of(basis.rotate_outputs(statistics.outputs.double()), OUTPUT_DAMPING)
        strips = _Strips(params, output_factor)
        feed_back(rotated, Statistics(basis.rotate_moments(statistics.moments.double())).factor, strips)
        return assemble(strips.codes, strips.scales, basis, params, shape, weight.dtype)
    scales = choose_scales(rotated, params)
    codes, _ = quantize_strip(rotated, scales, params)
    return assemble([codes], scales, basis, params, shape, weight.dtype)


def _rotate_moments(moments: torch.Tensor, signs: torch.Tensor | None) -> torch.Tensor:
    padding = -moments.shape[0] % PANEL_ROWS
    rotated = torch.nn.functional.pad(moments, (0, padding, 0, padding))
    return rotated if signs is None else rotate(rotate(rotated, signs).T, signs).T


def _signs(side: int, seed: int) -> torch.Tensor:
    """Random signs of a side, packed; splitmix64 (Steele et al. 2014), so that no library's generator matters."""
    counters = np.arange(1, -(-side // 64) + 1, dtype=np.uint64) + np.uint64(seed << 32)
    with np.errstate(over="ignore"):
        state = counters * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return torch.from_numpy(state.astype("<u8").view(np.uint8)[: -(-side // 8)].copy())
