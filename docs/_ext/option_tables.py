"""The directive `unhinged-command`: what a command does, how it is called, and a table of its arguments and options."""

import inspect
import sys
from pathlib import Path
from typing import get_args

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parents[2]))

from unhinged_jax.cli import app as cli


def described(name: str) -> tuple[str, list[str]]:
    """The call of a command in one line, and the paragraphs of its help without the list of parameters."""
    command = cli[name]
    text = inspect.cleandoc(command.default_command.__doc__ or "").partition("\nParameters\n---")[0]
    arguments = [one for one in rows(name) if not one[0].startswith("--")]
    shown = [one[0] if "required" in one[2] else f"[{one[0]}]" for one in arguments]
    must = [f"{one[0]} {one[1]}" for one in rows(name) if one[0].startswith("--") and one[2] == "required"]
    return " ".join(["unhinged", name, *shown, *must, "[OPTIONS]"]), text.strip().split("\n\n")


def rows(name: str) -> list[tuple[str, str, str, str]]:
    """(name, value, default, meaning) of every argument and option that `--help` shows."""
    found = []
    for argument in cli[name].assemble_argument_collection(parse_docstring=True):
        if not argument.show:
            continue
        option = next((one for one in argument.names if one.startswith("--")), None)
        positional = argument.field_info.kind not in (inspect.Parameter.KEYWORD_ONLY,)
        kind = argument.hint
        value = " or ".join(map(str, get_args(kind))) if _is_choice(kind) else _word(kind)
        default = "required" if argument.required else _default(argument.field_info.default)
        shown = (option or argument.names[0]).removeprefix("--").upper() if positional else option
        help_ = " ".join((argument.parameter.help or "").split())
        found.append((shown, "" if kind is bool else value, default, help_))
    return found


def _is_choice(kind) -> bool:
    return getattr(kind, "__origin__", None) is not None and all(isinstance(one, (str, int)) for one in get_args(kind))


def _word(kind) -> str:
    inner = [one for one in get_args(kind) if one not in (type(None), Ellipsis)]
    if inner and _is_choice(inner[0]):
        return " or ".join(map(str, get_args(inner[0])))
    many = getattr(kind, "__origin__", None) in (tuple, list)
    named = {"Path": "PATH", "str": "TEXT", "int": "NUMBER", "float": "NUMBER", "bool": ""}
    word = named.get(getattr(inner[0] if inner else kind, "__name__", ""), "TEXT")
    return f"{word} ..." if many else word


def _default(value) -> str:
    return "" if value in (None, False, (), []) or value is inspect.Parameter.empty else str(value)


class UnhingedCommand(SphinxDirective):
    """`.. unhinged-command:: NAME`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        call, paragraphs = described(self.arguments[0])
        parts: list[nodes.Node] = [nodes.literal_block(call, call, language="text")]
        for text in paragraphs:
            parts += self.parse_text_to_nodes(text)
        if listed := rows(self.arguments[0]):
            parts.append(self._table(listed))
        return parts

    def _table(self, listed: list[tuple[str, str, str, str]]) -> nodes.table:
        group = nodes.tgroup(cols=4)
        group += [nodes.colspec(colwidth=width) for width in (2, 2, 1, 5)]
        head, body = nodes.thead(), nodes.tbody()
        head += _row([nodes.paragraph("", text) for text in ("option", "value", "default", "meaning")])
        for name, value, default, meaning in listed:
            texts = [nodes.paragraph("", "", nodes.literal(name, name))]
            texts += [nodes.paragraph("", value), nodes.paragraph("", default), _sentence(meaning)]
            body += _row(texts)
        group += [head, body]
        table = nodes.table("", group)
        table["classes"].append("options")
        return table


def _sentence(text: str) -> nodes.paragraph:
    """Text in which `names` are code."""
    parts = enumerate(text.split("`"))
    return nodes.paragraph(
        "", "", *(nodes.literal(one, one) if at % 2 else nodes.Text(one) for at, one in parts if one)
    )


def _row(cells: list[nodes.paragraph]) -> nodes.row:
    row = nodes.row()
    row += [nodes.entry("", cell) for cell in cells]
    return row


def setup(app) -> dict:
    """Add the directive."""
    app.add_directive("unhinged-command", UnhingedCommand)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
