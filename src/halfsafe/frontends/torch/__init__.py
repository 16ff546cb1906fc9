"""PyTorch models: captured with torch.export, evaluated and edited as ATen graphs."""
