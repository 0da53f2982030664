"""Which inputs made a pixel: told from the template alone, and true by the pixels of the inputs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.templates.synthetic import DEC, RA
from workers.imaging.fits import read_exposure
from workers.imaging.warp import node_grid, warp_planes
from workers.templates.provenance import pixel_origins
from workers.templates.warps import BORDER, WarpStore


@pytest.fixture
def places():
    """Positions over the field, some outside of it."""
    rng = np.random.default_rng(4)
    east, north = rng.uniform(-150.0, 150.0, (2, 60)) / 3600.0
    return [(RA + e / np.cos(np.radians(DEC)), DEC + n) for e, n in zip(east, north, strict=True)]


def test_shares_and_inputs_give_the_pixel_again(built, archive, places):
    store, manifest = built
    exposures = {e.info.visit: e for e in (read_exposure(path) for path in archive.glob("*.fits"))}
    warps, compared = WarpStore(store.warps, manifest.grid), 0
    for ra, dec in places:
        origins = pixel_origins(store, manifest, ra, dec)
        cell_id = manifest.grid.cell_at(ra, dec)
        assert [origin.band for origin in origins] == (["r"] if cell_id in manifest.of_band("r") else [])
        for origin in origins:
            assert origin.cell == cell_id.label
            cell = store.read(manifest.of_band("r")[cell_id])
            assert sum(item.share > 0 for item in origin.inputs) >= cell.nEpochs[origin.y, origin.x]
            if not cell.nEpochs[origin.y, origin.x]:
                continue
            assert sum(item.share for item in origin.inputs) == pytest.approx(1.0)
            assert origin.flux == cell.image[origin.y, origin.x]
            total = kept = 0.0
            for item, planned in zip(origin.inputs, cell.plan.inputs, strict=True):
                exposure = exposures[item.visit]
                grid = node_grid(exposure.need_wcs(), manifest.grid.cell_wcs(cell_id), cell.image.shape)
                warp = warp_planes(exposure.image, exposure.mask, exposure.variance, grid)
                total += item.share * float(warp.image[origin.y, origin.x])
                block = warps.block(planned, cell_id)
                kept += item.share * float(block.image[origin.y + BORDER, origin.x + BORDER])
            assert kept == pytest.approx(origin.flux, abs=0.04 * origin.fluxErr)  # the rounding of the cell
            assert total == pytest.approx(origin.flux, abs=0.1 * origin.fluxErr)  # and that of the warps
            compared += 1
    assert compared > 10
