"""All rows as arrays, so that one prediction of every row takes milliseconds; the formulas are the package's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _latency_rows import Row

from edgeprune_targets._coefficients import machine_of
from edgeprune_targets._utilisation import Ideal, Machine, held_back, ideal, is_resident, kernel_us, terms_of
from edgeprune_targets.kernels import Kernel
from edgeprune_targets.profiles import load_target

KINDS = ("gemm", "conv", "depthwise", "attention", "select", "pointwise")
_FIELDS = ("compute_us", "shallow_us", "memory_us", "near_us", "cycles_us", "energy_uj")
# Natural logarithm of each coefficient's likely value, and how far it may be from that: what is known before the fit.
_PRIOR = {
    "gemm": (0.75, 0.3),
    "conv": (0.4, 0.5),
    "depthwise": (0.25, 0.6),
    "attention": (0.35, 0.4),
    "memory": (0.8, 0.15),
    "shallow": (64.0, 0.7),
    "near": (3.0, 0.3),
    "launch": (3.5, 0.3),
    "ramp": (3.0, 0.6),
    "select": (9.0, 1e-6),  # no timing of a pruned model was published
    "energy": (1.0, 0.2),
    "start": (10.0, 0.5),
    "copy": (0.3, 0.5),
}
NAMES = tuple(_PRIOR)
_BY_FAMILY = {
    "gemm": 0.2, "memory": 0.1, "launch": 0.2, "ramp": 0.2, "attention": 0.15, "conv": 0.2, "depthwise": 0.2,
}  # fmt: skip
_BY_SITUATION = {
    "gemm/int8": 0.3, "attention/int8": 0.3, "energy/int8": 0.2, "gemm/fp32": 0.3,
    "gemm/fastertransformer": 0.15, "launch/fastertransformer": 0.4, "attention/fastertransformer": 0.5,
    "gemm/eager": 0.15, "memory/eager": 0.8, "attention/eager": 0.3, "launch/eager": 0.5,
    "gemm/inductor": 0.15, "memory/inductor": 0.5, "attention/inductor": 0.3,
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """All rows in arrays: one set a kind of kernel, with the row that each kernel belongs to.

    Attributes:
        rows: as published.
        machines: of each row.
        logs: natural logarithm of the published milliseconds.
        kinds: kernels at the device's peaks, how often each is launched, and its row.
        copied_us: of inputs and outputs at the memory's peak, where the timing holds them.
        keys: of the terms of all coefficients.
        uses: which terms make up a coefficient in each row.
    """

    rows: tuple[Row, ...]
    machines: tuple[Machine, ...]
    logs: Any
    kinds: dict[str, tuple[Ideal, Any, Any]]
    copied_us: Any
    keys: tuple[str, ...]
    uses: dict[str, Any]

    @property
    def watts(self) -> Any:
        """Power limit of each row's device."""
        return np.array([machine.watts for machine in self.machines])


def make_table(rows: Sequence[Row], kernels: Sequence[Sequence[tuple[Kernel, int]]]) -> Table:
    """Arrays from the kernels of each row."""
    machines = tuple(machine_of(load_target(row.device)) for row in rows)
    keys = tuple(prior({machine.family for machine in machines}))
    parts = [_at_peak(row, machine, found) for row, machine, found in zip(rows, machines, kernels, strict=True)]
    return Table(
        rows=tuple(rows),
        machines=machines,
        logs=np.log([row.ms for row in rows]),
        kinds={kind: _columns(kind, parts) for kind in KINDS},
        copied_us=np.array([_copied_us(row, machine) for row, machine in zip(rows, machines, strict=True)]),
        keys=keys,
        uses={name: _uses(name, rows, machines, keys) for name in NAMES},
    )


def _at_peak(row: Row, machine: Machine, found: Sequence[tuple[Kernel, int]]) -> list[tuple[Ideal, int]]:
    resident = is_resident(sum(kernel.weight_bytes * times for kernel, times in found), machine)
    precision: Any = row.precision
    return [(ideal(kernel, machine, precision, resident=resident), times) for kernel, times in found]


def _columns(kind: str, parts: Sequence[Sequence[tuple[Ideal, int]]]) -> tuple[Ideal, Any, Any]:
    found = [(part, times, at) for at, row in enumerate(parts) for part, times in row if part.kind == kind]
    columns = [np.array([getattr(part, field) for part, _, _ in found]) for field in _FIELDS]
    return Ideal(kind, *columns), np.array([n for _, n, _ in found]), np.array([at for *_, at in found], dtype=int)


def _copied_us(row: Row, machine: Machine) -> float:
    """Pixels of the input in fp32; outputs of a classifier weigh nothing."""
    pixels = 3 * int(np.prod(row.size)) * row.batch
    return 4 * pixels / (machine.bandwidth_gbs * 1e3) if row.copies else 0.0


def _uses(name: str, rows: Sequence[Row], machines: Sequence[Machine], keys: tuple[str, ...]) -> Any:
    used = np.zeros((len(rows), len(keys)))
    for at, (row, machine) in enumerate(zip(rows, machines, strict=True)):
        for key in terms_of(name, machine.family, row.precision, row.runtime):
            if key in keys:
                used[at, keys.index(key)] = 1.0
    return used


def prior(families: set[str]) -> dict[str, tuple[float, float]]:
    """Mean and deviation of the logarithm of each term, by key: a family may differ a little from all others."""
    found = {name: (float(np.log(mean)), sigma) for name, (mean, sigma) in _PRIOR.items()}
    found |= {f"{name}/{family}": (0.0, sigma) for name, sigma in _BY_FAMILY.items() for family in sorted(families)}
    return found | {name: (0.0, sigma) for name, sigma in _BY_SITUATION.items()}


def predict(table: Table, values: Any) -> Any:
    """Natural logarithm of the modelled milliseconds of each row."""
    at = {name: np.exp(table.uses[name] @ values) for name in NAMES}
    total, energy = at["start"] + table.copied_us / at["copy"], np.zeros(len(table.rows))
    for part, times, owner in table.kinds.values():
        total += np.bincount(owner, kernel_us(part, lambda name, o=owner: at[name][o]) * times, len(table.rows))
        energy += np.bincount(owner, part.energy_uj * times, len(table.rows))
    return np.log(held_back(total, energy, table.watts, at.__getitem__) / 1e3)
