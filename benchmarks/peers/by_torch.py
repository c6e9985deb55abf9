"""PyTorch: a loop of autograd and SGD, torch.compile, torch.func.vmap, torchdiffeq."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.case import Case
from benchmarks.contender import Run
from benchmarks.peers.by_numpy import limit_direction


def torch_device() -> Any:
    """The accelerator JAX uses, if PyTorch can use it too; else the same cores."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    return torch.device("cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu")


def refuses(_case: Case) -> str | None:
    """No PyTorch for TPUs here; on the host it would be no comparison."""
    return "PyTorch has no TPU here" if jax.default_backend() == "tpu" else None


def synchronise(device: Any) -> None:
    """Wait for what is still running on the device."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def _loss_of(case: Case, device: Any) -> Callable[..., Any]:
    import torch
    from torch.nn import functional

    index = torch.as_tensor(case.index, device=device)

    def loss(H: Any, W: Any, gamma: float | Any) -> Any:
        if case.spherical:
            H = functional.normalize(H, dim=1)
        logits = H @ W.T
        if case.loss == "cross_entropy":
            return functional.cross_entropy(logits, index)
        own = logits.gather(1, index[:, None])[:, 0]
        return -((1 + gamma) * own - gamma * logits.sum(dim=1)).mean()

    return loss


def _observer(case: Case, device: Any, H: np.ndarray, W: np.ndarray) -> Callable[..., tuple[Any, ...]]:
    """(H, W) -> logged values, as tensors: the loop does not wait for them."""
    import torch
    from torch.nn import functional

    index, loss, gamma = torch.as_tensor(case.index, device=device), _loss_of(case, device), case.gammas[0]
    if case.spherical:
        targets = ((1 + gamma) * W - gamma * W.sum(axis=0))[case.index]
        limit = [targets / np.linalg.norm(targets, axis=1, keepdims=True)]
    else:
        limit = list(limit_direction(case, H, W)) if case.loss == "unhinged" else []
    limit = [torch.as_tensor(part, device=device) for part in limit]

    @torch.no_grad()
    def observe(H: Any, W: Any) -> tuple[Any, ...]:
        accuracy = ((H @ W.T).argmax(dim=1) == index).to(H.dtype).mean()
        norm = torch.sqrt((H**2).sum() + (W**2).sum())
        seen = (loss(H, W, gamma), accuracy, norm)
        if case.spherical:
            return (*seen, torch.linalg.norm(functional.normalize(H, dim=1) - limit[0]))
        if limit:
            square = ((H / norm - limit[0]) ** 2).sum() + ((W / norm - limit[1]) ** 2).sum()
            return (*seen, torch.sqrt(square))
        return seen

    return observe


def _named(saved: list[tuple[Any, ...]]) -> dict[str, np.ndarray]:
    columns = zip(*saved, strict=True)
    names = ("loss", "accuracy", "norm", "distance")
    return {name: np.array([float(x) for x in column]) for name, column in zip(names, columns, strict=False)}


def descent(case: Case, seed: int = 0) -> Run:
    """Autograd and `torch.optim.SGD`."""
    import torch

    device = torch_device()
    H0, W0 = case.start(seed)
    loss, observe, gamma = _loss_of(case, device), _observer(case, device, H0, W0), case.gammas[0]

    def run() -> dict[str, np.ndarray]:
        H = torch.tensor(H0, device=device, requires_grad=True)
        W = torch.tensor(W0, device=device, requires_grad=not case.spherical)
        optimizer = torch.optim.SGD([H] if case.spherical else [H, W], lr=case.rate)
        saved = [observe(H, W)]
        for k in range(1, case.steps + 1):
            optimizer.zero_grad()
            loss(H, W, gamma).backward()
            optimizer.step()
            if k % case.every == 0:
                saved.append(observe(H, W))
        synchronise(device)
        return _named(saved)

    return run


def descent_compiled(case: Case) -> Run:
    """A step of autograd and update under `torch.compile`."""
    import torch

    torch.compiler.reset()  # forget programs of other shapes
    device = torch_device()
    H0, W0 = case.start()
    loss, observe, gamma = _loss_of(case, device), _observer(case, device, H0, W0), case.gammas[0]

    @torch.compile
    def step(H: Any, W: Any) -> Any:
        moves = torch.func.grad(loss, argnums=(0, 1))(H, W, gamma)
        return H - case.rate * moves[0], W if case.spherical else W - case.rate * moves[1]

    def run() -> dict[str, np.ndarray]:
        H, W = (torch.tensor(part, device=device) for part in (H0, W0))
        saved = [observe(H, W)]
        with torch.no_grad():
            for k in range(1, case.steps + 1):
                H, W = step(H, W)
                if k % case.every == 0:
                    saved.append(observe(H, W))
        synchronise(device)
        return _named(saved)

    return run


def sweep_by_loop(case: Case) -> Run:
    """One run after another."""
    singles = [
        [descent(case.replace(gamma=(gamma,), seeds=1), seed) for gamma in case.gammas] for seed in range(case.seeds)
    ]

    def run() -> dict[str, np.ndarray]:
        rows = [[single() for single in row] for row in singles]
        return {name: np.array([[run[name] for run in row] for row in rows]) for name in rows[0][0]}

    return run


def sweep_by_vmap(case: Case) -> Run:
    """All runs a step at a time, by `torch.func.vmap` over `torch.func.grad`."""
    import torch
    from torch.func import grad, vmap

    device = torch_device()
    loss = _loss_of(case, device)
    index = torch.as_tensor(case.index, device=device)
    limits = [limit_direction(case, *case.start(seed)) for seed in range(case.seeds)]
    count = len(case.gammas)
    arrays = (*case.starts(), np.stack([H for H, _ in limits]), np.stack([W for _, W in limits]))
    start_H, start_W, limit_H, limit_W = (
        torch.as_tensor(np.repeat(part, count, axis=0), device=device) for part in arrays
    )
    gammas = torch.as_tensor(np.tile(np.asarray(case.gammas, case.dtype), case.seeds), device=device)
    gradient = vmap(grad(loss, argnums=(0, 1)))

    def observe(H: Any, W: Any) -> tuple[Any, ...]:
        accuracy = ((H @ W.mT).argmax(dim=2) == index).to(H.dtype).mean(dim=1)
        norm = torch.sqrt((H**2).sum(dim=(1, 2)) + (W**2).sum(dim=(1, 2)))
        size = norm[:, None, None]
        square = ((H / size - limit_H) ** 2).sum(dim=(1, 2)) + ((W / size - limit_W) ** 2).sum(dim=(1, 2))
        return vmap(loss)(H, W, gammas), accuracy, norm, torch.sqrt(square)

    def run() -> dict[str, np.ndarray]:
        H, W = start_H.clone(), start_W.clone()
        with torch.no_grad():
            saved = [observe(H, W)]
            for k in range(1, case.steps + 1):
                move_H, move_W = gradient(H, W, gammas)
                H.sub_(move_H, alpha=case.rate)
                W.sub_(move_W, alpha=case.rate)
                if k % case.every == 0:
                    saved.append(observe(H, W))
        synchronise(device)
        shape = (case.seeds, count, len(saved))
        stacked = [torch.stack(column, dim=1).cpu().numpy().reshape(shape) for column in zip(*saved, strict=True)]
        return dict(zip(("loss", "accuracy", "norm", "distance"), stacked, strict=True))

    return run


def flow(case: Case) -> Run:
    """torchdiffeq's default solver (dopri5) on autograd of the dense objective."""
    import torch
    from torchdiffeq import odeint

    device = torch_device()
    H0, W0 = case.start()
    loss, observe, gamma = _loss_of(case, device), _observer(case, device, H0, W0), case.gammas[0]
    times = torch.as_tensor(case.times, dtype=torch.as_tensor(H0).dtype, device=device)

    def run() -> dict[str, Any]:
        evaluations = 0

        def field(_t: Any, y: tuple[Any, Any]) -> tuple[Any, Any]:
            nonlocal evaluations
            evaluations += 1
            with torch.enable_grad():
                parts = [part.detach().requires_grad_() for part in y]
                moves = torch.autograd.grad(loss(*parts, gamma), parts)
            return tuple(-case.rate * (m + case.decay * x) for m, x in zip(moves, y, strict=True))

        start = tuple(torch.as_tensor(part, device=device) for part in (H0, W0))
        with torch.no_grad():
            solution = odeint(field, start, times, rtol=case.rtol, atol=case.rtol)
            saved = [observe(*state) for state in zip(*solution, strict=True)]
        synchronise(device)
        return {**_named(saved), "evaluations": evaluations}

    return run
