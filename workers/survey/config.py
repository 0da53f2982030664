"""survey.toml: where things are and how the stages work, as one typed, validated tree."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from workers.survey.camera import Camera, load_camera
from workers.survey.characterize_config import CharacterizeConfig
from workers.survey.isr_config import IsrConfig
from workers.survey.load import load_toml
from workers.survey.templates_config import TemplatesConfig

__all__ = [
    "CalibrateConfig",
    "CharacterizeConfig",
    "IsrConfig",
    "Survey",
    "SurveyConfig",
    "TemplatesConfig",
    "load_survey",
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BusConfig(_Model):
    """The message bus."""

    kind: Literal["embedded", "kafka"] = "embedded"
    path: str = Field("state/bus.sqlite", description="of the embedded bus")
    bootstrap: str = Field("", description="Kafka bootstrap servers, host:port[,host:port]")
    properties: dict[str, str] = Field(
        default_factory=dict, description="passed to librdkafka as they are (SASL, TLS …)"
    )
    prefix: str = Field("", description="put before every topic name")
    partitions: int = Field(4, ge=1, le=256)
    replication: int = Field(1, ge=1, description="Kafka replication factor")
    group_protocol: Literal["classic", "consumer"] = Field(
        "classic", description="of Kafka: cooperative-sticky, or KIP-848 on brokers from 4.0 on"
    )
    batch: int = Field(8, ge=1, description="messages per transaction at most")
    session_timeout_s: float = Field(30.0, gt=0)


class DatabaseConfig(_Model):
    """The DIA database."""

    kind: Literal["sqlite", "postgresql"] = "sqlite"
    path: str = Field("state/dia.sqlite", description="of SQLite")
    url: str = Field("", description="of PostgreSQL, postgresql://user@host/name; passwords belong in ~/.pgpass")
    namespace: str = Field(
        "skydelta", pattern="^[a-z_][a-z0-9_]{0,40}$", description="PostgreSQL schema that holds the tables"
    )


class BlobConfig(_Model):
    """The store for pixels too large to travel inline."""

    path: str = "state/blobs"
    inline_max_bytes: int = Field(524_288, ge=0, le=8_388_608, description="larger payloads go to the store")


class ReferenceConfig(_Model):
    """The reference catalogue: a folder of `skydelta reference build`, or a FITS table (see docs)."""

    path: str = "reference.fits"


class CalibrateConfig(_Model):
    """How masters are made and when they are trusted."""

    lamp_weights: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="by band, how much each lamp counts in the flat of no lamp, e.g. {r = {LED5 = 0.6, LED6 = 0.4}}",
    )
    photodiode: str = Field("", description="header key of the light that a photodiode counted, for linearity")
    linearity_knots: int = Field(16, ge=4, le=64)
    crosstalk_threshold: float = Field(30000.0, gt=0, description="ADU that an amplifier must have to be heard")
    crosstalk_lags: int = Field(1, ge=1, le=16, description="above 1: what an amplifier hears of its own last pixels")
    fringe_components: int = Field(1, ge=1, le=5)
    max_days: float = Field(0.0, ge=0, description="longest period of one master with --periods; 0: no limit")
    limits: dict[str, float] = Field(
        default_factory=dict,
        description="by kind, how far an amplifier's level may lie from that of the master before, e.g. {bias = 0.02}",
    )
    quarantine: bool = Field(
        True, description="put aside a master that differs from the one before it by more than certification allows"
    )


class SubtractLimitsConfig(_Model):
    """Subtractions beyond these limits end without alerts, with an outcome that names the cause; absent: no limit."""

    max_score_noise: float | None = Field(1.5, gt=0, description="scatter of the score on empty sky; 1 is right")
    max_star_residual: float | None = Field(0.2, gt=0, description="what is left of the typical star, relative")
    max_sky_pedestal: float | None = Field(0.75, gt=0, description="mean S/N at 100 empty places; their error is 0.1")
    max_source_density: float | None = Field(400.0, gt=0, description="beyond the first 100, per million pixels")


class DcrConfig(_Model):
    """Which sources may be dipoles of differential chromatic refraction; asked where the camera has a site."""

    min_snr: float = Field(5.0, gt=0, description="of the whole dipole that refraction predicts")
    min_share: float = Field(0.5, ge=0, le=1, description="of the source's S/N that this dipole gives at its place")
    coolest: float = Field(2500.0, ge=1500, description="K; of a static source of unknown colour")
    hottest: float = Field(15000.0, le=60000, description="K")

    @model_validator(mode="after")
    def _ordered(self) -> DcrConfig:
        if self.coolest >= self.hottest:
            raise ValueError(f"coolest ({self.coolest:g} K) must be below hottest ({self.hottest:g} K)")
        return self


class SubtractConfig(_Model):
    """Image subtraction and detection."""

    threshold: float = Field(5.0, gt=0, description="in sigma of the matched-filtered difference, both signs")
    method: Literal["auto", "alard-lupton", "preconvolved", "zogy"] = Field(
        "auto",
        description="how the PSFs are matched: auto is preconvolved where a deep template has the worse seeing, else "
        "alard-lupton; zogy trusts the PSF models, and has no kernel_degree",
    )
    kernel_degree: int = Field(2, ge=0, le=3, description="spatial, at most")
    kernel_half_width: int = Field(15, ge=3, le=25, description="pixels; wings of bright stars beyond it remain")
    min_template_coverage: float = Field(0.1, ge=0, le=1)
    stamp_size: int = Field(31, ge=15, le=101, description="pixels, odd; of the cutouts")
    limits: SubtractLimitsConfig = SubtractLimitsConfig()
    dcr: DcrConfig = DcrConfig()


class ScoreConfig(_Model):
    """Real-bogus classification."""

    model: str = "calibrations/classifier"
    injections: int = Field(400, ge=50, description="sources injected to train the classifier")
    seed: int = 20260101


class AssociateConfig(_Model):
    """Association with what was seen before, and what becomes an alert."""

    radius_arcsec: float = Field(1.0, gt=0)
    history_days: float = Field(365.0, gt=0)
    deadline_s: float = Field(
        60.0, gt=0, description="after shutter closing, in event time, a visit closes without the detectors it lacks"
    )
    reorder_s: float = Field(
        0.0, ge=0, description="a complete visit waits so long for earlier ones, where visits arrive out of order"
    )
    min_reliability: float | None = Field(
        None,
        ge=0,
        le=1,
        description="below it a source is stored but makes no alert; absent: the classifier's threshold",
    )


class SurveyConfig(_Model):
    """The whole of survey.toml."""

    name: str
    camera: str = "camera.toml"
    bus: BusConfig = BusConfig()
    database: DatabaseConfig = DatabaseConfig()
    blobs: BlobConfig = BlobConfig()
    reference: ReferenceConfig = ReferenceConfig()
    isr: IsrConfig = IsrConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    characterize: CharacterizeConfig = CharacterizeConfig()
    subtract: SubtractConfig = SubtractConfig()
    score: ScoreConfig = ScoreConfig()
    associate: AssociateConfig = AssociateConfig()
    templates: TemplatesConfig


class Survey(BaseModel):
    """A survey folder: its two files, validated, and the places below it."""

    model_config = ConfigDict(frozen=True)

    root: Path
    config: SurveyConfig
    camera: Camera

    def path(self, relative: str) -> Path:
        """Return a path given in survey.toml, taken from the survey folder unless absolute."""
        return self.root / relative

    @property
    def archive(self) -> Path:
        """Raw frames, calibrated exposures and alerts, by night."""
        return self.root / "archive"

    @property
    def calibrations(self) -> Path:
        """Master bias, dark, flat, defects and the classifier."""
        return self.root / "calibrations"

    @property
    def color_terms(self) -> Path:
        """Colour terms of the bands, as they were fitted last."""
        return self.calibrations / "color-terms.json"

    @property
    def templates(self) -> Path:
        """Template versions."""
        return self.root / "templates"

    @property
    def state(self) -> Path:
        """Bus, database and blobs of the embedded set-up."""
        return self.root / "state"


def load_survey(root: Path) -> Survey:
    """Read survey.toml and the camera it names from the folder `root`; raises ConfigurationError."""
    config = load_toml(root / "survey.toml", SurveyConfig)
    return Survey(root=root, config=config, camera=load_camera(root / config.camera))
