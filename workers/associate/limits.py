"""Upper limits: exposures that looked at an object and did not detect it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.associate.match import offsets

__all__ = ["inside", "non_detections"]

Rows = NDArray[Any]


def inside(ra: float, dec: float, exposures: Rows) -> NDArray[np.bool_]:
    """Return for each exposure (EXPOSURE_DTYPE) whether (ra, dec) in degrees lies within its four corners.

    In the tangent plane of the position: it is inside a convex footprint when it is on one side of all edges.
    """
    if len(exposures) == 0:
        return np.zeros(0, np.bool_)
    x, y = offsets(exposures["cornersRa"], exposures["cornersDec"], ra, dec)
    cross = x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y
    return np.asarray(np.all(cross > 0, axis=1) | np.all(cross < 0, axis=1))


def non_detections(ra: float, dec: float, exposures: Rows, detected: Rows) -> list[dict[str, Any]]:
    """Return the limits of the exposures that covered (ra, dec) and are not among the `detected` diaSource rows."""
    seen = set(zip(detected["visit"].tolist(), detected["detector"].tolist(), strict=True))
    covered = exposures[inside(ra, dec, exposures)]
    return [
        {
            "visit": int(row["visit"]),
            "detector": int(row["detector"]),
            "midpointMjdTai": float(row["midpointMjdTai"]),
            "band": str(row["band"]),
            "psfLimit": float(row["psfLimit"]),
        }
        for row in covered
        if (int(row["visit"]), int(row["detector"])) not in seen and np.isfinite(row["psfLimit"])
    ]
