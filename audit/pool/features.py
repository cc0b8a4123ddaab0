"""The space of features: pictures through a vision backbone of timm, whose weights are a local .safetensors; and the search in it.

Features are what the backbone gives before its classifier, brought to length 1, so that the distance is that of the angle between two pictures.
"""

import hashlib

import numpy as np
import torch

from audit.errors import RequestError
from audit.pool.nearest import NEIGHBOURS, Rows, filled, looked_up
from audit.pool.search import nearest

VERSION = 1  # raise it whenever a feature changes
INSTALL = "Install it: pip install -r requirements-features.txt."
AT_ONCE = 2**22  # pixels of one batch, as the backbone sees them: 83 pictures of 224 x 224
TABLES = {f"nearest_features{mirrored}": NEIGHBOURS + 1 for mirrored in ("", "_mirrored")} | {"neighbours_features": NEIGHBOURS}


class Embedder:
    """A backbone with its weights.

    Args: backbone: audit.backbones.Backbone; device: torch device.
    Attributes: facts: {"model", "weights" (file name), "sha256", "timm", "numbers" (of one picture's features)}.
    Raises: RequestError: timm cannot be used here, it has no such model, or the file does not hold its weights.
    """

    def __init__(self, backbone, device):
        timm, self.device = _timm(), device
        if not timm.is_model(backbone.model):
            raise RequestError(f"backbone is {backbone.model[:60]!r}, which timm {timm.__version__} does not have. Expected a name of timm.list_models().")
        self.network = timm.create_model(backbone.model, pretrained=False, num_classes=0).eval().requires_grad_(False)
        said = self.network.pretrained_cfg
        sha256 = _load(self.network, backbone, said)
        self.network.to(device)
        self.size = tuple(said["input_size"][1:])
        self.mean, self.std = (torch.tensor(said[name], device=device).view(1, -1, 1, 1) for name in ("mean", "std"))
        numbers = self.features(np.zeros((1, 8, 8, 3), np.uint8)).shape[1]
        weights = backbone.weights.replace("\\", "/").rsplit("/", 1)[-1]
        self.facts = {"model": backbone.model, "weights": weights, "sha256": sha256, "timm": timm.__version__, "numbers": numbers}

    def features(self, pictures, should_stop=None):
        """float32 (n,D), each of length 1, of uint8 pictures (n,H,W,C), grey or RGB, which are brought to the backbone's own size.

        Args: should_stop(): asked before every batch.
        Raises: audit.engine.Stopped; RequestError: the backbone gives no finite numbers.
        """
        from audit.engine import Stopped, arithmetic

        made, step = [], max(1, AT_ONCE // (self.size[0] * self.size[1]))
        with arithmetic("fp32", self.device):
            for first in range(0, len(pictures), step):
                if should_stop is not None and should_stop():
                    raise Stopped
                made.append(self._batch(np.ascontiguousarray(pictures[first : first + step])).cpu())
        found = torch.cat(made)
        if not bool(torch.isfinite(found).all()):
            raise RequestError("The backbone gives NaN or infinity, or nothing but zeros. Expected whole weights of this model: check the file.")
        return found.numpy()

    def _batch(self, pictures):
        x = torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2).float().div_(255).expand(-1, 3, -1, -1)
        x = torch.nn.functional.interpolate(x, self.size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        found = self.network((x - self.mean) / self.std).flatten(1)
        return found / torch.linalg.vector_norm(found, dim=1, keepdim=True)


def _timm():
    """The package. Raises RequestError: it is not there, or its torchvision was built for another torch."""
    try:
        import timm
    except ImportError as error:
        raise RequestError(f"Features need the package timm, and it cannot be imported ({type(error).__name__}). {INSTALL}") from None
    except RuntimeError:  # what torchvision raises where its operators were not built for this torch
        raise RequestError(f"Features need the package timm, whose torchvision was built for another torch than {torch.__version__}. {INSTALL}") from None
    return timm


def _load(network, backbone, said):
    """Put the weights in; a classifier that is not used may be among them. Returns the file's SHA-256 hex. Raises RequestError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    name, heads = backbone.weights.replace("\\", "/").rsplit("/", 1)[-1], said.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    try:
        digest = hashlib.sha256()
        with open(backbone.weights, "rb") as handle:
            while piece := handle.read(1 << 22):
                digest.update(piece)
        state = load_file(backbone.weights)
        missing, unexpected = network.load_state_dict(state, strict=False)
    except FileNotFoundError:
        raise RequestError(f"weights: {name} was not found. Expected the .safetensors of {backbone.model}: check the path.") from None
    except (OSError, SafetensorError) as error:
        raise RequestError(f"weights: {name} cannot be read ({type(error).__name__}). Expected a whole .safetensors file: copy it again.") from None
    except RuntimeError:  # a tensor of another shape; torch's sentence lists them all
        raise RequestError(f"weights: the tensors of {name} have other shapes than those of {backbone.model}. Expected weights of this very model.") from None
    wrong = [*missing, *(key for key in unexpected if not any(key.startswith(f"{head}.") for head in heads))]
    if wrong:
        what = f"lacks {wrong[0][:80]}" if wrong[0] in missing else f"holds {wrong[0][:80]} besides"
        more = f", and {len(wrong) - 1:,} more differ" if wrong[1:] else ""
        raise RequestError(f"weights: {name} does not fit {backbone.model}: it {what}{more}. Expected weights of this very model.")
    return digest.hexdigest()


def search(queries, mirrored, samples, first, stop, clusters, left_out, device, should_stop=None):
    """{table of TABLES: float32 (1,n,K)} of query images first … stop-1, as audit.pool.nearest makes them of pixels.

    Args: queries, mirrored: float32 (N,D), features of the query images and of their mirror images; samples: float32 (P,D); clusters: int (N,);
        left_out: indices of samples that must not be used; device: torch device; should_stop(): asked between blocks.
    Raises: audit.engine.Stopped.
    """
    from audit.engine import arithmetic

    kept = Rows(samples, np.setdiff1d(np.arange(len(samples)), left_out))
    with arithmetic("fp32", torch.device(device)):
        found, both, others = looked_up(queries[first:stop], mirrored[first:stop], kept, queries, first, clusters, device, None, should_stop)
    made = {"nearest_features": found.distance, "nearest_features_mirrored": both, "neighbours_features": others.distance}
    return {name: filled(values).astype(np.float32)[None] for name, values in made.items()}


def among(mine, references, left_out, device, should_stop=None):
    """float32 (1,n,20): distances to the nearest references. Args: mine: float32 (n,D); the rest: as for `search`."""
    from audit.engine import arithmetic

    kept = Rows(references, np.setdiff1d(np.arange(len(references)), left_out))
    with arithmetic("fp32", torch.device(device)):
        return filled(nearest(mine, kept, NEIGHBOURS, device, None, None, should_stop).distance).astype(np.float32)[None]
