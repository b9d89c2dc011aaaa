"""What the loader refuses it refuses with a sentence and with what helps in that very case."""

from __future__ import annotations

import pytest

from support import raisesites

#: Their general advice speaks of installs and downloads, or of one case among several.
OF_THE_CASE = {
    *("INVALID_MODEL", "CHECKSUM_MISMATCH", "RAM_EXHAUSTED", "LEASES_EXHAUSTED", "QUEUE_FULL"),
    *("FORBIDDEN_TICKET", "SUBMODEL_REQUIRED", "UNKNOWN_SUBMODEL", "SERVER_BUSY"),
}
PLACES = (
    "services/modelkeep_loader/",
    "services/modelkeep_convert/",
    "clients/python/modelkeep/quantised.py",
)
SITES = [site for site in raisesites.sites() if site.place.startswith(PLACES) and site.reason in OF_THE_CASE]


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.place)
def test_each_refusal_says_what_helps_in_its_case(site: raisesites.Site) -> None:
    assert "remedy" in site.arguments, f"{site.reason} at {site.place} needs a remedy of its own"


def test_the_places_that_refuse_are_found() -> None:
    assert {site.reason for site in SITES} == OF_THE_CASE
