"""Built-in losses against torch's, torchvision's and the papers' own formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from ftkit.api import Loss, RequestError
from ftkit.tasks.training_loss import BatchLoss
from tests.models import part

CrossEntropy, Focal = part("losses", "cross-entropy"), part("losses", "focal")
BinaryCrossEntropy, Asymmetric = part("losses", "binary-cross-entropy"), part("losses", "asymmetric")
SigmoidFocal = part("losses", "sigmoid-focal")
LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
ONE_HOT = functional.one_hot(LABELS, 4).double()
SOFT = (0.3 * ONE_HOT + 0.7 * ONE_HOT.roll(1, 0)).double()
MANY = (torch.randn(6, 4, generator=torch.Generator().manual_seed(2)) > 0).double()


def gradient(value: Callable[[Tensor], Tensor]) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(value(logits).sum(), logits)[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_of_class_indices_is_torchs_to_the_last_bit(smoothing: float) -> None:
    for logits in (LOGITS, LOGITS.float()):
        total = functional.cross_entropy(logits, LABELS, reduction="sum", label_smoothing=smoothing)
        each = functional.cross_entropy(logits, LABELS, reduction="none", label_smoothing=smoothing)
        assert torch.equal(BatchLoss(CrossEntropy(), smoothing=smoothing)(logits, LABELS), total)
        weights = torch.tensor([1.0, 2.0, 0.5, 0.0]).to(logits)
        weighted = BatchLoss(CrossEntropy(), smoothing=smoothing, weights=weights)(logits, LABELS)
        assert torch.equal(weighted, (each * weights[LABELS]).sum())


@pytest.mark.parametrize("loss", [CrossEntropy(), Focal(), Focal(gamma=0.5)])
def test_class_indices_and_their_one_hot_targets_give_the_same_loss(loss: Loss) -> None:
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0]).double()
    for smoothing in (0.0, 0.2):
        for batch_loss in (BatchLoss(loss, "x", smoothing), BatchLoss(loss, "x", smoothing, weights, auxiliary=0.4)):
            soft, hard = (batch_loss(LOGITS, targets, [LOGITS]) for targets in (ONE_HOT, LABELS))
            assert float(soft) == pytest.approx(float(hard))


def test_focal_loss_by_its_formula() -> None:
    p = LOGITS.softmax(1)
    expected = -((1 - p[range(6), LABELS]) ** 2 * p[range(6), LABELS].log())
    assert torch.allclose(Focal().per_image(LOGITS, LABELS), expected)
    assert torch.allclose(
        Focal(gamma=0).per_image(LOGITS, SOFT, 0.1),
        functional.cross_entropy(LOGITS, SOFT, reduction="none", label_smoothing=0.1),
    )
    mixed = -(SOFT * (1 - p) ** 2 * p.log()).sum(1)
    assert torch.allclose(Focal().per_image(LOGITS, SOFT), mixed)


@pytest.mark.parametrize("pos_weight", [3.0, (1.0, 2.0, 3.0, 0.5)])
def test_binary_cross_entropy_is_torchs(pos_weight: Any) -> None:
    def expected(logits: Tensor, weight: Tensor | None = None) -> Tensor:
        losses = functional.binary_cross_entropy_with_logits(logits, MANY, reduction="none", pos_weight=weight)
        return losses.mean(1)

    assert torch.allclose(BinaryCrossEntropy().per_image(LOGITS, MANY), expected(LOGITS))
    weight = torch.tensor(pos_weight).double()
    assert torch.allclose(
        gradient(lambda logits: BinaryCrossEntropy(pos_weight).per_image(logits, MANY)),
        gradient(lambda logits: expected(logits, weight)),
    )


def test_balanced_weights_are_counted_from_the_training_images() -> None:
    fitted = BinaryCrossEntropy("balanced").fitted([5, 10, 0, 2], 10)
    assert fitted == BinaryCrossEntropy((1.0, 1.0, 1.0, 4.0))
    assert BinaryCrossEntropy(2.0).fitted([1], 10) == BinaryCrossEntropy(2.0)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, None), (0.0, 0.5)])
def test_sigmoid_focal_loss_is_torchvisions(gamma: float, alpha: float | None) -> None:
    def torchvisions(logits: Tensor) -> Tensor:
        losses: Tensor = sigmoid_focal_loss(logits, MANY, -1 if alpha is None else alpha, gamma)
        return losses.mean(1)

    ours = SigmoidFocal(gamma, alpha)
    assert torch.allclose(ours.per_image(LOGITS, MANY), torchvisions(LOGITS))
    assert torch.allclose(gradient(lambda logits: ours.per_image(logits, MANY)), gradient(torchvisions))


def theirs(x: Tensor, y: Tensor, gamma_neg: float, gamma_pos: float, clip: float) -> Tensor:
    """The loss of each class in the authors' code (github.com/Alibaba-MIIL/ASL, MIT), without in-place steps."""
    xs_pos = torch.sigmoid(x)
    xs_neg = (1 - xs_pos + clip).clamp(max=1)
    loss = y * torch.log(xs_pos.clamp(min=1e-8)) + (1 - y) * torch.log(xs_neg.clamp(min=1e-8))
    with torch.no_grad():
        pt = xs_pos * y + xs_neg * (1 - y)
        weight = torch.pow(1 - pt, gamma_pos * y + gamma_neg * (1 - y))
    return -loss * weight


@pytest.mark.parametrize(("gamma_neg", "gamma_pos", "clip"), [(4.0, 1.0, 0.05), (2.0, 0.0, 0.0), (0.0, 0.0, 0.2)])
def test_asymmetric_loss_is_its_authors(gamma_neg: float, gamma_pos: float, clip: float) -> None:
    ours = Asymmetric(gamma_neg, gamma_pos, clip)
    expected = theirs(LOGITS, MANY, gamma_neg, gamma_pos, clip).mean(1)
    assert torch.allclose(ours.per_image(LOGITS, MANY), expected)
    assert torch.allclose(
        gradient(lambda logits: ours.per_image(logits, MANY)),
        gradient(lambda logits: theirs(logits, MANY, gamma_neg, gamma_pos, clip).mean(1)),
    )


@pytest.mark.parametrize(
    "loss",
    [
        Focal(),
        Focal(0.5),
        BinaryCrossEntropy(2.0),
        SigmoidFocal(),
        SigmoidFocal(0.5),
        Asymmetric(),
        Asymmetric(0.5, 0.5),
    ],
)
def test_losses_and_gradients_are_finite_at_extreme_logits(loss: Loss) -> None:
    logits = torch.tensor([[100.0, -100.0], [-100.0, 100.0], [0.0, 0.0]]).requires_grad_()
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    value = loss.total(logits, targets, 0.0)
    assert torch.isfinite(value)
    assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Focal(-1), "gamma is -1"),
        (lambda: Focal(float("nan")), "gamma is nan"),
        (lambda: BinaryCrossEntropy(0.0), "pos_weight is 0.0 (give a number above 0)"),
        (lambda: SigmoidFocal(alpha=2), "alpha is 2 (give a number from 0 to 1)"),
        (lambda: Asymmetric(clip=1), "clip is 1 (give a number from 0 and below 1)"),
    ],
)
def test_bounds_of_options_are_checked(make: Callable[[], Loss], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        make()
    assert says in str(caught.value)


class Wrong(Loss):
    def per_image(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return logits.mean()


def test_a_loss_of_the_wrong_shape_is_refused_in_one_line() -> None:
    weights = torch.ones(4).double()
    with pytest.raises(RequestError, match=r"loss 'mine' returned shape \(\), not a tensor of shape \(6,\)"):
        BatchLoss(Wrong(), "mine", weights=weights)(LOGITS, LABELS)


def test_class_weights_and_smoothing_by_hand() -> None:
    """Logits 0 and ln 3 are the probabilities 1/4 and 3/4."""
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    labels = torch.tensor([0, 1])
    hit, miss, loss = -math.log(0.75), -math.log(0.25), CrossEntropy()
    assert float(BatchLoss(loss)(logits, labels)) == pytest.approx(miss + hit)
    weights = torch.tensor([0.5, 3.0])
    assert float(BatchLoss(loss, weights=weights)(logits, labels)) == pytest.approx(0.5 * miss + 3 * hit)
    smooth_miss, smooth_hit = 0.9 * miss + 0.1 * hit, 0.9 * hit + 0.1 * miss
    both = BatchLoss(loss, smoothing=0.2, weights=weights, auxiliary=0.4)
    assert float(BatchLoss(loss, smoothing=0.2)(logits, labels)) == pytest.approx(smooth_miss + smooth_hit)
    assert float(both(logits, labels)) == pytest.approx(0.5 * smooth_miss + 3 * smooth_hit)
    assert float(both(logits, labels, [logits])) == pytest.approx(1.4 * (0.5 * smooth_miss + 3 * smooth_hit))
    assert float(both(logits[:0], labels[:0])) == 0.0
