"""Lines of the form `name: "module:Class"`, imported on first use, so that listing what exists imports nothing heavy."""

import importlib
from collections.abc import Mapping


class Registry(Mapping):
    """A read-only mapping from canonical name to an instance of the class that the line names.

    Args: lines: {name: "module:Class"}; families: {prefix: "module:function"}: PREFIX + name is what the function makes of the named one, or nothing where it
        gives None. A family's members are found by name and by `derived`, but not listed: whoever asks for all does not mean them.
    """

    def __init__(self, lines, families=None):
        self._lines, self._families, self._made = dict(lines), dict(families or {}), {}

    def __getitem__(self, name):
        if name not in self._made:
            self._made[name] = _named(self._lines[name])() if name in self._lines else self._derived(name)
        return self._made[name]

    def _derived(self, name):
        for prefix, line in self._families.items():
            base = name[len(prefix) :] if isinstance(name, str) and name.startswith(prefix) else None
            if base in self._lines and (made := _named(line)(self[base])) is not None:
                return made
        raise KeyError(name)

    def derived(self):
        """Names of all members of the families, in the order of the lines."""
        return [prefix + name for prefix in self._families for name in self._lines if prefix + name in self]

    def __iter__(self):
        return iter(self._lines)

    def __len__(self):
        return len(self._lines)


def _named(line):
    """What "module:attribute" names."""
    module, _, attribute = line.partition(":")
    return getattr(importlib.import_module(module), attribute)
