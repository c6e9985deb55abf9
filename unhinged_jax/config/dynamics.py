"""[dynamics]: flow, descent or diffusion, schedules, solvers and optimisers by name."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import diffrax
import optax

from unhinged_jax import _check, optimizers, schedules
from unhinged_jax.config.files import Files
from unhinged_jax.config.sections import DynamicsSection
from unhinged_jax.config.tables import call, check_arguments, given_keys, name_and_arguments, own, pick
from unhinged_jax.dynamics import MEMORIES, RATES, Descent, Diffusion, Dynamics, Flow, solves
from unhinged_jax.optimizers import Optimizer

_SCHEDULES = {
    function.__name__: function
    for function in (schedules.constant, schedules.cosine, schedules.exponential, schedules.polynomial,
                     schedules.piecewise, schedules.warmup, schedules.warmup_stable_decay,
                     schedules.join, schedules.numeric)
}  # fmt: skip


def _schedule(spec: float | str | dict, files: Files) -> Any:
    """A number, a callable "module:name", or a table whose kind is a constructor here or "module:name"."""
    if isinstance(spec, str) and ":" not in spec:
        raise ValueError(f"a schedule is a number, 'module:function' or a table with a kind, but got {spec!r}.")
    if isinstance(spec, str):
        return schedules.as_schedule(own(spec, {}, files, "schedule"))
    if not isinstance(spec, dict):
        return spec
    kind, arguments = name_and_arguments(spec, "kind", "schedule")
    constructor = files.function(kind) if ":" in kind else pick("schedule kind", kind, _SCHEDULES)
    if kind == "warmup" and "schedule" in arguments:
        arguments["schedule"] = _schedule(arguments["schedule"], files)
    if kind == "join" and isinstance(arguments.get("schedules"), list):
        arguments["schedules"] = [_schedule(each, files) for each in arguments["schedules"]]
    if kind == "numeric" and isinstance(arguments.get("function"), str):
        arguments["function"] = files.function(arguments["function"])
    return call(constructor, arguments, f"schedule {kind!r}")


_MEMORIES = {kind.__name__: kind for kind in MEMORIES}
_DRAWN = ("batch", "replacement", "fresh_labels")
_PACED = ("sam_radius", "clip_norm", "normalized")
_ONLY = {
    "flow": ("memory", "damping", "solver", "rtol", "atol", "max_steps", "steady", *_PACED),
    "descent": ("momentum", "nesterov", "optimizer", "memory", *_DRAWN, "seed", *_PACED),
    "diffusion": (*_DRAWN, "seed", "step", "halvings"),
}
_KINDS = {"flow": Flow, "descent": Descent, "diffusion": Diffusion}


def build_dynamics(section: DynamicsSection, files: Files) -> Dynamics:
    """Flow, descent or diffusion; a key of another kind is an error."""
    _check.choice("kind", section.kind, tuple(_ONLY))
    if files.data:  # named code is not run, and no picture needs rates
        section = DynamicsSection(section.kind)
    for name in given_keys(section, *dict.fromkeys(name for names in _ONLY.values() for name in names)):
        owners = [kind for kind, names in _ONLY.items() if name in names]
        if section.kind not in owners:
            raise ValueError(
                f"{name} belongs to kind = {' or '.join(map(repr, owners))}, but kind is {section.kind!r}."
            )
    given = given_keys(section, *_ONLY[section.kind])
    if given.pop("seed", None) is not None and not given_keys(section, "batch", "fresh_labels"):
        raise ValueError("seed is that of what updates draw, but none draws anything; give `batch` or `fresh_labels`.")
    for name, spec in given_keys(section, "schedule", *RATES).items():
        given[name] = _schedule(spec, files)
    if "memory" in given:
        kind, arguments = name_and_arguments(given["memory"], "kind", "memory")
        given["memory"] = call(pick("memory", kind, _MEMORIES), arguments, f"memory {kind!r}")
    if "solver" in given:
        given["solver"] = _solver(given["solver"])
    if "optimizer" in given:
        given["optimizer"] = _optimizer(given["optimizer"], files)
    return _KINDS[section.kind](**given)


def _solver(name: str) -> Any:
    """A diffrax solver of ordinary differential equations that estimates its error."""
    known = {key: kind for key, kind in vars(diffrax).items() if inspect.isclass(kind) and solves(kind)}
    return pick("solver", name, known)()


def _optimizer(spec: str | dict, files: Files) -> Optimizer:
    name, arguments = name_and_arguments(spec, "name", "optimizer")
    factory = files.function(name) if ":" in name else _named(name)
    check_arguments(factory, arguments, f"optimizer {name!r}")
    return Optimizer(factory, **arguments)


def _named(name: str) -> Any:
    """A constructor of optax or of this package that subtracts a learning rate times something."""
    offered = {key: value for room in (optax, optimizers) for key, value in vars(room).items()
               if (inspect.isfunction(value) or isinstance(value, partial)) and not key.startswith("_")}  # fmt: skip
    whole = {key: value for key, value in offered.items()
             if (not key.startswith("scale_by_") or key == "scale_by_learning_rate")
             and {"learning_rate", "max_learning_rate"} & inspect.signature(value).parameters.keys()}  # fmt: skip
    if name in offered and name not in whole:
        raise ValueError(
            f"{name!r} is not an optax optimiser by itself: nothing subtracts what it returns, so that a descent would "
            "go uphill. Name one, such as 'adam', or as 'module:name' a function of your own that puts it into an "
            "optax.chain with optax.scale_by_learning_rate."
        )
    return pick("optimizer", name, whole)


def optimizer_of(spec: str | dict, folder: Path) -> optax.GradientTransformation:
    """An optax optimiser from its name, or from a table with its name and arguments."""
    return _optimizer(spec, Files(folder)).built()
