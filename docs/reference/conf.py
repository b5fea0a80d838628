"""The API reference, built from docstrings by Sphinx: ``bash scripts/docs.sh``."""

import pydoc

import EAT

project = "EAT"
version = release = EAT.__version__
html_title = f"EAT {version}"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
nitpicky = True  # a name that is pointed at must exist
nitpick_ignore_regex = [("py:class", r"Tensor|Targets|NDArray|np\.float32")]  # fields of named tuples, as written there


def without_a_page(app, environment, node, text):
    """Names of other packages, and of modules that may change, are text; Sphinx warns of those that do not exist."""
    return text if node.get("refdomain") == "py" and pydoc.locate(node["reftarget"]) is not None else None


def setup(app):
    """Called by Sphinx."""
    app.connect("missing-reference", without_a_page)
