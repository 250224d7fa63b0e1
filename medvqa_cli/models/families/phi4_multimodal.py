"""Phi-4-multimodal (Abouelenin et al. 2025, arXiv:2503.01743): tiles of 448 pixels; needs model.revision refs/pr/70."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from medvqa_cli.errors import ModelError
from medvqa_cli.models.family import ChatFamily
from medvqa_cli.models.processors import to_messages
from medvqa_cli.models.protocol import ImageInputs, ModelCard, ModelLayout
from medvqa_cli.models.tiny import shape_text, shape_vision, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL import Image

TOKENS = {"image_token": "<|image|>", "audio_token": "<|audio|>"}
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% for part in message['content'] %}{{ '<|image|>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TAKE_REVISION = "--model-revision refs/pr/70"


class Phi4Multimodal(ChatFamily):
    """Phi-4-multimodal checkpoints in transformers' layout, for images and text.

    Packs: positions that restart are those a question has alone, and rows of one call share LongRoPE's choice of
    frequencies, packed or plain. Where a cached conversation would pass from one choice to the other, an error says so.

    Differs: the adapter for images is merged into the weights, also for questions without an image. The adapter for
    sound is not read. The two vectors that stand between tiles belong to no part: they are parameters of the module
    that holds the vision tower too.
    """

    card = ModelCard(
        title="Phi-4-multimodal",
        summary="SigLIP on up to 36 tiles of 448 pixels and an overview, Phi-4-Mini with LoRA for images; 5.6 billion "
                "parameters, adapters included. transformers' layout is an unmerged revision of the repository: "
                f"{TAKE_REVISION}.",
        homepage="https://huggingface.co/microsoft/Phi-4-multimodal-instruct",
        citation="Abouelenin et al. 2025, Phi-4-Mini Technical Report: Compact yet Powerful Multimodal Language Models "
                 "via Mixture-of-LoRAs, arXiv:2503.01743",
        licence="MIT",
        model_types=("phi4_multimodal",),
        checkpoints={"phi4_multimodal_instruct": "microsoft/Phi-4-multimodal-instruct"},
        id_patterns=(r"phi-?4-multimodal",),
        aliases=("phi_4_multimodal",),
        files_beside=("vision-lora/adapter_model.safetensors",),
    )
    layout = ModelLayout(
        vision_tower="model.embed_tokens_extend.image_embed.img_processor",
        projector="model.embed_tokens_extend.image_embed.img_projection_down",
        projectors_beside=("model.embed_tokens_extend.image_embed.img_projection_up",),
        language_model="model.layers",
        lora_targets=("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    )
    model_class = "Phi4MultimodalForCausalLM"
    processor_class = "Phi4MultimodalProcessor"
    template = TEMPLATE

    def loads(self, config: Mapping[str, Any]) -> bool:
        """Return whether a checkpoint with this config.json is one of the family.

        Raises:
            ModelError: If it is in Microsoft's own layout, as on the main branch of the published repository.
        """
        if config.get("model_type") == "phi4mm":
            raise ModelError("This is Phi-4-multimodal in Microsoft's own layout (model_type 'phi4mm'), which "
                             "transformers reads only with the checkpoint's own code.",
                             f"Of microsoft/Phi-4-multimodal-instruct take transformers' layout: {TAKE_REVISION}")
        return super().loads(config)

    def load_processor(self, checkpoint: str) -> Any:
        """Return the checkpoint's processor, with or without torchvision."""
        from medvqa_cli.models.phi4_pictures import load_phi4_processor

        return load_phi4_processor(checkpoint)

    def load_model(self, checkpoint: str, **loading: Any) -> Any:
        """Return the checkpoint's model with its adapter for images; `loading` goes to `from_pretrained`."""
        from medvqa_cli.models.phi4_model import complete_model

        loaded = super().load_model(checkpoint, **loading)
        if isinstance(loaded, tuple):
            return complete_model(loaded[0], checkpoint), *loaded[1:]
        return complete_model(loaded, checkpoint)

    def encode_images(self, processor: Any, images: Sequence[Image.Image]) -> ImageInputs:
        """Return what the processor makes of the images, its mask in whole numbers.

        The model adds the mask up to find a picture's rows and columns; as fractions of bfloat16, whose whole numbers
        end at 256, the sum would be wrong.

        Raises:
            DataError: If a picture is too thin.
        """
        from medvqa_cli.models.phi4_pictures import plan_grid

        pictures = processor.image_processor
        for image in images:
            plan_grid(*image.size, pictures.size["height"], pictures.dynamic_hd)
        inputs = super().encode_images(processor, images)
        masks = {name: tensor.long() for name, tensor in inputs.tensors.items() if name == "image_attention_mask"}
        return ImageInputs({**inputs.tensors, **masks}, inputs.num_tokens, inputs.markers)

    def find_template(self, processor: Any) -> str:
        """Return the checkpoint's chat template, or the family's, equal in words, where that takes no images."""
        template = super().find_template(processor)
        return template if takes_parts(processor.tokenizer, template) else TEMPLATE

    def build_processor(self, texts: Sequence[str], options: Any) -> Any:
        """Return a processor with up to four tiles and an overview."""
        from transformers import Phi4MultimodalFeatureExtractor, Phi4MultimodalProcessor

        from medvqa_cli.models.phi4_pictures import Phi4MultimodalImageProcessorPil

        picture = Phi4MultimodalImageProcessorPil(size={"height": options.image_size, "width": options.image_size},
                                                  patch_size=options.patch_size, dynamic_hd=4)
        tokenizer = train_tokenizer(texts, [*TOKENS.values(), *ROLES], options.vocabulary_size, TOKENS)
        return Phi4MultimodalProcessor(picture, Phi4MultimodalFeatureExtractor(), tokenizer, chat_template=TEMPLATE)

    def build_model(self, processor: Any, options: Any) -> Any:
        """Return a random Phi-4-multimodal with LongRoPE and a small encoder of sound."""
        from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

        half, trained = options.width // options.heads // 2, 2048
        rope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 2.0, "short_factor": [1.0] * half,
                "long_factor": [4.0] * half, "original_max_position_embeddings": trained}
        return Phi4MultimodalForCausalLM(Phi4MultimodalConfig(
            **shape_text(processor.tokenizer, options, rope_parameters=rope, original_max_position_embeddings=trained),
            vision_config=shape_vision(options, crop_size=options.image_size, image_token_id=processor.image_token_id),
            audio_config=shape_audio(processor.audio_token_id)))


@functools.lru_cache(maxsize=16)
def takes_parts(tokenizer: Any, template: str) -> bool:
    """Return whether a chat template takes content as a list of parts; Microsoft's own takes it as text."""
    from medvqa_cli.data.prompts import Turn

    try:
        tokenizer.apply_chat_template(to_messages([Turn("user", "Q", 1)]), chat_template=template, tokenize=False)
    except TypeError:
        return False
    return True


def shape_audio(token: int) -> dict[str, int]:
    """Return the configuration of the smallest encoder of sound; `token` stands where sound would go."""
    widths = ("hidden_size", "intermediate_size", "ext_pw_out_channel", "depthwise_separable_out_channel",
              "nemo_conv_channels", "bias_max_distance")
    return {**dict.fromkeys(widths, 16), "num_blocks": 1, "num_attention_heads": 2, "audio_token_id": token}


PLUGIN = Phi4Multimodal()
