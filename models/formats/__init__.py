"""Checkpoint formats. A new one is one file here and one line below; nothing else changes.

A format is a class with

    name                              its registry name; `words`: one line for people
    recognise(path) -> bool                        cheap: names of files, or names and shapes of tensors
    inspect(path, **overrides) -> CheckpointInfo   no tensor is read
    load(path, **overrides) -> Denoiser            on the CPU, float32, evaluation mode

and, where it takes settings that files do not say, `takes` (models/overrides.py:Takes) and `recipes` (names). Without `takes` it is called without overrides.
"""

import importlib

FORMATS = {
    "diffusers": "models.formats.diffusers_folder:DiffusersFolder",
    "openai": "models.formats.openai:OpenAI",
    "pytorch_ddpm": "models.formats.pytorch_ddpm:PytorchDDPM",
}


def get(name):
    """The format of that registry name, imported on first use."""
    module, _, attribute = FORMATS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()


def recognise(path):
    """The first format that knows the files at `path`, or None."""
    return next((f for f in map(get, FORMATS) if f.recognise(path)), None)
