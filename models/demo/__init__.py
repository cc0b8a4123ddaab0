"""The bundled pair. Its manifest is known by its hash: its coins came from a NumPy generator (models/demo/draw.py) and cannot be tossed again without one."""

MANIFEST_SHA256 = "857a714dd2e63d8207793947daef50ee67db36c087adafdaa7b7d33ae2356a75"  # of the images list in manifest.json
MANIFEST_SEED = 20261124
