"""Whatever optimization a program is compiled with, at the top or inside a transformation of JAX: the same numbers.

In a process of its own, because the tests around compile everything with little optimization.
"""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import unhinged_jax as uj
from unhinged_jax._request import compiling

used = []
known = compiling._known
compiling._known = lambda options: used.append(options) or known(options)

jax.config.update("jax_enable_x64", True)
labels = uj.balanced(3, 2)
linear = uj.regularized(labels, 4, decay=0.1)
entropy = linear.replace(loss=uj.losses.cross_entropy)
state = linear.init(jax.random.key(0))
times = [1.0, 2.0]

def flow(x, model=linear, solve=uj.simulate):
    # A schedule that is a function, and reads a number that JAX may be tracing while every argument is known.
    return solve(model, uj.Flow(lambda t: 0.3 * x + 0.0 * t), state, times, "log_norm").last("log_norm")

def late(x):
    return uj.simulate(linear, uj.Flow(), state, jnp.asarray(times) * x, "log_norm").last("log_norm")

def descent(x, model=linear):
    return uj.simulate(model, uj.Descent(lambda k: 0.1 * x + 0.0 * k), state, [3, 9], "log_norm").last("log_norm")

def slope(x):
    return uj.limit(linear, uj.Flow(0.3 * x), state).rate

def crossing(x):
    return uj.event_time(linear.replace(gamma=0.4 * x), uj.Flow(), state, "log_norm", 1.5, times=[0.0, 9.0]).time

functions = {
    "flow": flow, "times": late, "descent": descent, "limit": slope, "event": crossing,
    "entropy flow": functools.partial(flow, model=entropy),
    "entropy descent": functools.partial(descent, model=entropy),
}
for name in sys.argv[1:]:
    f = functions[name]
    at, step = jnp.asarray(1.0), 1e-4
    value = f(at)
    middle = (f(at + step) - f(at - step)) / (2 * step)
    inside = jax.grad if name != "event" else jax.jacfwd
    np.testing.assert_allclose(inside(f)(at), middle, rtol=2e-5, err_msg=name)
    if len(functions) == len(sys.argv) - 1:
        np.testing.assert_allclose(jax.jit(inside(f))(at), middle, rtol=2e-5, err_msg=name)
        for other in (jax.vmap(f)(at[None])[0], jax.jit(f)(at), jax.lax.map(f, at[None])[0]):
            np.testing.assert_allclose(other, value, rtol=1e-7, err_msg=name)
assert () in used and {compiling._LESS, compiling._NONE} & set(used), set(used)
print("done")
"""


ALL = ["flow", "times", "descent", "limit", "event", "entropy flow", "entropy descent"]


@pytest.mark.long
@pytest.mark.parametrize("names", [["descent"], ALL], ids=["one", "all"])
def test_numbers_do_not_depend_on_optimization(names):
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = subprocess.run([sys.executable, "-c", PROGRAM, *names], env=plain, capture_output=True, text=True)
    assert run.stdout == "done\n", run.stderr[-3000:]
