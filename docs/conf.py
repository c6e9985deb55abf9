"""Configuration of the documentation: `python -m sphinx -W -b html docs OUT`."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # what the pages show is to be the same everywhere
os.environ.setdefault("UNHINGED_QUIET", "1")  # no line that says "compiling"

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from used_in import used_in  # noqa: E402

project = "unhinged_jax"
author = "The unhinged-jax developers"
copyright = f"{author}; Apache License 2.0"
release = version = importlib.metadata.version("unhinged-jax")

extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.intersphinx", "sphinx.ext.mathjax",
    "sphinx.ext.napoleon", "sphinx.ext.viewcode", "linked_files", "option_tables",
]  # fmt: skip
templates_path = ["_templates"]
# Notebooks are copied in (below); their text pairs would be the same pages again.
exclude_patterns = ["_build", "_templates", "notebooks/*.py", "notebooks/README.md"]
# Pages that other commands write may not be there yet.
suppress_warnings = ["toc.empty_glob"]


def _documented() -> list[str]:
    """The names in the summary tables of the reference, each of which has a page."""
    found: list[str] = []
    for page in sorted((HERE / "api").glob("*.md")):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith(".. currentmodule:: "):
                module = line.split()[-1]
            elif module and re.fullmatch(r"   \w+", line):
                found.append(f"{module}.{line.strip()}")
    return found


DOCUMENTED = _documented()
_LOWER = [name.lower() for name in DOCUMENTED]


# Text and code
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "smartquotes"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 240
nb_execution_excludepatterns = ["notebooks/*"]  # they keep their outputs, and have a test of their own
nb_merge_streams = True
nb_ipywidgets_js: dict = {}  # nothing from the network
# An error is shown as its message, without the files of the machine that built the page.
_ipython = tempfile.TemporaryDirectory()  # until the build ends
_profile = Path(_ipython.name) / "profile_default"
_profile.mkdir()
(_profile / "ipython_kernel_config.py").write_text('c.InteractiveShell.xmode = "Minimal"\n', encoding="utf-8")
os.environ["IPYTHONDIR"] = _ipython.name

# API pages. A name in single backquotes is a link where it is one of ours, and code otherwise.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
napoleon_use_rtype = False
autosummary_context = {
    "used_in": {name: used_in(name) for name in DOCUMENTED},
    # The way back from the source takes one package for all names of a module.
    "two_homes": ["unhinged_jax.derivatives.available", "unhinged_jax.schedules.as_schedule"],
    "shown_members": {"unhinged_jax.Optimizer": "init, update, replace, built"},
}
# Names that differ only by case, such as `limit` and `Limit`, which not all file systems tell apart.
autosummary_filename_map = {
    name: f"{name}-class" for name in DOCUMENTED if _LOWER.count(name.lower()) > 1 and not name.islower()
}
_ARRAY = "numpy.typing.ArrayLike"  # by its name, not as what it stands for
autodoc_type_aliases = {"ArrayLike": _ARRAY, "npt.ArrayLike": _ARRAY, "Observe": "Observe"}
# Names of other packages in our signatures: inventories that are kept here, so that building needs no network.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "_inventories/python.inv"),
    "numpy": ("https://numpy.org/doc/stable/", "_inventories/numpy.inv"),
    "jax": ("https://docs.jax.dev/en/latest/", "_inventories/jax.inv"),
    "xarray": ("https://docs.xarray.dev/en/stable/", "_inventories/xarray.inv"),
    "pandas": ("https://pandas.pydata.org/docs/", "_inventories/pandas.inv"),
}
intersphinx_disabled_reftypes = ["std:*"]

# Pages. MathJax is one file that needs no other: equations are there without a network.
html_theme = "furo"
html_title = f"unhinged_jax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["typeset.js"]
html_copy_source = False
html_show_sourcelink = False
mathjax_path = "tex-svg.js"
mathjax3_config = {"startup": {"typeset": False}, "svg": {"fontCache": "global"}, "options": {"enableMenu": False}}
_mathjax = importlib.util.find_spec("sphinx-mathjax-offline")
if _mathjax is None or _mathjax.origin is None:
    raise ModuleNotFoundError("the documentation needs MathJax: pip install 'unhinged-jax[docs]'")
html_static_path.append(str(Path(_mathjax.origin).parent / "static" / "mathjax" / mathjax_path))


def _copy_notebooks() -> None:
    """Sphinx reads only what lies below its own folder; links into it are made to fit, and one to the file is added."""
    target = HERE / "notebooks"
    shutil.rmtree(target, ignore_errors=True)
    for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        target.mkdir(exist_ok=True)
        content = json.loads(notebook.read_text(encoding="utf-8").replace("](../docs/", "](../"))
        files = [f"{{download}}`{ending} <../../notebooks/{notebook.stem}.{ending}>`" for ending in ("ipynb", "py")]
        content["cells"][0]["source"] += [f"\n\nDownload this notebook: {files[0]} or, as a script, {files[1]}."]
        (target / notebook.name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


_copy_notebooks()
shutil.rmtree(HERE / "api" / "generated", ignore_errors=True)


def _as_rst(_app, _what, _name, _obj, _options, lines) -> None:
    """Docstrings are plain text: ||h||, 2*x and x_ are mathematics, not markup."""
    for place, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        # Between backquotes nothing is touched.
        parts = re.split(r"(`[^`]*`)", line)
        parts[::2] = [re.sub(r"(?<!\\)([|*])|(?<=\w)(_)(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
        parts[2::2] = [re.sub(r"^(?=\w)", r"\\ ", part) for part in parts[2::2]]  # `State`s
        lines[place] = "".join(parts)


def _plain_types(_app, _what, _name, _obj, _options, signature, returned) -> tuple[str | None, str | None]:
    """Sphinx shows an alias within a union as it stores it."""
    plain = [one and re.sub(r"TypeAliasForwardRef\('([\w.]+)'\)", r"\1", one) for one in (signature, returned)]
    return plain[0], plain[1]


def setup(app) -> None:
    """Before napoleon, which has priority 500."""
    app.connect("autodoc-process-signature", _plain_types)
    app.connect("autodoc-process-docstring", _as_rst, priority=400)
