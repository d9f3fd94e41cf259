"""Models of the hub: which commit they are, which files are fetched, and what its refusals say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import loaded
from hub import COMMIT, TROUBLES, serving
from huggingface_hub import constants

from msbd_dist.core.spec import ModelSpec
from msbd_dist.errors import ModelError
from msbd_dist.models.card import pinned, resolve
from msbd_dist.models.fingerprint import digests
from msbd_dist.models.sources import Hub

NEWER = "d" * 40


class Served:
    """A hub on this machine that this process asks, and what it was asked."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, list[str]()
        self.heads, self.trouble = {"main": COMMIT, "v1.0": COMMIT}, list[str]()

    def add(self, name: str, folder: Path) -> Path:
        return Path(shutil.copytree(folder, self.root / name))


@pytest.fixture
def hub(tmp_path: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    found = Served(tmp_path / "served")
    given = {"heads": found.heads, "trouble": found.trouble}
    with serving(found.root, found.asked, **given) as endpoint:
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield found


def weights_in(asked: list[str]) -> list[str]:
    return sorted(name for name in asked if name.endswith(".safetensors"))


def rename_weights(folder: Path, change: str) -> None:
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", change)))


def test_a_model_is_the_commit_that_its_branch_is_at(hub: Served, made: Path) -> None:
    hub.add("org/name", made / "eps")
    hub.add(f"org/name@{NEWER}", made / "v")
    before = resolve(ModelSpec(family="org/name"))
    assert before.location == f"org/name@{COMMIT}"
    assert weights_in(hub.asked) == []  # which are not fetched to look
    kept = pinned(ModelSpec(family="org/name"), before)
    hub.heads["main"] = NEWER
    after = resolve(ModelSpec(family="org/name"))
    assert after.location == f"org/name@{NEWER}"
    assert digests(after) != digests(before)
    assert resolve(kept).location == resolve(ModelSpec(family="org/name@v1.0")).location
    assert digests(resolve(kept)) == digests(before)
    assert loaded(kept.family).latent.prediction == "epsilon"
    assert loaded("org/name").latent.prediction == "v_prediction"


def test_a_commit_in_the_cache_needs_no_hub(hub: Served, made: Path) -> None:
    hub.add("org/name", made / "eps")
    card = resolve(ModelSpec(family="org/name"))
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        Hub(*card.location.split("@")).fetch(part)
    for trouble in TROUBLES:
        hub.trouble[:] = [trouble]
        assert resolve(ModelSpec(family=card.location)) == card.__class__(
            **{**card.__dict__, "name": card.location}
        )


def test_the_config_of_a_single_file_is_of_one_commit_too(hub: Served, made: Path) -> None:
    hub.add("org/name", made / "eps")
    spec = ModelSpec(family=str(made / "single.safetensors"), config="org/name")
    assert pinned(spec, resolve(spec)).config == f"org/name@{COMMIT}"


@pytest.mark.parametrize("variant", [".safetensors", ".fp16.safetensors"])
def test_the_weights_there_are_get_loaded(hub: Served, made: Path, variant: str) -> None:
    rename_weights(hub.add("org/name", made / "eps"), variant)
    latent = loaded("org/name").latent
    assert latent.text("a red star").prompt.shape[1] == 24
    assert latent.parts.unet is not None
    stems = {"text_encoder/model", "unet/diffusion_pytorch_model"}
    assert weights_in(hub.asked) == sorted(stem + variant for stem in stems)


def test_of_two_precisions_the_full_one_is_fetched(hub: Served, made: Path) -> None:
    folder = hub.add("org/name", made / "eps")
    for file in [*folder.glob("*/*.safetensors")]:
        shutil.copy(file, file.with_suffix(".fp16.safetensors"))
    assert loaded("org/name").latent.parts.vae is not None
    assert weights_in(hub.asked) == ["vae/diffusion_pytorch_model.safetensors"]


def test_a_repository_of_pickles_is_refused_before_anything_is_fetched(
    hub: Served, made: Path
) -> None:
    rename_weights(hub.add("org/name", made / "eps"), ".bin")
    with pytest.raises(ModelError, match=r"^org/name@c+/\w+: has only pickled weights"):
        resolve(ModelSpec(family="org/name"))


REFUSALS = {
    "gated": ["accepted its terms", "HF_TOKEN"],
    "forbidden": ["accepted its terms", "HF_TOKEN"],
    "private": ["none of this name", "HF_TOKEN"],
    "too many": ["429", "HF_TOKEN"],
    "its own error": ["500", "later"],
    "login page": ["HF_ENDPOINT", "network"],
    "dropped": ["HF_ENDPOINT", "network"],
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(
    hub: Served, made: Path, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/name", made / "eps")
    hub.trouble.append(trouble)
    monkeypatch.setattr("time.sleep", lambda _: None)  # between two tries of the client
    with pytest.raises(ModelError) as error:
        resolve(ModelSpec(family="org/name"))
    message = str(error.value)
    assert message.startswith("org/name: ")
    assert "\n" not in message
    assert all(word in message for word in REFUSALS[trouble]), message


def test_a_revision_that_is_not_there_is_named(hub: Served, made: Path) -> None:
    hub.add("org/name", made / "eps")
    with pytest.raises(ModelError, match=r"org/name@v9.*no revision 'v9'"):
        resolve(ModelSpec(family="org/name@v9"))
    with pytest.raises(ModelError, match=r"org/none.*none of this name"):
        resolve(ModelSpec(family="org/none"))
