"""What users add: plugins and converter rules. `torch2rt.plugin` is the public face."""
