"""One sky, its archive and the templates built from it, shared by the tests of templates."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.templates.synthetic import CONFIG, DEC, RA, Sky, nights
from workers.imaging.fits import write_exposure
from workers.templates.pipeline import build
from workers.templates.store import TemplateStore


@pytest.fixture(scope="session")
def sky():
    """Forty stars of 2e3 to 2e5 nJy on a jittered grid."""
    rng = np.random.default_rng(8)
    east, north = (axis.ravel() for axis in np.meshgrid(np.linspace(-105, 105, 7), np.linspace(-105, 105, 6)))
    east, north = east + rng.uniform(-6, 6, len(east)), north + rng.uniform(-6, 6, len(north))
    flux = 10 ** rng.uniform(3.3, 5.3, len(east))
    return Sky(RA + east / 3600 / np.cos(np.radians(DEC)), DEC + north / 3600, flux)


@pytest.fixture(scope="session")
def archive(sky, tmp_path_factory):
    """A folder of seven calibrated exposures in the window."""
    folder = tmp_path_factory.mktemp("calexps")
    for night in nights(7):
        write_exposure(folder / f"{night['visit']}.fits", sky.expose(**night))
    return folder


@pytest.fixture(scope="session")
def built(archive, tmp_path_factory):
    """The template store built from `archive`, and its manifest."""
    store = TemplateStore(tmp_path_factory.mktemp("templates"))
    return store, build(archive, store, CONFIG)


@pytest.fixture
def copy(built, tmp_path):
    """A copy of that store, to be changed."""
    shutil.copytree(built[0].root, tmp_path, dirs_exist_ok=True)
    return TemplateStore(tmp_path)
