"""Stand-in: the table of loaders."""

from typing import Any

from vllm.model_executor.model_loader.base_loader import BaseModelLoader

LOADERS: dict[str, Any] = {}


def register_model_loader(load_format: str) -> Any:
    """As vLLM's: takes subclasses of its own."""

    def register(loader: Any) -> Any:
        assert issubclass(loader, BaseModelLoader)
        LOADERS[load_format] = loader
        return loader

    return register


def get_model_loader(load_config: Any) -> Any:
    """Make the one of that format."""
    return LOADERS[load_config.load_format](load_config)
