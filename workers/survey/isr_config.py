"""survey.toml, [isr]: the steps of signature removal in their order, and one table of options per step."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "STEP_ORDER",
    "AmpOffsetConfig",
    "BleedsConfig",
    "BrighterFatterConfig",
    "CosmicRaysConfig",
    "CrosstalkConfig",
    "DeferredChargeConfig",
    "EdgesConfig",
    "FringeConfig",
    "GhostsConfig",
    "InterpolateConfig",
    "IsrConfig",
    "LinearityConfig",
    "OverscanConfig",
    "SnapsConfig",
    "TrailsConfig",
]


STEP_ORDER = (
    "overscan",
    "saturation",
    "crosstalk",
    "linearity",
    "bias",
    "dark",
    "gain",
    "deferred_charge",
    "brighter_fatter",
    "variance",
    "flat",
    "fringe",
    "amp_offset",
    "defects",
    "bleeds",
    "edges",
    "ghosts",
    "cosmic_rays",
    "trails",
    "interpolate",
)
"""Every step, in the order in which the detector's effects are usually undone: the last one first."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OverscanConfig(_Model):
    """How the electronic offset is measured."""

    serial: Literal["smooth", "median", "per_row", "spline", "none"] = Field(
        "smooth", description="beside the data: clipped mean of rows that make 100 pixels; one level; each row; spline"
    )
    parallel: Literal["smooth", "median", "per_row", "spline", "none"] = Field(
        "smooth", description="above the data, after the serial level is off, where camera.toml names a section"
    )
    knots: int = Field(12, ge=4, description="of a spline")
    clip: float = Field(4.0, gt=1, description="sigma beyond which an overscan pixel is left out")
    skip: int = Field(0, ge=0, description="pixels next to the data left out: deferred charge spills there")


class CrosstalkConfig(_Model):
    """Signal of one amplifier in another."""

    flag_above: float = Field(45000.0, gt=0, description="ADU of the aggressor beyond which its victims are flagged")


class LinearityConfig(_Model):
    """Response to light."""


class DeferredChargeConfig(_Model):
    """Charge left behind in transfers."""


class BrighterFatterConfig(_Model):
    """Charge pushed aside by charge (Coulton et al. 2018)."""

    iterations: int = Field(10, ge=1, le=50, description="at most")
    threshold: float = Field(1000.0, gt=0, description="electrons; a round that moves less is the last")


class FringeConfig(_Model):
    """Interference of night-sky lines."""

    bands: tuple[str, ...] = Field((), description="bands with fringes; in others the step does nothing")
    bin: int = Field(
        4, ge=1, le=32, description="pixels averaged before the fit; a third of the fringes' width at most"
    )
    reach: int = Field(120, ge=16, description="pixels; what varies on larger scales is sky, not fringes")
    clip: float = Field(4.0, gt=1, description="sigma beyond which binned pixels leave the fit")


class AmpOffsetConfig(_Model):
    """Steps between amplifiers that the overscan leaves."""

    strip: int = Field(16, ge=2, description="pixels, width of each of the two strips on either side of a border")
    gap: int = Field(1, ge=0, description="pixels left out next to a border")
    block: int = Field(64, ge=8, description="pixels of border that make one measurement")
    significance: float = Field(4.0, ge=0, description="sigma; smaller offsets stay")


class BleedsConfig(_Model):
    """Charge that ran along columns."""

    tail_sigma: float = Field(3.0, gt=1, description="of a block of rows that still belongs to a trail's faint end")
    grow: int = Field(1, ge=0, le=10, description="columns added on each side")
    full_column: float = Field(
        0.25, gt=0, le=1, description="a saturated trail longer than this share of the amplifier's rows takes them all"
    )


class EdgesConfig(_Model):
    """Pixels too near the border."""

    width: int = Field(4, ge=0, description="pixels from the detector's border")
    midline_rows: int = Field(
        0, ge=0, description="rows on each side of a line where the readout parts upwards and downwards"
    )
    midline_columns: int = Field(
        0, ge=0, description="columns on each side of a line where the readout parts to the left and the right"
    )


class CosmicRaysConfig(_Model):
    """Hits by particles: sharper than any star."""

    threshold: float = Field(4.7, gt=1, description="sigma of a track's first pixels over what any stars could show")
    growth: float = Field(2.0, gt=0.5, description="sigma of the pixels next to known hits")
    sharpness: float = Field(
        0.92, gt=0.5, le=1, description="narrowest PSF that must survive, over the measured FWHM: its change and shape"
    )
    least_fwhm: float = Field(2.0, ge=1, description="pixels; stars at least so wide, and taken where none is measured")


class TrailsConfig(_Model):
    """Satellites and planes."""

    threshold: float = Field(8.0, gt=4, description="sigma of the whole trail")
    binning: int = Field(4, ge=1, le=32, description="pixels along a bin's side; more where the detector is large")
    shortest: float = Field(400.0, gt=0, description="pixels of path")
    sagitta: float = Field(100.0, ge=0, description="pixels by which a trail over the whole detector may bend, at most")
    floor: float = Field(0.1, gt=0, description="sigma of a pixel down to which a trail's wings are masked")
    most: int = Field(10, ge=1, description="trails per detector at most")


class GhostsConfig(_Model):
    """Reflections of bright stars by camera.toml's [[reflections]]."""

    threshold: float = Field(0.5, gt=0, description="in noise of a pixel: fainter ghosts are left alone")
    sky_threshold: float | None = Field(None, gt=0, description="relative to the sky: the lower limit counts")
    zero_points: dict[str, float] = Field(
        default_factory=dict, description="AB magnitude that gives one electron per second, by band"
    )
    magnitude_limit: float = Field(12.0, description="fainter stars throw no ghost")
    radius: float = Field(2.0, gt=0, le=45, description="degrees from the boresight: stars outside the field count too")
    margin: float = Field(4.0, ge=0, description="pixels by which each edge is moved outwards")


class InterpolateConfig(_Model):
    """Filling of masked pixels, for display only: the mask is kept."""

    planes: tuple[Literal["BAD", "SATURATED", "CR", "NO_DATA", "SUSPECT", "STREAK", "CROSSTALK", "BLEED"], ...] = Field(
        ("BAD", "SATURATED", "CR", "NO_DATA", "BLEED"), description="mask planes whose pixels are filled"
    )
    fwhm: float = Field(3.0, gt=0.5, le=20, description="pixels, of a star: how near a neighbour must be to count")


class SnapsConfig(_Model):
    """Two snaps of one visit."""

    threshold: float = Field(5.0, gt=1, description="sigma by which snaps differ where one holds an artefact")
    growth: float = Field(2.5, gt=0, description="sigma by which neighbours of such a pixel must differ to join it")
    tolerance: float = Field(
        0.3, ge=0, description="share of a star's brightness by which seeing and pointing may make the snaps differ"
    )
    mesh: int = Field(128, ge=16, description="pixels, of the cells in which the snaps' skies are compared")


class IsrConfig(_Model):
    """Instrument signature removal: the steps in their order."""

    steps: tuple[str, ...] = (
        "overscan",
        "saturation",
        "bias",
        "dark",
        "gain",
        "variance",
        "flat",
        "defects",
        "bleeds",
        "cosmic_rays",
        "trails",
    )
    gain_source: Literal["camera", "ptc"] = Field(
        "camera", description="gain and read noise: camera.toml's (or the header's), or the measured ones"
    )
    noisy_amplifier: float = Field(0.0, ge=0, description="electrons of overscan noise that make it BAD; 0: never")
    lamps: dict[str, str] = Field(
        default_factory=dict, description='lamp whose flat a band takes, e.g. {r = "LED5"}; absent: the flat of no lamp'
    )
    keep_calexps: bool = Field(True, description="write each calibrated exposure to archive/calexps")
    overscan: OverscanConfig = OverscanConfig()
    crosstalk: CrosstalkConfig = CrosstalkConfig()
    linearity: LinearityConfig = LinearityConfig()
    deferred_charge: DeferredChargeConfig = DeferredChargeConfig()
    brighter_fatter: BrighterFatterConfig = BrighterFatterConfig()
    fringe: FringeConfig = FringeConfig()
    amp_offset: AmpOffsetConfig = AmpOffsetConfig()
    bleeds: BleedsConfig = BleedsConfig()
    edges: EdgesConfig = EdgesConfig()
    cosmic_rays: CosmicRaysConfig = CosmicRaysConfig()
    trails: TrailsConfig = TrailsConfig()
    ghosts: GhostsConfig = GhostsConfig()
    interpolate: InterpolateConfig = InterpolateConfig()
    snaps: SnapsConfig = SnapsConfig()
