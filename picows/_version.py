"""The one place that knows the version, for `pyproject.toml` and `picows.__version__`."""

__version__ = "0.1.0"
