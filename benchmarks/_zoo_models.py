"""Architectures that ../shared/zoo lacks: how each is built with random weights and few layers, and what it takes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

THREADS = 1
STATIC, ALL = ("L17su", "Dsf"), ("L17su", "L17df", "Dsf", "Ddf")
SMALL = {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 192}
WORDS = {**SMALL, "vocab_size": 1000}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One model: how it is built, what it takes, and what of its result becomes an output.

    Attributes:
        build: makes the module; True asks for fused attention.
        inputs: tensors by name, for a batch.
        read: the outputs, from the module and its inputs.
        variants: which exports are made.
    """

    build: Callable[[bool], Any]
    inputs: Callable[[int], dict[str, Any]]
    read: Callable[..., Any]
    variants: tuple[str, ...] = ALL


def image(size: int = 224) -> Callable[[int], dict[str, Any]]:
    """Pixels."""
    return lambda batch: {"image": torch_on_one_thread().randn(batch, 3, size, size)}


def words(batch: int) -> dict[str, Any]:
    """Ids of a small vocabulary, and a mask without a hole."""
    torch = torch_on_one_thread()
    return {"input_ids": torch.randint(5, 300, (batch, 32)), "attention_mask": torch.ones(batch, 32, dtype=torch.long)}


def of_timm(name: str, size: int = 224, variants: tuple[str, ...] = ALL, **options: Any) -> Architecture:
    """A model of timm."""

    def build(fused: bool) -> Any:  # noqa: FBT001 (the two ways to build)
        timm = importlib.import_module("timm")
        importlib.import_module("timm.layers").set_fused_attn(fused)
        return timm.create_model(name, pretrained=False, **options)

    return Architecture(build=build, inputs=image(size), read=lambda model, x: model(x), variants=variants)


def of_transformers(
    kind: str,
    config: str,
    options: dict[str, Any],
    *,
    inputs: Callable[[int], dict[str, Any]] | None = None,
    read: Callable[..., Any] | None = None,
    variants: tuple[str, ...] = ALL,
) -> Architecture:
    """A model of transformers."""

    def build(fused: bool) -> Any:  # noqa: FBT001 (the two ways to build)
        library = importlib.import_module("transformers")
        settings = getattr(library, config)(**options)
        how = "sdpa" if fused else "eager"
        return getattr(library, kind)._from_config(settings, attn_implementation=how)  # noqa: SLF001 (no public way)

    return Architecture(build=build, inputs=inputs or image(), read=read or _last, variants=variants)


def _last(model: Any, *tensors: Any) -> Any:
    return model(*tensors).last_hidden_state


def _states(model: Any, x: Any) -> Any:
    """Three inner states, as dense heads tap them."""
    states = model(x, output_hidden_states=True).hidden_states
    return states[1], states[2], states[4]


def _logits(model: Any, *tensors: Any) -> Any:
    return model(*tensors).logits


SEEN = {**SMALL, "image_size": 224, "patch_size": 16}
HEARD = {
    **SMALL,
    "conv_dim": (32, 32, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
}
TEXT = {"inputs": words}
SOUND = {"inputs": lambda batch: {"samples": torch_on_one_thread().randn(batch, 8000)}}

ARCHITECTURES: dict[str, Architecture] = {
    "timm_beit_base": of_timm("beit_base_patch16_224", depth=2),
    "timm_eva02_tiny": of_timm("eva02_tiny_patch14_224", depth=3),
    "timm_dinov3_small": of_timm("vit_small_patch16_dinov3", size=256, depth=3),
    "timm_rope_mixed": of_timm("vit_small_patch16_rope_mixed_224", depth=3),
    "timm_rope_gap": of_timm("vit_betwixt_patch16_rope_reg4_gap_256", size=256, depth=3),
    "timm_cait_xxs24": of_timm("cait_xxs24_224", depth=3),
    "timm_xcit_nano": of_timm("xcit_nano_12_p16_224", depth=2, variants=STATIC),
    "timm_crossvit_9": of_timm("crossvit_9_240", size=240, variants=STATIC),
    "timm_pwee_parallel": of_timm("vit_pwee_patch16_reg1_gap_256", size=256, depth=3),
    "timm_samvit": of_timm("samvit_base_patch16_224", depth=3, variants=STATIC),
    "timm_deit3_small": of_timm("deit3_small_patch16_224", depth=3),
    "timm_18x2_parallel": of_timm("vit_small_patch16_18x2_224", depth=3),
    "timm_pvt_v2_b0": of_timm("pvt_v2_b0", variants=STATIC),
    "timm_levit_128s": of_timm("levit_128s", variants=STATIC),
    "timm_mvitv2_tiny": of_timm("mvitv2_tiny", variants=STATIC),
    "timm_hiera_tiny": of_timm("hiera_tiny_224", variants=STATIC),
    "timm_twins_svt": of_timm("twins_svt_small", variants=STATIC),
    "timm_davit_tiny": of_timm("davit_tiny", variants=STATIC),
    "timm_tiny_vit_5m": of_timm("tiny_vit_5m_224", variants=STATIC),
    "timm_coat_lite": of_timm("coat_lite_tiny", variants=STATIC),
    "timm_mobilevit_xxs": of_timm("mobilevit_xxs", size=256, variants=STATIC),
    "timm_mobilevitv2": of_timm("mobilevitv2_050", size=256, variants=STATIC),
    "timm_efficientvit_b0": of_timm("efficientvit_b0", variants=STATIC),
    "timm_efficientvit_m0": of_timm("efficientvit_m0", variants=STATIC),
    "timm_poolformer": of_timm("poolformer_s12", variants=STATIC),
    "timm_naflexvit": of_timm("naflexvit_base_patch16_gap", size=384, depth=2),
    "timm_srelpos": of_timm("vit_srelpos_small_patch16_224", depth=3),
    "timm_convit_tiny": of_timm("convit_tiny", depth=4, local_up_to_layer=2),
    "timm_hybrid_r26": of_timm("vit_small_r26_s32_224", depth=3),
    "timm_aimv2": of_timm("aimv2_large_patch14_224", depth=2),
    "timm_perception": of_timm("vit_pe_core_tiny_patch16_384", size=384, depth=3),
    "timm_siglip_gap": of_timm("vit_base_patch16_siglip_gap_224", depth=2),
    "timm_beit3": of_timm("beit3_base_patch16_224", depth=2),
    "timm_pit_ti": of_timm("pit_ti_224", variants=STATIC),
    "timm_tnt_s": of_timm("tnt_s_legacy_patch16_224", depth=2, variants=STATIC),
    "timm_volo_d1": of_timm("volo_d1_224", variants=STATIC),
    "timm_mixer": of_timm("mixer_s32_224", variants=STATIC),
    "timm_visformer": of_timm("visformer_tiny", variants=STATIC),
    "timm_gcvit": of_timm("gcvit_xxtiny", variants=STATIC),
    "timm_edgenext": of_timm("edgenext_xx_small", size=256, variants=STATIC),
    "timm_fastvit": of_timm("fastvit_sa12", size=256, variants=STATIC),
    "hf_distilbert": of_transformers(
        "DistilBertModel",
        "DistilBertConfig",
        {"dim": 96, "n_layers": 3, "n_heads": 3, "hidden_dim": 192, "vocab_size": 1000},
        **TEXT,
    ),
    "hf_roberta": of_transformers("RobertaModel", "RobertaConfig", WORDS, **TEXT),
    "hf_deberta_v2": of_transformers(
        "DebertaV2Model",
        "DebertaV2Config",
        {**WORDS, "relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 16},
        **TEXT,
    ),
    "hf_modernbert": of_transformers(
        "ModernBertModel", "ModernBertConfig", {**WORDS, "local_attention": 16, "pad_token_id": 0}, **TEXT
    ),
    "hf_t5_encoder": of_transformers(
        "T5EncoderModel",
        "T5Config",
        {"d_model": 96, "d_kv": 32, "num_heads": 3, "num_layers": 3, "d_ff": 192, "vocab_size": 1000},
        **TEXT,
    ),
    "hf_albert": of_transformers("AlbertModel", "AlbertConfig", {**WORDS, "embedding_size": 48}, **TEXT),
    "hf_electra": of_transformers("ElectraModel", "ElectraConfig", {**WORDS, "embedding_size": 48}, **TEXT),
    "hf_mpnet": of_transformers("MPNetModel", "MPNetConfig", WORDS, **TEXT),
    "hf_clip_text": of_transformers("CLIPTextModel", "CLIPTextConfig", WORDS, **TEXT),
    "hf_roberta_classifier": of_transformers(
        "RobertaForSequenceClassification", "RobertaConfig", WORDS, read=_logits, **TEXT
    ),
    "hf_siglip_vision": of_transformers(
        "SiglipVisionModel", "SiglipVisionConfig", SEEN, read=lambda model, x: model(x).pooler_output
    ),
    "hf_dinov2_registers": of_transformers(
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {**SEEN, "patch_size": 14, "num_register_tokens": 4}
    ),
    "hf_dinov3_vit": of_transformers("DINOv3ViTModel", "DINOv3ViTConfig", {**SEEN, "num_register_tokens": 4}),
    "hf_beit": of_transformers(
        "BeitModel", "BeitConfig", {**SEEN, "use_relative_position_bias": True, "layer_scale_init_value": 0.1}
    ),
    "hf_data2vec_vision": of_transformers(
        "Data2VecVisionModel", "Data2VecVisionConfig", {**SEEN, "use_shared_relative_position_bias": True}
    ),
    "hf_depth_anything": of_transformers(
        "DepthAnythingForDepthEstimation",
        "DepthAnythingConfig",
        {
            "backbone_config": {
                **SEEN,
                "model_type": "dinov2",
                "patch_size": 14,
                "num_hidden_layers": 4,
                "out_indices": [1, 2, 3, 4],
                "reshape_hidden_states": False,
            },
            "reassemble_hidden_size": 96,
            "neck_hidden_sizes": [12, 24, 48, 96],
            "fusion_hidden_size": 16,
            "head_hidden_size": 8,
        },
        read=lambda model, x: model(x).predicted_depth,
    ),
    "hf_segformer": of_transformers("SegformerModel", "SegformerConfig", {"depths": [1, 1, 1, 1]}, variants=STATIC),
    "hf_wav2vec2": of_transformers("Wav2Vec2Model", "Wav2Vec2Config", HEARD, **SOUND),
    "hf_hubert": of_transformers("HubertModel", "HubertConfig", HEARD, **SOUND),
    "hf_vitmae": of_transformers(
        "ViTMAEModel",
        "ViTMAEConfig",
        {**SEEN, "mask_ratio": 0.0},
        inputs=lambda batch: {
            "image": torch_on_one_thread().randn(batch, 3, 224, 224),
            "noise": torch_on_one_thread().rand(batch, 196),
        },
        read=lambda model, x, noise: model(x, noise=noise).last_hidden_state,
    ),
    "hf_dinov2_taps": of_transformers(
        "Dinov2Model", "Dinov2Config", {**SEEN, "patch_size": 14, "num_hidden_layers": 4}, read=_states
    ),
    "hf_ijepa": of_transformers("IJepaModel", "IJepaConfig", SEEN),
    "hf_yolos": of_transformers(
        "YolosModel", "YolosConfig", {**SEEN, "image_size": [224, 224], "num_detection_tokens": 10}
    ),
    "hf_videomae": of_transformers(
        "VideoMAEModel",
        "VideoMAEConfig",
        {**SEEN, "image_size": 64, "num_frames": 4},
        inputs=lambda batch: {"video": torch_on_one_thread().randn(batch, 4, 3, 64, 64)},
    ),
    "hf_audio_spectrogram": of_transformers(
        "ASTModel",
        "ASTConfig",
        {**SMALL, "max_length": 128, "num_mel_bins": 64},
        inputs=lambda batch: {"spectrogram": torch_on_one_thread().randn(batch, 128, 64)},
    ),
    "hf_dpt": of_transformers(
        "DPTForDepthEstimation",
        "DPTConfig",
        {
            **SEEN,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [12, 24, 48, 96],
            "fusion_hidden_size": 16,
        },
        read=lambda model, x: model(x).predicted_depth,
    ),
}


def torch_on_one_thread() -> Any:
    """PyTorch, on one thread, beside a torchvision that can be imported."""
    from edgeprune_calibration._torchvision import import_torchvision

    import_torchvision()
    torch = importlib.import_module("torch")
    torch.set_num_threads(THREADS)
    return torch
