"""Checks of a request, before anything compiles: numbers, optimiser, signal, tolerances, rates and times."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unhinged_jax import _check, _memory, _numbers
from unhinged_jax import precision as _precision
from unhinged_jax.dynamics import RATES, Descent, Diffusion, Dynamics, Flow, check_dynamics
from unhinged_jax.losses import Custom, Loss
from unhinged_jax.losses.objects import PARAMETERS
from unhinged_jax.model import LayerPeeled, checked
from unhinged_jax.optimizers import Optimizer
from unhinged_jax.schedules import Numeric, Schedule
from unhinged_jax.schedules.elapsed import integrated_outside


def check_kinds(model: object, dynamics: object) -> None:
    """Raise unless these are a model, of settings that are allowed, and a dynamics."""
    _check.kind("model", model, LayerPeeled)
    _check.kind("dynamics", dynamics, Flow, Descent, Diffusion)
    checked(model)  # type: ignore[arg-type]


def check_deep(model: LayerPeeled, dynamics: Dynamics, caller: str) -> None:
    """Raise if a model of more than two factors is given to a function or with a dynamics that does not take it."""
    if model.depth == 2:
        return
    if caller in ("push_forward", "lyapunov"):
        raise ValueError(f"`{caller}` takes models of depth 2, but this one has depth {model.depth}; give depth=2.")
    if dynamics.memory is not None:
        raise ValueError(f"a model of depth {model.depth} takes no `memory`; leave it out, or give depth=2.")
    if dynamics.stochastic:
        raise ValueError(
            f"a model of depth {model.depth} follows the gradient of all samples with their own labels; give a Flow "
            "or a Descent without `batch` and `fresh_labels`."
        )


def check_numbers(model: LayerPeeled, dynamics: Dynamics) -> None:
    """Raise for an array in place of a number, because it would act as one number for each coordinate."""
    named = (*RATES, "momentum", "damping", "batch", "sam_radius", "clip_norm")
    given = {name: getattr(dynamics, name, None) for name in named}
    given = {name: value for name, value in given.items() if not callable(value) and jax.tree_util.all_leaves([value])}
    given |= {name: getattr(model, name) for name in ("decay_H", "decay_W", "decay_b", "exponent")}
    given |= {f"loss.{name}": getattr(model.loss, name, None) for name in PARAMETERS}
    if dataclasses.is_dataclass(dynamics.memory):  # another object is refused later
        fields = dataclasses.fields(dynamics.memory)
        given |= {f"memory.{field.name}": getattr(dynamics.memory, field.name) for field in fields}
        given.pop("memory.betas", None)
    optimizer = getattr(dynamics, "optimizer", None)
    if optimizer is not None:
        single = {name: value for name, value in optimizer.numbers.items() if jax.tree_util.all_leaves([value])}
        given |= {f"optimizer.{name}": value for name, value in single.items()}
    shapes = {name: _check.shape_of(name, value) for name, value in given.items() if value is not None}
    schedule = dynamics.schedule
    ours = type(schedule).__module__.startswith("unhinged_jax.")
    plain = ours and not any(map(np.ndim, jax.tree.leaves(schedule)))  # made of single numbers, so it gives one
    looked_at = not isinstance(schedule, Schedule) or isinstance(schedule, Numeric)  # these are checked elsewhere
    if not plain and not looked_at:
        shapes["the rate of the schedule"] = jax.eval_shape(dynamics.schedule, 0.0).shape
    for name, shape in shapes.items():
        if shape:
            raise ValueError(
                f"{name} must be one number, but has shape {shape}; for a batch, build model and dynamics inside the "
                "function that jax.vmap maps over the batch."
            )
    if np.ndim(model.labels.index) != 1:
        raise ValueError(
            f"labels must be those of one problem, one per sample, but have shape {np.shape(model.labels.index)}; use "
            "jax.vmap to map over a batch."
        )


def check_optimizer(optimizer: Optimizer, shapes: tuple[tuple[int, ...], ...], precision: str) -> None:
    """Raise unless an optax optimiser needs nothing but gradients, its memory and the parameters for an update."""
    why = optimizer.why_not_stepped(shapes, precision)
    if why:
        raise ValueError(
            f"this optimizer cannot be stepped from gradients, its memory and the parameters alone ({why}); those that "
            "also ask for the loss, such as optax.lbfgs, polyak_sgd and reduce_on_plateau, are not offered: use "
            "another, such as optax.adam."
        )


def check_held_out(model: LayerPeeled, dynamics: Dynamics) -> None:
    """Raise if samples that are held out might take part in the training, because an optimiser sees all gradients."""
    optimizer = getattr(dynamics, "optimizer", None)
    if model.labels.held_out is None or not model.moves.H or optimizer is None or optimizer.by_entry:
        return
    decays = not _check.concrete(model.decay_H) or bool(np.any(np.asarray(model.decay_H) != 0))
    if model.kernel is not None or decays:
        raise ValueError(
            "a kernel or a decay moves the samples that are held out, and this optimizer may look at their gradient "
            "when it moves the others; give a plain Descent, an optimizer of optax that takes each number alone, such "
            "as optax.adam, or labels without samples held out."
        )


_agreed: set[tuple[Any, int]] = set()
_LARGEST = 10_000_000  # entries; a larger signal is not checked


def check_signal(model: LayerPeeled) -> None:
    """Raise unless the signal of a loss from outside this package is minus its gradient, at small and large logits.

    Reduced simulations and closed forms read the signal and not the loss, so with a wrong signal they would agree with
    each other. Each combination of loss and labels is checked once.
    """
    name = type(model.loss.function if isinstance(model.loss, Custom) else model.loss).__name__
    ours = type(model.loss).__module__.startswith("unhinged_jax.") and not isinstance(model.loss, Custom)
    large = model.samples * model.classes > _LARGEST
    if ours or large or not model.loss.linear or not _check.concrete(model):
        return
    leaves, structure = jax.tree.flatten((model.loss, model.labels))
    kind = (structure, hash(tuple(np.asarray(leaf).tobytes() for leaf in leaves)))
    if kind in _agreed:
        return
    with _precision.scope("float64"), jax.ensure_compile_time_eval():  # numbers, even inside jax.jit
        signal = _memory.read(model.signal().dense("float64"))
        logits = np.random.default_rng(0).normal(size=(2, *signal.shape)) * np.array([1.0, 30.0])[:, None, None]
        slopes = np.stack([_memory.read(jax.grad(model.loss_of_logits)(jnp.asarray(each))) for each in logits])
    apart, size = float(np.max(np.abs(signal + slopes))), float(np.max(np.abs(slopes)))
    if not apart <= 1e-5 * size:
        if type(model.loss).signal is Loss.signal:
            raise ValueError(
                f"{name} says `linear = True`, but its gradient with respect to the logits is not constant: at random "
                f"logits it differs by up to {apart:.2g} from that at 0, and it has entries up to {size:.2g}; leave "
                "`linear` out."
            )
        raise ValueError(
            f"{name}.signal is not minus the gradient of the loss with respect to the logits: they differ by up to "
            f"{apart:.2g}, and the gradient has entries up to {size:.2g}; check the weights and the sign of the signal."
        )
    _agreed.add(kind)


def check_tolerance(flow: Flow, precision: str) -> None:
    """Raise for tolerances of a flow that are below what its precision can resolve."""
    floor = 10 * float(np.finfo(precision).eps)
    for name in ("rtol", "atol"):
        value = getattr(flow, name)
        if value is not None and value < floor and (name == "rtol" or value < floor * 1e-10):
            raise ValueError(
                f"{name} = {value:g} is below what {precision} can resolve ({floor:.1g}); use precision='float64' or a "
                "larger tolerance."
            )


def check_rates(
    dynamics: Dynamics, first: float | jax.Array, times: np.ndarray | jax.Array, precision: str, caller: str
) -> None:
    """Raise for rates that are not allowed, and for times of a flow that are equal in its precision."""
    last = times[-1] if _check.concrete(times) else times
    by_exact = caller == "exact" and isinstance(dynamics, Flow) and integrated_outside(dynamics.schedule)
    check_dynamics(dynamics, first, last, integrated=by_exact, compiled=caller in ("event_time", "sensitivity"))
    if caller == "simulate" and precision == "float32" and isinstance(dynamics, Flow) and isinstance(times, np.ndarray):
        _check_apart(times)


def checked_times(
    times: Any, dynamics: Dynamics, first: float | jax.Array, caller: str
) -> tuple[np.ndarray | jax.Array, Any]:
    """The times as an array, (T,), and the start, after a check; both in 64 bits unless they are traced."""
    simulated = caller == "simulate" and isinstance(dynamics, Diffusion)
    if not _check.concrete(times):
        if isinstance(dynamics, Descent) or simulated:
            counts = "times at which a simulated Diffusion" if simulated else "numbers of updates at which a Descent"
            raise ValueError(
                f"the {counts} is observed must be known when it is compiled; give `times` as a NumPy array or list, "
                "not as a traced value."
            )
        return times, first
    array = _numbers.counts("times", times)
    if not np.all(np.isfinite(array)):
        raise ValueError("times must be finite, but hold NaN or infinity.")
    if np.any(np.diff(array) <= 0):
        where = int(np.argmax(np.diff(array) <= 0))
        raise ValueError(
            f"times must be strictly ascending, but {array[where]} is followed by {array[where + 1]}; sort them and "
            "drop repeats (np.unique does both)."
        )
    if not _check.concrete(first):  # a flow inside jax.vmap or jax.jit
        return array.astype(float), first
    start = np.asarray(first)
    if start.dtype == np.float32 and np.float32(array[0]) == start:
        start = array[0]  # this is the same time, which a run in float32 has rounded
    if array[0] < start:
        raise ValueError(f"times must not lie before the start, {start}, but the first is {array[0]}.")
    if isinstance(dynamics, Descent):
        if np.any(array != np.round(array)):
            raise ValueError("times of a Descent count updates and must be whole numbers; round them, or use a Flow.")
        if array[-1] >= 2**63:
            raise ValueError(f"times of a Descent must fit 64 bits, but the last is {array[-1]:g}; use a Flow.")
        return array.astype(np.int64), int(start)
    if simulated:
        _check_on_grid(np.append(start, array), dynamics.step)  # type: ignore[union-attr]
    return array.astype(float), float(start)


def _check_on_grid(times: np.ndarray, step: float) -> None:
    """Raise for a time of a simulated diffusion at which no step ends."""
    counts = times / step
    rounded = np.minimum(float(np.finfo(np.float32).eps) * counts, 0.25)  # an end that a run in float32 has rounded
    off = np.abs(counts - np.round(counts)) > np.maximum(rounded, 1e-6)
    if np.any(off):
        where = float(times[np.argmax(off)])
        raise ValueError(
            f"times of a simulated Diffusion must be multiples of its step, {step:g}, but {where:g} is not; give "
            "another step, or round the times, as in `np.round(times / step) * step`."
        )
    if counts[-1] >= 2**31:
        raise ValueError(f"a simulated Diffusion makes up to 2**31 steps, but this would be {counts[-1]:.3g}.")


def _check_apart(times: np.ndarray) -> None:
    """Raise if two times of a flow are the same number in float32."""
    same = np.diff(times.astype(np.float32)) <= 0
    if np.any(same):
        where = int(np.argmax(same))
        raise ValueError(
            f"times {times[where]} and {times[where + 1]} are the same number in float32; give precision='float64', or "
            "times farther apart."
        )
