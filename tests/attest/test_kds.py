"""AMD's key distribution service: names and paths."""

from __future__ import annotations

import pytest

from leasehold.attest.amd.kds import chain_name, chain_path, crl_path, vcek_name, vcek_path
from leasehold.attest.amd.report import parse_report
from leasehold.errors import CollateralRejected

from .snp_bench import make_snp_bench


def test_paths_of_a_milan_machine() -> None:
    bench = make_snp_bench("Milan")
    name = vcek_name(parse_report(bench.evidence.quote), "Milan")
    assert name == f"Milan-{bench.chip.chip_id.hex()}-040018db00"
    assert vcek_path(name) == (
        f"/vcek/v1/Milan/{bench.chip.chip_id.hex()}?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219"
    )


def test_paths_of_a_turin_machine() -> None:
    """A short chip id, and one more component in front."""
    bench = make_snp_bench("Turin")
    name = vcek_name(parse_report(bench.evidence.quote), "Turin")
    chip = bench.chip.chip_id[:8].hex()
    assert vcek_path(name) == (
        f"/vcek/v1/Turin/{chip}?fmcSPL=0&blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219"
    )


def test_paths_of_chains_and_lists() -> None:
    assert chain_path(chain_name("vcek", "Genoa")) == "/vcek/v1/Genoa/cert_chain"
    assert crl_path(chain_name("vlek", "Turin")) == "/vlek/v1/Turin/crl"


@pytest.mark.parametrize(
    "name", ["", "vcek-Venice", "vcek-Milan/..", "x", "Milan-00-00", "vcek-Milan\n"]
)
def test_names_that_are_none_are_refused(name: str) -> None:
    for path in (chain_path, crl_path, vcek_path):
        with pytest.raises(CollateralRejected):
            path(name)
