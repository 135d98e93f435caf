"""How a set is to be cut into silos: what is asked for, and whether it can be at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from silofold.core.errors import SchemaError

MOST_SILOS: Final = 100_000


@dataclass(frozen=True)
class Cut:
    """How a set is cut.

    Parameters
    ----------
    by
        A key of `METHODS`.
    silos
        How many; with `sizes`, as many as these.
    alpha
        Of Dirichlet's distribution: of class shares, or of sizes with ``quantity``.
    sigma
        Of log-normal sizes.
    per_silo
        Classes, or shards, that each silo gets.
    least
        Pictures that each silo must have.
    balanced
        Whether a silo that has its even share gets no more of further classes.
    shape
        Of ``quantity``: dirichlet, linear or lognormal.
    noise
        Standard deviation, as a share of 255, of the noise that the last silo gets; the first gets none.
    """

    by: str
    silos: int
    seed: int
    alpha: float = 0.5
    sigma: float = 1.0
    per_silo: int = 2
    least: int = 1
    balanced: bool = False
    shape: str = "dirichlet"
    sizes: tuple[int, ...] = ()
    noise: float = 0.0

    @property
    def words(self) -> str:
        """What the record says of it."""
        told = {
            "dirichlet": f"alpha {self.alpha:g}, least {self.least}" + (", balanced" if self.balanced else ""),
            "classes": f"{self.per_silo} a silo",
            "shards": f"{self.per_silo} a silo",
            "quantity": self.shape + (f" {self.sigma:g}" if self.shape == "lognormal" else "")
            + (f" {self.alpha:g}" if self.shape == "dirichlet" else ""),
            "inner-dirichlet": f"alpha {self.alpha:g}",
        }.get(self.by, "")  # fmt: skip
        noise = f", noise {self.noise:g}" if self.noise else ""
        return f"partition {self.by}{f' ({told})' if told else ''} into {self.silos} silos, seed {self.seed}{noise}"


def check(cut: Cut, size: int) -> None:
    """Refuse what cannot be asked of so many pictures.

    Raises
    ------
    SchemaError
        A number is out of range.
    """

    def refuse(what: str) -> None:
        raise SchemaError("tool-option", what)

    if not 1 <= cut.silos <= MOST_SILOS:
        refuse(f"--silos: found {cut.silos}, expected 1 to {MOST_SILOS}")
    if cut.silos > size:
        refuse(f"--silos: found {cut.silos}, expected at most {size}, the number of pictures")
    if not 0 < cut.alpha <= 1e6:
        refuse(f"--alpha: found {cut.alpha:g}, expected more than 0, at most 1e6")
    if not 0 < cut.sigma <= 10:
        refuse(f"--sigma: found {cut.sigma:g}, expected more than 0, at most 10")
    if not 0 <= cut.noise <= 1:
        refuse(f"--noise: found {cut.noise:g}, expected 0 to 1")
    if cut.least * cut.silos > size:
        refuse(f"--least: found {cut.least} for {cut.silos} silos, expected at most {size // cut.silos} of {size} pictures")
    if sum(cut.sizes) > size or min(cut.sizes, default=1) < 1:
        refuse(f"--sizes: found {sum(cut.sizes)} pictures in all, expected at most {size}, and at least 1 each")
