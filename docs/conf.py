"""The site: Markdown as it stands on GitHub, and a reference out of docstrings and the commands."""

from importlib.metadata import version as version_of

from sphinx.util.inspect import TypeAliasForwardRef

project = "halfsafe"
version = release = version_of("halfsafe")
html_title = f"halfsafe {version}"
html_theme = "furo"
html_copy_source = False

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
smartquotes = False  # an option is --samples, a name is "top-1"

default_role = "literal"  # `code` in docstrings
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    "Arrays": "halfsafe.source.Arrays",
    "Listener": "halfsafe.watching.transitions.Listener",
    "Metric": "halfsafe.verdict.metrics.Metric",
    "Progress": "halfsafe.progress.Progress",
    "Region": "halfsafe.manual.region.Region",
    "Rule": "halfsafe.rules.algebra.Rule",
    "Told": "halfsafe.applying.Told",
}
TypeAliasForwardRef.__repr__ = lambda alias: alias.name  # Sphinx 9.0 names it by this in a union
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True

nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(collections|logging|numpy|pathlib|torch)\..+"),  # of others
    ("py:class", r".+\.T"),
    ("myst", r"(\.\./)?(bench|examples)/\w+"),  # a folder, which has no page here
]
