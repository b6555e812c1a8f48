"""Networks written layer by layer, without a model. `torch2rt.Network` is the public face."""
