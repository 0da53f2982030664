"""survey.toml and camera.toml as typed, validated configuration; camera geometry; the header map."""

from workers.survey.camera import Amplifier, Camera, Detector, load_camera, parse_section
from workers.survey.config import Survey, SurveyConfig, load_survey

__all__ = [
    "Amplifier",
    "Camera",
    "Detector",
    "Survey",
    "SurveyConfig",
    "load_camera",
    "load_survey",
    "parse_section",
]
