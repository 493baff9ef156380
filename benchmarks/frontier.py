"""Draw the frontier of size against accuracy: every codec, plain and calibrated, budgets, and peers.

    python benchmarks/frontier.py CHECKPOINT --text wiki.valid.txt --out FOLDER [--list] [--only PATTERN ...]

The first 60 % of the text calibrate; windows of 512 tokens from the rest are what models are judged on. A point is
measured once: what FOLDER/frontier.json has already is left out, so a long run can be stopped and taken up again, and
`--only 'int*' '*own'` runs a part of it. In the end come a table, frontier.md, and a chart, frontier.png. `--keep`
leaves what has been converted in FOLDER/containers and takes it from there, to judge it on other windows, say.

Bits per weight count every matrix, embeddings and head included, with all scales. Unless a point says otherwise,
embeddings and head take the codec of the blocks. Weights are decoded and activations are in float32, for the base as
for all others: so the KL divergence is that of the weights alone, and the noise floor is that of float32.

Calibrated points share the statistics that the first of them has gathered, peers too, so that they differ in nothing
but the coding; points named `own` and budgets of all codecs gather theirs behind blocks that are compressed already.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

# Transformers takes any module `kernels` on the path for a package that it can use, and imports it: this one must not
# import Transformers then.
if __name__ == "__main__":
    import peers
    import torch

    from tilepress.compress.calibration.calibration import Calibration
    from tilepress.compress.calibration.statistics import Statistics, load_statistics
    from tilepress.conversion import compress
    from tilepress.formats.checkpoint import open_checkpoint
    from tilepress.formats.container import Container
    from tilepress.formats.text import cut_windows
    from tilepress.runtime.base_logits import LogitsCache
    from tilepress.runtime.comparison import logits_of_base
    from tilepress.runtime.entrants import Entrant
    from tilepress.runtime.evaluation import Accuracy, evaluate, predictions

CALIBRATION_SHARE = 0.6
CALIBRATION_TOKENS = 16_384
WINDOWS, WINDOW = 12, 512
CAPTION = (
    "SmolLM2-135M-Instruct (163 M weights, untied head), KL divergence from the bfloat16 checkpoint on {windows}\n"
    "windows of {window} tokens of the last 40 % of wikitext-2 (validation), calibrated on {tokens:,} tokens of its\n"
    "first 60 %. All weights counted, embeddings and head included. Weights decoded, activations in float32."
)


@dataclass(frozen=True)
class Point:
    """One conversion that is measured.

    Attributes:
        name: under which its figures are kept.
        line: of the chart that it belongs to.
        options: of `tilepress.compress`; for a peer, those of its function.
        is_calibrated: whether the text is used.
        shares_statistics: whether those of the first calibrated point are used.
        peer: function of `peers` that takes the place of `tilepress.compress`.
    """

    name: str
    line: str
    options: Mapping[str, Any] = field(default_factory=dict)
    is_calibrated: bool = False
    shares_statistics: bool = True
    peer: str | None = None


def points() -> Iterator[Point]:
    """All points, cheap ones first."""

    def both(line: str, *specs: str, **options: Any) -> Iterator[Point]:
        for spec in specs:
            given = {"codec": spec, "embeddings": spec, **options}
            ending = "".join(f" {name}={value}" for name, value in options.items())
            yield Point(f"{spec}{ending} calibrated", f"{line}, calibrated", given, is_calibrated=True)
            yield Point(f"{spec}{ending}", f"{line}, plain", given)

    yield from both("int", "int:bits=8")
    yield from both("int", "int:bits=4,group=128", embeddings="int:bits=8")
    yield Point(
        "GPTQ 4 bits, group 128, embeddings=int:bits=8",
        "GPTQ",
        {"bits": 4, "group": 128, "outside": "int:bits=8"},
        is_calibrated=True,
        peer="gptq",
    )
    own = {"codec": "int:bits=4,group=128", "embeddings": "int:bits=8"}
    yield Point(
        "int:bits=4,group=128 embeddings=int:bits=8 own",
        "int, calibrated",
        own,
        is_calibrated=True,
        shares_statistics=False,
    )
    yield from both("int", "int:bits=4,group=128")
    yield Point("GPTQ 4 bits, group 128", "GPTQ", {"bits": 4, "group": 128}, is_calibrated=True, peer="gptq")
    yield from both("nf4", "nf4")
    yield Point("bitsandbytes nf4", "bitsandbytes nf4", peer="bitsandbytes_nf4")
    yield from both("mxfp4", "mxfp4")
    yield from both("nvfp4", "nvfp4")
    yield from both("fp8", "fp8")
    yield Point("HQQ 4 bits, group 64", "HQQ", {"bits": 4, "group": 64}, peer="hqq")
    yield from both("int", "int:bits=6", "int:bits=5", "int:bits=3")
    for line, specs in (("zfp", ("zfp:rate=8", "zfp:rate=6", "zfp:rate=4")), ("sz", ("sz:rel=0.02", "sz:rel=0.005"))):
        for spec in specs:
            yield Point(spec, line, {"codec": spec, "embeddings": spec})
    for window in (12, 16):
        for bits in (4, 5, 3):
            spec = f"trellis:bits={bits}" + (f",window={window}" if window != 16 else "")
            line = "trellis" if window == 16 else f"trellis window {window}"
            yield from both(line, spec)
            given = {"codec": spec, "embeddings": spec}
            yield Point(f"{spec} own", f"{line}, calibrated", given, is_calibrated=True, shares_statistics=False)
    for ending in (",window=12", ",effort=fast", ""):
        for bits in (4, 5, 6, 3):
            spec = f"trellis:bits={bits}{ending}"
            given = {"codec": spec, "embeddings": spec, "gradients": True}
            line = "trellis window 12, gradients" if "window" in ending else "trellis, gradients"
            yield Point(f"{spec} gradients", line, given, is_calibrated=True)
    quick = " ".join([*(f"trellis:bits={bits},window=12" for bits in range(2, 8)), "int:bits=8", "none"])
    for ending, codecs in ((" window=12", quick), ("", None)):
        for bits in (4.0, 5.0, 3.5, 6.0):
            options = {"bits": bits, "codecs": codecs}
            name = f"budget {bits:g} bits{ending}"
            yield Point(name, f"budget{ending}", options, is_calibrated=True, shares_statistics=bool(ending))
            weighted = {**options, "gradients": True}
            yield Point(f"{name} gradients", f"budget{ending}, gradients", weighted, is_calibrated=True)


class Judge:
    """The base model, its logits, and a place for the weights of the others."""

    def __init__(self, checkpoint: Path, text: str, windows: int, cache: LogitsCache) -> None:
        """Cut the windows, load the base and look up its logits, or compute them once and for all."""
        base = Entrant(checkpoint)
        self._windows = cut_windows(base.tokenizer(), text, windows * WINDOW, WINDOW)
        self._model = base.load(torch.float32)
        self._logits = logits_of_base(base, self._model, self._windows, cache)

    def accuracy(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> Accuracy:
        """Of the model with these weights, which must be all of them."""
        weights = self._model.state_dict()
        missing = set(weights)
        for name, value in tensors:
            weights[name].copy_(value)
            missing.remove(name)
        if missing:
            raise SystemExit(f"no weights for {', '.join(sorted(missing))}")
        return evaluate(predictions(self._model, self._windows), self._logits, self._windows)


class Bench:
    """Makes and measures points of one checkpoint, and keeps the figures."""

    def __init__(self, checkpoint: Path, text: Path, folder: Path, tokens: int, windows: int, keep: bool) -> None:
        """Take up the figures that `folder` has."""
        self._checkpoint, self._folder = checkpoint, folder
        self._tokens, self._windows, self._keep = tokens, windows, keep
        folder.mkdir(parents=True, exist_ok=True)
        whole = text.read_text(encoding="utf-8")
        cut = whole.index("\n", int(CALIBRATION_SHARE * len(whole))) + 1
        self._calibration_text = folder / "calibration.txt"
        self._calibration_text.write_text(whole[:cut], encoding="utf-8")
        self._rest = whole[cut:]
        self._json = folder / "frontier.json"
        self.protocol = {
            "checkpoint": open_checkpoint(checkpoint).identity(),
            "windows": windows,
            "window": WINDOW,
            "tokens": tokens,
        }
        self.figures: dict[str, dict[str, Any]] = {}
        if self._json.exists():
            kept = json.loads(self._json.read_text(encoding="utf-8"))
            if kept["protocol"] != self.protocol:
                raise SystemExit(f"{self._json}: was measured on something else; name another --out")
            self.figures = {figures["name"]: figures for figures in kept["points"]}

    def measure(self, point: Point) -> None:
        """Convert, judge, and keep the figures."""
        begin = time.monotonic()
        is_there = self._container(point).exists()
        made = self._of_peer(point) if point.peer else self._of_tilepress(point)
        seconds = time.monotonic() - begin
        accuracy = self._judge.accuracy(made.tensors)
        self.figures[point.name] = {
            "name": point.name,
            "line": point.line,
            "options": dict(point.options),
            "is_calibrated": point.is_calibrated,
            "shares_statistics": point.is_calibrated and point.shares_statistics,
            "bits_per_weight": made.bits_per_weight,
            # Peers code while they are judged.
            "seconds": None if point.peer or is_there else round(seconds, 1),
            **asdict(accuracy),
        }
        if not self._keep:
            shutil.rmtree(self._folder / "containers", ignore_errors=True)
        fields = {"protocol": self.protocol, "points": list(self.figures.values())}
        self._json.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self._checkpoint, self._rest, self._windows, LogitsCache(self._folder / "base-logits"))

    def _of_tilepress(self, point: Point) -> peers.Made:
        target = self._container(point)
        calibration: dict[str, Any] = {}
        if point.is_calibrated:
            calibration = {"calibration": self._calibration_text, "calibration_tokens": self._tokens}
            if point.shares_statistics:
                calibration["statistics"] = self._folder / "statistics"
        if not target.exists():
            target.parent.mkdir(exist_ok=True)
            compress(self._checkpoint, target, **point.options, **calibration)
        container = Container.open(target)
        return peers.Made(
            Entrant(target).weights.bits_per_weight, ((name, container.tensor(name)) for name in container)
        )

    def _container(self, point: Point) -> Path:
        return self._folder / "containers" / re.sub(r"\W+", "-", point.name)

    def _of_peer(self, point: Point) -> peers.Made:
        make: Callable[..., peers.Made] = getattr(peers, str(point.peer))
        checkpoint = open_checkpoint(self._checkpoint)
        if point.is_calibrated:
            return make(checkpoint, self._statistics(), **point.options)
        return make(checkpoint, **point.options)

    def _statistics(self) -> dict[str, Statistics]:
        """Those that the calibrated points share."""
        files = sorted((self._folder / "statistics").glob("stage-*.safetensors"))
        if not files:
            raise SystemExit("there are no statistics yet; run `int:bits=8 calibrated` first")
        origin = Calibration.prepare(open_checkpoint(self._checkpoint), self._calibration_text, self._tokens).origin
        found: dict[str, Statistics] = {}
        for file in files:
            found |= load_statistics(file, origin)
        return found


def table(figures: Iterable[Mapping[str, Any]]) -> str:
    """The figures as a table in Markdown, by size."""
    lines = ["| | bits/weight | KL mean | KL 99 % | top-1 | perplexity |", "|---|---|---|---|---|---|"]
    for one in sorted(figures, key=lambda one: one["bits_per_weight"]):
        lines.append(
            f"| {one['name']} | {one['bits_per_weight']:.3f} | {one['kl_mean']:.4f} | {one['kl_p99']:.3f} "
            f"| {one['top1']:.3f} | {one['perplexity']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def draw(figures: Iterable[Mapping[str, Any]], caption: str, path: Path) -> None:
    """The chart: a line for each family, KL divergence on a logarithmic axis against bits per weight."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines: dict[str, list[tuple[float, float]]] = {}
    for one in figures:
        lines.setdefault(one["line"], []).append((one["bits_per_weight"], one["kl_mean"]))
    chart, axes = pyplot.subplots(figsize=(9, 6.5), dpi=80)
    families = sorted({line.partition(",")[0] for line in lines})
    palette = pyplot.get_cmap("tab20").colors[::2] + pyplot.get_cmap("tab20").colors[1::2]
    colours = dict(zip(families, palette, strict=False))
    for line, places in sorted(lines.items()):
        family, _, kind = line.partition(", ")
        style = {"plain": "o:", "calibrated": "o-"}.get(kind, "s-")
        places.sort()
        inside = "none" if kind == "plain" else colours[family]
        look = {"color": colours[family], "markerfacecolor": inside, "markersize": 5, "linewidth": 1.2}
        axes.plot(*zip(*places, strict=True), style, label=line, **look)
    axes.set_yscale("log")
    axes.set_xlabel("bits per weight")
    axes.set_ylabel("KL divergence, nats a token (mean)")
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=8, ncols=2)
    chart.text(0.02, 0.01, caption, fontsize=7, va="bottom")
    chart.tight_layout(rect=(0, 0.07, 1, 1))
    chart.savefig(path)


def main() -> None:
    """Measure the points that are asked for and not there yet; then write table and chart of all that are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="the validation part of wikitext-2")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--tokens", type=int, default=CALIBRATION_TOKENS, help="of the calibration")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="that models are judged on")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="PATTERN", help="names of points, as `int*`")
    parser.add_argument("--keep", action="store_true", help="keep containers, and take those that are there")
    parser.add_argument("--list", action="store_true", help="only say which points there are")
    options = parser.parse_args()
    bench = Bench(options.checkpoint, options.text, options.out, options.tokens, options.windows, options.keep)
    for point in points():
        if point.name in bench.figures or not any(fnmatch.fnmatchcase(point.name, one) for one in options.only):
            continue
        if options.list:
            print(point.name)
            continue
        bench.measure(point)
        figures = bench.figures[point.name]
        print(
            f"{point.name}: {figures['bits_per_weight']:.3f} bits per weight, KL {figures['kl_mean']:.5f}, "
            f"top-1 {figures['top1']:.3f}"
            + (f", {figures['seconds']:.0f} s" if figures["seconds"] is not None else ""),
            flush=True,
        )
    if not bench.figures or options.list:
        return
    (options.out / "frontier.md").write_text(table(bench.figures.values()), encoding="utf-8")
    draw(bench.figures.values(), CAPTION.format(**bench.protocol), options.out / "frontier.png")
    print(table(bench.figures.values()))


if __name__ == "__main__":
    main()
