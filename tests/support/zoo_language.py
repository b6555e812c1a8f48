"""Language, speech and recurrent models of the zoo."""

from collections.abc import Callable
from typing import Any

import torch
import torchvision_shim  # noqa: F401  (transformers imports torchvision where it finds it)
from torch import nn
from zoo_weights import Inputs

Factory = Callable[[], tuple[nn.Module, Inputs]]
VOCABULARY = 1000


def tokens(length: int, batch: int = 1) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (batch, length))


def hugging_face(
    model: str, config: str, inputs: Callable[[], Inputs], **options: Any
) -> Factory:
    """A model of transformers by the names of its classes, the options going to its config."""

    def make() -> tuple[nn.Module, Inputs]:
        import transformers

        settings = getattr(transformers, config)(**options)
        return getattr(transformers, model)(settings), inputs()

    return make


def encoder(model: str, config: str, length: int = 128, **options: Any) -> Factory:
    """A text encoder given ids and a mask of which the last quarter is padding."""

    def inputs() -> Inputs:
        ids = tokens(length)
        mask = torch.ones_like(ids)
        mask[:, length - length // 4 :] = 0
        return {"input_ids": ids, "attention_mask": mask}

    return hugging_face(model, config, inputs, **options)


def decoder(model: str, config: str, length: int = 64, **options: Any) -> Factory:
    """A causal language model given ids alone."""
    return hugging_face(
        model, config, lambda: {"input_ids": tokens(length)}, use_cache=False, **options
    )


def t5(layers: int = 6, length: int = 64) -> Factory:
    return hugging_face(
        "T5Model", "T5Config",
        lambda: {"input_ids": tokens(length), "decoder_input_ids": tokens(length // 4)},
        num_layers=layers, num_decoder_layers=layers, use_cache=False,
    )


def clip() -> Factory:
    def inputs() -> Inputs:
        ids = tokens(16)
        return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 224, 224)}

    return hugging_face("CLIPModel", "CLIPConfig", inputs)


def whisper_encoder(layers: int = 4) -> Factory:
    def make() -> tuple[nn.Module, Inputs]:
        from transformers import WhisperConfig, WhisperModel

        config = WhisperConfig(
            d_model=384, encoder_layers=layers, encoder_attention_heads=6, decoder_layers=1,
            decoder_attention_heads=6, encoder_ffn_dim=1536, decoder_ffn_dim=1536,
        )
        return WhisperModel(config).encoder, torch.randn(1, 80, 3000)

    return make


def wav2vec2(layers: int = 12) -> Factory:
    return hugging_face(
        "Wav2Vec2Model", "Wav2Vec2Config", lambda: torch.randn(1, 16000), num_hidden_layers=layers
    )


class Tagger(nn.Module):
    """Embedding, recurrent layers in both directions, a label per token."""

    def __init__(self, recurrent: type[nn.RNNBase], features: int = 128, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, features)
        self.recurrent = recurrent(
            features, features, layers, batch_first=True, bidirectional=True
        )
        self.head = nn.Linear(2 * features, 17)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.recurrent(self.embedding(ids))[0])


class Reader(nn.Module):
    """A one-way recurrent network, given its state and returning it."""

    def __init__(self, recurrent: type[nn.RNNBase], features: int = 64) -> None:
        super().__init__()
        self.recurrent = recurrent(features, features, 1)
        self.head = nn.Linear(features, 5)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, last = self.recurrent(x, state)
        return self.head(y[-1]), last


def tagger(recurrent: type[nn.RNNBase], features: int = 128, length: int = 64) -> Factory:
    return lambda: (Tagger(recurrent, features), tokens(length))


def reader(recurrent: type[nn.RNNBase], length: int = 32) -> Factory:
    return lambda: (Reader(recurrent), (torch.randn(length, 1, 64), torch.randn(1, 1, 64)))


def full_size() -> dict[str, Factory]:
    """Every model by ``family/name``, as large as its authors' base version."""
    small_llama: dict[str, Any] = {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": VOCABULARY,
    }
    return {
        "transformers/bert": encoder("BertModel", "BertConfig"),
        "transformers/bert_classifier": encoder("BertForSequenceClassification", "BertConfig"),
        "transformers/distilbert": encoder("DistilBertModel", "DistilBertConfig"),
        "transformers/roberta": encoder("RobertaModel", "RobertaConfig"),
        "transformers/albert": encoder(
            "AlbertModel", "AlbertConfig", hidden_size=768, num_attention_heads=12,
            intermediate_size=3072,
        ),
        "transformers/electra": encoder("ElectraModel", "ElectraConfig"),
        "transformers/mpnet": encoder("MPNetModel", "MPNetConfig"),
        "transformers/gpt2": decoder("GPT2LMHeadModel", "GPT2Config"),
        "transformers/opt": decoder("OPTForCausalLM", "OPTConfig"),
        "transformers/llama": decoder("LlamaForCausalLM", "LlamaConfig", **small_llama),
        "transformers/mistral": decoder("MistralForCausalLM", "MistralConfig", **small_llama),
        "transformers/qwen2": decoder("Qwen2ForCausalLM", "Qwen2Config", **small_llama),
        "transformers/t5": t5(),
        "transformers/clip": clip(),
        "transformers/whisper_encoder": whisper_encoder(),
        "transformers/wav2vec2": wav2vec2(),
        "recurrent/lstm_tagger": tagger(nn.LSTM),
        "recurrent/gru_tagger": tagger(nn.GRU),
        "recurrent/rnn_tagger": tagger(nn.RNN),
        "recurrent/gru_reader": reader(nn.GRU),
        "recurrent/rnn_reader": reader(nn.RNN),
    }
