"""Writes docs/api.md from the docstrings of the library.

    python docs/generate_api.py [--check]

Sources are read, not imported, so the result does not depend on what is
installed. --check writes nothing and fails if the file is out of date.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "docs" / "api.md"
# Modules whose public names are described, after those that `specmpc_jax` itself exports.
MODULES = (
    "specmpc_jax.config",
    "specmpc_jax.learning.config",
    "specmpc_jax.types",
    "specmpc_jax.stateful",
    "specmpc_jax.speculation.executor",
    "specmpc_jax.pipelined_controller",
    "specmpc_jax.deadline_controller",
    "specmpc_jax.envs.protocol",
    "specmpc_jax.envs.registry",
    "specmpc_jax.envs.device",
    "specmpc_jax.envs.mjx.environment",
    "specmpc_jax.envs.mjx.lanes",
    "specmpc_jax.envs.mjx.perturbation",
    "specmpc_jax.checkpointing",
    "specmpc_jax.correctors.dataset",
    "specmpc_jax.correctors.training",
    "specmpc_jax.evaluation.episodes",
    "specmpc_jax.evaluation.rollout",
    "specmpc_jax.evaluation.device_rollout",
    "specmpc_jax.evaluation.comparison",
    "specmpc_jax.evaluation.statistics",
    "converters.loading",
)
_SECTION = re.compile(r"^(Args|Returns|Raises|Yields):$")
_ENTRY = re.compile(r"^  (\*{0,2}\w+): (.*)$")
# A comma outside of brackets.
_COMMA = re.compile(r", (?=[^\[\]()]*(?:[\[(][^\[\]()]*[\])][^\[\]()]*)*$)")
Definition = ast.FunctionDef | ast.ClassDef


def generate() -> str:
    """The whole page."""
    lines = [
        "# API reference",
        "",
        "Made from the docstrings by `python docs/generate_api.py`; do not edit it.",
        "Axis letters in shapes are those of [types](#specmpc_jaxtypes).",
        "",
    ]
    described: set[tuple[str, str]] = set()
    sections = [("specmpc_jax", list(_exports("specmpc_jax")))]
    sections += [(module, [(module, name) for name in _public(module)]) for module in MODULES]
    body: list[str] = []
    for title, members in sections:
        fresh = [member for member in members if member not in described]
        described |= set(fresh)
        lines.append(f"- [{title}](#{title.replace('.', '')})")
        body += [f"## {title}", "", *_markdown(ast.get_docstring(_parse(title))), ""]
        for module, name in fresh:
            body += _describe(_definitions(module)[name], name)
    return "\n".join([*lines, "", *body]).rstrip() + "\n"


def _describe(node: Definition, name: str) -> Iterator[str]:
    """A function, or a class with its fields and public methods."""
    if isinstance(node, ast.FunctionDef):
        yield from (f"### {name}", "", *_code(_signature(node, name)), "")
        yield from (*_markdown(ast.get_docstring(node)), "")
        return
    yield from (f"### {name}", "", *_markdown(ast.get_docstring(node)), "")
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    constructor = next((item for item in methods if item.name == "__init__"), None)
    if constructor:
        yield from (*_code(_signature(constructor, name)), "")
        if ast.get_docstring(constructor):
            yield from (*_markdown(ast.get_docstring(constructor)), "")
    fields = [
        ast.unparse(item)
        for item in node.body
        if isinstance(item, ast.AnnAssign | ast.Assign) and not ast.unparse(item).startswith("_")
    ]
    if fields:
        yield from (*_code("\n".join(fields)), "")
    for method in methods:
        documented = ast.get_docstring(method)
        if method.name.startswith("_") and method.name != "__call__" or not documented:
            continue
        is_property = any(ast.unparse(d) == "property" for d in method.decorator_list)
        signature = (
            f"{name}.{method.name} -> {ast.unparse(method.returns)}"
            if is_property and method.returns
            else _signature(method, f"{name}.{method.name}")
        )
        yield from (f"#### {name}.{method.name}", "", *_code(signature), "")
        yield from (*_markdown(documented), "")


def _signature(node: ast.FunctionDef, name: str) -> str:
    arguments = ast.parse(ast.unparse(node)).body[0].args  # a copy
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        del arguments.args[0]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    text = f"{name}({ast.unparse(arguments)}){returns}"
    text = _spaced(text)
    if len(text) <= 100:
        return text
    inner = re.split(
        r", (?=[^\[\]()]*(?:[\[(][^\[\]()]*[\])][^\[\]()]*)*$)", ast.unparse(arguments)
    )
    joined = "".join(f"    {_spaced(part)},\n" for part in inner)
    return f"{name}(\n{joined}){returns}"


def _spaced(text: str) -> str:
    """Double quotes, and defaults of annotated arguments as the code writes them."""
    return re.sub(r"(?<=[\w\]\"'])=(?=\S)", " = ", text).replace("'", '"')


def _markdown(docstring: str | None) -> Iterator[str]:
    """A docstring's text as it is, its Args, Returns and Raises as lists."""
    in_section, in_code = False, False
    for line in (docstring or "").splitlines():
        section, entry = _SECTION.match(line), _ENTRY.match(line)
        if section:
            in_section = True
            yield from (f"*{section[1]}*", "")
        elif in_section and entry:
            yield f"- `{entry[1]}`: {entry[2]}"
        elif in_section and line.startswith("    "):
            yield f"  {line.strip()}"
        elif in_section and line.startswith("  "):
            yield line.strip()
        else:
            in_section = in_section and not line
            if line.startswith("    ") and not in_code:
                in_code = True
            elif line and not line.startswith("    "):
                in_code = False
            yield line


def _code(text: str) -> Iterator[str]:
    yield from ("```text", text, "```")


def _exports(package: str) -> Iterator[tuple[str, str]]:
    """(module, name) of what a package exports in `__all__`, in that order."""
    tree = _parse(package)
    origin = {
        alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            for name in ast.literal_eval(node.value):
                yield _home(str(origin[name]), name)


def _home(module: str, name: str) -> tuple[str, str]:
    """Where a name is defined, if `module` only imports it."""
    if name in _definitions(module):
        return module, name
    for node in _parse(module).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return _home(str(node.module), name)
    raise LookupError(f"{module} has no {name}")


def _public(module: str) -> list[str]:
    return [
        name
        for name, node in _definitions(module).items()
        if not name.startswith("_") and ast.get_docstring(node)
    ]


def _definitions(module: str) -> dict[str, Definition]:
    return {
        node.name: node
        for node in _parse(module).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


def _parse(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def main(check: bool) -> None:
    """Writes the page, or compares it."""
    text = generate()
    if check:
        if not OUTPUT.exists() or OUTPUT.read_text(encoding="utf-8") != text:
            sys.exit("error: docs/api.md is out of date; run python docs/generate_api.py")
        return
    OUTPUT.write_text(text, encoding="utf-8")
    print(f"wrote {OUTPUT.relative_to(ROOT)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes docs/api.md from the docstrings.")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    main(**vars(parser.parse_args()))
