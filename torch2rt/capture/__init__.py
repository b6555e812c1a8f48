"""nn.Module -> a functional torch.fx graph of ATen operators."""
