"""Time to place synthetic decoder graphs with the exact placer: index, cut, split, score. Prints a Markdown table.

Run: python benchmarks/placement.py [clusters ...]
"""

from __future__ import annotations

import random
import statistics
import sys
import time

from hetcc.passes.place import place_optimal
from hetcc.plan.placement import Cluster, Cost, Objective, PlacementProblem, Tensor

DEVICES = ("gpu", "fpga", "host")
LINKS = (("gpu", "fpga"), ("fpga", "gpu"), ("host", "gpu"), ("host", "fpga"), ("gpu", "host"), ("fpga", "host"))
LAYER_CLUSTERS = 100
REPEATS = 5


def synthetic(count: int, seed: int = 0) -> PlacementProblem:
    """A chain of layers of 100 clusters: projections only the GPU takes, a memory pipeline either device takes."""
    random_state = random.Random(seed)
    clusters, tensors = [], []
    for index in range(count):
        layer, inside = divmod(index, LAYER_CLUSTERS)
        gpu, fpga = random_state.uniform(5e-6, 5e-5), random_state.uniform(5e-6, 2e-4)
        if inside % 10 == 0:
            costs = {"gpu": Cost(gpu)}
        elif inside == 55:
            costs = {"host": Cost(1e-6)}
        elif 60 <= inside < 80:
            costs = {"gpu": Cost(gpu), "fpga": Cost(gpu * random_state.uniform(0.1, 1.5))}
        else:
            costs = {"gpu": Cost(gpu), "fpga": Cost(fpga)}
        clusters.append(Cluster(f"c{index}", (f"n{index}",), costs, f"layers.{layer}", 1 << 20))
        readers = {index + 1, index + random_state.choice((2, 3, 7))} if index % 3 == 0 else {index + 1}
        readers = {reader for reader in readers if reader < count}
        size_bytes = random_state.choice((1 << 10, 1 << 14, 1 << 20))
        if readers:
            tensors.append(Tensor(
                f"t{index}", f"c{index}", tuple(f"c{reader}" for reader in sorted(readers)), size_bytes,
                {link: Cost(2e-6 + size_bytes / 6e9) for link in LINKS},
                {"gpu": Cost(size_bytes / 1e12), "fpga": Cost(size_bytes / 2e11)}))
    launch = {"gpu": Cost(6e-6), "fpga": Cost(14e-6), "host": Cost(0.0)}
    return PlacementProblem(f"synthetic-{count}", DEVICES, tuple(clusters), tuple(tensors), launch, {}, Objective())


def measure(count: int) -> tuple[float, float, float]:
    """Median wall and processor seconds of five runs, and the gap. Every run starts from a fresh problem."""
    wall, processor = [], []
    for _ in range(REPEATS):
        problem = synthetic(count)
        start, busy = time.perf_counter(), time.process_time()
        placement = place_optimal(problem)
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - busy)
    return statistics.median(wall), statistics.median(processor), placement.gap


def main() -> None:
    """Print the table."""
    place_optimal(synthetic(100))
    print("| clusters | wall, median of 5 | processor, median of 5 | gap |\n|---:|---:|---:|---:|")
    for count in [int(argument) for argument in sys.argv[1:]] or [1_000, 5_000, 10_000, 20_000, 40_000, 80_000]:
        wall_s, processor_s, gap = measure(count)
        print(f"| {count:,} | {wall_s:.2f} s | {processor_s:.2f} s | {gap:.2%} |")


if __name__ == "__main__":
    main()
