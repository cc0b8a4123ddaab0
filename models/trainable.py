"""Networks that the trainer can train, by name, each saved so that open_checkpoint needs nothing beside it.

    unet2d    UNet2DModel with a scheduler of diffusers; a diffusers folder
    improved  improved-diffusion's UNet: resampled by convolutions, a number of attention heads, told t·1000/T; ema_RATE_STEP.safetensors and modelSTEP, with .yaml
    guided    guided-diffusion's UNet: resampled inside residual blocks, channels per attention head, told t; the same files

Source of the last two: arXiv:2102.09672 and arXiv:2105.05233 with their scripts' flags.
Differs from source: the variance is fixed (fixed_large) and the loss is the noise error alone, where the scripts' learned variance adds a term of the bound.
"""

import numpy as np
import torch

from models.errors import CheckpointError, ModelError
from models.nets.openai_unet import GROUPS, Heads, Layout, OpenAIUNet
from models.schedule import betas_for, from_betas, openai_betas

DEFAULT_SCHEDULER = "DDPMScheduler"
OPENAI_SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "linear"}  # what scheduler_config may say for the OpenAI networks


def trainable(settings):
    """The freshly initialised network of models.train.TrainSettings with everything that depends on its kind; the weights follow from settings.seed.

    Returns: an object with network, schedule, prediction_type, output(xt, t) -> (N,C,H,W) and save(folder, averaged).
    Raises: ModelError: a setting that this network cannot have.
    """
    return NETWORKS[settings.network](settings)


class UNet2D:
    """See the module's docstring."""

    def __init__(self, settings):
        import diffusers
        from diffusers import UNet2DModel

        self.settings = settings
        cls = getattr(diffusers, settings.scheduler, None)
        if cls is None or not settings.scheduler.endswith("Scheduler"):
            raise ModelError(f"diffusers has no scheduler {settings.scheduler!r}. Expected a class name such as DDPMScheduler or DDIMScheduler.")
        self.scheduler = cls(**settings.scheduler_config)
        self.schedule = from_betas(betas_for(self.scheduler.config))
        self.prediction_type = self.scheduler.config.get("prediction_type", "epsilon")
        torch.manual_seed(settings.seed)
        groups = int(np.gcd.reduce([16, *settings.block_out_channels]))
        self.network = UNet2DModel(
            sample_size=settings.image_size,
            in_channels=settings.channels,
            out_channels=settings.channels,
            block_out_channels=settings.block_out_channels,
            layers_per_block=settings.layers_per_block,
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in settings.attention),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(settings.attention)),
            norm_num_groups=groups,
            attention_head_dim=groups,
            dropout=settings.dropout,
        )

    def output(self, xt, t):
        """What the network returns, (N,C,H,W)."""
        return self.network(xt, t).sample

    def save(self, folder, averaged):
        """The weights as they are now; the averaged ones are those that are opened."""
        import json

        import diffusers

        self.network.save_pretrained(folder / ("unet" if averaged else "unet_raw"))
        if averaged:
            self.scheduler.save_pretrained(folder / "scheduler")
            index = {"_class_name": "DDPMPipeline", "_diffusers_version": diffusers.__version__, "scheduler": ["diffusers", self.settings.scheduler]}
            (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["diffusers", "UNet2DModel"]}, indent=1) + "\n")


class Improved:
    """See the module's docstring."""

    rescaled, resblock_updown = True, False

    def __init__(self, settings):
        self.settings, widths = settings, settings.block_out_channels
        wrong = [width for width in widths if width % GROUPS]
        if wrong:
            raise ModelError(f"block_out_channels has {wrong[0]}. Expected multiples of {GROUPS}, the groups of this network's norms: choose {GROUPS}, {2 * GROUPS} and so on.")
        self.schedule, self.prediction_type = from_betas(openai_betas(**self._diffusion())), "epsilon"
        self.heads = self._heads([widths[-1], *(width for width, there in zip(widths, settings.attention, strict=True) if there)])
        layout = Layout(
            in_channels=settings.channels,
            out_channels=settings.channels,
            model_channels=widths[0],
            first_width=widths[0],
            widths=tuple(widths),
            num_res_blocks=settings.layers_per_block,
            attention=tuple(level for level, there in enumerate(settings.attention) if there),
            scale_shift=True,
            resblock_updown=self.resblock_updown,
            classes=None,
        )
        torch.manual_seed(settings.seed)
        self.network = OpenAIUNet(layout, Heads(**self.heads_of_network()), settings.dropout)
        with torch.no_grad():  # the scripts' start: every block passes its input on, and the answer is 0
            for name, parameter in self.network.named_parameters():
                if ".out_layers.3." in name or ".proj_out." in name or name.startswith("out.2."):
                    parameter.zero_()

    def _diffusion(self):
        """{"name", "steps"} of models.schedule.openai_betas. Raises ModelError."""
        settings = self.settings
        if settings.scheduler != DEFAULT_SCHEDULER or set(settings.scheduler_config) - set(OPENAI_SCHEDULE):
            raise ModelError(f"network {settings.network} takes no scheduler of diffusers. Expected only {' and '.join(OPENAI_SCHEDULE)} in scheduler_config.")
        given = OPENAI_SCHEDULE | settings.scheduler_config
        steps = given["num_train_timesteps"]
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 21:
            raise ModelError(f"num_train_timesteps is {str(steps)[:40]}. Expected a whole number of at least 21: with fewer the scaled betas leave (0, 1].")
        try:
            openai_betas(given["beta_schedule"], steps)
        except CheckpointError as error:
            raise ModelError(str(error)) from None
        return {"name": given["beta_schedule"], "steps": steps}

    def _heads(self, widths):
        """What the .yaml says of attention. Raises ModelError: the heads do not divide a width that has attention."""
        count = self.settings.num_heads
        if any(width % count for width in widths):
            raise ModelError(f"num_heads is {count}. Expected a divisor of {' and '.join(map(str, sorted(set(widths))))}, the widths with attention.")
        return {"num_heads": count, "attention_order": "legacy"}

    def heads_of_network(self):
        """Keywords of models.nets.openai_unet.Heads."""
        return {"num_heads": self.heads["num_heads"], "num_heads_upsample": self.heads["num_heads"], "order": "legacy"}

    def output(self, xt, t):
        """What the network returns, (N,C,H,W)."""
        return self.network(xt, t.float() * (1000 / len(self.schedule)) if self.rescaled else t)

    def save(self, folder, averaged):
        """The weights as they are now; where an average was kept, its file is the one that is opened."""
        import yaml
        from safetensors.torch import save_file

        settings, diffusion = self.settings, self._diffusion()
        rate = np.format_float_positional(settings.ema_decay, trim="-")
        stem = f"ema_{rate}_{settings.steps:06d}" if averaged and settings.ema_decay else f"model{settings.steps:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        said = {
            "image_size": settings.image_size,
            "train_timesteps": diffusion["steps"],
            "beta_schedule": "linear" if diffusion["name"] == "linear" else "cosine",
            "rescale_timesteps": self.rescaled,
            "prediction_type": "epsilon",
            "variance": "fixed_large",
            **self.heads,
        }
        (folder / f"{stem}.yaml").write_text(yaml.safe_dump(said, sort_keys=False), encoding="utf-8")
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}, folder / f"{stem}.safetensors", metadata={"format": "pt"})


class Guided(Improved):
    """See the module's docstring."""

    rescaled, resblock_updown = False, True

    def _heads(self, widths):
        channels = self.settings.num_head_channels
        if any(width % channels for width in widths):
            raise ModelError(f"num_head_channels is {channels}. Expected a divisor of {' and '.join(map(str, sorted(set(widths))))}, the widths with attention.")
        return {"num_head_channels": channels, "attention_order": "new"}

    def heads_of_network(self):
        """Keywords of models.nets.openai_unet.Heads."""
        return {"head_channels": self.heads["num_head_channels"], "order": "new"}


NETWORKS = {"unet2d": UNet2D, "improved": Improved, "guided": Guided}
