"""Halves a network until one operator is left: a prefix on an engine, the remainder in FP32."""
