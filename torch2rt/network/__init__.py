"""Networks: tensors, layers and the graph they form, their text form and their verifier."""
