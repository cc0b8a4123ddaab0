"""Early stopping: the loss on images that are never trained on, and the averaged weights that had the smallest.

A surrogate that goes on learning its samples by heart forgets what they say of the target's members; so the copy that generalises best is the one that is kept.
"""

import numpy as np
import torch

from models import pixels
from models.schedule import q_sample, training_target

MOST = 512  # held-out images that the loss is taken over
DRAWS = 2  # noise draws of each


def chosen(count, share, seed):
    """bool (count,): images that are held out, `share` of them by chance from the seed; none for share 0, and never all."""
    out = np.zeros(count, bool)
    if share and count > 1:
        out[np.random.default_rng([seed, 3]).permutation(count)[: min(count - 1, max(1, round(share * count)))]] = True
    return out


class HeldOut:
    """The loss on held-out images, and what it has been.

    Args: images: uint8 (N,H,W,C), at most MOST of them are used; settings: TrainSettings; kind: of models.trainable.
    Attributes: history: [{"step", "loss"}]; best: the smallest loss; best_step; waited: evaluations since; weights: the averaged weights at best_step.
    """

    def __init__(self, images, settings, kind):
        self.images, self.settings, self.kind = images[:MOST], settings, kind
        self.history, self.best, self.best_step, self.waited, self.weights = [], np.inf, 0, 0, None
        rows = len(self.images) * DRAWS
        spread = (np.arange(rows) + 0.5) / rows * len(kind.schedule)  # every part of the schedule counts alike
        self.t = torch.from_numpy(np.random.default_rng([settings.seed, 4]).permutation(spread.astype(np.int64)))

    def due(self, step):
        """Whether the loss is taken after so many steps."""
        return step % self.settings.validate_every == 0 or step == self.settings.steps

    def look(self, step, parameters):
        """Take the loss of the weights that the network has now. Returns True when the training should end.

        Args: step: steps done; parameters: those weights, copied where they are the best so far.
        """
        loss = self.loss()
        self.history.append({"step": step, "loss": loss})
        if loss < self.best:
            self.best, self.best_step, self.waited = loss, step, 0
            self.weights = [p.detach().cpu().clone() for p in parameters]
        else:
            self.waited += 1
        return self.waited >= self.settings.patience

    def loss(self):
        """Mean squared error of the network's answer on the fixed noise; the same noise every time."""
        settings, kind, total = self.settings, self.kind, 0.0
        device = next(kind.network.parameters()).device
        index = np.tile(np.arange(len(self.images)), DRAWS)
        kind.network.eval()
        with torch.inference_mode():
            for number, first in enumerate(range(0, len(index), settings.batch_size)):
                rows = slice(first, first + settings.batch_size)
                x0, t = torch.from_numpy(pixels.to_model_range(self.images[index[rows]])), self.t[rows]
                seed = int(np.random.SeedSequence([settings.seed, 5, number]).generate_state(1, np.uint64)[0] >> 1)
                eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
                xt = q_sample(kind.schedule, x0, t, eps).to(device)
                target = training_target(kind.schedule, x0, eps, t, kind.prediction_type).to(device)
                total += torch.nn.functional.mse_loss(kind.output(xt, t.to(device)), target).item() * len(t)
        kind.network.train()
        return total / len(index)

    def state(self):
        """Plain values and tensors for a resumable save."""
        return {"history": self.history, "best": self.best, "best_step": self.best_step, "waited": self.waited, "weights": self.weights}

    def load(self, state):
        """The inverse of `state`."""
        for name, value in state.items():
            setattr(self, name, value)

    def restore(self, parameters):
        """Put the best weights back."""
        with torch.no_grad():
            for parameter, kept in zip(parameters, self.weights, strict=True):
                parameter.copy_(kept)
