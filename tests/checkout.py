"""Where the checkout lies, for tests and scripts that read its pages and examples."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
