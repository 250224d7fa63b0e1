"""Settings of inference: what answers, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from medvqa_cli.settings.section import Fraction, PositiveFloat, Section


class ServerSettings(Section):
    """An OpenAI-compatible server: `infer.engine` openai."""

    base_url: str | None = None
    """Where it is, such as http://localhost:8000/v1."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is never kept."""
    concurrency: PositiveInt = 8
    """Questions under way at the same time."""
    timeout: PositiveFloat = 120.0
    """Seconds to wait for an answer."""
    retries: NonNegativeInt = 6
    """How often a request is repeated after a rate limit, a fault of the server or a timeout."""
    image_size: PositiveInt = 1024
    """Longer side, in pixels, of the largest picture sent; larger ones are made smaller."""

    @field_validator("base_url")
    @classmethod
    def _is_web_address(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://localhost")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("it should be a web address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("it should hold no name, password or query, for it is kept with the answers; a key goes "
                             "into the environment variable that key_variable names")
        return url.rstrip("/") if url else None


class VllmSettings(Section):
    """vLLM in this process: `infer.engine` vllm."""

    gpu_memory: Fraction = 0.9
    """Share of the GPU's memory it takes."""
    options: dict[str, Any] = Field(default={})
    """Further arguments of vllm.LLM, such as {"max_model_len": 4096}."""


class InferenceSettings(Section):
    """How answers are generated."""

    engine: Literal["transformers", "openai", "vllm"] = "transformers"
    """What runs the model: transformers in this process, an OpenAI-compatible server, or vLLM in this process."""
    max_new_tokens: PositiveInt = 32
    """Most tokens of an answer."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """0 is greedy; else answers are sampled."""
    top_k: NonNegativeInt = 0
    """Sample among so many likeliest tokens; 0: among all."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Sample among the fewest likeliest tokens that together have this probability; 1: among all."""
    blank_images: bool = False
    """Show the model a uniformly grey picture instead of every image: the same as `control` blank."""
    control: Literal["off", "blank", "shuffled", "shuffled-modality", "text-only"] = "off"
    """What the model sees: off: the image; else grey, another question's image (of the same modality), or none."""
    option_rotation: NonNegativeInt = 0
    """Ask only questions that show options, these moved on by so many places; 0: every question, as it is."""
    batch_size: PositiveInt = 8
    """Rows per forward pass where questions cannot share an image prefix."""
    shared_prefix: Literal["auto", "on", "off"] = "auto"
    """Encode an image once for all its questions: auto does so where the family allows it."""
    closed_candidates: Literal["off", "auto", "yesno", "options", "vocab"] = "off"
    """off: closed questions are answered freely; else by the likeliest of yes and no, named options or a vocabulary."""
    closed_vocab: Path | None = None
    """Vocabulary of closed answers to use; not given: the training split's, kept with the run."""
    calibrator: Path | None = None
    """Calibrator (calibrator.json) that turns an answer's confidence into its chance of being right."""
    abstain_below: Fraction | None = None
    """Mark answers that are less sure than this as abstentions."""
    server: ServerSettings = ServerSettings()
    """The server that engine openai asks."""
    vllm: VllmSettings = VllmSettings()
    """How engine vllm is set up."""

    @property
    def shown(self) -> Literal["off", "blank", "shuffled", "shuffled-modality", "text-only"]:
        """What the model sees, `blank_images` counted in."""
        return "blank" if self.blank_images else self.control
