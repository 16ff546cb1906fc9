import coremltools as ct
import torch


def to_core_ml(module: torch.nn.Module, *sample: torch.Tensor) -> ct.models.MLModel:
    """An ML program, in FP16 wherever coremltools thinks that it fits."""
    program = torch.export.export(module, sample).run_decompositions({})
    return ct.convert(program, minimum_deployment_target=ct.target.iOS16)  # inputs in FP16, too
