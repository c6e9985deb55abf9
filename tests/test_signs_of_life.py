"""While something compiles, a terminal says so within a second; anything else that reads the output sees nothing."""

import os
import subprocess
import sys

import pytest

COMPILES = """
import jax, time
from unhinged_jax._terminal import compiling_told

def slow(x):
    time.sleep(2.5)  # as tracing and compiling would take
    return 2 * x

with compiling_told():
    jax.jit(slow)(1.0).block_until_ready()
print("done")
"""


def heard(program, **environment):
    """What a program writes to standard error where that is a terminal."""
    ours, theirs = os.openpty()
    run = subprocess.Popen(
        [sys.executable, "-c", program], stderr=theirs, stdout=subprocess.PIPE, env={**os.environ, **environment}
    )
    os.close(theirs)
    said = b""
    try:
        while some := os.read(ours, 4096):
            said += some
    except OSError:  # the other end is closed
        pass
    assert run.communicate()[0].strip() == b"done" and run.returncode == 0
    os.close(ours)
    return said.decode()


def test_a_terminal_is_told_and_left_clean():
    said = heard(COMPILES)
    assert "compiling: 1 s" in said and "compiling: 2 s" in said
    assert said.split("\r")[-2].strip() == "" and said.endswith("\r")


def test_silence_can_be_asked_for():
    assert heard(COMPILES, UNHINGED_QUIET="1") == ""


def test_a_spinner_says_it_instead():
    within = COMPILES.replace("with compiling_told():", "with spinner('Simulating'), compiling_told():")
    said = heard(within.replace("import compiling_told", "import compiling_told, spinner"), TERM="xterm", COLUMNS="80")
    assert "Simulating: compiling" in said and "compiling: 2 s" not in said


def test_a_call_of_the_library_says_it():
    program = """
import jax
import unhinged_jax as uj
labels = uj.from_counts([3, 2, 1])
model = uj.regularized(labels, dim=3, decay=0.1)
run = uj.simulate(model, uj.Flow(), model.init(jax.random.key(0)), [1.0, 2.0], uj.all_observables)
print("done")
"""
    assert "compiling: " in heard(program, JAX_ENABLE_COMPILATION_CACHE="false")


@pytest.mark.parametrize("program", [COMPILES])
def test_a_pipe_gets_nothing(program):
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (run.stdout.strip(), run.stderr) == ("done", "")
