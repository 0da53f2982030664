"""The settings of a synthetic survey: sky, optics, detectors and cadence, with the presets DEMO and TINY."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.errors import ConfigurationError

__all__ = [
    "BANDS",
    "CAMERA",
    "DEMO",
    "PRESETS",
    "TINY",
    "Band",
    "CadenceSettings",
    "DetectorSettings",
    "OpticsSettings",
    "SimulatedSurvey",
    "SkySettings",
]


@dataclass(frozen=True)
class Band:
    """One filter on a telescope of the 1 m class."""

    zero_point: float
    """AB magnitude that gives one electron per second."""
    sky: float
    """Dark-sky brightness, AB mag per arcsec²."""
    colour: float
    """Magnitude minus the r magnitude of a star with g - r = 1."""


BANDS = {
    "u": Band(21.9, 22.2, 2.30),
    "g": Band(23.3, 21.7, 1.00),
    "r": Band(23.4, 20.9, 0.00),
    "i": Band(23.1, 20.2, -0.45),
    "z": Band(22.6, 19.3, -0.65),
}


@dataclass(frozen=True)
class SkySettings:
    """What is on the sky. Densities are per arcmin²."""

    ra: float = 150.1
    """Field centre, degrees ICRS."""
    dec: float = 2.2
    stars: float = 7.2
    star_magnitudes: tuple[float, float] = (9.5, 22.0)
    """In r; those brighter than about 12.5 saturate."""
    galaxies: float = 3.6
    galaxy_magnitudes: tuple[float, float] = (16.5, 22.5)
    variables: float = 0.36
    variable_magnitudes: tuple[float, float] = (15.0, 19.0)
    transients: float = 0.45
    transient_snr: tuple[float, float] = (3.0, 100.0)
    """Range of the nominal signal-to-noise ratio at the live night, log-uniform."""
    hosted: float = 0.6
    """Fraction of transients that lie on a galaxy."""
    slow: float = 0.12
    """Fraction of transients that were bright in the archive already and fade."""
    asteroids: float = 0.07
    asteroid_magnitudes: tuple[float, float] = (18.0, 20.5)
    reference_limit: float = 20.5
    """Faintest r magnitude in the reference catalogue."""
    reference_scatter_mas: float = 10.0


@dataclass(frozen=True)
class OpticsSettings:
    """Telescope, atmosphere and pointing."""

    pixel_scale: float = 0.6
    """arcsec"""
    seeing: tuple[float, float] = (2.6, 3.6)
    """Range of the FWHM, pixels."""
    moffat_beta: float = 3.0
    psf_gradient: float = 0.04
    """Relative change of the FWHM from centre to edge of the focal plane."""
    ellipticity: float = 0.04
    """Largest ellipticity (1 - b/a over 1 + b/a) at the edge of the focal plane."""
    distortion: float = 3.0e-9
    """Cubic radial distortion, pixels⁻²: displacement = distortion × r³."""
    pointing_error: float = 3.0
    """arcsec per axis, one sigma: true pointing minus header."""
    rotation_error: float = 0.02
    """degrees, one sigma."""
    transparency: tuple[float, float] = (0.75, 1.0)
    sky_variation: float = 0.25
    """mag, one sigma."""
    trail_fraction: float = 0.25
    """Of the visits that a satellite crosses."""


@dataclass(frozen=True)
class DetectorSettings:
    """Detectors side by side along x, each read through several amplifiers."""

    width: int = 768
    height: int = 768
    count: int = 2
    gap: int = 24
    """pixels between neighbours"""
    amplifiers: tuple[int, int] = (2, 2)
    """Columns and rows of amplifiers."""
    prescan: int = 8
    overscan: int = 24
    parallel_overscan: int = 0
    hdu_per_amplifier: bool = False
    gain: float = 1.5
    """electrons per ADU, before the differences between amplifiers"""
    read_noise: float = 6.0
    """electrons"""
    full_well: float = 85000.0
    """electrons"""
    bias_level: float = 1000.0
    """ADU"""
    bias_columns: float = 1.5
    """ADU, scatter of the fixed column pattern"""
    bias_drift: float = 2.0
    """ADU, amplitude of the drift with row, new in each frame"""
    dark_current: float = 0.02
    """electrons per second"""
    hot_fraction: float = 3.0e-4
    bad_columns: int = 2
    """dead and hot columns per detector, each"""
    vignetting: float = 0.15
    pixel_response: float = 0.007
    dust_rings: int = 4
    cosmic_rays: float = 30.0
    """per megapixel and minute"""
    nonlinearity: float = 0.0
    """Relative loss of response at full well; 0: none."""
    crosstalk: float = 0.0
    """Typical coefficient between two amplifiers; 0: none."""
    brighter_fatter: float = 0.0
    """Area coefficient a00 of a pixel's own charge, per electron (negative: -2.5e-6 is usual); 0: none."""
    serial_cti: float = 0.0
    """Fraction of the charge left behind per serial transfer; 0: none."""
    parallel_cti: float = 0.0
    """Fraction of the charge left behind per parallel transfer; 0: none."""
    fringe: float = 0.0
    """Amplitude of the fringes relative to the sky; 0: none."""


@dataclass(frozen=True)
class CadenceSettings:
    """When what is taken. Counts of visits are per band; calibration frames per kind (flats: per band)."""

    live_mjd: float = 61100.15
    """MJD TAI, beginning of the first live visit."""
    archive: int = 7
    archive_begin: float = 400.0
    """days before the live night"""
    archive_span: float = 70.0
    recent: int = 2
    recent_days: float = 20.0
    """before the live night, first recent visit"""
    live: int = 6
    live_minutes: float = 5.0
    """between live visits of one band"""
    exposure_time: float = 60.0
    """seconds"""
    dither: float = 12.0
    """arcsec, largest offset of a visit per axis"""
    biases: int = 6
    darks: int = 4
    dark_time: float = 300.0
    flats: int = 6
    flat_level: float = 25000.0
    """electrons"""
    flat_time: float = 5.0
    ramp: int = 0
    """Pairs of flats with exposure times that rise to saturation, in the first band."""
    spots: int = 0
    """Flats through a mask with holes, in the first band."""


@dataclass(frozen=True)
class SimulatedSurvey:
    """Everything that defines a synthetic survey; equal settings give equal bytes."""

    seed: int = 20260304
    name: str = "synthetic"
    bands: tuple[str, ...] = ("r",)
    sky: SkySettings = field(default_factory=SkySettings)
    optics: OpticsSettings = field(default_factory=OpticsSettings)
    detectors: DetectorSettings = field(default_factory=DetectorSettings)
    cadence: CadenceSettings = field(default_factory=CadenceSettings)

    def __post_init__(self) -> None:
        """Check what the parts can't check alone; raises ConfigurationError."""
        unknown = sorted(set(self.bands) - set(BANDS))
        if unknown or not self.bands:
            raise ConfigurationError(
                f"simulated bands {list(self.bands)}: the simulator knows {sorted(BANDS)}; choose among them"
            )
        columns, rows = self.detectors.amplifiers
        if self.detectors.width % columns or self.detectors.height % rows:
            raise ConfigurationError(
                f"a {self.detectors.width}x{self.detectors.height} detector can't be split into {columns}x{rows} "
                "equal amplifiers; change the size or the amplifiers"
            )


DEMO = SimulatedSurvey(name="demo")
"""Two detectors of 768 x 768 pixels, one band, seven archive, two recent and six live visits."""

TINY = SimulatedSurvey(
    name="tiny",
    sky=SkySettings(stars=16.0, transients=1.0, variables=0.6, asteroids=0.2),
    detectors=DetectorSettings(width=320, height=320, count=1),
    cadence=CadenceSettings(archive=4, recent=1, live=2, biases=3, darks=3, flats=3),
)
"""One detector of 320 x 320 pixels and few visits, for tests."""

CAMERA = SimulatedSurvey(
    name="camera",
    sky=SkySettings(stars=16.0),
    detectors=DetectorSettings(
        width=512,
        height=512,
        count=1,
        overscan=32,
        parallel_overscan=24,
        nonlinearity=0.02,
        crosstalk=3.0e-4,
        brighter_fatter=-2.5e-6,
        serial_cti=4.0e-6,
        parallel_cti=3.0e-6,
    ),
    cadence=CadenceSettings(archive=5, recent=1, live=2, biases=12, darks=5, flats=8, ramp=20, spots=12),
)
"""One detector with everything that electronics and silicon do to an image, and the frames that tell of it."""

PRESETS = {"demo": DEMO, "tiny": TINY, "camera": CAMERA}
"""By the names that the command line takes."""
