from data import load_data
from halfsafe_loader import HalfSafe
from polygraphy.backend.onnx import BytesFromOnnx, OnnxFromPath
from polygraphy.backend.trt import NetworkFromOnnxBytes


def load_network() -> tuple:
    half = HalfSafe(OnnxFromPath("model.onnx"), load_data)
    return NetworkFromOnnxBytes(BytesFromOnnx(half), strongly_typed=True)()
