"""Settings of the documentation. Built without the network: `python3 noxfile.py -s docs`."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from importlib.metadata import version as installed_version

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import higgsfield_async

logger = logging.getLogger(__name__)

project = "higgsfield_async"
author = "higgsfield-async contributors"
copyright = author
version = release = installed_version("higgsfield-async")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "plots"]
html_theme = "furo"
html_title = "higgsfield_async"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# "Attributes:" in a docstring would otherwise describe each field a second time, beside autodoc.
napoleon_use_ivar = True

nitpicky = True
# Pages of other projects cannot be linked: that takes their inventories, and so the network.
_others = ["aiohttp", "anyio", "av", "fastapi", "msgspec", "multidict", "starlette", "yarl"]
_elsewhere = "|".join([*sorted(sys.stdlib_module_names), *_others])
nitpick_ignore_regex = [
    ("py:.*", rf"({_elsewhere})\..+"),
    # What a public signature may name and a user never spells: a private base, a call, a type variable.
    ("py:.*", r"higgsfield_async\.(.+\.)?_.+"),
]
nitpick_ignore = [
    # Aliases of a union or of literals: data to Sphinx, which looks for a class.
    ("py:class", "Charged"),
    ("py:class", "GenerationRequest"),
    ("py:class", "Service"),
    ("py:class", "Unit"),
    # The keywords that the errors' constructors share: described as the attributes of HiggsfieldError and ApiError.
    ("py:class", "Answered"),
    ("py:class", "Common"),
    # What a user is handed, and never makes, is made with it.
    ("py:class", "HttpEngine"),
]


def keep_first_line(_app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Keep napoleon from reading "The origin: scheme and host" in an attribute's docstring as a type and a text."""
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]  # an empty comment


class WithoutLimits(ast.NodeTransformer):
    """Takes the limits out of annotations: `Annotated[str, Meta(pattern=…)]` is a `str` to a reader."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """`Annotated` of a type is that type."""
        self.generic_visit(node)
        annotated = ast.unparse(node.value).endswith("Annotated") and isinstance(node.slice, ast.Tuple)
        return node.slice.elts[0] if annotated else node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """Sphinx's own mark, for a name to be shown without its module, is then there twice."""
        self.generic_visit(node)
        return node.operand if isinstance(node.operand, ast.UnaryOp) else node


def shorten(
    _app: Sphinx, _what: str, _name: str, _obj: object, _options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Show types without their limits, which the text tells."""
    if signature is None:
        return None
    try:
        tree = WithoutLimits().visit(ast.parse(f"def f{signature}: ..."))
    except SyntaxError:  # a default that is no expression: it is shown as it stands
        return signature.replace("~", ""), returns
    return ast.unparse(tree).removeprefix("def f").removesuffix(":\n    ..."), returns


def described_elsewhere(kind: type, name: str) -> bool:
    """Whether a member is described with its class, with what it overrides, or with the protocol that it is part of."""
    above = [each for each in (*kind.__mro__[1:], higgsfield_async.Transport) if each is not kind]
    return f"    {name}: " in (kind.__doc__ or "") or any(hasattr(each, name) for each in above)


def find_what_is_missing(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn, and so fail, where a public name, or a public member of one, is on no page."""
    described = env.domains.python_domain.objects
    public = [found.name for found in pkgutil.iter_modules(higgsfield_async.__path__) if not found.name.startswith("_")]
    public.remove("cli")  # a command, and described as one
    for module in ["higgsfield_async", *(f"higgsfield_async.{name}" for name in public)]:
        loaded = importlib.import_module(module)
        for name in getattr(loaded, "__all__", ()):
            value = getattr(loaded, name)
            members = [
                each
                for each, member in (vars(value) if inspect.isclass(value) else {}).items()
                if inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)
                if not each.startswith("_") and not described_elsewhere(value, each)
            ]
            for full in [f"{module}.{name}", *(f"{module}.{name}.{each}" for each in members)]:
                if full not in described:
                    logger.warning("%s is public, and on no page", full)


def setup(app: Sphinx) -> None:
    """Connect what is above; the first before napoleon, which comes at 500."""
    app.connect("autodoc-process-docstring", keep_first_line, priority=400)
    app.connect("autodoc-process-signature", shorten)
    app.connect("env-check-consistency", find_what_is_missing)
