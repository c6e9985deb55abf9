"""Formulas of the comparison page: Unicode between backquotes becomes TeX between dollars; code stays code."""

from __future__ import annotations

import math
import re

_CODE = re.compile(r"unhinged |python |[a-z]{4,}[a-z._]*$")  # commands and names of functions
_GREEK = {
    "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta", "κ": "kappa", "λ": "lambda",
    "μ": "mu", "ρ": "rho", "σ": "sigma", "τ": "tau", "ω": "omega", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda",
}  # fmt: skip
_SIGNS = {
    "−": "-", "·": r"\cdot ", "≤": r"\leq ", "≥": r"\geq ", "→": r"\to ", "∝": r"\propto ", "∫": r"\int ",
    "‖": r"\Vert ", "∞": r"\infty ", "½": r"\frac{1}{2}", "Ŵ": r"\hat W ", "ᵀ": r"^\top ",
}  # fmt: skip
_LOW = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_HIGH = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_WORDS = re.compile(r"(?<![\\A-Za-z])(log|ln|exp|max|min|sinh|cosh)(?![A-Za-z])")
_OTHERS = re.compile(r"(?<![\\A-Za-z])(eig|tr|sign|updates)(?![A-Za-z])")


def typeset(text: str) -> str:
    r"""A text whose formulas, between backquotes, are TeX.

    Example:
        >>> typeset("zero at `C√(Nλ₁λ₂) = 1`, by `unhinged verify`")
        'zero at $C\\sqrt{N\\lambda_1\\lambda_2} = 1$, by `unhinged verify`'
    """
    return re.sub(r"`([^`]+)`", lambda found: found[0] if _CODE.match(found[1]) else f"${tex(found[1])}$", text)


def tex(formula: str) -> str:
    r"""A formula in Unicode as TeX.

    Example:
        >>> tex("e^(−2κt)"), tex("Σ_W^(−½)"), tex("(4t/N)^¼"), tex("½ Σ 1/(C + ω²)")
        ('e^{-2\\kappa t}', '\\Sigma_W^{-1/2}', '(4t/N)^{1/4}', '\\frac{1}{2} \\sum 1/(C + \\omega^{2})')
    """
    text = re.sub(r"\^([¼½])", lambda m: f"^({'1/4' if m[1] == '¼' else '1/2'})", formula)
    text = re.sub(r"\^\(([−-]?)½\)", r"^(\g<1>1/2)", text)
    text = _braced(_braced(text, "√", r"\sqrt"), "^", "^")
    text = re.sub(r"√(\w)", r"\\sqrt{\1}", text)
    text = re.sub("Σ(?=_)", r"\\Sigma ", text).replace("Σ", r"\sum ")
    text = re.sub("W\N{COMBINING TILDE}", r"\\tilde W ", text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^{" + "".join(_HIGH[c] for c in m[0]) + "}", text)
    text = "".join(f"_{_LOW[c]}" if c in _LOW else _SIGNS.get(c, f"\\{_GREEK[c]} " if c in _GREEK else c) for c in text)
    text = _OTHERS.sub(r"\\operatorname{\1}", _WORDS.sub(r"\\\1", text))
    return re.sub(r" (?=[ _^',)}]|$)", "", text)


def _braced(text: str, sign: str, command: str) -> str:
    """What stands in parentheses after a sign stands in braces instead."""
    while f"{sign}(" in text:
        start = text.index(f"{sign}(")
        depth, end = 1, start + 2
        while depth and end < len(text):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        text = f"{text[:start]}{command}{{{text[start + 2 : end - 1]}}}{text[end:]}"
    return text


def number(value: float) -> str:
    r"""A number with two digits, in TeX where it needs a power of ten.

    Example:
        >>> number(3.1e-10), number(1e-8), number(0.5), number(-0.0209)
        ('$3.1\\times10^{-10}$', '$10^{-8}$', '0.5', '−0.021')
    """
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:.2g}".replace("-", "−") if abs(value) < 100 else f"{value:,.0f}".replace("-", "−")
    digits, power = f"{value:.1e}".split("e")
    mantissa = "" if digits == "1.0" else "-" if digits == "-1.0" else f"{digits}\\times"
    return f"${mantissa}10^{{{int(power)}}}$"
