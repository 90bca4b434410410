"""Licenses as the front matter of a card states them."""

from __future__ import annotations

from typing import Any


def license_fields(stated: str, url: str) -> dict[str, Any]:
    """The fields of a card's front matter that say what license something has.

    Args:
        stated: as a person wrote it; it becomes the hub's identifier where it is exactly one.
        url: where its terms can be read.

    >>> license_fields("CC-BY-4.0", "https://example.org")
    {'license': 'cc-by-4.0'}
    >>> license_fields("MIT; the images are COCO's", "https://example.org")
    {'license': 'other', 'license_name': 'see-below', 'license_link': 'https://example.org'}
    """
    if stated.casefold() in _LICENSES:
        return {"license": stated.casefold()}
    fields = {"license": "other", "license_name": "see-below"}
    return fields | ({"license_link": url} if url.startswith("https://") else {})


# Of the hub's identifiers those that datasets and models of this field have.
_LICENSES = frozenset(
    (
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0"),
        *("cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
        *("cc-by-nd-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "odc-by"),
        *("odbl", "pddl", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "openrail"),
    )
)
