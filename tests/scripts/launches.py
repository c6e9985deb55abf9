"""Count what an update or a step launches on an H100, in programs compiled for one where there is none.

    python tests/scripts/launches.py [--program NAME] [--form cpu]

The problems are those of the benchmarks at the paper's size, in float32. For every loop of a compiled program it prints
how often the loop runs, if XLA knows that, what one pass launches (fusions, copies, calls of libraries), and where the
host is asked: at every branch, and at the end of every pass of a loop whose length XLA does not know. A launch takes
about 2 microseconds and a question to the host several times as long, so that these numbers decide how long a small
problem takes. With `--form cpu` the same is counted in the form that programs have on a CPU.

Needs JAX's plugin for CUDA (`pip install "jax[cuda12]"`) but no device; without it, nothing is counted, which is said.
"""

import argparse
import importlib.util
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for the benchmarks
if __name__ == "__main__":  # not where tests look for examples in it
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    os.environ["EQX_ON_ERROR"] = "nan"  # checks that call the host cannot be compiled without a device

import jax
from jax.experimental import topologies

import unhinged_jax as uj
from benchmarks import ours
from benchmarks.workloads import descent, flow

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
PROGRAMS = {
    "descent, simulated": (descent.UNCONSTRAINED, uj.simulate),
    "descent, exact": (descent.UNCONSTRAINED, uj.exact),
    "flow, simulated": (flow.REGULARISED, uj.simulate),
    "cross-entropy flow": (flow.ENTROPY, uj.simulate),
}
LAUNCHED = {"fusion", "copy", "custom-call", "sort", "scatter", "gather", "reduce", "dot"}


def compiled(name: str) -> str:
    """The optimised program, as text."""
    from jax._src import xla_bridge

    # Without a device JAX does not know that "gpu" means CUDA here.
    known = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda platform: "cuda" if platform == "gpu" else known(platform)
    device = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1").devices[0]
    there = jax.sharding.SingleDeviceSharding(device)
    workload, solve = PROGRAMS[name]
    case = workload.case("paper", "float32")
    call = ours.solver(case, solve)
    H, W = (jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=there) for part in case.start())
    program = jax.jit(lambda H, W: call(uj.State(H, W, jax.numpy.zeros(case.classes, case.dtype))).observables)
    return program.lower(H, W).compile().as_text()


def bodies(text: str) -> Iterator[tuple[str, Counter]]:
    """Every computation that is not part of a launch: its name, and how often each operation stands in it."""
    for part in re.split(r"\n(?=(?:ENTRY )?%[\w.\-]+ \()", text):
        name = part.split(" (")[0].removeprefix("ENTRY ").strip()
        operations = re.findall(r"^\s+(?:ROOT )?%[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(", part, re.MULTILINE)
        if name.startswith("%") and not re.match(r"%(fused|wrapped|triton|gemm)", name):
            yield name, Counter(operations)


def counted(text: str) -> list[str]:
    """A line for every loop, and one for what is done once."""
    loops = dict[str, str]()
    for line in text.splitlines():
        if found := re.search(r" while\(.*?body=(%[\w.\-]+)", line):
            trips = re.search(r'known_trip_count[^0-9]*"?(\d+)', line)
            loops[found[1]] = f"{int(trips[1]):,} passes" if trips else "unknown passes, each ends at the host"
    lines = []
    for name, operations in bodies(text):
        launches = sum(operations[operation] for operation in LAUNCHED)
        if name in loops or name.startswith("%main"):
            what = loops.get(name, "once")
            lines.append(f"    {launches:4d} launches, {operations['conditional']} branches: {what}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--program", choices=PROGRAMS, help="only this one")
    parser.add_argument("--form", choices=("accelerator", "cpu"), default="accelerator")
    asked = parser.parse_args()
    if importlib.util.find_spec("jax_cuda12_plugin") is None:
        print('skipped: JAX\'s plugin for CUDA is not installed (pip install "jax[cuda12]"), so nothing was counted')
        return 0
    if asked.form == "accelerator":
        jax.default_backend = lambda: "gpu"
    for name in [asked.program] if asked.program else PROGRAMS:
        print(name, *counted(compiled(name)), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
