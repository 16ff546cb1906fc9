from typing import Any

import numpy as np
from olive.common.config_utils import validate_config
from olive.data.config import DataConfig
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.pass_config import PassConfigParam

import halfsafe


class HalfSafe(Pass):
    """An ONNX model in FP16; samples are those of a data config."""

    @classmethod
    def _default_config(cls, accelerator_spec: Any) -> dict[str, PassConfigParam]:
        return {"data_config": PassConfigParam(type_=DataConfig | dict, required=True)}

    def _run_for_config(self, model: ONNXModelHandler, config: Any, output_model_path: str) -> Any:
        data = validate_config(config.data_config, DataConfig).to_data_container()
        feeds = [feed for feed, _ in data.create_dataloader()]
        samples = [{name: np.asarray(x) for name, x in feed.items()} for feed in feeds]
        fixed = halfsafe.fix(model.model_path, samples)
        if not fixed.report.safe:
            raise ValueError(fixed.report.text())
        path = resolve_onnx_path(output_model_path)
        fixed.save(path)
        return ONNXModelHandler(path)
