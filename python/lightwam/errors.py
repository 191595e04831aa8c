# SPDX-License-Identifier: Apache-2.0
"""Every error lightwam raises on purpose. Each message is one line that names the thing, the value and the remedy."""


def escaped(text: str) -> str:
    """The text with line breaks and control characters as escapes: names from damaged files may hold them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class LightWAMError(Exception):
    """Base class of all lightwam errors."""

    def __str__(self) -> str:
        return escaped(super().__str__())


class ArgumentError(LightWAMError, ValueError):
    """An argument of a call has a wrong type or is out of range."""


class ConfigError(LightWAMError):
    """A configuration value is out of range, unknown, or contradicts another one."""


class CheckpointError(LightWAMError):
    """A checkpoint is missing, damaged, or its keys and shapes do not fit the configuration."""


class DataError(LightWAMError):
    """A data set is missing, empty, damaged, or its cameras and widths do not fit the configuration."""


class TrainingError(LightWAMError):
    """A loss or a gradient is not finite; the weights are as before the step."""


class RunFolderError(LightWAMError):
    """A run's folder is in use, holds other things, is of another run, or cannot take a save; what it holds stays."""


class StageError(LightWAMError):
    """A stage of a reproduction failed or was ended; what it and earlier ones made stays."""


class DistributedError(LightWAMError):
    """A process of a run on several did not come, ended or does not answer, or their port is taken."""


class ExportError(LightWAMError):
    """The model uses an option that the exporter does not fold, or the folded graph failed its own parity check."""


class EngineError(LightWAMError):
    """An engine file is missing, truncated, corrupted, too new, or not an engine file."""


class ObservationError(LightWAMError):
    """An observation has a missing or extra camera, a wrong dtype, rank, size or width, or a value not finite."""


class InstructionError(LightWAMError):
    """An instruction is unknown to an engine without a text encoder, or is not text."""


class PrecisionError(LightWAMError):
    """The requested precision is not the engine's, or the CPU lacks it."""


class DeviceError(LightWAMError):
    """The requested device is unknown or not usable on this machine, or a policy is not of this process."""


class SimulatorError(LightWAMError):
    """The simulator, one of its assets or a rendering library is missing or failed."""


class InstallationError(LightWAMError, ImportError):
    """A part of lightwam itself is missing or cannot be loaded: the compiled extension, mostly."""


class UnfamiliarInputWarning(UserWarning):
    """A state far outside of the range seen in training, or words that the text encoder never saw."""
