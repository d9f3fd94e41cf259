"""CLIP scores: order, determinism, agreement with open_clip, and names that are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from msbd_dist.errors import ModelError
from msbd_dist.models.bundle import Models
from msbd_dist.models.card import bundled_folder
from msbd_dist.models.rerank import load_scorer

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
