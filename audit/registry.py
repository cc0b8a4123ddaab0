"""Lines of the form `name: "module:Class"`, imported on first use, so that listing what exists imports nothing heavy."""

import importlib
from collections.abc import Mapping


class Registry(Mapping):
    """A read-only mapping from canonical name to an instance of the class that the line names."""

    def __init__(self, lines):
        self._lines, self._made = dict(lines), {}

    def __getitem__(self, name):
        if name not in self._made:
            module, _, attribute = self._lines[name].partition(":")
            self._made[name] = getattr(importlib.import_module(module), attribute)()
        return self._made[name]

    def __iter__(self):
        return iter(self._lines)

    def __len__(self):
        return len(self._lines)
