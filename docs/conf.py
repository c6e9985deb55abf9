"""Configuration of the documentation: `python -m sphinx -W -b html docs OUT`."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # what the pages show is to be the same everywhere
os.environ.setdefault("UNHINGED_QUIET", "1")  # no line that says "compiling"

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

project = "unhinged_jax"
author = "The unhinged-jax developers"
copyright = f"{author}; Apache License 2.0"
release = version = importlib.metadata.version("unhinged-jax")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
# Notebooks are copied in (below); their text pairs would be the same pages again.
exclude_patterns = ["_build", "notebooks/*.py", "notebooks/README.md"]
# Pages that other commands write may not be there yet.
suppress_warnings = ["toc.empty_glob"]

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

# API pages. A name in single backquotes is a link where it is one of ours, and code otherwise.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the text says it
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
napoleon_use_rtype = False

# Pages. MathJax is one file that needs no other: equations are there without a network.
html_theme = "furo"
html_title = f"unhinged_jax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
mathjax_path = "tex-svg.js"
mathjax3_config = {"svg": {"fontCache": "global"}, "options": {"enableMenu": False}}
_mathjax = importlib.util.find_spec("sphinx-mathjax-offline")
if _mathjax is None or _mathjax.origin is None:
    raise ModuleNotFoundError("the documentation needs MathJax: pip install 'unhinged-jax[docs]'")
html_static_path.append(str(Path(_mathjax.origin).parent / "static" / "mathjax" / mathjax_path))


def _copy_notebooks() -> None:
    """Sphinx reads only what lies below its own folder; links into it are made to fit."""
    target = HERE / "notebooks"
    shutil.rmtree(target, ignore_errors=True)
    for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        target.mkdir(exist_ok=True)
        text = notebook.read_text(encoding="utf-8")
        (target / notebook.name).write_text(text.replace("](../docs/", "](../"), encoding="utf-8")


_copy_notebooks()


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


def setup(app) -> None:
    """Before napoleon, which has priority 500."""
    app.connect("autodoc-process-docstring", _as_rst, priority=400)
