"""Sphinx's configuration. `make docs` turns every warning into an error."""

import picows

project = "picows"
author = "the picows founders"
copyright = "2026, the picows founders"
release = picows.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"

html_theme = "furo"
html_title = f"picows {release}"
copybutton_exclude = ".linenos, .gp, .go"
