"""What the loader refuses it refuses with a sentence and with what helps in that very case."""

from __future__ import annotations

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


def test_each_refusal_says_what_helps_in_its_case() -> None:
    sites = [
        site for site in raisesites.sites() if site.place.startswith(PLACES) and site.reason in OF_THE_CASE
    ]
    assert {site.reason for site in sites} == OF_THE_CASE
    assert [(site.place, site.reason) for site in sites if "remedy" not in site.arguments] == []
