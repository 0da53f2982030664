"""Where a detector looks, before any star is measured: its nominal WCS."""

from __future__ import annotations

import math
import re

from astropy.io import fits

from schemas.errors import DataError
from workers.imaging.exposure import RawExposure
from workers.imaging.wcs import SkyWcs
from workers.survey.camera import Camera

__all__ = ["nominal_wcs"]

_WCS_CARD = re.compile(
    r"^(WCSAXES|(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA)[12]|(CD|PC)[12]_[12]|PV[12]_\d+|"
    r"(A|B|AP|BP)_(ORDER|DMAX|\d_\d)|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX)$"
)


def nominal_wcs(raw: RawExposure, camera: Camera) -> SkyWcs:
    """Return the WCS of the assembled detector from the pointing (``[wcs]`` in camera.toml) or from the header's cards.

    The header's CRPIX is taken in the assembled detector's pixels. Raises DataError where there is neither, or NaN.
    """
    info = raw.info
    if camera.wcs is not None:
        detector = camera.detector(info.detector)
        if not (math.isfinite(info.ra) and math.isfinite(info.dec)):
            raise DataError(f"{info.fileName}: its pointing is ({info.ra}, {info.dec}), so it has no WCS")
        return SkyWcs.tangent(
            info.ra,
            info.dec,
            (detector.offset_x, detector.offset_y),
            camera.wcs.scale,
            camera.wcs.rotation,
            camera.wcs.parity,
        )
    if "CTYPE1" not in raw.header:
        raise DataError(
            f"{info.fileName} (exposure {info.label}) has no WCS in its header, and camera {camera.name} gives none: "
            "set [wcs] in camera.toml if the header's pointing can be trusted (`skydelta check` tells), or make a "
            "rough WCS from one frame with `skydelta reference from-frame`"
        )
    return _header_wcs(raw)


def _header_wcs(raw: RawExposure) -> SkyWcs:
    header = fits.Header()
    for key in ("CRVAL1", "CRVAL2"):
        if key not in raw.header:  # NaN is no valid FITS value, so that such a card is never read
            raise DataError(f"{raw.info.fileName}: the WCS card {key} is missing or no number; repair the header")
    for key, value in raw.header.items():
        if _WCS_CARD.match(key):
            if isinstance(value, float) and not math.isfinite(value):
                raise DataError(f"{raw.info.fileName}: the WCS card {key} is {value}; repair the header")
            if isinstance(value, str) and key[:5] in ("CRVAL", "CRPIX", "CDELT"):
                raise DataError(f"{raw.info.fileName}: the WCS card {key} is the text {value!r}, not a number")
            header[key] = value
    try:
        return SkyWcs(header)
    except DataError as error:
        raise DataError(f"{raw.info.fileName} (exposure {raw.info.label}): {error}") from error
