"""Models by name: sizes of the papers, other norms, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpc_localsgd.errors import ConfigurationError
from hpc_localsgd.tasks.vision import models
from hpc_localsgd.tasks.vision.models import OF_TORCHVISION, model_maker
from hpc_localsgd.tasks.vision.norms import GhostBatchNorm2d, make_norm, replace_norms

PARAMETERS = {  # of the papers and of torchvision's documentation
    ("resnet20", 10, 32): 269_722,
    ("cifar_vgg16", 10, 32): 14_719_818,
    ("resnet32", 10, 32): 464_154,
    ("resnet56", 10, 32): 853_018,
    ("wide_resnet28_10", 10, 32): 36_479_194,
    ("wide_resnet16_4", 10, 32): 2_748_890,
    ("resnet50", 1000, 224): 25_557_032,
    ("vit_b_16", 1000, 224): 86_567_656,
    ("googlenet", 1000, 224): 6_624_904,
}


@pytest.mark.parametrize(("model", "parameters"), PARAMETERS.items(), ids=lambda m: str(m))
def test_models_have_the_published_number_of_parameters(
    model: tuple[str, int, int], parameters: int
) -> None:
    make = model_maker(*model)
    with torch.device("meta"):
        assert sum(p.numel() for p in make().parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mlp512", 784 * 512 + 512 + 512 * 512 + 512 + 5130),
        ("cnn32", 9 * 32 + 9 * 32 * 64 + 2 * (32 + 64) + 64 * 49 * 128 + 128 + 1290),
        ("resnet20", 269_722 - 2 * 9 * 16),
        ("resnet20_32", 4 * (269_722 - 1_376 - 650 - 3 * 9 * 16) + 2 * 1_376 + 1_290 + 9 * 32),
        ("resnet18", 11_181_642),
    ],
)
def test_models_of_grey_images(name: str, parameters: int) -> None:
    make = model_maker(name, 10, 28, channels=1)
    with torch.device("meta"):
        assert sum(p.numel() for p in make().parameters()) == parameters


def test_a_model_of_colours_sees_a_grey_image_three_times() -> None:
    torch.manual_seed(0)
    grey = model_maker("resnet18", 10, 28, channels=1)().eval()
    image = torch.randn(2, 1, 28, 28)
    assert torch.equal(grey(image), grey.model(torch.cat([image] * 3, dim=1)))


@pytest.mark.parametrize("name", ["resnet20", "wide_resnet10_2", "resnet18", "densenet121"])
@pytest.mark.parametrize(("norm", "kind"), [("group", nn.GroupNorm), ("ghost", GhostBatchNorm2d)])
def test_every_batchnorm_is_replaced(name: str, norm: str, kind: type[nn.Module]) -> None:
    with torch.device("meta"):
        plain, other = (model_maker(name, 10, 32, n)() for n in ("batch", norm))  # type: ignore[arg-type]
    count = sum(type(m) is nn.BatchNorm2d for m in plain.modules())
    assert sum(type(m) is kind for m in other.modules()) == count > 0
    assert not any(type(m) is nn.BatchNorm2d for m in other.modules())
    assert [p.shape for p in other.parameters()] == [p.shape for p in plain.parameters()]


def test_a_replaced_norm_keeps_weights() -> None:
    module = nn.Sequential(nn.BatchNorm2d(8, eps=0.5))
    nn.init.zeros_(module[0].weight)
    weight = module[0].weight
    assert replace_norms(module, make_norm("group", 4, 2)) == 1
    assert module[0].weight is weight and module[0].eps == 0.5


def test_a_ghost_batch_is_normalised_by_itself() -> None:
    torch.manual_seed(0)
    ghost, plain = GhostBatchNorm2d(3, 4), nn.BatchNorm2d(3)
    images = torch.randn(10, 3, 5, 5) * 2 + 1
    out = ghost(images)
    for part, same in zip(images.split(4), out.split(4), strict=True):
        torch.testing.assert_close(same, nn.BatchNorm2d(3)(part))
    for part in images.split(4):  # the running statistics: one step towards the mean of the parts
        plain(part)
    seen = torch.stack([part.mean((0, 2, 3)) for part in images.split(4)]).mean(0)
    torch.testing.assert_close(ghost.running_mean, 0.1 * seen)
    assert not torch.allclose(ghost.running_mean, plain.running_mean)  # type: ignore[arg-type]
    small = GhostBatchNorm2d(3, 16)
    torch.testing.assert_close(small(images), nn.BatchNorm2d(3)(images))
    assert ghost.eval()(images).shape == images.shape


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("resnet21", 10, 32), "unknown --task.model 'resnet21'"),
        (("resnet5", 10, 32), "did you mean 'resnet56'"),
        (("cnn32_2", 10, 32), "did you mean 'cnn32'"),
        (("mlp0", 10, 32), "unknown --task.model 'mlp0'"),
        (("vit_b_16", 10, 100), "vit_b_16 cannot take images of 100x100 pixels"),
        (("alexnet", 10, 32), "alexnet cannot take images of 32x32 pixels"),
        (("vgg16", 10, 32, "group"), "vgg16 has no BatchNorm to replace"),
        (("resnet20", 10, 32, "group", 7), "--task.groups 7: the model has a norm of 16 channels"),
        (("resnet20", 10, 32, "group", 0), "must be at least 1"),
    ],
)
def test_what_is_wrong_is_named(arguments: tuple, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigurationError) as caught:
        model_maker(*arguments)
    assert said in str(caught.value)


def test_a_name_of_torchvision_means_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that would be names of small models too are listed, so that it need not be asked."""
    published = models._of_torchvision()
    shared = {
        name for name in published if models._small_maker(name, 10, (3, 32), "batch", nn.Identity)
    }
    assert shared == set(OF_TORCHVISION)
    monkeypatch.setattr(models, "_of_torchvision", lambda: pytest.fail("torchvision is imported"))
    model_maker("resnet20", 10, 32)()
