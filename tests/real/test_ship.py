"""`cpuft ship` on a really tuned model: what it measures is what tuning did, and the file it picks still has it."""

from cpuft.release.ship import ShipJob
from tests.real.conftest import Shipped


def test_tuning_helps(shipped: Shipped) -> None:
    """The base has none of the held-out forms right, with the adapter it has nearly all of them."""
    base, adapted, *_ = shipped.report.variants
    assert base.score == 0
    assert adapted.score is not None
    assert adapted.score >= 0.8
    assert adapted.divergence.perplexity < 1.2 < base.divergence.perplexity


def test_the_picked_file_has_what_was_learned(shipped: Shipped) -> None:
    """It is the smallest that the rule takes: near base + adapter, and as good as it within the stated loss."""
    report = shipped.report
    base, adapted, *merged = report.variants
    assert report.picked is not None
    assert report.picked.n_bytes == shipped.file.stat().st_size
    assert report.picked.divergence.kl <= min(ShipJob.max_kl, ShipJob.max_kl_share * base.divergence.kl)
    assert report.picked.score is not None
    assert adapted.score is not None
    assert report.picked.score >= adapted.score - ShipJob.max_score_loss
    smaller = [variant for variant in merged if variant.n_bytes < report.picked.n_bytes]
    assert all(variant.divergence.kl > report.picked.divergence.kl for variant in smaller)


def test_more_bits_keep_more(shipped: Shipped) -> None:
    """Rounding to 4 bits costs more than to 8, and both less than leaving the tuning out."""
    base, adapted, q4_k_m, q8_0 = (variant.divergence.kl for variant in shipped.report.variants)
    assert adapted == 0 < q8_0 < q4_k_m < base
