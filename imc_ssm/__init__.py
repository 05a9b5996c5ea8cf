"""imc-ssm: state-space models on analog in-memory-computing chips."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("imc-ssm")
except PackageNotFoundError:  # a source tree on the path, not installed
    __version__ = "0.0.0"
