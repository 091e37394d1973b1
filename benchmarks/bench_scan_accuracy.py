"""Accuracy of small trained Vims with tokens removed: by score, by alignment, at several shares kept.

    python demo/train_digits_vim.py --seeds 0 1 2 3 4 --out build/vim
    python benchmarks/bench_scan_accuracy.py build/vim grid plan macs

`grid` makes the same two cuts with every score and alignment, so that rows differ in nothing else. `plan` lets
`edgeprune plan --keep 0.8` choose cuts, strategy and alignment as `compile` does, on images that the model was trained
on. Both are scored on held-out images. What was measured is kept in the JSON file and not measured again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import _results
import numpy as np
import onnx_ir as ir

DEMO = Path(__file__).resolve().parent.parent / "demo"
CUTS, BATCH, DECIDING = (1, 3), 120, 256
SEARCHES = (16, 0)
NAME = "scan_accuracy"
# Every alignment at 0.8, and what matters there at the other shares. `exact` cuts in front of the scans, whose output
# is then not yet known: ssm-output and ssm-runs cannot be asked for it.
FULL = {
    "random": ("none", "neighbours", "stand-in"),
    "ssm-runs": ("none", "neighbours", "stand-in", "gap"),
    "ssm-output": ("none", "stand-in", "gap", "neighbours", "bias"),
    "ssm-delta": ("none", "stand-in", "gap", "neighbours", "bias"),
    "ssm-delta, dropped": ("none", "exact"),
    "uniform": ("none",),
}
SHORT = {
    "random": ("none",),
    "ssm-output": ("none", "gap", "stand-in"),
    "ssm-delta": ("none", "gap", "stand-in"),
    "ssm-runs": ("none", "neighbours", "stand-in"),
}
Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Way:
    """How tokens are removed."""

    keep: float
    score: str
    alignment: str

    @property
    def key(self) -> str:
        """Its name in the file of results."""
        return " ".join(map(str, astuple(self)))


def ways() -> Iterator[Way]:
    """What is compared."""
    for keep, rows in ((0.8, FULL), (0.9, SHORT), (0.7, SHORT)):
        yield from (Way(keep, score, alignment) for score, alignments in rows.items() for alignment in alignments)


def counts(keep: float, patches: int, depth: int) -> list[int]:
    """Even numbers of patch tokens behind the two cuts: each keeps the same share, `keep` is the mean over blocks."""
    first, second = (block + 1 for block in CUTS)
    shares = np.linspace(0, 1, 1001)
    work = (first + (second - first) * shares + (depth - second) * shares**2) / depth
    share = shares[np.abs(work - keep).argmin()]
    return [2 * round(patches * share**power / 2) for power in (1, 2)]


class Trained:
    """One seed: its graph, its held-out images at one place each, and images that it was trained on."""

    def __init__(self, folder: Path, seed: int, work: Path) -> None:
        import torch

        sys.path.insert(0, str(DEMO))
        import train_digits_vim as demo

        self.path = work / f"vim_{seed}.onnx"
        demo.export(demo.load(seed, folder), self.path)
        images, labels = demo.held_out(seed)
        self.labels = labels[: len(labels) // demo.PLACES].numpy()
        self.images = images[: len(self.labels)].numpy()
        self.known = work / f"trained_on_{seed}.npz"
        generator = torch.Generator().manual_seed(2)
        np.savez(self.known, image=demo.placed(demo.split(seed).train[:DECIDING], generator).numpy())
        self.dense = self.logits(self.graph())

    def graph(self) -> ir.Model:
        """The canonical graph with its scans raised."""
        from edgeprune_passes.canonicalize import Canonicalize
        from edgeprune_passes.raise_scans import RaiseScans

        model = ir.load(self.path)
        Canonicalize(batch=BATCH).apply(model)
        RaiseScans().apply(model)
        return model

    def pruned(self, way: Way) -> ir.Model:
        """With the two cuts."""
        from edgeprune.core.plan import StrategySpec, TokenCut
        from edgeprune_passes.reduce_tokens import ReduceTokens

        name, _, dropped = way.score.partition(", ")
        strategy, model = StrategySpec(name=name, options={"merge": False} if dropped else {}), self.graph()
        kept = zip(CUTS, counts(way.keep, 64, 6), strict=True)
        cuts = tuple(TokenCut(block=block, keep=keep, strategy=strategy) for block, keep in kept)
        ReduceTokens(cuts, alignment=way.alignment).apply(model)
        return model

    def macs(self, keep: float, alignment: str) -> float:
        """MACs of the two cuts as a share of the dense graph's; ssm-runs stands for all scores, which differ little."""
        from edgeprune.core.costs import count_macs

        return round(count_macs(self.pruned(Way(keep, "ssm-runs", alignment))) / count_macs(self.graph()), 3)

    def logits(self, model: ir.Model | Path) -> np.ndarray:
        """[n,10]."""
        from edgeprune_calibration.runner import Runner

        runner = Runner(model, threads=1)
        batch = int(runner.inputs[0].shape[0]) if isinstance(runner.inputs[0].shape[0], int) else BATCH
        found = []
        for start in range(0, len(self.images), batch):
            part = self.images[start : start + batch]
            whole = np.concatenate([part, part[:1].repeat(batch - len(part), 0)])
            found.append(next(iter(runner.run({runner.inputs[0].name: whole}).values()))[: len(part)])
        return np.concatenate(found)

    def figures(self, logits: np.ndarray) -> dict[str, Any]:
        """Accuracy in percent, and mean KL divergence from the dense model's predictions."""
        wanted, found = _log_softmax(self.dense), _log_softmax(logits)
        accuracy = 100 * float((logits.argmax(-1) == self.labels).mean())
        drift = float((np.exp(wanted) * (wanted - found)).sum(-1).mean())
        return {"accuracy": round(accuracy, 2), "kl": round(drift, 4)}

    def planned(self, keep: float, search: int, file: Path) -> dict[str, Any]:
        """What a user gets who says `--keep`, and `--search` or nothing else: `compile` applies what `plan` decides."""
        from edgeprune.core.costs import count_macs
        from edgeprune.core.plan import plan_from_json
        from edgeprune_passes.reduce_tokens import ReduceTokens

        words = ["plan", str(self.path), "-o", str(file), "--keep", str(keep), "--data", str(self.known)]
        words += ["--threads", "1", "--force", *(["--search", str(search)] if search else [])]
        subprocess.run([sys.executable, "-m", "edgeprune", *words], capture_output=True, text=True, check=True)
        plan, model = plan_from_json(file.read_bytes()), self.graph()
        dense = count_macs(model)
        ReduceTokens(plan.cuts, plan.restore, alignment=plan.alignment).apply(model)
        cuts = {cut.block: [cut.strategy.name, cut.keep] for cut in plan.cuts}
        chosen = {"cuts": cuts, "alignment": plan.alignment, "macs": round(count_macs(model) / dense, 3)}
        return {**self.figures(self.logits(model)), **chosen}


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def table(results: dict[str, Figures]) -> str:
    """A row a way: mean over seeds, and what each seed loses."""
    seeds = sorted(results)
    columns = ["keep", "score", "alignment", "MACs", "accuracy", *(f"seed {seed}" for seed in seeds)]
    dense = [results[seed]["dense"]["accuracy"] for seed in seeds]
    shares = _stored("macs")
    rows: list[list[object]] = [["1", "dense", "", 1.0, f"{mean(dense):.2f}", *(f"{value:.2f}" for value in dense)]]
    for key, shown in (*_choices(), *((way.key, list(astuple(way))) for way in sorted(ways(), key=_order))):
        found = [results[seed].get(key, {}).get("accuracy") for seed in seeds]
        pairs = list(zip(found, dense, strict=True))
        lost = ["" if value is None else f"{value - of:+.2f}" for value, of in pairs]
        own = [results[seed][key]["macs"] for seed in seeds if "macs" in results[seed].get(key, {})]
        share = round(mean(own), 3) if own else shares.get(f"{shown[0]} {shown[2]}", "")
        if any(lost):
            rows.append([*shown, share, "" if "" in lost else f"{mean(found):.2f}", *lost])
    return _results.markdown(columns, rows)


def _order(way: Way) -> float:
    return -way.keep


def _choices() -> list[tuple[str, list[object]]]:
    searched = [(f"plan 0.8 search {trials}", f"by drift, --search {trials}") for trials in SEARCHES if trials]
    return [(key, [0.8, how, "by drift"]) for key, how in [*searched, ("plan 0.8 search 0", "by drift")]]


def write_macs(trained: Trained, keeps: list[float]) -> None:
    """What the two cuts leave to compute, by alignment."""
    file = _results.RESULTS / f"{NAME}.json"
    data = json.loads(file.read_text())
    known = data.setdefault("macs", {})
    for keep in keeps:
        for alignment in ("none", "gap", "bias", "neighbours", "stand-in"):
            known.setdefault(f"{keep} {alignment}", None)
            known[f"{keep} {alignment}"] = known[f"{keep} {alignment}"] or trained.macs(keep, alignment)
    file.write_text(json.dumps(data, indent=2) + "\n")


def main() -> None:
    """Measure what is not yet known, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="benchmarks/digits_vim has them, too")
    parser.add_argument("parts", nargs="+", choices=["grid", "plan", "macs"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--keeps", type=float, nargs="+", default=[0.9, 0.8, 0.7])
    options = parser.parse_args()
    results: dict[str, Figures] = _stored("results")
    with tempfile.TemporaryDirectory() as work:
        for seed in options.seeds:
            trained, known = Trained(options.weights, seed, Path(work)), results.setdefault(str(seed), {})
            known["dense"] = trained.figures(trained.dense)
            for trials in SEARCHES if "plan" in options.parts else ():
                key = f"plan 0.8 search {trials}"
                known[key] = trained.planned(0.8, trials, Path(work) / f"plan_{seed}_{trials}.json")
                print(seed, key, known[key], flush=True)
            wanted = [way for way in ways() if "grid" in options.parts and way.keep in options.keeps]
            for way in wanted:
                if way.key not in known:
                    known[way.key] = trained.figures(trained.logits(trained.pruned(way)))
                    print(seed, way.key, known[way.key], flush=True)
                    _write(results)
            _write(results)
            if "macs" in options.parts:
                write_macs(trained, options.keeps)
    print(table(_stored("results")))


def _stored(part: str) -> dict[str, Any]:
    file = _results.RESULTS / f"{NAME}.json"
    found: dict[str, Any] = json.loads(file.read_text()).get(part, {}) if file.exists() else {}
    return found


def _write(results: dict[str, Figures]) -> None:
    """Write all that is known, and what another process, at another seed, has measured meanwhile."""
    for seed, known in _stored("results").items():
        mine = results.setdefault(seed, {})
        mine |= {key: found for key, found in known.items() if key not in mine}
    data = {"machine": _results.machine(1), "cuts_behind": CUTS, "macs": _stored("macs"), "results": results}
    with contextlib.redirect_stdout(None):
        _results.write(NAME, data, HEAD + table(results) + FOOT)


HEAD = """# Accuracy of Vims with fewer tokens

Vims of 6 blocks, width 32, 8 states a channel, 64 patch tokens and a class token in the middle, trained on digits that
scikit-learn ships (`demo/train_digits_vim.py`); a seed is another start, order and split. Accuracy in percent on the
719 held-out images, mean over the seeds; for each seed the difference to dense. No weight is changed. ssm-delta and
ssm-runs merge what they remove unless it is dropped, the others drop it.

"""
FOOT = """
Rows of the same `keep` make the same two cuts, behind blocks 2 and 4 of 6, so rows of `stand-in`, whose scans run over
all places, compute more: the MACs say how much. `random` with `none` is naive compaction. What is chosen by drift
`edgeprune compile --keep 0.8` takes by itself, cuts, strategy and alignment, without labels, on 256 images of the
training split; there `keep` counts the work, so that `stand-in` saves none on scans and is passed over.
"""


if __name__ == "__main__":
    main()
