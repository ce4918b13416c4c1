"""Stand-in: the base class."""

from abc import ABC, abstractmethod
from typing import Any


class BaseModelLoader(ABC):
    """Makes a model and has its weights loaded."""

    def __init__(self, load_config: Any) -> None:
        self.load_config = load_config

    @abstractmethod
    def download_model(self, model_config: Any) -> None:
        """Before loading."""

    @abstractmethod
    def load_weights(self, model: Any, model_config: Any) -> None:
        """Into a model that is there."""

    def load_model(self, vllm_config: Any, model_config: Any, prefix: str = "") -> Any:
        """Make it and fill it."""
        model = vllm_config.make(model_config)
        self.load_weights(model, model_config)
        return model.eval()
