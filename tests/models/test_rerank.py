"""CLIP scores: order, determinism, agreement with open_clip, and names that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models.activation import quick_gelu
from msbd_dist.models.bundle import Models
from msbd_dist.models.card import bundled_folder, resolve
from msbd_dist.models.rerank import _picture, load_scorer

CPU = torch.device("cpu")


def test_the_right_words_score_highest(bundled: Models, scene: Tensor) -> None:
    words = ["a red circle", "a blue circle", "a red star", "a green heart"]
    scores = [bundled.scorer(scene, text)[0] for text in words]
    assert scores.index(max(scores)) == 0
    assert all(-100 <= score <= 100 for score in scores)


def test_scores_are_open_clips_cosine_times_100(bundled: Models, scene: Tensor) -> None:
    name = f"local-dir:{bundled.card.clip}"
    model, preprocess = open_clip.create_model_from_pretrained(name)
    model.eval()
    from PIL import Image

    pixels = (scene[0] * 255).round().byte().permute(1, 2, 0).numpy()
    with torch.no_grad():
        image = model.encode_image(preprocess(Image.fromarray(pixels))[None], normalize=True)
        text = model.encode_text(open_clip.get_tokenizer(name)(["a red circle"]), normalize=True)
    expected = 100 * float(image @ text.T)
    assert bundled.scorer(scene, "a red circle") == pytest.approx([expected], abs=1e-4)


def test_pictures_of_any_size_and_range_are_scored_each_on_its_own(
    bundled: Models, scene: Tensor
) -> None:
    pair = torch.cat([scene, 1 - scene])
    scores = bundled.scorer(pair, "a red circle")
    assert scores == bundled.scorer(pair, "a red circle")
    assert scores[1] == pytest.approx(bundled.scorer(pair[1:], "a red circle")[0], abs=1e-3)
    large = torch.nn.functional.interpolate(scene, scale_factor=3, mode="bicubic") * 1.1
    assert bundled.scorer(large, "a red circle")[0] == pytest.approx(scores[0], abs=15)


def test_an_architecture_with_a_file_loads(tmp_path: Path, scene: Tensor) -> None:
    torch.manual_seed(0)
    model = open_clip.create_model("RN50", load_weights=False)
    file = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    scorer = load_scorer(f"RN50:{file}", device=CPU)
    assert len(scorer(torch.cat([scene, scene]), "a red circle")) == 2


def test_openai_weights_get_the_activation_they_were_trained_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, object] = {}

    def create(identifier: str, **options: object) -> object:
        asked.update(options)
        raise OSError("stop here")

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", create)
    for name, quick in (("ViT-L-14:openai", True), ("ViT-L-14:laion2b_s32b_b82k", False)):
        with pytest.raises(ModelError):
            load_scorer(name, device=CPU)
        assert asked["force_quick_gelu"] is quick


def test_a_name_of_published_weights_says_what_open_clip_says() -> None:
    """The words in names against open_clip's own table of weights."""
    compared = 0
    for architecture in open_clip.list_models():
        for tag in open_clip.list_pretrained_tags_by_model(architecture):
            settings = open_clip.get_pretrained_cfg(architecture, tag)
            config = open_clip.get_model_config(architecture) or {}
            if config.get("quick_gelu"):
                continue  # by its configuration, whatever the file
            said = quick_gelu(architecture, Path(f"/models/{architecture}-{tag}.safetensors"))
            assert bool(said) == bool(settings.get("quick_gelu")), (architecture, tag)
            assert said is not None
            compared += 1
    assert compared > 100


@pytest.mark.parametrize(
    ("file", "quick"),
    [
        ("ViT-L-14-openai.safetensors", True),
        ("OpenAI/ViT-L-14.safetensors", True),
        ("vit_large_patch14_clip_224.openai/open_clip_model.safetensors", True),
        ("ViT-L-14-quickgelu.safetensors", True),
        ("CLIP-ViT-L-14-laion2B-s32B-b82K/open_clip_model.safetensors", False),
        ("laion2b/openai/w.safetensors", True),
        ("ViT-L-14.safetensors", None),
        ("clip/model.safetensors", None),
    ],
)
def test_the_activation_is_told_by_names(tmp_path: Path, file: str, quick: bool | None) -> None:
    place = tmp_path / file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"")
    assert quick_gelu("ViT-L-14", place) is quick
    assert quick_gelu("RN50", place) is True  # of which there are no others
    (note,) = resolve(ModelSpec(clip=f"ViT-L-14:{place}")).notes if quick is None else ("",)
    assert quick is not None or f"then say ViT-L-14-quickgelu:{place}" in note
    assert resolve(ModelSpec(clip=f"ViT-L-14-quickgelu:{place}")).notes == ()


def test_a_configuration_beside_a_file_says_which_activation(tmp_path: Path) -> None:
    file = tmp_path / "laion2b.safetensors"
    for quick in (True, False):
        config = {"model_cfg": {"quick_gelu": True} if quick else {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        assert quick_gelu("ViT-B-32", file) is quick


def test_a_file_is_scored_with_the_activation_of_its_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scene: Tensor
) -> None:
    small = json.loads((bundled_folder() / "clip" / "open_clip_config.json").read_text())
    config = small["model_cfg"] | {"quick_gelu": False}
    text = {k: v for k, v in config["text_cfg"].items() if not k.startswith("hf_tokenizer")}
    config["text_cfg"] = text | {"vocab_size": 49408, "context_length": 77}
    known = dict(open_clip.factory._MODEL_CONFIGS) | {"ViT-B-32": config}
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", known)
    torch.manual_seed(0)
    weights = open_clip.create_model("ViT-B-32", load_weights=False).state_dict()
    scores = {}
    for name in ("openai", "laion2b", "unknown"):
        file = tmp_path / f"{name}.safetensors"
        save_file({k: v.contiguous() for k, v in weights.items()}, file)
        scores[name] = load_scorer(f"ViT-B-32:{file}", device=CPU)(scene, "a red circle")
    for name, quick in (("openai", True), ("laion2b", False)):
        model, preprocess = open_clip.create_model_from_pretrained(
            "ViT-B-32", pretrained=str(file), force_quick_gelu=quick
        )
        picture = preprocess(_picture(scene[0]))[None]
        with torch.no_grad():
            image = model.eval().encode_image(picture, normalize=True)
            words = model.encode_text(open_clip.tokenize(["a red circle"]), normalize=True)
        assert scores[name] == pytest.approx([100 * float(image @ words.T)], abs=1e-3)
    assert scores["openai"] != pytest.approx(scores["laion2b"], abs=1e-3)
    assert scores["unknown"] == scores["laion2b"]


def test_a_weight_too_many_or_too_few_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundled_folder() / "clip", tmp_path / "clip"))
    file = folder / "open_clip_model.safetensors"
    weights = load_file(file)
    save_file(weights | {"visual.lora_A.weight": torch.ones(2)}, file)
    _refused(str(folder), ["visual.lora_A.weight"])
    gone = next(name for name in weights if name.endswith("bias"))
    save_file({k: v for k, v in weights.items() if k != gone}, file)
    _refused(str(folder), [gone])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no/such/folder", ["no such folder", "ViT-L-14:openai"]),
        ("ViT-L-15:openai", ["'ViT-L-15'", "did you mean", "'ViT-L-14'"]),
        ("ViT-L-14:opnai", ["'opnai'", "did you mean 'openai'"]),
        ("ViT-L-14:/no/file.safetensors", ["/no/file.safetensors", "no such file"]),
        ("ViT-L-14:/no/file.pt", ["pickle", ".safetensors"]),
        ("ViT-L-14:openai", ["can't be loaded", "network", "folder"]),
    ],
)
def test_names_that_lead_nowhere_are_refused(name: str, words: list[str]) -> None:
    _refused(name, words)


@pytest.mark.parametrize("file", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_folders_that_are_incomplete_are_refused(tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(bundled_folder() / "clip", tmp_path / "clip"))
    (folder / file).unlink()
    _refused(str(folder), [str(folder), "has no", "open_clip_config.json"])


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundled_folder() / "clip", tmp_path / "clip"))
    (folder / "open_clip_model.safetensors").write_bytes(b"x" * 64)
    _refused(str(folder), [str(folder), "can't be loaded"])


def _refused(name: str, words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        load_scorer(name, device=CPU)
    message = str(caught.value)
    assert "\n" not in message
    for word in ["clip:", *words]:
        assert word in message
