"""The command that lists the keys of configuration files."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from unhinged_jax.cli.application import app

_INTRO = """\
# Configuration files: every key

A run is described by a TOML file with the sections below; `unhinged simulate FILE --out FOLDER`
runs it, and [commands](commands.md) has examples. A plan of a sweep has a section `[sweep]` in
addition, and a design has `[design]`. An unknown key is an error that names the nearest known one.
An array is written in the file, or given as the path of a `.npy` or `.npz` file, which may end in
`:key`. `"module:name"` names [code of your own](commands.md#code-of-your-own-in-a-file).

`unhinged keys model` prints the keys of one section. `unhinged keys --schema >
unhinged.schema.json` writes a JSON schema; with `#:schema unhinged.schema.json` as the first line
of a file, editors complete its keys and check its values.

<!-- `unhinged keys --page` writes this page. -->
"""


@app.command
def keys(
    *sections: str,
    page: Annotated[bool, Parameter(show=False)] = False,
    schema: bool = False,
) -> int:
    """List the keys that configuration files may have, with their types, defaults and meanings.

    Parameters
    ----------
    sections
        Sections to list, such as model or sweep; all of them if none is given.
    schema
        Print a JSON schema instead, with which editors complete and check keys.
    """
    import json

    from unhinged_jax import _check
    from unhinged_jax.config.reference import page as page_of
    from unhinged_jax.config.reference import run_sections
    from unhinged_jax.config.reference import schema as schema_of
    from unhinged_jax.designs.sections import DesignSection, FreeSection, GoalSection, ReferenceSection
    from unhinged_jax.sweeps.plan import SweepSection

    known: dict[str, type] = {
        **run_sections(), "sweep": SweepSection, "design": DesignSection, "design.free.KEY": FreeSection,
        "design.goal": GoalSection, "design.reference": ReferenceSection,
    }  # fmt: skip
    if schema:
        tables = {name: kind for name, kind in known.items() if name not in ("design.free.KEY", "design.goal")}
        print(json.dumps(schema_of(tables), indent=1, ensure_ascii=False))
        return 0
    if page:
        print(_INTRO)
        print(page_of(known), end="")
        return 0
    for name in sections:
        _check.choice("section", name, tuple(known))
    for name in sections or known:
        _print(name, known[name])
    return 0


def _print(name: str, section: type) -> None:
    """One section as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from unhinged_jax.config.reference import default_of, in_words, keys_of

    table = Table(
        title=Text(f"[{name}]", style="bold"), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for heading in ("key", "value", "default", "meaning"):
        table.add_column(heading, no_wrap=heading == "key", overflow="fold")
    for key in keys_of(section):
        table.add_row(*map(Text, (key.name, in_words(key), default_of(key), key.meaning)))
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    console.print()
