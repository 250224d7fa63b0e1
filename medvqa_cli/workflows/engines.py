"""Settings to an inference engine."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
from typing import TYPE_CHECKING, Any

from medvqa_cli import plugins
from medvqa_cli.errors import MissingDependencyError, ModelError, RunError, SettingsError
from medvqa_cli.records import write_json
from medvqa_cli.runs import Run, create_run, latest_run, open_run
from medvqa_cli.settings.schema import to_tree
from medvqa_cli.workflows.lengths import find_answer_bound, keep_readable
from medvqa_cli.workflows.models import (
    build_encoder,
    choose_family,
    choose_model,
    choose_trained,
    describe_model,
    load_choice,
    open_run_model,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medvqa_cli.inference.openai_engine import OpenAIEngine
    from medvqa_cli.inference.protocol import Engine
    from medvqa_cli.inference.transformers_engine import TransformersEngine
    from medvqa_cli.models.protocol import LoadedModel
    from medvqa_cli.progress import Progress
    from medvqa_cli.records import VQASample
    from medvqa_cli.settings.schema import Settings
    from medvqa_cli.workflows.models import ModelChoice


def open_engine(settings: Settings, run: str | None, progress: Progress, *, create: bool = True) -> tuple[Run, Engine]:
    """Return a run to write to and the engine that answers, as `infer.engine` says.

    The model is the named run's, else the named model in a run of its own, else the latest trained run's; a server's
    model is always named.

    Args:
        settings: Choose engine and model.
        run: Name or path of a run.
        progress: Where to report.
        create: Make a run of its own for a named model; else the run returned is not to be written to.

    Raises:
        SettingsError: If settings contradict each other.
        RunError: If the run is unknown, or nothing is named and there is no trained run.
        ModelError: If the model cannot be had, or the server cannot be reached.
        MissingDependencyError: If the engine's package is not installed.
    """
    if settings.infer.engine == "openai":
        if run:
            raise SettingsError("A run and infer.engine 'openai' exclude each other: the server's model answers, not "
                                "the run's.", "Leave --run out, or name another --engine.")
        engine: Engine = open_server(settings, progress)
        return _choose_run(settings, engine.facts, create=create), engine
    if settings.infer.engine == "vllm":
        return open_vllm(settings, run, progress, create=create)
    target, loaded = open_model(settings, run, progress, create=create)
    return target, build_engine(loaded, settings)


def open_model(settings: Settings, run: str | None, progress: Progress, *,
               create: bool = True) -> tuple[Run, LoadedModel]:
    """Return a run to write to and its model, loaded in this process; see `open_engine`.

    Raises:
        RunError: If the run is unknown, or nothing is named and there is no trained run.
        ModelError: If the model cannot be had.
    """
    runs = settings.paths.runs
    if run is None and settings.model.name:
        loaded = load_choice(choose_model(settings), settings, progress)
        return _choose_run(settings, describe_model(loaded), create=create), loaded
    target = open_run(runs, run) if run else latest_run(runs)
    if run is None:
        progress.say(f"No model named: taking the latest run, '{target.name}'.")
    return target, open_run_model(target, settings, progress)


def build_engine(loaded: LoadedModel, settings: Settings) -> TransformersEngine:
    """Return the engine of a loaded model: one prefill for an image where the family allows it."""
    from medvqa_cli.inference.transformers_engine import TransformersEngine

    packs = loaded.family.capabilities.packs and settings.model.attention != "flash"
    return TransformersEngine(loaded, build_encoder(loaded, settings),
                              shared_prefix=packs and settings.infer.shared_prefix != "off",
                              batch_size=settings.infer.batch_size, facts=describe_model(loaded))


def keep_answerable(engine: Engine, samples: Sequence[VQASample], settings: Settings,
                    progress: Progress) -> list[VQASample]:
    """Return the samples that the model reads whole; those left out are said. A server decides that for itself.

    Raises:
        DataError: If one is too long and `model.too_long` is "error", or none is left.
    """
    from medvqa_cli.inference.transformers_engine import TransformersEngine

    if not isinstance(engine, TransformersEngine):
        return list(samples)
    bound = find_answer_bound(settings, engine.loaded)
    return keep_readable(samples, bound, engine.encoder, settings, progress, with_answer=False)


def open_server(settings: Settings, progress: Progress) -> OpenAIEngine:
    """Return the engine that asks `infer.server` for the model `model.name`, once the server has been reached.

    Raises:
        SettingsError: If no server is named.
        ModelError: If it cannot be reached, does not take the key, or no model is named.
    """
    from medvqa_cli.data.images import read_image
    from medvqa_cli.inference.http_client import JsonClient
    from medvqa_cli.inference.openai_engine import OpenAIEngine

    server = settings.infer.server
    if not server.base_url:
        raise SettingsError("infer.engine 'openai' needs a server.",
                            "Name one with --base-url, such as http://localhost:8000/v1.")
    client = JsonClient(server.base_url, os.environ.get(server.key_variable, ""), timeout=server.timeout,
                        retries=server.retries)
    reader: Any = functools.partial(read_image, max_pixels=settings.data.max_pixels)
    engine = OpenAIEngine(client, settings.model.name or "", reader, prompt=settings.prompt,
                          concurrency=server.concurrency, image_size=server.image_size,
                          blank_images=settings.infer.shown == "blank", warn=progress.warn)
    listed = engine.list_models()
    if not settings.model.name:
        raise ModelError(f"No model of the server at '{server.base_url}' is named.",
                         "Name one with --model" + (f"; it offers: {', '.join(listed)}." if listed else "."))
    progress.say(f"Asking {engine.model} at {server.base_url}, {server.concurrency} questions at a time")
    return engine


def open_vllm(settings: Settings, run: str | None, progress: Progress, *, create: bool = True) -> tuple[Run, Engine]:
    """Return a run to write to and its model in vLLM, its adapter laid over the base; see `open_engine`.

    Raises:
        MissingDependencyError: If vLLM is not installed.
        SettingsError: If few-bit weights are asked for.
        RunError: As `open_engine`.
        ModelError: If the model cannot be had, or vLLM cannot run it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise MissingDependencyError("Engine 'vllm'", "vllm", "vllm")
    from medvqa_cli.data.images import read_image
    from medvqa_cli.inference.vllm_engine import VllmEngine, find_rank, load_llm
    from medvqa_cli.models.hub import fetch_checkpoint
    from medvqa_cli.models.loading import read_config

    if settings.model.quantization in {"8bit", "4bit"}:
        raise SettingsError(f"model.quantization '{settings.model.quantization}' is not for engine 'vllm'.",
                            "Leave it out, or set infer.vllm.options as vLLM wants it.")
    target = None
    if run or not settings.model.name:
        target = open_run(settings.paths.runs, run) if run else latest_run(settings.paths.runs)
    choice = choose_trained(target) if target else choose_model(settings)
    revision = choice.commit or settings.model.revision
    family_name = choose_family(choice, read_config(choice.checkpoint, revision))
    family = plugins.models.get(family_name)
    progress.say(f"Loading {choice.checkpoint} (family {family_name}) into vLLM")
    source = fetch_checkpoint(choice.checkpoint, revision, allow_pickle=settings.model.allow_pickle, progress=progress)
    llm = load_llm(choice.checkpoint, rank=find_rank(choice.adapter, family),
                   **_set_up_vllm(settings, choice, source.commit or revision))
    facts = {"family": family_name, "checkpoint": choice.checkpoint, "adapter": choice.adapter,
             "dtype": settings.model.dtype, "vllm": importlib.metadata.version("vllm"),
             "options": settings.infer.vllm.options} | ({"commit": source.commit} if source.commit else {})
    reader: Any = functools.partial(read_image, max_pixels=settings.data.max_pixels)
    engine = VllmEngine(llm, family, family.load_processor(source.folder), reader, prompt=settings.prompt,
                        facts=facts, adapter=choice.adapter, blank_images=settings.infer.shown == "blank")
    return target or _choose_run(settings, facts, create=create), engine


def _set_up_vllm(settings: Settings, choice: ModelChoice, commit: str | None) -> dict[str, Any]:
    pictures = 1 + sum(one.image is not None for one in settings.prompt.exemplars)
    return {"dtype": settings.model.dtype, "seed": settings.seed, "revision": commit,
            "gpu_memory_utilization": settings.infer.vllm.gpu_memory, "limit_mm_per_prompt": {"image": pictures},
            "trust_remote_code": settings.model.trust_remote_code == choice.checkpoint} | settings.infer.vllm.options


def _choose_run(settings: Settings, facts: Mapping[str, Any], *, create: bool) -> Run:
    """Return the run in which this model answered before, or a new one; with `create` off, none is looked for."""
    if not create:
        return Run(settings.paths.runs)
    name = f"infer-{_slug(facts.get('adapter') or facts['checkpoint'])}"
    with contextlib.suppress(RunError):
        known = open_run(settings.paths.runs, name)
        if known.read_json("manifest.json").get("model") == facts:
            return known
    run = create_run(settings.paths.runs, name)
    write_json(run.settings, to_tree(settings))
    run.update_manifest(model=dict(facts))
    return run


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._" else "-" for c in text.lower()).strip("-._")[-60:].strip("-._")
