"""The calibrated exposures that templates can be made of, known from their headers alone."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from astropy.io import fits

from schemas.errors import DataError
from workers.imaging.wcs import SkyWcs

__all__ = ["CalexpEntry", "CalexpQuality", "index_calexps", "read_entry"]


@dataclass(frozen=True)
class CalexpQuality:
    """What its metrics say of an exposure; None where there is no such metric."""

    transparency: float | None = None
    """1: as clear as photometry.zero_point says."""
    throughput: float | None = None
    """Electrons per nJy and second: transparency times what telescope and detector let through."""
    psfError: float | None = None
    """Of the PSF model, relative to its value at a pixel."""
    ellipticity: float | None = None
    """Of the PSF, (a - b) / (a + b)."""
    psfStars: float | None = None
    """Stars that the PSF was fitted to."""
    astrometricRms: float | None = None
    """Arcsec per coordinate, of bright stars."""


@dataclass(frozen=True)
class CalexpEntry:
    """One calibrated exposure on disk. Times MJD TAI."""

    path: Path
    visit: int
    detector: int
    band: str
    midpointMjdTai: float
    sha256: str
    """Of the raw file."""
    calexp: str
    """SHA-256 over the data checksums and the WCS: changes with the calibrated pixels, not with time or place."""
    wcs: SkyWcs
    shape: tuple[int, int]
    fwhm: float
    """Of the PSF, arcsec."""
    variance: float
    """Of the background, nJy² per square arcsecond."""
    zero_point: float
    """nJy per electron."""
    quality: CalexpQuality = field(default_factory=CalexpQuality)

    @property
    def label(self) -> str:
        """``<visit>:<detector>``."""
        return f"{self.visit}:{self.detector}"


def index_calexps(folder: Path) -> tuple[CalexpEntry, ...]:
    """Return an entry for each ``*.fits`` below `folder`, by visit and detector; headers only are read.

    Raises DataError for a file that is not a calibrated exposure, and for two files of one visit and detector.
    """
    found = [read_entry(path) for path in sorted(folder.rglob("*.fits"))]
    return checked(found)


def checked(entries: Iterable[CalexpEntry]) -> tuple[CalexpEntry, ...]:
    """Return the entries by visit and detector; raises DataError where two have one identity."""
    by_identity: dict[tuple[int, int], CalexpEntry] = {}
    for entry in entries:
        twin = by_identity.setdefault((entry.visit, entry.detector), entry)
        if twin is not entry:
            raise DataError(
                f"{entry.path} and {twin.path} are both exposure {entry.label}; remove the older of the two"
            )
    return tuple(by_identity[key] for key in sorted(by_identity))


def read_entry(path: Path) -> CalexpEntry:
    """Read the headers of one calibrated exposure; raises DataError where they are not of one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(path, memmap=True) as hdus:
                headers = {hdu.name: hdu.header.copy() for hdu in hdus}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} can't be read as a calibrated exposure: {error}") from error
    try:
        return _entry(path, headers)
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path} is not a calibrated exposure (missing or wrong: {error}); run `skydelta isr` on its raw file"
        ) from error


def _entry(path: Path, headers: dict[str, fits.Header]) -> CalexpEntry:
    primary, image = headers["PRIMARY"], headers["IMAGE"]
    if primary["BUNIT"] != "nJy":
        raise ValueError(f"unit {primary['BUNIT']}, not nJy")
    wcs = SkyWcs(image)
    shape = (int(image["NAXIS2"]), int(image["NAXIS1"]))
    scale = wcs.pixel_scale(shape[1] / 2, shape[0] / 2)
    missing = [name for name in ("seeingFwhm", "backgroundRms") if f"METRIC {name}" not in primary]
    if missing:
        raise ValueError(f"no metric {' and '.join(missing)}")
    fwhm, rms = float(primary["METRIC seeingFwhm"]), float(primary["METRIC backgroundRms"])
    zero_point = float(primary["NJYPERE"])
    if not (fwhm > 0 and rms > 0):
        raise ValueError(f"seeingFwhm {fwhm} and backgroundRms {rms} must be positive")
    return CalexpEntry(
        path=path,
        visit=int(primary["VISIT"]),
        detector=int(primary["DETECTOR"]),
        band=unquote(str(primary["BAND"])),
        midpointMjdTai=float(primary["MJDTAI"]),
        sha256=str(primary["SHA256"]),
        calexp=_digest(headers, wcs),
        wcs=wcs,
        shape=shape,
        fwhm=fwhm * scale,
        variance=(rms * zero_point / scale) ** 2,  # backgroundRms is in electrons
        zero_point=zero_point,
        quality=_quality(primary, zero_point),
    )


def _quality(primary: fits.Header, zero_point: float) -> CalexpQuality:
    """Return the metrics that selection looks at, as far as the exposure has them."""

    def metric(name: str) -> float | None:
        number = float(primary.get(f"METRIC {name}", "nan"))
        return number if math.isfinite(number) else None

    seconds = float(primary["EXPTIME"])
    return CalexpQuality(
        transparency=metric("transparency"),
        throughput=1.0 / (zero_point * seconds) if zero_point > 0 and seconds > 0 else None,
        psfError=metric("psfModelError"),
        ellipticity=metric("psfEllipticity"),
        psfStars=metric("nPsfStars"),
        astrometricRms=metric("astrometricRms"),
    )


def _digest(headers: dict[str, fits.Header], wcs: SkyWcs) -> str:
    """Return the SHA-256 of what the templates use: planes and PSF by their checksums, and the WCS."""
    sums = [f"{name} {headers[name]['DATASUM']}" for name in ("IMAGE", "MASK", "VARIANCE", "PSF")]
    text = "\n".join([*sums, wcs.header().tostring(sep="\n")])
    return hashlib.sha256(text.encode()).hexdigest()
