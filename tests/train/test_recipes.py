import dataclasses

import pytest

from pstmo_edge.errors import UsageError
from pstmo_edge.train.recipes import RECIPES, differences, from_dict, get_recipe, overridden, to_dict


def test_recipes_survive_json_and_names_are_suggested():
    for recipe in RECIPES.values():
        assert from_dict(to_dict(recipe)) == recipe
    with pytest.raises(UsageError, match="did you mean 'cmu-27'"):
        get_recipe("cmu27")


@pytest.mark.parametrize(
    ("name", "model", "frames", "step", "mask_rate", "masked", "lr"),
    [
        ("p-stmo-s-gt", "p-stmo-s", 243, 2, 0.8, 7, 1e-3),
        ("p-stmo-s", "p-stmo-s", 243, 2, 0.8, 2, 7e-4),
        ("p-stmo", "p-stmo", 243, 2, 0.6, 3, 1e-3),
        ("p-stmo-s-3dhp", "p-stmo-s", 81, 1, 0.7, 2, 7e-4),
        ("p-stmo-s-wild", "p-stmo-s", 243, 2, 0.8, 2, 7e-4),
    ],
)
def test_published_settings(name, model, frames, step, mask_rate, masked, lr):
    """The table of the published repository's README, and what all its commands share."""
    recipe = get_recipe(name)
    assert (recipe.model, recipe.frames, recipe.t_downsample) == (model, frames, step)
    assert (recipe.mask_rate, recipe.masked_joints, recipe.lr) == (mask_rate, masked, lr)
    assert (recipe.batch, recipe.epochs, recipe.pretrain_lr, recipe.lr_decay, recipe.keep) == (
        160,
        80,
        1e-4,
        0.97,
        "best",
    )
    assert recipe.augmentation is None


def test_rates_decay_by_epoch_and_may_start_again():
    schedule = get_recipe("p-stmo").schedule("finetune")
    assert schedule.rate(0) == 1e-3
    assert schedule.rate(10) == pytest.approx(1e-3 * 0.97**10)
    assert get_recipe("p-stmo").schedule("pretrain").rate(1) == pytest.approx(0.97e-4)
    restarted = get_recipe("cmu-27").schedule("finetune")
    assert restarted.rate(15) == pytest.approx(1e-3 * 0.84**15)
    assert restarted.rate(16) == 3.5e-4


def test_any_field_can_be_overridden():
    recipe = overridden(
        get_recipe("p-stmo"), ["lr=1", "compile=true", "keep=last", "augmentation.speed=0.2"], batch=64, seed=None
    )
    assert (recipe.lr, recipe.compile, recipe.keep, recipe.batch, recipe.seed) == (1.0, True, "last", 64, 1)
    assert recipe.augmentation is not None
    assert recipe.augmentation.speed == 0.2
    changed = dataclasses.replace(recipe, lr=2.0, batch=32)
    assert differences(changed, to_dict(recipe)) == ["lr (2.0, was 1.0)", "batch (32, was 64)"]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("lr", "name=value"),
        ("learning=1", "learning"),
        ("lr=fast", "'fast' is no float"),
        ("batch=1.5", "no int"),
        ("keep=first", "first"),
        ("mask_rate=1.5", "between 0 and 1"),
        ("lookahead=300", "lookahead 300"),
        ("augmentation=1", "augmentation"),
        ("augmentation.size=1", "size"),
    ],
)
def test_what_does_not_fit_is_one_line(setting, words):
    with pytest.raises(UsageError, match=words) as caught:
        overridden(get_recipe("p-stmo"), [setting])
    assert "\n" not in str(caught.value)


def test_look_ahead_sets_the_target():
    assert get_recipe("p-stmo").target_index is None
    assert overridden(get_recipe("p-stmo"), lookahead=0).target_index == 242
    assert overridden(get_recipe("p-stmo"), lookahead=5).target_index == 237
