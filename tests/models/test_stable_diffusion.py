"""Stable Diffusion pipelines: captions, latents and noise predictions against direct calls and against the formulas."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import open_checkpoint
from models.checkpoint import inspect_checkpoint
from models.errors import CheckpointError, UnsafeCheckpoint
from tests.models import tiny

LATENTS = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(4))
T = torch.tensor([0, 500, 999])
CAPTIONS = ["the cat", "", "on the on the on the on the on the on the on"]
# start, words, end, padding with end; by hand from tiny.MERGES
NUMBERS = [
    ["<|startoftext|>", "the</w>", "cat</w>", *["<|endoftext|>"] * 9],
    ["<|startoftext|>", *["<|endoftext|>"] * 11],
    ["<|startoftext|>", *["on</w>", "the</w>"] * 5, "<|endoftext|>"],
]


def text_encoder(state, ids, activation, heads=2):
    """Last hidden state from the formulas, float64: pre-norm transformer with a causal mask, one token after another."""
    p = {name.removeprefix("text_model."): tensor.double() for name, tensor in state.items()}

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    rows = []
    for numbers in ids:
        x = p["embeddings.token_embedding.weight"][numbers] + p["embeddings.position_embedding.weight"][: len(numbers)]
        layer = 0
        while f"encoder.layers.{layer}.mlp.fc1.weight" in p:
            place = f"encoder.layers.{layer}"
            h = norm(x, f"{place}.layer_norm1")
            q, k, v = (linear(h, f"{place}.self_attn.{name}_proj") for name in "qkv")
            width, mixed = q.shape[1] // heads, torch.zeros_like(q)
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                for i in range(len(x)):
                    weights = (k[: i + 1, part] @ q[i, part] / math.sqrt(width)).softmax(0)
                    mixed[i, part] = weights @ v[: i + 1, part]
            x = x + linear(mixed, f"{place}.self_attn.out_proj")
            h = linear(norm(x, f"{place}.layer_norm2"), f"{place}.mlp.fc1")
            h = h / (1 + torch.exp(-1.702 * h)) if activation == "quick_gelu" else h * (1 + torch.erf(h / math.sqrt(2))) / 2
            x, layer = x + linear(h, f"{place}.mlp.fc2"), layer + 1
        rows.append(norm(x, "final_layer_norm"))
    return torch.stack(rows)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_captions_are_embedded_as_the_formulas_say(tmp_path, activation):
    _, _, state = tiny.save_stable_diffusion(tmp_path, text={"hidden_act": activation})
    model, ids = open_checkpoint(tmp_path), torch.tensor([[tiny.VOCAB.index(token) for token in row] for row in NUMBERS])
    got = model.embed(CAPTIONS)
    assert got.shape == (3, 12, 8) and got.dtype == torch.float32 and got.device.type == "cpu" and not got.requires_grad and not got.is_inference()
    torch.testing.assert_close(got.double(), text_encoder(state, ids, activation), atol=1e-5, rtol=1e-5)
    other = text_encoder(state, ids, "gelu" if activation == "quick_gelu" else "quick_gelu")
    assert (got - other).abs().max() > 1e-3


@pytest.mark.parametrize("index", [True, False], ids=["index", "no index"])
def test_predictions_are_direct_calls_of_the_networks(tmp_path, index):
    network, autoencoder, _ = tiny.save_stable_diffusion(tmp_path, index=index)
    model = open_checkpoint(tmp_path)
    assert model.captions and model.classes is None and not model.pixel_space and model.image_shape == (1, 16, 16)
    cond = model.embed(CAPTIONS)
    with torch.inference_mode():
        torch.testing.assert_close(model.predict(LATENTS, T, cond).eps_hat, network(LATENTS, T, encoder_hidden_states=cond).sample)
        empty = model.embed([""]).expand(3, -1, -1)
        torch.testing.assert_close(model.predict(LATENTS, T).eps_hat, network(LATENTS, T, encoder_hidden_states=empty).sample)
        assert (model.predict(LATENTS, T, cond).eps_hat - model.predict(LATENTS, T).eps_hat).abs().max() > 1e-3
        pictures = torch.rand(2, 1, 16, 16) * 2 - 1
        torch.testing.assert_close(model.encode(pictures), autoencoder.encode(pictures).latent_dist.mean * 0.18215)
    torch.testing.assert_close(torch.as_tensor(model.schedule.betas[[0, -1]]), torch.tensor([0.00085, 0.012], dtype=torch.float64))


def test_the_empty_caption_is_embedded_once_and_can_take_part_in_gradients(tmp_path, monkeypatch):
    tiny.save_stable_diffusion(tmp_path)
    model, calls = open_checkpoint(tmp_path), []
    real = model.text.network.forward
    monkeypatch.setattr(model.text.network, "forward", lambda ids: (calls.append(len(ids)), real(ids))[1])
    with torch.inference_mode():
        model.predict(LATENTS, T)
    model.network.requires_grad_(True)
    model.predict(LATENTS, T).eps_hat.sum().backward()
    assert not model.text.empty(LATENTS).is_inference()
    assert calls == [1] and model.network.conv_in.weight.grad.abs().max() > 0


def test_gradients_per_sample_through_predict_are_those_of_a_loop(tmp_path):
    tiny.save_stable_diffusion(tmp_path)
    model = open_checkpoint(tmp_path)
    model.network.requires_grad_(True)
    cond, names = model.embed(CAPTIONS), [name for name, _ in model.network.named_parameters()]
    parameters = [p for _, p in model.network.named_parameters()]
    loops = [torch.autograd.grad(model.predict(LATENTS[i : i + 1], T[i : i + 1], cond[i : i + 1]).eps_hat.square().sum(), parameters) for i in range(3)]
    whole = torch.autograd.grad(model.predict(LATENTS, T, cond).eps_hat.square().sum(), parameters)
    for name, total, *each in zip(names, whole, *loops, strict=True):
        torch.testing.assert_close(sum(each), total, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
    assert (loops[0][0] - loops[1][0]).abs().max() > 0


@pytest.mark.parametrize("cond", [torch.zeros(3, 12, 4), torch.zeros(2, 12, 8), torch.zeros(3, 8), torch.zeros(3, 12, 8, dtype=torch.int64), [0, 1, 2]], ids=str)
def test_other_conditions_are_refused(tmp_path, cond):
    tiny.save_stable_diffusion(tmp_path)
    with pytest.raises(CheckpointError, match=r"cond is .* for 3 images\. Expected \(3, tokens, 8\)"):
        open_checkpoint(tmp_path).predict(LATENTS, T, cond)


def test_models_without_captions_say_so(tmp_path):
    tiny.save(tmp_path)
    model = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="takes no captions"):
        model.embed(["a cat"])
    assert not model.captions


def test_what_is_not_read_is_named_and_never_touched(tmp_path):
    tiny.save_stable_diffusion(tmp_path)
    (tmp_path / "safety_checker").mkdir()
    (tmp_path / "safety_checker" / "config.json").write_text("{")
    info = open_checkpoint(tmp_path).info
    assert "safety_checker and feature_extractor are not read: not part of the denoising" in info.notes and not any("safety" in name for name in info.files)
    assert {"text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/vocab.json", "tokenizer/merges.txt", "vae/config.json"} <= set(info.files)
    assert any("without captions the empty one is used" in note for note in info.notes) and info.confidence == "certain"
    before = info.sha256
    (tmp_path / "tokenizer" / "merges.txt").write_text("#version: 0.2\nt h\n")
    assert inspect_checkpoint(tmp_path).sha256 != before


def test_files_before_diffusers_0_9_mean_64_where_they_say_32(tmp_path):
    """As diffusers' own pipeline reads them."""
    tiny.save_stable_diffusion(tmp_path, sample_size=32)
    tiny.edit(tmp_path / "unet" / "config.json", _diffusers_version="0.6.0")
    info = inspect_checkpoint(tmp_path)
    assert info.image_shape == (1, 128, 128) and {s.name: s.decided_by for s in info.settings}["image_size"] == "inferred"
    tiny.edit(tmp_path / "unet" / "config.json", _diffusers_version="0.10.0")
    assert inspect_checkpoint(tmp_path).image_shape == (1, 64, 64)


def test_padding_with_another_token_is_read_from_the_tokenizer(tmp_path):
    """Stable Diffusion 2 pads with "!" where 1 pads with the end token."""
    tiny.save_stable_diffusion(tmp_path)
    shutil.rmtree(tmp_path / "tokenizer")
    plain = tmp_path / "plain"
    tiny.save_stable_diffusion(plain)
    tiny.save_tokenizer(tmp_path / "tokenizer", pad="!")
    assert (open_checkpoint(tmp_path).embed(["the cat"]) - open_checkpoint(plain).embed(["the cat"])).abs()[0, 4:].max() > 1e-3


def test_an_encoder_in_half_precision_without_position_ids_opens(tmp_path):
    _, _, state = tiny.save_stable_diffusion(tmp_path)
    whole, file = open_checkpoint(tmp_path).embed(["the cat"]), tmp_path / "text_encoder" / "model.safetensors"
    file.unlink()
    torch.save({name: tensor.half() for name, tensor in state.items()}, file.with_name("pytorch_model.bin"))
    torch.testing.assert_close(open_checkpoint(tmp_path).embed(["the cat"]), whole, atol=2e-2, rtol=1e-2)


FAMILIES = [
    ({"addition_embed_type": "text_time"}, "SDXL"),
    ({"in_channels": 9}, "9 channels and is an inpainting model"),
    ({"in_channels": 8}, "InstructPix2Pix"),
    ({"in_channels": 5}, "depth map"),
    ({"in_channels": 7}, "upscaler"),
    ({"time_cond_proj_dim": 256}, "consistency"),
    ({"encoder_hid_dim_type": "text_proj"}, "Kandinsky"),
    ({"class_embed_type": "projection"}, "unCLIP"),
    ({"num_class_embeds": 1000}, "upscalers"),
    ({"only_cross_attention": [True, False]}, "upscalers"),
    ({"attention_type": "gated"}, "GLIGEN"),
    ({"cross_attention_dim": [8, 8]}, "cross_attention_dim is"),
    ({"cross_attention_dim": 16}, "makes 8 numbers per token, unet/config.json takes 16"),
    ({"out_channels": 4}, "out_channels is 4 with 2 in"),
    ({"down_block_types": ["SimpleCrossAttnDownBlock2D", "DownBlock2D"]}, "names SimpleCrossAttnDownBlock2D"),
    ({"transformer_layers_per_block": 10**6}, "transformer_layers_per_block is"),
    ({"attention_head_dim": 3}, "disagree|does not describe"),
    ({"_class_name": "ControlNetModel"}, "ControlNet"),
    ({"_class_name": "FluxTransformer2DModel"}, "FLUX"),
]


@pytest.mark.parametrize(("unet", "match"), FAMILIES, ids=lambda v: str(v)[:40])
def test_other_families_are_refused_by_name(tmp_path, unet, match):
    tiny.save_stable_diffusion(tmp_path)
    tiny.edit(tmp_path / "unet" / "config.json", **unet)
    with pytest.raises(CheckpointError, match=match) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


PIPELINES = {
    "StableDiffusionXLPipeline": "SDXL",
    "StableDiffusionXLImg2ImgPipeline": "refiner",
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "FluxPipeline": "FLUX",
    "DiTPipeline": "diffusion transformer",
    "PixArtAlphaPipeline": "diffusion transformer",
    "StableDiffusionControlNetPipeline": "ControlNet",
    "StableDiffusionInpaintPipeline": "inpainting",
    "StableDiffusionUpscalePipeline": "upscaler",
    "StableDiffusionInstructPix2PixPipeline": "edits pictures",
    "LDMTextToImagePipeline": "another text encoder",
    "LatentConsistencyModelPipeline": "distilled",
    "KarrasVePipeline": "continuous",
    "KandinskyPipeline": "two stages",
    "StableVideoDiffusionPipeline": "video",
    "IFPipeline": "T5",
    "MadeUpPipeline": "MadeUpPipeline is not supported. Expected",
}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_other_pipelines_are_refused_by_name(tmp_path, pipeline):
    tiny.save_stable_diffusion(tmp_path)
    tiny.edit(tmp_path / "model_index.json", _class_name=pipeline)
    with pytest.raises(CheckpointError, match=PIPELINES[pipeline]) as caught:
        open_checkpoint(tmp_path)
    assert pipeline in str(caught.value) and "\n" not in str(caught.value)


TEXT_LIES = [
    ({"architectures": ["CLIPTextModelWithProjection"]}, "CLIPTextModelWithProjection"),
    ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
    ({"architectures": "os.system"}, "os.system"),
    ({"hidden_act": "os.system"}, "hidden_act is os.system"),
    ({"hidden_size": 10**9}, "hidden_size is"),
    ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ({"num_hidden_layers": 3}, "has no tensor encoder.layers.2"),
    ({"num_hidden_layers": 1}, "holds encoder.layers.1"),
    ({"num_attention_heads": 3}, "3 attention heads do not divide"),
    ({"layer_norm_eps": -1}, "layer_norm_eps is -1"),
    ({"vocab_size": 10}, "does not number its tokens from 0 to 9"),
    ({"max_position_embeddings": 8}, "disagree"),
    ({"use_attention_mask": True}, "use_attention_mask"),
    ({"intermediate_size": 20_000}, "disagree"),
]


@pytest.mark.parametrize(("text", "match"), TEXT_LIES, ids=lambda v: str(v)[:40])
def test_text_encoders_that_cannot_be_are_refused(tmp_path, text, match):
    tiny.save_stable_diffusion(tmp_path, text=text)
    with pytest.raises(CheckpointError, match=match) as caught:
        open_checkpoint(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_missing_parts_are_asked_for(tmp_path):
    tiny.save_stable_diffusion(tmp_path)
    for folder, match in (("tokenizer", "vocab.json or merges.txt is missing"), ("text_encoder", "text_encoder/config.json is missing"), ("vae", "vae/config.json is missing")):
        (tmp_path / folder).rename(tmp_path / "away")
        with pytest.raises(CheckpointError, match=match):
            open_checkpoint(tmp_path)
        (tmp_path / "away").rename(tmp_path / folder)
    state = load_file(tmp_path / "text_encoder" / "model.safetensors")
    state["text_model.final_layer_norm.bias"][0] = torch.inf
    save_file(state, tmp_path / "text_encoder" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"final_layer_norm\.bias holds NaN or infinity"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("role", "entry", "named"),
    [
        ("text_encoder", ["transformers", "T5EncoderModel"], "T5EncoderModel"),
        ("text_encoder", ["my_encoder", "CLIPTextModel"], "my_encoder.CLIPTextModel"),
        ("tokenizer", ["os", "system"], "os.system"),
        ("tokenizer", ["transformers", "AutoTokenizer"], "AutoTokenizer"),
        ("vae", ["diffusers", "AutoencoderDC"], "AutoencoderDC"),
        ("safety_checker", ["my_checker", "Checker"], "my_checker.Checker"),
        ("text_encoder_2", ["transformers", "CLIPTextModelWithProjection"], "CLIPTextModelWithProjection"),
        ("controlnet", ["diffusers", "ControlNetModel"], "ControlNetModel"),
    ],
)
def test_other_components_are_named_and_never_imported(tmp_path, role, entry, named):
    tiny.save_stable_diffusion(tmp_path)
    tiny.edit(tmp_path / "model_index.json", **{role: entry})
    for action in (open_checkpoint, inspect_checkpoint):
        with pytest.raises(CheckpointError, match=named) as caught:
            action(tmp_path)
        assert isinstance(caught.value, UnsafeCheckpoint) == (entry[0] not in ("diffusers", "transformers") or role == "text_encoder_2")


def test_a_whole_pipeline_of_diffusers_and_transformers_gives_the_same_numbers(tmp_path):
    """The only test with transformers, which the program itself does without."""
    transformers, diffusers = pytest.importorskip("transformers"), pytest.importorskip("diffusers")
    tiny.save_tokenizer(tmp_path / "made")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "made")
    sizes = {name: value for name, value in tiny.TEXT.items() if name not in ("architectures", "model_type")} | {"vocab_size": len(tiny.VOCAB)}
    config = transformers.CLIPTextConfig(**sizes, eos_token_id=len(tiny.VOCAB) - 1)
    torch.manual_seed(5)
    unet, autoencoder = diffusers.UNet2DConditionModel(**tiny.CONDITIONAL), diffusers.AutoencoderKL(**tiny.AUTOENCODER)
    parts = {"text_encoder": transformers.CLIPTextModel(config).eval(), "tokenizer": tokenizer, "unet": unet.eval(), "vae": autoencoder.eval()}
    pipeline = diffusers.StableDiffusionPipeline(**parts, scheduler=diffusers.PNDMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.save_pretrained(tmp_path / "model")
    model, captions = open_checkpoint(tmp_path / "model"), [*CAPTIONS, "a cat's 3 cats!!! ñ 猫 <|endoftext|> b"]
    with torch.no_grad():
        expected, _ = pipeline.encode_prompt(captions, "cpu", 1, False)
        got = model.embed(captions)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.predict(LATENTS, T, got[:3]).eps_hat, unet(LATENTS, T, encoder_hidden_states=expected[:3]).sample, atol=1e-5, rtol=1e-5)
    json.dumps(model.info.to_json(), allow_nan=False)
