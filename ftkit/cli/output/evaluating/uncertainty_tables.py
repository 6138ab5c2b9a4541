"""Tables on prediction sets and rejection: what a model can promise, and what an evaluation has measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ftkit.cli.output import console
from ftkit.errors import RequestError
from ftkit.metrics.rounding import digits_of

if TYPE_CHECKING:
    from ftkit.evaluation.set_coverage import SetCoverage
    from ftkit.uncertainty.calibration_scores import CalibrationScores
    from ftkit.uncertainty.rejection import RiskCoverage

SHOWN = (0.5, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Parts of the images, and coverages, that tables show."""
RISKS = (0.01, 0.02, 0.05, 0.1)


def calibration_table(scores: CalibrationScores) -> None:
    """Print what calibration images permit: limits of sets, and thresholds of rejection."""
    from ftkit.uncertainty.rejection import rejection_rule

    console.print_text(f"{scores.describe}, of which {scores.right.mean():.4f} are predicted rightly")
    rows = []
    for coverage in SHOWN[2:5]:
        try:
            limits = [f"{scores.limit(method, coverage):.4f}" for method in ("lac", "aps")]
        except RequestError as error:
            console.print_text(f"coverage {coverage:g}: {error.message}")
            continue
        rows.append((f"{coverage:g}", *limits))
    if rows:
        console.show_table("Largest score in a set", ("coverage", "lac", "aps"), rows)
    rules = [(risk, rejection_rule(scores.confidence, scores.right, risk)) for risk in RISKS]
    rows = [
        (f"{risk:g}", "-", "-") if rule is None else (f"{risk:g}", f"{rule.threshold:.4f}", f"{rule.coverage:.1%}")
        for risk, rule in rules
    ]
    console.show_table(
        "Rejection: with 95 % confidence, the error rate of the kept predictions is at most reject-risk",
        ("reject-risk", "lowest probability", "kept"),
        rows,
    )


def risk_table(curve: RiskCoverage | None, images: int) -> None:
    """Print the error rate of the most confident predictions, if an image has one class."""
    if curve is None:
        return
    points, digits = dict.fromkeys(curve.at(coverage) for coverage in SHOWN), digits_of(images)
    rows = [(f"{one.coverage:.1%}", f"{one.threshold:.{digits}f}", f"{one.risk:.{digits}f}") for one in points]
    area = f"{curve.area:.{digits}f}"
    title = f"Error rate of the most confident predictions (area under the risk-coverage curve {area})"
    console.show_table(title, ("coverage", "lowest probability", "error rate"), rows)


def coverage_lines(found: SetCoverage | None) -> list[str]:
    """Lines on the prediction sets of an evaluation, if there are any."""
    if found is None:
        return []
    low, high = found.interval
    sizes = ", ".join(f"{size} {'class' if size == 1 else 'classes'} {part:.1%}" for size, part in found.sizes[:5])
    return [
        f"sets ({found.method}{', by class' if found.by_class else ''}) at coverage {found.wanted:g}: "
        f"{found.coverage:.4f} [{low:.4f}, {high:.4f}] hold the true class, {found.mean_size:.2f} classes on average",
        f"  {sizes}; lowest coverage of a class {found.lowest_class[1]:.4f} ({found.lowest_class[0]})",
    ]


def uncertainty_json(curve: RiskCoverage | None, sets: SetCoverage | None) -> dict[str, Any]:
    """The same as JSON values."""
    found: dict[str, Any] = {"risk_coverage": None if curve is None else asdict(curve)}
    return found | ({} if sets is None else {"sets": asdict(sets)})
