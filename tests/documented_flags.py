"""Checks command lines against the flags of their binaries, many in one process.

Reads `[[module, argument, ...], ...]` from stdin, writes one complaint a line.
Binaries define flags of equal names, so each is imported into a registry that
holds nothing of the one before.
"""

import importlib
import importlib.util
import json
import sys

from absl import flags

OURS = ("experiments", "converters")


def ours(module: str) -> bool:
    return module.split(".")[0] in OURS


def forget() -> None:
    """Removes our modules and their flags."""
    defined = flags.FLAGS.flags_by_module_dict()
    names = {flag.name for module in defined if ours(module) for flag in defined[module]}
    for name in names:
        delattr(flags.FLAGS, name)
    for name in [name for name in sys.modules if ours(name)]:
        del sys.modules[name]


def complaints(module: str, commands: list[list[str]]) -> list[str]:
    if importlib.util.find_spec(module) is None:
        return [f"there is no module {module}"]
    forget()
    importlib.import_module(module)
    flags.FLAGS([module])  # what has no default has to be given by the command itself
    found = []
    for arguments in commands:
        flags.FLAGS.unparse_flags()
        try:
            rest = flags.FLAGS([module, *arguments])
        except flags.Error as error:
            found.append(f"{module} {' '.join(arguments)}: {error}")
        else:
            found += [f"{module}: {argument!r} belongs to no flag" for argument in rest[1:]]
    return found


def main() -> None:
    by_module: dict[str, list[list[str]]] = {}
    for module, *arguments in json.load(sys.stdin):
        by_module.setdefault(module, []).append(arguments)
    for module, commands in by_module.items():
        for complaint in complaints(module, commands):
            print(complaint)


if __name__ == "__main__":
    main()
