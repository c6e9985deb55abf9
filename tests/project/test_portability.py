"""Compiled programs leave this machine: they lower for accelerators, and spread over devices without a change.

Each part runs in its own process, because the settings it needs are read when JAX and equinox are imported.
"""

import json
import os
import re
import subprocess
import sys
import textwrap

import pytest

EXPORT = """
    import json, sys
    import jax, jax.numpy as jnp, optax
    from jax import export
    import unhinged_jax as uj

    jax.default_backend = lambda: "gpu"  # for the forms that programs have there
    even = uj.balanced(classes=3, per_class=2)
    uneven = uj.from_counts([3, 2, 1])
    descent, flow = uj.Descent(uj.cosine(0.1, horizon=8)), uj.Flow(uj.cosine(0.1, horizon=8))
    linear = uj.regularized(even, dim=4, decay=0.05, bias=True)
    entropy = uj.regularized(even, dim=4, decay=0.05, loss="cross_entropy", bias=True)
    sphere = uj.spherical(even, dim=4, decay=0.01)
    cases = {
        "simulated descent": (uj.simulate, linear, descent),
        "simulated Adam on cross-entropy": (uj.simulate, entropy, uj.Descent(optimizer=optax.adam(0.01))),
        "simulated flow": (uj.simulate, linear, flow),
        "simulated flow of cross-entropy": (uj.simulate, entropy, flow),
        "simulated spherical descent": (uj.simulate, sphere, descent),
        "exact flow": (uj.exact, linear, flow),
        "exact flow of uneven counts": (uj.exact, uj.regularized(uneven, dim=4, decay=0.05), flow),
        "exact flow of squared error": (uj.exact, uj.regularized(uneven, dim=4, decay=0.05, loss="mse"), flow),
        "exact descent": (uj.exact, linear, descent),
        "exact spherical flow": (uj.exact, sphere, flow),
        "exact spherical descent": (uj.exact, sphere, descent),
    }

    def program(solve, model, dynamics):
        def run(state):
            trajectory = solve(model, dynamics, state, [0, 3, 8])
            return trajectory.observables, jax.tree.leaves(trajectory.final)
        return run, model.init(jax.random.key(0))

    def slope(solve, model, dynamics):
        def value(state, decay):
            decayed = model.replace(decay=decay)
            return solve(decayed, dynamics, state, [0, 3, 8], ["loss", "accuracy_margin"]).last("accuracy_margin")
        gradient = jax.value_and_grad(value, argnums=(0, 1))
        return lambda state: gradient(state, jnp.float32(0.05)), model.init(jax.random.key(0))

    def lanes(solve, model, dynamics):
        def one(state, gamma):
            return solve(model.replace(gamma=gamma), dynamics, state, [0, 3, 8]).observables
        both = jax.vmap(jax.vmap(one, (0, None)), (None, 0))
        states = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 3))
        return lambda states: both(states, jnp.asarray([0.2, 0.4])), states

    def leaky(state):  # holds what must be found
        seen = jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct((), jnp.float64), jnp.float64(1))
        return seen + state

    texts = {}
    programs = {name: program(*case) for name, case in cases.items()}
    curved = "simulated flow of cross-entropy"
    squared = "exact flow of squared error"
    for name in ("simulated descent", "simulated flow", "exact flow", squared, "exact descent", curved):
        programs[f"gradient of {name}"] = slope(*cases[name])
    for name in ("simulated descent", "exact descent"):
        programs[f"sweep of {name}"] = lanes(*cases[name])
    for name, (run, state) in programs.items():
        exported = export.export(jax.jit(run), platforms=("cuda", "tpu"))(state)
        texts[name] = exported.mlir_module()
    with jax.enable_x64(True):
        texts["leaky"] = jax.jit(leaky).trace(jnp.float64(1)).lower().as_text()
    json.dump(texts, sys.stdout)
"""

SHARD = """
    import chex, jax, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    import unhinged_jax as uj

    assert len(jax.devices()) == 8
    model = uj.regularized(uj.from_counts([3, 2, 1]), dim=4, decay=0.05, bias=True)
    states = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 16))
    seeds = NamedSharding(Mesh(np.array(jax.devices()), ("seed",)), PartitionSpec("seed"))
    spread = jax.device_put(states, seeds)

    @jax.jit
    @jax.vmap
    def solve(state):
        return uj.exact(model, uj.Flow(0.1), state, [1.0, 5.0, 20.0])

    one, eight = solve(states), solve(spread)
    moving = (*eight.observables.values(), eight.final.H, eight.final.W)
    assert all(len(leaf.sharding.device_set) == 8 and not leaf.sharding.is_fully_replicated for leaf in moving)
    chex.assert_tree_all_finite(one)
    chex.assert_trees_all_close(eight, one, rtol=2e-6, atol=2e-6)

    # The same through shard_map, where every device runs a program of its own: a simulated descent and its gradient.
    def descent(state):
        def final(decay):
            model = uj.regularized(uj.balanced(classes=3, per_class=2), dim=4, decay=decay)
            return uj.simulate(model, uj.Descent(0.1), state, [5, 20], ["norm", "accuracy_margin"])["norm"][-1]
        return jax.value_and_grad(final)(0.05)

    mapped = jax.vmap(descent)
    over = jax.shard_map(mapped, mesh=seeds.mesh, in_specs=seeds.spec, out_specs=seeds.spec, check_vma=False)
    apart, together = jax.jit(over)(spread), jax.jit(mapped)(states)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in apart)
    chex.assert_tree_all_finite(together)
    chex.assert_trees_all_close(apart, together, rtol=2e-6, atol=2e-6)
    print("same")
"""


def run_in_process(script: str, **variables: str) -> str:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0", **variables}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def doubles(text: str) -> bool:
    return re.search(r"(?<![a-z0-9])(\d+x)*f64\b", text) is not None


def callbacks(text: str) -> list[str]:
    targets = re.findall(r"custom_call\s*@([\w.$]+)", text)
    return [target for target in targets if re.search("python|callback|host", target, flags=re.IGNORECASE)]


def dynamic(text: str) -> bool:
    return re.search(r"tensor<(\d+x)*\?", text) is not None


@pytest.mark.long
def test_every_kind_of_run_lowers_for_gpu_and_tpu_in_float32_without_the_host():
    texts = json.loads(run_in_process(EXPORT, EQX_ON_ERROR="nan"))
    leaky = texts.pop("leaky")
    assert doubles(leaky) and callbacks(leaky) and dynamic("tensor<3x?xf32>")  # the checks below can fail
    assert len(texts) == 19
    assert [name for name, text in texts.items() if doubles(text)] == []
    assert [name for name, text in texts.items() if dynamic(text)] == []
    assert {name: callbacks(text) for name, text in texts.items() if callbacks(text)} == {}


@pytest.mark.long
def test_a_batch_over_eight_devices_is_the_batch_on_one():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    assert run_in_process(SHARD, XLA_FLAGS=flags).strip() == "same"
