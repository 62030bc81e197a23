"""Reads docs/claims.yaml, the claims of the papers (`surgrad.analysis.claims`)."""

from pathlib import Path
from typing import cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from surgrad.analysis.claims import Papers
from surgrad.errors import UserError


def load_claims(path: str | Path) -> Papers:
    """Read docs/claims.yaml.

    Raises:
        UserError: naming what is wrong: an unknown or missing key, two claims of one id, an unknown paper or margin.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Papers), OmegaConf.load(path))
        papers = cast(Papers, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    assert isinstance(papers, Papers)
    known = {paper.key: "paper" for paper in papers.papers}
    margins = {margin.key for margin in papers.margins}
    seen: set[str] = set()
    for claim in papers.claims:
        if claim.id in seen:
            raise UserError(f"{path}: two claims are called {claim.id}")
        if claim.paper not in known:
            raise UserError(f"{path}: claim {claim.id}: paper {claim.paper} is unknown; allowed: {', '.join(known)}")
        if claim.margin is not None and claim.margin not in margins:
            raise UserError(
                f"{path}: claim {claim.id}: margin {claim.margin} is unknown; allowed: {', '.join(sorted(margins))}"
            )
        seen.add(claim.id)
    return papers
