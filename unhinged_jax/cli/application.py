"""The application that the commands are registered on."""

from __future__ import annotations

from cyclopts import App, Parameter


def _version() -> str:
    from unhinged_jax import __version__

    return __version__


app = App(
    name="unhinged",
    help="Learning dynamics of the layer-peeled model: simulated, solved exactly, compared.",
    version=_version,
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,  # `main` says what remains
)
app.register_install_completion_command(help="Let the shell complete commands and options, from its next start.")
