"""The records that carry pixels: a raw exposure, and an exposure with mask, variance, PSF, WCS and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from workers.imaging.psf import PsfModel
from workers.imaging.wcs import SkyWcs

__all__ = [
    "Exposure",
    "ExposureInfo",
    "FloatImage",
    "MaskImage",
    "PhotoCalib",
    "RawExposure",
    "SnapDifference",
    "frozen_array",
]

FloatImage = NDArray[np.float32]
MaskImage = NDArray[np.int32]


def frozen_array(array: NDArray[Any]) -> NDArray[Any]:
    """Return `array` (any dtype, any shape) as a read-only view: records never change."""
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True)
class ExposureInfo:
    """What is known of one visit and detector before its pixels are touched.

    Names are the DPDD's; angles are degrees ICRS, times MJD TAI, `exposureTime` seconds.
    """

    instrument: str
    visit: int
    detector: int
    band: str
    midpointMjdTai: float
    exposureTime: float
    ra: float
    """Pointing of the boresight, degrees ICRS; the WCS of the exposure is finer."""
    dec: float
    night: int
    """Observing night as YYYYMMDD: the local date at its beginning."""
    kind: str
    """``science``, ``bias``, ``dark`` or ``flat``."""
    sha256: str
    """Of the raw file's bytes."""
    fileName: str
    target: str = ""

    @property
    def label(self) -> str:
        """Visit and detector as messages and keys name them: ``<visit>:<detector>``."""
        return f"{self.visit}:{self.detector}"


@dataclass(frozen=True)
class RawExposure:
    """One raw file: identity, the pixel arrays of its HDUs (ADU, as stored) and its header cards."""

    info: ExposureInfo
    hdus: Mapping[int, NDArray[Any]]
    """Pixel array, 2-D, by HDU index."""
    header: Mapping[str, Any]
    """Cards of the primary header, overlaid by those of the first pixel HDU (which carry the WCS)."""


@dataclass(frozen=True)
class PhotoCalib:
    """How electrons became nanojansky."""

    nJyPerElectron: float
    relativeError: float
    """One-sigma error of the zero point divided by it."""
    nStars: int
    """Reference stars in the fit; 0 where the zero point is nominal."""


@dataclass(frozen=True)
class SnapDifference:
    """The first snap of a visit less its second: what changed between them, in the unit of the exposure they make up.

    float32 (height, width) each. Both snaps count as if they had lasted as long as the whole visit, the smooth
    difference of their skies is taken off, and both planes are NaN where one of the snaps has no good pixel.
    """

    image: FloatImage
    variance: FloatImage

    def __post_init__(self) -> None:
        """Make the planes read-only."""
        for name in ("image", "variance"):
            plane = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            object.__setattr__(self, name, frozen_array(plane))

    def scaled(self, factor: NDArray[np.float32] | np.float32) -> SnapDifference:
        """Return it in another unit: `factor` of it to one of this, one number or one per pixel."""
        return SnapDifference(self.image * factor, self.variance * np.square(factor))


@dataclass(frozen=True)
class Exposure:
    """Pixels with everything needed to measure on them. The three planes have one shape (height, width).

    `image` is float32 in `unit`, `variance` float32 in unit², `mask` int32 of `MaskPlane` bits.
    Pixel (x, y) is ``image[y, x]``, its centre at integer coordinates, the first one (0, 0).
    """

    info: ExposureInfo
    image: FloatImage
    mask: MaskImage
    variance: FloatImage
    unit: str = "electron"
    """``electron`` after signature removal, ``nJy`` after characterization."""
    wcs: SkyWcs | None = None
    psf: PsfModel | None = None
    photo: PhotoCalib | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What went in: calibration and template ids by name, e.g. ``{"bias": "bias-..."}``."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers about this exposure that later stages and the report use."""
    snaps: SnapDifference | None = None
    """None where the visit has one snap."""

    def __post_init__(self) -> None:
        """Check the planes and make them read-only."""
        if not self.image.shape == self.mask.shape == self.variance.shape or self.image.ndim != 2:
            shapes = f"{self.image.shape}, {self.mask.shape}, {self.variance.shape}"
            raise DataError(f"exposure {self.info.label}: image, mask and variance differ in shape: {shapes}")
        if self.snaps is not None and not self.snaps.image.shape == self.snaps.variance.shape == self.image.shape:
            shapes = f"{self.snaps.image.shape} and {self.snaps.variance.shape}, not {self.image.shape}"
            raise DataError(f"exposure {self.info.label}: the difference of its snaps is of shapes {shapes}")
        for name, dtype in (("image", np.float32), ("mask", np.int32), ("variance", np.float32)):
            plane = np.ascontiguousarray(getattr(self, name), dtype=dtype)
            object.__setattr__(self, name, frozen_array(plane))
        for name in ("provenance", "metrics"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def replaced(self, **changes: Any) -> Exposure:
        """Return a copy with some fields changed; with another image the snaps' difference goes, unless it is given."""
        return replace(self, **({"snaps": None} if "image" in changes else {}) | changes)

    def with_metrics(self, **metrics: float) -> Exposure:
        """Return a copy with `metrics` added."""
        return replace(self, metrics={**self.metrics, **metrics})

    def need_wcs(self) -> SkyWcs:
        """Return the WCS, or raise DataError naming the exposure when there is none."""
        if self.wcs is None:
            raise DataError(f"exposure {self.info.label} has no WCS; run `skydelta isr` with a reference catalogue")
        return self.wcs

    def need_psf(self) -> PsfModel:
        """Return the PSF, or raise DataError naming the exposure when there is none."""
        if self.psf is None:
            raise DataError(f"exposure {self.info.label} has no PSF model; run `skydelta isr` on the raw file first")
        return self.psf
