"""Blocks through any executor: a window of tasks in flight, retries when workers die, a stop when the disk is full."""

from __future__ import annotations

import ast
import concurrent.futures
import errno
import multiprocessing
import multiprocessing.resource_tracker
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any

from unhinged_jax import _interrupt
from unhinged_jax.sweeps.work import BlockOutcome, Source, initialize, run_blocks

Task = tuple[int, ...]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TRIES = 3
_GRACE = 5.0
"""Seconds that workers have to finish their current blocks when they are told to end."""


class StoreFull(OSError):
    """There is no space left for the store."""


class Here(Executor):
    """An executor without workers: runs a task when it is submitted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` now."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def processes(count: int, single_threaded: bool = True) -> Callable[[], Executor]:
    """A maker of pools of local processes. They are spawned: a fork of a process that has used JAX hangs."""
    _refuse_without_guard()

    def make() -> Executor:
        _start_tracker()
        return concurrent.futures.ProcessPoolExecutor(
            count,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=initialize,
            initargs=(single_threaded,),
        )

    return make


def _refuse_without_guard() -> None:
    """Raise ValueError in a script whose import would sweep again, because every worker imports the script that started
    it."""
    main = sys.modules["__main__"]
    frame = sys._getframe()
    while frame.f_back is not None and not (frame.f_globals is vars(main) and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    path, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if path is None or frame.f_globals is not vars(main) or (spec is not None and spec.name.endswith("__main__")):
        return  # a notebook, another thread, a package: workers do not import it
    if path == "<stdin>":
        raise ValueError(
            "worker processes cannot import a script from standard input; save it in a file, or give workers=0."
        )
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.If) and node.lineno <= frame.f_lineno]
    if not any("__name__" in (text := ast.unparse(node.test)) or "parent_process" in text for node in tests):
        raise ValueError(
            f"{path}, line {frame.f_lineno}: worker processes import the script that starts them, so call this under "
            "`if __name__ == '__main__':`, or give workers=0."
        )


def _start_tracker() -> None:
    """Start the process that cleans up after others. If Python started it, it would let Ctrl-C through to the next
    worker, and would warn about what it cleans up after a command that was killed."""
    options = list(sys.warnoptions)
    sys.warnoptions.append("ignore::UserWarning:multiprocessing.resource_tracker")
    try:
        with _interrupt.deaf_children():
            multiprocessing.resource_tracker.ensure_running()
    finally:
        sys.warnoptions[:] = options


def drive(
    make: Callable[[], Executor],
    path: str,
    tasks: Iterable[Task],
    *,
    window: int,
    owned: bool,
    retry: bool,
    told: Callable[[BlockOutcome], None],
    waiting: Callable[[], None] = lambda: None,
    source: Source = None,
) -> dict[Task, str]:
    """Run tasks to the end.

    Args:
        make: Makes an executor; called again when one breaks.
        path: The store.
        tasks: Blocks that go into one call each.
        window: Largest number of tasks in flight. One more than the number of workers keeps them busy, and few are
            suspect when one dies.
        owned: Whether to shut the executors down at the end.
        retry: See `run_blocks`.
        told: Called for every committed block.
        waiting: Called from time to time.
        source: See `run_blocks`.

    Returns:
        Tasks that could not be done, with the reason.

    Raises:
        StoreFull: when there is no space left; what is committed stays.
    """
    pending, running, tries, given_up = deque(tasks), dict[Any, Task](), dict[Task, int](), dict[Task, str]()
    executor = make()
    try:
        while pending or running:
            _interrupt.check()
            broken = False
            while pending and len(running) < window:
                try:
                    with _interrupt.deaf_children():
                        future = executor.submit(run_blocks, path, pending[0], retry, source)
                    running[future] = pending[0]
                    pending.popleft()
                except BrokenExecutor:
                    broken = True
                    break
            done = concurrent.futures.wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done
            waiting()
            for future in done:
                task = running.pop(future)
                try:
                    for outcome in future.result():
                        told(outcome)
                except BrokenExecutor:
                    broken = True
                    _blame(task, "its worker died", tries, given_up, pending)
                except OSError as error:
                    if error.errno in _FULL:
                        raise StoreFull(error.errno, "no space left for the store", path) from error
                    given_up[task] = _told(error)
                except Exception as error:
                    given_up[task] = _told(error)
            if broken:
                for task in running.values():
                    _blame(task, "its worker died", tries, given_up, pending)
                running.clear()
                if owned:
                    _end(executor)
                executor = make()
    except KeyboardInterrupt:
        if not owned:
            concurrent.futures.wait(running, _GRACE)  # a caller that counts blocks then counts these
        raise
    finally:
        for future in running:
            future.cancel()
        if owned:
            _end(executor)
    return given_up


def _end(executor: Executor) -> None:
    """Shut down an executor: workers finish the blocks in hand, or are killed if that takes too long."""
    workers = list((getattr(executor, "_processes", None) or {}).values())
    for worker in workers:
        worker.terminate()
    end = time.monotonic() + _GRACE
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
        if worker.is_alive():
            worker.kill()
    executor.shutdown(wait=True, cancel_futures=True)


def _blame(task: Task, reason: str, tries: dict[Task, int], given_up: dict[Task, str], pending: deque[Task]) -> None:
    """Any task in flight may have brought a worker down; one that was there every time is given up."""
    tries[task] = tries.get(task, 0) + 1
    if tries[task] < _TRIES:
        pending.append(task)
    else:
        given_up[task] = f"{reason} {_TRIES} times (out of memory? Smaller `lanes` make blocks smaller)."


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
