"""Every error torch2rt raises on purpose derives from `Torch2rtError`.

One class per failure. The message template stands on the class, so that the text is written once
and tests can pin it; the facts that fill it stay readable on the exception as ``error.facts``.
"""

from __future__ import annotations

from typing import ClassVar


class Torch2rtError(Exception):
    """Base of all deliberate errors. ``str(error)`` says what, where and what to do."""

    template: ClassVar[str] = "{message}"

    def __init__(self, **facts: object) -> None:
        self.facts = facts
        super().__init__(self.template.format(**facts))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.facts)


def _rebuild(cls: type[Torch2rtError], facts: dict[str, object]) -> Torch2rtError:
    return cls(**facts)


class ConfigError(Torch2rtError, ValueError):
    """An option of `convert` or of the command line has a value that cannot be used."""

    template = "{option}={value!r} is not valid: {reason}. {remedy}"


class UnsupportedNodesError(Torch2rtError):
    """`convert(..., fallback="error")` met nodes that no converter rule takes."""

    template = (
        "{count} node(s) of the captured graph have no converter rule:\n{listing}\n"
        'Register a rule with torch2rt.converter(...), or convert with fallback="torch" to run '
        "these nodes through PyTorch."
    )


class PrecisionError(Torch2rtError, ValueError):
    """The precision asked for cannot hold the numbers of the model."""

    template = (
        "precision={precision!r}: constant {constant!r} of layer {layer} ({where}) does not fit: "
        "{reason}. {remedy}"
    )


class LoweringError(Torch2rtError):
    """A converter rule produced something that does not fit the captured graph."""

    template = "lowering {op} at {where}: {reason}. This is a bug of the rule; please report it."


class ConverterError(Torch2rtError):
    """A user's converter rule does something that it must not."""

    template = (
        "converter rule {rule} of {op} at {where}: {reason}. It is given (lowering, {given}); what "
        "it cannot convert it leaves to torch by raising torch2rt.layers.rules.Unsupported."
    )


class NetworkError(Torch2rtError):
    """A network breaks one of the invariants of `torch2rt.network.verify`."""

    template = "invalid network{after}: {problems}"


class NetworkTextError(Torch2rtError, ValueError):
    """Text given to `torch2rt.network.parse` is not a network."""

    template = "network text, line {line}: {reason}: {content!r}"


class NoTacticError(Torch2rtError):
    """No tactic of a backend can run a layer."""

    template = (
        "no {backend} tactic can run layer {layer} ({kind}, from {where}):\n{reasons}\n"
        "Please report this, or keep the layer in PyTorch by registering a plugin for it."
    )


class VerificationError(Torch2rtError):
    """The engine and the model disagree; the first layer that is off is named."""

    template = (
        "the engine disagrees with the model on {inputs}: output {output!r} has relative error "
        "{error:.3g}, allowed {allowed:.3g}.\n{finding}: {layer} ({kind}, tactic "
        "{tactic}) at {where}, relative error {layer_error:.3g}.\n"
        "convert(..., verify=False) skips this check; please report the layer named here."
    )


class OverflowInPrecisionError(VerificationError):
    """A layer of a float16 engine leaves the range of float16 where the model does not."""

    template = (
        "the engine gives infinities or NaN on {inputs} in output {output!r} where the model does "
        "not: layer {layer} ({kind}, tactic {tactic}) at {where} is the first whose result does "
        "not fit {precision}, which ends at 65504.\n"
        'Use precision="bf16", which has the range of float32.'
    )


class QuantizationError(Torch2rtError):
    """Quantization loses so much that an output has little to do with the model's."""

    template = (
        "quantization takes output {output!r} on {inputs} a relative error of {error:.3g} from the "
        "model; {allowed:.3g} is where it is no use any more.\n"
        "Calibrate with inputs like these, try another calibration_method, or give the layers that "
        'lose most a higher precision, such as precision={{"head.*": "fp32", "*": "int8"}}. '
        "convert(..., verify=False) skips this check, and rt.report() then lists what each layer "
        "loses."
    )


class InputError(Torch2rtError, ValueError):
    """An engine was called with an input that does not fit its bindings."""

    template = "input {name!r}: {reason}. Expected {expected}, got {got}. {remedy}"


class DeviceError(Torch2rtError, RuntimeError):
    """A device was asked for that is not there, or that an engine cannot move to."""

    template = "device {device!r}: {reason}. {remedy}"


class TrainingError(Torch2rtError, RuntimeError):
    """An engine was asked to train or to give gradients."""

    template = (
        "{what}: an engine holds folded, fused weights and has no backward pass. "
        "Train the original model and convert it again, or call rt.refit(model). "
        "Call the engine under torch.no_grad() or with inputs that need no gradient."
    )


class RefitError(Torch2rtError, ValueError):
    """An engine cannot take the weights of a model."""

    template = "the engine cannot take these weights: {reason}. {remedy}"


class NotBuiltError(Torch2rtError, RuntimeError):
    """A module converted without inputs was asked for its engine before its first call."""

    template = (
        "this module was converted without example inputs and has no engine before its first "
        "call. Call it once with real inputs, or pass them: torch2rt.convert(model, inputs)."
    )


class EngineFileError(Torch2rtError, ValueError):
    """A file is not a usable engine file."""

    template = "{path}: {reason}. {remedy}"


class RegistrationError(Torch2rtError):
    """Two files register the same name."""

    template = "{what} {name!r} is registered twice: by {first} and by {second}. Rename one."


class DefinitionError(Torch2rtError, ValueError):
    """A layer that is added to a network by hand does not fit."""

    template = "network layer {layer!r}: {reason}."


class PluginError(Torch2rtError):
    """A plugin's own code does something that it must not."""

    template = "plugin {name!r}{where}: {reason}. {remedy}"


class PluginMissingError(Torch2rtError):
    """An engine needs Python code of a plugin that this process has not registered."""

    template = (
        "plugin {name!r} version {version} runs Python code of {package!r}, and {got}. Loading an "
        "engine imports nothing: import {package!r} first, or pass it in plugins=[...]."
    )


class PytreeError(Torch2rtError, TypeError):
    """An input or an output holds a value that an engine cannot take or give."""

    template = "{path}: {reason}. {remedy}"


class CallError(Torch2rtError, TypeError):
    """A call does not fit the arguments the model was captured with."""

    template = "{reason}. {remedy}"
